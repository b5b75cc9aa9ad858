// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/dataplane"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/release"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

const (
	// A step that failed is tried again after firstRetry, later and later.
	firstRetry   = 250 * time.Millisecond
	longestRetry = 30 * time.Second
	// A stop ends after leaveTime, whatever has not left by then: a master
	// serves for two seconds at most until its successor is there.
	leaveTime = 5 * time.Second
	// pathCheck is how often the programs are looked at, within a second: a
	// router whose program was taken off hears nobody.
	pathCheck = 800 * time.Millisecond
	// A program that is displaced again and again is put back at once so many
	// times, and then later and later; longestRetry is the longest pause.
	displacedAtOnce = 5
	// A lock that another daemon holds is asked for again, for 100 ms in all.
	askTries = 20
	askPause = 5 * time.Millisecond
)

// running is a virtual router that runs.
type running struct {
	*engine.Router
	at      plan.Identity
	plan    plan.Router
	set     *vip.Set
	port    *dataplane.Port // nil: the interface is missing or could not be opened
	trouble atomic.Pointer[snapshot.Trouble]
	carried atomic.Uint64 // the last epoch of ownership that was reported
}

// reconciler carries the difference between what there is and what is wanted
// out. It belongs to one goroutine, but for reported.
type reconciler struct {
	*Daemon
	plane    plane
	loop     loop
	addrs    addresses
	links    links
	cfg      *config.Config
	have     *plan.State // what really succeeded
	broken   map[plan.PortKey]string
	gone     map[int]bool // interfaces that vanished, also if they are back, until their ports are closed
	ports    map[plan.PortKey]*dataplane.Port
	routers  map[plan.Identity]*running
	leaving  map[*engine.Router]*running
	listener listener // during the first round; nil: there is none
	byID     []bool   // router ids that are used
	sessions []*engine.Session
	local    uint32                 // discriminator of the first session
	prober   prober                 // nil: no port has wanted it
	probes   func() (prober, error) // opens one
	takeLock func(ifname string) (lock, error)
	locks    map[string]lock // nil: there is no place for one
	batches  uint64
	unsure   bool            // another program changed the firewall
	told     findings        // about this host
	inFile   findings        // about the file
	failed   map[string]bool // steps that failed, and were logged
	retry    time.Duration   // until failed steps are tried again; 0: none failed
	unpinned bool            // pins are gone, and cannot be made again
	kept     map[int]bool    // wanted interfaces that keep what a predecessor left, see tidy; nil: before the first round
	tried    time.Time       // when retryPrograms looked last

	displaced map[plan.PortKey]fight
	removed   map[string]removal // firewall tables, by interface, that something else removed lately

	sets sync.Map // *vip.Set to *running, for reported
}

func newReconciler(d *Daemon) *reconciler {
	r := &reconciler{
		Daemon: d, cfg: d.opts.Config, have: plan.NewState(), takeLock: lockOf(d.netns), probes: newProber,
		plane: realPlane{&dataplane.Plane{
			NetNS: d.netns, Instance: d.opts.Config.Instance, Version: d.opts.Version, Log: d.log,
			Room: dataplane.RoomFor(d.opts.Config),
		}},
		broken: map[plan.PortKey]string{}, gone: map[int]bool{}, ports: map[plan.PortKey]*dataplane.Port{},
		routers: map[plan.Identity]*running{}, leaving: map[*engine.Router]*running{},
		locks: map[string]lock{}, failed: map[string]bool{}, displaced: map[plan.PortKey]fight{}, removed: map[string]removal{},
		// Any but 0; peers that met a predecessor's sessions see others.
		local: rand.Uint32()<<16 | 1<<31,
	}
	return r
}

// lock makes sure that no other daemon serves an interface. Without a place for
// locks it goes on without.
func (r *reconciler) lock(ifname string) error {
	if _, ok := r.locks[ifname]; ok {
		return nil
	}
	l, err := r.takeLock(ifname)
	if errors.Is(err, rundir.ErrInUse) {
		return err
	}
	if err != nil {
		r.log.Warn("no lock: another xvrrpd on this interface would not be noticed", "iface", ifname, "err", err)
	}
	r.locks[ifname] = l
	return nil
}

// lockAtStart is lock that waits for a moment: another daemon that only asks
// whether an interface is served has its lock meanwhile.
func (r *reconciler) lockAtStart(ifname string) error {
	for range askTries {
		if err := r.lock(ifname); !errors.Is(err, rundir.ErrInUse) {
			return err
		}
		time.Sleep(askPause)
	}
	return r.lock(ifname)
}

func (r *reconciler) unlock() error {
	var errs []error
	for _, l := range r.locks {
		if l != nil {
			errs = append(errs, l.Release())
		}
	}
	return errors.Join(errs...)
}

