// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/loader"
)

// What did not change does not notice a splice: timers, state, counters.
func TestSpliceLeavesOthersAlone(t *testing.T) {
	b := newBench(t)
	master := b.add(spec("A", 7, 255))
	backup := b.add(spec("B", 8, 100))
	b.kernel.events = append(b.kernel.events, advert(1, 8, 200, b.now))
	b.at(b.now.Add(time.Millisecond))
	require.Equal(t, control.Backup, backup.router.State())
	due, down, sent := master.deadline, backup.deadline, master.Published.Sent.Load()
	b.add(spec("C", 9, 100))
	assert.Equal(t, due, master.deadline)
	assert.Equal(t, down, backup.deadline)
	assert.Equal(t, sent, master.Published.Sent.Load())
	b.at(due)
	assert.Equal(t, sent+1, master.Published.Sent.Load(), "it goes on")
	for b.now < down {
		b.at(b.planned)
	}
	assert.Equal(t, control.Master, backup.router.State(), "so does the other")
}

// A preempt_delay that runs is not begun again.
func TestSpliceKeepsAPreemptDelay(t *testing.T) {
	const delay = 300 * time.Millisecond
	preempts := func(splice bool) time.Duration {
		b := newBench(t)
		s := spec("A", 7, 200)
		s.Config.PreemptDelay = delay
		r := b.add(s)
		began := b.now
		for n := 0; r.router.State() != control.Master; n++ {
			require.Less(t, n, 200)
			b.arrive(100, b.now)
			b.at(b.now.Add(10 * time.Millisecond))
			if splice && n == 10 {
				b.add(spec("B", 8, 100))
			}
		}
		return b.now.Sub(began)
	}
	alone := preempts(false)
	assert.Greater(t, alone, delay)
	assert.Equal(t, alone, preempts(true))
}

// Adverts and orders that wait when a table is replaced are carried out, and
// the port goes on sending afterwards.
func TestSpliceWithQueuedWork(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 255))
	set := r.Set.(*fakeSet)
	sent := b.sender.flushed
	b.arrive(90, b.now) // the owner answers, and announces
	b.routers = append(b.routers, NewRouter(1, b.port, &fakeSet{}, spec("B", 8, 100)))
	b.apply(&Batch{Table: b.newTable(), Start: b.routers[1:]})
	assert.Equal(t, sent+1, b.sender.flushed)
	assert.Equal(t, 1, set.announced)
	b.at(r.deadline)
	assert.Equal(t, sent+2, b.sender.flushed, "the next advert leaves, too")
	assert.Zero(t, b.sender.queued)
}

// A router that is stopped resigns, serves until its successor could be there,
// and is reported retired only then.
func TestStoppedRouterRetires(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 255))
	b.takeRecords(RecordRetired)
	b.apply(&Batch{Stop: []*Router{r}})
	assert.Equal(t, uint64(1), r.Published.ZeroSent.Load())
	assert.Equal(t, control.Master, r.router.State())
	assert.Equal(t, loader.RoleLeaving, b.kernel.role[0])
	assert.Empty(t, b.takeRecords(RecordRetired))
	b.at(r.deadline)
	assert.Equal(t, control.Init, r.router.State())
	retired := b.takeRecords(RecordRetired)
	require.Len(t, retired, 1)
	assert.Same(t, r, retired[0].Router)
	assert.Equal(t, uint64(2), r.epoch)
	assert.Equal(t, uint64(2), r.Set.(*fakeSet).epoch, "the mirror of the epoch is exact")
}

// A router with a new Spec keeps its state, and its next advert carries the
// new priority.
func TestChangedRouterKeepsItsState(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 100))
	b.at(r.deadline)
	require.Equal(t, control.Master, r.router.State())
	since := r.Published.State().Since
	b.apply(&Batch{Change: []Change{{r, spec("renamed", 7, 120)}}})
	assert.Equal(t, "renamed", r.Name())
	assert.Equal(t, since, r.Published.State().Since)
	b.at(r.deadline)
	assert.Equal(t, uint8(120), b.sender.sent[len(b.sender.sent)-1])
	assert.Equal(t, uint8(120), r.Published.State().Priority)
}

// An event of a router that is gone moves nobody.
func TestEventOfARemovedRouter(t *testing.T) {
	b := newBench(t)
	r := b.add(spec("A", 7, 100))
	b.apply(&Batch{Stop: []*Router{r}})
	b.routers = nil
	b.apply(&Batch{Table: b.newTable()})
	b.kernel.events = append(b.kernel.events, advert(0, 7, 200, b.now), advert(5, 7, 200, b.now))
	b.at(b.now)
	assert.Equal(t, control.Init, r.router.State())
}

