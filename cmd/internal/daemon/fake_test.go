// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/dataplane"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/release"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

var errTest = errors.New("test")

// fakePort is what an open interface was told.
type fakePort struct {
	key     plan.PortKey
	port    plan.Port
	routers map[loader.RouterID]fakeRouter
	off     bool // something took the program off
	stays   bool // and does so again
	whole   bool // nothing of it is left to attach
	better  bool // it would have a program if it were opened now
}

type fakeRouter struct {
	at     plan.Identity
	router plan.Router
}

// host is what the reconciler changes, without a kernel and without a loop: it
// holds what it was told, and refuses what the test wants to fail. It belongs
// to the reconciler, and to the test while the reconciler waits.
type host struct {
	t     *testing.T
	turns atomic.Int64 // see order
	wake  func()
	since time.Time

	facts   *plan.Facts // without what the sets add
	changed chan struct{}
	forgets bool              // the kernel does not keep the mark of addresses
	owned   map[*vip.Set]bool // sets whose addresses are on this host

	done []string                   // what was done and tried, in order
	at   map[string][]time.Duration // when each was tried
	fail func(what string) error

	ports     map[*dataplane.Port]*fakePort
	programs  bool // ports have one
	probers   int  // that are open
	later     bool // a part of each port may be attached later
	pins      bool // were made again
	noPins    error
	lifted    int
	dropped   int
	keeps     map[int]bool // interfaces whose programs were not to go
	unused    []string     // interfaces with something of a daemon that runs no more, or of another
	firewall  map[string][]netip.Addr
	written   map[string]int // tables, by interface: how often
	sets      map[*vip.Set]vip.Spec
	leftovers []vip.Address     // that were removed
	unfenced  []release.Address // for the releaser

	slow    func(*engine.Router) bool // routers that serve on after a stop
	held    bool                      // batches wait for the test
	ended   bool                      // the loop has
	pending *engine.Batch
	applied uint64
	batches []*engine.Batch
	table   *engine.Table
	specs   map[*engine.Router]engine.Spec // as they were changed last
	leaving map[*engine.Router]bool
	retired map[*engine.Router]bool
	epoch   uint64 // of ownership, of every router that has retired

	locks   map[string]bool // ours
	foreign map[string]bool // other daemons'
	noLocks error
}

func newHost(t *testing.T, links ...plan.Link) *host {
	return &host{
		t: t, since: time.Now(), facts: plan.NewFacts(links), changed: make(chan struct{}, 1),
		owned: map[*vip.Set]bool{}, at: map[string][]time.Duration{}, fail: func(string) error { return nil },
		ports: map[*dataplane.Port]*fakePort{}, firewall: map[string][]netip.Addr{}, written: map[string]int{}, sets: map[*vip.Set]vip.Spec{},
		slow: func(*engine.Router) bool { return false }, table: &engine.Table{}, specs: map[*engine.Router]engine.Spec{},
		leaving: map[*engine.Router]bool{}, retired: map[*engine.Router]bool{}, locks: map[string]bool{}, foreign: map[string]bool{},
	}
}

// order puts what the test did before what the reconciler does, in the eyes of
// the race detector. The bubble has them take turns.
func (h *host) order() { h.turns.Add(1) }

// do notes what is done, unless it is to fail.
func (h *host) do(format string, args ...any) error {
	h.order()
	require.Less(h.t, len(h.done), 1<<14, "it does not end")
	what := fmt.Sprintf(format, args...)
	h.at[what] = append(h.at[what], time.Since(h.since))
	if err := h.fail(what); err != nil {
		h.done = append(h.done, what+" fails")
		return fmt.Errorf("%s: %w", what, err)
	}
	h.done = append(h.done, what)
	return nil
}

// take returns what was done since it was last asked.
func (h *host) take() []string {
	out := h.done
	h.done = nil
	return out
}

func (h *host) Facts() *plan.Facts {
	h.order()
	return h.with(!h.forgets)
}

func (h *host) Marked(*plan.Facts) *plan.Facts { return h.with(true) }

// with returns the facts with what the sets have added.
func (h *host) with(mark bool) *plan.Facts {
	links := slices.Clone(h.facts.Links)
	for i := range links {
		l := &links[i]
		l.Addrs = slices.Clone(l.Addrs)
		for set := range h.owned {
			for _, a := range h.sets[set].Addresses {
				if a.Ifindex == l.Index && !a.Own && l.Addr(a.Prefix.Addr()) == nil {
					l.Addrs = append(l.Addrs, plan.Addr{Prefix: a.Prefix, Ours: mark})
				}
			}
		}
	}
	return plan.NewFacts(links)
}

