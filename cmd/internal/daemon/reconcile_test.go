// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/release"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

// growing are the times at which a step is tried whose first attempt, at 0,
// fails.
func growing(n int) (out []time.Duration) {
	at, delay := time.Duration(0), firstRetry
	for range n {
		out = append(out, at)
		at += delay
		delay = min(2*delay, longestRetry)
	}
	return out
}

// distinct drops attempts at the same moment: one follows at once if a step of
// the same round succeeded.
func distinct(at []time.Duration) (out []time.Duration) {
	for _, d := range at {
		if len(out) == 0 || out[len(out)-1] != d {
			out = append(out, d)
		}
	}
	return out
}

// A port that cannot be opened is tried again, later and later; its router
// waits in FAULT and says why, and starts when it opens. Others do not notice.
func TestPortThatCannotBeOpened(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.fail = fails(errTest, "open eth0")
		b.start()
		assert.True(t, b.ready)
		other := b.router("B")
		for range 2 {
			a := b.status()["A"]
			assert.Equal(t, "open eth0: test", a.Fault)
			assert.Zero(t, a.Port.Ifindex, "it has nothing to send on")
			assert.Empty(t, b.status()["B"].Fault)
			b.after(10 * time.Minute)
		}
		want := growing(20)
		assert.Equal(t, want, distinct(b.at["open eth0"])[:20])
		assert.Equal(t, longestRetry, want[19]-want[18])
		assert.Equal(t, 1, b.logged("open eth0: test\"\n"), b.log.String())
		assert.Equal(t, 1, b.logged("vrrp_instance A waits in FAULT"))

		b.fail = fails(nil)
		b.after(longestRetry)
		a := b.status()["A"]
		assert.Empty(t, a.Fault)
		assert.Equal(t, 2, a.Port.Ifindex)
		assert.Same(t, other, b.router("B"))
		assert.Len(t, b.table.Routers, 2, "the one in FAULT is gone")
		b.take()
		b.after(time.Hour / 2)
		assert.Empty(t, b.take(), "nothing is tried any more")
		require.NoError(t, b.leaves())
	})
}

// Whatever step fails is tried again, later and later, and logged once. It
// ends nothing and holds nothing else up.
func TestStepsAreTriedAgain(t *testing.T) {
	lower := instance("A", "eth0", 51, 90, "10.0.0.100/24")
	for _, tc := range []struct{ step, before, after string }{
		{"tell eth0 of A", confB, confA + confB},
		{"tell eth0 of A", confA, lower + confB},
		{"change eth0", confA, instance("A", "eth0", 51, 100, "10.0.0.100/24", "fast_detect") + confB},
		{"firewall", confA, instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept") + confB},
	} {
		t.Run(tc.step, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, tc.before, eth0, eth1).start()
				b.after(time.Minute)
				b.since = time.Now()
				b.at = map[string][]time.Duration{}
				b.fail = fails(errTest, tc.step)
				b.changes(tc.after)
				assert.NotNil(t, b.status()["B"].Router, "the others run")
				b.after(5 * time.Minute)
				assert.Equal(t, growing(12), distinct(b.at[tc.step])[:12])
				assert.Equal(t, 1, b.logged("a step failed"), b.log.String())
				b.fail = fails(nil)
				b.after(longestRetry)
				b.sameAsFresh()
				b.fail = fails(errTest, tc.step)
				if tc.step == "tell eth0 of A" {
					b.changes(instance("A", "eth0", 51, 80, "10.0.0.100/24") + confB)
					assert.Equal(t, 2, b.logged("a step failed"), "it came back")
				}
				b.fail = fails(nil)
				require.NoError(t, b.leaves())
			})
		})
	}
}

// News do not make the delay grow: many can come in a moment.
func TestNewsDoNotDelayRetries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.fail = fails(errTest, "tell eth0 of A")
		b.start()
		for range 20 {
			b.news(eth0, eth1)
		}
		b.at = map[string][]time.Duration{}
		b.after(firstRetry)
		assert.Len(t, b.at["tell eth0 of A"], 1)
		b.fail = fails(nil)
		require.NoError(t, b.leaves())
	})
}

// A right that is missing at the start ends the daemon; later it is a step that
// fails.
func TestMissingRight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.fail = fails(fs.ErrPermission, "open eth1")
		b.start()
		require.ErrorIs(t, <-b.end, fs.ErrPermission)
		assert.False(t, b.ready)
		assert.Empty(t, b.ports, "it has left")
		assert.Empty(t, b.sets)
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		b.fail = fails(fs.ErrPermission, "open eth1")
		b.changes(confA + confB)
		b.after(time.Minute)
		assert.Contains(t, b.status()["B"].Fault, "permission")
		b.fail = fails(nil)
		b.after(longestRetry)
		assert.Empty(t, b.status()["B"].Fault)
		require.NoError(t, b.leaves())
	})
}

// An id is used again once its router has retired and the loop has a table
// without it: an event of the old number finds no other router.
func TestRouterIDs(t *testing.T) {
	confC := instance("C", "eth0", 53, 100, "10.0.0.103/24")
	confD := instance("D", "eth0", 54, 100, "10.0.0.104/24")
	confE := instance("E", "eth0", 55, 100, "10.0.0.105/24")
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		a := b.router("A").ID
		b.slow = func(*engine.Router) bool { return true }
		b.changes(confB + confC)
		assert.NotEqual(t, a, b.router("C").ID, "A serves on")
		b.changes(confB + confC + confD)
		assert.NotEqual(t, a, b.router("D").ID, "A serves on")
		assert.Contains(t, b.of(b.port("eth0")).routers, a, "its port does, too")

		b.held = true
		b.retire()
		require.NotNil(t, b.pending, "a table without A")
		assert.Len(t, b.pending.Table.Routers, 3)
		assert.True(t, b.r.byID[a], "the loop still has A")
		assert.NotContains(t, b.of(b.port("eth0")).routers, a)
		b.release()
		assert.False(t, b.r.byID[a])
		b.changes(confB + confC + confD + confE)
		assert.Equal(t, a, b.router("E").ID)
		assert.Len(t, b.r.byID, 4)
		b.slow = func(*engine.Router) bool { return false }
		require.NoError(t, b.leaves())
	})
}