// run reconciles until ctx ends, and then until nothing is left. It fails if
// this process lacks a right that it needs.
func (r *reconciler) run(ctx context.Context, ready func()) error {
	want, diags := r.want()
	r.tell(diags)
	r.have = plan.Observed(r.links.Facts(), want)
	err := r.reconcile(want)
	r.deafen()
	// What fails is tried again, but a right that is missing does not come.
	if errors.Is(err, fs.ErrPermission) {
		return errors.Join(err, r.leave())
	}
	// Also if none is wanted: a crash may have left some.
	if _, err := r.addrs.Firewall(r.have.Firewall, r.removable); err != nil {
		r.log.Info("cannot look for leftover firewall entries", "err", err)
	}
	ready()
	retry := time.NewTimer(r.retryIn())
	defer retry.Stop()
	repair := time.NewTimer(r.repairIn())
	defer repair.Stop()
	path := time.NewTicker(pathCheck)
	defer path.Stop()
	for {
		pending, rest := r.pending()
		select {
		case <-rest:
			r.plane.Complete(pending)
			continue
		case <-path.C:
			r.retryPrograms()
			r.checkPath()
			r.checkPins()
			continue
		case <-r.links.Changed():
		case <-retry.C:
			r.retry = min(2*r.retry, longestRetry) // if it fails again
		case <-repair.C:
		case <-r.inbox.signal:
			r.collect()
		case q := <-r.reloads:
			q.answer <- r.reload(q)
		case <-r.loopDone:
			return nil
		case <-ctx.Done():
			return r.leave()
		}
		want, diags := r.want()
		r.tell(diags)
		_ = r.reconcile(want) // what failed was logged, and is tried again
		r.updateLocks()
		retry.Reset(r.retryIn())
		repair.Reset(r.repairIn())
	}
}

// pending returns a port of which a part is still to be attached, and a channel
// that is ready: there is time for one between any two events.
func (r *reconciler) pending() (*dataplane.Port, <-chan struct{}) {
	for _, p := range r.ports {
		if r.plane.Pending(p) {
			return p, always
		}
	}
	return nil, nil
}

var always = func() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

// checkPath puts programs back that something took off, or that another
// program stands before. Where that fails, the interface is opened again, in
// the next mode that works.
func (r *reconciler) checkPath() {
	for key, p := range r.ports {
		if r.plane.InPath(p) || !r.fights(key) {
			continue
		}
		why := "the BPF program was detached from the interface, or another program runs before it"
		if !p.HasProgram() {
			why = "the packet socket lost the interface, which went and came back"
		}
		r.journal.Append(journal.Entry{Time: time.Now(), Kind: journal.Displaced, Interface: key.Name, Why: why})
		if err := r.plane.Attach(p); err != nil {
			r.log.Error(why+"; reopening the interface", "iface", key.Name, "err", err)
			r.inbox.interfaceGone(key.Ifindex)
			continue
		}
		r.log.Error(why+"; attached it again", "iface", key.Name, "mode", p.Mode)
		r.publish()
	}
}

// fight is with whoever displaces the program of an interface.
type fight struct {
	count      int
	last, next time.Time
}

// fights reports whether a program that was displaced is to be put back now. Two
// that both want to be the first must not drive each other.
func (r *reconciler) fights(key plan.PortKey) bool {
	f, now := r.displaced[key], time.Now()
	if now.Before(f.next) {
		return false
	}
	if now.Sub(f.last) > 2*longestRetry {
		f.count = 0
	}
	f.count++
	f.last = now
	if n := f.count - displacedAtOnce; n >= 0 {
		pause := min(pathCheck<<min(n, 10), longestRetry)
		f.next = now.Add(pause)
		r.log.Error("something displaces our BPF program again and again; it is put back later and later",
			"iface", key.Name, "next", pause)
	}
	r.displaced[key] = f
	return true
}

// checkPins puts back what keeps the programs when this daemon is killed. Where
// that fails, the releaser has to remove the addresses.
func (r *reconciler) checkPins() {
	made, err := r.plane.KeepPins()
	was := r.unpinned
	r.unpinned = err != nil
	switch {
	case err == nil && made:
		r.log.Warn("something removed the pins of the BPF programs; made them again")
	case err != nil && !was:
		r.log.Error("something removed the pins of the BPF programs, and they cannot be made again: "+
			"a crash of xvrrpd also detaches its programs", "err", err)
	}
	if r.unpinned != was {
		r.addrs.Unfenced(r.unfenced())
	}
}

func (r *reconciler) retryIn() time.Duration {
	if r.retry == 0 {
		return time.Hour
	}
	return r.retry
}

// retryPrograms opens the interfaces again that use the packet socket for a
// reason that has passed. Their routers start anew, so a master keeps its
// interface as it is.
func (r *reconciler) retryPrograms() {
	if time.Since(r.tried) < longestRetry {
		return
	}
	r.tried = time.Now()
	for key, p := range r.ports {
		if r.owns(p) || !r.plane.Retry(p) {
			continue
		}
		r.log.Info("a BPF program can be attached now; reopening the interface", "iface", key.Name)
		r.inbox.interfaceGone(key.Ifindex)
	}
}