// takeover has every set on this host for which owns says so.
func (h *host) takeover(owns func(vip.Spec) bool) {
	clear(h.owned)
	for set, s := range h.sets {
		if owns(s) {
			h.owned[set] = true
		}
	}
	h.changed <- struct{}{}
	synctest.Wait()
}

func (h *host) Changed() <-chan struct{} { return h.changed }

// news makes these the interfaces that there are.
func (h *host) news(links ...plan.Link) {
	h.facts = plan.NewFacts(links)
	h.changed <- struct{}{}
	synctest.Wait()
}

func (h *host) Open(key plan.PortKey, p *plan.Port, routers []dataplane.Router) (*dataplane.Port, error) {
	if err := h.do("open %s", key.Name); err != nil {
		return nil, err
	}
	for _, f := range h.ports {
		assert.NotEqual(h.t, key.Ifindex, f.key.Ifindex, "%s is open as %s", key.Name, f.key.Name)
	}
	assert.True(h.t, h.locks[key.Name] || h.noLocks != nil, "%s is not locked", key.Name)
	port := &dataplane.Port{Engine: &engine.Port{Name: key.Name, Ifindex: key.Ifindex}, Mode: "socket"}
	h.ports[port] = &fakePort{key: key, port: *p, routers: map[loader.RouterID]fakeRouter{}}
	for _, r := range routers {
		_ = h.SetRouter(port, r.ID, r.At, r.Plan) // see Knows
	}
	return port, nil
}

func (h *host) Pending(p *dataplane.Port) bool { return h.later && !h.of(p).whole }

func (h *host) Complete(p *dataplane.Port) {
	_ = h.do("complete %s", p.Engine.Name)
	h.of(p).whole = true
}

func (h *host) Knows(p *dataplane.Port, id loader.RouterID) bool {
	_, ok := h.of(p).routers[id]
	return ok
}

// port returns the open port of an interface, nil if there is none.
func (h *host) port(name string) *dataplane.Port {
	for p, f := range h.ports {
		if f.key.Name == name {
			return p
		}
	}
	return nil
}

// of returns what a port was told. It must be open.
func (h *host) of(p *dataplane.Port) *fakePort {
	require.Contains(h.t, h.ports, p, "it is closed")
	return h.ports[p]
}

func (h *host) Change(p *dataplane.Port, to *plan.Port) error {
	f := h.of(p)
	if err := h.do("change %s", f.key.Name); err != nil {
		return err
	}
	f.port = *to
	return nil
}

func (h *host) Attach(p *dataplane.Port) error {
	f := h.of(p)
	if err := h.do("attach %s", f.key.Name); err != nil {
		return err
	}
	f.off, f.whole = f.stays, false
	return nil
}

func (h *host) InPath(p *dataplane.Port) bool {
	h.order()
	return !h.of(p).off
}

func (h *host) HasProgram(*dataplane.Port) bool { return h.programs }

// fakeProber sends nothing.
type fakeProber struct {
	engine.Prober
	h *host
}

func (p fakeProber) Close() error {
	p.h.probers--
	return nil
}

func (h *host) prober() (prober, error) {
	if err := h.do("prober"); err != nil {
		return nil, err
	}
	h.probers++
	return fakeProber{h: h}, nil
}

func (h *host) SetRouter(p *dataplane.Port, id loader.RouterID, at plan.Identity, r *plan.Router) error {
	f := h.of(p)
	if err := h.do("tell %s of %s", f.key.Name, r.Name); err != nil {
		return err
	}
	if was, ok := f.routers[id]; ok {
		assert.Equal(h.t, was.at, at, "router %d is another", id)
	}
	f.routers[id] = fakeRouter{at, *r}
	return nil
}

func (h *host) RemoveRouter(p *dataplane.Port, id loader.RouterID) { delete(h.of(p).routers, id) }

func (h *host) Retry(p *dataplane.Port) bool {
	h.order()
	return h.of(p).better
}