// A router that could not be started holds no id.
func TestRouterIDOfFailedStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.fail = fails(errTest, "tell eth0 of A")
		b.start()
		b.after(time.Minute)
		assert.Equal(t, []bool{false, true}, b.r.byID, "it is free again after each attempt")
		assert.Len(t, b.sets, 1)
		b.fail = fails(nil)
		require.NoError(t, b.leaves())
	})
}

// What a reload changes reaches the loop in one batch, and what follows from it
// is done when that is in place.
func TestOneBatch(t *testing.T) {
	eth2 := link(4, "eth2", "10.2.0.1/24")
	confC := instance("C", "eth2", 53, 100, "10.2.0.100/24")
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1, eth2).start()
		a, other := b.router("A"), b.router("B")
		b.slow = func(r *engine.Router) bool { return r == other }
		b.take()
		b.held = true
		b.file = instance("A", "eth0", 51, 90, "10.0.0.101/24") + confC
		answer := make(chan error, 1)
		go func() {
			_, err := b.r.Reload(b.t.Context(), false)
			answer <- err
		}()
		synctest.Wait()
		assert.Equal(t, []string{"open eth2", "tell eth2 of C", "tell eth0 of A", "batch"}, b.take(), "and then it waits")
		assert.Empty(t, answer)
		n := len(b.batches)
		b.release()
		require.NoError(t, <-answer)
		first := b.batches[n]
		assert.Equal(t, []*engine.Router{other}, first.Stop)
		require.Len(t, first.Change, 1)
		assert.Same(t, a, first.Change[0].Router)
		assert.Equal(t, []*engine.Router{b.router("C")}, first.Start)
		assert.Len(t, first.Table.Routers, 3, "the one that leaves is there")
		assert.Equal(t, []string{"update 1"}, b.take())

		b.retire()
		assert.Equal(t, []string{"batch", "batch", "close eth1"}, b.take(), "the loop gives the port up first")
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}

// What takes the kernel long for each interface is done once the routers run, one
// at a time: other work is done in between.
func TestPortsAreCompletedAfterTheStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.later = true
		b.start()
		done := b.take()
		batch, first := slices.Index(done, "batch"), slices.IndexFunc(done, func(s string) bool { return strings.HasPrefix(s, "complete") })
		assert.Positive(t, batch)
		assert.Greater(t, first, batch)
		assert.ElementsMatch(t, []string{"complete eth0", "complete eth1"}, done[first:])
		b.after(10 * pathCheck)
		assert.Empty(t, b.take(), "and not again")
		b.of(b.port("eth0")).off = true
		b.after(pathCheck)
		assert.Equal(t, []string{"attach eth0", "complete eth0"}, b.take())
		require.NoError(t, b.leaves())
	})
}

// fakeListener hears adverts on some interfaces.
type fakeListener struct {
	ports  []int
	heard  map[loader.RouterID]string
	closed int
}

func (l *fakeListener) Drain(func(*loader.Event)) int { return 0 }
func (l *fakeListener) Since() int64                  { return 7 }

func (l *fakeListener) SetRouter(id loader.RouterID, at plan.Identity, r *plan.Router) bool {
	l.heard[id] = r.Name
	return slices.Contains(l.ports, at.Port.Ifindex)
}

func (l *fakeListener) Close() error {
	l.closed++
	return nil
}

// The routers of the start count from when the daemon began to listen, if it
// did so for all of them. Those that start later do not.
func TestRoutersCountFromTheBeginning(t *testing.T) {
	for name, tc := range map[string]struct {
		ports []int
		heard bool
	}{
		"all heard":     {[]int{eth0.Index, eth1.Index}, true},
		"one not heard": {[]int{eth0.Index}, false},
	} {
		bubble(t, func(t *testing.T) {
			b := newBench(t, confA+confB, eth0, eth1)
			l := &fakeListener{ports: tc.ports, heard: map[loader.RouterID]string{}}
			b.r.listener = l
			b.start()
			first := b.batches[0]
			assert.Equal(t, tc.heard, first.Heard != nil, name)
			for _, n := range []string{"A", "B"} {
				if tc.heard {
					assert.Equal(t, n, l.heard[b.router(n).ID], name)
				}
			}
			b.changes(confA)
			b.changes(confA + confB)
			last := b.batches[len(b.batches)-1]
			require.Len(t, last.Start, 1, name)
			assert.Nil(t, last.Heard, name)
			assert.Equal(t, 1, l.closed, name)
			require.NoError(t, b.leaves())
		})
	}
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0)
		l := &fakeListener{ports: []int{eth0.Index}, heard: map[loader.RouterID]string{}}
		b.r.listener = l
		b.start()
		assert.NotNil(t, b.batches[0].Heard, "B waits in FAULT, and counts from when it leaves that")
		require.NoError(t, b.leaves())
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1)
		l := &fakeListener{ports: []int{eth0.Index}, heard: map[loader.RouterID]string{}}
		b.r.listener = l
		b.fail = fails(errTest, "open eth0")
		b.start()
		assert.Equal(t, 1, l.closed, "it does not listen for long")
		require.NoError(t, b.leaves())
	})
}

