// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/histogram"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

const (
	// sendAhead is how much earlier than due an advert may leave, to share a
	// wake-up and a system call with one that is due: a twentieth of the
	// interval, but no more than this.
	sendAhead = time.Millisecond
	// lateWake is how late the loop may act on a dead master without asking
	// twice; above it the kernel gets graceTime to deliver what it still
	// holds, or as long as the loop was late, up to Master_Down_Interval: what
	// stopped us may have stopped the master, too, and let it go later.
	lateWake  = 2 * time.Millisecond
	graceTime = 500 * time.Microsecond
	// longestSleep lets a watchdog see that the loop goes round.
	longestSleep = 250 * time.Millisecond
	// In a wait of longWait or more the runtime has the loop's processor (its
	// P), if every router and the lease tolerate a suspension of patience.
	longWait = 20 * time.Millisecond
	patience = 200 * time.Millisecond
	// drainSlice is the number of events between two looks at the clock. A full
	// ring takes tens of milliseconds to drain, and our own adverts are not kept
	// waiting for that. A backup's deadline, though, is acted on only when
	// nothing waits.
	drainSlice = 32
)

// Options of New.
type Options struct {
	// Lease is how long the kernel speaks for a loop that is held up.
	Lease time.Duration
	// Clock returns CLOCK_MONOTONIC in nanoseconds, on the base of the
	// kernel's receive stamps.
	Clock func() int64
	// Records is the number of records that may wait for the reader.
	Records int
	Facts   Facts
}

// Stats is what the loop measures of itself.
type Stats struct {
	Wakeups atomic.Uint64
	// Planned is when the loop wakes next at the latest. While that is past, the
	// loop is held up, or has not yet judged what arrived meanwhile.
	Planned atomic.Int64
	// Handled is the time from the kernel's stamp of an event to the end of
	// its handling, Acted that from a deadline to the moment at which the loop
	// acted on it, Late that from a planned wake-up to the wake-up: what a
	// lease has to allow for.
	Handled, Acted, Late histogram.Histogram

	Lost         atomic.Uint64 // records that found no room
	Graces       atomic.Uint64
	Suspensions  atomic.Uint64 // of masters, longer than their peers wait
	SessionsFull atomic.Uint64
}

// Engine is the event loop.
type Engine struct {
	Stats Stats

	epoll, timer, wakeup int
	resting              int // an epoll, which has the other in it during a long wait
	restingFile          *os.File
	restingConn          syscall.RawConn
	events               [64]unix.EpollEvent
	ready                int // of the events
	failed               error
	recordsFD            int
	recordsFile          *os.File
	records              *spsc[Record]
	links                *spsc[Link]
	pending              atomic.Pointer[Batch]
	applied              atomic.Uint64 // number of the last batch in place
	progress             atomic.Uint64 // grows with each batch in place and each router retired
	ended                atomic.Bool   // Run has
	clock                func() int64
	lease                time.Duration
	facts                Facts

	table     *Table
	now       control.Instant
	next      control.Instant // earliest deadline of a router
	probeNext control.Instant // earliest deadline of a session
	stale     bool            // one of them was moved, and may not be the earliest any more
	planned   control.Instant // when the timer was to wake the loop
	overslept time.Duration   // how much later it did
	late      time.Duration   // how late the current deadline is acted on
	received  int             // events so far, to look at the clock now and then
	leaving   int             // routers that were stopped and are not INIT
	quit      bool
	told      bool // the reader knows of every record
	seq       uint64
	actions   [16]control.Action
	advert    packet.Advert
	onEvent   func(*loader.Event) // receive, bound once
	onHeard   func(*loader.Event) // hear, bound once
	onReady   func(uintptr) bool  // look, bound once
}

// order is a change of addresses that waits for the adverts to be sent.
type order struct {
	kind control.ActionKind
	set  Set
}

