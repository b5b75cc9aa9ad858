// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/plan"
)

// Report is what became of an order, or of a later attempt to carry it out.
// Times are on the clock given to NewHost.
type Report struct {
	Set *Set
	// Epoch is what was carried out; see [Set.Takeover]. Orders that a newer
	// one overtook have no report. A further report of the same epoch has news
	// of Failed or Removed.
	Epoch     uint64
	OrderedNs int64
	AppliedNs int64 // when the kernel had answered for all addresses
	Announced int64 // when the first announcement of each was handed over; 0: not all were yet
	// Failed are the addresses that the kernel refused to add or remove. They
	// are tried again until it takes them.
	Failed []AddressError
	// Removed are owned addresses that something else removed. Each was put
	// back, or will be, and is listed until it has stayed for 10 s.
	Removed []Address
}

// Owned reports whether the addresses are to be on this host.
func (r *Report) Owned() bool { return owned(r.Epoch) }

// Err returns what the kernel refused, or nil.
func (r *Report) Err() error {
	var errs []error
	for i := range r.Failed {
		errs = append(errs, &r.Failed[i])
	}
	return errors.Join(errs...)
}

// Change gives a Set another content.
type Change struct {
	Set  *Set
	Spec Spec
}

// Host adds, removes and announces addresses on a goroutine of its own, so
// that no address delays an advert. All methods but Run and Close may be
// called from anywhere at any time before Close.
type Host struct {
	// HeldUp reports whether the event loop was held up and has not judged yet
	// what arrived meanwhile: another host may serve what it owns. Until it has,
	// nothing is put back and nothing announced again. Set it before Run.
	HeldUp func() bool

	now    func() int64
	report func(Report)

	// What the event loop touches: a stack of the sets that have orders, and
	// an eventfd.
	ordered atomic.Pointer[Set]
	event   int
	events  *os.File // the same, for its reader

	mu    sync.Mutex
	calls []func() // of the other callers, for the worker

	kernel     kernel
	openSocket func(ifindex int) (frameSocket, error)
	links      map[int]*link
	macs       map[int]net.HardwareAddr
	sets       []*Set
	dirty      []*Set
	holders    map[Address]int // objects that this host has or may have, by address
	added      record
	lost       map[int]bool // interfaces to compare with the kernel
	plan       schedule
	held       bool // HeldUp, in this turn
	losing     []*Set
	sending    []*link
	frames     [][]byte
	probed     int

	Sent    atomic.Uint64 // announcements
	Dropped atomic.Uint64 // announcements that were overtaken before they were sent
	Retried atomic.Uint64 // refusals of the kernel to take the next announcement, each tried again
}

// kernel is what Host needs of the route netlink.
type kernel interface {
	// do sends messages and reports the answer to each. An error means that
	// those without an answer may have been carried out or not.
	do(messages [][]byte, answer func(i int, err error)) error
	// addresses lists those of an interface.
	addresses(ifindex int) ([]Found, error)
	close() error
}

// NewHost returns a Host. now is the clock of reports, in nanoseconds of
// CLOCK_MONOTONIC; report is called from the worker and must not wait.
func NewHost(now func() int64, report func(Report)) (*Host, error) {
	rt, err := openRtnetlink()
	if err != nil {
		return nil, err
	}
	h, err := newHost(now, report, rt, openPacketSocket)
	if err != nil {
		return nil, errors.Join(err, rt.close())
	}
	if !marksAddresses() {
		h.added.keep()
	}
	return h, nil
}

func newHost(now func() int64, report func(Report), k kernel, open func(int) (frameSocket, error)) (*Host, error) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	return &Host{
		HeldUp: func() bool { return false }, now: now, report: report, event: event,
		events: os.NewFile(uintptr(event), "orders"), kernel: k, openSocket: open,
		links: map[int]*link{}, macs: map[int]net.HardwareAddr{}, holders: map[Address]int{}, lost: map[int]bool{},
	}, nil
}

