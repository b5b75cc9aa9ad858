// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"errors"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Announcements wait for each interface in a line of their own: each address
// is announced once before any is repeated, and an interface that does not
// drain holds up no other.

// link is an interface that addresses are announced on.
type link struct {
	ifindex int
	mac     net.HardwareAddr // nil: unknown, or without Ethernet framing
	users   int              // objects
	sock    frameSocket      // nil: could not be opened yet
	waiting []*object        // with announcements due; the next one is first
	at      int64            // nothing is sent before
	planned bool             // the plan has an entry for it
}

// frameSocket sends frames on one interface.
type frameSocket interface {
	// send returns how many frames the kernel took, and why not all.
	send(frames [][]byte) (int, error)
	close() error
}

const (
	// retryFull is when an interface that does not drain is tried again: a
	// send buffer of frames has left by then unless it is slower than 2 Mbit/s.
	retryFull = 10 * time.Millisecond
	// retryDown is when one that takes nothing at all is tried again.
	retryDown = time.Second
)

// announceNow makes announcements of the objects due, n of each. It sends
// nothing yet.
func (h *Host) announceNow(objects []*object, epoch uint64, n int) {
	if n <= 0 {
		return
	}
	for _, o := range objects {
		if !o.announceable() {
			continue
		}
		if o.epoch != epoch {
			o.epoch = epoch
			if o.due > 0 {
				o.due = n
				continue
			}
		}
		if o.due == 0 {
			if len(o.link.waiting) == 0 {
				h.sending = append(h.sending, o.link)
			}
			o.link.waiting = append(o.link.waiting, o)
		}
		// Two blocks at most wait for an interface that does not drain.
		o.due = min(o.due+n, max(o.due, 2*n))
	}
}

// secondBlock plans the announcements that follow those of objects that were
// added.
func (h *Host) secondBlock(s *Set, objects []*object, epoch uint64, first int64) {
	if delay := s.how.Delay; delay > 0 && len(objects) > 0 {
		h.at(first+int64(delay), func() { h.again(s, objects, epoch, s.how.Repeat) })
	}
}

// again announces objects unless the epoch has changed.
func (h *Host) again(s *Set, objects []*object, epoch uint64, n int) {
	if !s.retired && !s.held.Load() && s.epoch.Load() == epoch {
		h.announceNow(objects, epoch, n)
	}
}

// startRefresh begins the periodic announcements of an epoch again.
func (h *Host) startRefresh(s *Set, epoch uint64, first int64) {
	s.refresh++
	if s.how.Refresh <= 0 {
		return
	}
	generation := s.refresh
	var tick func(at int64)
	tick = func(at int64) {
		h.at(at, func() {
			if s.refresh != generation || s.retired || s.epoch.Load() != epoch {
				return
			}
			h.again(s, s.objects, epoch, s.how.RefreshRepeat)
			tick(max(at+int64(s.how.Refresh), h.now()))
		})
	}
	tick(first)
}

// afterLosingAdvert announces once at least: hosts that followed the other
// router must not wait for their ARP entries to expire. One delayed block is
// enough, however many losing adverts arrive.
func (h *Host) afterLosingAdvert(s *Set) {
	epoch := s.epoch.Load()
	if s.retired || !owned(epoch) || epoch != s.applied {
		return
	}
	n := max(1, s.how.LowerPrioRepeat)
	h.announceNow(s.objects, epoch, n)
	if s.how.LowerPrioDelay <= 0 || s.delaying == epoch {
		return
	}
	s.delaying = epoch
	h.at(h.now()+int64(s.how.LowerPrioDelay), func() {
		if s.delaying == epoch {
			s.delaying = 0
		}
		h.again(s, s.objects, epoch, n)
	})
}

// flush sends what is due, as far as pacing and the kernel allow, and plans
// the rest. It returns when each had been tried once.
func (h *Host) flush() (first int64) {
	first = h.now()
	for round := 0; len(h.sending) > 0; round++ {
		more := h.sending[:0]
		for _, l := range h.sending {
			if h.pass(l) {
				more = append(more, l)
			}
		}
		h.sending = more
		if round == 0 {
			first = h.now()
		}
	}
	return first
}

// pass sends each announcement that waits for an interface once, and reports
// whether more may follow at once.
func (h *Host) pass(l *link) bool {
	for n := len(l.waiting); n > 0; {
		if l.at > h.now() {
			h.planLink(l)
			return false
		}
		took := h.batch(l, n)
		if took == 0 {
			h.planLink(l)
			return false
		}
		n -= took
	}
	return len(l.waiting) > 0
}

// planLink makes sure that an interface is tried again when it may send.
func (h *Host) planLink(l *link) {
	if l.planned {
		return
	}
	l.planned = true
	h.at(l.at, func() {
		l.planned = false
		if len(l.waiting) > 0 {
			h.sending = append(h.sending, l)
		}
	})
}