// New returns an Engine without routers.
func New(opts Options) (*Engine, error) {
	e := &Engine{
		records: newSPSC[Record](opts.Records), links: newSPSC[Link](1024), clock: opts.Clock, lease: opts.Lease, facts: opts.Facts,
		next: never, probeNext: never, planned: never, told: true, table: &Table{},
	}
	e.table.prepare()
	e.onEvent, e.onHeard, e.onReady = e.receive, e.hear, e.look
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if e.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create timerfd: %w", err)
	}
	for _, fd := range []*int{&e.wakeup, &e.recordsFD} {
		if *fd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("create eventfd: %w", err)
		}
	}
	for _, fd := range []int{e.timer, e.wakeup} {
		if err := watch(e.epoll, unix.EPOLL_CTL_ADD, fd); err != 0 {
			return nil, fmt.Errorf("watch file descriptor %d: %w", fd, err)
		}
	}
	e.recordsFile = os.NewFile(uintptr(e.recordsFD), "records")
	if e.resting, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if err := unix.SetNonblock(e.resting, true); err != nil { // or the runtime cannot wait for it
		return nil, fmt.Errorf("make epoll non-blocking: %w", err)
	}
	e.restingFile = os.NewFile(uintptr(e.resting), "epoll")
	if e.restingConn, err = e.restingFile.SyscallConn(); err != nil {
		return nil, fmt.Errorf("let the runtime wait for epoll: %w", err)
	}
	return e, nil
}

// Close frees what New took; Run and ReadRecords must have returned.
func (e *Engine) Close() error {
	return errors.Join(e.restingFile.Close(), unix.Close(e.epoll), unix.Close(e.timer), unix.Close(e.wakeup),
		e.recordsFile.Close())
}

// Apply hands a batch to the loop. The caller waits until Applied returns its
// number before the next one; it reports whether the loop had taken the last.
func (e *Engine) Apply(b *Batch) bool {
	if b.Table != nil {
		b.Table.prepare()
	}
	if !e.pending.CompareAndSwap(nil, b) {
		return false
	}
	kick(e.wakeup)
	return true
}

// Applied returns the number of the last batch that is in place.
func (e *Engine) Applied() uint64 { return e.applied.Load() }

// Progress grows with each batch that is in place and each router that is
// retired. Unlike a record it cannot be lost.
func (e *Engine) Progress() uint64 { return e.progress.Load() }

// Link hands news of the host over, from one goroutine, once Facts has them. If
// the loop is far behind, the caller waits, never the loop; news that come after
// its end are for nobody.
func (e *Engine) Link(l Link) {
	for !e.links.push(&l) {
		if e.ended.Load() {
			return
		}
		kick(e.wakeup)
		time.Sleep(time.Millisecond) // back-pressure: the loop tells nobody that there is room
	}
	kick(e.wakeup)
}

// Run works until a batch with Quit has been applied and every router is INIT.
// prepare runs first, on the loop's thread.
func (e *Engine) Run(prepare func() error) error {
	defer e.ended.Store(true)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := prepare(); err != nil {
		return err
	}
	for !e.quit || e.leaving > 0 {
		if err := e.wait(); err != nil {
			return err
		}
		e.iterate(control.Instant(e.clock()), e.events[:e.ready])
	}
	return nil
}

// wait sleeps until there is something to do. It is a raw system call, so that
// the runtime does not take the processor (its P) away meanwhile: to get one
// back the loop would need a lock that a starved thread may hold. When the
// runtime wants the thread to stop, to collect garbage, its signal ends the
// wait.
//
// That costs: the runtime takes the loop for one that computes, and preempts it
// every 10 or 20 ms, which wakes four threads. So a loop that has long to wait,
// and may be late, waits as other goroutines do (ADR 10).
func (e *Engine) wait() error {
	if !e.long() || watch(e.resting, unix.EPOLL_CTL_ADD, e.epoll) != 0 {
		e.poll(-1)
		return e.failed
	}
	err := e.restingConn.Read(e.onReady)
	_ = watch(e.resting, unix.EPOLL_CTL_DEL, e.epoll) // it is there
	if err != nil {
		return fmt.Errorf("wait for events: %w", err)
	}
	return e.failed
}

// long reports whether the next wait is one of those. The lease is renewed when
// a quarter of it is over, and has to allow for a late loop, too.
func (e *Engine) long() bool {
	return e.planned.Sub(e.now) >= longWait && e.table.shortest >= patience && e.lease >= 4*patience
}

// look reports whether there is something to do.
func (e *Engine) look(uintptr) bool {
	e.poll(0)
	return e.ready > 0 || e.failed != nil
}

// poll waits up to timeout milliseconds, -1: for ever.
func (e *Engine) poll(timeout int) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(e.epoll), uintptr(unsafe.Pointer(&e.events[0])),
		uintptr(len(e.events)), uintptr(timeout), 0, 0)
	switch errno {
	case 0:
		e.ready = int(n)
	case unix.EINTR:
		e.ready = 0
	default:
		e.failed = fmt.Errorf("wait for events: %w", errno)
	}
}