// Run ends once a batch with Quit was applied and every router is INIT, and
// the reader gets every record, numbered without a gap.
func TestRunEndsInOrder(t *testing.T) {
	b := newBench(t)
	b.clock = func() int64 { return time.Now().UnixNano() }
	var got []Record
	read := make(chan error, 1)
	progress := make(chan struct{}, 1)
	go func() {
		read <- b.ReadRecords(func(r *Record) { got = append(got, *r) }, func() {
			select {
			case progress <- struct{}{}:
			default:
			}
		})
	}()
	ran := make(chan error, 1)
	go func() { ran <- b.Run(func() error { return nil }) }()
	var routers []*Router
	for n := range 20 {
		s := spec(fmt.Sprint(n), uint8(n+1), 100)
		r := NewRouter(loader.RouterID(n), b.port, &fakeSet{}, s)
		routers = append(routers, r)
		table := &Table{Kernels: []Kernel{b.kernel}, Rings: []Receiver{b.kernel}, Ports: []*Port{b.port}, Routers: append([]*Router(nil), routers...)}
		require.True(t, b.Apply(&Batch{Number: uint64(n + 1), Table: table, Start: []*Router{r}}))
		for b.Applied() < uint64(n+1) {
			<-progress
		}
	}
	require.True(t, b.Apply(&Batch{Number: 21, Stop: routers, Quit: true}))
	require.NoError(t, <-ran)
	require.NoError(t, b.StopRecords())
	require.NoError(t, <-read)
	retired := 0
	for n, r := range got {
		assert.Equal(t, uint64(n+1), r.Seq)
		if r.Kind == RecordRetired {
			retired++
		}
	}
	assert.Equal(t, 20, retired)
	for _, r := range routers {
		assert.Equal(t, control.Init, r.Published.State().State)
	}
}

// What the loop has done is known also if the records of it found no room.
func TestProgressIsNotLost(t *testing.T) {
	b := newBench(t)
	for vrid := range uint8(3) {
		b.add(spec("A", vrid+1, 100))
	}
	b.Engine.records = newSPSC[Record](1)
	before := b.Progress()
	b.apply(&Batch{Stop: b.routers})
	assert.Positive(t, b.Stats.Lost.Load())
	assert.Equal(t, b.batches, b.Applied())
	assert.Equal(t, before+4, b.Progress(), "a batch and three routers")
	for _, r := range b.routers {
		assert.True(t, r.Retired())
	}
}

// A reader that is too slow sees a gap in the numbers.
func TestLostRecordsLeaveAGap(t *testing.T) {
	b := newBench(t)
	b.Engine.records = newSPSC[Record](4)
	for range 6 {
		b.emit(&Record{})
	}
	assert.Equal(t, uint64(2), b.Stats.Lost.Load())
	var r Record
	for b.Engine.records.pop(&r) {
	}
	assert.Equal(t, uint64(4), r.Seq)
	b.emit(&Record{})
	require.True(t, b.Engine.records.pop(&r))
	assert.Equal(t, uint64(7), r.Seq)
}

// A load is never a mixture of two stores.
func TestCellIsReadAsAWhole(t *testing.T) {
	var c cell[Peers]
	c.init()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for n := uint64(1); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			var v Peers
			for k := range v {
				v[k].Count, v[k].Last = n, int64(n)
			}
			c.store(&v)
			// A loop publishes now and then. One that only published would keep
			// readers out.
			for range 100 {
				runtime.Gosched()
			}
		}
	})
	for range 2000 {
		v := c.load()
		for k := range v {
			require.Equal(t, v[0].Count, v[k].Count)
			require.Equal(t, int64(v[k].Count), v[k].Last)
		}
	}
	close(stop)
	wg.Wait()
}

