// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"time"

	"github.com/xvrrp/xvrrp/control"
)

// State is a state of BFD, RFC 5880 section 4.1. A session of S-BFD has
// no Init, which is 2 on the wire.
type State uint8

const (
	AdminDown State = 0
	Down      State = 1
	Up        State = 3
)

func (s State) String() string {
	switch s {
	case AdminDown:
		return "AdminDown"
	case Down:
		return "Down"
	case Up:
		return "Up"
	}
	return "unknown"
}

// Diag is a diagnostic code, RFC 5880 section 4.1.
type Diag uint8

const (
	DiagNone          Diag = 0
	DiagDetectionTime Diag = 1
	DiagEchoFailed    Diag = 2
	DiagNeighborDown  Diag = 3
	DiagAdminDown     Diag = 7
)

func (d Diag) String() string {
	switch d {
	case DiagNone:
		return "none"
	case DiagDetectionTime:
		return "control_detection_time_expired"
	case DiagEchoFailed:
		return "echo_function_failed"
	case DiagNeighborDown:
		return "neighbor_signaled_session_down"
	case DiagAdminDown:
		return "administratively_down"
	}
	return "unknown"
}

// Times of a Session.
const (
	// slowProbe is the interval while the session is not Up, RFC 5880 section
	// 6.8.3.
	slowProbe = time.Second
	// A confirmation burst is confirmProbes probes, each on a source port of
	// its own so that they meet other receive queues, and at least confirmWait
	// for their answers. It fits into the last interval of the detection time
	// unless that is shorter.
	confirmProbes = 3
	confirmGap    = 100 * time.Microsecond
	confirmWait   = 500 * time.Microsecond
	// confirmLate is how late the end of that wait may be judged. Whoever comes
	// later was held up, and what was sent to it may have been, too: it asks
	// again.
	confirmLate = 500 * time.Microsecond
	// A session that went Down counts again after holdFirst, twice as long
	// each time, but for those that were Up for longer than holdLongest.
	holdFirst   = time.Second
	holdLongest = time.Minute
)

// Ports is the number of source ports that Probe chooses from.
const Ports = 1 + confirmProbes

// Config of a Session.
type Config struct {
	Interval   time.Duration // between probes, 300 µs to 1 s
	Multiplier int           // unanswered probes that make a peer suspect, 1 to MaxMultiplier
	Echo       bool          // unaffiliated echo, RFC 9747: only the diagnostic differs
}

// MaxMultiplier is the largest Multiplier.
const MaxMultiplier = 50

// Verdict is what Observe finds.
type Verdict uint8

const (
	VerdictNone Verdict = iota
	// VerdictUp: the session is Up and counts from now on.
	VerdictUp
	// VerdictDown: the peer does not answer.
	VerdictDown
	// VerdictAdminDown: the peer answers, and it serves no longer.
	VerdictAdminDown
)

func (v Verdict) String() string {
	switch v {
	case VerdictUp:
		return "up"
	case VerdictDown:
		return "down"
	case VerdictAdminDown:
		return "admin_down"
	}
	return "none"
}

// Verdicts are those that Observe finds, but for VerdictNone.
var Verdicts = [...]Verdict{VerdictUp, VerdictDown, VerdictAdminDown}

// Session is the initiator of S-BFD for one peer, RFC 7880 section 7.3. It
// counts probes that were really sent and not answered: an initiator that is
// held up sends none, and is late instead of wrong. Its zero value is unused;
// see Open.
type Session struct {
	cfg      Config
	state    State
	diag     Diag
	since    control.Instant
	answered control.Instant // newest answer
	good     int             // observations with a new answer in a row
	holdTill control.Instant // Up does not count before
	downs    uint

	sent  [MaxMultiplier]control.Instant // of probes that are not answered, oldest first
	n     int
	next  control.Instant // next probe, or the end of the wait for the burst's answers
	look  control.Instant // a slow probe may be answered by then; 0: none waits
	burst int             // probes of the confirmation that were sent
	in    bool            // a confirmation runs
}

// Open starts the session: Down, with a probe due.
func (s *Session) Open(now control.Instant, cfg Config) {
	*s = Session{cfg: cfg, state: Down, since: now, next: now}
}

// Reopen starts it again for the same peer, and remembers whether it flaps.
func (s *Session) Reopen(now control.Instant, cfg Config) {
	downs, hold := s.downs, s.holdTill
	s.Open(now, cfg)
	s.downs, s.holdTill = downs, hold
}

// State returns the state, since when, and the diagnostic of the last change.
func (s *Session) State() (State, control.Instant, Diag) { return s.state, s.since, s.diag }