func watch(epoll, op, fd int) unix.Errno {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd),
		uintptr(unsafe.Pointer(&ev)), 0, 0)
	return errno
}

// iterate is one round: first everything that arrived, then what is due.
func (e *Engine) iterate(now control.Instant, ready []unix.EpollEvent) {
	e.now = now
	e.Stats.Wakeups.Add(1)
	if e.overslept = max(0, e.now.Sub(e.planned)); e.overslept > 0 {
		e.Stats.Late.Add(int64(e.overslept))
		e.suspended(e.overslept)
	}
	e.drain()
	e.takeReady(ready)
	e.takeLinks()
	e.takeBatch()
	if e.now >= e.next {
		e.expireDue()
	}
	if e.now >= e.probeNext {
		e.probe()
	}
	e.finish()
}

// suspended tells masters that the host did nothing for a while, before they
// see what arrived meanwhile.
func (e *Engine) suspended(gap time.Duration) {
	if gap <= e.table.shortest {
		return
	}
	for _, r := range e.table.Routers {
		if !r.router.Slept(gap) {
			continue
		}
		e.Stats.Suspensions.Add(1)
		e.step(r, control.Event{Kind: control.EventStall, At: e.now.Add(-gap)})
	}
}

// drain empties the rings, whatever epoll said: a deadline is acted on only
// when nothing waits.
func (e *Engine) drain() {
	for _, ring := range e.table.Rings {
		ring.Drain(e.onEvent)
	}
}

// takeReady takes what waits in those packet sockets that are readable. The
// others are looked at before a deadline of their routers is acted on.
func (e *Engine) takeReady(ready []unix.EpollEvent) {
	for i := range ready {
		if ready[i].Fd == int32(e.wakeup) {
			readCounter(e.wakeup)
			continue
		}
		for _, p := range e.table.Ports {
			if p.Socket != nil && int32(p.Socket.FD()) == ready[i].Fd {
				p.Socket.Drain(e.onEvent)
			}
		}
	}
}

// readCounter makes an eventfd unreadable again. A timerfd becomes so by being
// armed.
func readCounter(fd int) {
	var counter [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&counter)), 8)
}

func (e *Engine) takeLinks() {
	var l Link
	for e.links.pop(&l) {
		e.link(&l)
	}
}

func (e *Engine) link(l *Link) {
	if !l.Addr.IsValid() {
		for _, p := range e.table.Ports {
			if p.Ifindex == l.Ifindex {
				e.changeMAC(p, l.MAC)
			}
		}
	}
	for _, r := range e.table.Routers {
		for n := range r.spec.Watch {
			if r.spec.Watch[n] == l.Watched {
				e.refresh(r)
				e.step(r, control.Event{Kind: control.EventTrack, Track: n, Down: l.Down})
			}
		}
	}
}

// refresh brings a backup up to date from its slot.
func (e *Engine) refresh(r *Router) {
	if last := e.lastArrival(r); last > 0 {
		e.step(r, control.Event{Kind: control.EventRefresh, At: control.Instant(last)})
	}
}

// changeMAC gives a port another MAC, unless it is zero: not known.
func (e *Engine) changeMAC(p *Port, mac [6]byte) {
	if p.MAC == mac || mac == [6]byte{} {
		return
	}
	p.MAC = mac
	if p.Kernel != nil {
		p.Kernel.SetMAC(p.Ifindex, mac)
	}
	if p.Socket != nil {
		p.Socket.SetMAC(p.Ifindex, mac)
	}
	for _, r := range e.table.Routers {
		if r.Port == p {
			e.followMAC(r)
		}
	}
	for _, s := range e.table.Sessions {
		if s.open && s.port == p {
			s.spec.SrcMAC = mac
			e.table.Prober.Frames(&s.frames, &s.spec)
		}
	}
}

// followMAC gives a router the MAC of its port. It tells the adverts of the
// router from those of a host that sends from the same address.
func (e *Engine) followMAC(r *Router) {
	cfg := *r.router.Config()
	if cfg.MAC == r.Port.MAC {
		return
	}
	cfg.MAC = r.Port.MAC
	e.refresh(r)
	e.perform(r, r.router.Reconfigure(e.now, cfg, e.actions[:0]), nil, 0)
	e.settle(r, true)
}