// News of the host reaches the routers that watch it, and the probes.
func TestLinkNews(t *testing.T) {
	b := newBench(t)
	s := spec("A", 7, 100)
	s.Config.Tracks = []control.Track{{}, {}}
	s.Watch = []Watched{{Ifindex: 7}, {Ifindex: 7, Addr: ownAddr}}
	r := b.add(s)
	for _, w := range s.Watch {
		b.Link(Link{Watched: w, Down: true})
		b.at(b.now)
		assert.Equal(t, control.Fault, r.router.State())
		b.Link(Link{Watched: w})
		b.at(b.now)
		assert.Equal(t, control.Backup, r.router.State())
	}
	b.Link(Link{Watched: Watched{Ifindex: 8}, Down: true})
	b.at(b.now)
	assert.Equal(t, control.Backup, r.router.State())
	mac := [6]byte{2, 1, 1, 1, 1, 1}
	b.Link(Link{Watched: Watched{Ifindex: 7}, MAC: mac})
	b.at(b.now)
	assert.Equal(t, mac, b.kernel.mac)
	assert.Equal(t, mac, b.port.MAC)
}

// What is pushed is popped, once and in order, or was refused.
func TestSPSC(t *testing.T) {
	q := newSPSC[uint64](8)
	const total = 50_000
	var refused uint64
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for n := uint64(1); n <= total; n++ {
			if !q.push(&n) {
				refused++
			}
		}
	})
	var last, got, v uint64
	take := func() {
		for q.pop(&v) {
			require.Greater(t, v, last)
			last = v
			got++
		}
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		take()
	}
	wg.Wait()
	take()
	assert.Equal(t, uint64(total), got+refused)
	assert.Positive(t, got)
}

// A splice leaves a session alone; it goes on for the router that is left when
// another that shared it is removed, and ends with the last.
func TestSpliceKeepsSessions(t *testing.T) {
	b, r := newDetectBench(t)
	s := spec("B", 8, 100)
	s.FastDetect = r.spec.FastDetect
	other := b.add(s)
	b.kernel.events = append(b.kernel.events, advert(1, 8, 200, b.now))
	b.at(b.now)
	session := r.session
	require.Same(t, session, other.session)
	up := func() {
		t.Helper()
		state, _, _ := session.State()
		assert.Equal(t, bfd.Up, state)
		assert.Zero(t, b.kernel.closed)
	}
	up()
	b.apply(&Batch{Stop: []*Router{other}})
	b.routers = b.routers[:1]
	sessions := b.table.Sessions
	table := b.newTable()
	table.Sessions = sessions
	b.apply(&Batch{Table: table})
	assert.Nil(t, other.session)
	assert.Equal(t, int32(1), session.Current().Users)
	up()
	sent := session.Sent.Load()
	b.answered(10)
	assert.Greater(t, session.Sent.Load(), sent, "it is probed")
	up()
	b.apply(&Batch{Stop: []*Router{r}})
	assert.Equal(t, 1, b.kernel.closed)
	assert.Equal(t, bfd.AdminDown, session.Current().State)
}

// A Spec that changes what a session is made of ends it; the next advert of
// the master, an event again, opens another.
func TestChangedSpecOpensTheSessionAnew(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"source":      func(s *Spec) { s.Config.Source = netip.MustParseAddr("192.0.2.2") },
		"fast detect": func(s *Spec) { s.FastDetect.Interval = 2 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			b, r := newDetectBench(t)
			s := r.spec
			change(&s)
			b.apply(&Batch{Change: []Change{{r, s}}})
			require.Equal(t, control.Backup, r.router.State())
			assert.Nil(t, r.session)
			assert.Equal(t, 1, b.kernel.closed)
			assert.Zero(t, b.kernel.last[0], "no template")
			b.arrive(200, b.now)
			b.at(b.now)
			require.NotNil(t, r.session)
			assert.Equal(t, s.Config.Source, r.session.spec.Src)
			assert.Equal(t, s.FastDetect.Interval, r.session.Current().Interval)
		})
	}
}

// A backup that wanted fast detection before there was a prober gets its session
// with the next advert, which would have met its template.
func TestProberThatComesLater(t *testing.T) {
	b := newBench(t)
	s := spec("A", 7, 100)
	s.FastDetect = FastDetect{Enabled: true, Interval: time.Millisecond, Multiplier: 3}
	r := b.add(s)
	table := b.newTable()
	table.Prober = nil
	b.apply(&Batch{Table: table})
	b.arrive(200, b.now)
	b.at(b.now)
	require.Nil(t, r.session)
	b.kernel.last[0] = int64(b.now)

	b.apply(&Batch{Table: b.newTable()})
	assert.Zero(t, b.kernel.last[0], "no template")
	b.arrive(200, b.now)
	b.at(b.now)
	assert.NotNil(t, r.session)
	b.kernel.last[0] = int64(b.now)
	b.apply(&Batch{Table: b.newTable()})
	assert.NotZero(t, b.kernel.last[0], "a prober that stays is no news")
}
