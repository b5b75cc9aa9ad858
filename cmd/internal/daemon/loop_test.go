// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

// fakePlane hands out prepared events.
type fakePlane struct {
	fd     int
	events []loader.Event
	last   int64
}

func (p *fakePlane) FD() int           { return p.fd }
func (p *fakePlane) Mode() loader.Mode { return "fake" }
func (p *fakePlane) Drain(fn func(*loader.Event)) int {
	for i := range p.events {
		fn(&p.events[i])
	}
	n := len(p.events)
	p.events = p.events[:0]
	return n
}
func (p *fakePlane) Install(_ loader.Slot, e *loader.Event) bool {
	p.last = e.RxNs
	return true
}
func (p *fakePlane) Clear(loader.Slot)                    { p.last = 0 }
func (p *fakePlane) SetMAC(net.HardwareAddr)              {}
func (p *fakePlane) LastArrival(loader.Slot) int64        { return p.last }
func (p *fakePlane) Liveness(loader.Slot) loader.Liveness { return loader.Liveness{} }
func (p *fakePlane) Counters() (loader.Counters, error)   { return loader.Counters{}, nil }
func (p *fakePlane) Close() error                         { return unix.Close(p.fd) }

var (
	ownAddr  = netip.MustParseAddr("127.0.0.1")
	peerAddr = netip.MustParseAddr("127.0.0.9")
	group    = netip.MustParseAddr("224.0.0.18")
)

// newTestLoop is a loop with one virtual router on the loopback, whose event
// source is a fake.
func newTestLoop(tb testing.TB, priority uint8) (*loop, *instance, *fakePlane) {
	tb.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			tb.Fatal("this test needs root, and CI must have it")
		}
		tb.Skip("this test needs root")
	}
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	require.NoError(tb, err)
	plane := &fakePlane{fd: fd, events: make([]loader.Event, 0, 8)}
	f := &iface{name: "lo", ifindex: 1, plane: plane, guard: noGuard{}, bySlot: map[loader.Slot]*instance{}}
	f.sender, err = transport.NewSender("lo", 1, []netip.Addr{group}, 4)
	require.NoError(tb, err)
	cfg := &config.Instance{Name: "A", VRID: 7, Version: 3, Priority: priority, Interval: 10 * time.Millisecond}
	i := &instance{cfg: cfg, iface: f, slot: loader.SlotOf(7, false)}
	addrs := []byte{10, 0, 0, 1}
	i.router = control.New(control.Config{
		VRID: 7, Version: 3, Priority: priority, Interval: cfg.Interval, DownAdverts: 3,
		Source: ownAddr, Addrs: addrs, HoldLimit: time.Second,
	})
	i.frame = transport.NewFrame(packet.Advert{Version: 3, VRID: 7, Interval: cfg.Interval, Addrs: addrs}, ownAddr, group)
	i.set, err = vip.NewSet(0, nil, nil, vip.Announcement{})
	require.NoError(tb, err)
	f.bySlot[i.slot] = i
	host, err := vip.NewHost(1, clock.Now, func(vip.Report) {})
	require.NoError(tb, err)
	l, err := newLoop([]*instance{i}, []*iface{f}, host, time.Second)
	require.NoError(tb, err)
	tb.Cleanup(func() {
		assert.NoError(tb, l.close())
		assert.NoError(tb, f.sender.Close())
		assert.NoError(tb, host.Close())
		assert.NoError(tb, plane.Close())
	})
	l.now = control.Instant(clock.Now())
	l.step(i, control.Event{Kind: control.EventStartup})
	l.finish()
	return l, i, plane
}

// advert is an event with a valid advert of the peer.
func advert(priority uint8, at int64) loader.Event {
	a := packet.Advert{Version: 3, VRID: 7, Priority: priority, Interval: 10 * time.Millisecond, Addrs: []byte{10, 0, 0, 1}}
	m := packet.Append(nil, &a, peerAddr, group)
	return loader.Event{RxNs: at, Router: 7, Src: peerAddr, Dst: group, Reason: loader.ReasonEvent, Payload: m}
}

func TestLateLoopIsNotWrong(t *testing.T) {
	l, i, plane := newTestLoop(t, 100)
	start := l.now
	plane.events = append(plane.events, advert(200, int64(start)))
	l.turnAt(start)
	require.Equal(t, start.Add(i.router.MasterDownInterval()), i.deadline)

	// The loop sleeps for a second while the kernel sees steady adverts.
	woke := start.Add(time.Second)
	plane.last = int64(woke.Add(-5 * time.Millisecond))
	l.turnAt(woke)
	assert.Equal(t, control.Backup, i.router.State())
	assert.Equal(t, control.Instant(plane.last).Add(i.router.MasterDownInterval()), i.deadline)

	// It sleeps again, and the advert that differs is still in the ring.
	woke = woke.Add(time.Second)
	plane.events = append(plane.events, advert(210, int64(woke.Add(-time.Millisecond))))
	l.turnAt(woke)
	assert.Equal(t, control.Backup, i.router.State())

	// It wakes late and nothing is there: if the whole machine stood still, the
	// master has as long to speak as it could be silent.
	woke = woke.Add(time.Second)
	l.turnAt(woke)
	assert.Equal(t, control.Backup, i.router.State())
	end := woke.Add(i.router.MasterDownInterval())
	assert.Equal(t, end, i.deadline)
	l.judge() // for another instance, say
	assert.Equal(t, end, i.deadline)
	assert.Equal(t, uint64(1), l.stats.graces.Load())
	l.turnAt(end)
	assert.Equal(t, control.Master, i.router.State())
}

