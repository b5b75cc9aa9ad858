// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// fakeKernel hands out prepared events, and answers as a kernel would that
// sees, or does not see, a peer.
type fakeKernel struct {
	fd      int
	events  []loader.Event
	last    map[loader.RouterID]int64
	role    map[loader.RouterID]loader.Role
	mac     [6]byte
	renewed int64
	answer  loader.Answer
	opened  []loader.Session
	closed  int
}

func newFakeKernel(tb testing.TB) *fakeKernel {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = unix.Close(fd) })
	return &fakeKernel{
		fd: fd, events: make([]loader.Event, 0, 8), last: map[loader.RouterID]int64{}, role: map[loader.RouterID]loader.Role{},
		opened: make([]loader.Session, 0, 64),
	}
}

func (k *fakeKernel) FD() int { return k.fd }
func (k *fakeKernel) Drain(fn func(*loader.Event)) int {
	n := len(k.events)
	for i := range k.events[:n] {
		fn(&k.events[i])
	}
	k.events = k.events[:0]
	return n
}
func (k *fakeKernel) Install(id loader.RouterID, e *loader.Event) bool {
	k.last[id] = e.RxNs
	return true
}
func (k *fakeKernel) Clear(id loader.RouterID)                  { k.last[id] = 0 }
func (k *fakeKernel) LastArrival(id loader.RouterID) int64      { return k.last[id] }
func (k *fakeKernel) SetRole(id loader.RouterID, r loader.Role) { k.role[id] = r }
func (k *fakeKernel) Renew(until int64)                         { k.renewed = until }
func (k *fakeKernel) SetMAC(_ int, mac [6]byte)                 { k.mac = mac }
func (k *fakeKernel) OpenSession(s loader.Session)              { k.opened = append(k.opened[:0], s) }
func (k *fakeKernel) CloseSession(uint32)                       { k.closed++ }
func (k *fakeKernel) Answer(uint32) loader.Answer               { return k.answer }

// fakeSender counts adverts by priority.
type fakeSender struct {
	queued  int
	flushed int // that the kernel took
	sent    []uint8
	refuses syscall.Errno
}

func (s *fakeSender) Queue(_ *transport.Frame, priority uint8) bool {
	if s.queued == 4 {
		return false
	}
	s.queued++
	if len(s.sent) < cap(s.sent) {
		s.sent = append(s.sent, priority)
	}
	return true
}

func (s *fakeSender) Flush() (sent, refused int, err error) {
	n := s.queued
	s.queued = 0
	if s.refuses != 0 && n > 0 {
		return 0, n, s.refuses
	}
	s.flushed += n
	return n, 0, nil
}

type fakeProber struct{ sent int }

func (p *fakeProber) Frames(*[bfd.Ports][]byte, *transport.ProbeSpec) {}
func (p *fakeProber) Send(int, []byte) bool {
	p.sent++
	return true
}

// fakeFacts is a host on which nothing is down but what is said to be.
type fakeFacts struct {
	down map[Watched]bool
	mac  map[int][6]byte
}

func newFakeFacts() *fakeFacts {
	return &fakeFacts{down: map[Watched]bool{}, mac: map[int][6]byte{}}
}

func (f *fakeFacts) Down(w Watched) bool     { return f.down[w] }
func (f *fakeFacts) MAC(ifindex int) [6]byte { return f.mac[ifindex] }

// fakeSet follows the epoch as vip.Set does.
type fakeSet struct {
	epoch      uint64
	announced  int
	held       bool
	onTakeover func()
}

func (s *fakeSet) Takeover() {
	if s.onTakeover != nil {
		s.onTakeover()
	}
	if s.epoch&1 == 0 {
		s.epoch++
	}
}
func (s *fakeSet) Release() {
	if s.epoch&1 == 1 {
		s.epoch++
	}
}
func (s *fakeSet) Announce()    { s.announced++ }
func (s *fakeSet) Hold(on bool) { s.held = on }

var (
	ownAddr  = netip.MustParseAddr("192.0.2.1")
	peerAddr = netip.MustParseAddr("192.0.2.9")
	group    = netip.MustParseAddr("224.0.0.18")
	vips     = []byte{10, 0, 0, 1}
)

const testStart = control.Instant(1e12)

