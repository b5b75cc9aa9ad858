// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
)

// A small world: routers on a link that loses and delays, and a script of
// random faults. Nodes are driven as the daemon drives a Router: what arrived
// is delivered before a deadline is judged.

type frame struct {
	at       control.Instant
	to       int
	from     int
	priority uint8
}

type frames []frame

func (f frames) Len() int           { return len(f) }
func (f frames) Less(i, j int) bool { return f[i].at < f[j].at }
func (f frames) Swap(i, j int)      { f[i], f[j] = f[j], f[i] }
func (f *frames) Push(x any)        { *f = append(*f, x.(frame)) }
func (f *frames) Pop() any {
	old := *f
	last := old[len(old)-1]
	*f = old[:len(old)-1]
	return last
}

type node struct {
	cfg     control.Config
	router  *control.Router
	stalled control.Instant // frozen until then; 0 if it runs
	inbox   []frame         // arrived while frozen
	asleep  control.Instant // when it was frozen
	again   bool            // starts again once it has left
	// answered says that the fast detector hears from whatever master is
	// followed.
	answered bool
	owns     bool
}

type world struct {
	t        *testing.T
	rng      *rand.Rand
	now      control.Instant
	nodes    []*node
	inFlight frames
	loss     float64
	delay    time.Duration
	cut      map[int]bool // nodes off the link
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &world{t: t, rng: rng, cut: map[int]bool{}}
	interval := []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second}[rng.IntN(3)]
	version := uint8(3)
	if interval == time.Second && rng.IntN(2) == 0 {
		version = 2
	}
	n := 2 + rng.IntN(4)
	for i := range n {
		cfg := control.Config{
			VRID: 1, Version: version, Interval: interval, DownAdverts: 3,
			Priority: []uint8{1, 90, 100, 254}[rng.IntN(4)], // often equal: the address decides
			Source:   netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}),
			Tracks:   []control.Track{{}},
		}
		cfg.HoldLimit = time.Duration(rng.IntN(8)) * interval
		cfg.NoPreempt = rng.IntN(4) == 0
		if rng.IntN(4) == 0 {
			cfg.PreemptDelay = time.Duration(rng.IntN(5)) * interval
		}
		w.nodes = append(w.nodes, &node{cfg: cfg, router: control.New(cfg)})
	}
	w.delay = interval / 8
	return w
}

func (w *world) interval() time.Duration { return w.nodes[0].cfg.Interval }

func (w *world) step(i int, ev control.Event) {
	n := w.nodes[i]
	for _, a := range n.router.Step(w.now, ev, nil) {
		switch a.Kind {
		case control.ActionAdvert:
			w.send(i, a.Priority)
		case control.ActionTakeover:
			n.owns = true
		case control.ActionRelease:
			n.owns = false
		}
	}
	require.Equal(w.t, n.router.State() == control.Master, n.owns, "addresses follow the state")
}

func (w *world) send(from int, priority uint8) {
	if w.cut[from] {
		return
	}
	for to := range w.nodes {
		if to == from || w.cut[to] || w.rng.Float64() < w.loss {
			continue
		}
		at := w.now.Add(time.Duration(w.rng.Int64N(int64(w.delay))))
		heap.Push(&w.inFlight, frame{at, to, from, priority})
	}
}

func (w *world) hear(i int, f frame) {
	w.step(i, control.Event{
		Kind: control.EventAdvert, At: f.at, Priority: f.priority,
		Source: w.nodes[f.from].cfg.Source, Interval: w.interval(),
	})
}

// run moves the world to the given time.
func (w *world) run(until control.Instant) {
	for {
		next, who := until, -1
		if len(w.inFlight) > 0 && w.inFlight[0].at < next {
			next = w.inFlight[0].at
		}
		for i, n := range w.nodes {
			due, ok := n.router.Deadline()
			if n.stalled > 0 {
				due, ok = max(n.stalled, w.now), true
			}
			if ok && due < next {
				next, who = due, i
			}
		}
		w.now = max(w.now, next)
		if next >= until {
			return
		}
		if who < 0 {
			f := heap.Pop(&w.inFlight).(frame)
			if n := w.nodes[f.to]; n.stalled > 0 {
				n.inbox = append(n.inbox, f)
			} else {
				w.hear(f.to, f)
			}
			continue
		}
		w.wake(who)
	}
}

// wake is one turn of a node's loop: first what arrived, then the deadline.
func (w *world) wake(i int) {
	n := w.nodes[i]
	if n.stalled > 0 {
		w.step(i, control.Event{Kind: control.EventStall, At: n.asleep})
	}
	n.stalled = 0
	for _, f := range n.inbox {
		w.hear(i, f)
	}
	n.inbox = nil
	if master, _ := n.router.Master(); n.answered && master.IsValid() {
		w.step(i, control.Event{Kind: control.EventPeerUp, Source: master, At: w.now})
	}
	if due, ok := n.router.Deadline(); ok && due <= w.now {
		w.step(i, control.Event{Kind: control.EventExpire})
	}
	w.restart(i)
}

// restart starts a node again that has left.
func (w *world) restart(i int) {
	if n := w.nodes[i]; n.again && n.router.State() == control.Init {
		n.again = false
		w.step(i, control.Event{Kind: control.EventStartup})
	}
}

