// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root, and CI must have it")
	}
	t.Skip("this test needs root")
}

func TestGARP(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	got := appendGARP(nil, mac, netip.MustParseAddr("192.168.1.100"))
	assert.Len(t, got, arpLen)
	assert.Equal(t, "ffffffffffff"+"020000000001"+"0806"+ // Ethernet
		"0001"+"0800"+"0604"+"0001"+ // request
		"020000000001"+"c0a80164"+"ffffffffffff"+"c0a80164", hex.EncodeToString(got))
}

// loHost is a Host whose addresses live on the loopback.
func loHost(t *testing.T) (h *Host, reports chan Report, stop func()) {
	requireRoot(t)
	var clock atomic.Int64
	reports = make(chan Report, 16)
	h, err := NewHost(4, func() int64 { return clock.Add(1) }, func(r Report) { reports <- r })
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	return h, reports, func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, h.Close())
	}
}

func address(ip string) Address {
	return Address{Ifindex: 1, Prefix: netip.MustParsePrefix(ip)}
}

func wait(t *testing.T, reports chan Report) Report {
	select {
	case r := <-reports:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no report")
		return Report{}
	}
}

func TestTakeoverAndRelease(t *testing.T) {
	h, reports, stop := loHost(t)
	defer stop()
	addresses := []Address{address("127.9.0.1/32"), address("127.9.0.2/32")}
	s, err := NewSet(3, addresses, nil, Announcement{Repeat: 1})
	require.NoError(t, err)

	h.Takeover(s)
	r := wait(t, reports)
	assert.Equal(t, 3, r.ID)
	assert.True(t, r.Owned)
	require.NoError(t, r.Err)
	there, err := Present(addresses)
	require.NoError(t, err)
	assert.Len(t, there, 2)

	h.Takeover(s) // nothing new
	h.Release(s)
	r = wait(t, reports)
	assert.False(t, r.Owned)
	require.NoError(t, r.Err)
	there, err = Present(addresses)
	require.NoError(t, err)
	assert.Empty(t, there)
}

func TestThereAndGoneAreSuccess(t *testing.T) {
	h, reports, stop := loHost(t)
	defer stop()
	a := address("127.9.0.3/32")
	s, err := NewSet(0, []Address{a}, nil, Announcement{})
	require.NoError(t, err)
	require.NoError(t, h.rt.do([][]byte{a.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE)}, func(int, error) {}))
	h.Takeover(s)
	assert.NoError(t, wait(t, reports).Err)
	left, err := Present([]Address{a})
	require.NoError(t, err)
	require.Len(t, left, 1)
	assert.True(t, left[0].Ours)
	require.NoError(t, Remove(left))
	h.Release(s)
	assert.NoError(t, wait(t, reports).Err)
}

func TestRefusedAddressIsReported(t *testing.T) {
	h, reports, stop := loHost(t)
	defer stop()
	bad := address("127.9.0.4/32")
	s, err := NewSet(1, []Address{address("127.9.0.5/32")}, nil, Announcement{})
	require.NoError(t, err)
	broken, err := NewSet(2, nil, nil, Announcement{})
	require.NoError(t, err)
	bad.Ifindex = 1 << 20 // there is none
	broken.names = []netip.Prefix{bad.Prefix}
	broken.add, broken.del = [][]byte{bad.message(unix.RTM_NEWADDR, 0)}, [][]byte{bad.message(unix.RTM_DELADDR, 0)}
	h.Takeover(broken)
	h.Takeover(s)
	byID := map[int]Report{}
	for range 2 {
		r := wait(t, reports)
		byID[r.ID] = r
	}
	assert.ErrorIs(t, byID[2].Err, unix.ENODEV)
	assert.ErrorContains(t, byID[2].Err, "address 127.9.0.4/32: ")
	assert.NoError(t, byID[1].Err, "one router's trouble is not another's")
	h.Release(s)
	wait(t, reports)
}

// A demoted router never announces, whatever was planned for it.
func TestEpoch(t *testing.T) {
	requireRoot(t)
	now := int64(0)
	h, err := NewHost(1, func() int64 { return now }, func(Report) {})
	require.NoError(t, err)
	defer h.Close()
	frame := appendGARP(nil, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("127.9.0.6"))
	s := &Set{how: Announcement{Repeat: 2, Delay: time.Second, Refresh: 10 * time.Second, RefreshRepeat: 3},
		groups: []frameGroup{{ifindex: 1, frames: [][]byte{frame}}}}
	sent := func() uint64 { return h.Sent.Load() + h.Dropped.Load() }

	h.Takeover(s)
	h.work(<-h.queue)
	assert.Equal(t, uint64(2), sent(), "the first block")
	now = int64(time.Second)
	h.due()
	assert.Equal(t, uint64(4), sent(), "the second block")
	now = int64(11 * time.Second)
	h.due()
	assert.Equal(t, uint64(7), sent(), "refresh")
	now = int64(21 * time.Second)
	h.due()
	assert.Equal(t, uint64(10), sent(), "and again")

	h.Release(s) // not yet carried out by the worker
	now = int64(31 * time.Second)
	h.due()
	assert.Equal(t, uint64(10), sent(), "an order is enough to silence it")
	h.work(<-h.queue)
	assert.Empty(t, h.plan)
}