// bench is an engine with one port and fakes, on a clock of its own.
type bench struct {
	*Engine
	tb      testing.TB
	kernel  *fakeKernel
	sender  *fakeSender
	prober  *fakeProber
	facts   *fakeFacts
	port    *Port
	routers []*Router
	batches uint64
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	b := &bench{tb: tb, kernel: newFakeKernel(tb), sender: &fakeSender{sent: make([]uint8, 0, 64)}, prober: &fakeProber{}, facts: newFakeFacts()}
	var err error
	b.Engine, err = New(Options{Lease: time.Second, Records: 1024, Clock: func() int64 { return int64(b.now) }, Facts: b.facts})
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, b.Close()) })
	b.now = testStart
	b.port = &Port{Name: "eth0", Ifindex: 7, Kernel: b.kernel, Sender: b.sender, MAC: [6]byte{2, 0, 0, 0, 0, 8}}
	return b
}

// spec is that of a version 3 router with adverts every 10 ms.
func spec(name string, vrid, priority uint8) Spec {
	a := packet.Advert{Version: 3, VRID: vrid, Interval: 10 * time.Millisecond, Addrs: vips}
	return Spec{
		Name: name,
		Config: control.Config{
			VRID: vrid, Version: 3, Priority: priority, Interval: 10 * time.Millisecond, DownAdverts: 3,
			Source: ownAddr, Addrs: vips, HoldLimit: time.Second,
		},
		Frame: transport.NewFrame(a, ownAddr, group),
	}
}

// add starts a router in a batch of its own.
func (b *bench) add(s Spec) *Router {
	r := NewRouter(loader.RouterID(len(b.routers)), b.port, &fakeSet{}, s)
	b.routers = append(b.routers, r)
	b.apply(&Batch{Table: b.newTable(), Start: []*Router{r}})
	return r
}

func (b *bench) newTable() *Table {
	t := &Table{
		Kernels: []Kernel{b.kernel}, Rings: []Receiver{b.kernel}, Ports: []*Port{b.port},
		Routers: append([]*Router(nil), b.routers...), Prober: b.prober,
	}
	for n := range b.routers {
		if n < len(b.table.Sessions) {
			t.Sessions = append(t.Sessions, b.table.Sessions[n])
			continue
		}
		t.Sessions = append(t.Sessions, NewSession(uint32(n)+1))
	}
	return t
}

func (b *bench) apply(batch *Batch) {
	b.batches++
	batch.Number = b.batches
	require.True(b.tb, b.Apply(batch))
	b.iterate(b.now, nil)
}

// Link tells the loop what is the case now, as the watcher does.
func (b *bench) Link(l Link) {
	b.facts.down[l.Watched] = l.Down
	if !l.Addr.IsValid() && l.MAC != [6]byte{} {
		b.facts.mac[l.Ifindex] = l.MAC
	}
	b.Engine.Link(l)
}

// at runs one iteration at a time.
func (b *bench) at(now control.Instant) { b.iterate(now, nil) }

// arrive makes an advert of the peer wait in the ring.
func (b *bench) arrive(priority uint8, at control.Instant) {
	b.kernel.events = append(b.kernel.events, advert(0, 7, priority, at))
}

func advert(id loader.RouterID, vrid, priority uint8, at control.Instant) loader.Event {
	a := packet.Advert{Version: 3, VRID: vrid, Priority: priority, Interval: 10 * time.Millisecond, Addrs: vips}
	m := packet.Append(nil, &a, peerAddr, group)
	return loader.Event{
		Router: id, RxNs: int64(at), Src: peerAddr, Dst: group, MAC: [6]byte{2, 0, 0, 0, 0, 9},
		Reason: loader.ReasonEvent, Payload: m,
	}
}

// records takes what the loop told.
func (b *bench) takeRecords(kind RecordKind) []Record {
	var out []Record
	var r Record
	for b.Engine.records.pop(&r) {
		if r.Kind == kind {
			out = append(out, r)
		}
	}
	return out
}