// A loop that has ended takes no batch: nobody waits for it.
func TestLoopThatEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		b.held = true
		b.file = confA + confB
		go func() { _, _ = b.r.Reload(b.t.Context(), false) }()
		synctest.Wait()
		require.NotNil(t, b.pending)
		close(b.r.loopDone)
		require.NoError(t, <-b.end)
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		b.ended = true
		b.changes(confA + confB)
		close(b.r.loopDone)
		require.NoError(t, <-b.end)
	})
}

// A loop that failed orders no release: the addresses of all its routers go
// without, and no others.
func TestSetsOfALoopThatFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		b.slow = func(*engine.Router) bool { return true }
		b.changes(confA)
		assert.Len(t, b.sets, 2, "B serves on")
		b.ended = true
		close(b.r.loopDone)
		require.NoError(t, <-b.end)
		b.r.removeSets()
		assert.Empty(t, b.sets)
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		require.NoError(t, b.leaves())
		b.r.removeSets() // the host would refuse a set twice
	})
}

// A stop ends when every router has left, or when its time is over.
func TestLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		b.slow = func(r *engine.Router) bool { return r.Name() == "A" }
		b.since = time.Now()
		b.stop()
		b.after(2 * time.Second)
		assert.Empty(t, b.end, "A serves until its successor is there")
		assert.NotNil(t, b.port("eth0"))
		assert.Nil(t, b.port("eth1"), "nobody uses it")
		b.retire()
		require.NoError(t, <-b.end)
		assert.Empty(t, b.ports)
		assert.Empty(t, b.sets)
		assert.Equal(t, 2*time.Second, time.Since(b.since))
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		b.slow = func(r *engine.Router) bool { return r.Name() == "A" }
		b.since = time.Now()
		require.ErrorContains(t, b.leaves(), "not every virtual router has left in time")
		assert.Equal(t, leaveTime, time.Since(b.since))
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		b.slow = func(*engine.Router) bool { return true }
		b.stop()
		synctest.Wait()
		close(b.r.loopDone)
		require.NoError(t, <-b.end)
	})
}

// A stop tries again what fails, for as long as it has, and tells what it could
// not do; a right that is missing does not come.
func TestLeaveTriesAgain(t *testing.T) {
	old := link(3, "eth1", "10.1.0.77/24")
	old.Addrs[0].Ours = true
	const step = "remove 1 leftovers"
	for _, tc := range []struct {
		name  string
		err   error
		until time.Duration // it fails
		took  time.Duration
	}{
		{"for a moment", errTest, 600 * time.Millisecond, 3 * firstRetry},
		{"for good", errTest, time.Hour, leaveTime},
		{"for want of a right", fs.ErrPermission, time.Hour, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, confA, eth0, old)
				b.fail = fails(errTest, step)
				b.start()
				began := time.Now()
				b.fail = func(what string) error {
					if what == step && time.Since(began) < tc.until {
						return tc.err
					}
					return nil
				}
				err := b.leaves()
				assert.Equal(t, tc.took, time.Since(began))
				assert.Empty(t, b.ports)
				if tc.until < leaveTime {
					require.NoError(t, err)
					assert.Len(t, b.leftovers, 1)
					return
				}
				require.ErrorIs(t, err, tc.err)
				assert.NotContains(t, err.Error(), "in time")
			})
		})
	}
}

// What happens to an interface during the stop starts nothing.
func TestInterfaceGoesDuringTheStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		b.slow = func(r *engine.Router) bool { return r.Name() == "A" }
		b.stop()
		synctest.Wait()
		n := len(b.batches)
		b.facts = plan.NewFacts([]plan.Link{eth0})
		b.r.inbox.interfaceGone(eth1.Index)
		synctest.Wait()
		b.retire()
		require.NoError(t, <-b.end)
		for _, batch := range b.batches[n:] {
			assert.Empty(t, batch.Start)
		}
		assert.Empty(t, b.ports)
	})
}

// Findings about the host are told once, and again when they come back.
func TestFindingsAreToldOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const text = "vrrp_instance A waits in FAULT: there is no interface eth0"
		b := newBench(t, confA+confB, eth1).start()
		b.news(eth1, link(9, "dummy0"))
		b.news(eth1)
		b.changes(b.file)
		assert.Equal(t, 1, b.logged(text))
		b.news(eth0, eth1)
		b.news(eth1)
		assert.Equal(t, 2, b.logged(text), "it is gone again")
		b.file = confB
		_, err := b.r.Reload(b.t.Context(), true)
		require.NoError(t, err)
		synctest.Wait()
		b.news(eth1, link(9, "dummy0"))
		assert.Equal(t, 2, b.logged(text), "a plan changes nothing")
		require.NoError(t, b.leaves())
	})
}

// Programs and memberships go with an interface: its port is closed and opened
// anew, also if it is back with its index before anybody looks, and also if a
// master on it takes its time to leave.
func TestInterfaceIsBackAtOnce(t *testing.T) {
	for name, slow := range map[string]bool{"a backup": false, "a master": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, confA+confB, eth0, eth1).start()
				b.slow = func(r *engine.Router) bool { return slow && r.Port.Ifindex == eth0.Index }
				port, a, other := b.port("eth0"), b.router("A"), b.router("B")
				b.r.inbox.interfaceGone(eth0.Index)
				synctest.Wait()
				if slow {
					b.news(eth0, eth1)
					assert.NotSame(t, a, b.router("A"), "it leaves")
					b.retire()
				}
				require.NotNil(t, b.port("eth0"))
				assert.NotSame(t, port, b.port("eth0"), "the old one hears nobody")
				assert.NotSame(t, a, b.router("A"))
				assert.Same(t, b.port("eth0").Engine, b.router("A").Port)
				assert.Same(t, other, b.router("B"))
				assert.Zero(t, b.logged("there is no interface"), "it is there")
				b.sameAsFresh()
				b.slow = func(*engine.Router) bool { return false }
				require.NoError(t, b.leaves())
			})
		})
	}
}