// Add makes a Set that is not owned.
func (h *Host) Add(spec Spec) *Set {
	s := &Set{host: h}
	h.call(func() {
		h.sets = append(h.sets, s)
		h.update(s, spec)
	})
	return s
}

// Update gives sets another content. Of an owned set, only what differs is
// removed, added and announced; an address that moves between two owned sets in
// one call stays on the host.
func (h *Host) Update(changes ...Change) {
	h.call(func() {
		for _, c := range changes {
			if !c.Set.retired {
				h.update(c.Set, c.Spec)
			}
		}
	})
}

// Remove releases a set for good. Orders have no effect any more.
func (h *Host) Remove(s *Set) {
	h.call(func() {
		s.retired = true
		h.update(s, Spec{})
	})
}

// SetMAC tells the hardware address of an interface, at first and when it
// changes, e.g. because a bond fails over; nil or zero when the interface is
// gone or has no Ethernet framing. Addresses that are owned are announced with the new
// one at once. Nothing is announced on an interface whose address is unknown.
func (h *Host) SetMAC(ifindex int, mac net.HardwareAddr) {
	mac = slices.Clone(mac)
	if len(mac) != 6 || [6]byte(mac) == [6]byte{} {
		mac = nil
	}
	h.call(func() { h.changeMAC(ifindex, mac) })
}

// Lost tells that an address vanished from this host. If it is owned, the
// worker checks that it is missing and puts it back: at once for the
// first times, then later and later while something keeps removing it.
func (h *Host) Lost(k Key) {
	h.call(func() {
		for _, s := range h.sets {
			for _, o := range s.objects {
				if o.Key() == k && o.state == present {
					h.lost[k.Ifindex] = true
				}
			}
		}
	})
}

// Verify looks for every owned address on this host and puts back what is
// missing. It is for a caller that has missed news.
func (h *Host) Verify() {
	h.call(func() {
		for _, s := range h.sets {
			for _, o := range s.objects {
				if o.state == present {
					h.lost[o.Ifindex] = true
				}
			}
		}
	})
}

// call has the worker run f.
func (h *Host) call(f func()) {
	h.mu.Lock()
	h.calls = append(h.calls, f)
	h.mu.Unlock()
	h.signal()
}

// one is what is written to an eventfd to wake its reader.
var one = [8]byte{1}

// signal wakes the worker. It never blocks: an eventfd that is full has not
// been read yet. The raw system call keeps the scheduler out of it.
func (h *Host) signal() {
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(h.event), uintptr(unsafe.Pointer(&one)), 8)
}

// Run works until ctx ends and then carries out what is still ordered. It fails
// if addresses stay that were to be removed.
func (h *Host) Run(ctx context.Context) error {
	signalled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		h.signal()
		close(signalled)
	})
	var probe func()
	probe = func() {
		h.at(h.now()+int64(h.probeNext()), probe)
	}
	probe()
	for ctx.Err() == nil {
		h.turn()
		if err := h.sleep(); err != nil {
			if stop() {
				close(signalled)
			}
			<-signalled
			return err
		}
	}
	<-signalled
	return h.end()
}

const (
	// At the end a removal that the kernel refuses is tried again lastTries
	// times, each lastPause later.
	lastTries = 5
	lastPause = 50 * time.Millisecond
)

// end carries out what is still ordered. There will be no other turn that could
// remove what the kernel refuses to.
func (h *Host) end() error {
	h.turn()
	left := h.left()
	for n := 0; len(left) > 0 && n < lastTries; n++ {
		time.Sleep(lastPause)
		for _, o := range left {
			o.notBefore = 0
			h.touch(o.set)
		}
		h.turn()
		left = h.left()
	}
	var errs []error
	for _, o := range left {
		errs = append(errs, &AddressError{o.Address, o.err})
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove addresses: %w", err)
	}
	return nil
}

// left returns the objects that this host has, or may have, and is not to.
func (h *Host) left() (out []*object) {
	for _, s := range h.sets {
		for _, o := range s.objects {
			if !o.wanted(s.owns()) && o.state != absent {
				out = append(out, o)
			}
		}
	}
	return out
}

