// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Announcement says how the addresses of a Set are announced; see
// config.GARP.
type Announcement struct {
	Repeat          int
	Delay           time.Duration // until the second block; 0: there is none
	Refresh         time.Duration // 0: none
	RefreshRepeat   int
	LowerPrioRepeat int
	LowerPrioDelay  time.Duration
	Interval        time.Duration // between two frames on one interface; 0: none
}

// Set is the addresses of one virtual router.
type Set struct {
	id     int
	names  []netip.Prefix // of add and del, for errors
	add    [][]byte
	del    [][]byte
	groups []frameGroup
	how    Announcement

	// epoch is odd while the virtual router owns its addresses and grows with
	// every change. An announcement made for an older one is not sent.
	epoch    atomic.Uint64
	announce atomic.Bool // asked for after a losing advert
	queued   atomic.Bool
	since    atomic.Int64 // when the last change was ordered
	applied  uint64       // the epoch that the worker has carried out
}

// frameGroup is the announcements of a Set on one interface.
type frameGroup struct {
	ifindex int
	frames  [][]byte
	probes  [][]byte // that ask whether another host has the address, too
}

// NewSet prepares the messages and frames for addresses. Those in own belong
// to the host: they are announced, and neither added nor removed. The id comes
// back in reports.
func NewSet(id int, addresses []Address, own map[netip.Addr]bool, how Announcement) (*Set, error) {
	s := &Set{id: id, how: how}
	for _, a := range addresses {
		if !own[a.Prefix.Addr()] {
			s.names = append(s.names, a.Prefix)
			s.add = append(s.add, a.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL))
			s.del = append(s.del, a.message(unix.RTM_DELADDR, 0))
		}
		mac, err := hardwareAddr(a.Ifindex)
		if err != nil {
			return nil, err
		}
		if mac == nil {
			continue
		}
		frame := appendGARP(make([]byte, 0, arpLen), mac, a.Prefix.Addr())
		g := s.group(a.Ifindex)
		g.frames = append(g.frames, frame)
		g.probes = append(g.probes, appendProbe(make([]byte, 0, arpLen), mac, a.Prefix.Addr()))
	}
	return s, nil
}

func (s *Set) group(ifindex int) *frameGroup {
	for i := range s.groups {
		if s.groups[i].ifindex == ifindex {
			return &s.groups[i]
		}
	}
	s.groups = append(s.groups, frameGroup{ifindex: ifindex})
	return &s.groups[len(s.groups)-1]
}

func owned(epoch uint64) bool { return epoch&1 == 1 }

// Report tells what the worker did for a Set. Times are on the clock given to
// NewHost.
type Report struct {
	ID        int
	Owned     bool
	OrderedNs int64 // when Takeover or Release was called
	AppliedNs int64 // when the kernel had all addresses added or removed
	Announced int64 // when the first announcement of each was handed over, or 0
	Err       error // what the kernel refused
}

// Host carries out takeovers and releases on a goroutine of its own, so that
// no address delays an advert. Takeover, Release and Announce never block.
type Host struct {
	now    func() int64
	report func(Report)
	queue  chan *Set
	macs   chan macChange
	done   chan struct{} // closed when Run ends
	sets   []*Set        // see Register
	rt     *rtnetlink
	sock   *packetSocket

	asked   int // sets, groups and frames that were asked for, in one count
	plan    schedule
	nextOn  map[int]int64 // by interface: when pacing allows the next frame
	batch   []*Set
	msgs    [][]byte
	Dropped atomic.Uint64 // announcements that the kernel did not take
	Sent    atomic.Uint64
}

// NewHost returns a Host for at most n sets. now is the clock of reports,
// report is called from the worker.
func NewHost(n int, now func() int64, report func(Report)) (*Host, error) {
	rt, err := openRtnetlink()
	if err != nil {
		return nil, err
	}
	sock, err := openPacketSocket()
	if err != nil {
		return nil, errors.Join(err, rt.close())
	}
	return &Host{
		now: now, report: report, queue: make(chan *Set, n), macs: make(chan macChange, 64), done: make(chan struct{}),
		rt: rt, sock: sock, nextOn: map[int]int64{},
	}, nil
}

// Takeover orders the addresses to be added and announced.
func (h *Host) Takeover(s *Set) { h.order(s, true) }

// Release orders them to be removed. From this moment none is announced.
func (h *Host) Release(s *Set) { h.order(s, false) }

func (h *Host) order(s *Set, own bool) {
	if owned(s.epoch.Load()) != own {
		s.since.Store(h.now())
		s.epoch.Add(1)
		h.wake(s)
	}
}

// Announce orders the announcements that follow a losing advert.
func (h *Host) Announce(s *Set) {
	s.announce.Store(true)
	h.wake(s)
}