// What a predecessor attached goes once, when every port is open that is wanted:
// until then one may take it over. What another daemon has stays.
func TestUnusedProgramsAreDropped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.unused, b.foreign["lan0"] = []string{"lan0", "lan1"}, true
		b.start()
		assert.Equal(t, 1, b.dropped)
		assert.Empty(t, b.keeps)
		assert.Equal(t, []string{"lan0"}, b.unused)
		b.fail = fails(errTest, "open eth1")
		b.r.inbox.interfaceGone(eth1.Index)
		b.after(longestRetry)
		b.changes(confA)
		require.NoError(t, b.leaves())
		assert.Equal(t, 1, b.dropped, "once")
	})
	// What is on an interface that cannot be opened may be taken over later.
	for name, opened := range map[string]bool{"opened": true, "no longer wanted": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, confA+confB, eth0, eth1)
				b.unused = []string{"lan1"}
				b.fail = fails(errTest, "open eth1")
				b.start()
				assert.Equal(t, 1, b.dropped)
				assert.Equal(t, map[int]bool{eth1.Index: true}, b.keeps)
				assert.Empty(t, b.unused)
				b.after(longestRetry)
				assert.Equal(t, 1, b.dropped, "nothing is new")
				if opened {
					b.fail = fails(nil)
					b.after(longestRetry)
				} else {
					b.changes(confA)
				}
				assert.Equal(t, 2, b.dropped)
				assert.Empty(t, b.keeps)
				require.NoError(t, b.leaves())
				assert.Equal(t, 2, b.dropped)
			})
		})
	}
}

// An interface that was renamed is another port, which is opened when the old
// one is closed: the loader knows both by one index, so the close would take the
// programs of the new one away.
func TestInterfaceIsRenamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conf := instance("A", "lan0", 51, 100, "10.0.0.100/24")
		before, after := eth0, eth0
		before.AltNames, after.AltNames = []string{"lan0"}, []string{"lan0"}
		after.Name = "eth7"
		b := newBench(t, conf, before).start()
		b.slow = func(*engine.Router) bool { return true }
		b.take()
		b.news(after)
		assert.Equal(t, []string{"batch"}, b.take(), "a master serves until it has left")
		b.slow = func(*engine.Router) bool { return false }
		b.retire()
		steps := b.take()
		closed, opened := slices.Index(steps, "close eth0"), slices.Index(steps, "open eth7")
		require.GreaterOrEqual(t, closed, 0, steps)
		assert.Greater(t, opened, closed, steps)
		assert.Nil(t, b.port("eth0"))
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}

// A program that something took off is put back; where that fails, the
// interface is opened again.
func TestProgramTakenOff(t *testing.T) {
	displaced := func(b *bench) (out []string) {
		for _, e := range b.r.journal.After(0) {
			if e.Kind == journal.Displaced {
				out = append(out, e.Interface)
			}
		}
		return out
	}
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		port, a := b.port("eth0"), b.router("A")
		b.take()
		b.after(10 * pathCheck)
		assert.Empty(t, b.take(), "it is in its place")
		b.of(port).off = true
		b.after(pathCheck)
		assert.Equal(t, []string{"attach eth0"}, b.take())
		assert.Equal(t, []string{"eth0"}, displaced(b))
		assert.Equal(t, 1, b.logged("attached it again"))

		b.of(port).off = true
		b.fail = fails(errTest, "attach eth0")
		b.after(pathCheck)
		assert.NotSame(t, port, b.port("eth0"), "it was opened again")
		assert.NotSame(t, a, b.router("A"))
		assert.Equal(t, []string{"eth0", "eth0"}, displaced(b))
		b.take()
		b.after(10 * pathCheck)
		assert.Empty(t, b.take(), "and that is that")
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}

// Two programs that both want to be the first do not drive each other.
func TestProgramIsDisplacedAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0).start()
		f := b.of(b.port("eth0"))
		attached := func(during time.Duration) int {
			b.take()
			b.after(during)
			return len(b.take())
		}
		f.off, f.stays = true, true
		assert.Equal(t, displacedAtOnce, attached(displacedAtOnce*pathCheck))
		n := attached(10 * time.Minute)
		assert.Less(t, n, 30)
		assert.Greater(t, n, 10)
		f.stays, f.off = false, false
		b.after(3 * longestRetry)
		f.off = true
		assert.Equal(t, 1, attached(pathCheck), "at once, after a time of peace")
		require.NoError(t, b.leaves())
	})
}

// An interface without a program is opened again once it would have one, but not
// while a router on it has its addresses.
func TestProgramIsPossibleAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		b.after(pathCheck)
		set := b.router("A").Set.(*vip.Set)
		b.r.reported(vip.Report{Set: set, Epoch: 1})
		for _, name := range []string{"eth0", "eth1"} {
			b.of(b.port(name)).better = true
		}
		a, other := b.port("eth0"), b.port("eth1")
		b.take()
		b.after(longestRetry - pathCheck)
		assert.Empty(t, b.take(), "it is not tried all the time")
		b.after(2 * pathCheck)
		assert.Same(t, a, b.port("eth0"))
		assert.NotSame(t, other, b.port("eth1"))
		b.r.reported(vip.Report{Set: set, Epoch: b.epoch}) // it is backup
		b.after(longestRetry + pathCheck)
		assert.NotSame(t, a, b.port("eth0"))
		b.take()
		b.after(2 * longestRetry)
		assert.Empty(t, b.take(), "and that is that")
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}

