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
	"github.com/xvrrp/xvrrp/control/packet"
)

// A small world: routers on a link that loses and delays, and a script of
// random faults and reconfigurations. Nodes are driven as the daemon drives a
// Router: repetitions of the advert that is followed are kept for the next
// deadline, and what arrived is delivered before that is judged.

type frame struct {
	at control.Instant
	to int
	advert
}

// advert is what is on the wire.
type advert struct {
	source   netip.Addr
	mac      [6]byte
	priority uint8
	interval time.Duration
	addrs    string
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
	// owned is the address list that this node serves; empty: none.
	owned string
	// followed is the advert whose repetitions are not events, and arrival
	// that of the last one.
	followed advert
	arrival  control.Instant
}

type world struct {
	t        *testing.T
	rng      *rand.Rand
	now      control.Instant
	nodes    []*node
	inFlight frames
	loss     float64
	delay    time.Duration
	scale    time.Duration // the advert interval of all nodes at first
	cut      map[int]bool  // nodes off the link
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &world{t: t, rng: rng, cut: map[int]bool{}}
	interval := []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second}[rng.IntN(3)]
	version := uint8(3)
	if interval == time.Second && rng.IntN(2) == 0 {
		version = 2
	}
	// Often two that send from one address.
	addresses := 1 + rng.IntN(8)
	n := 2 + rng.IntN(4)
	for i := range n {
		cfg := control.Config{
			VRID: 1, Version: version, Interval: interval, DownAdverts: 3,
			Priority: []uint8{1, 90, 100, 254, 255}[rng.IntN(5)], // often equal: the address decides
			Source:   netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i%addresses)}),
			MAC:      [6]byte{2, 0, 0, 0, 0, byte(7 * (i + 1) % 11)},
			Addrs:    someAddrs(rng),
			Tracks:   []control.Track{{}},
		}
		cfg.HoldLimit = time.Duration(rng.IntN(8)) * interval
		cfg.NoPreempt = rng.IntN(4) == 0
		if rng.IntN(4) == 0 {
			cfg.PreemptDelay = time.Duration(rng.IntN(5)) * interval
		}
		w.nodes = append(w.nodes, &node{cfg: cfg, router: control.New(cfg)})
	}
	w.scale, w.delay = interval, interval/8
	return w
}

// someAddrs returns one of the lists of a group that is being changed: any two
// of them overlap.
func someAddrs(rng *rand.Rand) []byte {
	return [][]byte{
		addrs("10.1.0.1"), addrs("10.1.0.1", "10.1.0.2"), addrs("10.1.0.1", "10.1.0.3"),
		addrs("10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"),
	}[rng.IntN(4)]
}

// longest is the longest interval that a node has or gets, and interval the one
// that all have at first.
func (w *world) longest() time.Duration  { return 2 * w.scale }
func (w *world) interval() time.Duration { return w.scale }

func (w *world) step(i int, ev control.Event) { w.stepWith(i, ev, advert{}) }

func (w *world) stepWith(i int, ev control.Event, a advert) {
	w.act(i, w.nodes[i].router.Step(w.now, ev, nil), a)
}

// act carries actions out; heard is the advert behind them.
func (w *world) act(i int, actions []control.Action, heard advert) {
	n := w.nodes[i]
	for _, a := range actions {
		switch a.Kind {
		case control.ActionAdvert:
			w.send(i, a.Priority)
		case control.ActionTakeover, control.ActionAddresses:
			n.owned = string(n.router.Config().Addrs)
		case control.ActionRelease:
			n.owned = ""
		case control.ActionFollow:
			n.followed, n.arrival = heard, 0
		case control.ActionUnfollow:
			n.followed, n.arrival = advert{}, 0
		}
	}
	if n.router.Leaving() {
		require.NotEmpty(w.t, n.owned)
		return
	}
	want := ""
	if n.router.State() == control.Master {
		want = string(n.router.Config().Addrs)
	}
	require.Equal(w.t, want, n.owned, "addresses follow the state and the configuration")
}

func (w *world) send(from int, priority uint8) {
	if w.cut[from] {
		return
	}
	cfg := w.nodes[from].router.Config()
	a := advert{cfg.Source, cfg.MAC, priority, cfg.Interval, string(cfg.Addrs)}
	for to := range w.nodes {
		if to == from || w.cut[to] || w.rng.Float64() < w.loss {
			continue
		}
		at := w.now.Add(time.Duration(w.rng.Int64N(int64(w.delay))))
		heap.Push(&w.inFlight, frame{at, to, a})
	}
}

