// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/histogram"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

// The event loop: one locked thread in epoll on the event rings, one timerfd
// and one eventfd. It drains, steps the routers and sends adverts. It does not
// allocate in steady state, and it waits for nothing else: what is slow is
// ordered from vip.Host or handed over through channels that are never waited
// for.

const (
	// sendAhead is how much earlier than due an advert may leave, to share a
	// wake-up and a system call with one that is due: a twentieth of the
	// interval, but no more than this.
	sendAhead = time.Millisecond
	// lateWake is how late the loop may judge a dead master without asking
	// twice; above it the kernel gets graceTime to deliver what it still
	// holds, or as long as the loop was late, up to Master_Down_Interval: what
	// stopped us may have stopped the master, too, and let it go later.
	lateWake  = 2 * time.Millisecond
	graceTime = 500 * time.Microsecond
)

// longestSleep lets a watchdog see that the loop goes round.
const longestSleep = 250 * time.Millisecond

// linkEvent is news of an interface.
type linkEvent struct {
	ifindex int
	down    bool
	mac     [6]byte // zero: not told
}

// transition is a change of state on its way to the log.
type transition struct {
	inst     *instance
	at       int64
	from, to control.State
	reason   control.Reason
	priority uint8
	peer     uint32 // the master that was followed, or is now
	lastSeen int64  // its last advert, 0: none
	late     int64  // how long after the deadline the loop judged, in ns
}

// refusal is an advert refused for a reason that was not reported yet.
type refusal struct {
	inst   *instance
	src    uint32
	reason reject
	over   bool // the peer's adverts are valid again
}

type loop struct {
	epoll, timer, wakeup int
	insts                []*instance
	ifaces               []*iface
	host                 *vip.Host

	links       chan linkEvent
	transitions chan transition
	refusals    chan refusal
	detections  chan detection
	stop        atomic.Bool
	lease       time.Duration

	now       control.Instant
	next      control.Instant // earliest deadline of an instance
	probeNext control.Instant // earliest deadline of a session
	planned   control.Instant // when the timer was to wake the loop
	overslept time.Duration   // how much later it did
	drained   int             // events so far, to look at the clock now and then
	actions   [16]control.Action
	orders    []order
	advert    packet.Advert
	onEvent   func(*loader.Event) // receive, bound once
	current   *iface              // whose ring is being drained
	late      int64

	stats loopStats
}

// order is a change of addresses that waits for the adverts to be sent.
type order struct {
	kind control.ActionKind
	set  *vip.Set
}

// loopStats is what the loop measures of itself.
type loopStats struct {
	wakeups atomic.Uint64
	handled histogram.Histogram // kernel stamp of an event to the end of its handling
	judged  histogram.Histogram // deadline to the moment the loop acted on it
	late    histogram.Histogram // planned wake-up to wake-up: what a lease has to allow for
	lost    atomic.Uint64
	graces  atomic.Uint64
	stalls  atomic.Uint64 // of masters, longer than their peers wait

	sessionsFull atomic.Uint64
}

func newLoop(insts []*instance, ifaces []*iface, host *vip.Host, lease time.Duration) (*loop, error) {
	l := &loop{
		insts: insts, ifaces: ifaces, host: host, lease: lease, probeNext: never, planned: never,
		links:       make(chan linkEvent, 1024),
		transitions: make(chan transition, 4*len(insts)+64),
		refusals:    make(chan refusal, 256),
		detections:  make(chan detection, 256),
		orders:      make([]order, 0, 4*len(insts)),
	}
	l.onEvent = l.receive
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create timerfd: %w", err)
	}
	if l.wakeup, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	fds := []int{l.timer, l.wakeup}
	for _, i := range ifaces {
		fds = append(fds, i.plane.FD())
	}
	for _, fd := range fds {
		ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
		if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			return nil, fmt.Errorf("watch file descriptor %d: %w", fd, err)
		}
	}
	return l, nil
}

func (l *loop) close() error {
	return errors.Join(unix.Close(l.epoll), unix.Close(l.timer), unix.Close(l.wakeup))
}

// wake makes the loop look at its channels and at stop.
func (l *loop) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(l.wakeup, one[:])
}

// link hands news of an interface over. The channel is deep; if it is full
// regardless, the caller waits, never the loop.
func (l *loop) link(ctx context.Context, ev linkEvent) {
	select {
	case l.links <- ev:
		l.wake()
	case <-ctx.Done():
	}
}