func (h *host) ClosePort(p *dataplane.Port) error {
	f := h.of(p)
	assert.NotContains(h.t, h.table.Ports, p.Engine, "the loop uses %s", f.key.Name)
	assert.Empty(h.t, f.routers, "%s has routers", f.key.Name)
	delete(h.ports, p)
	return h.do("close %s", f.key.Name)
}

func (h *host) Kernel() *loader.Collection { return nil }
func (h *host) LiftFences()                { h.lifted++ }

func (h *host) DropUnused(keep map[int]bool, removable func(string) bool) {
	h.dropped++
	h.keeps = maps.Clone(keep)
	h.unused = slices.DeleteFunc(h.unused, removable)
}

func (h *host) KeepPins() (bool, error) {
	h.order()
	return h.pins, h.noPins
}

func (h *host) Close() error {
	assert.Empty(h.t, h.ports)
	return nil
}

func (h *host) Add(s vip.Spec) *vip.Set {
	set := &vip.Set{}
	h.sets[set] = s
	return set
}

func (h *host) Update(changes ...vip.Change) {
	_ = h.do("update %d", len(changes))
	for _, c := range changes {
		require.Contains(h.t, h.sets, c.Set)
		h.sets[c.Set] = c.Spec
	}
}

func (h *host) Remove(s *vip.Set) {
	assert.Contains(h.t, h.sets, s)
	delete(h.sets, s)
	delete(h.owned, s)
}

func (h *host) RemoveLeftovers(list []vip.Address) error {
	if err := h.do("remove %d leftovers", len(list)); err != nil {
		return err
	}
	h.leftovers = append(h.leftovers, list...)
	return nil
}

func (h *host) Unfenced(list []release.Address) { h.unfenced = list }

func (h *host) Firewall(want map[string][]netip.Addr, removable func(string) bool) (written []string, err error) {
	if err := h.do("firewall"); err != nil {
		return nil, err
	}
	for name := range h.firewall {
		if len(want[name]) == 0 && removable(name) {
			delete(h.firewall, name)
		}
	}
	for name, list := range want {
		if !slices.Equal(h.firewall[name], list) {
			h.firewall[name] = list
			h.written[name]++
			written = append(written, name)
		}
	}
	return written, nil
}

// heldLock is one of ours.
type heldLock struct {
	h    *host
	name string
}

func (l heldLock) Release() error {
	assert.True(l.h.t, l.h.locks[l.name])
	delete(l.h.locks, l.name)
	return nil
}

func (h *host) lock(name string) (lock, error) {
	switch {
	case h.noLocks != nil:
		return nil, h.noLocks
	case h.foreign[name]:
		return nil, fmt.Errorf("lock interface %s: %w", name, rundir.ErrInUse)
	}
	assert.False(h.t, h.locks[name], "%s is locked twice", name)
	h.locks[name] = true
	return heldLock{h, name}, nil
}

func (h *host) Apply(b *engine.Batch) bool {
	if h.ended {
		return false
	}
	assert.Nil(h.t, h.pending, "the loop has not taken the last batch")
	_ = h.do("batch")
	h.pending = b
	if !h.held {
		h.put()
	}
	return true
}

// put puts the batch that waits in place, as the event loop does.
func (h *host) put() {
	b := h.pending
	h.batches = append(h.batches, b)
	if b.Table != nil {
		h.splice(b.Table)
	}
	for _, r := range b.Stop {
		require.Contains(h.t, h.table.Routers, r)
		if h.slow(r) {
			h.leaving[r] = true
		} else {
			h.retired[r] = true
		}
	}
	for _, c := range b.Change {
		require.Contains(h.t, h.table.Routers, c.Router)
		h.specs[c.Router] = c.Spec
	}
	for _, r := range b.Start {
		require.Contains(h.t, h.table.Routers, r)
	}
	h.pending = nil
	assert.Equal(h.t, h.applied+1, b.Number)
	h.applied = b.Number
	h.wake()
}

func (h *host) splice(t *engine.Table) {
	ids := map[loader.RouterID]bool{}
	for _, r := range t.Routers {
		assert.False(h.t, ids[r.ID], "two routers have the id %d", r.ID)
		ids[r.ID] = true
	}
	for _, r := range h.table.Routers {
		if !slices.Contains(t.Routers, r) {
			assert.True(h.t, h.retired[r], "router %s is in use", r.Name())
			delete(h.specs, r)
		}
	}
	open := map[*engine.Port]bool{}
	for p := range h.ports {
		open[p.Engine] = true
	}
	for _, p := range t.Ports {
		assert.True(h.t, open[p], "%s is closed", p.Name)
	}
	h.table = t
}