func (w *world) hear(i int, f frame) {
	n := w.nodes[i]
	if f.advert == n.followed {
		n.arrival = max(n.arrival, f.at)
		return
	}
	_, err := n.router.Check(f.source, f.mac, &packet.Advert{
		Version: n.cfg.Version, Priority: f.priority, Interval: f.interval, Addrs: []byte(f.addrs),
	})
	require.NoError(w.t, err)
	w.stepWith(i, control.Event{
		Kind: control.EventAdvert, At: f.at, Priority: f.priority,
		Source: f.source, MAC: f.mac, Interval: f.interval,
	}, f.advert)
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
	w.refresh(i)
	if master, _ := n.router.Master(); n.answered && w.watched(n, master) {
		w.step(i, control.Event{Kind: control.EventPeerUp, Source: master, At: w.now})
	}
	if due, ok := n.router.Deadline(); ok && due <= w.now {
		w.step(i, control.Event{Kind: control.EventExpire})
	}
	w.restart(i)
}

// refresh hands over what the kernel recorded of repetitions.
func (w *world) refresh(i int) {
	if at := w.nodes[i].arrival; at > 0 {
		w.step(i, control.Event{Kind: control.EventRefresh, At: at})
	}
}

// watched reports whether the fast detector can watch a master: not one that has
// the address of the node itself.
func (w *world) watched(n *node, master netip.Addr) bool {
	return master.IsValid() && master != n.cfg.Source
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
	switch w.rng.IntN(11) {
	case 0: // crash without a word, addresses gone with the host
		*n = node{cfg: n.cfg, router: control.New(n.cfg), answered: n.answered}
		w.step(i, control.Event{Kind: control.EventStartup})
	case 1: // orderly restart
		n.again = true
		w.step(i, control.Event{Kind: control.EventShutdown})
		w.restart(i)
	case 2:
		w.cut[i] = !w.cut[i]
	case 3:
		w.refresh(i)
		w.step(i, control.Event{Kind: control.EventTrack, Down: w.rng.IntN(2) == 0})
	case 4:
		if n.stalled == 0 {
			n.asleep = w.now
			n.stalled = w.now.Add(time.Duration(w.rng.Int64N(int64(10 * w.interval()))))
		}
	case 6: // the fast detector is wrong, or right
		if master, _ := n.router.Master(); w.watched(n, master) && n.stalled == 0 {
			kind := [...]control.EventKind{control.EventPeerDown, control.EventPeerLeft}[w.rng.IntN(2)]
			w.step(i, control.Event{Kind: kind, Source: master})
		}
	case 7: // somebody answers for every master from now on, whatever it does, or ends that
		n.answered = !n.answered
	case 8, 9:
		w.reconfigure(i)
	case 10:
		w.unchanged(i)
	case 5:
		w.loss = []float64{0, 0.05, 0.3, 0.9}[w.rng.IntN(4)]
	}
}

// reconfigure changes one thing of a node, unless it is frozen. It returns what.
func (w *world) reconfigure(i int) string {
	n := w.nodes[i]
	if n.stalled > 0 {
		return ""
	}
	cfg, what := *n.router.Config(), ""
	switch w.rng.IntN(6) {
	case 0:
		if what = "priority"; cfg.Priority != control.PriorityOwner {
			cfg.Priority = []uint8{1, 90, 100, 254}[w.rng.IntN(4)]
		}
	case 1:
		if what = "interval"; cfg.Version == 3 {
			cfg.Interval = []time.Duration{w.scale / 2, w.scale, 2 * w.scale}[w.rng.IntN(3)]
		}
	case 2:
		what, cfg.Addrs = "addresses", someAddrs(w.rng)
	case 3:
		what, cfg.NoPreempt = "nopreempt", !cfg.NoPreempt
	case 4:
		what, cfg.PreemptDelay = "preempt_delay", time.Duration(w.rng.IntN(5))*w.scale
	case 5:
		what, cfg.Source = "source", netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + w.rng.IntN(len(w.nodes)))})
	}
	n.cfg = cfg
	w.refresh(i)
	w.act(i, n.router.Reconfigure(w.now, cfg, nil), advert{})
	return what
}

// unchanged gives a node the configuration that it has: nothing happens.
func (w *world) unchanged(i int) {
	r := w.nodes[i].router
	before := *r
	require.Empty(w.t, r.Reconfigure(w.now, *r.Config(), nil))
	require.Equal(w.t, before, *r)
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
		longest = max(longest, n.cfg.PreemptDelay+n.cfg.HoldLimit)
	}
	down := 4 * max(w.longest(), time.Second/3) // Skew_Time of version 2 is up to a second
	if w.nodes[0].cfg.Version == 3 {
		down = 4 * w.longest()
	}
	return 10*w.interval() + longest + 2*down + 4*w.delay
}