// sleep waits for an order, a call or the next entry of the plan. It does not
// wait in a system call: the runtime's monitor would take the P of its thread
// away, and look for more of that kind for milliseconds, each time.
func (h *Host) sleep() error {
	wait := time.Hour
	switch {
	case h.held && len(h.losing) > 0:
		wait = lookOrdered
	case h.held:
		wait = lookHeld
	case len(h.plan) > 0:
		wait = max(0, min(wait, time.Duration(h.plan[0].at-h.now())))
	}
	var count [8]byte
	err := h.events.SetReadDeadline(time.Now().Add(wait))
	if err == nil {
		_, err = h.events.Read(count[:])
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for orders: %w", err)
	}
	return nil
}

// Close frees the sockets. Run must have returned, and the event loop ended.
func (h *Host) Close() error {
	errs := []error{h.kernel.close(), h.events.Close()}
	for _, l := range h.links {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

func (l *link) close() error {
	if l.sock == nil {
		return nil
	}
	return l.sock.close()
}

// turn does everything that is ordered and due, as one batch.
func (h *Host) turn() {
	h.mu.Lock()
	calls := h.calls
	h.calls = nil
	h.mu.Unlock()
	for _, f := range calls {
		f()
	}
	for s := h.ordered.Swap(nil); s != nil; {
		next := s.next // of the producer again once queued is false
		s.queued.Store(false)
		h.touch(s)
		if s.announce.Swap(false) {
			h.losing = append(h.losing, s)
		}
		s = next
	}
	if h.held = h.HeldUp(); !h.held {
		h.due()
		h.verify()
	}
	h.reconcile()
	if !h.held {
		for _, s := range h.losing {
			h.afterLosingAdvert(s)
		}
		h.losing = h.losing[:0]
	}
	h.flush()
}

// touch has the next reconcile look at a set.
func (h *Host) touch(s *Set) {
	if !s.dirty {
		s.dirty = true
		h.dirty = append(h.dirty, s)
	}
}

// wakeSet has a set looked at again at that time.
func (h *Host) wakeSet(s *Set, at int64) {
	if s.wakeAt != 0 && s.wakeAt <= at {
		return
	}
	s.wakeAt = at
	h.at(at, func() {
		if s.wakeAt == at {
			s.wakeAt = 0
		}
		h.touch(s)
	})
}

// update makes the objects of a set those of spec.
func (h *Host) update(s *Set, spec Spec) {
	have := map[Address]*object{}
	for _, o := range s.objects {
		o.leaving = true
		have[o.Address] = o
	}
	objects := make([]*object, 0, len(spec.Addresses))
	for _, a := range spec.Addresses {
		o := have[a]
		if o == nil {
			o = h.newObject(s, a)
		}
		delete(have, a)
		o.leaving = false
		objects = append(objects, o)
	}
	for _, o := range s.objects {
		if o.leaving {
			objects = append(objects, o)
		}
	}
	s.objects = objects
	changed := s.how != spec.Announce
	s.how = spec.Announce
	if epoch := s.epoch.Load(); changed && s.owns() && epoch == s.applied {
		h.startRefresh(s, epoch, h.now()+int64(s.how.Refresh))
	}
	h.touch(s)
}

func (h *Host) newObject(s *Set, a Address) *object {
	l := h.links[a.Ifindex]
	if l == nil {
		l = &link{ifindex: a.Ifindex, mac: h.macs[a.Ifindex]}
		h.links[a.Ifindex] = l
		// If this fails, the first announcement tries again.
		l.sock, _ = h.openSocket(a.Ifindex)
	}
	l.users++
	o := &object{
		Address: a, set: s, link: l,
		add: a.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL),
		del: a.message(unix.RTM_DELADDR, 0),
	}
	o.prepareFrames()
	return o
}

// forget drops what a set does not hold any more and this host does not have.
func (h *Host) forget(s *Set) {
	gone := func(o *object) bool { return o.leaving && o.state == absent }
	if !slices.ContainsFunc(s.objects, gone) && !s.retired {
		return
	}
	var objects []*object // a new slice: blocks that are planned refer to the old one
	for _, o := range s.objects {
		if !gone(o) {
			objects = append(objects, o)
			continue
		}
		o.due = 0
		if o.link.users--; o.link.users == 0 {
			o.link.waiting = nil
			_ = o.link.close()
			delete(h.links, o.link.ifindex)
		}
	}
	s.objects = objects
	if s.retired && len(objects) == 0 {
		h.sets = slices.DeleteFunc(h.sets, func(t *Set) bool { return t == s })
	}
}

// setState changes what is known of an object on this host.
func (h *Host) setState(o *object, st state) {
	if (o.state == absent) == (st == absent) {
		o.state = st
		return
	}
	o.state = st
	if st != absent {
		h.holders[o.Address]++
		return
	}
	if h.holders[o.Address]--; h.holders[o.Address] == 0 {
		delete(h.holders, o.Address)
	}
}

const (
	// freeRepairs is how often in succession an address is put back at once.
	freeRepairs = 5
	// Stay is how long it must stay then to count as undisturbed.
	Stay      = 10 * time.Second
	lookAgain = 500 * time.Millisecond
	lookHeld  = 10 * time.Millisecond // at an event loop, or a set, that is held up
	// lookOrdered is for a loop that has ordered, and is about to be done.
	lookOrdered = 100 * time.Microsecond
	firstDelay  = 100 * time.Millisecond
	lastDelay   = 5 * time.Second
)

// backoff returns the delay before attempt n, counted from 0.
func backoff(n int) int64 {
	return int64(min(lastDelay, firstDelay<<min(n, 10)))
}

// RepairPause returns the pause before the nth repair in succession, counted from
// 1, of what something else keeps removing.
func RepairPause(n int) time.Duration {
	if n <= freeRepairs {
		return 0
	}
	return time.Duration(backoff(n - freeRepairs - 1))
}

// verify compares the addresses of interfaces that lost one with what is owned
// there. A loss is believed only now: news may be older than the repair.
func (h *Host) verify() {
	lost := h.lost
	h.lost = map[int]bool{}
	for ifindex := range lost {
		missing, gone := h.missing(ifindex)
		now := h.now()
		for _, o := range missing {
			h.touch(o.set)
			if gone {
				o.notBefore = now + int64(firstDelay)
				continue
			}
			o.removed = true
			o.lostAt = now
			o.repairs++
			if pause := RepairPause(o.repairs); pause > 0 {
				o.notBefore = now + int64(pause)
			}
		}
	}
}

// missing returns the objects that should be on an interface and are not, and
// whether the interface itself is gone. If the kernel does not tell, it is
// asked again later; and so it is for a set that is held.
func (h *Host) missing(ifindex int) (missing []*object, gone bool) {
	var held []*object
	later := false
	for _, s := range h.sets {
		for _, o := range s.objects {
			switch {
			case o.Ifindex != ifindex || o.state != present:
			case s.held.Load():
				later = true
			default:
				held = append(held, o)
			}
		}
	}
	if later {
		h.at(h.now()+int64(lookHeld), func() { h.lost[ifindex] = true })
	}
	if len(held) == 0 {
		return nil, false
	}
	found, err := h.kernel.addresses(ifindex)
	gone = errors.Is(err, unix.ENODEV)
	if err != nil && !gone {
		h.at(h.now()+int64(firstDelay), func() { h.lost[ifindex] = true })
		return nil, false
	}
	there := map[netip.Prefix]bool{}
	for _, f := range found {
		there[f.Prefix] = true
	}
	for _, o := range held {
		if !there[o.Prefix] {
			h.added.gone(o.Address)
			h.setState(o, unsure)
			missing = append(missing, o)
		}
	}
	return missing, gone
}

// progress is what reconcile has done for a set.
type progress struct {
	set   *Set
	epoch uint64
	at    int64 // when it was ordered
	fresh bool  // the epoch is new
	added []*object
}

// reconcile makes this host have what the sets that were touched own, and not
// have what they do not: releases first, so that no address is missing because
// of the order, and then what a release took along.
func (h *Host) reconcile() {
	if len(h.dirty) == 0 {
		return
	}
	var work []*progress
	of := map[*Set]*progress{}
	var drops, adds []*object
	now := h.now()
	for _, s := range h.dirty {
		s.dirty = false
		p := &progress{set: s}
		p.epoch, p.at = s.ordered()
		p.fresh = p.epoch != s.applied
		s.applied = p.epoch
		work = append(work, p)
		of[s] = p
		own := owned(p.epoch) && !s.retired
		for _, o := range s.objects {
			want := o.wanted(own)
			if !want {
				o.removed = false
			}
			if p.fresh {
				o.failures, o.repairs, o.notBefore = 0, 0, 0
			}
			switch {
			case want && o.state == present, !want && o.state == absent:
				o.settled()
			case o.notBefore > now:
			case want:
				adds = append(adds, o)
			default:
				drops = append(drops, o)
			}
		}
	}
	h.dirty = h.dirty[:0]

	// The host may have all of them in a moment: what another set takes over
	// is not dropped.
	for _, o := range adds {
		h.setState(o, unsure)
	}
	var interfaces []int
	var sent []*object
	for _, o := range drops {
		if h.holders[o.Address] > 1 {
			h.setState(o, absent)
			o.settled()
			continue
		}
		sent = append(sent, o)
		if !slices.Contains(interfaces, o.Ifindex) {
			interfaces = append(interfaces, o.Ifindex)
		}
	}
	h.do(sent, (*object).removal, func(o *object, err error) {
		if err == nil || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
			h.added.gone(o.Address)
			h.setState(o, absent)
			o.settled()
			return
		}
		h.failed(o, err)
	})
	// Without promote_secondaries, the kernel removes the secondary addresses
	// of a subnet along with the primary one.
	for _, ifindex := range interfaces {
		if h.held {
			h.lost[ifindex] = true
			continue
		}
		missing, gone := h.missing(ifindex)
		for _, o := range missing {
			if of[o.set] == nil {
				epoch := o.set.applied
				p := &progress{set: o.set, epoch: epoch, at: o.set.since[epoch&1].Load()}
				work = append(work, p)
				of[o.set] = p
			}
			if gone {
				o.notBefore = h.now() + int64(firstDelay)
				continue
			}
			adds = append(adds, o)
		}
	}
	for _, o := range adds {
		o.noted = h.added.note(o.Address) // before the kernel tells anybody of it
	}
	h.do(adds, (*object).addition, func(o *object, err error) {
		switch {
		case err == nil:
			h.added.note(o.Address)
		case o.noted && !errors.Is(err, errNoAnswer):
			h.added.forget(o.Address) // refused, or there before
		}
		if err == nil || errors.Is(err, unix.EEXIST) {
			h.setState(o, present)
			o.settled()
			of[o.set].added = append(of[o.set].added, o)
			return
		}
		h.failed(o, err) // and still unsure: an attempt before may have worked
	})
	h.conclude(work, h.now())
}