// release lets batches through again.
func (h *host) release() {
	h.held = false
	if h.pending != nil {
		h.put()
	}
	synctest.Wait()
}

// retire ends the service of every router that was stopped.
func (h *host) retire() {
	for r := range h.leaving {
		delete(h.leaving, r)
		h.retired[r] = true
	}
	h.wake()
	synctest.Wait()
}

func (h *host) Applied() uint64               { return h.applied }
func (h *host) Retired(r *engine.Router) bool { return h.retired[r] }
func (h *host) Epoch(*engine.Router) uint64   { return h.epoch }

// files is a configuration in memory.
type files string

func (f files) ReadFile(string) ([]byte, error) { return []byte(f), nil }
func (files) Glob(string) ([]string, error)     { return nil, nil }

// bench is a reconciler on a host of the test, in a bubble of synctest: time
// passes when everybody waits.
type bench struct {
	*host
	r     *reconciler
	file  string
	log   bytes.Buffer
	ready bool
	stop  context.CancelFunc
	end   chan error
}

func (b *bench) load() (*config.Config, config.Diagnostics) {
	return config.Parse(files(b.file), "test.conf", config.Environment{
		Getenv: func(string) string { return "" }, Random: func() uint32 { return 0 },
	})
}

// newBench returns a reconciler that does not run yet.
func newBench(t *testing.T, file string, links ...plan.Link) *bench {
	b := &bench{host: newHost(t, links...), file: file, end: make(chan error, 1)}
	cfg, diags := b.load()
	require.NotNil(t, cfg, "%v\n%s", diags, file)
	log := slog.New(slog.NewTextHandler(&b.log, nil))
	d := &Daemon{
		opts: Options{Config: cfg, Load: b.load, Dataplane: "auto", Log: log}, log: log, journal: journal.New(1000),
		reader:  &snapshot.Reader{Clock: func() int64 { return 0 }},
		reloads: make(chan reloadRequest), loopDone: make(chan struct{}),
	}
	d.inbox.signal = make(chan struct{}, 1)
	d.writer = &journal.Writer{Journal: d.journal, Log: log, Clock: func() int64 { return 0 }}
	b.r = newReconciler(d)
	d.state = b.r
	b.r.plane, b.r.loop, b.r.addrs, b.r.links, b.r.takeLock = b.host, b.host, b.host, b.host, b.host.lock
	b.r.probes = b.host.prober
	b.host.wake = d.inbox.wake
	return b
}

// start runs the reconciler until it waits.
func (b *bench) start() *bench {
	ctx, stop := context.WithCancel(b.t.Context())
	b.stop = stop
	go func() { b.end <- b.r.run(ctx, func() { b.ready = true }) }()
	synctest.Wait()
	return b
}

// leaves stops the reconciler, and returns how it ended.
func (b *bench) leaves() error {
	b.order()
	b.stop()
	return <-b.end
}

// after lets time pass.
func (b *bench) after(d time.Duration) {
	b.order()
	time.Sleep(d) // of the bubble
	synctest.Wait()
}

// changes makes file the configuration.
func (b *bench) changes(file string) {
	b.t.Helper()
	b.file = file
	_, err := b.r.Reload(b.t.Context(), false)
	require.NoError(b.t, err)
	synctest.Wait()
}

// status returns the instances, as status shows them.
func (b *bench) status() map[string]snapshot.Instance {
	out := map[string]snapshot.Instance{}
	for _, i := range b.r.reader.Take().Instances {
		out[i.Name] = i
	}
	return out
}

// router returns the router of an instance.
func (b *bench) router(name string) *engine.Router {
	b.t.Helper()
	for _, x := range b.r.routers {
		if x.plan.Name == name {
			return x.Router
		}
	}
	b.t.Fatalf("no router %s", name)
	return nil
}

// logged returns how often a text was logged.
func (b *bench) logged(text string) int { return strings.Count(b.log.String(), text) }

// bubble runs a test in a bubble.
func bubble(t *testing.T, test func(*testing.T)) { synctest.Test(t, test) }

func instance(name, iface string, vrid, priority int, address string, lines ...string) string {
	return fmt.Sprintf("vrrp_instance %s {\n interface %s\n virtual_router_id %d\n priority %d\n %s\n virtual_ipaddress {\n  %s\n }\n}\n",
		name, iface, vrid, priority, strings.Join(lines, "\n "), address)
}