func TestLateLoopIsNotWrong(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 100))
	start := b.now
	b.arrive(200, start)
	b.at(start)
	require.Equal(t, start.Add(r.router.MasterDownInterval()), r.deadline)

	// The loop sleeps for a second while the kernel sees steady adverts.
	woke := start.Add(time.Second)
	b.kernel.last[0] = int64(woke.Add(-5 * time.Millisecond))
	b.at(woke)
	assert.Equal(t, control.Backup, r.router.State())
	assert.Equal(t, control.Instant(b.kernel.last[0]).Add(r.router.MasterDownInterval()), r.deadline)

	// It sleeps again, and the advert that differs is still in the ring.
	woke = woke.Add(time.Second)
	b.arrive(210, woke.Add(-time.Millisecond))
	b.at(woke)
	assert.Equal(t, control.Backup, r.router.State())

	// It wakes late and nothing is there: if the whole machine stood still, the
	// master has as long to speak as it could be silent.
	woke = woke.Add(time.Second)
	b.at(woke)
	assert.Equal(t, control.Backup, r.router.State())
	end := woke.Add(r.router.MasterDownInterval())
	assert.Equal(t, end, r.deadline)
	b.expireDue() // for another router, say
	assert.Equal(t, end, r.deadline)
	assert.Equal(t, uint64(1), b.Stats.Graces.Load())
	b.at(end)
	assert.Equal(t, control.Master, r.router.State())
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
		b := newBench(t)
		r := b.add(spec("A", 7, 100))
		b.arrive(200, b.now)
		b.at(b.now)
		now := r.deadline.Add(tc.after)
		b.planned = now.Add(-tc.late)
		b.at(now)
		if tc.grace == 0 {
			assert.Equal(t, control.Master, r.router.State())
			continue
		}
		assert.Equal(t, now.Add(tc.grace), r.deadline)
		b.at(r.deadline.Add(-1))
		assert.Equal(t, control.Backup, r.router.State())
		b.at(now.Add(tc.grace))
		assert.Equal(t, control.Master, r.router.State())
	}
}

func TestRejectsAreReportedOnceAndMoveNothing(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 255))
	b.takeRecords(RecordRetired)
	bad := advert(0, 7, 255, b.now)
	bad.Payload[6] ^= 1
	deadline := r.deadline
	for range 3 {
		b.kernel.events = append(b.kernel.events, bad)
	}
	b.at(b.now)
	assert.Len(t, b.takeRecords(RecordRejected), 1)
	assert.Equal(t, uint64(3), r.Published.Rejected[packet.RejectChecksum].Load())
	assert.Equal(t, deadline, r.deadline)
	b.arrive(0, b.now)
	b.kernel.events = append(b.kernel.events, bad)
	b.at(b.now)
	assert.Len(t, b.takeRecords(RecordRejected), 1, "valid again, then refused again")

	// Two bad peers in turn are two records, not one each time.
	other := bad
	other.Src = netip.MustParseAddr("192.0.2.10")
	for range 5 {
		b.kernel.events = append(b.kernel.events, other, bad)
	}
	b.at(b.now)
	assert.Len(t, b.takeRecords(RecordRejected), 1)
}

// No allocation for an advert sent, an event handled or a deadline acted on.
func TestLoopAllocatesNothing(t *testing.T) {
	t.Run("advert sent", func(t *testing.T) {
		b := newBench(t)
		r := b.add(spec("A", 7, 255))
		assert.Zero(t, testing.AllocsPerRun(100, func() { b.at(r.deadline) }))
	})
	t.Run("event handled by a master", func(t *testing.T) {
		b := newBench(t)
		b.add(spec("A", 7, 255))
		ev := advert(0, 7, 200, b.now)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			b.kernel.events = append(b.kernel.events, ev)
			b.at(b.now + 1)
		}))
	})
	t.Run("event handled by a backup", func(t *testing.T) {
		b := newBench(t)
		b.add(spec("A", 7, 100))
		ev := advert(0, 7, 200, b.now)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			ev.RxNs++
			b.kernel.events = append(b.kernel.events, ev)
			b.at(b.now + 1)
		}))
	})
	t.Run("deadline of a backup", func(t *testing.T) {
		b := newBench(t)
		r := b.add(spec("A", 7, 100))
		b.arrive(200, b.now)
		b.at(b.now)
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			b.kernel.last[0] = int64(r.deadline) - 1
			b.at(r.deadline)
		}))
		require.Equal(t, control.Backup, r.router.State())
	})
}

// Adverts do not wait until a full ring is drained.
func TestAdvertsLeaveWhileTheRingIsDrained(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 255))
	sent := r.Published.Sent.Load()
	clock := b.now
	b.clock = func() int64 {
		clock = clock.Add(5 * time.Millisecond) // each look at the clock is that much later
		return int64(clock)
	}
	lower := advert(0, 7, 0, b.now)
	lower.Payload[6] ^= 1 // refused: it moves nothing
	for range 3 * drainSlice {
		b.kernel.events = append(b.kernel.events, lower)
	}
	b.drain()
	assert.Equal(t, sent+1, r.Published.Sent.Load())
	assert.Zero(t, b.sender.queued, "it left")
}

// A host that does not send is noticed, once, and again when it does.
func TestRefusedAdvertsAreReported(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 255))
	b.takeRecords(RecordRetired)
	b.sender.refuses = syscall.EPERM
	for range 3 {
		b.at(r.deadline)
	}
	failed := b.takeRecords(RecordSendFailed)
	require.Len(t, failed, 1)
	assert.Equal(t, syscall.EPERM, failed[0].Errno)
	assert.Equal(t, uint64(3), b.port.SendErrors.Load())
	b.sender.refuses = 0
	b.at(r.deadline)
	b.at(r.deadline)
	assert.Len(t, b.takeRecords(RecordSendRecovered), 1)
}

