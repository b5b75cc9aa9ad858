// SPDX-License-Identifier: Apache-2.0

package alarm

import (
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
}

func newBench() *bench {
	b := &bench{Judge: &Judge{Journal: journal.New(100), Log: slog.New(slog.DiscardHandler)}}
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
		Interfaces: []snapshot.Interface{{Port: snapshot.Port{Port: port}, HasKernel: true}},
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

// A host that replaced a silent master and receives nothing is deaf; one frame
// ends that.
func TestDeaf(t *testing.T) {
	b := newBench()
	b.instance().State.State = control.Backup
	b.s.Other = 7
	assert.Empty(t, b.after(0))
	b.instance().State = engine.State{
		State: control.Master, Since: b.s.Now, Reason: control.ReasonMasterDown, Lost: addr("192.0.2.9"),
	}
	assert.Empty(t, b.after(deafAfter/2), "too early to tell")
	assert.Equal(t, []string{"deaf"}, b.after(deafAfter))
	b.s.Other++
	assert.Empty(t, b.after(time.Second))
	kinds := b.Journal.After(0)
	require.Len(t, kinds, 2)
	assert.Equal(t, []journal.Kind{journal.Alarm, journal.AlarmOver}, []journal.Kind{kinds[0].Kind, kinds[1].Kind})
	_, raised := b.Active(b.router)
	assert.Equal(t, uint64(1), raised)
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
	assert.Zero(t, testing.AllocsPerRun(100, func() { b.judge(&b.s) }))
}
