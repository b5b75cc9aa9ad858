// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"container/heap"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// A small world: event loops on a link that loses and delays, and a script of
// random faults and batches. It is the world of control's property tests with
// the loop and its kernel side in it.

// onWire is an advert on its way to a node.
type onWire struct {
	at control.Instant
	to int
	loader.Event
}

type wire []onWire

func (w wire) Len() int           { return len(w) }
func (w wire) Less(i, j int) bool { return w[i].at < w[j].at }
func (w wire) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *wire) Push(x any)        { *w = append(*w, x.(onWire)) }
func (w *wire) Pop() any {
	old := *w
	last := old[len(old)-1]
	*w = old[:len(old)-1]
	return last
}

// templateKernel keeps repetitions of the template to itself, as the program
// does.
type templateKernel struct {
	*fakeKernel
	template loader.Event // without payload: none
}

func (k *templateKernel) Install(id loader.RouterID, e *loader.Event) bool {
	k.template = *e // an event is valid during the call only
	return k.fakeKernel.Install(id, e)
}

func (k *templateKernel) Clear(id loader.RouterID) {
	k.template = loader.Event{}
	k.fakeKernel.Clear(id)
}

// arrived reports whether the loop has to know of an advert.
func (k *templateKernel) arrived(e loader.Event) bool {
	t := &k.template
	if t.Src == e.Src && t.MAC == e.MAC && bytes.Equal(t.Payload, e.Payload) {
		k.last[0] = e.RxNs
		return false
	}
	k.events = append(k.events, e)
	return true
}

// wireSender puts adverts on the link of the world.
type wireSender struct {
	w      *world
	n      int
	queued []loader.Event
}

func (s *wireSender) Queue(_ *transport.Frame, priority uint8) bool {
	cfg := s.w.nodes[s.n].router.spec.Config
	a := packet.Advert{
		Version: cfg.Version, VRID: cfg.VRID, Priority: priority, Interval: cfg.Interval, Addrs: cfg.Addrs,
	}
	s.queued = append(s.queued, loader.Event{
		Src: cfg.Source, Dst: group, MAC: s.w.nodes[s.n].port.MAC, Reason: loader.ReasonEvent,
		Payload: packet.Append(nil, &a, cfg.Source, group),
	})
	return true
}

func (s *wireSender) Flush() (sent, refused int, err error) {
	for _, ev := range s.queued {
		s.w.send(s.n, ev)
	}
	sent, s.queued = len(s.queued), nil
	return sent, 0, nil
}

type loopNode struct {
	*bench
	kernel *templateKernel
	router *Router
	spec   Spec
	// stalled is when it wakes again; 0: it runs.
	stalled control.Instant
	// stopping: it starts again once it is retired.
	stopping bool
}

type world struct {
	t        *testing.T
	rng      *rand.Rand
	now      control.Instant
	turns    int // of all loops at now
	nodes    []*loopNode
	inFlight wire
	loss     float64
	interval time.Duration
	cut      map[int]bool
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &world{t: t, rng: rng, now: testStart, cut: map[int]bool{}}
	w.interval = []time.Duration{20 * time.Millisecond, 100 * time.Millisecond, time.Second}[rng.IntN(3)]
	version := uint8(3)
	if w.interval == time.Second && rng.IntN(2) == 0 {
		version = 2
	}
	addresses := 1 + rng.IntN(8) // often two that send from one address
	for i := range 2 + rng.IntN(4) {
		s := Spec{Name: "VI_1", Watch: []Watched{{Ifindex: 7}}, Config: control.Config{
			VRID: 7, Version: version, Interval: w.interval, DownAdverts: 3,
			Priority: []uint8{1, 90, 100, 254, 255}[rng.IntN(5)],
			Source:   netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i%addresses)}),
			MAC:      [6]byte{2, 0, 0, 0, 0, byte(i + 1)},
			Addrs:    someAddrs(rng),
			Tracks:   []control.Track{{}},
		}}
		s.Config.HoldLimit = time.Duration(rng.IntN(8)) * w.interval
		s.Config.NoPreempt = rng.IntN(4) == 0
		w.nodes = append(w.nodes, &loopNode{spec: s})
	}
	for i := range w.nodes {
		w.boot(i)
	}
	return w
}

