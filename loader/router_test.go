// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cilium/ebpf"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

// on returns a router at another place.
func on(ifindex int, vlan uint16) Router {
	r := fencedRouter()
	r.Ifindex, r.VLAN = ifindex, vlan
	return r
}

// events returns the router and the interface of every event that waits.
func (f *rig) waiting() (out [][2]int) {
	f.Drain(func(e *Event) { out = append(out, [2]int{int(e.Router), e.Ifindex}) })
	return out
}

// The same VRID and the same address on two interfaces and on two VLANs of one
// of them are four virtual routers that have nothing to do with each other.
func TestPlacesAreApart(t *testing.T) {
	ports := namespace(t, "one", "two")
	one, two := ports[0], ports[1]
	macs := map[int][6]byte{one: {2, 0, 0, 0, 1}, two: {2, 0, 0, 0, 2}}
	places := []struct {
		ifindex int
		vlan    uint16
	}{{one, 0}, {two, 0}, {two, 7}, {two, 8}}
	for _, mode := range modes { // no subtests: they run on other threads
		f := open(t, mode)
		for ifindex, mac := range macs {
			f.addPort(t, ifindex, mac)
		}
		for id, at := range places {
			require.NoError(t, f.SetRouter(RouterID(id), on(at.ifindex, at.vlan)))
		}
		advert := packettest.Valid(3)
		message := packet.Append(nil, &advert.Advert, advert.Src, advert.Dst)
		build := func(id int, s packettest.Spec) []byte {
			f.ifindex = places[id].ifindex
			if v := places[id].vlan; v != 0 {
				s.VLANs = []uint16{v}
			}
			return s.Build()
		}
		for id, at := range places {
			verdict(t, f, build(id, advert))
			assert.Equal(t, [][2]int{{id, at.ifindex}}, f.waiting())
		}
		// One template, and one liveness.
		require.True(t, f.Install(2, template(advert, message, 1)))
		for id := range places {
			_, reason, _ := f.run(t, build(id, advert))
			assert.Equal(t, id == 2, reason == "steady pass", "%d: %s", id, reason)
			assert.Equal(t, id == 2, f.LastArrival(RouterID(id)) != 0)
		}
		f.Clear(2)
		f.waiting()
		// A frame to the MAC of the other interface is not for this one.
		stray := advert
		stray.Mutate = func(b []byte, _, _ int) []byte { mac := macs[two]; copy(b, mac[:]); return b }
		_, reason, _ := f.run(t, build(0, stray))
		assert.Equal(t, "bad_dst_mac pass", reason)
		_, reason, _ = f.run(t, build(1, stray))
		assert.Equal(t, "event pass", reason)
		f.waiting()
		// ARP that claims the address concerns the router of its place.
		f.SetRole(1, RoleMaster)
		f.SetRole(3, RoleMaster)
		for id := range places {
			claim := arp(2, initiatorMAC, packettest.VIP, packettest.Src)
			f.ifindex = places[id].ifindex
			if v := places[id].vlan; v != 0 {
				claim = tagged(claim)
				claim[15] = byte(v)
			}
			_, reason, _ := f.run(t, claim)
			if id != 1 && id != 3 {
				assert.Equal(t, "not_vrrp pass", reason)
				continue
			}
			assert.Equal(t, "vip_conflict pass", reason)
			assert.Equal(t, [][2]int{{id, places[id].ifindex}}, f.waiting())
		}
		// And one fence.
		for range fenceAdverts {
			verdict(t, f, build(3, advert))
		}
		for id := range places {
			assert.Equal(t, id == 3, f.Fence(RouterID(id), monotonic()).Active, id)
			s := advert
			s.Dst = packettest.VIP
			s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+9] = 6; return b }
			_, reason, _ := f.run(t, build(id, s))
			assert.Equal(t, id == 3, reason == "fenced_data drop", "%d: %s", id, reason)
		}
		// Frames are counted where they arrived.
		c, err := f.Counters(one)
		require.NoError(t, err)
		assert.Equal(t, uint64(1), c[ReasonBadDstMAC].Pass)
		c, err = f.Counters(two)
		require.NoError(t, err)
		assert.Zero(t, c[ReasonBadDstMAC].Pass)
		assert.Equal(t, uint64(1), c[ReasonSteady].Pass)
	}
}