// An interface that another daemon serves is left alone until that has gone.
func TestInterfaceIsLocked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1)
		b.foreign["eth0"] = true
		b.start()
		assert.Contains(t, b.status()["A"].Fault, "another xvrrpd uses it")
		assert.Empty(t, b.at["open eth0"])
		b.after(time.Minute)
		delete(b.foreign, "eth0")
		b.after(longestRetry)
		assert.Empty(t, b.status()["A"].Fault)
		assert.Equal(t, map[string]bool{"eth0": true, "eth1": true}, b.locks)
		require.NoError(t, b.leaves())
		require.NoError(t, b.r.unlock())
		assert.Empty(t, b.locks)
	})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0)
		b.noLocks = errTest
		b.start()
		assert.NotNil(t, b.port("eth0"), "it goes on without")
		assert.Equal(t, 1, b.logged("no lock"))
		require.NoError(t, b.leaves())
		require.NoError(t, b.r.unlock())
	})
}

// The firewall entries of an interface belong to the daemon that serves it.
func TestFirewallOfAnotherDaemon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		theirs := []netip.Addr{netip.MustParseAddr("10.0.0.77")}
		b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept"), eth0)
		b.foreign["eth0"], b.firewall["eth0"] = true, theirs
		b.start()
		b.after(time.Minute)
		b.r.inbox.firewallChanged()
		synctest.Wait()
		assert.Equal(t, theirs, b.firewall["eth0"])
		delete(b.foreign, "eth0")
		delete(b.firewall, "eth0")
		b.after(longestRetry)
		assert.Len(t, b.firewall["eth0"], 1)
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}

// What carries our mark goes, unless another daemon serves the interface or has
// addresses there.
func TestLeftoversOfOthers(t *testing.T) {
	left := func(index int, name, addr string) plan.Link {
		l := link(index, name, addr)
		l.Addrs[0].Ours = true
		return l
	}
	bubble(t, func(t *testing.T) {
		b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept")+
			instance("B", "eth0", 52, 100, "10.7.0.100/24 dev own0"), eth0,
			left(5, "lan0", "10.5.0.100/24"), left(6, "lan1", "10.6.0.100/24"), left(7, "own0", "10.7.0.100/24"), left(8, "free0", "10.8.0.100/24"))
		b.foreign["lan0"], b.foreign["lan1:addresses"] = true, true
		b.firewall = map[string][]netip.Addr{"lan0": {netip.MustParseAddr("10.5.0.100")}, "gone0": {netip.MustParseAddr("10.9.0.100")}}
		b.start()
		var got []string
		for _, f := range b.leftovers {
			got = append(got, f.Prefix.String())
		}
		assert.Equal(t, []string{"10.7.0.100/24", "10.8.0.100/24"}, got)
		assert.Contains(t, b.firewall, "lan0", "it is another's")
		assert.NotContains(t, b.firewall, "gone0")
		assert.Contains(t, b.firewall, "eth0")
		assert.Equal(t, map[string]bool{"eth0": true, "own0:addresses": true}, b.locks, "what was looked at is free again")
		require.NoError(t, b.leaves())
		require.NoError(t, b.r.closePorts())
		assert.Equal(t, []string{"lan0"}, slices.Collect(maps.Keys(b.firewall)))
		require.NoError(t, b.r.unlock())
		assert.Empty(t, b.locks)
	})
}

// While a daemon runs it changes no table but its own: another one may serve the
// interface and have its locks elsewhere.
func TestTablesOfOthersStay(t *testing.T) {
	theirs := []netip.Addr{netip.MustParseAddr("10.1.0.77")}
	bubble(t, func(t *testing.T) {
		closed := instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept")
		b := newBench(t, confA, eth0, eth1).start()
		b.firewall["eth1"] = theirs
		b.r.inbox.firewallChanged()
		synctest.Wait()
		b.changes(closed)
		assert.Contains(t, b.firewall, "eth0")
		b.changes(confA)
		assert.Equal(t, map[string][]netip.Addr{"eth1": theirs}, b.firewall)
		require.NoError(t, b.leaves())
	})
}

// Where there can be no locks, only what the file names is taken for left behind.
func TestLeftoversWithoutLocks(t *testing.T) {
	left := func(index int, name, addr string) plan.Link {
		l := link(index, name, addr)
		l.Addrs[0].Ours = true
		return l
	}
	bubble(t, func(t *testing.T) {
		own := left(7, "own0", "10.7.0.77/24")
		own.AltNames = []string{"vips"}
		b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.100/24 dev vips", "no_accept"),
			left(2, "eth0", "10.0.0.77/24"), left(3, "eth1", "10.1.0.77/24"), own)
		b.noLocks = errTest
		table := []netip.Addr{netip.MustParseAddr("10.1.0.77")}
		b.firewall = map[string][]netip.Addr{"eth1": table, "own0": table}
		b.start()
		var got []string
		for _, f := range b.leftovers {
			got = append(got, f.Prefix.String())
		}
		assert.Equal(t, []string{"10.0.0.77/24", "10.7.0.77/24"}, got)
		assert.Contains(t, b.firewall, "eth0")
		assert.NotContains(t, b.firewall, "own0")
		b.changes(instance("C", "own0", 51, 100, "10.7.0.100/24", "no_accept"))
		assert.NotContains(t, b.firewall, "eth0", "it was ours")
		b.slow = func(*engine.Router) bool { return true }
		b.changes(confA) // which does not name it any more
		assert.Contains(t, b.firewall, "own0")
		b.stop()
		synctest.Wait()
		b.retire()
		require.NoError(t, <-b.end)
		require.NoError(t, b.r.closePorts())
		assert.Equal(t, map[string][]netip.Addr{"eth1": table}, b.firewall)
	})
}

