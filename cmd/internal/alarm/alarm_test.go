// SPDX-License-Identifier: Apache-2.0

package alarm

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
)

const second = int64(time.Second)

// bench judges one instance on one port.
type bench struct {
	*Judge
	s       snapshot.Snapshot
	router  *engine.Router
	trouble atomic.Pointer[snapshot.Trouble]
	frames  map[int]uint64 // received, by ifindex; missing: it cannot be read
	asked   []int
}

func newBench() *bench {
	b := &bench{Judge: &Judge{Journal: journal.New(100), Log: slog.New(slog.DiscardHandler)}, frames: map[int]uint64{2: 70}}
	b.Frames = func(ifindex int) (uint64, error) {
		b.asked = append(b.asked, ifindex)
		if n, ok := b.frames[ifindex]; ok {
			return n, nil
		}
		return 0, errors.New("no such interface")
	}
	port := &engine.Port{Name: "eth0", Ifindex: 2}
	b.router = engine.NewRouter(0, port, nil, engine.Spec{
		Name: "A", Config: control.Config{VRID: 7, Version: 3, Priority: 100, Source: netip.MustParseAddr("192.0.2.1")},
	})
	b.s = snapshot.Snapshot{
		Now: 100 * second,
		Instances: []snapshot.Instance{{
			Router: snapshot.Router{Router: b.router, Name: "A", Interval: time.Second, Trouble: &b.trouble},
			State:  engine.State{State: control.Master, Since: 50 * second, Reason: control.ReasonStartup},
		}},
		Interfaces: []snapshot.Interface{{Port: snapshot.Port{Port: port}}},
	}
	return b
}

func (b *bench) instance() *snapshot.Instance { return &b.s.Instances[0] }

// after judges once more, a while later.
func (b *bench) after(d time.Duration) []string {
	b.s.Now += int64(d)
	b.judge(&b.s)
	var out []string
	active, _ := b.Active(b.router)
	for _, a := range active {
		out = append(out, a.Kind.String())
	}
	return out
}

func addr(s string) engine.Addr { return engine.Addr(netip.MustParseAddr(s).As16()) }

func TestAlarms(t *testing.T) {
	peer := addr("192.0.2.9")
	for name, tc := range map[string]struct {
		change func(*bench)
		want   []string
	}{
		"nothing": {func(*bench) {}, nil},
		"an answer for our address": {func(b *bench) {
			b.instance().State.Seen[engine.SeenConflict] = engine.Sighting{First: 99 * second, Last: 99 * second, Addr: peer}
		}, []string{"vip_conflict"}},
		"an answer from before we were master": {func(b *bench) {
			b.instance().State.Since = 99*second + second/2
			b.instance().State.Seen[engine.SeenConflict] = engine.Sighting{First: 99 * second, Last: 99 * second, Addr: peer}
		}, nil},
		"another master": {func(b *bench) {
			b.instance().State.Seen[engine.SeenMaster] = engine.Sighting{First: 99 * second, Last: 99 * second, Addr: peer}
		}, []string{"other_master"}},
		"another master that goes on": {func(b *bench) {
			b.instance().State.Seen[engine.SeenMaster] = engine.Sighting{First: 90 * second, Last: 99 * second, Addr: peer}
		}, []string{"other_master", "unheard"}},
		"another list": {func(b *bench) {
			b.instance().State.Seen[engine.SeenLists] = engine.Sighting{First: 98 * second, Last: 98 * second, Addr: peer}
		}, []string{"address_list"}},
		"the list of the master, whose repetitions stay in the kernel": {func(b *bench) {
			b.instance().State.State, b.instance().State.MasterLists = control.Backup, control.ListsOverlap
			b.instance().State.Seen[engine.SeenLists] = engine.Sighting{First: 10 * second, Last: 10 * second, Addr: peer}
		}, []string{"address_list"}},
		"another group": {func(b *bench) {
			b.instance().State.Seen[engine.SeenCollision] = engine.Sighting{First: 98 * second, Last: 98 * second, Addr: peer}
		}, []string{"vrid_collision"}},
		"our address twice": {func(b *bench) {
			b.instance().State.Seen[engine.SeenDuplicate] = engine.Sighting{First: 98 * second, Last: 98 * second, Addr: peer}
		}, []string{"duplicate_source"}},
		"a session that does not come up": {func(b *bench) {
			b.instance().State.State, b.instance().State.Master = control.Backup, peer
			b.s.Interfaces[0].Sessions = []snapshot.Session{{SessionState: engine.SessionState{
				Since: 90 * second, Peer: peer, Users: 1, State: bfd.Down,
			}}}
		}, []string{"fast_detect_unanswered"}},
		"a session that is up": {func(b *bench) {
			b.instance().State.State, b.instance().State.Master = control.Backup, peer
			b.s.Interfaces[0].Sessions = []snapshot.Session{{SessionState: engine.SessionState{
				Since: 90 * second, Peer: peer, Users: 1, State: bfd.Up,
			}}}
		}, nil},
		"addresses": {func(b *bench) {
			b.trouble.Store(&snapshot.Trouble{Removed: []string{"10.0.0.1/24"}, Failed: []string{"10.0.0.2/24: no"}})
		}, []string{"vip_removed", "vip_failed"}},
		"firewall entries": {func(b *bench) {
			b.instance().Unguarded = &snapshot.Trouble{Since: 99 * second, Removed: []string{"10.0.0.1/24"}}
		}, []string{"firewall_removed"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench()
			tc.change(b)
			assert.Equal(t, tc.want, b.after(0))
			assert.Len(t, b.Journal.After(0), len(tc.want))
		})
	}
}

