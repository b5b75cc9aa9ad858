// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/test/lab"
)

// Floods of what must not count: no transition on either host, and the real
// adverts get through. The rates are those of the lab; test/cmd/bench states
// them.
func TestFloods(t *testing.T) {
	v2 := func(priority int) string {
		return "vrrp_instance VI_1 {\nstate BACKUP\ninterface ens33\nvirtual_router_id 51\npriority " +
			map[int]string{200: "200", 100: "100"}[priority] +
			"\nadvert_int 1\nauthentication {\nauth_type PASS\nauth_pass 123456\n}\nvirtual_ipaddress {\n" + vip + "/24\n}\n}\n"
	}
	for _, tc := range []struct {
		name   string
		reason string // counts it
		conf   func(priority int) string
		flood  lab.Flood
	}{
		{"unknown VRIDs", "unknown_vrid", fastAdverts, lab.Flood{Change: func(n int, s *packettest.Spec) { s.Advert.VRID = uint8(60 + n%190) }, Frames: 190}},
		{"TTL 64", "bad_ttl", fastAdverts, lab.Flood{Change: func(_ int, s *packettest.Spec) { s.TTL = 64 }}},
		{"wrong checksum", "bad_checksum", fastAdverts, lab.Flood{Change: func(_ int, s *packettest.Spec) {
			s.Mutate = func(b []byte, _, p int) []byte { b[p+6] ^= 1; return b }
		}}},
		{"wrong password", "bad_auth", v2, lab.Flood{Version: 2, Change: func(_ int, s *packettest.Spec) { copy(s.Advert.Auth[:], "guessed!") }}},
		{"lower priority", "rate_source", fastAdverts, lab.Flood{Change: func(_ int, s *packettest.Spec) { s.Advert.Priority = 1 }}},
		{"lower priority, forty sources", "rate_vrid", fastAdverts, lab.Flood{Frames: 40, Change: func(n int, s *packettest.Spec) {
			s.Advert.Priority, s.Src = 1, netip.AddrFrom4([4]byte{192, 168, 1, byte(150 + n)})
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			s.master.XVRRPD(s.File("m.conf", tc.conf(200)))
			s.becomes(t, s.master, 0, "MASTER")
			s.backup.XVRRPD(s.File("b.conf", tc.conf(100)))
			s.Eventually("the backup follows", 10*time.Second, func() bool { return ask(t, s.backup).Instances[0].Arrival.Count > 2 })
			before := transitions(t, s.master) + transitions(t, s.backup)
			hosts := []*lab.Node{s.master, s.backup}
			var refused []int
			for _, n := range hosts {
				refused = append(refused, counted(ask(t, n), tc.reason))
			}
			f := tc.flood
			if f.Version == 0 {
				f.Version = 3
			}
			f.VRID, f.Addr, f.Interval = 51, netip.MustParseAddr(vip), 10*time.Millisecond
			if f.Version == 2 {
				f.Interval = time.Second
			}
			p := s.client.Flood("ens33", f)
			s.Eventually("a second's worth is sent, and adverts go on", 20*time.Second, func() bool {
				return p.Sent() > 200_000 && ask(t, s.backup).Instances[0].Arrival.Count > 6
			})
			p.Stop()
			for i, n := range hosts {
				assert.Greater(t, counted(ask(t, n), tc.reason), refused[i], "%s on %s", tc.reason, n.Name)
			}
			assert.Equal(t, before, transitions(t, s.master)+transitions(t, s.backup))
			assert.Equal(t, "MASTER", ask(t, s.master).Instances[0].State)
			assert.Equal(t, ka1, ask(t, s.backup).Instances[0].Master)
		})
	}
}

func fastAdverts(priority int) string {
	return "global_defs {\nvrrp_version 3\n}\nvrrp_instance VI_1 {\nstate BACKUP\ninterface ens33\nvirtual_router_id 51\npriority " +
		map[int]string{200: "200", 100: "100"}[priority] +
		"\nadvert_int 0.01\nvirtual_ipaddress {\n" + vip + "/24\n}\n}\n"
}

// transitions is the number of changes of state of the first instance.
func transitions(t *testing.T, n *lab.Node) (sum int) {
	t.Helper()
	for _, c := range ask(t, n).Instances[0].Counters.Transitions {
		sum += c
	}
	return sum
}