// takeBatch puts a batch in place, if one waits. What is known of the host by
// now counts, not what the batch was computed from: news that came in between
// found no port and no router, or would be overruled.
func (e *Engine) takeBatch() {
	b := e.pending.Load()
	if b == nil {
		return
	}
	if b.Table != nil {
		e.splice(b.Table)
		for _, p := range b.Table.Ports {
			e.changeMAC(p, e.facts.MAC(p.Ifindex))
		}
	}
	for _, r := range b.Stop {
		if r.router.State() == control.Init {
			e.retire(r)
			continue
		}
		r.retiring = true
		e.leaving++
		e.step(r, control.Event{Kind: control.EventShutdown})
	}
	for i := range b.Change {
		e.change(&b.Change[i])
	}
	since := control.Instant(0)
	if b.Heard != nil {
		since = control.Instant(b.Heard.Since())
	}
	for _, r := range b.Start {
		e.followMAC(r)
		for n, w := range r.spec.Watch {
			if w.Ifindex != 0 {
				e.step(r, control.Event{Kind: control.EventTrack, Track: n, Down: e.facts.Down(w)})
			}
		}
		e.step(r, control.Event{Kind: control.EventStartup, At: since})
	}
	if b.Heard != nil {
		b.Heard.Drain(e.onHeard)
		e.drain()
	}
	if b.Table != nil || len(b.Change) > 0 {
		e.table.shortest = never.Sub(0)
		for _, r := range e.table.Routers {
			e.table.shortest = min(e.table.shortest, r.tolerates())
		}
	}
	e.quit = e.quit || b.Quit
	// First: who sees the number may hand over the next batch.
	e.pending.Store(nil)
	e.applied.Store(b.Number)
	e.progress.Add(1)
	e.told = false
}

// splice puts a new table in the place of the old one.
func (e *Engine) splice(t *Table) {
	e.flushDirty()
	for _, fd := range e.table.descriptors {
		_ = watch(e.epoll, unix.EPOLL_CTL_DEL, fd) // it may be closed already
	}
	for _, fd := range t.descriptors {
		_ = watch(e.epoll, unix.EPOLL_CTL_ADD, fd)
	}
	t.orders = append(t.orders, e.table.orders...)
	t.judged = append(t.judged, e.table.judged...)
	news := e.table.Prober == nil && t.Prober != nil
	e.table = t
	for at, r := range t.Routers {
		r.at = at
		e.arm(r)
	}
	for at, s := range t.Sessions {
		s.at = at
		e.armSession(s)
	}
	e.probeNext = e.earliestProbe()
	e.next = e.earliest()
	for _, r := range t.Routers {
		if news && r.spec.FastDetect.Enabled && r.router.State() == control.Backup && r.Port.Kernel != nil {
			// The next advert is an event again and opens the session that there
			// was no prober for.
			e.refresh(r)
			r.Port.Kernel.Clear(r.ID)
		}
	}
}

// change gives a router another Spec.
func (e *Engine) change(c *Change) {
	r := c.Router
	e.refresh(r)
	e.flush(r.Port) // the old frame may be queued
	was := r.spec
	r.spec = c.Spec
	if r.spec.Config.Source.IsUnspecified() {
		r.spec.Frame = was.Frame // the address is gone; what is still to be said comes from it
	}
	r.name.Store(&c.Spec.Name)
	r.spec.Config.MAC = r.Port.MAC
	for n, w := range r.spec.Watch {
		if w.Ifindex != 0 {
			r.spec.Config.Tracks[n].Down = e.facts.Down(w)
		}
	}
	if was.FastDetect != r.spec.FastDetect || was.Config.Source != r.spec.Config.Source {
		// The next advert of the master is an event again and opens the
		// session anew.
		e.unfollow(r)
		if r.Port.Kernel != nil {
			r.Port.Kernel.Clear(r.ID)
		}
	}
	e.perform(r, r.router.Reconfigure(e.now, r.spec.Config, e.actions[:0]), nil, 0)
	e.settle(r, true)
}

// expireDue acts on every deadline that has passed. Backups that are near
// theirs are brought up to date from their slots, and masters send what is due
// soon, so that many virtual routers share few wake-ups.
func (e *Engine) expireDue() {
	for at, near := range e.table.near {
		if near > e.now {
			continue
		}
		r := e.table.Routers[at]
		if r.router.State() == control.Master {
			e.expire(r, e.now.Sub(r.deadline))
			continue
		}
		e.expireBackup(r)
	}
}

