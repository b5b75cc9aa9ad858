// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// Fast detection: the event loop's side of S-BFD. There is one session for
// each peer of an interface, shared by every instance that follows that peer
// as its master. Everything is made at start; a session costs a probe and a
// look at the kernel's record at each interval.

// minRx is what our own reflector can take.
const minRx = 300 * time.Microsecond

// sessionMax is the number of sessions of an interface, and a power of two.
const sessionMax = 64

// detector is the sessions of one interface.
type detector struct {
	prober   *transport.Prober
	sessions [sessionMax]session
	mac      [6]byte
}

// session is the initiator's side towards one peer.
type session struct {
	bfd.Session
	local  uint32 // discriminator
	spec   transport.ProbeSpec
	cfg    bfd.Config
	frames [bfd.Ports][]byte
	users  int // instances that follow the peer
	open   bool
	shared sessionShared
}

// sessionShared is what the loop publishes of a session.
type sessionShared struct {
	peer       atomic.Uint32 // 0: unused
	users      atomic.Int32
	state      atomic.Uint32
	diag       atomic.Uint32
	since      atomic.Int64
	interval   atomic.Int64
	multiplier atomic.Int32
	echo       atomic.Bool
	sent       atomic.Uint64
	unsent     atomic.Uint64
	verdicts   [4]atomic.Uint64 // by bfd.Verdict
}

// detection is news of a session on its way to the log.
type detection struct {
	iface   *iface
	peer    uint32
	verdict bfd.Verdict
	diag    bfd.Diag
	// still is the number of instances that did not act, because adverts
	// came on.
	acted, still int
	unanswered   time.Duration
}

func newDetector(prober *transport.Prober, mac [6]byte) *detector {
	d := &detector{prober: prober, mac: mac}
	base := rand.Uint32() | 1<<31
	for n := range d.sessions {
		s := &d.sessions[n]
		s.local = base&^(sessionMax-1) | uint32(n)
		for p := range s.frames {
			s.frames[p] = make([]byte, 0, 128)
		}
	}
	return d
}