// The reflector speaks for what is served on the interface of the probe, and a
// session takes answers from its own interface alone.
func TestReflectorIsThatOfItsPort(t *testing.T) {
	other := namespace(t, "other")[0]
	const local, remote = 0x80000041, 0xc0a80104
	for _, mode := range modes {
		f := guarded(t, mode)
		f.addPort(t, other, [6]byte(reflectorMAC))
		probe := goodProbe().build()
		f.ifindex = other
		_, reason, _ := f.run(t, probe)
		assert.Equal(t, "not_vrrp pass", reason, "the address is one of the first interface")
		require.NoError(t, f.SetLocals(other, []Local{{Prefix: netip.PrefixFrom(reflectorAddr, 24), Discriminator: reflectorDiscr}}))
		_, reason, _ = f.run(t, probe)
		assert.Equal(t, "sbfd_refused pass", reason, "nobody is served there")
		f.ifindex = loopback
		_, reason, _ = f.run(t, probe)
		assert.Equal(t, "sbfd_reflected pass", reason)
		assert.Equal(t, uint32(1), f.Lease().Masters)

		f.OpenSession(Session{Local: local, Remote: remote, Ifindex: other, Peer: packettest.Src})
		answer := goodProbe()
		answer.frame.SrcPort, answer.frame.DstPort = packet.SBFDPort, 50000
		answer.bfd.Flags, answer.bfd.My, answer.bfd.Your = 0, remote, local
		_, reason, _ = f.run(t, answer.build())
		assert.Equal(t, "not_vrrp pass", reason)
		f.ifindex = other
		answer.mutate = tagged
		_, reason, _ = f.run(t, answer.build())
		assert.Equal(t, "not_vrrp pass", reason, "from another VLAN")
		answer.mutate = nil
		_, reason, _ = f.run(t, answer.build())
		assert.Equal(t, "sbfd_reply drop", reason)
	}
}

func (f *rig) owner(a string) int {
	var id uint32
	if f.maps["vips"].Lookup(addressKey(loopback, 0, netip.MustParseAddr(a)), &id) != nil {
		return -1
	}
	return int(id)
}

func TestRouterChanges(t *testing.T) {
	f := open(t, ModeNative, ours)
	r := ours
	r.Ifindex = loopback
	addrs := func(list ...string) {
		r.Addrs = nil
		for _, a := range list {
			r.Addrs = append(r.Addrs, netip.MustParseAddr(a))
		}
		require.NoError(t, f.SetRouter(ourID, r))
	}
	addrs("10.0.0.1", "10.0.0.2", "2001:db8::1")
	addrs("10.0.0.2", "10.0.0.3")
	assert.Equal(t, []int{-1, 0, 0, -1}, []int{f.owner("10.0.0.1"), f.owner("10.0.0.2"), f.owner("10.0.0.3"), f.owner("2001:db8::1")})

	// An address that moves to another router in either order.
	second := r
	second.VRID, second.Addrs = 1, []netip.Addr{netip.MustParseAddr("10.0.0.3")}
	require.NoError(t, f.SetRouter(1, second))
	addrs("10.0.0.2")
	assert.Equal(t, 1, f.owner("10.0.0.3"))
	second.Addrs = nil
	require.NoError(t, f.SetRouter(1, second))
	addrs("10.0.0.2", "10.0.0.3")
	assert.Equal(t, 0, f.owner("10.0.0.3"))

	// What is in the identity cannot change; what is not does, at once.
	moved := r
	moved.VRID = 7
	require.ErrorContains(t, f.SetRouter(ourID, moved), "identity")
	verdict(t, f, packettest.Valid(3).Build())
	assert.Len(t, f.waiting(), 1, "the router is still there")
	r.CheckTTL = false
	require.NoError(t, f.SetRouter(ourID, r))
	low := packettest.Valid(3)
	low.TTL = 1
	_, reason, _ := f.run(t, low.Build())
	assert.Equal(t, "event pass", reason)
	f.waiting()

	// A new id for the same identity; the old one goes later and takes nothing
	// along.
	require.NoError(t, f.SetRouter(2, r))
	require.NoError(t, f.RemoveRouter(ourID))
	require.NoError(t, f.RemoveRouter(ourID), "it is not there any more")
	verdict(t, f, packettest.Valid(3).Build())
	assert.Equal(t, [][2]int{{2, loopback}}, f.waiting())
	assert.Equal(t, 2, f.owner("10.0.0.3"))

	f.SetRole(2, RoleMaster)
	require.NoError(t, f.RemoveRouter(2))
	require.NoError(t, f.RemoveRouter(1))
	_, reason, _ = f.run(t, packettest.Valid(3).Build())
	assert.Equal(t, "unknown_vrid pass", reason)
	assert.Zero(t, f.Lease().Masters)
	for _, name := range []string{"ids", "vips"} {
		var key [24]byte
		err := f.maps[name].NextKey(nil, key[:f.maps[name].KeySize()])
		assert.ErrorIs(t, err, ebpf.ErrKeyNotExist, "%s is not empty", name)
	}
}