// The loop is late although the deadline has only just passed: it slept past
// another one.
func TestLateLoopGivesGrace(t *testing.T) {
	for _, tc := range []struct {
		late, after, grace time.Duration
	}{
		{lateWake, time.Millisecond, 0},
		{3 * time.Millisecond, time.Millisecond, 3 * time.Millisecond},
		{30 * time.Millisecond, time.Millisecond, 30 * time.Millisecond},
		{time.Second, time.Millisecond, 36093750 * time.Nanosecond}, // Master_Down_Interval
		{3 * time.Millisecond, 4 * time.Millisecond, 4 * time.Millisecond},
		{0, 3 * time.Millisecond, 3 * time.Millisecond},
	} {
		l, i, plane := newTestLoop(t, 100)
		plane.events = append(plane.events, advert(200, int64(l.now)))
		l.turnAt(l.now)
		now := i.deadline.Add(tc.after)
		l.planned = now.Add(-tc.late)
		l.turnAt(now)
		if tc.grace == 0 {
			assert.Equal(t, control.Master, i.router.State())
			continue
		}
		assert.Equal(t, now.Add(tc.grace), i.deadline)
		l.turnAt(i.deadline.Add(-1))
		assert.Equal(t, control.Backup, i.router.State())
		l.turnAt(now.Add(tc.grace))
		assert.Equal(t, control.Master, i.router.State())
	}
}

func TestRefusalsAreReportedOnceAndMoveNothing(t *testing.T) {
	l, i, plane := newTestLoop(t, 255)
	bad := advert(255, int64(l.now))
	bad.Payload[6] ^= 1
	deadline := i.deadline
	for range 3 {
		plane.events = append(plane.events, bad)
	}
	l.turnAt(l.now)
	assert.Len(t, l.refusals, 1)
	assert.Equal(t, uint64(3), i.shared.rejected[rejectChecksum].Load())
	assert.Equal(t, deadline, i.deadline)
	plane.events = append(plane.events, advert(0, int64(l.now)), bad)
	l.turnAt(l.now)
	assert.Len(t, l.refusals, 3, "valid again, then refused again")

	// Two bad peers in turn are two lines, not a line each time.
	other := bad
	other.Src = netip.MustParseAddr("127.0.0.10")
	for range 5 {
		plane.events = append(plane.events, other, bad)
	}
	l.turnAt(l.now)
	assert.Len(t, l.refusals, 4)
}

// No allocation for an advert sent, an event handled or a deadline judged.
func TestLoopAllocatesNothing(t *testing.T) {
	t.Run("advert sent", func(t *testing.T) {
		l, i, _ := newTestLoop(t, 255)
		assert.Zero(t, testing.AllocsPerRun(100, func() { l.turnAt(i.deadline) }))
	})
	t.Run("event handled by a master", func(t *testing.T) {
		l, _, plane := newTestLoop(t, 255)
		ev := advert(200, int64(l.now))
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			plane.events = append(plane.events, ev)
			l.turnAt(l.now + 1)
		}))
	})
	t.Run("event handled by a backup", func(t *testing.T) {
		l, _, plane := newTestLoop(t, 100)
		ev := advert(200, int64(l.now))
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			ev.RxNs++
			plane.events = append(plane.events, ev)
			l.turnAt(l.now + 1)
		}))
	})
	t.Run("deadline judged by a backup", func(t *testing.T) {
		l, i, plane := newTestLoop(t, 100)
		plane.events = append(plane.events, advert(200, int64(l.now)))
		l.turnAt(l.now)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			plane.last = int64(i.deadline) - 1
			l.turnAt(i.deadline)
		}))
		require.Equal(t, control.Backup, i.router.State())
	})
}

func BenchmarkTurnSendsAdvert(b *testing.B) {
	l, i, _ := newTestLoop(b, 255)
	b.ReportAllocs()
	for b.Loop() {
		l.turnAt(i.deadline)
	}
}

func BenchmarkTurnHandlesEvent(b *testing.B) {
	l, _, plane := newTestLoop(b, 100)
	ev := advert(200, int64(l.now))
	b.ReportAllocs()
	for b.Loop() {
		ev.RxNs++
		plane.events = append(plane.events, ev)
		l.turnAt(l.now + 1)
	}
}

func TestBroadcastOf(t *testing.T) {
	for prefix, want := range map[string]netip.Addr{
		"192.168.1.8/24": netip.MustParseAddr("192.168.1.255"),
		"10.1.2.3/8":     netip.MustParseAddr("10.255.255.255"),
		"10.1.2.1/30":    netip.MustParseAddr("10.1.2.3"),
		"10.1.2.2/31":    {},
		"10.1.2.2/32":    {},
	} {
		assert.Equal(t, want, broadcastOf(netip.MustParsePrefix(prefix)), prefix)
	}
}