// owns reports whether a router on a port has its addresses.
func (r *reconciler) owns(p *dataplane.Port) bool {
	for _, x := range r.routers {
		if x.port == p && x.carried.Load()&1 == 1 {
			return true
		}
	}
	for _, x := range r.leaving {
		if x.port == p && x.carried.Load()&1 == 1 {
			return true
		}
	}
	return false
}

func (r *reconciler) planOptions() plan.Options {
	return plan.Options{Dataplane: r.opts.Dataplane, Hold: r.opts.Config.Process.Lease, Broken: r.broken}
}

// facts are those of this host. Programs and memberships went with an interface
// that vanished, even if it is back with its index by now: it is missing until
// its port is closed.
func (r *reconciler) facts() *plan.Facts { return r.addrs.Marked(r.links.Facts()).Without(r.gone) }

func (r *reconciler) want() (*plan.State, config.Diagnostics) {
	want, diags := plan.Compute(r.cfg, r.facts(), r.planOptions())
	maps.DeleteFunc(r.broken, func(k plan.PortKey, _ string) bool {
		_, wanted := want.Ports[k]
		return !wanted
	})
	return want, diags
}

// leave stops everything, within leaveTime. A step that fails is tried again,
// but for a right that is missing.
func (r *reconciler) leave() error {
	limit := time.NewTimer(leaveTime)
	defer limit.Stop()
	nothing := plan.NewState()
	nothing.Firewall = r.have.Firewall // closePorts takes it away, once no address is left
	for {
		err := r.reconcile(nothing)
		left := len(r.have.Routers) == 0 && len(r.have.Leaving) == 0
		if left && (err == nil || errors.Is(err, fs.ErrPermission)) {
			return err
		}
		var again <-chan time.Time
		if err != nil {
			again = time.After(firstRetry)
		}
		select {
		case <-again:
		case <-time.After(r.repairIn()):
		case <-r.inbox.signal:
			r.collect()
		case <-limit.C:
			if !left {
				err = errors.Join(err, errors.New("not every virtual router has left in time"))
			}
			return err
		case <-r.loopDone:
			return err
		}
	}
}

// removeSets has the addresses removed that routers still own: the event loop has
// ended. After a stop in order there are none.
func (r *reconciler) removeSets() {
	for _, x := range r.routers {
		r.addrs.Remove(x.set)
	}
	for _, x := range r.leaving {
		r.addrs.Remove(x.set)
	}
}

// closePorts detaches the programs, once the addresses are gone.
func (r *reconciler) closePorts() error {
	r.reader.Set(&snapshot.Sources{})
	var errs []error
	for _, p := range r.ports {
		errs = append(errs, r.plane.ClosePort(p))
	}
	errs = append(errs, r.plane.Close())
	if r.prober != nil {
		errs = append(errs, r.prober.Close())
	}
	_, err := r.addrs.Firewall(nil, func(ifname string) bool { return len(r.have.Firewall[ifname]) > 0 || r.removable(ifname) })
	return errors.Join(append(errs, err)...)
}

// tell logs what is news about this host. An interface that is only thought to
// be missing is none.
func (r *reconciler) tell(diags config.Diagnostics) {
	if len(r.gone) == 0 {
		r.told = r.told.tell(diags, r.log)
	}
}

// findings are the messages that were logged.
type findings map[string]bool

// tell logs what is news, and returns what is the case now.
func (f findings) tell(diags config.Diagnostics, log *slog.Logger) findings {
	now := findings{}
	for _, g := range diags {
		text := g.String()
		if now[text] = true; f[text] {
			continue
		}
		level := slog.LevelWarn
		if g.Severity == config.Note {
			level = slog.LevelInfo
		}
		log.Log(context.Background(), level, g.Message, "at", g.Pos.String())
	}
	return now
}

// work is what the steps of one round leave to do together.
type work struct {
	starts  map[plan.PortKey][]dataplane.Router // to start on a port that is opened, with their ids
	ids     map[plan.Identity]loader.RouterID   // of those whose port is open
	batch   engine.Batch
	changed bool // the table is another
	news    bool // for snapshots
	sets    []vip.Change
	closing []*dataplane.Port
}

// expect notes which routers start on which port: the port is told of them
// before it receives.
func (w *work) expect(steps []plan.Step) {
	w.starts, w.ids = map[plan.PortKey][]dataplane.Router{}, map[plan.Identity]loader.RouterID{}
	for _, s := range steps {
		if s, ok := s.(plan.StartRouter); ok {
			w.starts[s.ID.Port] = append(w.starts[s.ID.Port], dataplane.Router{At: s.ID, Plan: &s.Router})
		}
	}
}