// A router that gets the id of another shows nothing of what that one recorded.
func TestRouterIDIsUsedAgain(t *testing.T) {
	f := open(t, ModeNative, ours)
	s := packettest.Valid(3)
	require.True(t, f.Install(ourID, template(s, packet.Append(nil, &s.Advert, s.Src, s.Dst), 1000)))
	verdict(t, f, s.Build())
	require.Equal(t, uint64(1), f.Arrived(ourID))
	require.NoError(t, f.RemoveRouter(ourID))
	next := ours
	next.Ifindex = loopback
	next.VRID++
	require.NoError(t, f.SetRouter(ourID, next))
	assert.Zero(t, f.Arrived(ourID))
	assert.Zero(t, f.LastArrival(ourID))
	assert.Empty(t, f.Liveness(ourID).Arrivals)
}

func TestLocalsChange(t *testing.T) {
	f := open(t, ModeNative)
	n := func() (n int) {
		it := f.maps["locals"].Iterate()
		var k rxXvrrpAddress
		var v rxXvrrpLocal
		for it.Next(&k, &v) {
			n++
		}
		return n
	}
	a := Local{Prefix: netip.MustParsePrefix("10.0.0.1/24"), Discriminator: 7}
	b := Local{Prefix: netip.MustParsePrefix("2001:db8::1/64")}
	require.NoError(t, f.SetLocals(1, []Local{a, b}))
	require.NoError(t, f.SetLocals(2, []Local{a}))
	assert.Equal(t, 3, n())
	require.NoError(t, f.SetLocals(1, []Local{b}))
	assert.Equal(t, 2, n())
	require.NoError(t, f.SetLocals(1, nil))
	assert.Equal(t, 1, n(), "that of the other interface stays")
	var v rxXvrrpLocal
	require.NoError(t, f.maps["locals"].Lookup(addressKey(2, 0, a.Prefix.Addr()), &v))
	assert.Equal(t, uint32(7), v.Discriminator)
	assert.Equal(t, netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00").As16(), v.Mask)
}

func TestFull(t *testing.T) {
	f := openWith(t, ModeNative, Options{Routers: 2, Addresses: 3, Ports: 2}, false, ours)
	r := ours
	r.Ifindex = loopback
	require.ErrorIs(t, f.SetRouter(2, r), ErrFull)
	r.VRID = 1
	for i := range 4 {
		r.Addrs = append(r.Addrs, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}))
	}
	require.ErrorIs(t, f.SetRouter(1, r), ErrFull)
	assert.Equal(t, -1, f.owner("10.0.0.0"), "nothing is left of it")
	r.Addrs = r.Addrs[:3]
	require.NoError(t, f.SetRouter(1, r))
	f.addPort(t, 7, portMAC)
	_, err := f.Attach(Port{Ifindex: 8, Modes: []Mode{ModeTCX}})
	require.ErrorIs(t, err, ErrFull)
	require.ErrorIs(t, f.SetLocals(1, []Local{
		{Prefix: netip.MustParsePrefix("10.0.0.1/8")}, {Prefix: netip.MustParsePrefix("10.0.0.2/8")},
		{Prefix: netip.MustParsePrefix("10.0.0.3/8")}, {Prefix: netip.MustParsePrefix("10.0.0.4/8")},
	}), ErrFull)
}

// The id of a port that has gone is used again, and counts from 0.
func TestPortIDIsUsedAgain(t *testing.T) {
	f := openWith(t, ModeNative, Options{Routers: 2, Ports: 1}, false, ours)
	verdict(t, f, packettest.Valid(3).Build())
	c, err := f.Counters(loopback)
	require.NoError(t, err)
	assert.Equal(t, uint64(1), c[ReasonEvent].Pass)
	require.NoError(t, f.RemoveRouter(ourID))
	require.NoError(t, f.Detach(loopback))
	f.addPort(t, 7, portMAC)
	c, err = f.Counters(7)
	require.NoError(t, err)
	assert.Equal(t, Counters{}, c)
	c, err = f.Counters(loopback)
	require.NoError(t, err)
	assert.Equal(t, Counters{}, c)
}