// Another daemon that only asks whether an interface is served has its lock for
// a moment: a start waits for that, and asks itself once for each interface.
func TestLocksOfOneThatAsks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0)
		b.foreign["eth0"] = true
		began := time.Now()
		require.ErrorIs(t, b.r.lockAtStart("eth0"), rundir.ErrInUse)
		assert.Equal(t, askTries*askPause, time.Since(began))
		asks := 0
		b.r.takeLock = func(name string) (lock, error) {
			b.foreign[name] = asks == 0 // for the first question
			asks++
			return b.lock(name)
		}
		require.NoError(t, b.r.lockAtStart("eth0"))
		assert.True(t, b.locks["eth0"])
	})
	bubble(t, func(t *testing.T) {
		l := link(5, "lan0", "10.5.0.100/24", "10.5.0.101/24")
		l.Addrs[0].Ours, l.Addrs[1].Ours = true, true
		b := newBench(t, confA, eth0, l)
		asked := map[string]int{}
		b.r.takeLock = func(name string) (lock, error) {
			asked[name]++
			return b.lock(name)
		}
		b.start()
		assert.Len(t, b.leftovers, 2)
		assert.Equal(t, map[string]int{"eth0": 1, "lan0": 1, "lan0:addresses": 1}, asked)
		require.NoError(t, b.leaves())
	})
}

// The releaser is told how long each address stays without another owner.
func TestUnfenced(t *testing.T) {
	file := func(interval, lines string) string {
		return instance("A", "eth0", 51, 100, "10.0.0.100/24", "version 3", "advert_int "+interval, lines)
	}
	told := func(takeover time.Duration) []release.Address {
		a := vip.Address{Ifindex: 2, Prefix: netip.MustParsePrefix("10.0.0.100/24")}
		return []release.Address{{Address: a, Takeover: takeover}}
	}
	bubble(t, func(t *testing.T) {
		b := newBench(t, file("1", ""), eth0).start()
		assert.Equal(t, told(2*time.Second), b.unfenced)
		b.changes(file("0.5", "down_timer_adverts 6"))
		assert.Equal(t, told(2500*time.Millisecond), b.unfenced)
		b.changes(file("0.02", ""))
		assert.Equal(t, told(40*time.Millisecond), b.unfenced)

		// A program has the fence, for as long as it stays.
		port := b.port("eth0")
		port.Mode = loader.ModeGeneric
		assert.Equal(t, told(release.Never), b.r.unfenced(), "it ends with the daemon")
		port.Pins = "/sys/fs/bpf/xvrrp"
		assert.Empty(t, b.r.unfenced())
		port.Mode, port.Pins = transport.ModeSocket, ""

		b.changes(file("0.02", "fence off"))
		assert.Empty(t, b.unfenced)
		require.NoError(t, b.leaves())
	})
}

// Pins that somebody removes are made again. While that fails, nothing fences the
// addresses of a daemon that is killed: they are the releaser's.
func TestPinsAreKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0).start()
		b.port("eth0").Mode, b.port("eth0").Pins = loader.ModeGeneric, "/sys/fs/bpf/xvrrp"
		b.news(eth0)
		assert.Empty(t, b.unfenced)
		b.noPins = errTest
		b.after(10 * pathCheck)
		assert.Len(t, b.unfenced, 1)
		assert.Equal(t, 1, b.logged("cannot be made again"))
		b.pins, b.noPins = true, nil
		b.after(pathCheck)
		assert.Empty(t, b.unfenced)
		assert.Equal(t, 1, b.logged("made them again"))
		require.NoError(t, b.leaves())
	})
}

// Fences of a predecessor open once its addresses are gone, whatever else
// fails, and also those of a router that starts later.
func TestFencesAreLifted(t *testing.T) {
	old := eth1
	old.Addrs = append(slices.Clone(eth1.Addrs), plan.Addr{Prefix: netip.MustParsePrefix("10.1.0.77/24"), Ours: true})
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, old)
		b.fail = fails(errTest, "remove 1 leftovers", "open eth0")
		b.start()
		b.after(time.Minute)
		assert.Zero(t, b.lifted)
		b.fail = fails(errTest, "open eth0")
		b.after(longestRetry)
		assert.Positive(t, b.lifted)
		b.lifted = 0
		b.changes(confA + confB)
		assert.Positive(t, b.lifted)
		b.fail = fails(nil)
		require.NoError(t, b.leaves())
	})
}

// A lock of addresses that another daemon held is taken once that one is gone.
func TestAddressLockIsTakenLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		own := link(5, "own0", "10.5.0.1/24")
		b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.100/24 dev own0"), eth0, own)
		b.foreign["own0:addresses"] = true
		b.start()
		assert.False(t, b.locks["own0:addresses"])
		delete(b.foreign, "own0:addresses")
		b.r.inbox.wake()
		synctest.Wait()
		assert.True(t, b.locks["own0:addresses"])
		require.NoError(t, b.leaves())
	})
}

// What somebody removes from the firewall is put back, and tried again if that
// fails.
func TestFirewallIsPutBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept"), eth0).start()
		want := maps.Clone(b.firewall)
		require.Len(t, want, 1)
		clear(b.firewall)
		b.r.inbox.firewallChanged()
		synctest.Wait()
		assert.Equal(t, want, b.firewall)
		assert.Equal(t, 1, b.logged("another program removed our firewall entries"))

		clear(b.firewall)
		b.fail = fails(errTest, "firewall")
		b.r.inbox.firewallChanged()
		synctest.Wait()
		assert.Empty(t, b.firewall)
		assert.Equal(t, 1, b.logged("restore the firewall entries"))
		b.after(firstRetry)
		assert.Equal(t, 1, b.logged("restore the firewall entries"), "told once")
		b.fail = fails(nil)
		b.after(longestRetry)
		assert.Equal(t, want, b.firewall)
		require.NoError(t, b.leaves())
	})
}