// reconcile does what can be done now.
func (r *reconciler) reconcile(want *plan.State) error {
	var w work
	var errs []error
	failed := map[string]bool{}
	fail := func(err error) {
		errs = append(errs, err)
		failed[err.Error()] = true
		if !r.failed[err.Error()] {
			r.log.Error("a step failed and will be retried", "err", err)
		}
	}
	steps := plan.Diff(r.have, want)
	w.expect(steps)
	for _, s := range steps {
		if err := r.do(s, &w); err != nil {
			fail(err)
			continue
		}
		r.have.Apply(s)
	}
	if err := r.restoreFirewall(&w); err != nil {
		fail(err)
	}
	r.failed = failed
	if r.retry = max(r.retry, firstRetry); len(errs) == 0 {
		r.retry = 0
	}
	r.liftFences()
	r.tidy(want)
	r.commit(&w)
	r.comeBack()
	return errors.Join(errs...)
}

// comeBack lets interfaces that vanished be there again, once nothing is left of
// what went with them.
func (r *reconciler) comeBack() {
	for ifindex := range r.gone {
		if !r.isOpen(ifindex) {
			delete(r.gone, ifindex)
			r.inbox.wake()
		}
	}
}

func (r *reconciler) isOpen(ifindex int) bool {
	for key := range r.ports {
		if key.Ifindex == ifindex {
			return true
		}
	}
	return false
}

// tidy takes off what a predecessor left and nobody uses, in the first round. What
// is on an interface that is wanted and could not be opened stays, since its port
// will take it over, until that is open or no longer wanted.
func (r *reconciler) tidy(want *plan.State) {
	waits := map[int]bool{}
	for key := range want.Ports {
		if r.ports[key] == nil {
			waits[key.Ifindex] = true
		}
	}
	if r.kept == nil {
		r.kept = waits
	} else {
		before := len(r.kept)
		maps.DeleteFunc(r.kept, func(ifindex int, _ bool) bool { return !waits[ifindex] })
		if len(r.kept) == before {
			return
		}
	}
	r.plane.DropUnused(r.kept, r.removable)
}

// liftFences forgets the masters that a predecessor's fences were closed for,
// once its addresses are gone. A router takes over its fence when it starts,
// which may be later than others.
func (r *reconciler) liftFences() {
	if len(r.have.Leftovers) == 0 {
		r.plane.LiftFences()
	}
}

// do carries one step out, or notes in w what belongs to the event loop.
func (r *reconciler) do(s plan.Step, w *work) error {
	switch s := s.(type) {
	case plan.RemoveLeftovers:
		return r.removeLeftovers(s.Addresses)
	case plan.SetFirewall:
		if len(s.Addresses) > 0 {
			// Its table is that of the daemon that serves the interface.
			if err := r.lock(s.Interface); err != nil {
				return err
			}
		}
		next := r.have.Clone()
		next.Apply(s)
		// While this daemon runs, no table but its own: one without the same locks
		// may have others.
		_, err := r.addrs.Firewall(next.Firewall, func(ifname string) bool { return ifname == s.Interface && r.free(ifname, true) })
		return err
	case plan.OpenPort:
		return r.openPort(s, w)
	case plan.ChangePort:
		return r.changePort(s, w)
	case plan.ClosePort:
		w.closing = append(w.closing, r.ports[s.Key])
		delete(r.ports, s.Key)
		delete(r.displaced, s.Key)
		w.changed = true
	case plan.StartRouter:
		return r.start(s, w)
	case plan.ChangeRouter:
		return r.change(s, w)
	case plan.StopRouter:
		x := r.routers[s.ID]
		delete(r.routers, s.ID)
		r.leaving[x.Router] = x
		w.batch.Stop = append(w.batch.Stop, x.Router)
	}
	return nil
}

// removeLeftovers removes addresses that a predecessor left, unless another
// daemon serves their interface.
func (r *reconciler) removeLeftovers(list []plan.Address) error {
	var left []vip.Address
	removable := map[string]bool{} // asked once: who asks has the locks for a moment
	for _, a := range list {
		l := r.links.Facts().ByIndex(a.Ifindex)
		if l == nil {
			continue
		}
		if _, asked := removable[l.Name]; !asked {
			removable[l.Name] = r.removable(l.Name)
		}
		if removable[l.Name] {
			left = append(left, vip.Address{Ifindex: a.Ifindex, Prefix: a.Prefix, Peer: a.Peer})
		}
	}
	if err := r.addrs.RemoveLeftovers(left); err != nil {
		return fmt.Errorf("remove addresses that were left behind: %w", err)
	}
	for _, a := range left {
		r.log.Warn("removed a leftover address of an earlier run", "address", a.Prefix)
	}
	return nil
}

// addressLock is the lock of an interface that carries addresses and is used
// for nothing else. No interface has a colon in its name.
func addressLock(ifname string) string { return ifname + ":addresses" }