// A thousand interfaces with a router and an address each.
func TestThousandPorts(t *testing.T) {
	const n = 1000
	f := openWith(t, ModeNative, Options{Routers: n + 1, Ports: n + 1}, false)
	for i := range n {
		require.NoError(t, f.SetRouter(RouterID(i), on(1000+i, 0)))
		require.NoError(t, f.SetLocals(1000+i, []Local{{Prefix: netip.PrefixFrom(reflectorAddr, 24), Discriminator: reflectorDiscr}}))
	}
	require.NoError(t, f.SetRouter(n, on(loopback, 0)))
	verdict(t, f, packettest.Valid(3).Build())
	assert.Equal(t, [][2]int{{n, loopback}}, f.waiting())
	for i := range n {
		require.NoError(t, f.RemoveRouter(RouterID(i)))
		require.NoError(t, f.SetLocals(1000+i, nil))
	}
	assert.Len(t, f.ports, 1)
}

// Routers are removed and added, and change, while frames arrive: every frame
// is an event of the router that there is, or of none, and that of the router
// that only changes is never missed.
func TestChangesWhileFramesArrive(t *testing.T) {
	stays := ours
	stays.VRID = 1
	f := open(t, ModeNative, ours, stays)
	stays.Ifindex = loopback
	var stop atomic.Bool
	done := make(chan error, 1)
	go func() {
		defer close(done)
		r := fencedRouter()
		for i := 0; !stop.Load(); i++ {
			r.Ifindex = loopback
			stays.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
			stays.Own = nil
			if i%2 == 0 {
				stays.Own = r.Own
			}
			err := f.RemoveRouter(RouterID(i % 2 * 2))
			if err == nil {
				err = f.SetRouter(RouterID((i+1)%2*2), r)
			}
			if err == nil {
				err = f.SetRouter(1, stays)
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	first, second := packettest.Valid(3), packettest.Valid(3)
	second.Advert.VRID = 1
	for range 5000 {
		for _, s := range []packettest.Spec{first, second} {
			_, err := f.prog.Run(&ebpf.RunOptions{Data: s.Build()})
			require.NoError(t, err)
		}
		f.Drain(func(e *Event) {
			assert.Equal(t, e.Payload[1] == 1, e.Router == 1)
			assert.Less(t, e.Router, RouterID(3))
		})
	}
	stop.Store(true)
	require.NoError(t, <-done)
	c := f.counters(t)
	handled := c[ReasonEvent].Pass + c[ReasonRateSource].Drop + c[ReasonRateVRID].Drop
	assert.GreaterOrEqual(t, handled, uint64(5000), "the router that stays was always known")
	total := uint64(0)
	for _, n := range c {
		total += n.Pass + n.Drop
	}
	assert.Equal(t, uint64(10000), total)
}

// The digest tells address lists apart, in either family, whatever their order.
func TestDigest(t *testing.T) {
	message := func(version uint8, addrs ...string) []byte {
		a := packet.Advert{Version: version, VRID: 1, Priority: 1, Interval: 1e9}
		src, dst := packettest.Src, packettest.Group
		for _, s := range addrs {
			addr := netip.MustParseAddr(s)
			if addr.Is6() {
				src, dst = netip.MustParseAddr("fe80::1"), packettest.Group6
			}
			a.Addrs = append(a.Addrs, addr.AsSlice()...)
		}
		m := packet.Append(nil, &a, src, dst)
		m[3] = uint8(len(addrs))
		return m
	}
	digest := func(ipv6 bool, m []byte) rxXvrrpDigest {
		d, err := digestOf(m, ipv6)
		require.NoError(t, err)
		d.Header = [2]uint32{} // the checksum
		return d
	}
	for _, tc := range []struct {
		name string
		ipv6 bool
		x, y []string
		same bool
	}{
		{"order", false, []string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.2", "10.0.0.1"}, true},
		{"another", false, []string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.1", "10.0.0.3"}, false},
		{"same sum", false, []string{"10.0.0.1", "10.0.0.3"}, []string{"10.0.0.2", "10.0.0.2"}, false},
		{"order of IPv6", true, []string{"fe80::1", "2001:db8::2"}, []string{"2001:db8::2", "fe80::1"}, true},
		{"words of two addresses swapped", true, []string{"fe80::1", "2001:db8::2"}, []string{"fe80::2", "2001:db8::1"}, false},
		{"words of one address swapped", true, []string{"fe80:0:1:2:3:4:5:6"}, []string{"1:2:fe80:0:3:4:5:6"}, false},
	} {
		same := digest(tc.ipv6, message(3, tc.x...)) == digest(tc.ipv6, message(3, tc.y...))
		assert.Equal(t, tc.same, same, tc.name)
	}
	whole := message(2, "10.0.0.1")
	for n := range whole {
		_, err := digestOf(whole[:n], false)
		assert.Error(t, err, n)
	}
	_, err := digestOf(make([]byte, PayloadMax+4), false)
	assert.Error(t, err)
}