// Whoever keeps removing a table is not raced, and that is shown. The tables of
// other interfaces do not wait for that.
func TestFirewallIsRemovedAgainAndAgain(t *testing.T) {
	const often = 10 * time.Millisecond
	conf := instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept") + instance("B", "eth1", 52, 100, "10.1.0.100/24", "no_accept")
	start := func(t *testing.T) (b *bench, flush func(string), repairs func(time.Duration) int) {
		b = newBench(t, conf, eth0, eth1).start()
		flush = func(name string) {
			delete(b.firewall, name)
			b.r.inbox.firewallChanged()
			synctest.Wait()
		}
		repairs = func(during time.Duration) int {
			before := b.written["eth0"]
			for range during / often {
				flush("eth0")
				b.after(often)
			}
			return b.written["eth0"] - before
		}
		return b, flush, repairs
	}
	bubble(t, func(t *testing.T) {
		b, flush, repairs := start(t)
		unguarded := func(name string) *snapshot.Trouble { return b.status()[name].Unguarded }
		assert.Nil(t, unguarded("A"))
		flush("eth0")
		assert.Contains(t, b.firewall, "eth0", "at once")
		require.NotNil(t, unguarded("A"))
		assert.Equal(t, []string{"10.0.0.100/24"}, unguarded("A").Removed)
		assert.Nil(t, unguarded("B"))
		assert.Equal(t, 4, repairs(8*often), "then it waits")
		n := repairs(10 * time.Second)
		assert.Greater(t, n, 4)
		assert.Less(t, n, 8)

		flush("eth0")
		assert.NotContains(t, b.firewall, "eth0", "it waits")
		flush("eth1")
		assert.Contains(t, b.firewall, "eth1", "the other does not")
		b.changes(conf + instance("C", "eth1", 53, 100, "10.1.0.101/24"))
		assert.Contains(t, b.status(), "C", "nor does a reload")
		assert.NotContains(t, b.firewall, "eth0")
		b.after(5 * time.Second)
		assert.Contains(t, b.firewall, "eth0", "it comes by itself")
		assert.NotNil(t, unguarded("A"))
		b.after(vip.Stay)
		assert.Nil(t, unguarded("A"), "it has stayed")
		assert.Nil(t, unguarded("B"))
		flush("eth0")
		assert.Contains(t, b.firewall, "eth0", "at once, after a time of peace")
		b.changes(confA + confB)
		assert.Nil(t, unguarded("A"), "there is no table any more")
		require.NoError(t, b.leaves())
	})
	// It comes also while routers leave.
	bubble(t, func(t *testing.T) {
		b, flush, repairs := start(t)
		repairs(8 * often)
		b.slow = func(*engine.Router) bool { return true }
		b.stop()
		synctest.Wait()
		flush("eth0")
		require.NotContains(t, b.firewall, "eth0")
		b.after(time.Second)
		assert.Contains(t, b.firewall, "eth0")
		b.retire()
		require.NoError(t, <-b.end)
	})
}

// What ends the watch of the firewall may pass. What happened meanwhile is looked
// for.
func TestFirewallIsWatchedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept"), eth0).start()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		var starts atomic.Int32
		go func() {
			ended <- b.r.watchFirewall(ctx, func(ctx context.Context, changed func()) error {
				if starts.Add(1) <= 2 {
					return errTest
				}
				changed()
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		synctest.Wait()
		assert.Equal(t, int32(1), starts.Load())
		clear(b.firewall)
		b.after(longestRetry)
		assert.Equal(t, int32(3), starts.Load())
		assert.Contains(t, b.firewall, "eth0")
		assert.Equal(t, 1, b.logged("cannot watch the firewall"), "told once")
		stop()
		require.NoError(t, <-ended)
		require.NoError(t, b.leaves())
	})
}

// Reports about addresses are shown at their router, and taken until nothing is
// owned any more.
func TestReports(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA+confB, eth0, eth1).start()
		var set *vip.Set
		for s, spec := range b.sets {
			if spec.Addresses[0].Ifindex == eth0.Index {
				set = s
			}
		}
		address := b.sets[set].Addresses[0]
		trouble := func() *snapshot.Trouble { return b.status()["A"].Trouble.Load() }
		known := func() bool {
			_, ok := b.r.sets.Load(set)
			return ok
		}
		b.r.reported(vip.Report{Set: set, Epoch: 1, Failed: []vip.AddressError{{Address: address, Err: errTest}}})
		require.NotNil(t, trouble())
		assert.Equal(t, []string{"address 10.0.0.100/24: test"}, trouble().Failed)
		b.r.reported(vip.Report{Set: set, Epoch: 1, Removed: []vip.Address{address}})
		assert.Equal(t, []string{"10.0.0.100/24"}, trouble().Removed)
		assert.Empty(t, trouble().Failed)
		b.r.reported(vip.Report{Set: set, Epoch: 1})
		assert.Nil(t, trouble())
		b.r.reported(vip.Report{Set: &vip.Set{}, Epoch: 1}) // of nobody

		b.epoch = 2
		b.slow = func(*engine.Router) bool { return true }
		b.changes(confB)
		b.r.reported(vip.Report{Set: set, Epoch: 1})
		assert.True(t, known(), "it has not retired")
		b.retire()
		assert.True(t, known(), "it has not told of its release")
		b.r.reported(vip.Report{Set: set, Epoch: 2})
		assert.False(t, known(), "there is no other report")
		b.slow, b.epoch = func(*engine.Router) bool { return false }, 0
		require.NoError(t, b.leaves())
	})
	// One that has owned its addresses and is a backup has nothing to report.
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		for set := range b.sets {
			b.r.reported(vip.Report{Set: set, Epoch: 1})
			b.r.reported(vip.Report{Set: set, Epoch: 2})
		}
		b.epoch = 2
		b.changes(confB)
		b.r.sets.Range(func(_, x any) bool {
			assert.Equal(t, "B", x.(*running).plan.Name)
			return true
		})
		b.epoch = 0
		require.NoError(t, b.leaves())
	})
}

