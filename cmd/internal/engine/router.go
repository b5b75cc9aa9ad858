// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// rejects is a peer some of whose adverts were refused and reported.
type rejects struct {
	src     netip.Addr
	reasons uint64 // a bit for each packet.Reject
}

// receive takes one event of a ring or a packet socket.
func (e *Engine) receive(ev *loader.Event) {
	e.handle(ev)
	if e.received++; e.received%drainSlice != 0 {
		return
	}
	now := control.Instant(e.clock())
	if now < e.next {
		return
	}
	e.now = max(e.now, now)
	for at, near := range e.table.near {
		if r := e.table.Routers[at]; near <= e.now && r.router.State() == control.Master {
			e.expire(r, e.now.Sub(r.deadline))
		}
	}
	for _, p := range e.table.dirty {
		e.flush(p)
	}
	e.next = e.earliest()
}

// hear takes an advert that the host heard before its router ran. Since the
// port was opened its ring has it, too.
func (e *Engine) hear(ev *loader.Event) {
	e.receive(ev)
	if int(ev.Router) < len(e.table.byID) && e.table.byID[ev.Router] != nil {
		e.table.byID[ev.Router].heard = ev.RxNs
	}
}

// handle judges one event.
func (e *Engine) handle(ev *loader.Event) {
	if int(ev.Router) >= len(e.table.byID) || e.table.byID[ev.Router] == nil {
		return // of a router that has been removed meanwhile
	}
	r := e.table.byID[ev.Router]
	if ev.Reason == loader.ReasonVIPConflict {
		r.state.Seen[SeenConflict].see(ev.Src, ev.MAC, ev.RxNs, 0)
		r.publish()
		return
	}
	if ev.RxNs <= r.heard {
		return
	}
	if ev.Reason != loader.ReasonEvent {
		e.reject(r, ev, transport.RejectOf(ev.Reason))
		return
	}
	if err := packet.Decode(ev.Payload, ev.Src, ev.Dst, &e.advert); err != nil {
		e.reject(r, ev, rejectOf(err))
		return
	}
	found, err := r.router.Check(ev.Src, ev.MAC, &e.advert)
	e.note(r, ev, found)
	if err != nil {
		e.reject(r, ev, rejectOf(err))
		return
	}
	if r.acceptedAgain(ev.Src) {
		e.emit(&Record{Kind: RecordAccepted, At: ev.RxNs, Router: r, Peer: ev.Src})
	}
	a := &e.advert
	r.Published.Received.Add(1)
	if a.Priority == 0 {
		r.Published.ZeroReceived.Add(1)
	}
	if a.Version == 3 {
		r.Published.Forms[a.Form].Add(1)
	}
	r.peers.saw(ev.Src, a.Priority, ev.RxNs)
	r.Published.peers.store(&r.peers)
	e.stepWith(r, control.Event{
		Kind: control.EventAdvert, At: control.Instant(ev.RxNs),
		Source: ev.Src, MAC: ev.MAC, Priority: a.Priority, Interval: a.Interval,
	}, ev)
	if master, _ := r.router.Master(); master == ev.Src {
		r.state.MasterLists, r.state.MasterDuplicate = found.Lists, found.DuplicateSource
		r.publish()
	}
	if a.Priority > 0 && r.router.State() == control.Master && !r.router.Leaving() {
		// It should have yielded, or we should.
		r.state.Seen[SeenMaster].see(ev.Src, ev.MAC, ev.RxNs, 4*r.spec.Config.Interval)
		r.publish()
	}
	e.Stats.Handled.Add(e.clock() - ev.RxNs)
}

// note publishes what is wrong with an advert, be it accepted or not.
func (e *Engine) note(r *Router, ev *loader.Event, found control.Findings) {
	kind := SeenLists
	switch {
	case found.DuplicateSource:
		kind = SeenDuplicate
	case found.Lists == control.ListsDisjoint:
		kind = SeenCollision
	case found.Lists == control.ListsSame:
		return
	}
	r.state.Seen[kind].see(ev.Src, ev.MAC, ev.RxNs, 4*r.spec.Config.Interval)
	r.publish()
}

// reject counts, and reports each reason and peer once until it changes.
func (e *Engine) reject(r *Router, ev *loader.Event, why packet.Reject) {
	r.Published.Rejected[why].Add(1)
	if why != packet.RejectOwn && r.firstReject(ev.Src, why) {
		e.emit(&Record{Kind: RecordRejected, At: ev.RxNs, Router: r, Peer: ev.Src, Reject: why})
	}
}

// firstReject remembers that an advert of src was refused and reports whether
// that is news. There is room for a few peers; a new one takes the place of
// the oldest.
func (r *Router) firstReject(src netip.Addr, why packet.Reject) bool {
	bit := uint64(1) << why
	for k := range r.rejects {
		if p := &r.rejects[k]; p.src == src {
			news := p.reasons&bit == 0
			p.reasons |= bit
			return news
		}
	}
	r.rejects[r.rejectsNext] = rejects{src, bit}
	r.rejectsNext = (r.rejectsNext + 1) % len(r.rejects)
	return true
}

// acceptedAgain reports whether adverts of src were refused before, and
// forgets it.
func (r *Router) acceptedAgain(src netip.Addr) bool {
	for k := range r.rejects {
		if r.rejects[k].src == src {
			r.rejects[k] = rejects{}
			return true
		}
	}
	return false
}

// Epoch returns the last epoch of ownership that the router has ordered, see
// Set. It is for routers that are retired.
func (r *Router) Epoch() uint64 { return r.epoch }

// tolerates returns how long a master may be suspended before a peer may have
// replaced it.
func (r *Router) tolerates() time.Duration {
	return time.Duration(r.spec.Config.DownAdverts-1) * r.spec.Config.Interval
}

// order follows the epoch of ownership.
func (r *Router) order(kind control.ActionKind) {
	owned := r.epoch&1 == 1
	if kind == control.ActionTakeover && !owned || kind == control.ActionRelease && owned {
		r.epoch++
	}
}

// currentRole is what the kernel has to know of the state.
func (r *Router) currentRole() loader.Role {
	switch {
	case r.router.State() != control.Master:
		return loader.RoleBackup
	case r.router.Leaving():
		return loader.RoleLeaving
	}
	return loader.RoleMaster
}

// publish stores what the loop alone knows.
func (r *Router) publish() {
	master, priority := r.router.Master()
	r.state.State, r.state.Since, r.state.Priority = r.router.State(), int64(r.router.Since()), r.router.Priority()
	r.state.Master, r.state.MasterPriority = addrOf(master), priority
	r.Published.state.store(&r.state)
}

// rejectOf returns the reason to refuse an advert.
func rejectOf(err error) packet.Reject {
	why, _ := err.(packet.Reject) // Decode and Check return nothing else
	return why
}