// run starts every router, calls ready and works until stop is set, then stops
// them in order: priority 0, service until a successor is there, addresses
// released.
func (l *loop) run(how *schedule, ready func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := how.apply(); err != nil {
		return err
	}
	l.now = control.Instant(clock.Now())
	for _, i := range l.insts {
		l.step(i, control.Event{Kind: control.EventStartup})
	}
	l.finish()
	ready()
	events := make([]unix.EpollEvent, 2+len(l.ifaces))
	stopping := false
	for {
		if l.stop.Load() && !stopping {
			stopping = true
			l.now = control.Instant(clock.Now())
			for _, i := range l.insts {
				l.step(i, control.Event{Kind: control.EventShutdown})
			}
			l.finish()
		}
		if stopping && l.stopped() {
			return nil
		}
		if err := l.wait(events); err != nil {
			return err
		}
		l.turn()
	}
}

// wait sleeps until there is something to do. It is a raw system call, so that
// the runtime does not take the processor (its P) away meanwhile: to get one
// back the loop would need a lock that a starved thread may hold. When the
// runtime wants the thread to stop, to collect garbage, its signal ends the
// wait.
func (l *loop) wait(events []unix.EpollEvent) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])),
		uintptr(len(events)), ^uintptr(0), 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return fmt.Errorf("wait for events: %w", errno)
	}
	return nil
}

func (l *loop) stopped() bool {
	for _, i := range l.insts {
		if i.router.State() != control.Init {
			return false
		}
	}
	return true
}

// turn is one round: first everything that arrived, then what is due.
func (l *loop) turn() { l.turnAt(control.Instant(clock.Now())) }

func (l *loop) turnAt(now control.Instant) {
	l.now = now
	l.stats.wakeups.Add(1)
	if l.overslept = max(0, l.now.Sub(l.planned)); l.overslept > 0 {
		l.stats.late.Add(int64(l.overslept))
		l.stall(l.overslept)
	}
	l.drain()
	if l.now >= l.planned {
		l.clearTimer()
	}
	if l.now >= l.next {
		l.judge()
	}
	if l.now >= l.probeNext {
		l.probe()
	}
	l.finish()
}

// stall tells masters that the host did nothing for a while, before they see
// what arrived meanwhile.
func (l *loop) stall(gap time.Duration) {
	for _, i := range l.insts {
		if !i.router.Slept(gap) {
			continue
		}
		l.stats.stalls.Add(1)
		l.step(i, control.Event{Kind: control.EventStall, At: l.now.Add(-gap)})
	}
}

// drain empties the rings and the inbox. All rings are looked at, whatever
// epoll said: a deadline is judged only when nothing waits.
func (l *loop) drain() {
	for _, i := range l.ifaces {
		l.current = i
		i.plane.Drain(l.onEvent)
	}
	var counter [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(l.wakeup), uintptr(unsafe.Pointer(&counter)), 8)
	for {
		select {
		case ev := <-l.links:
			l.linkNews(ev)
		default:
			return
		}
	}
}

func (l *loop) clearTimer() {
	var expirations [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(l.timer), uintptr(unsafe.Pointer(&expirations)), 8)
}

func (l *loop) linkNews(ev linkEvent) {
	for _, f := range l.ifaces {
		if f.ifindex != ev.ifindex || ev.mac == [6]byte{} {
			continue
		}
		f.plane.SetMAC(ev.mac[:])
		if f.detector != nil && ev.mac != f.detector.mac {
			f.detector.setMAC(ev.mac)
		}
	}
	for _, i := range l.insts {
		for n, ifindex := range i.links {
			if ifindex == ev.ifindex {
				l.step(i, control.Event{Kind: control.EventTrack, Track: n, Down: ev.down})
			}
		}
	}
}

// A full ring takes tens of milliseconds to drain. Our own adverts are not
// kept waiting for that: there is a look at the clock every drainSlice events.
// A backup's deadline, though, is judged only when nothing waits.
const drainSlice = 32