// masters returns the numbers of the nodes that are MASTER.
func (w *world) masters() []int {
	var out []int
	for i, n := range w.nodes {
		if n.router.State() == control.Master {
			out = append(out, i)
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

// Once things are quiet, one node after the other is reconfigured. After each
// change there is one master again; a change of addresses, as long as the lists
// overlap, does not move it at all.
func TestReconfigureOneByOne(t *testing.T) {
	seeds := uint64(200)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		w := newWorld(t, seed)
		for i := range w.nodes {
			w.step(i, control.Event{Kind: control.EventStartup})
		}
		w.run(w.now.Add(w.bound()))
		for range 20 {
			settled := w.masters()
			require.Len(t, settled, 1, "seed %d: %s", seed, w.describe())
			what := w.reconfigure(w.rng.IntN(len(w.nodes)))
			for end := w.now.Add(w.bound()); w.now < end; {
				w.run(w.now.Add(w.interval() / 4))
				if what == "addresses" {
					require.Equal(t, settled, w.masters(), "seed %d: %s", seed, w.describe())
				}
			}
		}
	}
}

// A node that was reconfigured ends where one ends that was started with the
// configuration. Without nopreempt, and where no priority is equal, history
// does not count.
func TestReconfiguredEqualsNew(t *testing.T) {
	for seed := range uint64(200) {
		end := func(restart bool) []control.Router {
			w := newWorld(t, seed)
			for i, n := range w.nodes {
				n.cfg.NoPreempt, n.cfg.Priority = false, uint8(100+20*i)
				n.router = control.New(n.cfg)
				w.step(i, control.Event{Kind: control.EventStartup})
			}
			w.run(w.now.Add(w.bound()))
			rng := rand.New(rand.NewPCG(seed, 1))
			for i, n := range w.nodes {
				cfg := *n.router.Config()
				cfg.Priority = uint8(100 + 20*rng.IntN(5) + i)
				cfg.PreemptDelay = time.Duration(rng.IntN(3)) * w.scale
				cfg.Addrs = someAddrs(rng)
				cfg.Source = netip.AddrFrom4([4]byte{10, 0, 0, byte(20 + rng.IntN(9))})
				if cfg.Version == 3 {
					cfg.Interval = []time.Duration{w.scale / 2, w.scale, 2 * w.scale}[rng.IntN(3)]
				}
				cfg.Tracks = []control.Track{{}, {Weight: -7, Down: rng.IntN(2) == 0}}
				n.cfg = cfg
				if restart {
					n.router, n.followed, n.arrival, n.owned = control.New(cfg), advert{}, 0, ""
					w.step(i, control.Event{Kind: control.EventStartup})
				} else {
					w.refresh(i)
					w.act(i, n.router.Reconfigure(w.now, cfg, nil), advert{})
				}
				w.run(w.now.Add(time.Duration(rng.Int64N(int64(4 * w.scale)))))
			}
			w.run(w.now.Add(2 * w.bound()))
			require.Len(t, w.masters(), 1, "seed %d: %s", seed, w.describe())
			var routers []control.Router
			for _, n := range w.nodes {
				routers = append(routers, *n.router)
			}
			return routers
		}
		reconfigured, restarted := end(false), end(true)
		for i := range reconfigured {
			a, b := &reconfigured[i], &restarted[i]
			require.Equal(t, b.State(), a.State(), "seed %d node %d", seed, i)
			require.Equal(t, b.Config(), a.Config(), "seed %d node %d", seed, i)
			require.Equal(t, b.Priority(), a.Priority(), "seed %d node %d", seed, i)
			require.Equal(t, b.MasterDownInterval(), a.MasterDownInterval(), "seed %d node %d", seed, i)
			am, ap := a.Master()
			bm, bp := b.Master()
			require.Equal(t, bm, am, "seed %d node %d", seed, i)
			require.Equal(t, bp, ap, "seed %d node %d", seed, i)
		}
	}
}

// Two owners that were cut off from each other: one yields within an interval
// of the link's return, whether they share an address or not.
func TestTwoOwnersYieldWithinAnInterval(t *testing.T) {
	for seed := range uint64(200) {
		w := newWorld(t, seed)
		w.nodes = w.nodes[:2]
		for i, n := range w.nodes {
			n.cfg.Priority = control.PriorityOwner
			n.router = control.New(n.cfg)
			w.cut[i] = true
			w.step(i, control.Event{Kind: control.EventStartup})
		}
		w.run(w.now.Add(time.Duration(w.rng.Int64N(int64(5 * w.interval())))))
		require.Len(t, w.masters(), 2)
		w.cut = map[int]bool{}
		w.run(w.now.Add(w.interval() + w.delay + 1))
		require.Len(t, w.masters(), 1, "seed %d: %s", seed, w.describe())
	}
}

func (w *world) describe() string {
	s := fmt.Sprintf("at %v, interval %v:", time.Duration(w.now), w.interval())
	for _, n := range w.nodes {
		s += fmt.Sprintf(" [%s %x %s priority %d interval=%v nopreempt=%t delay=%v]",
			n.cfg.Source, n.cfg.MAC, n.router.State(), n.cfg.Priority, n.cfg.Interval, n.cfg.NoPreempt, n.cfg.PreemptDelay)
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
