// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/loader"
)

var portMAC = [6]byte{2, 0, 0, 0, 0, 0x10}

// The packet socket gives a frame the reason that the program in bpf/ gives it;
// loader/ has the same rows for that program, and fuzzes both parsers.
func TestClassify(t *testing.T) {
	const id = 5
	c := &Capture{mac: portMAC}
	c.SetRouter(id, loader.Router{
		VRID: packettest.VRID, Version: 3, CheckTTL: true, Group: packettest.Group,
		Broadcast: netip.MustParseAddr("192.168.1.255"),
	})
	dstMAC := func(mac [6]byte) func([]byte, int, int) []byte {
		return func(b []byte, _, _ int) []byte { copy(b, mac[:]); return b }
	}
	at := func(i int, v byte) func([]byte, int, int) []byte {
		return func(b []byte, ip, _ int) []byte { b[ip+i] = v; return b }
	}
	inMessage := func(i int, v byte) func([]byte, int, int) []byte {
		return func(b []byte, _, p int) []byte { b[p+i] = v; return b }
	}
	for name, tc := range map[string]struct {
		change   func(*packettest.Spec)
		stripped uint16
		want     loader.Reason
	}{
		"valid":             {func(*packettest.Spec) {}, 0, loader.ReasonEvent},
		"another protocol":  {func(s *packettest.Spec) { s.Mutate = at(9, 17) }, 0, loader.ReasonNotVRRP},
		"IHL 4":             {func(s *packettest.Spec) { s.Mutate = at(0, 0x44) }, 0, loader.ReasonBadIPHeader},
		"fragment":          {func(s *packettest.Spec) { s.Mutate = at(6, 0x20) }, 0, loader.ReasonFragment},
		"unknown VRID":      {func(s *packettest.Spec) { s.Advert.VRID = 9 }, 0, loader.ReasonUnknownVRID},
		"IPv6":              {func(s *packettest.Spec) { s.IPv6 = true }, 0, loader.ReasonUnknownVRID},
		"VLAN in the frame": {func(s *packettest.Spec) { s.VLANs = []uint16{7} }, 0, loader.ReasonOtherVLAN},
		"VLAN taken off":    {func(*packettest.Spec) {}, 7, loader.ReasonOtherVLAN},
		"to our MAC":        {func(s *packettest.Spec) { s.Mutate = dstMAC(portMAC) }, 0, loader.ReasonEvent},
		"to another MAC":    {func(s *packettest.Spec) { s.Mutate = dstMAC([6]byte{2, 9}) }, 0, loader.ReasonBadDstMAC},
		"IP checksum":       {func(s *packettest.Spec) { s.Mutate = at(10, 0x55) }, 0, loader.ReasonBadIPChecksum},
		"another group": {func(s *packettest.Spec) {
			s.Dst = netip.MustParseAddr("224.0.0.19")
		}, 0, loader.ReasonBadDestination},
		"from loopback": {func(s *packettest.Spec) { s.Src = netip.MustParseAddr("127.0.0.1") }, 0, loader.ReasonBadSource},
		"from the directed broadcast": {func(s *packettest.Spec) {
			s.Src = netip.MustParseAddr("192.168.1.255")
		}, 0, loader.ReasonBadSource},
		"TTL 64":     {func(s *packettest.Spec) { s.TTL = 64 }, 0, loader.ReasonBadTTL},
		"version 2":  {func(s *packettest.Spec) { *s = packettest.Valid(2) }, 0, loader.ReasonBadVersion},
		"type 2":     {func(s *packettest.Spec) { s.Mutate = inMessage(0, 0x32) }, 0, loader.ReasonBadType},
		"count 0":    {func(s *packettest.Spec) { s.Mutate = inMessage(3, 0) }, 0, loader.ReasonBadCount},
		"count lies": {func(s *packettest.Spec) { s.Mutate = inMessage(3, 9) }, 0, loader.ReasonBadLength},
		"cut": {func(s *packettest.Spec) {
			s.Mutate = func(b []byte, _, _ int) []byte { return b[:len(b)-4] }
		}, 0, loader.ReasonTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			s := packettest.Valid(3)
			tc.change(&s)
			router, reason := c.classify(s.Build(), tc.stripped)
			assert.Equal(t, tc.want, reason, "%v", tc.want)
			if reason == loader.ReasonEvent {
				assert.Equal(t, loader.RouterID(id), router)
			}
		})
	}
}

// The same VRID on two VLANs and in two families is four routers.
func TestCaptureTellsRoutersApart(t *testing.T) {
	c := &Capture{}
	for id, r := range []loader.Router{{}, {VLAN: 7}, {VLAN: 8}, {IPv6: true}} {
		r.VRID, r.Version, r.Group = packettest.VRID, 3, packettest.Group
		c.SetRouter(loader.RouterID(id), r)
	}
	of := func(stripped uint16) (loader.RouterID, loader.Reason) {
		return c.classify(packettest.Valid(3).Build(), stripped)
	}
	for id, vlan := range []uint16{0, 7, 8} {
		got, reason := of(vlan)
		assert.Equal(t, loader.RouterID(id), got)
		assert.Equal(t, loader.ReasonEvent, reason)
	}
	c.RemoveRouter(1)
	_, reason := of(7)
	assert.Equal(t, loader.ReasonOtherVLAN, reason)
	c.SetRouter(2, loader.Router{VRID: packettest.VRID, Version: 3, VLAN: 9, Group: packettest.Group})
	_, reason = of(8)
	assert.Equal(t, loader.ReasonOtherVLAN, reason, "the former identity of an id goes")
	got, reason := of(0)
	assert.Equal(t, loader.RouterID(0), got)
	assert.Equal(t, loader.ReasonEvent, reason)
	c.SetRouter(0, loader.Router{VRID: packettest.VRID + 1, Version: 3, Group: packettest.Group})
	_, reason = of(0)
	assert.Equal(t, loader.ReasonUnknownVRID, reason, "nor is it kept under another VRID")
}

func TestReasonsAndRejectsAreTheSameWords(t *testing.T) {
	for r := packet.RejectNotVRRP; r <= packet.RejectLength; r++ {
		assert.Equal(t, r.String(), reasonOf(r).String())
		assert.Equal(t, r, RejectOf(reasonOf(r)))
	}
	for _, r := range []loader.Reason{loader.ReasonEvent, loader.ReasonSteady, loader.ReasonRateVRID} {
		assert.Zero(t, RejectOf(r), "%v", r)
	}
}
