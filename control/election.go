// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"net/netip"

	"github.com/xvrrp/xvrrp/control/packet"
)

// Findings is what Check found wrong with an advert that it accepts: things to
// tell the operator.
type Findings struct {
	// Lists is ListsOverlap if the address lists differ; see
	// Config.Difference.
	Lists Lists
	// DuplicateSource: another host sends from our source address.
	DuplicateSource bool
}

// Check compares a decoded advert from the address src and the MAC mac with the
// configuration. It changes nothing: an advert that fails must not be given to
// Step, so no timer moves. An error is a packet.Reject.
//
// A virtual address is no host's own, except that of the address owner, whose
// adverts may come from it (RFC 9568 section 6.1: priority 255).
//
// An address list that overlaps ours is accepted, unless Strict: the routers of
// a group are reloaded one after the other, and refusing it would make a second
// master meanwhile. A disjoint list is that of another group.
func (r *Router) Check(src netip.Addr, mac [6]byte, a *packet.Advert) (Findings, error) {
	switch {
	case r.own(src, mac):
		return Findings{}, packet.RejectOwn
	case a.Priority != PriorityOwner && r.addrs.contains(src):
		return Findings{}, packet.RejectSource
	case a.Version != r.cfg.Version:
		return Findings{}, packet.RejectVersion
	case a.Version == 2 && a.AuthType != r.cfg.AuthType:
		return Findings{}, packet.RejectAuthType
	case a.Version == 2 && a.AuthType == packet.AuthPass && a.Auth != r.cfg.Auth:
		return Findings{}, packet.RejectAuth
	case a.Version == 2 && a.Interval != r.cfg.Interval:
		// RFC 3768 section 7.1: the interval is configured alike everywhere.
		return Findings{}, packet.RejectInterval
	}
	found := Findings{DuplicateSource: src == r.cfg.Source}
	if bytes.Equal(a.Addrs, r.cfg.Addrs) || r.cfg.SkipCheckAddrs && src == r.master {
		return found, nil
	}
	switch found.Lists = r.addrs.compare(a.Addrs, r.cfg.addrLen()); {
	case found.Lists == ListsDisjoint:
		return found, packet.RejectCollision
	case found.Lists == ListsOverlap && r.cfg.Strict:
		return found, packet.RejectAddressList
	}
	return found, nil
}

// own reports whether an advert left this host and came back. The address alone
// does not tell: a copied file or a cloned machine sends from it too. Nor does
// the MAC alone: the hosts behind an ipvlan device share one.
func (r *Router) own(src netip.Addr, mac [6]byte) bool {
	return (src == r.cfg.Source || src == r.former) && (mac == r.cfg.MAC || r.cfg.MAC == [6]byte{})
}

// outranks reports whether the sender of an advert is to be the master rather
// than this one, RFC 9568 section 6.4.3. Where both send from one address the
// RFC knows no answer; then the higher MAC wins, so that one of them stays.
func (r *Router) outranks(ev Event) bool {
	switch {
	case ev.Priority != r.priority:
		return ev.Priority > r.priority
	case ev.Source != r.cfg.Source:
		return r.cfg.Source.Less(ev.Source)
	}
	return bytes.Compare(r.cfg.MAC[:], ev.MAC[:]) < 0
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
	r.follow(ev)
	r.planPreempt(now)
	return append(out, Action{Kind: ActionFollow})
}

// planPreempt starts preempt_delay if the master is below us, and ends it if it
// is not.
func (r *Router) planPreempt(now Instant) {
	switch {
	case r.masterPriority >= r.priority, r.cfg.NoPreempt:
		r.preemptAt, r.delayOver = 0, false
	case r.preemptAt == 0:
		r.preemptAt = now.Add(r.cfg.PreemptDelay)
	default:
		r.preemptAt = min(r.preemptAt, now.Add(r.cfg.PreemptDelay))
	}
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
	if r.outranks(ev) {
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