func TestPacing(t *testing.T) {
	requireRoot(t)
	now := int64(0)
	h, err := NewHost(1, func() int64 { return now }, func(Report) {})
	require.NoError(t, err)
	defer h.Close()
	frame := appendGARP(nil, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("127.9.0.6"))
	s := &Set{how: Announcement{Repeat: 2, Interval: time.Second},
		groups: []frameGroup{{ifindex: 1, frames: [][]byte{frame, frame}}}}
	h.Takeover(s)
	h.work(<-h.queue)
	for second := range 4 {
		now = int64(second) * int64(time.Second)
		h.due()
		assert.Equal(t, uint64(second+1), h.Sent.Load()+h.Dropped.Load())
	}
	assert.Empty(t, h.plan)
}

func TestLosingAdvertsQueueOneBlock(t *testing.T) {
	requireRoot(t)
	h, err := NewHost(1, func() int64 { return 0 }, func(Report) {})
	require.NoError(t, err)
	defer h.Close()
	s := &Set{how: Announcement{LowerPrioRepeat: 1, LowerPrioDelay: time.Second}}
	h.Takeover(s)
	h.work(<-h.queue)
	for range 10 {
		h.Announce(s)
		h.work(<-h.queue)
	}
	assert.Len(t, h.plan, 1)
}

func TestChangedMAC(t *testing.T) {
	requireRoot(t)
	h, err := NewHost(1, func() int64 { return 0 }, func(Report) {})
	require.NoError(t, err)
	defer h.Close()
	addr := netip.MustParseAddr("127.9.0.6")
	before, after := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	frame := appendGARP(nil, before, addr)
	s := &Set{how: Announcement{Repeat: 2}, groups: []frameGroup{{ifindex: 1, frames: [][]byte{frame}}}}
	h.Register(s)
	h.changeMAC(macChange{1, after})
	assert.Equal(t, appendGARP(nil, after, addr), frame)
	assert.Zero(t, h.Sent.Load()+h.Dropped.Load(), "not owned: nothing to say")
	h.Takeover(s)
	h.work(<-h.queue)
	h.changeMAC(macChange{1, after})
	assert.Equal(t, uint64(2), h.Sent.Load()+h.Dropped.Load(), "no news")
	h.changeMAC(macChange{1, before})
	assert.Equal(t, uint64(4), h.Sent.Load()+h.Dropped.Load())
	h.changeMAC(macChange{7, after})
	assert.Equal(t, appendGARP(nil, before, addr), frame)
}

func TestOwnAddressesStay(t *testing.T) {
	a, b := address("127.9.0.7/32"), address("127.9.0.8/32")
	s, err := NewSet(0, []Address{a, b}, map[netip.Addr]bool{a.Prefix.Addr(): true}, Announcement{})
	require.NoError(t, err)
	assert.Len(t, s.add, 1)
	assert.Len(t, s.del, 1)
}

// A crash, and then another mask and label in the file: what the kernel has is
// removed, not what the file says.
func TestLeftoverWithAnotherPrefix(t *testing.T) {
	requireRoot(t)
	rt, err := openRtnetlink()
	require.NoError(t, err)
	defer rt.close()
	old := address("127.9.0.9/32")
	old.Label = "lo:old"
	add := old.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE)
	require.NoError(t, rt.do([][]byte{add}, func(_ int, err error) { require.NoError(t, err) }))
	found, err := Present([]Address{address("127.9.0.9/24")})
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, "lo:old", found[0].Label)
	require.NoError(t, Remove(found))
	found, err = Present([]Address{old})
	require.NoError(t, err)
	assert.Empty(t, found)
}

// An ARP probe claims nothing: nobody learns an address from it.
func TestProbeFrame(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 4}
	b := appendProbe(nil, mac, netip.MustParseAddr("10.0.0.1"))
	assert.Equal(t, []byte{
		255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 4, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
	}, b)
}

// Every owned address is asked for in turn, and no other.
func TestOwnedAddressesAreAskedFor(t *testing.T) {
	sock := &packetSocket{fd: -1} // nothing leaves
	h := &Host{now: func() int64 { return 0 }, queue: make(chan *Set, 8), sock: sock}
	for id, owns := range []bool{true, false, true} {
		s := &Set{id: id, groups: []frameGroup{{ifindex: 1, probes: make([][]byte, 7)}}}
		for n := range s.groups[0].probes {
			s.groups[0].probes[n] = []byte{byte(id), byte(n)}
		}
		if owns {
			s.epoch.Store(1)
		}
		h.Register(s)
	}
	for range 14 {
		h.ask()
	}
	assert.Equal(t, uint64(14), h.Dropped.Load(), "fourteen addresses, each once")
}
