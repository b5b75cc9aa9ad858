// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

func message(t testing.TB, s packettest.Spec) []byte {
	t.Helper()
	var f packet.Frame
	require.NoError(t, packet.ParseFrame(s.Build(), 0, &f))
	return f.Payload
}

func TestAppendMakesTheKnownBytes(t *testing.T) {
	// Worked out by hand from the figures of RFC 3768 and RFC 9568.
	v2 := packettest.Valid(2)
	assert.Equal(t, "21586401"+"01011dfc"+"c0a80164"+"3132333435360000", hex.EncodeToString(message(t, v2)))
	v3 := packettest.Valid(3)
	v3.Advert.Form = packet.ChecksumMessage
	assert.Equal(t, "31586401"+"0064a835"+"c0a80164", hex.EncodeToString(message(t, v3)))
}

func TestDecodeIsTheInverseOfAppend(t *testing.T) {
	for _, form := range []packet.ChecksumForm{packet.ChecksumMessage, packet.ChecksumPseudoHeader} {
		s := packettest.Valid(3)
		s.Advert.Form, s.Advert.Interval = form, 10*time.Millisecond
		var got packet.Advert
		require.NoError(t, packet.Decode(message(t, s), s.Src, s.Dst, &got))
		assert.Equal(t, s.Advert, got)
	}
	s := packettest.Valid(2)
	s.Advert.Form = packet.ChecksumMessage
	var got packet.Advert
	require.NoError(t, packet.Decode(message(t, s), s.Src, s.Dst, &got))
	assert.Equal(t, s.Advert, got)
}

func TestDecodeIgnoresReservedBits(t *testing.T) {
	s := packettest.Valid(3)
	s.Advert.Form = packet.ChecksumMessage
	b := message(t, s)
	b[4] |= 0xf0 // reserved nibble above the interval
	refreshChecksum(b)
	var got packet.Advert
	require.NoError(t, packet.Decode(b, s.Src, s.Dst, &got))
	assert.Equal(t, time.Second, got.Interval)
}

func refreshChecksum(b []byte) {
	b[6], b[7] = 0, 0
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	b[6], b[7] = ^byte(s>>8), ^byte(s)
}

func TestDecodeRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		version uint8
		mutate  func([]byte) []byte
		want    error
	}{
		"empty":                     {3, func([]byte) []byte { return nil }, packet.RejectTruncated},
		"header cut":                {3, func(b []byte) []byte { return b[:7] }, packet.RejectTruncated},
		"version 4":                 {3, func(b []byte) []byte { b[0] = 0x41; return b }, packet.RejectVersion},
		"type 2":                    {3, func(b []byte) []byte { b[0] = 0x32; return b }, packet.RejectType},
		"count 0":                   {3, func(b []byte) []byte { b[3] = 0; return b }, packet.RejectCount},
		"count lies":                {3, func(b []byte) []byte { b[3] = 2; return b }, packet.RejectLength},
		"v2 without auth data":      {2, func(b []byte) []byte { return b[:12] }, packet.RejectLength},
		"v2 checksum":               {2, func(b []byte) []byte { b[6] ^= 1; return b }, packet.RejectChecksum},
		"v2 auth data covered":      {2, func(b []byte) []byte { b[15] ^= 1; return b }, packet.RejectChecksum},
		"v3 checksum":               {3, func(b []byte) []byte { b[7] ^= 1; return b }, packet.RejectChecksum},
		"v3 interval 0, sum intact": {3, func(b []byte) []byte { b[4], b[5] = 0, 0; refreshChecksum(b); return b }, packet.RejectInterval},
	} {
		t.Run(name, func(t *testing.T) {
			s := packettest.Valid(tc.version)
			b := tc.mutate(message(t, s))
			var a packet.Advert
			assert.ErrorIs(t, packet.Decode(b, s.Src, s.Dst, &a), tc.want)
		})
	}
}

var expect = packet.Expect{Version: 3, CheckTTL: true, MaxLen: 1056, Dst: packettest.Group}

