// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// Fast detection: the loop's side of S-BFD. There is one session for each port
// and peer, shared by every router that follows that peer as its master. A
// session costs a probe and a look at the kernel's record in each interval.

// minRx is what our own reflector can take.
const minRx = 300 * time.Microsecond

// probeRoom is the size of a probe's frame, with space to spare.
const probeRoom = 128

// Session is the initiator's side towards one peer. There are as many as there
// are routers that want fast detection; they are made outside the loop and stay
// for as long as the table has them.
type Session struct {
	bfd.Session
	local  uint32 // discriminator
	at     int    // position in the table
	port   *Port
	spec   transport.ProbeSpec
	cfg    bfd.Config
	frames [bfd.Ports][]byte
	users  int // routers that follow the peer
	open   bool

	state    cell[SessionState]
	Sent     atomic.Uint64
	Unsent   atomic.Uint64    // probes that the kernel refused
	Verdicts [4]atomic.Uint64 // by bfd.Verdict
}

// NewSession returns an unused session with a discriminator, which is not 0.
func NewSession(local uint32) *Session {
	s := &Session{local: local}
	s.state.init()
	for p := range s.frames {
		s.frames[p] = make([]byte, 0, probeRoom)
	}
	return s
}

// Current returns what the session is now, read as a whole.
func (s *Session) Current() SessionState { return s.state.load() }

// follow joins a router to the session of its master, whose advert is ev.
func (e *Engine) follow(r *Router, ev *loader.Event) {
	want := &r.spec.FastDetect
	if e.table.Prober == nil || r.Port.Kernel == nil || !want.Enabled || !ev.Src.Is4() ||
		ev.Src == r.spec.Config.Source { // a host that sends from our address cannot be probed
		return
	}
	if r.session == nil || r.session.spec.Peer != ev.Src {
		e.unfollow(r)
		if r.session = e.findSession(r.Port, ev.Src, want.Echo); r.session == nil {
			e.Stats.SessionsFull.Add(1)
			return
		}
		r.session.users++
	}
	s := r.session
	cfg, source := bfd.Config{Interval: want.Interval, Multiplier: want.Multiplier, Echo: want.Echo}, r.spec.Config.Source
	if s.users > 1 {
		source = s.spec.Src
		if detectionTime(s.cfg) <= detectionTime(cfg) {
			cfg = s.cfg // the fastest of its users is right for all
		}
	}
	remote := bfd.Discriminator(ev.Src)
	if want.Echo {
		remote = s.local
	}
	was := s.spec
	s.port = r.Port
	s.spec = transport.ProbeSpec{
		SrcMAC: r.Port.MAC, DstMAC: ev.MAC, Src: source, Peer: ev.Src, Echo: want.Echo,
		BFD: packet.BFD{
			State: uint8(bfd.Up), Flags: packet.BFDDemand, Multiplier: uint8(cfg.Multiplier),
			My: s.local, Your: remote, MinTx: cfg.Interval, MinRx: minRx,
		},
	}
	if s.spec != was {
		e.table.Prober.Frames(&s.frames, &s.spec)
	}
	if s.open && cfg == s.cfg && ev.MAC == was.DstMAC {
		s.publish()
		return // it runs
	}
	// With another MAC it has to be Up again before it counts: an advert of a
	// stranger can put fast detection to sleep, but fire nothing.
	s.cfg, s.open = cfg, true
	r.Port.Kernel.OpenSession(loader.Session{
		Local: s.local, Remote: remote, Ifindex: r.Port.Ifindex, Peer: ev.Src, Echo: want.Echo,
	})
	s.Reopen(e.now, cfg)
	s.publish()
	e.armSession(s)
}

func detectionTime(c bfd.Config) time.Duration {
	return c.Interval * time.Duration(c.Multiplier)
}

// unfollow leaves the session of the router, which ends with its last user.
func (e *Engine) unfollow(r *Router) {
	s := r.session
	if s == nil {
		return
	}
	r.session = nil
	if s.users--; s.users == 0 {
		s.open = false
		s.port.Kernel.CloseSession(s.local)
		e.armSession(s)
	}
	s.publish()
}

