// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"errors"
	"net/netip"

	"github.com/xvrrp/xvrrp/control/packet"
)

// Reasons to refuse a well-formed advert, found by Check.
var (
	ErrOwn         = errors.New("our own advert came back")
	ErrVersion     = packet.ErrVersion
	ErrAuthType    = errors.New("authentication type differs")
	ErrAuth        = errors.New("authentication failed")
	ErrInterval    = errors.New("advert interval differs")
	ErrAddressList = errors.New("address list differs")
)

// Check compares a decoded advert with the configuration. It changes nothing:
// an advert that fails must not be given to Step, so no timer moves.
//
// An advert whose address list differs is refused; keepalived refused it until
// 2.3.2 and has only logged it since.
func (r *Router) Check(src netip.Addr, a *packet.Advert) error {
	switch {
	case src == r.cfg.Source:
		return ErrOwn
	case a.Version != r.cfg.Version:
		return ErrVersion
	case a.Version == 2 && a.AuthType != r.cfg.AuthType:
		return ErrAuthType
	case a.Version == 2 && a.AuthType == packet.AuthPass && a.Auth != r.cfg.Auth:
		return ErrAuth
	case a.Version == 2 && a.Interval != r.cfg.Interval:
		// RFC 3768 section 7.1: the interval is configured alike everywhere.
		return ErrInterval
	}
	if r.cfg.SkipCheckAddrs && src == r.master {
		return nil
	}
	if !sameAddrs(a.Addrs, r.cfg.Addrs) {
		return ErrAddressList
	}
	return nil
}

// sameAddrs compares two address lists as sets: the order is not part of the
// protocol.
func sameAddrs(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	if bytes.Equal(a, b) {
		return true
	}
	for i := 0; i < len(a); i += 4 {
		if !containsAddr(b, a[i:i+4]) || !containsAddr(a, b[i:i+4]) {
			return false
		}
	}
	return true
}

func containsAddr(list, addr []byte) bool {
	for i := 0; i < len(list); i += 4 {
		if bytes.Equal(list[i:i+4], addr) {
			return true
		}
	}
	return false
}

// accepts reports whether a backup lets a master of this priority be. RFC 9568
// section 6.4.2: Preempt_Mode is false, or the priority is not below ours.
func (r *Router) accepts(priority uint8) bool {
	switch {
	case r.cfg.NoPreempt, priority >= r.priority:
		return true
	case r.cfg.PreemptDelay > 0:
		return !r.delayOver
	}
	return false
}

func (r *Router) advertInBackup(now Instant, ev Event, out []Action) []Action {
	if ev.Priority == 0 {
		// The master resigns: Skew_Time is all that is left to wait.
		r.forget(now)
		r.masterDown = ev.At.Add(r.Skew())
		return append(out, Action{Kind: ActionUnfollow})
	}
	if !r.accepts(ev.Priority) {
		// compat: heard, but our timer keeps running.
		r.contested = max(r.contested, ev.At)
		r.endHold(now)
		return out
	}
	if ev.Priority >= r.priority || r.cfg.NoPreempt {
		r.preemptAt, r.delayOver = 0, false
	} else if r.preemptAt == 0 {
		r.preemptAt = now.Add(r.cfg.PreemptDelay)
	}
	r.follow(ev)
	return append(out, Action{Kind: ActionFollow})
}

// follow accepts an advert as that of the current master.
func (r *Router) follow(ev Event) {
	r.master, r.masterPriority = ev.Source, ev.Priority
	r.heard, r.heldTill = ev.At, 0
	if r.cfg.Version == 3 {
		r.masterInterval = ev.Interval // RFC 9568 section 6.4.2
	}
	// From its arrival, not from when we came to look at it.
	r.masterDown = ev.At.Add(r.MasterDownInterval())
}

func (r *Router) advertInMaster(now Instant, ev Event, out []Action) []Action {
	if r.leaving {
		if ev.Priority > 0 {
			r.nextAdvert = min(r.nextAdvert, now.Add(handoverLinger))
		}
		return out
	}
	if ev.Priority == 0 {
		// RFC 9568 section 6.4.3: say at once who is the master.
		r.nextAdvert = now.Add(r.cfg.Interval)
		return append(out, Action{Kind: ActionAdvert, Priority: r.priority})
	}
	if r.cfg.Priority == PriorityOwner && r.cfg.OwnerIgnoreAdverts {
		return out
	}
	if ev.Priority > r.priority || ev.Priority == r.priority && r.cfg.Source.Less(ev.Source) {
		return r.yield(now, ev, ReasonHigherPriority, out)
	}
	if r.stalled && r.cfg.NoPreempt {
		// It was replaced while it slept, and does not preempt.
		return r.yield(now, ev, ReasonStalled, out)
	}
	if r.stalled {
		r.stalled = false
		r.nextAdvert = now.Add(r.cfg.Interval)
	}
	return r.reassert(now, out)
}

// yield follows another master.
func (r *Router) yield(now Instant, ev Event, why Reason, out []Action) []Action {
	// To the one that this router replaced when it fell silent it says so: if
	// only the network between them had failed, that one was master all along
	// and has to announce its addresses again.
	if r.cfg.HigherPrioSendAdvert || ev.Source == r.tookOver {
		out = append(out, Action{Kind: ActionAdvert, Priority: r.priority})
	}
	out = append(out, Action{Kind: ActionRelease})
	out = r.becomeBackup(now, why, out)
	r.follow(ev)
	return append(out, Action{Kind: ActionFollow})
}

// reassert answers a losing advert, RFC 9568 section 6.4.3 (its Adver_Timer is
// not reset). Two misconfigured masters must not drive each other: there is at
// most one answer in an interval.
func (r *Router) reassert(now Instant, out []Action) []Action {
	if now < r.reassertAt {
		return out
	}
	r.reassertAt = now.Add(r.cfg.Interval)
	if !r.cfg.LowerPrioNoAdvert {
		out = append(out, Action{Kind: ActionAdvert, Priority: r.priority})
	}
	return append(out, Action{Kind: ActionAnnounce})
}