func link(index int, name string, addrs ...string) plan.Link {
	l := plan.Link{Index: index, Name: name, MAC: [6]byte{2, 0, 0, 0, 0, byte(index)}, Ethernet: true, Up: true}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, plan.Addr{Prefix: netip.MustParsePrefix(a)})
	}
	return l
}

var (
	eth0 = link(2, "eth0", "10.0.0.1/24")
	eth1 = link(3, "eth1", "10.1.0.1/24")

	confA = instance("A", "eth0", 51, 100, "10.0.0.100/24")
	confB = instance("B", "eth1", 52, 100, "10.1.0.100/24")
)

// fails returns what makes some steps fail.
func fails(err error, what ...string) func(string) error {
	return func(step string) error {
		if slices.Contains(what, step) {
			return err
		}
		return nil
	}
}

// kept is what the reconciler made, without what a fresh start makes anew:
// router ids, sets, and the order of maps.
type kept struct {
	Have     *plan.State
	Broken   map[plan.PortKey]string
	Ports    map[plan.PortKey]plan.Port
	Told     map[plan.Identity]plan.Router // to ports
	Routers  map[string]string             // in the table, by name: the port
	Table    []string                      // ports in it
	Sets     []string
	Unfenced []release.Address
	Firewall map[string][]netip.Addr
	Locks    map[string]bool
	Shown    map[string]string // instances: why they are in FAULT
	IDs      int
	Known    int // sets that reports are taken of
	Leaving  int
}

func (b *bench) kept() kept {
	k := kept{
		Have: b.r.have.Clone(), Broken: maps.Clone(b.r.broken), Ports: map[plan.PortKey]plan.Port{}, Told: map[plan.Identity]plan.Router{},
		Routers: map[string]string{}, Unfenced: b.unfenced, Firewall: maps.Clone(b.firewall), Locks: maps.Clone(b.locks), Shown: map[string]string{},
		Leaving: len(b.r.leaving) + len(b.leaving),
	}
	for _, f := range b.ports {
		k.Ports[f.key] = f.port
		for _, r := range f.routers {
			k.Told[r.at] = r.router
		}
	}
	for _, x := range b.r.routers {
		assert.Contains(b.t, b.table.Routers, x.Router)
		if s, ok := b.specs[x.Router]; ok {
			assert.Equal(b.t, engineSpec(&x.plan), s, "the loop has another Spec of %s", x.plan.Name)
		}
		assert.Equal(b.t, setSpec(&x.plan), b.sets[x.set])
		k.Routers[x.plan.Name] = x.Port.Name + strconv.Itoa(x.Port.Ifindex)
	}
	assert.Len(b.t, b.table.Routers, len(b.r.routers)+len(b.r.leaving))
	for _, p := range b.table.Ports {
		k.Table = append(k.Table, p.Name)
	}
	slices.Sort(k.Table)
	for _, s := range b.sets {
		k.Sets = append(k.Sets, fmt.Sprint(s))
	}
	slices.Sort(k.Sets)
	for name, i := range b.status() {
		k.Shown[name] = i.Fault
	}
	for name := range k.Locks { // those of missing interfaces are kept, not taken
		ifname, _, _ := strings.Cut(name, ":")
		if b.facts.Link(ifname) == nil {
			delete(k.Locks, name)
		}
	}
	for _, used := range b.r.byID {
		if used {
			k.IDs++
		}
	}
	b.r.sets.Range(func(any, any) bool {
		k.Known++
		return true
	})
	return k
}

// sameAsFresh asserts that a fresh start with this file on this host makes the
// same.
func (b *bench) sameAsFresh() {
	b.t.Helper()
	fresh := newBench(b.t, b.file, b.facts.Links...).start()
	defer func() { assert.NoError(b.t, fresh.leaves()) }()
	same(b.t, fresh.kept(), b.kept())
}

// same asserts that two hold the same, and tells what differs.
func same(t *testing.T, want, got kept) {
	t.Helper()
	for n := range reflect.TypeFor[kept]().NumField() {
		assert.Equal(t, reflect.ValueOf(want).Field(n).Interface(), reflect.ValueOf(got).Field(n).Interface(),
			reflect.TypeFor[kept]().Field(n).Name)
	}
}