// lockAddresses keeps other daemons from taking addresses on interfaces that
// adverts do not use for leftovers. Daemons may share such an interface: one
// that holds the lock protects them all.
func (r *reconciler) lockAddresses(at plan.PortKey, addresses []plan.Address) {
	for _, a := range addresses {
		if l := r.links.Facts().ByIndex(a.Ifindex); l != nil && a.Ifindex != at.Ifindex {
			_ = r.lock(addressLock(l.Name))
		}
	}
}

// updateLocks takes the locks of addresses that another daemon held when they
// were wanted, and lets other daemons serve the interfaces that the configuration
// does not name and no router uses any more. A stop keeps them until the
// addresses are gone.
func (r *reconciler) updateLocks() {
	for _, x := range r.routers {
		r.lockAddresses(x.at.Port, x.plan.Addresses)
	}
	facts, needed := r.links.Facts(), map[string]bool{}
	for _, i := range r.cfg.Instances {
		needed[i.Interface] = true
		if l := facts.Link(i.Interface); l != nil {
			needed[l.Name] = true
		}
	}
	for key := range r.ports {
		needed[key.Name] = true
	}
	for name := range r.have.Firewall { // its table is still to be removed
		needed[name] = true
	}
	addresses := func(x *running) {
		for _, a := range x.plan.Addresses {
			if l := facts.ByIndex(a.Ifindex); l != nil && a.Ifindex != x.at.Port.Ifindex {
				needed[addressLock(l.Name)] = true
			}
		}
	}
	for _, x := range r.routers {
		addresses(x)
	}
	for _, x := range r.leaving {
		addresses(x)
	}
	for name, l := range r.locks {
		if needed[name] {
			continue
		}
		delete(r.locks, name)
		if l == nil {
			continue
		}
		if err := l.Release(); err != nil {
			r.log.Warn("could not release a lock", "iface", name, "err", err)
		}
	}
}

// removable reports whether what is left on an interface may be removed: no
// other daemon serves it. Where locks do not tell, the file has to name it.
func (r *reconciler) removable(ifname string) bool {
	named := r.named(ifname)
	return r.free(ifname, named) && r.free(addressLock(ifname), named)
}

// named reports whether the file names an interface.
func (r *reconciler) named(ifname string) bool {
	is := func(name string) bool {
		l := r.links.Facts().Link(name)
		return name == ifname || l != nil && l.Name == ifname
	}
	return slices.ContainsFunc(r.cfg.Instances, func(i *config.Instance) bool {
		return is(i.Interface) || slices.ContainsFunc(i.Addresses, func(a config.Address) bool { return is(a.Dev) })
	})
}

// free reports whether no other daemon holds a lock; without a place for it,
// otherwise.
func (r *reconciler) free(name string, otherwise bool) bool {
	if _, ok := r.locks[name]; ok {
		return true
	}
	l, err := r.takeLock(name)
	if err != nil {
		return !errors.Is(err, rundir.ErrInUse) && otherwise
	}
	return l.Release() == nil
}

func (r *reconciler) open(s plan.OpenPort, w *work) (*dataplane.Port, error) {
	if err := r.lock(s.Key.Name); err != nil {
		return nil, err
	}
	routers := w.starts[s.Key]
	for n := range routers {
		routers[n].ID = r.newID()
	}
	p, err := r.plane.Open(s.Key, &s.Port, routers)
	if err == nil {
		if err = r.ensureProber(p, &s.Port); err != nil {
			err = errors.Join(err, r.plane.ClosePort(p))
		}
	}
	for _, x := range routers {
		if err != nil {
			r.byID[x.ID] = false
			continue
		}
		w.ids[x.At] = x.ID
	}
	return p, err
}

func (r *reconciler) openPort(s plan.OpenPort, w *work) error {
	p, err := r.open(s, w)
	if was := r.broken[s.Key]; err != nil && was != err.Error() {
		r.broken[s.Key] = err.Error()
		r.inbox.wake() // its routers wait in FAULT
	} else if err == nil && was != "" {
		delete(r.broken, s.Key)
		r.inbox.wake()
	}
	if err != nil {
		return err
	}
	r.warnOfProbes(s.Key, p, &s.Port)
	if !r.plane.HasProgram(p) {
		r.log.Warn("no BPF program, so no fence: if xvrrpd hangs while MASTER, its addresses may answer beside the new "+
			"master's until xvrrpd-releaser removes them, 1.75 x vrrp_lease later at most; if it is killed, they are removed at once", "iface", s.Key.Name)
	}
	attrs := []any{"iface", s.Key.Name, "mode", p.Mode}
	if p.Reason != "" {
		attrs = append(attrs, "reason", p.Reason)
	}
	r.log.Info("data plane", attrs...)
	r.ports[s.Key] = p
	w.changed = true
	return nil
}