func (w *world) fault() {
	i := w.rng.IntN(len(w.nodes))
	n := w.nodes[i]
	switch w.rng.IntN(8) {
	case 0: // crash without a word, addresses gone with the host
		n.router, n.owns, n.inbox, n.stalled = control.New(n.cfg), false, nil, 0
		w.step(i, control.Event{Kind: control.EventStartup})
	case 1: // orderly restart
		n.again = true
		w.step(i, control.Event{Kind: control.EventShutdown})
		w.restart(i)
	case 2:
		w.cut[i] = !w.cut[i]
	case 3:
		w.step(i, control.Event{Kind: control.EventTrack, Down: w.rng.IntN(2) == 0})
	case 4:
		if n.stalled == 0 {
			n.asleep = w.now
			n.stalled = w.now.Add(time.Duration(w.rng.Int64N(int64(10 * w.interval()))))
		}
	case 6: // the fast detector is wrong, or right
		if master, _ := n.router.Master(); master.IsValid() && n.stalled == 0 {
			kind := [...]control.EventKind{control.EventPeerDown, control.EventPeerLeft}[w.rng.IntN(2)]
			w.step(i, control.Event{Kind: kind, Source: master})
		}
	case 7: // somebody answers for every master from now on, whatever it does, or ends that
		n.answered = !n.answered
	case 5:
		w.loss = []float64{0, 0.05, 0.3, 0.9}[w.rng.IntN(4)]
	}
}

func (w *world) heal() {
	w.loss, w.cut = 0, map[int]bool{}
	for i := range w.nodes {
		w.step(i, control.Event{Kind: control.EventTrack})
	}
}

// bound is the longest time to one master once nothing fails any more: the end
// of a stall, the longest preempt_delay, the longest hold of a master-down
// time, and twice the longest master-down time, once for the takeover and once
// for a second contender to give way.
func (w *world) bound() time.Duration {
	longest := time.Duration(0)
	for _, n := range w.nodes {
		longest = max(longest, n.cfg.PreemptDelay+n.cfg.HoldLimit+2*n.router.MasterDownInterval())
	}
	return 10*w.interval() + longest + 4*w.delay
}

func (w *world) masters() []string {
	var out []string
	for _, n := range w.nodes {
		if n.router.State() == control.Master {
			out = append(out, n.cfg.Source.String())
		}
	}
	return out
}

func TestSettledMeansOneMaster(t *testing.T) {
	seeds := uint64(2000)
	if testing.Short() {
		seeds = 200
	}
	for seed := range seeds {
		w := newWorld(t, seed)
		for i := range w.nodes {
			w.step(i, control.Event{Kind: control.EventStartup})
		}
		for range 20 {
			w.run(w.now.Add(time.Duration(w.rng.Int64N(int64(8 * w.interval())))))
			w.fault()
		}
		w.heal()
		w.run(w.now.Add(w.bound()))
		settled := w.masters()
		require.Len(t, settled, 1, "seed %d: %s", seed, w.describe())
		// And it stays so.
		for range 50 {
			w.run(w.now.Add(w.interval()))
			require.Equal(t, settled, w.masters(), "seed %d: %s", seed, w.describe())
		}
	}
}

func (w *world) describe() string {
	s := fmt.Sprintf("at %v, interval %v:", time.Duration(w.now), w.interval())
	for _, n := range w.nodes {
		s += fmt.Sprintf(" [%s %s priority %d nopreempt=%t delay=%v]",
			n.cfg.Source, n.router.State(), n.cfg.Priority, n.cfg.NoPreempt, n.cfg.PreemptDelay)
	}
	return s
}

// A backup that is stalled for any time while adverts keep coming is late,
// never wrong.
func TestStalledBackupDoesNotPromote(t *testing.T) {
	for seed := range uint64(200) {
		w := newWorld(t, seed)
		w.nodes = w.nodes[:2]
		for _, n := range w.nodes {
			n.cfg.NoPreempt = false
		}
		w.nodes[0].cfg.Priority, w.nodes[1].cfg.Priority = 200, 100
		for i, n := range w.nodes {
			n.router = control.New(n.cfg)
			w.step(i, control.Event{Kind: control.EventStartup})
		}
		w.run(w.now.Add(20 * w.interval()))
		require.Equal(t, control.Master, w.nodes[0].router.State())
		for range 20 {
			w.nodes[1].stalled = w.now.Add(time.Duration(w.rng.Int64N(int64(100 * w.interval()))))
			w.run(w.now.Add(120 * w.interval()))
			require.Equal(t, control.Backup, w.nodes[1].router.State(), "seed %d", seed)
		}
	}
}

func BenchmarkStepAdvert(b *testing.B) {
	r := control.New(control.Config{
		VRID: 1, Version: 3, Priority: 100, Interval: time.Second, DownAdverts: 3,
		Source: netip.MustParseAddr("10.0.0.1"),
	})
	var out [8]control.Action
	r.Step(0, control.Event{Kind: control.EventStartup}, nil)
	ev := control.Event{
		Kind: control.EventAdvert, Priority: 200,
		Source: netip.MustParseAddr("10.0.0.2"), Interval: time.Second,
	}
	b.ReportAllocs()
	for b.Loop() {
		ev.At++
		_ = r.Step(ev.At, ev, out[:0])
	}
}