func (h *Host) wake(s *Set) {
	// At most one entry for each set: the queue cannot be full.
	if s.queued.CompareAndSwap(false, true) {
		h.queue <- s
	}
}

// Run works until ctx ends and then carries out what is still ordered.
func (h *Host) Run(ctx context.Context) error {
	defer close(h.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	ask := time.NewTicker(askEvery)
	defer ask.Stop()
	for {
		wait := time.Hour
		if len(h.plan) > 0 {
			wait = time.Duration(h.plan[0].at - h.now())
		}
		timer.Reset(wait)
		select {
		case s := <-h.queue:
			h.work(s)
		case <-timer.C:
			h.due()
		case <-ask.C:
			h.ask()
		case c := <-h.macs:
			h.changeMAC(c)
		case <-ctx.Done():
			for {
				select {
				case s := <-h.queue:
					h.work(s)
				default:
					return nil
				}
			}
		}
	}
}

// macChange is news of an interface's hardware address.
type macChange struct {
	ifindex int
	mac     net.HardwareAddr
}

// SetMAC tells that an interface has another hardware address, e.g. because a
// bond failed over: what is announced from now on carries it, and addresses
// that are owned are announced at once.
func (h *Host) SetMAC(ifindex int, mac net.HardwareAddr) {
	if len(mac) != 6 {
		return
	}
	select {
	case h.macs <- macChange{ifindex, mac}:
	case <-h.done: // nobody announces any more
	}
}

func (h *Host) changeMAC(c macChange) {
	for _, s := range h.sets {
		changed := false
		for _, g := range s.groups {
			if g.ifindex != c.ifindex {
				continue
			}
			for _, f := range g.frames {
				changed = setMAC(f, c.mac) || changed
			}
			for _, f := range g.probes {
				setMAC(f, c.mac)
			}
		}
		if epoch := s.epoch.Load(); changed && owned(epoch) {
			h.rounds(s, epoch, s.how.Repeat)
		}
	}
}

// Register tells the Host of a set before its Run, so that it learns of
// changes of hardware addresses.
func (h *Host) Register(s *Set) { h.sets = append(h.sets, s) }

// Close frees the sockets; Run must have returned.
func (h *Host) Close() error { return errors.Join(h.rt.close(), h.sock.close()) }

// work takes everything that waits and does it as one batch: releases first,
// so that an address may move from one set to another.
func (h *Host) work(first *Set) {
	h.batch = append(h.batch[:0], first)
	for more := true; more; {
		select {
		case s := <-h.queue:
			h.batch = append(h.batch, s)
		default:
			more = false
		}
	}
	for _, s := range h.batch {
		s.queued.Store(false)
	}
	h.apply(false)
	h.apply(true)
	for _, s := range h.batch {
		if s.announce.Swap(false) && owned(s.epoch.Load()) {
			// Once at least: clients that followed the other one must not wait
			// for their ARP entries to expire.
			h.block(s, s.epoch.Load(), max(1, s.how.LowerPrioRepeat), s.how.LowerPrioDelay)
		}
	}
}

// change is a set whose epoch the worker is carrying out.
type change struct {
	set   *Set
	epoch uint64
	first int // of its messages in the batch
	err   error
}

func (h *Host) apply(own bool) {
	var changes []change
	h.msgs = h.msgs[:0]
	for _, s := range h.batch {
		epoch := s.epoch.Load()
		if owned(epoch) != own || epoch == s.applied {
			continue
		}
		s.applied = epoch
		changes = append(changes, change{set: s, epoch: epoch, first: len(h.msgs)})
		if own {
			h.msgs = append(h.msgs, s.add...)
		} else {
			h.msgs = append(h.msgs, s.del...)
		}
	}
	if len(changes) == 0 {
		return
	}
	err := h.rt.do(h.msgs, func(i int, err error) {
		// There already, or gone already, is what was wanted.
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EADDRNOTAVAIL) {
			return
		}
		c := owning(changes, i)
		c.err = errors.Join(c.err, fmt.Errorf("address %s: %w", c.set.names[i-c.first], err))
	})
	applied := h.now()
	for i := range changes {
		changes[i].err = errors.Join(changes[i].err, err)
	}
	var announced int64
	if own {
		announced = h.firstBlocks(changes)
	}
	for _, c := range changes {
		h.report(Report{
			ID: c.set.id, Owned: own, OrderedNs: c.set.since.Load(),
			AppliedNs: applied, Announced: announced, Err: c.err,
		})
	}
}

// owning returns the change that message i belongs to.
func owning(changes []change, i int) *change {
	for k := len(changes) - 1; k > 0; k-- {
		if i >= changes[k].first {
			return &changes[k]
		}
	}
	return &changes[0]
}

