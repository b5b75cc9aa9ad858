// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
)

func addrs(list ...string) []byte {
	var out []byte
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s).AsSlice()...)
	}
	return out
}

func TestAddressLists(t *testing.T) {
	for _, c := range []struct {
		name, source string
		ours, theirs []byte
		want         control.Lists
	}{
		{"same", "10.0.0.1", addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.1", "10.1.0.2"), control.ListsSame},
		{"order", "10.0.0.1", addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.2", "10.1.0.1"), control.ListsSame},
		{"repeated", "10.0.0.1", addrs("10.1.0.1", "10.1.0.1", "10.1.0.2"), addrs("10.1.0.2", "10.1.0.1"), control.ListsSame},
		{"one repeated for another", "10.0.0.1", addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.1", "10.1.0.1"), control.ListsOverlap},
		{"one less", "10.0.0.1", addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.2"), control.ListsOverlap},
		{"one more", "10.0.0.1", addrs("10.1.0.1"), addrs("10.1.0.2", "10.1.0.1"), control.ListsOverlap},
		{"one else", "10.0.0.1", addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.1", "10.1.0.3"), control.ListsOverlap},
		{"disjoint", "10.0.0.1", addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.3", "10.1.0.4"), control.ListsDisjoint},
		{"IPv6 order", "fe80::1", addrs("fe80::a", "2001:db8::1"), addrs("2001:db8::1", "fe80::a"), control.ListsSame},
		// By steps of four bytes these are the same set.
		{"IPv6 words", "fe80::1", addrs("1:2:3:4:5:6:7:8"), addrs("7:8:5:6:3:4:1:2"), control.ListsDisjoint},
		{"IPv6 overlap", "fe80::1", addrs("fe80::a", "2001:db8::1"), addrs("fe80::a", "2001:db8::2"), control.ListsOverlap},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := control.New(control.Config{Version: 3, Source: netip.MustParseAddr(c.source), Addrs: c.ours})
			peer := netip.MustParseAddr(c.source).Next()
			found, err := r.Check(peer, [6]byte{}, &packet.Advert{Version: 3, Addrs: c.theirs})
			assert.Equal(t, c.want, found.Lists)
			if c.want == control.ListsDisjoint {
				assert.ErrorIs(t, err, packet.RejectCollision)
			} else {
				assert.NoError(t, err)
			}
		})
	}
}

func TestDifference(t *testing.T) {
	cfg := control.Config{Source: netip.MustParseAddr("fe80::1"), Addrs: addrs("fe80::a", "2001:db8::1")}
	missing, extra := cfg.Difference(addrs("2001:db8::2", "fe80::a"))
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("2001:db8::1")}, missing)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("2001:db8::2")}, extra)
	missing, extra = cfg.Difference(addrs("2001:db8::1", "fe80::a"))
	assert.Empty(t, missing)
	assert.Empty(t, extra)
}

// permuted is a Router with the longest list, and that list in another order.
func permuted() (*control.Router, *packet.Advert) {
	rng := rand.New(rand.NewPCG(1, 1))
	var ours, theirs []byte
	for n := range 255 {
		ours = append(ours, 10, 1, 0, byte(n))
	}
	for _, n := range rng.Perm(255) {
		theirs = append(theirs, 10, 1, 0, byte(n))
	}
	r := control.New(control.Config{Version: 3, Source: netip.MustParseAddr("10.0.0.1"), Addrs: ours})
	return r, &packet.Advert{Version: 3, Addrs: theirs, Interval: time.Second}
}

func TestCheckAllocatesNothing(t *testing.T) {
	r, a := permuted()
	peer := netip.MustParseAddr("10.0.0.2")
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		found, err := r.Check(peer, [6]byte{}, a)
		require.NoError(t, err)
		require.Equal(t, control.ListsSame, found.Lists)
	}))
}

func BenchmarkCheckPermuted(b *testing.B) {
	r, a := permuted()
	peer := netip.MustParseAddr("10.0.0.2")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = r.Check(peer, [6]byte{}, a)
	}
}