// Marked returns the facts with the mark on the addresses that this Host has
// added, also where the kernel does not keep it (before Linux 5.18). There, one
// that somebody removed and added again before the Host looked has it, too.
func (h *Host) Marked(f *plan.Facts) *plan.Facts { return h.added.mark(f) }

func (o *object) removal() []byte  { return o.del }
func (o *object) addition() []byte { return o.add }

// settled is for an object that is as it should be.
func (o *object) settled() { o.err, o.failures, o.notBefore = nil, 0, 0 }

// failed has an object tried again later.
func (h *Host) failed(o *object, err error) {
	o.err = err
	o.notBefore = h.now() + backoff(o.failures)
	o.failures++
}

// errNoAnswer means that it is unknown whether an address was added or removed.
var errNoAnswer = errors.New("no answer from the kernel")

// do sends a message for each object and calls done with what came of it.
func (h *Host) do(objects []*object, message func(*object) []byte, done func(*object, error)) {
	if len(objects) == 0 {
		return
	}
	messages := make([][]byte, len(objects))
	for i, o := range objects {
		messages[i] = message(o)
	}
	answered := make([]bool, len(objects))
	err := h.kernel.do(messages, func(i int, err error) {
		answered[i] = true
		done(objects[i], err)
	})
	for i, o := range objects {
		if !answered[i] {
			done(o, fmt.Errorf("%w: %w", errNoAnswer, err))
		}
	}
}

