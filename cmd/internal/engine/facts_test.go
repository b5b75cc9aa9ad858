// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/loader"
)

var (
	oldMAC = [6]byte{2, 0, 0, 0, 0, 8} // of bench.port
	newMAC = [6]byte{2, 1, 1, 1, 1, 1}

	carrier = Watched{Ifindex: 7}
	source  = Watched{Ifindex: 7, Addr: ownAddr}
)

// watching is a Spec that watches its interface and its source, as they were
// when it was computed.
func watching(mac [6]byte, carrierDown, sourceDown bool) Spec {
	s := spec("A", 7, 100)
	s.Config.MAC = mac
	s.Watch = []Watched{carrier, source, {}}
	s.Config.Tracks = []control.Track{{Down: carrierDown}, {Down: sourceDown}, {Weight: 10, Down: true}}
	return s
}

// The port of a batch has the MAC that it was opened with. News of another
// found no port.
func TestNewsBeforeThePort(t *testing.T) {
	for name, open := range map[string]func(*bench) *fakeKernel{
		"program": func(b *bench) *fakeKernel { return b.kernel },
		"socket": func(b *bench) *fakeKernel {
			socket := newFakeKernel(b.tb)
			b.port.Kernel, b.port.Socket = nil, socket
			return socket
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			opened := open(b)
			b.Link(Link{Watched: carrier, MAC: newMAC})
			b.at(b.now)
			r := b.add(watching(oldMAC, false, false))
			assert.Equal(t, newMAC, b.port.MAC)
			assert.Equal(t, newMAC, opened.mac)
			assert.Equal(t, newMAC, r.router.Config().MAC)
		})
	}
}

// A router that starts, or changes, knows what is the case when its batch is
// put in place, not when the batch was computed.
func TestNewsBeforeTheBatch(t *testing.T) {
	for name, c := range map[string]struct {
		was  Spec
		news Link
		want control.State
	}{
		"carrier lost":   {watching(oldMAC, false, false), Link{Watched: carrier, Down: true}, control.Fault},
		"carrier back":   {watching(oldMAC, true, false), Link{Watched: carrier}, control.Backup},
		"source lost":    {watching(oldMAC, false, false), Link{Watched: source, Down: true}, control.Fault},
		"source back":    {watching(oldMAC, false, true), Link{Watched: source}, control.Backup},
		"another MAC":    {watching(oldMAC, false, false), Link{Watched: carrier, MAC: newMAC}, control.Backup},
		"of others":      {watching(oldMAC, false, false), Link{Watched: Watched{Ifindex: 8}, Down: true}, control.Backup},
		"MAC of another": {watching(oldMAC, false, false), Link{Watched: Watched{Ifindex: 8}, MAC: newMAC}, control.Backup},
	} {
		t.Run(name, func(t *testing.T) {
			mac := oldMAC
			if c.news.Ifindex == 7 && c.news.MAC == newMAC {
				mac = newMAC
			}
			check := func(b *bench, r *Router) {
				t.Helper()
				assert.Equal(t, c.want, r.router.State())
				assert.Equal(t, mac, r.router.Config().MAC)
				assert.Equal(t, mac, b.port.MAC)
				assert.True(t, r.router.Config().Tracks[2].Down, "what nothing meets stays down")
			}
			t.Run("start", func(t *testing.T) {
				b := newBench(t)
				b.apply(&Batch{Table: b.newTable()})
				b.Link(c.news)
				b.at(b.now)
				check(b, b.add(c.was))
				assert.Len(t, b.takeRecords(RecordTransition), 1, "it goes there at once")
			})
			t.Run("change", func(t *testing.T) {
				b := newBench(t)
				for n, w := range c.was.Watch[:2] {
					b.facts.down[w] = c.was.Config.Tracks[n].Down
				}
				r := b.add(watching(oldMAC, false, false))
				b.Link(c.news)
				b.at(b.now)
				check(b, r)
				b.takeRecords(RecordTransition)
				b.apply(&Batch{Change: []Change{{r, c.was}}})
				check(b, r)
				assert.Empty(t, b.takeRecords(RecordTransition), "the change is none of the state")
			})
		})
	}
}

// A batch that was computed while the carrier was away does not make a master
// step down that has it again.
func TestOldBatchLeavesMasterAlone(t *testing.T) {
	b := newBench(t)
	r := b.add(watching(oldMAC, false, false))
	b.Link(Link{Watched: carrier, Down: true})
	b.Link(Link{Watched: carrier})
	b.at(b.now)
	b.at(r.deadline)
	require.Equal(t, control.Master, r.router.State())
	b.sender.sent = b.sender.sent[:0]
	b.apply(&Batch{Change: []Change{{r, watching(oldMAC, true, false)}}})
	assert.Equal(t, control.Master, r.router.State())
	assert.NotContains(t, b.sender.sent, uint8(0))
}