// ensureProber opens what probes are sent with, for the first port that wants
// some.
func (r *reconciler) ensureProber(p *dataplane.Port, to *plan.Port) (err error) {
	if r.prober == nil && to.Probes && r.plane.HasProgram(p) {
		r.prober, err = r.probes()
	}
	return err
}

func (r *reconciler) warnOfProbes(key plan.PortKey, p *dataplane.Port, to *plan.Port) {
	if to.Probes && (!r.plane.HasProgram(p) || !to.Ethernet) {
		r.log.Warn("fast_detect needs a BPF program and Ethernet; the RFC's timer decides", "iface", key.Name)
	}
}

func (r *reconciler) changePort(s plan.ChangePort, w *work) error {
	p := r.ports[s.Key]
	if err := r.plane.Change(p, &s.Port); err != nil {
		return err
	}
	had := r.prober != nil
	if err := r.ensureProber(p, &s.Port); err != nil {
		return err
	}
	w.changed = w.changed || !had && r.prober != nil // also if its routers have changed before
	if !s.Was.Probes {
		r.warnOfProbes(s.Key, p, &s.Port)
	}
	return nil
}

// newID returns a router id that is not used.
func (r *reconciler) newID() loader.RouterID {
	n := slices.Index(r.byID, false)
	if n < 0 {
		n = len(r.byID)
		r.byID = append(r.byID, false)
	}
	r.byID[n] = true
	return loader.RouterID(n)
}

func engineSpec(p *plan.Router) engine.Spec {
	s := engine.Spec{
		Name: p.Name, Config: p.Config, FastDetect: engine.FastDetect(p.FastDetect),
		Frame: transport.NewFrame(p.Advert, p.Config.Source, p.Group),
	}
	s.Config.Tracks = slices.Clone(s.Config.Tracks) // the loop writes to them
	for _, watched := range p.Watch {
		s.Watch = append(s.Watch, engine.Watched(watched))
	}
	return s
}

func setSpec(p *plan.Router) vip.Spec {
	s := vip.Spec{Announce: vip.Announcement(p.GARP)}
	for _, a := range p.Addresses {
		s.Addresses = append(s.Addresses, vip.Address{
			Ifindex: a.Ifindex, Prefix: a.Prefix, Scope: a.Scope, Broadcast: a.Broadcast, Label: a.Label, Peer: a.Peer,
			Own: a.Host,
		})
	}
	return s
}

func (r *reconciler) start(s plan.StartRouter, w *work) error {
	x := &running{at: s.ID, plan: s.Router, port: r.ports[s.ID.Port]}
	if x.port == nil && s.Router.Fault == "" {
		return fmt.Errorf("start %s: interface %s is not open", s.Router.Name, s.ID.Port.Name)
	}
	port := dataplane.Idle(s.ID.Port.Name)
	id, ok := w.ids[s.ID]
	if !ok {
		id = r.newID()
	}
	if x.port != nil {
		port = x.port.Engine
	}
	if x.port != nil && !r.plane.Knows(x.port, id) {
		if err := r.plane.SetRouter(x.port, id, s.ID, &s.Router); err != nil {
			r.byID[id] = false
			return err
		}
	}
	r.lockAddresses(s.ID.Port, s.Router.Addresses)
	if r.listener != nil && x.port != nil && !r.listener.SetRouter(id, s.ID, &s.Router) {
		r.deafen()
	}
	x.set = r.addrs.Add(setSpec(&s.Router))
	x.Router = engine.NewRouter(id, port, x.set, engineSpec(&s.Router))
	r.routers[s.ID] = x
	r.sets.Store(x.set, x)
	w.batch.Start = append(w.batch.Start, x.Router)
	w.changed = true
	return nil
}

func (r *reconciler) change(s plan.ChangeRouter, w *work) error {
	x := r.routers[s.ID]
	if x.port != nil {
		if err := r.plane.SetRouter(x.port, x.ID, s.ID, &s.Router); err != nil {
			return err
		}
	}
	r.lockAddresses(s.ID.Port, s.Router.Addresses)
	x.plan = s.Router
	w.batch.Change = append(w.batch.Change, engine.Change{Router: x.Router, Spec: engineSpec(&s.Router)})
	w.sets = append(w.sets, vip.Change{Set: x.set, Spec: setSpec(&s.Router)})
	w.changed = true // it may want fast detection now
	return nil
}