// Deadline returns when Observe and Probe want to be called.
func (s *Session) Deadline() control.Instant {
	if s.look != 0 {
		return min(s.look, s.next)
	}
	return s.next
}

// Unanswered returns the number of probes without an answer and the time of
// the oldest.
func (s *Session) Unanswered() (int, control.Instant) { return s.n, s.sent[0] }

// Observe takes the newest answer that the kernel recorded, with the state
// that it carries, and judges.
func (s *Session) Observe(now, answer control.Instant, says State) Verdict {
	if now >= s.look {
		s.look = 0
	}
	if answer > s.answered {
		s.answered = answer
		s.forget(answer)
		s.in = false
		if says == AdminDown || says == Down {
			s.good = 0
			if s.state == Up {
				return s.leave(now, AdminDown, DiagNeighborDown, VerdictAdminDown)
			}
			if s.state != AdminDown {
				s.state, s.diag, s.since = AdminDown, DiagNeighborDown, now
			}
			return VerdictNone
		}
		if s.good == 0 {
			s.next = min(s.next, now) // someone is there: no need to be slow
		}
		s.good++
	}
	switch {
	case s.state != Up:
		return s.rise(now)
	case s.in && s.burst == confirmProbes && now >= s.next:
		if now.Sub(s.next) > confirmLate {
			s.confirm(now)
			return VerdictNone
		}
		diag := DiagDetectionTime
		if s.cfg.Echo {
			diag = DiagEchoFailed
		}
		return s.leave(now, Down, diag, VerdictDown)
	case !s.in && s.n >= max(1, s.cfg.Multiplier-1) && now >= s.next:
		// The probe that is due would be the last that may stay unanswered:
		// the confirmation takes its place.
		s.confirm(now)
	}
	return VerdictNone
}

// rise takes a session Up that is answered well.
func (s *Session) rise(now control.Instant) Verdict {
	if s.n >= s.cfg.Multiplier {
		s.good, s.n = 0, 0 // the answers have ended again
	}
	if s.good < s.cfg.Multiplier || now < s.holdTill {
		return VerdictNone
	}
	s.state, s.diag, s.since = Up, DiagNone, now
	return VerdictUp
}

func (s *Session) leave(now control.Instant, to State, diag Diag, v Verdict) Verdict {
	if now.Sub(s.since) > holdLongest {
		s.downs = 0
	}
	if v == VerdictDown {
		s.holdTill = now.Add(min(holdFirst<<s.downs, holdLongest))
		s.downs = min(s.downs+1, 6)
	}
	s.state, s.diag, s.since = to, diag, now
	s.good, s.n, s.in = 0, 0, false
	s.next = now.Add(slowProbe)
	return v
}

func (s *Session) confirm(now control.Instant) { s.in, s.burst, s.next = true, 0, now }

// forget drops the probes that were sent before an answer arrived: whoever
// answered was there.
func (s *Session) forget(answer control.Instant) {
	kept := 0
	for _, at := range s.sent[:s.n] {
		if at > answer {
			s.sent[kept] = at
			kept++
		}
	}
	s.n = kept
}

// Probe reports whether a probe is due, and on which of the source ports. Sent
// must follow.
func (s *Session) Probe(now control.Instant) (port int, due bool) {
	if now < s.next || s.in && s.burst == confirmProbes {
		return 0, false
	}
	if s.in {
		return 1 + s.burst, true
	}
	return 0, true
}

// Sent reports whether the kernel took the probe.
func (s *Session) Sent(now control.Instant, took bool) {
	if took {
		if s.n == len(s.sent) {
			copy(s.sent[1:], s.sent[2:]) // the oldest stays
			s.n--
		}
		s.sent[s.n] = now
		s.n++
	}
	switch {
	case s.in && !took:
		s.next = now.Add(s.cfg.Interval)
	case s.in:
		s.burst++
		s.next = now.Add(confirmGap)
		if s.burst == confirmProbes {
			detected := s.sent[0].Add(s.cfg.Interval * time.Duration(s.cfg.Multiplier))
			s.next = max(now.Add(confirmWait), detected)
		}
	case s.state != Up && (s.good == 0 || now < s.holdTill):
		s.next, s.look = now.Add(slowProbe), now.Add(s.cfg.Interval)
	default:
		// From the plan, so that lateness does not add up; what was missed is
		// not sent.
		if s.next = s.next.Add(s.cfg.Interval); s.next <= now {
			s.next = now.Add(s.cfg.Interval)
		}
	}
}