// conclude announces what was added and reports.
func (h *Host) conclude(work []*progress, applied int64) {
	for _, p := range work {
		s := p.set
		if p.fresh && owned(p.epoch) && !s.retired {
			h.announceNow(s.objects, p.epoch, s.how.Repeat)
		} else {
			h.announceNow(p.added, p.epoch, s.how.Repeat)
		}
	}
	first := h.flush()
	for _, p := range work {
		s := p.set
		if p.fresh && owned(p.epoch) && !s.retired {
			h.secondBlock(s, s.objects, p.epoch, first)
			h.startRefresh(s, p.epoch, first+int64(s.how.Delay+s.how.Refresh))
		} else {
			h.secondBlock(s, p.added, p.epoch, first)
		}
		failed, removed := h.trouble(s)
		news := !slices.EqualFunc(failed, s.failed, sameError) || !slices.Equal(removed, s.removed)
		s.failed, s.removed = failed, removed
		if p.fresh || news {
			r := Report{
				Set: s, Epoch: p.epoch, OrderedNs: p.at, AppliedNs: applied,
				Failed: slices.Clone(failed), Removed: slices.Clone(removed),
			}
			if p.fresh && s.announced(p.epoch) {
				r.Announced = first
			}
			h.report(r)
		}
		h.forget(s)
	}
}