// A master that slept sends nothing before it has seen what arrived.
func TestSuspendedMasterLooksFirst(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 100))
	b.at(r.deadline)
	require.Equal(t, control.Master, r.router.State())
	sent := r.Published.Sent.Load()
	b.at(b.now.Add(5 * time.Second))
	assert.Equal(t, sent, r.Published.Sent.Load())
	assert.Equal(t, uint64(1), b.Stats.Suspensions.Load())
	b.at(b.planned + 1)
	assert.Equal(t, uint64(1), b.Stats.Suspensions.Load(), "waking a little late is no suspension")
	b.at(b.now.Add(5 * time.Second))
	sent = r.Published.Sent.Load()
	b.arrive(200, b.now)
	b.at(b.now.Add(200 * time.Microsecond))
	assert.Equal(t, control.Backup, r.router.State())
	assert.Equal(t, sent, r.Published.Sent.Load(), "it yields without a word")
}

// While a router that slept listens, its set is held, and no other. It is let go
// after the order of a router that yields.
func TestSetOfASleeperIsHeld(t *testing.T) {
	b := newBench(t)
	patient := spec("A", 7, 100)
	patient.Config.NoPreempt = true
	r := b.add(patient)
	set, other := &fakeSet{}, &fakeSet{}
	r.Set = set
	b.add(spec("B", 8, 100)).Set = other
	master := func() {
		for r.router.State() != control.Master {
			b.at(r.deadline)
		}
		require.False(t, set.held)
		b.at(b.now.Add(5 * time.Second))
		require.True(t, set.held, "it listens for one interval")
		b.at(b.now.Add(time.Millisecond))
		assert.False(t, other.held, "it has judged")
		assert.True(t, set.held)
	}
	master()
	b.arrive(90, b.now)
	b.at(b.now.Add(time.Millisecond))
	require.Equal(t, control.Backup, r.router.State())
	assert.False(t, set.held)
	assert.Zero(t, set.epoch&1, "it is released first")

	master()
	b.at(r.deadline)
	assert.False(t, set.held, "nobody replaced it")
	assert.Equal(t, uint64(1), set.epoch&1)
}

// Whoever sees that the loop sleeps on sees its orders, too.
func TestPlanned(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 100))
	set := &fakeSet{}
	r.Set = set
	assert.Equal(t, int64(b.planned), b.Stats.Planned.Load())
	was := b.Stats.Planned.Load()
	set.onTakeover = func() { assert.Equal(t, was, b.Stats.Planned.Load()) }
	for r.router.State() != control.Master {
		was = b.Stats.Planned.Load()
		b.at(r.deadline)
	}
	assert.Equal(t, int64(b.planned), b.Stats.Planned.Load())
	assert.Greater(t, b.planned, b.now)
}

// heard is what arrived before the routers ran.
type heard struct {
	since   control.Instant
	adverts []loader.Event
}

func (h heard) Since() int64 { return int64(h.since) }

func (h heard) Drain(fn func(*loader.Event)) int {
	for i := range h.adverts {
		fn(&h.adverts[i])
	}
	return len(h.adverts)
}

// Routers that start count from when the host began to listen, and know the
// adverts that it heard since. Those that the ring has, too, are not taken twice,
// and those that it alone has are taken before a timer ends.
func TestStartCountsWhatWasHeard(t *testing.T) {
	const mdi = 36093750 * time.Nanosecond
	at := func(ms float64) control.Instant { return testStart.Add(time.Duration(ms * float64(time.Millisecond))) }
	for name, tc := range map[string]struct {
		since control.Instant
		heard []loader.Event
		ring  []loader.Event
		down  control.Instant
		count uint64
	}{
		"nothing":          {at(-20), nil, nil, at(-20).Add(mdi), 0},
		"for long enough":  {at(-300), nil, nil, at(10).Add(mdi % (10 * time.Millisecond)), 0},
		"perhaps not all":  {0, nil, nil, at(0).Add(mdi), 0},
		"the master":       {at(-20), []loader.Event{advert(0, 1, 200, at(-3))}, nil, at(-3).Add(mdi), 1},
		"a lower priority": {at(-20), []loader.Event{advert(0, 1, 50, at(-3))}, nil, at(-20).Add(mdi), 1},
		"another router's": {at(-20), []loader.Event{advert(7, 1, 200, at(-3))}, nil, at(-20).Add(mdi), 0},
		"also in the ring": {
			at(-20), []loader.Event{advert(0, 1, 200, at(-13)), advert(0, 1, 200, at(-3))},
			[]loader.Event{advert(0, 1, 200, at(-13))}, at(-3).Add(mdi), 2,
		},
		"only in the ring": {
			at(-300), []loader.Event{advert(0, 1, 200, at(-13))}, []loader.Event{advert(0, 1, 200, at(-1))}, at(-1).Add(mdi), 2,
		},
	} {
		b := newBench(t)
		r := NewRouter(0, b.port, &fakeSet{}, spec("VI_1", 1, 100))
		b.routers = append(b.routers, r)
		b.kernel.events = tc.ring
		b.apply(&Batch{Table: b.newTable(), Start: []*Router{r}, Heard: heard{tc.since, tc.heard}})
		assert.Equal(t, control.Backup, r.router.State(), name)
		assert.Equal(t, tc.down, r.deadline, name)
		assert.Equal(t, tc.count, r.Published.Received.Load(), name)
	}
}

