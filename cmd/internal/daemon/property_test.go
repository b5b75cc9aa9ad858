// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/vip"
)

// dice makes random files and hosts.
type dice struct{ *rand.Rand }

func (d dice) file() string {
	var text strings.Builder
	for n := range 1 + d.IntN(4) {
		iface := fmt.Sprintf("eth%d", d.IntN(3))
		var lines []string
		for _, line := range []string{"no_accept", "fast_detect", "version 3", "dont_track_primary", "nopreempt", "track_interface {\n  eth2\n }"} {
			if d.IntN(4) == 0 {
				lines = append(lines, line)
			}
		}
		dev := ""
		if d.IntN(4) == 0 {
			dev = fmt.Sprintf(" dev eth%d", d.IntN(3))
		}
		// VRIDs differ, names and addresses move.
		text.WriteString(instance(fmt.Sprintf("VI_%d%d", n, d.IntN(2)), iface, 10*n+50+d.IntN(2), []int{50, 51, 52, 255}[d.IntN(4)],
			fmt.Sprintf("10.%d.%d.100/24%s", n, d.IntN(2), dev), lines...))
	}
	return text.String()
}

func (d dice) links() []plan.Link {
	var links []plan.Link
	names := []int{0, 1, 2}
	if d.IntN(4) == 0 { // they are renamed
		names = d.Perm(len(names))
	}
	for n, name := range names {
		if d.IntN(5) == 0 {
			continue
		}
		l := link(10*(1+d.IntN(2))+n, fmt.Sprintf("eth%d", name))
		l.Up = d.IntN(5) > 0
		l.MAC[4] = byte(d.IntN(3))
		for a := range d.IntN(3) {
			l.Addrs = append(l.Addrs, plan.Addr{
				Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(a), byte(n), byte(1 + d.IntN(2))}), 24),
			})
		}
		if d.IntN(4) == 0 { // it is, or will be, that of an instance
			l.Addrs = append(l.Addrs, plan.Addr{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), byte(d.IntN(2)), 100}), 24)})
		}
		links = append(links, l)
	}
	return links
}

// step does something at random to the host, or to the file.
func (d dice) step(b *bench) {
	switch d.IntN(9) {
	case 0, 1:
		b.file = d.file()
		_, err := b.r.Reload(b.t.Context(), false)
		require.NoError(b.t, err, b.file)
	case 2:
		b.news(d.links()...)
	case 3: // as a flap that the watcher has seen
		for _, l := range b.facts.Links {
			if d.IntN(2) == 0 {
				b.r.inbox.interfaceGone(l.Index)
			}
		}
	case 4:
		for _, f := range b.ports {
			f.off = d.IntN(2) == 0
		}
	case 5:
		clear(b.firewall)
		b.r.inbox.firewallChanged()
	case 6:
		b.retire()
	case 7:
		name := fmt.Sprintf("eth%d", d.IntN(3))
		b.foreign[name] = !b.locks[name] && d.IntN(2) == 0
	case 8:
		seed := d.Uint32()
		b.takeover(func(s vip.Spec) bool { return crc32.Update(seed, crc32.IEEETable, []byte(fmt.Sprint(s)))%2 == 0 })
	}
	b.after(time.Duration(d.IntN(3)) * time.Second)
}