func TestParseFrame(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*packettest.Spec)
		want   error
		vlan   [2]uint16
	}{
		"plain":          {func(*packettest.Spec) {}, nil, [2]uint16{}},
		"one tag":        {func(s *packettest.Spec) { s.VLANs = []uint16{7} }, nil, [2]uint16{7, 0}},
		"two tags":       {func(s *packettest.Spec) { s.VLANs = []uint16{7, 9} }, nil, [2]uint16{7, 9}},
		"most options":   {func(s *packettest.Spec) { s.Options = 10 }, nil, [2]uint16{}},
		"IPv6":           {func(s *packettest.Spec) { s.IPv6 = true }, nil, [2]uint16{}},
		"three tags":     {func(s *packettest.Spec) { s.VLANs = []uint16{7, 9, 11} }, packet.RejectNotVRRP, [2]uint16{7, 9}},
		"other protocol": {func(s *packettest.Spec) { s.Mutate = set(9, 17) }, packet.RejectNotVRRP, [2]uint16{}},
		"IHL 4":          {func(s *packettest.Spec) { s.Mutate = set(0, 0x44) }, packet.RejectIPHeader, [2]uint16{}},
		"total short":    {func(s *packettest.Spec) { s.Mutate = set(3, 19) }, packet.RejectIPHeader, [2]uint16{}},
		"more fragments": {func(s *packettest.Spec) { s.Mutate = set(6, 0x20) }, packet.RejectFragment, [2]uint16{}},
		"last fragment":  {func(s *packettest.Spec) { s.Mutate = set(7, 1) }, packet.RejectFragment, [2]uint16{}},
		"don't fragment": {func(s *packettest.Spec) { s.Mutate = set(6, 0x40) }, nil, [2]uint16{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := packettest.Valid(3)
			tc.change(&s)
			var f packet.Frame
			err := packet.ParseFrame(s.Build(), 0, &f)
			assert.ErrorIs(t, err, tc.want)
			assert.Equal(t, tc.vlan, f.VLAN)
			if tc.want == nil && !s.IPv6 {
				assert.Equal(t, netip.AddrFrom4(packettest.Src.As4()), f.Src)
				assert.NoError(t, f.Check(&expect))
			}
		})
	}
}

// set changes one byte of the IP header.
func set(at int, value byte) func([]byte, int, int) []byte {
	return func(b []byte, ip, _ int) []byte { b[ip+at] = value; return b }
}

func FuzzDecode(f *testing.F) {
	for _, v := range []uint8{2, 3} {
		f.Add(message(f, packettest.Valid(v)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a, again packet.Advert
		if packet.Decode(b, packettest.Src, packettest.Group, &a) != nil {
			return
		}
		out := packet.Append(nil, &a, packettest.Src, packettest.Group)
		require.NoError(t, packet.Decode(out, packettest.Src, packettest.Group, &again))
		// One's complement has two zeros: a sum may be right in both forms.
		again.Form = a.Form
		assert.Equal(t, a, again)
	})
}

func FuzzParseFrame(f *testing.F) {
	f.Add(packettest.Valid(2).Build(), uint16(0))
	f.Add(packettest.Valid(3).Build(), uint16(7))
	f.Fuzz(func(t *testing.T, b []byte, vlan uint16) {
		var fr packet.Frame
		if packet.ParseFrame(b, vlan, &fr) != nil {
			return
		}
		assert.LessOrEqual(t, len(fr.Payload), fr.PayloadLen)
		_ = fr.Check(&expect)
	})
}

func BenchmarkDecode(b *testing.B) {
	s := packettest.Valid(3)
	m := message(b, s)
	var a packet.Advert
	b.ReportAllocs()
	for b.Loop() {
		_ = packet.Decode(m, s.Src, s.Dst, &a)
	}
}

func TestNeitherDirectionAllocates(t *testing.T) {
	s := packettest.Valid(3)
	m := message(t, s)
	buf := make([]byte, 0, 64)
	var a packet.Advert
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		_ = packet.Decode(m, s.Src, s.Dst, &a)
		buf = packet.Append(buf[:0], &a, s.Src, s.Dst)
	}))
}

func TestRefusingAllocatesNothing(t *testing.T) {
	s := packettest.Valid(3)
	m := message(t, s)
	m[7] ^= 1
	s.Dst = netip.MustParseAddr("224.0.0.19")
	frame := s.Build()
	var a packet.Advert
	var f packet.Frame
	var errs [2]error
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		errs[0] = packet.Decode(m, s.Src, s.Dst, &a)
		_ = packet.ParseFrame(frame, 0, &f)
		errs[1] = f.Check(&expect)
	}))
	assert.Equal(t, [2]error{packet.RejectChecksum, packet.RejectDestination}, errs)
}

func TestEveryRejectHasAWord(t *testing.T) {
	words := map[string]bool{}
	for r := packet.RejectNotVRRP; r < packet.RejectMax; r++ {
		assert.NotEmpty(t, r.String())
		assert.False(t, words[r.String()], r)
		words[r.String()] = true
	}
	assert.EqualError(t, packet.RejectTTL, "advert refused: bad_ttl")
}