// reported takes a report of vip.Host.
func (r *reconciler) reported(rep vip.Report) {
	v, ok := r.sets.Load(rep.Set)
	if !ok {
		return
	}
	x := v.(*running)
	x.carried.Store(rep.Epoch) // before it is asked whether it has retired, see collect
	if r.loop.Retired(x.Router) && !rep.Owned() {
		r.sets.Delete(rep.Set) // there will be no other
	}
	r.writer.Report(x.Router, journal.Report{
		Epoch: rep.Epoch, OrderedNs: rep.OrderedNs, AppliedNs: rep.AppliedNs, Announced: rep.Announced, Err: rep.Err(),
	})
	if len(rep.Failed) == 0 && len(rep.Removed) == 0 {
		x.trouble.Store(nil)
		return
	}
	t := &snapshot.Trouble{Since: clock.Now()}
	for i := range rep.Failed {
		t.Failed = append(t.Failed, rep.Failed[i].Error())
	}
	for _, a := range rep.Removed {
		t.Removed = append(t.Removed, a.Prefix.String())
	}
	x.trouble.Store(t)
}

// commit hands what the steps noted to the event loop, and then frees what
// nobody uses any more.
func (r *reconciler) commit(w *work) {
	r.addrs.Unfenced(r.unfenced()) // before the event loop can take them over
	if w.changed || len(w.batch.Stop) > 0 {
		if w.changed {
			w.batch.Table = r.table()
		}
		if r.listener != nil {
			w.batch.Heard = r.listener
		}
		r.apply(&w.batch)
	}
	if len(w.sets) > 0 {
		r.addrs.Update(w.sets...)
	}
	if w.changed || w.news {
		r.publish()
	}
	for _, p := range w.closing {
		if err := r.plane.ClosePort(p); err != nil {
			r.log.Warn("could not clean up a closed interface completely", "err", err)
		}
	}
}

// deafen ends the listener: the routers hear for themselves, or one of them
// would not have been heard.
func (r *reconciler) deafen() {
	if r.listener == nil {
		return
	}
	if err := r.listener.Close(); err != nil {
		r.log.Warn("could not close a packet socket", "err", err)
	}
	r.listener = nil
}