func (e *Engine) expireBackup(r *Router) {
	if r.Port.Socket != nil {
		r.Port.Socket.Drain(e.onEvent)
	}
	e.refresh(r)
	if deadline, ok := r.router.Deadline(); ok && deadline <= e.now {
		e.askSession(r)
	}
	deadline, ok := r.router.Deadline()
	if !ok || deadline > e.now || r.router.State() == control.Master {
		return
	}
	late := e.now.Sub(deadline)
	if away := max(late, e.overslept); away > lateWake && r.graceOf != deadline {
		r.graceOf = deadline
		r.graceEnd = e.now.Add(max(graceTime, min(away, r.router.MasterDownInterval())))
		e.Stats.Graces.Add(1)
	}
	if r.graceOf == deadline && e.now < r.graceEnd {
		r.deadline = r.graceEnd
		e.arm(r)
		return
	}
	e.expire(r, late)
}

// expire steps the router at its deadline, or now if that is later.
func (e *Engine) expire(r *Router, late time.Duration) {
	e.late = max(late, 0)
	e.Stats.Acted.Add(int64(e.late))
	now := e.now
	if late < 0 {
		e.now = e.now.Add(-late)
	}
	e.step(r, control.Event{Kind: control.EventExpire})
	e.now, e.late = now, 0
}

func (e *Engine) lastArrival(r *Router) int64 {
	if r.Port.Kernel == nil {
		return 0
	}
	return r.Port.Kernel.LastArrival(r.ID)
}

func (e *Engine) step(r *Router, ev control.Event) { e.stepWith(r, ev, nil) }

// stepWith moves a router and carries its actions out; advert is the event
// behind an EventAdvert.
func (e *Engine) stepWith(r *Router, ev control.Event, advert *loader.Event) {
	lastSeen := int64(0)
	if ev.Kind == control.EventExpire && r.router.State() == control.Backup {
		lastSeen = e.lastArrival(r)
	}
	e.perform(r, r.router.Step(e.now, ev, e.actions[:0]), advert, lastSeen)
	e.settle(r, ev.Kind != control.EventRefresh)
}

// perform carries actions out, in order.
func (e *Engine) perform(r *Router, actions []control.Action, advert *loader.Event, lastSeen int64) {
	for _, a := range actions {
		switch a.Kind {
		case control.ActionAdvert:
			e.send(r, a.Priority)
		case control.ActionTakeover, control.ActionRelease, control.ActionAnnounce:
			r.order(a.Kind)
			if r.Set != nil {
				e.table.orders = append(e.table.orders, order{a.Kind, r.Set})
			}
		case control.ActionFollow:
			if r.Port.Kernel != nil {
				r.Port.Kernel.Install(r.ID, advert)
			}
			e.follow(r, advert)
		case control.ActionUnfollow:
			if r.Port.Kernel != nil {
				r.Port.Kernel.Clear(r.ID)
			}
			e.unfollow(r)
		case control.ActionTransition:
			peer := r.state.Master.Addr() // that was followed
			if a.To == control.Backup {
				peer, _ = r.router.Master()
			}
			e.transition(r, a, peer, lastSeen)
		}
	}
}

// settle takes over what a step left: the deadline, the role, what is
// published.
func (e *Engine) settle(r *Router, changed bool) {
	r.deadline, r.armed = r.router.Deadline()
	e.arm(r)
	if !changed {
		return
	}
	if l := r.router.Listening(); l != r.listening && r.Set != nil {
		if r.listening = l; l {
			r.Set.Hold(true)
		} else {
			e.table.judged = append(e.table.judged, r.Set)
		}
	}
	if role := r.currentRole(); role != r.role && r.Port.Kernel != nil {
		r.role = role
		r.Port.Kernel.SetRole(r.ID, role)
	}
	r.publish()
	if r.retiring && r.router.State() == control.Init {
		r.retiring = false
		e.leaving--
		e.retire(r)
	}
}

// retire lets others know that a stopped router is INIT.
func (e *Engine) retire(r *Router) {
	r.retired.Store(true)
	e.progress.Add(1)
	e.emit(&Record{Kind: RecordRetired, At: int64(e.now), Router: r})
}