// receive takes one event of the ring.
func (l *loop) receive(e *loader.Event) {
	l.judgeEvent(e)
	if l.drained++; l.drained%drainSlice != 0 {
		return
	}
	now := control.Instant(clock.Now())
	if now < l.next {
		return
	}
	l.now = max(l.now, now)
	for _, i := range l.insts {
		if i.armed && i.router.State() == control.Master {
			l.judgeMaster(i)
		}
	}
	for _, f := range l.ifaces {
		l.flush(f)
	}
	l.next = l.earliest()
}

// judgeEvent judges one event.
func (l *loop) judgeEvent(e *loader.Event) {
	i := l.current.bySlot[e.Router]
	if i == nil {
		return
	}
	if e.Reason == loader.ReasonVIPConflict {
		i.shared.conflict.see(word(e.Src), e.MAC, e.RxNs, 0)
		return
	}
	if e.Reason != loader.ReasonEvent {
		l.refuse(i, e, rejectOfReason(e.Reason))
		return
	}
	err := packet.Decode(e.Payload, e.Src, e.Dst, &l.advert)
	if err == nil {
		_, err = i.router.Check(e.Src, e.MAC, &l.advert)
	}
	if err != nil {
		l.refuse(i, e, rejectOf(err))
		return
	}
	if i.acceptedAgain(e.Src) {
		l.post(refusal{inst: i, src: word(e.Src), over: true})
	}
	a := &l.advert
	i.shared.received.Add(1)
	if a.Priority == 0 {
		i.shared.zeroReceived.Add(1)
	}
	if a.Version == 3 {
		i.shared.forms[a.Form].Add(1)
	}
	i.sawPeer(e.Src, a.Priority, e.RxNs)
	l.stepWith(i, control.Event{
		Kind: control.EventAdvert, At: control.Instant(e.RxNs),
		Source: e.Src, MAC: e.MAC, Priority: a.Priority, Interval: a.Interval,
	}, e)
	if a.Priority > 0 && i.router.State() == control.Master {
		// It should have yielded, or we should.
		i.shared.rival.see(word(e.Src), e.MAC, e.RxNs, 4*i.cfg.Interval)
	}
	l.stats.handled.Add(clock.Now() - e.RxNs)
}

// refuse counts, and reports each kind and peer once until it changes.
func (l *loop) refuse(i *instance, e *loader.Event, why reject) {
	i.shared.rejected[why].Add(1)
	if why != rejectOwn && i.firstRefusal(e.Src, why) {
		l.post(refusal{inst: i, src: word(e.Src), reason: why})
	}
}

func (l *loop) post(r refusal) {
	select {
	case l.refusals <- r:
	default:
		l.stats.lost.Add(1)
	}
}

// judge acts on every deadline that has passed. Backups that are near theirs
// are brought up to date from their slots, and masters send what is due soon,
// so that many virtual routers share few wake-ups.
func (l *loop) judge() {
	for _, i := range l.insts {
		if !i.armed {
			continue
		}
		if i.router.State() == control.Master {
			l.judgeMaster(i)
			continue
		}
		if last := i.iface.plane.LastArrival(i.slot); last > 0 {
			l.step(i, control.Event{Kind: control.EventRefresh, At: control.Instant(last)})
		}
		if deadline, _ := i.router.Deadline(); deadline <= l.now {
			l.askDetector(i)
		}
		deadline, _ := i.router.Deadline()
		if deadline > l.now {
			continue
		}
		late := l.now.Sub(deadline)
		if away := max(late, l.overslept); away > lateWake && i.graceOf != deadline {
			i.graceOf = deadline
			i.graceEnd = l.now.Add(max(graceTime, min(away, i.router.MasterDownInterval())))
			l.stats.graces.Add(1)
		}
		if i.graceOf == deadline && l.now < i.graceEnd {
			i.deadline = i.graceEnd
			continue
		}
		l.expire(i, late)
	}
}

func (l *loop) judgeMaster(i *instance) {
	ahead := min(i.cfg.Interval/20, sendAhead)
	if i.router.Listening() {
		ahead = 0
	}
	if i.deadline > l.now.Add(ahead) {
		return
	}
	l.expire(i, l.now.Sub(i.deadline))
}

// expire steps the router at its deadline, or now if that is later.
func (l *loop) expire(i *instance, late time.Duration) {
	l.late = int64(max(late, 0))
	l.stats.judged.Add(l.late)
	now := l.now
	if late < 0 {
		l.now = l.now.Add(-late)
	}
	l.step(i, control.Event{Kind: control.EventExpire})
	l.now, l.late = now, 0
}