// What an owner has added itself is not the host's own, whether the kernel
// keeps the mark or not. What the host has is.
func TestOwner(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			mine, hosts := netip.MustParsePrefix("10.0.0.2/24"), netip.MustParsePrefix("10.0.0.1/24")
			b := newBench(t, instance("A", "eth0", 51, 255, "10.0.0.1/24\n  10.0.0.2/24"), eth0)
			b.forgets = forgets
			b.start()
			want := []vip.Address{{Ifindex: 2, Prefix: hosts, Own: true}, {Ifindex: 2, Prefix: mine}}
			got := func() []vip.Address {
				require.Len(t, b.sets, 1)
				for _, s := range b.sets {
					return s.Addresses
				}
				return nil
			}
			require.Equal(t, want, got())
			b.take()
			b.takeover(func(vip.Spec) bool { return true })
			assert.Empty(t, b.take())
			assert.Equal(t, want, got())
			assert.Equal(t, []release.Address{{Address: want[1], Takeover: 2 * time.Second}}, b.unfenced)
			require.NoError(t, b.leaves())
		})
	}
}

// A router that leaves, and whose addresses no file names any more, lends none
// of them to others as their source.
func TestNoSourceOfALeavingRouter(t *testing.T) {
	for _, forgets := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			file := instance("B", "eth0", 52, 100, "10.0.0.102/24")
			b := newBench(t, instance("A", "eth0", 51, 100, "10.0.0.101/24", "mcast_src_ip 10.0.0.1")+file, link(2, "eth0"))
			b.forgets = forgets
			b.slow = func(*engine.Router) bool { return true }
			b.start()
			b.takeover(func(s vip.Spec) bool { return s.Addresses[0].Prefix.Addr() == netip.MustParseAddr("10.0.0.101") })
			b.changes(file)
			assert.Contains(t, b.status()["B"].Fault, "has no IPv4 address to send adverts from")
			b.slow = func(*engine.Router) bool { return false }
			b.retire()
			require.NoError(t, b.leaves())
		})
	}
}

// Fast detection that a reload wants finds a prober, also one that cannot be
// opened at once, and is told where it cannot work.
func TestFastDetectByReload(t *testing.T) {
	fast := instance("A", "eth0", 51, 100, "10.0.0.100/24", "fast_detect")
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0)
		b.programs = true
		b.start()
		assert.Nil(t, b.table.Prober)
		b.fail = fails(errTest, "prober")
		b.changes(fast)
		assert.Nil(t, b.table.Prober)
		b.fail = fails(nil)
		b.after(longestRetry)
		assert.NotNil(t, b.table.Prober)
		b.changes(confA)
		b.changes(fast)
		assert.Equal(t, 1, b.probers)
		assert.Zero(t, b.logged("the RFC's timer decides"))
		require.NoError(t, b.leaves())
		require.NoError(t, b.r.closePorts())
		assert.Zero(t, b.probers)
	})
	for name, file := range map[string]string{"reload": confA, "start": fast} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := newBench(t, file, eth0).start()
				b.changes(fast)
				assert.Equal(t, 1, b.logged("the RFC's timer decides"), "it has no program")
				assert.Zero(t, b.at["prober"])
				require.NoError(t, b.leaves())
			})
		})
	}
}

// The addresses of a router that was stopped accept nothing for as long as it
// serves, and those of a daemon that leaves until they are gone.
func TestFirewallWhileRoutersLeave(t *testing.T) {
	closed := instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept")
	bubble(t, func(t *testing.T) {
		b := newBench(t, closed+confB, eth0, eth1).start()
		b.slow = func(*engine.Router) bool { return true }
		require.Contains(t, b.firewall, "eth0")
		b.changes(confB)
		b.after(time.Second)
		assert.Contains(t, b.firewall, "eth0")
		b.retire()
		assert.Empty(t, b.firewall)

		b.changes(closed + confB)
		b.stop()
		b.after(time.Second)
		b.retire()
		require.NoError(t, <-b.end)
		assert.Contains(t, b.firewall, "eth0")
		require.NoError(t, b.r.closePorts())
		assert.Empty(t, b.firewall)
	})
}

// The lock is kept for as long as the table is there: nobody else would remove it.
func TestFirewallKeepsItsLock(t *testing.T) {
	closed := instance("A", "eth0", 51, 100, "10.0.0.100/24", "no_accept")
	bubble(t, func(t *testing.T) {
		b := newBench(t, closed+confB, eth0, eth1).start()
		b.fail = fails(errTest, "firewall")
		b.changes(confB)
		b.retire()
		b.after(time.Second)
		assert.Contains(t, b.firewall, "eth0")
		assert.True(t, b.locks["eth0"])
		b.fail = fails(nil)
		b.after(longestRetry)
		assert.Empty(t, b.firewall)
		assert.False(t, b.locks["eth0"])
		require.NoError(t, b.leaves())
	})
}