// findSession returns the session of a peer, an unused one, or one that was
// closed.
func (e *Engine) findSession(p *Port, peer netip.Addr, echo bool) *Session {
	var closed *Session
	for _, s := range e.table.Sessions {
		switch {
		case s.port == p && s.spec.Peer == peer && s.spec.Echo == echo:
			return s // also if it is closed: it knows whether the peer flaps
		case s.open:
		case closed == nil || closed.spec.Peer.IsValid() && !s.spec.Peer.IsValid():
			closed = s
		}
	}
	if closed != nil {
		// What it knew and counted was about another peer.
		closed.Session = bfd.Session{}
		closed.spec = transport.ProbeSpec{}
		closed.Sent.Store(0)
		closed.Unsent.Store(0)
		for v := range closed.Verdicts {
			closed.Verdicts[v].Store(0)
		}
	}
	return closed
}

// armSession notes when a session wants to run.
func (e *Engine) armSession(s *Session) {
	due := never
	if s.open {
		due = s.Deadline()
	}
	was := e.table.probeDue[s.at]
	e.table.probeDue[s.at] = due
	e.stale = e.stale || was <= e.probeNext && due > was
	e.probeNext = min(e.probeNext, due)
}

// earliestProbe returns when a session wants to run.
func (e *Engine) earliestProbe() control.Instant {
	next := never
	for _, due := range e.table.probeDue {
		next = min(next, due)
	}
	return next
}

// probe runs every session that is due.
func (e *Engine) probe() {
	for at, due := range e.table.probeDue {
		if due <= e.now {
			e.probeSession(e.table.Sessions[at])
		}
	}
}

func (e *Engine) probeSession(s *Session) {
	_, oldest := s.Unanswered()
	answer := s.port.Kernel.Answer(s.local)
	state := bfd.State(answer.State)
	if s.spec.Echo {
		state = bfd.Up // a peer that forwards tells nothing of its daemon
	}
	if v := s.Observe(e.now, control.Instant(answer.LastNs), state); v != bfd.VerdictNone {
		e.verdict(s, v, oldest)
	}
	if s.open {
		if port, due := s.Probe(e.now); due {
			sent := e.table.Prober.Send(s.port.Ifindex, s.frames[port])
			if sent {
				s.Sent.Add(1)
			} else {
				s.Unsent.Add(1)
			}
			s.Session.Sent(e.now, sent)
		}
	}
	e.armSession(s)
}

// askSession lets a backup know, before it acts on the adverts that are
// missing, what its master's kernel said last.
func (e *Engine) askSession(r *Router) {
	s := r.session
	if s == nil || s.spec.Echo {
		return // an echo tells nothing of the daemon
	}
	if state, _, _ := s.State(); state != bfd.Up {
		return
	}
	answer := s.port.Kernel.Answer(s.local)
	if bfd.State(answer.State) != bfd.Up {
		return
	}
	e.step(r, control.Event{Kind: control.EventPeerUp, Source: s.spec.Peer, At: control.Instant(answer.LastNs)})
	last := e.lastArrival(r)
	if r.deadline > e.now && r.heldSince != last {
		r.heldSince = last
		r.Published.Held.Add(1)
	}
}

// verdict lets the routers that follow the peer know.
func (e *Engine) verdict(s *Session, v bfd.Verdict, oldest control.Instant) {
	news := Record{Kind: RecordSession, At: int64(e.now), Port: s.port, Peer: s.spec.Peer, Verdict: v}
	_, _, news.Diag = s.State()
	s.Verdicts[v].Add(1)
	if v != bfd.VerdictUp {
		// Somebody else may be master by now: what has arrived counts first.
		e.drain()
		news.Unanswered = e.now.Sub(oldest)
		for _, r := range e.table.Routers {
			if r.session != s || r.router.State() != control.Backup {
				continue
			}
			// Adverts that came on since prove that only the answers are lost.
			last := control.Instant(e.lastArrival(r))
			if v == bfd.VerdictDown && last > oldest.Add(s.cfg.Interval) {
				news.Unmoved++
				continue
			}
			news.Acted++
			kind := control.EventPeerDown
			if v == bfd.VerdictAdminDown {
				kind = control.EventPeerLeft
			}
			e.step(r, control.Event{Kind: kind, Source: s.spec.Peer})
		}
	}
	if s.open {
		s.publish()
	}
	e.emit(&news)
}

func (s *Session) publish() {
	state, since, diag := s.State()
	if !s.open {
		state = bfd.AdminDown
	}
	p := SessionState{
		Since: int64(since), Interval: s.cfg.Interval, Peer: addrOf(s.spec.Peer), Local: s.local,
		Remote: s.spec.BFD.Your, Users: int32(s.users), Multiplier: int32(s.cfg.Multiplier),
		State: state, Diag: diag, Echo: s.spec.Echo,
	}
	if s.port != nil {
		p.Ifindex = int32(s.port.Ifindex)
	}
	s.state.store(&p)
}