func (l *loop) step(i *instance, ev control.Event) { l.stepWith(i, ev, nil) }

// stepWith moves a router and carries its actions out; e is the advert behind
// an EventAdvert.
func (l *loop) stepWith(i *instance, ev control.Event, e *loader.Event) {
	master, _ := i.router.Master()
	lastSeen := int64(0)
	if ev.Kind == control.EventExpire && i.router.State() == control.Backup {
		lastSeen = i.iface.plane.LastArrival(i.slot)
	}
	for _, a := range i.router.Step(l.now, ev, l.actions[:0]) {
		switch a.Kind {
		case control.ActionAdvert:
			l.send(i, a.Priority)
		case control.ActionTakeover, control.ActionRelease, control.ActionAnnounce:
			l.orders = append(l.orders, order{a.Kind, i.set})
		case control.ActionFollow:
			i.iface.plane.Install(i.slot, e)
			l.follow(i, e)
		case control.ActionUnfollow:
			i.iface.plane.Clear(i.slot)
			l.unfollow(i)
		case control.ActionTransition:
			if a.To == control.Backup {
				master, _ = i.router.Master()
			}
			l.moved(i, a, transition{peer: word(master), lastSeen: lastSeen, late: l.late})
		}
	}
	i.deadline, i.armed = i.router.Deadline()
	if i.armed {
		l.next = min(l.next, i.deadline)
	}
	if ev.Kind != control.EventRefresh {
		i.iface.guard.SetRole(i.slot, i.role())
		i.publish()
	}
}

func (l *loop) moved(i *instance, a control.Action, t transition) {
	i.shared.reason.Store(uint32(a.Reason))
	i.shared.transitions[a.Reason].Add(1)
	t.inst, t.at, t.from, t.to, t.reason = i, int64(l.now), a.From, a.To, a.Reason
	t.priority = i.router.Priority()
	if a.To == control.Master {
		i.shared.lostMaster.Store(t.peer)
	}
	select {
	case l.transitions <- t:
	default:
		l.stats.lost.Add(1)
	}
}

func (l *loop) send(i *instance, priority uint8) {
	i.shared.sent.Add(1)
	if priority == 0 {
		i.shared.zeroSent.Add(1)
	}
	if i.iface.sender.Queue(i.frame, priority) {
		return
	}
	// The batch is full, or holds this router's last advert already.
	l.flush(i.iface)
	i.iface.sender.Queue(i.frame, priority)
}

func (l *loop) flush(f *iface) {
	_, refused, _ := f.sender.Flush()
	if refused > 0 {
		f.sendErrors.Add(uint64(refused))
	}
}

// finish sends the adverts, then orders the changes of addresses that follow
// them, and arms the timer.
func (l *loop) finish() {
	// Before anything is sent from here: the fence of a loop that was held up
	// would drop it. After what was judged: it must not open for a router that
	// yields.
	for _, f := range l.ifaces {
		f.guard.Renew(int64(l.now.Add(l.lease)))
	}
	for _, f := range l.ifaces {
		l.flush(f)
	}
	for _, o := range l.orders {
		switch o.kind {
		case control.ActionTakeover:
			l.host.Takeover(o.set)
		case control.ActionRelease:
			l.host.Release(o.set)
		case control.ActionAnnounce:
			l.host.Announce(o.set)
		}
	}
	l.orders = l.orders[:0]
	l.arm()
}

const never = control.Instant(1<<63 - 1)

// earliest returns the earliest deadline of an instance.
func (l *loop) earliest() control.Instant {
	next := never
	for _, i := range l.insts {
		if i.armed && i.deadline < next {
			next = i.deadline
		}
	}
	return next
}

// arm sets the timer. The loop wakes often enough to renew its lease, whatever
// it has to do.
func (l *loop) arm() {
	l.next = l.earliest()
	l.probeNext = l.probeDeadline()
	l.planned = min(l.next, l.probeNext, l.now.Add(min(l.lease/4, longestSleep)))
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, int64(l.planned)))}
	_, _, _ = unix.RawSyscall6(unix.SYS_TIMERFD_SETTIME, uintptr(l.timer), unix.TFD_TIMER_ABSTIME,
		uintptr(unsafe.Pointer(&spec)), 0, 0, 0)
}