// After any sequence of files and of what happens on the host, also while it
// reconciles, with steps that fail and routers that take their time to leave,
// what there is, is what a fresh start makes, also for a master, and whether
// the kernel marks its addresses or not; and a stop leaves nothing.
func TestAnySequenceEndsLikeAFreshStart(t *testing.T) {
	seeds := uint64(150)
	if testing.Short() {
		seeds = 30
	}
	for seed := range seeds {
		bubble(t, func(t *testing.T) {
			d := dice{rand.New(rand.NewPCG(seed, 7))}
			faults := dice{rand.New(rand.NewPCG(seed, 8))} // the reconciler's
			b := newBench(t, d.file(), d.links()...)
			b.fail = func(what string) error {
				if faults.IntN(10) == 0 {
					b.facts = plan.NewFacts(faults.links())
					select {
					case b.changed <- struct{}{}:
					default:
					}
				}
				if what != "batch" && !strings.HasPrefix(what, "update") && faults.IntN(4) == 0 {
					return errTest
				}
				return nil
			}
			b.forgets = d.IntN(2) == 0
			b.slow = func(*engine.Router) bool { return faults.IntN(3) == 0 }
			b.start()
			for range 12 {
				d.step(b)
			}
			b.fail, b.slow = fails(nil), func(*engine.Router) bool { return false }
			clear(b.foreign)
			for range 3 {
				b.retire()
				b.after(longestRetry)
			}
			b.sameAsFresh()
			b.take()
			b.after(time.Hour / 2)
			require.Empty(t, b.take(), "seed %d: nothing is left to do", seed)
			require.NoError(t, b.leaves())
			require.NoError(t, b.r.closePorts())
			require.NoError(t, b.r.unlock())
			assert.Empty(t, b.ports)
			assert.Empty(t, b.sets)
			assert.Empty(t, b.firewall)
			assert.Empty(t, b.locks)
			assert.Empty(t, b.table.Routers)
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// The loop is told of the host what the plan says, when the facts are the same.
func TestLoopAndPlanJudgeAlike(t *testing.T) {
	watched := 0
	for seed := range uint64(300) {
		bubble(t, func(t *testing.T) {
			d := dice{rand.New(rand.NewPCG(seed, 9))}
			b := newBench(t, d.file(), d.links()...)
			want, _ := b.r.want()
			for id, router := range want.Routers {
				for n, w := range router.Watch {
					if w.Ifindex != 0 {
						watched++
						assert.Equal(t, router.Config.Tracks[n].Down, present{b}.Down(engine.Watched(w)), "%v %v", id, w)
					}
				}
				assert.Equal(t, router.Config.MAC, present{b}.MAC(id.Port.Ifindex))
			}
		})
	}
	assert.Positive(t, watched)
}

// What the loop is told of the host, whatever the plan says so far.
func TestPresent(t *testing.T) {
	up, down := link(2, "eth0", "10.0.0.1/24", "10.0.0.2/24"), link(3, "eth1", "10.1.0.1/24")
	down.Up = false
	fresh := link(4, "eth2", "10.2.0.1/24")
	fresh.Addrs[0].Tentative = true
	alone := link(5, "eth3")
	ours := link(6, "eth4", "10.4.0.100/24")
	ours.Addrs[0].Ours = true
	at := present{noNews{plan.NewFacts([]plan.Link{up, down, fresh, alone, ours})}}
	for _, c := range []struct {
		name string
		engine.Watched
		down bool
	}{
		{"an interface that is up", engine.Watched{Ifindex: 2}, false},
		{"one that is down", engine.Watched{Ifindex: 3}, true},
		{"one that is not there", engine.Watched{Ifindex: 9}, true},
		{"an address", engine.Watched{Ifindex: 2, Addr: netip.MustParseAddr("10.0.0.1")}, false},
		{"an address of an interface that is down", engine.Watched{Ifindex: 3, Addr: netip.MustParseAddr("10.1.0.1")}, false},
		{"one that went, and another is there", engine.Watched{Ifindex: 2, Addr: netip.MustParseAddr("10.0.0.3")}, false},
		{"the last one", engine.Watched{Ifindex: 5, Addr: netip.MustParseAddr("10.3.0.1")}, true},
		{"one that went, and a virtual one is there", engine.Watched{Ifindex: 6, Addr: netip.MustParseAddr("10.4.0.1")}, true},
		{"one that is tentative", engine.Watched{Ifindex: 4, Addr: netip.MustParseAddr("10.2.0.1")}, true},
		{"one of an interface that is not there", engine.Watched{Ifindex: 9, Addr: netip.MustParseAddr("10.9.0.1")}, true},
	} {
		assert.Equal(t, c.down, at.Down(c.Watched), c.name)
		assert.Zero(t, testing.AllocsPerRun(10, func() { at.Down(c.Watched) }), c.name)
	}
	assert.Equal(t, up.MAC, at.MAC(2))
	assert.Zero(t, at.MAC(9))
}

// noNews are interfaces that do not change.
type noNews struct{ facts *plan.Facts }

func (n noNews) Facts() *plan.Facts     { return n.facts }
func (noNews) Changed() <-chan struct{} { return nil }

// The batch belongs to the event loop, and what there is to the reconciler.
func TestBatchSharesNoTracks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0).start()
		b.changes(strings.Replace(confA, "priority 100", "priority 90", 1))
		x := b.router("A")
		b.specs[x].Config.Tracks[0].Down = true
		for _, r := range b.r.have.Routers {
			assert.False(t, r.Config.Tracks[0].Down)
		}
		require.NoError(t, b.leaves())
	})
}

// Reloads that change things leave nothing behind: no goroutine, router id,
// set, lock or memory of a batch.
func TestReloadsLeakNothing(t *testing.T) {
	eth2 := link(4, "eth2", "10.2.0.1/24")
	files := []string{
		confA + confB,
		confA,
		strings.Replace(confA, "priority 100", "priority 90\n fast_detect", 1) + instance("C", "eth2", 53, 100, "10.2.0.100/24 dev eth1", "no_accept"),
		instance("A", "eth0", 54, 100, "10.0.0.100/24") + confB,
		instance("A", "eth9", 51, 100, "10.0.0.100/24"),
	}
	bubble(t, func(t *testing.T) {
		b := newBench(t, files[0], eth0, eth1, eth2).start()
		// Each of them has been a master: the report of its release comes before
		// or after the news that it has retired.
		b.epoch = 2
		round := func() {
			for _, f := range append(files[1:], files[0]) {
				early := map[*vip.Set]bool{}
				for set := range b.sets {
					b.r.reported(vip.Report{Set: set, Epoch: 1})
					early[set] = len(early)%2 == 0
					if early[set] {
						b.r.reported(vip.Report{Set: set, Epoch: 2})
					}
				}
				b.changes(f)
				for set := range early {
					if _, stays := b.sets[set]; !stays && !early[set] {
						b.r.reported(vip.Report{Set: set, Epoch: 2})
					}
				}
			}
			b.after(time.Minute)
		}
		round()
		before, goroutines, ids, sessions := b.kept(), runtime.NumGoroutine(), len(b.r.byID), len(b.r.sessions)
		for range 100 / len(files) {
			round()
		}
		synctest.Wait()
		same(t, before, b.kept())
		assert.Equal(t, goroutines, runtime.NumGoroutine())
		assert.Len(t, b.r.byID, ids)
		assert.Len(t, b.r.sessions, sessions)
		assert.Empty(t, b.r.failed)
		assert.Len(t, b.r.inbox.signal, 0)
		assert.Nil(t, b.pending)
		b.epoch = 0
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}