// A stop removes addresses after the loop has ended: their news, however many,
// hold nobody up.
func TestNewsAfterTheEnd(t *testing.T) {
	b := newBench(t)
	require.True(t, b.Apply(&Batch{Quit: true}))
	require.NoError(t, b.Run(func() error { return nil }))
	told := make(chan struct{})
	go func() {
		defer close(told)
		for range 2 * len(b.links.slots) {
			b.Link(Link{Watched: source, Down: true})
		}
	}()
	select {
	case <-told:
	case <-time.After(time.Minute):
		t.Fatal("the watcher waits for a loop that has ended")
	}
}

// host is what a watcher and a reconciler know, who take turns at random.
type host struct {
	*bench
	rng   *rand.Rand
	ports map[int]*Port
	seen  []Watched // all that can be watched
}

// news changes something on the host, and tells the loop now or later.
func (h *host) news() (tell func()) {
	w := h.seen[h.rng.IntN(len(h.seen))]
	l := Link{Watched: w, Down: h.rng.IntN(2) == 0}
	if !w.Addr.IsValid() {
		l.MAC = [6]byte{2, 0, 0, 0, byte(w.Ifindex), byte(h.rng.IntN(3))}
		h.facts.mac[w.Ifindex] = l.MAC
	}
	h.facts.down[w] = l.Down
	return func() { h.Engine.Link(l) }
}

// spec is one computed from the facts of this moment.
func (h *host) spec(ifindex int) Spec {
	s := spec("A", 7, uint8(50+h.rng.IntN(100)))
	s.Config.MAC = h.facts.mac[ifindex]
	for _, w := range h.seen {
		if h.rng.IntN(2) == 0 {
			s.Watch = append(s.Watch, w)
			s.Config.Tracks = append(s.Config.Tracks, control.Track{Down: h.facts.down[w], Weight: 2 * h.rng.IntN(2)})
		}
	}
	return s
}

// compute opens ports, and makes a batch that starts or changes routers.
func (h *host) compute() *Batch {
	batch := &Batch{}
	ifindex := 7 + h.rng.IntN(2)
	for _, r := range h.routers {
		if r.Port.Ifindex == ifindex && h.rng.IntN(2) == 0 {
			batch.Change = append(batch.Change, Change{r, h.spec(ifindex)})
		}
	}
	for len(h.routers) < 8 && h.rng.IntN(2) == 0 {
		port, ok := h.ports[ifindex]
		if !ok {
			kernel := newFakeKernel(h.tb)
			kernel.mac = h.facts.mac[ifindex]
			port = &Port{Name: "eth", Ifindex: ifindex, MAC: kernel.mac, Kernel: kernel, Sender: h.sender}
			h.ports[ifindex] = port
		}
		r := NewRouter(loader.RouterID(len(h.routers)), port, &fakeSet{}, h.spec(ifindex))
		h.routers = append(h.routers, r)
		batch.Start = append(batch.Start, r)
	}
	if len(batch.Start) > 0 || h.rng.IntN(3) == 0 {
		batch.Table = h.newTable()
		batch.Table.Ports = slices.Collect(maps.Values(h.ports))
	}
	return batch
}

// sameAsFresh asserts that the loop knows what one that starts now is told.
func (h *host) sameAsFresh() {
	for _, p := range h.table.Ports {
		require.Equal(h.tb, h.facts.mac[p.Ifindex], p.MAC)
		require.Equal(h.tb, p.MAC, p.Kernel.(*fakeKernel).mac)
	}
	for _, r := range h.table.Routers {
		want := r.spec.Config
		want.MAC = h.facts.mac[r.Port.Ifindex]
		want.Tracks = slices.Clone(want.Tracks)
		for n, w := range r.spec.Watch {
			want.Tracks[n].Down = h.facts.down[w]
		}
		fresh := control.New(want)
		fresh.Step(h.now, control.Event{Kind: control.EventStartup}, nil)
		got := r.router
		require.Equal(h.tb, want, *got.Config())
		require.Equal(h.tb, fresh.Priority(), got.Priority())
		require.Equal(h.tb, fresh.State() == control.Fault, got.State() == control.Fault)
	}
}

// Whenever the facts change while a batch is computed, waits or is put in
// place: as soon as all news are taken, the loop knows what a fresh start would
// tell it. No later batch has to put it right.
func TestFactsThatChangeOnTheWay(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			b := newBench(t)
			h := &host{bench: b, rng: rand.New(rand.NewPCG(seed, 0)), ports: map[int]*Port{}, seen: []Watched{
				{Ifindex: 7}, {Ifindex: 8}, {Ifindex: 7, Addr: ownAddr}, {Ifindex: 8, Addr: ownAddr},
			}}
			for ifindex := range 2 {
				b.facts.mac[7+ifindex] = [6]byte{2, 0, 0, 0, byte(7 + ifindex), 0}
			}
			var tell []func()
			for range 30 {
				batch := h.compute()
				for range h.rng.IntN(4) {
					switch h.rng.IntN(3) {
					case 0:
						tell = append(tell, h.news())
					case 1: // the watcher tells in order, after it knows
						for _, f := range tell {
							f()
						}
						tell = nil
					case 2:
						b.at(b.now)
					}
				}
				b.apply(batch)
				for _, f := range tell {
					f()
				}
				tell = nil
				b.at(b.now)
				h.sameAsFresh()
			}
		})
	}
}