// takesOver makes an instance master because another fell silent, now.
func (b *bench) takesOver(i *snapshot.Instance) {
	b.s.Now++ // after the look before
	i.State = engine.State{State: control.Master, Since: b.s.Now, Reason: control.ReasonMasterDown, Lost: addr("192.0.2.9")}
}

// A host that replaced a silent master and receives nothing is deaf, with a
// program and without; one frame ends that, whatever it is.
func TestDeaf(t *testing.T) {
	for name, hear := range map[string]func(*bench){
		"a frame":   func(b *bench) { b.frames[2]++ },
		"an advert": func(b *bench) { b.router.Published.Received.Add(1) },
	} {
		b := newBench()
		b.instance().State.State = control.Backup
		assert.Empty(t, b.after(0), name)
		b.frames[2] += 5
		b.takesOver(b.instance())
		assert.Empty(t, b.after(deafAfter/2), "too early to tell")
		assert.Equal(t, []string{"deaf"}, b.after(deafAfter), name)
		assert.Equal(t, []string{"deaf"}, b.after(time.Second), name)
		hear(b)
		assert.Empty(t, b.after(time.Second), name)
		kinds := b.Journal.After(0)
		require.Len(t, kinds, 2, name)
		assert.Equal(t, []journal.Kind{journal.Alarm, journal.AlarmOver}, []journal.Kind{kinds[0].Kind, kinds[1].Kind})
		_, raised := b.Active(b.router)
		assert.Equal(t, uint64(1), raised)
		b.asked = nil
		assert.Empty(t, b.after(time.Minute))
		assert.Empty(t, b.asked, "it hears: that is enough")
	}
}

// What one interface receives says nothing about another.
func TestOneOfTwoPortsIsDeaf(t *testing.T) {
	b := newBench()
	busy := &engine.Port{Name: "eth1", Ifindex: 3}
	x := engine.NewRouter(1, busy, nil, engine.Spec{
		Name: "B", Config: control.Config{VRID: 8, Version: 3, Priority: 100, Source: netip.MustParseAddr("198.51.100.1")},
	})
	b.s.Instances = append(b.s.Instances, snapshot.Instance{Router: snapshot.Router{Router: x, Name: "B", Trouble: &b.trouble}})
	b.s.Interfaces = append(b.s.Interfaces, snapshot.Interface{Port: snapshot.Port{Port: busy}})
	b.frames[3] = 9
	for i := range b.s.Instances {
		b.s.Instances[i].State.State = control.Backup
	}
	require.Empty(t, b.after(0))
	assert.Empty(t, b.asked, "a backup that hears no more becomes master")
	b.takesOver(&b.s.Instances[0])
	b.takesOver(&b.s.Instances[1])
	var got []string
	for range 10 {
		b.frames[3]++
		b.s.Other += 100
		got = b.after(period)
		active, _ := b.Active(x)
		assert.Empty(t, active)
	}
	assert.Equal(t, []string{"deaf"}, got)
	assert.Equal(t, []int{2, 3, 2, 3, 2, 2}, b.asked, "and no more often than needed")
}

// With fast detection a master may be lost before the first look.
func TestDeafFromTheStart(t *testing.T) {
	b := newBench()
	b.router.Published.Received.Add(1)
	b.takesOver(b.instance())
	assert.Empty(t, b.after(period))
	assert.Equal(t, []string{"deaf"}, b.after(deafAfter))
}

// Another router of the interface may have had it asked just before.
func TestFramesFromBeforeProveNothing(t *testing.T) {
	b := newBench()
	two := engine.NewRouter(1, b.router.Port, nil, engine.Spec{
		Name: "B", Config: control.Config{VRID: 8, Version: 3, Priority: 100, Source: netip.MustParseAddr("192.0.2.1")},
	})
	b.s.Instances = append(b.s.Instances, snapshot.Instance{
		Router: snapshot.Router{Router: two, Name: "B", Trouble: &b.trouble}, State: engine.State{State: control.Backup},
	})
	require.Empty(t, b.after(0))
	b.takesOver(&b.s.Instances[0])
	require.Empty(t, b.after(time.Millisecond))
	b.frames[2]++ // the last one
	b.s.Now += int64(period)
	b.takesOver(&b.s.Instances[1])
	deaf := func() bool {
		active, _ := b.Active(two)
		return len(active) == 1 && active[0].Kind == Deaf
	}
	assert.Empty(t, b.after(deafAfter), "the first has heard it")
	assert.False(t, deaf())
	assert.Empty(t, b.after(deafAfter))
	assert.True(t, deaf())
}

// Nobody knows: that is no alarm.
func TestDeafnessThatCannotBeTold(t *testing.T) {
	b := newBench()
	b.instance().State.State = control.Backup
	require.Empty(t, b.after(0))
	delete(b.frames, 2)
	b.takesOver(b.instance())
	for range 10 {
		assert.Empty(t, b.after(period))
	}
	assert.NotEmpty(t, b.asked)
}

// What is known of a router goes with it.
func TestRoutersThatAreGone(t *testing.T) {
	b := newBench()
	b.trouble.Store(&snapshot.Trouble{Removed: []string{"10.0.0.1/24"}})
	require.Len(t, b.after(0), 1)
	b.s.Instances = nil
	assert.Empty(t, b.after(0))
	assert.Empty(t, b.routers)
}

// It is done five times a second, for every instance: what it allocated
// without an alarm would have to be collected.
func TestJudgingAllocatesNothing(t *testing.T) {
	b := newBench()
	b.judge(&b.s)
	b.Frames = func(int) (uint64, error) { return 7, nil }
	judge := func() { b.s.Now += int64(period); b.judge(&b.s) }
	assert.Zero(t, testing.AllocsPerRun(100, judge))
	assert.Empty(t, b.asked, "there is no doubt")
}