// unfenced returns the addresses of routers that no fence can silence, while this
// daemon hangs or once it is gone, and that are not to answer then.
func (r *reconciler) unfenced() (list []release.Address) {
	add := func(x *running) {
		if x.port == nil || !x.plan.Fence {
			return
		}
		// A peer counts from the last advert, which may be an interval older than
		// the hang.
		takeover := time.Duration(x.plan.Config.DownAdverts-1) * x.plan.Config.Interval
		if x.port.Mode != transport.ModeSocket {
			if x.port.Pins != "" && !r.unpinned {
				return
			}
			takeover = release.Never // its program ends with this daemon
		}
		for _, a := range x.plan.Addresses {
			if !a.Host {
				list = append(list, release.Address{
					Address: vip.Address{Ifindex: a.Ifindex, Prefix: a.Prefix, Peer: a.Peer}, Takeover: takeover,
				})
			}
		}
	}
	for _, x := range r.routers {
		add(x)
	}
	for _, x := range r.leaving {
		add(x)
	}
	slices.SortFunc(list, func(a, b release.Address) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	return list
}

// apply hands a batch to the event loop and waits until it is in place.
func (r *reconciler) apply(b *engine.Batch) {
	r.batches++
	b.Number = r.batches
	if !r.loop.Apply(b) {
		return // the loop ended with the batch before
	}
	for r.loop.Applied() < b.Number {
		select {
		case <-r.inbox.signal:
		case <-r.loopDone:
			return
		}
	}
	r.inbox.wake() // for what came along with it
}

// table returns what the event loop is to work on.
func (r *reconciler) table() *engine.Table {
	t := &engine.Table{Prober: nil}
	if r.prober != nil {
		t.Prober = r.prober
	}
	for _, p := range r.ports {
		t.Ports = append(t.Ports, p.Engine)
	}
	if k := r.plane.Kernel(); k != nil {
		t.Rings = append(t.Rings, k)
		t.Kernels = append(t.Kernels, k)
	}
	probes := 0
	add := func(x *running) {
		t.Routers = append(t.Routers, x.Router)
		if x.plan.FastDetect.Enabled {
			probes++
		}
	}
	for _, x := range r.routers {
		add(x)
	}
	for _, x := range r.leaving {
		add(x)
	}
	for len(r.sessions) < min(probes, loader.SessionMax) {
		r.sessions = append(r.sessions, engine.NewSession(r.local|uint32(len(r.sessions))))
	}
	t.Sessions = slices.Clone(r.sessions)
	return t
}

// collect takes what the event loop has told.
func (r *reconciler) collect() {
	firewall, gone := r.inbox.take()
	maps.Copy(r.gone, gone)
	var retired []*engine.Router
	for router, x := range r.leaving {
		if !r.loop.Retired(router) {
			continue
		}
		retired = append(retired, router)
		delete(r.leaving, router)
		if x.port != nil {
			r.plane.RemoveRouter(x.port, x.ID)
		}
		if r.loop.Epoch(router) == x.carried.Load() {
			r.sets.Delete(x.set) // nothing more is reported of it
		}
		r.addrs.Remove(x.set)
		r.have.Retired(x.at)
	}
	if len(retired) > 0 {
		r.addrs.Unfenced(r.unfenced())
		r.apply(&engine.Batch{Table: r.table()})
		// Only now: an event of an old number finds no other router.
		for _, router := range retired {
			r.byID[router.ID] = false
		}
		r.publish()
	}
	r.unsure = r.unsure || firewall
}

// removal is what something else does to the firewall table of an interface.
type removal struct {
	since      int64 // on clock.Now
	repairs    int   // in succession
	last, next time.Time
}

// restoreFirewall puts back what another program removed, e.g. with nft flush
// ruleset. It writes all entries at once: none is missing for a moment. A table
// that something keeps removing waits, as an address does, see vip.RepairPause;
// those of other interfaces do not.
func (r *reconciler) restoreFirewall(w *work) error {
	now := time.Now()
	for ifname, x := range r.removed {
		if len(r.have.Firewall[ifname]) == 0 || now.Sub(x.last) >= vip.Stay {
			delete(r.removed, ifname)
			w.news = true
		}
	}
	if !r.unsure {
		return nil
	}
	want := maps.Clone(r.have.Firewall)
	maps.DeleteFunc(want, func(ifname string, _ []netip.Addr) bool { return now.Before(r.removed[ifname].next) })
	written, err := r.addrs.Firewall(want, func(string) bool { return false })
	if err != nil {
		return fmt.Errorf("restore the firewall entries that another program changed: %w", err)
	}
	r.unsure = len(want) < len(r.have.Firewall)
	for _, ifname := range written {
		x, ok := r.removed[ifname]
		if !ok {
			x.since, w.news = clock.Now(), true
		}
		x.repairs++
		x.last, x.next = now, now.Add(vip.RepairPause(x.repairs+1))
		r.removed[ifname] = x
	}
	if len(written) > 0 {
		r.log.Warn("another program removed our firewall entries; restored them", "ifaces", written)
	}
	return nil
}

// repairIn is when restoreFirewall has something to do of itself: a repair that
// waits, or the end of an alarm.
func (r *reconciler) repairIn() time.Duration {
	in := time.Hour
	for _, x := range r.removed {
		in = min(in, time.Until(x.last.Add(vip.Stay)))
		if pause := time.Until(x.next); r.unsure && pause > 0 {
			in = min(in, pause)
		}
	}
	return in
}

// unguarded returns the trouble with the firewall entries of a router; nil if
// there is none.
func (r *reconciler) unguarded(x *running) *snapshot.Trouble {
	removed, ok := r.removed[x.at.Port.Name]
	if !ok {
		return nil
	}
	t := &snapshot.Trouble{Since: removed.since}
	for _, a := range x.plan.Addresses {
		if slices.Contains(r.have.Firewall[x.at.Port.Name], a.Prefix.Addr()) {
			t.Removed = append(t.Removed, a.Prefix.String())
		}
	}
	return t
}

// publish replaces what snapshots read.
func (r *reconciler) publish() {
	s := &snapshot.Sources{Sessions: slices.Clone(r.sessions)}
	for _, key := range sortedKeys(r.ports) {
		p := r.ports[key]
		port := snapshot.Port{
			Port: p.Engine, Mode: string(p.Mode), Reason: p.Reason, Pins: p.Pins, Counters: p.Counters(),
			Reflects: slices.ContainsFunc(r.have.Ports[key].Locals, func(l plan.Local) bool { return l.Reflect }),
		}
		if p.HasProgram() {
			port.Records = p.Kernel()
		}
		s.Ports = append(s.Ports, port)
	}
	order := map[string]int{}
	for n, i := range r.cfg.Instances {
		order[i.Name] = n
	}
	for _, x := range r.routers {
		router := snapshot.Router{
			Router: x.Router, Name: x.plan.Name, Interface: x.at.Port.Name, VRID: x.at.VRID, Version: x.plan.Config.Version,
			BasePriority: x.plan.Config.Priority, Interval: x.plan.Config.Interval, Fence: x.plan.Fence,
			Fault: x.plan.Fault, Trouble: &x.trouble, Unguarded: r.unguarded(x),
			Addresses: prefixes(x.plan.Addresses),
		}
		if x.port != nil && x.port.HasProgram() {
			router.Records = x.port.Kernel()
		}
		s.Routers = append(s.Routers, router)
	}
	slices.SortFunc(s.Routers, func(a, b snapshot.Router) int { return order[a.Name] - order[b.Name] })
	r.reader.Set(s)
}

func prefixes(list []plan.Address) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range list {
		out = append(out, a.Prefix)
	}
	return out
}

func sortedKeys(ports map[plan.PortKey]*dataplane.Port) []plan.PortKey {
	var keys []plan.PortKey
	for k := range ports {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b plan.PortKey) int { return a.Ifindex - b.Ifindex })
	return keys
}