// discriminator of the reflector at an address: the address itself. Nothing
// else has to be told to peers.
func discriminator(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// follow joins an instance to the session of its master, whose advert is e.
func (l *loop) follow(i *instance, e *loader.Event) {
	d, want := i.iface.detector, &i.cfg.FastDetect
	if d == nil || !want.Enabled || !e.Src.Is4() {
		return
	}
	if e.Src == i.cfg.Source {
		l.unfollow(i) // probes to our own address would not leave this host
		return
	}
	if i.session == nil || i.session.spec.Peer != e.Src {
		l.unfollow(i)
		if i.session = d.find(e.Src, want.Echo); i.session == nil {
			l.stats.sessionsFull.Add(1)
			return
		}
		i.session.users++
		i.session.shared.users.Store(int32(i.session.users))
	}
	s := i.session
	cfg, source := bfd.Config{Interval: want.Interval, Multiplier: want.Multiplier, Echo: want.Echo}, i.cfg.Source
	if s.users > 1 {
		source = s.spec.Src
		if detectionTime(s.cfg) <= detectionTime(cfg) {
			cfg = s.cfg // the fastest of its users is right for all
		}
	}
	remote := discriminator(e.Src)
	if want.Echo {
		remote = s.local
	}
	was := s.spec
	s.spec = transport.ProbeSpec{
		SrcMAC: d.mac, DstMAC: e.MAC, Src: source, Peer: e.Src, Echo: want.Echo,
		BFD: packet.BFD{
			State: uint8(bfd.Up), Flags: packet.BFDDemand, Multiplier: uint8(cfg.Multiplier),
			My: s.local, Your: remote, MinTx: cfg.Interval, MinRx: minRx,
		},
	}
	if s.spec != was {
		d.prober.Frames(&s.frames, &s.spec)
	}
	if s.open && cfg == s.cfg && e.MAC == was.DstMAC {
		return // it runs
	}
	// With another MAC it has to be Up again before it counts: an advert of a
	// stranger can put fast detection to sleep, but fire nothing.
	s.cfg, s.open = cfg, true
	i.iface.guard.OpenSession(s.local, remote, e.Src, want.Echo)
	s.Reopen(l.now, cfg)
	s.publish()
	l.probeNext = min(l.probeNext, l.now)
}

func detectionTime(c bfd.Config) time.Duration {
	return c.Interval * time.Duration(c.Multiplier)
}

// unfollow leaves the session of the instance, which ends with its last user.
func (l *loop) unfollow(i *instance) {
	s := i.session
	if s == nil {
		return
	}
	i.session = nil
	if s.users--; s.users == 0 {
		s.open = false
		i.iface.guard.CloseSession(s.local)
		s.shared.state.Store(uint32(bfd.AdminDown))
	}
	s.shared.users.Store(int32(s.users))
}

// find returns the session of a peer, an unused one, or one that was closed.
func (d *detector) find(peer netip.Addr, echo bool) *session {
	var closed *session
	for n := range d.sessions {
		s := &d.sessions[n]
		switch {
		case s.spec.Peer == peer && s.spec.Echo == echo:
			return s // also if it is closed: it knows whether the peer flaps
		case s.open:
		case closed == nil || closed.spec.Peer.IsValid() && !s.spec.Peer.IsValid():
			closed = s
		}
	}
	if closed != nil {
		// What it knew and counted was about another peer.
		closed.Session = bfd.Session{}
		closed.shared.sent.Store(0)
		closed.shared.unsent.Store(0)
		for v := range closed.shared.verdicts {
			closed.shared.verdicts[v].Store(0)
		}
	}
	return closed
}

// probe runs every session that is due.
func (l *loop) probe() {
	for _, f := range l.ifaces {
		if f.detector == nil {
			continue
		}
		for n := range f.detector.sessions {
			if s := &f.detector.sessions[n]; s.open && s.Deadline() <= l.now {
				l.probeSession(f, s)
			}
		}
	}
}

func (l *loop) probeSession(f *iface, s *session) {
	_, oldest := s.Unanswered()
	a := f.guard.Answer(s.local)
	says := bfd.State(a.State)
	if s.spec.Echo {
		says = bfd.Up // whoever forwards says nothing of itself
	}
	if v := s.Observe(l.now, control.Instant(a.LastNs), says); v != bfd.VerdictNone {
		l.verdict(f, s, v, oldest)
	}
	if !s.open {
		return // nobody follows the peer any more
	}
	if port, due := s.Probe(l.now); due {
		took := f.detector.prober.Send(s.frames[port])
		if took {
			s.shared.sent.Add(1)
		} else {
			s.shared.unsent.Add(1)
		}
		s.Sent(l.now, took)
	}
}

// askDetector lets a backup know, before it judges its master by the adverts
// that are missing, what that one's kernel said last.
func (l *loop) askDetector(i *instance) {
	s := i.session
	if s == nil || s.spec.Echo {
		return // an echo says nothing of the daemon
	}
	if state, _, _ := s.State(); state != bfd.Up {
		return
	}
	a := i.iface.guard.Answer(s.local)
	if bfd.State(a.State) != bfd.Up {
		return
	}
	l.step(i, control.Event{Kind: control.EventPeerUp, Source: s.spec.Peer, At: control.Instant(a.LastNs)})
	last := i.iface.plane.LastArrival(i.slot)
	if i.deadline > l.now && i.heldSince != last {
		i.heldSince = last
		i.shared.held.Add(1)
	}
}

// verdict lets the instances that follow the peer know.
func (l *loop) verdict(f *iface, s *session, v bfd.Verdict, oldest control.Instant) {
	news := detection{iface: f, peer: word(s.spec.Peer), verdict: v}
	_, _, news.diag = s.State()
	s.shared.verdicts[v].Add(1)
	if v != bfd.VerdictUp {
		// Somebody else may be master by now: what has arrived counts first.
		l.drain()
		news.unanswered = l.now.Sub(oldest)
		for _, i := range l.insts {
			if i.session != s || i.router.State() != control.Backup {
				continue
			}
			// Adverts that came on since say that only the answers are lost.
			last := control.Instant(f.plane.LastArrival(i.slot))
			if v == bfd.VerdictDown && last > oldest.Add(s.cfg.Interval) {
				news.still++
				continue
			}
			news.acted++
			kind := control.EventPeerDown
			if v == bfd.VerdictAdminDown {
				kind = control.EventPeerLeft
			}
			l.step(i, control.Event{Kind: kind, Source: s.spec.Peer})
		}
	}
	if s.open {
		s.publish()
	}
	select {
	case l.detections <- news:
	default:
		l.stats.lost.Add(1)
	}
}

// probeDeadline returns when a session wants to run.
func (l *loop) probeDeadline() control.Instant {
	next := never
	for _, f := range l.ifaces {
		if f.detector == nil {
			continue
		}
		for n := range f.detector.sessions {
			if s := &f.detector.sessions[n]; s.open {
				next = min(next, s.Deadline())
			}
		}
	}
	return next
}

// setMAC takes the interface's new hardware address into the probes.
func (d *detector) setMAC(mac [6]byte) {
	d.mac = mac
	for n := range d.sessions {
		if s := &d.sessions[n]; s.open {
			s.spec.SrcMAC = mac
			d.prober.Frames(&s.frames, &s.spec)
		}
	}
}

func (s *session) publish() {
	state, since, diag := s.State()
	s.shared.peer.Store(word(s.spec.Peer))
	s.shared.users.Store(int32(s.users))
	s.shared.state.Store(uint32(state))
	s.shared.since.Store(int64(since))
	s.shared.diag.Store(uint32(diag))
	s.shared.interval.Store(int64(s.cfg.Interval))
	s.shared.multiplier.Store(int32(s.cfg.Multiplier))
	s.shared.echo.Store(s.spec.Echo)
}