// batch sends at most n announcements of the first objects that wait, and
// returns how many objects it has dealt with: 0 if the interface has to wait.
func (h *Host) batch(l *link, n int) (took int) {
	h.frames = h.frames[:0]
	var interval time.Duration
	for took < n && len(h.frames) < maxFrames {
		o := l.waiting[took]
		if o.due > 0 && (o.set.retired || o.set.epoch.Load() != o.epoch || !o.announceable()) {
			h.Dropped.Add(uint64(o.due))
			o.due = 0
		}
		if o.due > 0 {
			if pace := o.set.how.Interval; pace > 0 {
				if len(h.frames) > 0 {
					break
				}
				interval = pace
			}
			h.frames = append(h.frames, o.frame)
		}
		took++
		if interval > 0 {
			break
		}
	}
	if len(h.frames) > 0 {
		sent, err := h.send(l, h.frames)
		h.Sent.Add(uint64(sent))
		if sent < len(h.frames) {
			took = upTo(l.waiting[:took], sent)
			h.Retried.Add(1)
			pace := retryDown
			if errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
				pace = retryFull
			}
			l.at = h.now() + int64(pace)
		} else if interval > 0 {
			l.at = h.now() + int64(interval)
		}
	}
	dealt := l.waiting[:took]
	l.waiting = l.waiting[took:]
	for _, o := range dealt {
		if o.due == 0 {
			continue
		}
		o.announced = o.epoch
		if o.due--; o.due > 0 {
			l.waiting = append(l.waiting, o)
		}
	}
	return took
}

// upTo returns how many of the objects come before the one whose frame was
// not sent, the frame with the number sent.
func upTo(objects []*object, sent int) int {
	for i, o := range objects {
		if o.due == 0 {
			continue
		}
		if sent == 0 {
			return i
		}
		sent--
	}
	return len(objects)
}

// send sends frames on an interface, whose socket is opened if it is not yet.
func (h *Host) send(l *link, frames [][]byte) (int, error) {
	if l.sock == nil {
		sock, err := h.openSocket(l.ifindex)
		if err != nil {
			return 0, err
		}
		l.sock = sock
	}
	return l.sock.send(frames)
}

// changeMAC gives the announcements on an interface another hardware address
// and sends those that are owned at once.
func (h *Host) changeMAC(ifindex int, mac net.HardwareAddr) {
	if mac == nil {
		delete(h.macs, ifindex)
	} else {
		h.macs[ifindex] = mac
	}
	l := h.links[ifindex]
	if l == nil || string(l.mac) == string(mac) {
		return
	}
	l.mac = mac
	for _, s := range h.sets {
		var changed []*object
		for _, o := range s.objects {
			if o.link == l {
				o.prepareFrames()
				changed = append(changed, o)
			}
		}
		if epoch := s.epoch.Load(); s.owns() && epoch == s.applied {
			h.announceNow(changed, epoch, s.how.Repeat)
		}
	}
}

// prepareFrames makes the frames for the interface's hardware address.
func (o *object) prepareFrames() {
	o.frame, o.probe = nil, nil
	if o.link.mac != nil {
		o.frame = appendGARP(make([]byte, 0, arpLen), o.link.mac, o.Prefix.Addr())
		o.probe = appendProbe(make([]byte, 0, arpLen), o.link.mac, o.Prefix.Addr())
	}
}

// Each of the owned addresses is probed about once a second while there are no
// more than ten, and there are never more than ten frames a second. A worker
// with few addresses, or none, sleeps for as long: every time that it wakes the
// runtime looks after its threads for a while, which costs more than the probe.
const (
	probeRound = time.Second
	probeEvery = 100 * time.Millisecond
)

// probeNext sends a probe for the next owned address, and returns the time until
// it is another one's turn. Nobody should answer; whoever does is seen by the
// program on the interface. A probe that the kernel refuses is not sent again:
// the next turn comes.
func (h *Host) probeNext() time.Duration {
	count := 0
	for _, s := range h.sets {
		count += s.probes()
	}
	if count == 0 {
		return probeRound
	}
	turn := h.probed % count
	h.probed++
	wait := max(probeRound/time.Duration(count), probeEvery)
	for _, s := range h.sets {
		if n := s.probes(); turn >= n {
			turn -= n
			continue
		}
		for _, o := range s.objects {
			if !o.announceable() {
				continue
			}
			if turn == 0 {
				if len(o.link.waiting) == 0 {
					_, _ = h.send(o.link, [][]byte{o.probe})
				}
				return wait
			}
			turn--
		}
	}
	return wait
}

// probes returns how many addresses of the set have to be probed.
func (s *Set) probes() (n int) {
	if !s.owns() {
		return 0
	}
	for _, o := range s.objects {
		if o.announceable() {
			n++
		}
	}
	return n
}