func sameError(a, b AddressError) bool {
	return a.Address == b.Address && a.Err.Error() == b.Err.Error()
}

// watch looks at an address that was put back, again and again until it has
// stayed: one that is removed at once was there and gone between two looks of
// whoever calls Lost.
func (h *Host) watch(o *object) {
	if o.watched {
		return
	}
	o.watched = true
	h.at(h.now()+int64(lookAgain), func() {
		o.watched = false
		if o.removed && o.state == present {
			h.lost[o.Ifindex] = true
			h.watch(o)
		}
	})
}

// trouble returns what the kernel refused and what others removed, and has the
// set looked at again when it is time for the next attempt.
func (h *Host) trouble(s *Set) (failed []AddressError, removed []Address) {
	for _, o := range s.objects {
		if o.err != nil {
			failed = append(failed, AddressError{o.Address, o.err})
		}
		if o.removed && o.state == present {
			if until := o.lostAt + int64(Stay); until > h.now() {
				h.wakeSet(s, until)
				h.watch(o)
			} else {
				o.removed, o.repairs = false, 0
			}
		}
		if o.removed {
			removed = append(removed, o.Address)
		}
		if o.notBefore > 0 {
			h.wakeSet(s, o.notBefore)
		}
	}
	return failed, removed
}

// schedule is what has to be done later, the earliest entry first.
type schedule []entry

type entry struct {
	at int64
	do func()
}

func (h *Host) at(at int64, do func()) { heap.Push(&h.plan, entry{at, do}) }

// due does what was planned for now.
func (h *Host) due() {
	for now := h.now(); len(h.plan) > 0 && h.plan[0].at <= now; {
		heap.Pop(&h.plan).(entry).do()
	}
}

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].at < s[j].at }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)        { *s = append(*s, x.(entry)) }
func (s *schedule) Pop() any {
	old := *s
	last := old[len(old)-1]
	old[len(old)-1] = entry{}
	*s = old[:len(old)-1]
	return last
}