// someAddrs returns one of the lists of a group that is being changed: any two
// of them overlap.
func someAddrs(rng *rand.Rand) []byte {
	list := []byte{10, 1, 0, 1, 10, 1, 0, 2, 10, 1, 0, 3}
	return list[:4*(1+rng.IntN(3))]
}

// boot makes a node anew, as after a crash.
func (w *world) boot(i int) {
	n := w.nodes[i]
	n.bench = newBench(w.t)
	n.clock = func() int64 { return int64(w.now) }
	n.kernel = &templateKernel{fakeKernel: n.bench.kernel}
	n.port.Kernel, n.port.Sender, n.port.MAC = n.kernel, &wireSender{w: w, n: i}, n.spec.Config.MAC
	n.stalled, n.stopping = 0, false
	w.start(i)
}

// start makes a router of a node's Spec and starts it.
func (w *world) start(i int) {
	n := w.nodes[i]
	n.router = NewRouter(0, n.port, &fakeSet{}, n.spec)
	n.routers = []*Router{n.router}
	w.apply(i, &Batch{Table: n.newTable(), Start: n.routers})
}

func (n *loopNode) newTable() *Table {
	t := n.bench.newTable()
	t.Kernels, t.Rings = []Kernel{n.kernel}, []Receiver{n.kernel}
	return t
}

func (w *world) apply(i int, b *Batch) {
	require.True(w.t, w.nodes[i].Apply(b))
	w.iterate(i)
}

// iterate is one iteration of a node's loop.
func (w *world) iterate(i int) {
	n := w.nodes[i]
	n.at(w.now)
	set := n.router.Set.(*fakeSet)
	require.Equal(w.t, n.router.epoch, set.epoch)
	require.Equal(w.t, n.router.router.State() == control.Master, set.epoch&1 == 1, "addresses follow the state")
	retired := n.takeRecords(RecordRetired)
	require.LessOrEqual(w.t, len(retired), 1)
	if len(retired) > 0 {
		require.True(w.t, n.stopping)
		n.stopping = false
		w.start(i)
	}
}

func (w *world) send(from int, ev loader.Event) {
	if w.cut[from] {
		return
	}
	for to := range w.nodes {
		if to == from || w.cut[to] || w.rng.Float64() < w.loss {
			continue
		}
		at := w.now.Add(time.Duration(w.rng.Int64N(int64(w.interval / 8))))
		ev.RxNs = int64(at)
		heap.Push(&w.inFlight, onWire{at, to, ev})
	}
}

// run moves the world to the given time.
func (w *world) run(until control.Instant) {
	for {
		next, who := until, -1
		if len(w.inFlight) > 0 {
			next = min(next, w.inFlight[0].at)
		}
		for i, n := range w.nodes {
			if due := max(n.planned, n.stalled, w.now); due < next {
				next, who = due, i
			}
		}
		if w.turns++; next > w.now {
			w.now, w.turns = next, 0
		}
		require.Less(w.t, w.turns, 1000, "a loop goes round for nothing")
		if next >= until {
			return
		}
		if who >= 0 {
			w.nodes[who].stalled = 0
			w.iterate(who)
			continue
		}
		f := heap.Pop(&w.inFlight).(onWire)
		if n := w.nodes[f.to]; n.kernel.arrived(f.Event) && n.stalled == 0 {
			w.iterate(f.to)
		}
	}
}