// firstBlocks announces every address of every set once before any is
// repeated, and plans what comes later. It returns when the first round was
// with the kernel.
func (h *Host) firstBlocks(changes []change) (first int64) {
	for _, c := range changes {
		h.round(c.set, c.epoch)
	}
	first = h.now()
	for _, c := range changes {
		h.rounds(c.set, c.epoch, c.set.how.Repeat-1)
		if c.set.how.Delay > 0 {
			h.at(first+int64(c.set.how.Delay), c.set, c.epoch, c.set.how.Repeat, 0)
		}
		if c.set.how.Refresh > 0 {
			h.at(first+int64(c.set.how.Delay+c.set.how.Refresh), c.set, c.epoch,
				c.set.how.RefreshRepeat, c.set.how.Refresh)
		}
	}
	return first
}

// block announces now and, if there is a delay, once more after it.
func (h *Host) block(s *Set, epoch uint64, repeat int, delay time.Duration) {
	h.rounds(s, epoch, repeat)
	if delay <= 0 || repeat == 0 {
		return
	}
	// One delayed block is enough, however many losing adverts arrive.
	for _, e := range h.plan {
		if e.set == s && e.epoch == epoch && e.every == 0 && e.frame == nil {
			return
		}
	}
	h.at(h.now()+int64(delay), s, epoch, repeat, 0)
}

func (h *Host) rounds(s *Set, epoch uint64, n int) {
	for range n {
		h.round(s, epoch)
	}
}

// round announces every address once: at once, or as pacing allows.
func (h *Host) round(s *Set, epoch uint64) {
	if s.epoch.Load() != epoch {
		return
	}
	for _, g := range s.groups {
		if s.how.Interval == 0 {
			h.send(g.ifindex, g.frames)
			continue
		}
		now := h.now()
		for i := range g.frames {
			at := max(now, h.nextOn[g.ifindex])
			h.nextOn[g.ifindex] = at + int64(s.how.Interval)
			if at <= now {
				h.send(g.ifindex, g.frames[i:i+1])
				continue
			}
			heap.Push(&h.plan, entry{at: at, set: s, epoch: epoch, ifindex: g.ifindex, frame: g.frames[i : i+1]})
		}
	}
}

func (h *Host) send(ifindex int, frames [][]byte) {
	n, err := h.sock.send(ifindex, frames)
	h.Sent.Add(uint64(n))
	if err != nil {
		h.Dropped.Add(uint64(len(frames) - n))
	}
}

func (h *Host) at(at int64, s *Set, epoch uint64, repeat int, every time.Duration) {
	heap.Push(&h.plan, entry{at: at, set: s, epoch: epoch, repeat: repeat, every: every})
}

// due sends what was planned for now. Entries of an older epoch fall away.
func (h *Host) due() {
	for len(h.plan) > 0 && h.plan[0].at <= h.now() {
		e := heap.Pop(&h.plan).(entry)
		if e.set.epoch.Load() != e.epoch {
			continue
		}
		if e.frame != nil {
			h.send(e.ifindex, e.frame)
			continue
		}
		h.rounds(e.set, e.epoch, e.repeat)
		if e.every > 0 {
			e.at += int64(e.every)
			heap.Push(&h.plan, e)
		}
	}
}

// askEvery is how often one of the owned addresses is asked for: each about
// once a second while there are no more than ten, and never more than ten
// frames a second.
const askEvery = 100 * time.Millisecond

// ask sends a probe for the next owned address. Nobody should answer; whoever
// does is seen by the program on the interface.
func (h *Host) ask() {
	count := 0
	for _, s := range h.sets {
		if s.owned() {
			for _, g := range s.groups {
				count += len(g.probes)
			}
		}
	}
	if count == 0 {
		return
	}
	h.asked++
	turn := h.asked % max(count, int(time.Second/askEvery))
	for _, s := range h.sets {
		if !s.owned() {
			continue
		}
		for _, g := range s.groups {
			if turn < len(g.probes) {
				h.send(g.ifindex, g.probes[turn:turn+1])
				return
			}
			turn -= len(g.probes)
		}
	}
}

func (s *Set) owned() bool { return owned(s.epoch.Load()) }

// entry is a planned block of announcements, or one paced frame.
type entry struct {
	at      int64
	set     *Set
	epoch   uint64
	repeat  int
	every   time.Duration
	ifindex int
	frame   [][]byte
}

type schedule []entry

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].at < s[j].at }
func (s schedule) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *schedule) Push(x any)        { *s = append(*s, x.(entry)) }
func (s *schedule) Pop() any {
	old := *s
	last := old[len(old)-1]
	*s = old[:len(old)-1]
	return last
}