// arm notes the deadline of a router.
func (e *Engine) arm(r *Router) {
	due, near := never, never
	if r.armed {
		due = r.deadline
		ahead := r.router.MasterDownInterval() / 2
		switch {
		case r.router.State() == control.Backup && r.graceEnd == due:
			ahead = 0
		case r.router.State() == control.Master && r.router.Listening():
			ahead = 0
		case r.router.State() == control.Master:
			ahead = min(r.spec.Config.Interval/20, sendAhead)
		}
		near = due.Add(-ahead)
	}
	was := e.table.due[r.at]
	e.table.due[r.at], e.table.near[r.at] = due, near
	e.stale = e.stale || was <= e.next && due > was
	e.next = min(e.next, due)
}

func (e *Engine) transition(r *Router, a control.Action, peer netip.Addr, lastSeen int64) {
	r.state.Reason = a.Reason
	r.Published.Transitions[a.Reason].Add(1)
	if a.To == control.Master {
		r.state.Lost = addrOf(peer)
	}
	e.emit(&Record{
		Kind: RecordTransition, At: int64(e.now), Router: r, From: a.From, To: a.To, Reason: a.Reason,
		Priority: r.router.Priority(), Peer: peer, LastSeen: lastSeen, Late: e.late, Epoch: r.epoch,
	})
}

func (e *Engine) send(r *Router, priority uint8) {
	r.Published.Sent.Add(1)
	if priority == 0 {
		r.Published.ZeroSent.Add(1)
	}
	p := r.Port
	if !p.dirty {
		p.dirty = true
		e.table.dirty = append(e.table.dirty, p)
	}
	if p.Sender.Queue(r.spec.Frame, priority) {
		return
	}
	// The batch is full, or holds this router's last advert already.
	e.flush(p)
	p.Sender.Queue(r.spec.Frame, priority)
}

func (e *Engine) flush(p *Port) {
	sent, refused, err := p.Sender.Flush()
	switch {
	case refused > 0:
		p.SendErrors.Add(uint64(refused))
		if !p.failing {
			p.failing = true
			errno, _ := err.(unix.Errno)
			e.emit(&Record{Kind: RecordSendFailed, At: int64(e.now), Port: p, Errno: errno})
		}
	case sent > 0 && p.failing:
		p.failing = false
		e.emit(&Record{Kind: RecordSendRecovered, At: int64(e.now), Port: p})
	}
}

// flushDirty sends the adverts of every port that has some.
func (e *Engine) flushDirty() {
	for _, p := range e.table.dirty {
		e.flush(p)
		p.dirty = false
	}
	e.table.dirty = e.table.dirty[:0]
}

// finish sends the adverts, then orders the changes of addresses that follow
// them, and arms the timer.
func (e *Engine) finish() {
	// Before anything is sent from here: the fence of a loop that was held up
	// would drop it. After what was stepped: it must not open for a router that
	// yields.
	for _, k := range e.table.Kernels {
		k.Renew(int64(e.now.Add(e.lease)))
	}
	e.flushDirty()
	for _, o := range e.table.orders {
		switch o.kind {
		case control.ActionTakeover:
			o.set.Takeover()
		case control.ActionRelease:
			o.set.Release()
		case control.ActionAnnounce:
			o.set.Announce()
		}
	}
	e.table.orders = e.table.orders[:0]
	for _, s := range e.table.judged {
		s.Hold(false)
	}
	e.table.judged = e.table.judged[:0]
	e.announceRecords()
	e.armTimer()
	e.Stats.Planned.Store(int64(e.planned)) // last: who sees it sees the orders, too
}

// earliest returns the earliest deadline of a router.
func (e *Engine) earliest() control.Instant {
	next := never
	for _, due := range e.table.due {
		next = min(next, due)
	}
	return next
}

// armTimer makes the loop wake for what is due next, and often enough to renew
// its lease.
func (e *Engine) armTimer() {
	// Only if the earliest deadline was moved may it be another's now.
	if e.stale {
		e.next, e.probeNext, e.stale = e.earliest(), e.earliestProbe(), false
	}
	e.planned = min(e.next, e.probeNext, e.now.Add(min(e.lease/4, longestSleep)))
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, clock.Local(int64(e.planned))))}
	_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(e.timer), unix.TFD_TIMER_ABSTIME,
		uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
}