func (w *world) fault() {
	i := w.rng.IntN(len(w.nodes))
	n := w.nodes[i]
	if n.stalled > 0 {
		return
	}
	switch w.rng.IntN(10) {
	case 0: // crash without a word
		w.boot(i)
	case 1:
		if !n.stopping {
			n.stopping = true
			w.apply(i, &Batch{Stop: n.routers})
		}
	case 2:
		w.cut[i] = !w.cut[i]
	case 3:
		w.link(i, w.rng.IntN(2) == 0)
	case 4:
		n.stalled = w.now.Add(time.Duration(w.rng.Int64N(int64(10 * w.interval))))
	case 5:
		w.loss = []float64{0, 0.05, 0.3, 0.9}[w.rng.IntN(4)]
	case 6: // a splice that changes nothing
		deadline, state := n.router.deadline, n.router.router.State()
		if w.now < n.next {
			w.apply(i, &Batch{Table: n.newTable()})
			require.Equal(w.t, state, n.router.router.State())
			require.Equal(w.t, deadline, n.router.deadline)
		}
	case 7:
		n.spec.Config.MAC[4]++
		n.Link(Link{Watched: Watched{Ifindex: 7}, Down: n.router.router.Config().Tracks[0].Down, MAC: n.spec.Config.MAC})
		w.iterate(i)
	default:
		w.change(i)
	}
}

func (w *world) link(i int, down bool) {
	n := w.nodes[i]
	n.spec.Config.Tracks = []control.Track{{Down: down}}
	n.Link(Link{Watched: Watched{Ifindex: 7}, Down: down})
	w.iterate(i)
}

// change gives a router another Spec.
func (w *world) change(i int) {
	n := w.nodes[i]
	cfg := &n.spec.Config
	switch w.rng.IntN(6) {
	case 0:
		if cfg.Priority != control.PriorityOwner {
			cfg.Priority = []uint8{1, 90, 100, 254}[w.rng.IntN(4)]
		}
	case 1:
		if cfg.Version == 3 {
			cfg.Interval = []time.Duration{w.interval / 2, w.interval, 2 * w.interval}[w.rng.IntN(3)]
		}
	case 2:
		cfg.Addrs = someAddrs(w.rng)
	case 3:
		cfg.NoPreempt = !cfg.NoPreempt
	case 4:
		cfg.PreemptDelay = time.Duration(w.rng.IntN(5)) * w.interval
	case 5:
		cfg.Source = netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + w.rng.IntN(len(w.nodes)))})
	}
	w.apply(i, &Batch{Change: []Change{{n.router, n.spec}}})
}

// bound is the longest time to one master once nothing fails any more, see
// control's property tests; a loop that was late waits for up to another
// Master_Down_Interval.
func (w *world) bound() time.Duration {
	longest := time.Duration(0)
	for _, n := range w.nodes {
		longest = max(longest, n.spec.Config.PreemptDelay+n.spec.Config.HoldLimit)
	}
	down := 4 * max(2*w.interval, time.Second/3) // Skew_Time of version 2 is up to a second
	if w.nodes[0].spec.Config.Version == 3 {
		down = 8 * w.interval
	}
	return 11*w.interval + longest + 3*down
}

func (w *world) masters() (out []int) {
	for i, n := range w.nodes {
		if n.router.router.State() == control.Master {
			out = append(out, i)
		}
	}
	return out
}

func (w *world) describe() string {
	s := fmt.Sprintf("after %v, interval %v:", w.now.Sub(testStart), w.interval)
	for _, n := range w.nodes {
		c := n.router.router.Config()
		s += fmt.Sprintf(" [%s %x %s priority %d interval=%v nopreempt=%t delay=%v tracks=%v]",
			c.Source, c.MAC, n.router.router.State(), c.Priority, c.Interval, c.NoPreempt, c.PreemptDelay, c.Tracks)
	}
	return s
}

// Whatever failed and was changed: once it is quiet there is one master, and it
// stays.
func TestSettledMeansOneMaster(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for range 20 {
				w.run(w.now.Add(time.Duration(w.rng.Int64N(int64(8 * w.interval)))))
				w.fault()
			}
			w.loss, w.cut = 0, map[int]bool{}
			for i := range w.nodes {
				w.link(i, false)
			}
			w.run(w.now.Add(w.bound()))
			settled := w.masters()
			require.Len(t, settled, 1, w.describe())
			for range 20 {
				w.run(w.now.Add(w.interval))
				require.Equal(t, settled, w.masters(), w.describe())
			}
		})
	}
}