// A loop that has long to wait gives its processor up, and wakes all the same.
func TestLongWait(t *testing.T) {
	b := newBench(t)
	rests := func() bool {
		info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", b.resting))
		require.NoError(t, err)
		return strings.Contains(string(info), "tfd:")
	}
	patient := spec("VI_1", 1, 100)
	patient.Config.Interval = time.Second
	b.add(patient)
	require.NoError(t, unix.TimerfdSettime(b.timer, 0, &unix.ItimerSpec{}, nil)) // it knows another clock
	readCounter(b.wakeup)                                                        // of the batch
	require.True(t, b.long())
	for name, end := range map[string]func(){
		"news":  func() { kick(b.wakeup) },
		"frame": func() { kick(b.kernel.fd) },
	} {
		done := make(chan error)
		go func() { done <- b.wait() }()
		require.Eventually(t, rests, 10*time.Second, time.Millisecond, name)
		end()
		require.NoError(t, <-done, name)
		assert.Equal(t, 1, b.ready, name)
		assert.False(t, rests(), name)
		readCounter(int(b.events[0].Fd))
	}
	b.planned = b.now.Add(10 * time.Millisecond)
	assert.False(t, b.long(), "the loop wakes soon")
	b.planned, b.lease = b.now.Add(time.Second), 100*time.Millisecond
	assert.False(t, b.long(), "the lease would run out")
	b.lease = time.Second
	b.planned = b.now.Add(time.Second)
	require.True(t, b.long())
	kick(b.wakeup)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = b.wait() }))
	hasty := b.add(spec("VI_2", 2, 100))
	b.planned = b.now.Add(time.Second)
	assert.False(t, b.long(), "a peer of a router would not wait for a late loop")
	b.apply(&Batch{Change: []Change{{Router: hasty, Spec: patient}}})
	b.planned = b.now.Add(time.Second)
	assert.True(t, b.long(), "a reload made it patient")
}

func BenchmarkIterationSendsAdvert(b *testing.B) {
	x := newBench(b)
	r := x.add(spec("A", 7, 255))
	b.ReportAllocs()
	for b.Loop() {
		x.at(r.deadline)
	}
}

func BenchmarkIterationHandlesEvent(b *testing.B) {
	x := newBench(b)
	x.add(spec("A", 7, 100))
	ev := advert(0, 7, 200, x.now)
	b.ReportAllocs()
	for b.Loop() {
		ev.RxNs++
		x.kernel.events = append(x.kernel.events, ev)
		x.at(x.now + 1)
	}
}

// A router that is not due costs a look at two numbers in each iteration.
func BenchmarkIteration(b *testing.B) {
	for _, routers := range []int{1, 250, 1000} {
		for _, due := range []bool{false, true} {
			b.Run(fmt.Sprintf("routers=%d/due=%t", routers, due), func(b *testing.B) {
				x := newBench(b)
				var started []*Router
				for n := range routers {
					s := spec("", 7, 255)
					s.Config.Interval = time.Hour
					if n == 0 {
						s.Config.Interval = 10 * time.Millisecond
					}
					started = append(started, NewRouter(loader.RouterID(n), x.port, &fakeSet{}, s))
				}
				x.routers = started
				x.apply(&Batch{Table: x.newTable(), Start: started})
				b.ReportAllocs()
				for b.Loop() {
					if due {
						x.at(started[0].deadline)
					} else {
						x.at(x.now)
					}
				}
			})
		}
	}
}
