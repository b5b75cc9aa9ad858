// SPDX-License-Identifier: Apache-2.0

// Package alarm judges, a few times a second, what snapshots show: two hosts
// that serve, or might serve, one address; a host that does not hear; fast detection
// that is not answered. An alarm is an entry of the journal when it begins and
// when it ends.
package alarm

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
)

const (
	period = 200 * time.Millisecond
	// conflictFresh is how long an answer of another host counts, for ten
	// addresses or fewer: each of those is probed once a second.
	conflictFresh = 2500 * time.Millisecond
	// settle is given to a former master to let go after a change.
	settle = 100 * time.Millisecond
	// deafAfter is the silence that makes a new master doubt its own reception,
	// and how often its interface is asked meanwhile.
	deafAfter = 500 * time.Millisecond
	// unansweredAfter is how long a session may take to come Up.
	unansweredAfter = 5 * time.Second
)

// Kind is the kind of an alarm.
type Kind uint8

const (
	// Conflict: another MAC answers for one of our addresses in ARP.
	Conflict Kind = iota
	// OtherMaster: another router of the same VRID advertises as master.
	OtherMaster
	// Unheard: it continues though ours has won: it does not receive our adverts.
	Unheard
	// Deaf: we replaced a master that fell silent, and nothing at all has
	// arrived since: perhaps only we do not receive.
	Deaf
	// Lists: a router of our VRID advertises a list that differs from ours.
	Lists
	// Collision: a router of our VRID advertises other addresses altogether.
	Collision
	// Duplicate: another host sends adverts from our source address.
	Duplicate
	// Unanswered: the master answers no probes of fast detection.
	Unanswered
	// Removed: something else removes our addresses.
	Removed
	// Unguarded: something else removes the firewall entries of our addresses.
	Unguarded
	// Failed: the kernel refuses addresses.
	Failed
	kinds
)

var names = [kinds]string{
	"vip_conflict", "other_master", "unheard", "deaf", "address_list", "vrid_collision", "duplicate_source",
	"fast_detect_unanswered", "vip_removed", "firewall_removed", "vip_failed",
}

var texts = [kinds]string{
	"another host answers for our address",
	"another router advertises as master",
	"another master does not receive our adverts: it should have yielded",
	"no frame received since the master went silent: this host may be cut off",
	"a router of this VRID advertises another address list: reload the one that is behind",
	"a router of this VRID advertises none of our addresses: the VRID is used twice on this link",
	"another host sends adverts from our address: a copied mcast_src_ip, or a cloned host",
	"probes are not answered: the peer has no reflector, its answers are lost, or UDP port 7784 is filtered; the RFC's timer decides",
	"something else removes an address that this host serves; it is put back, later and later",
	"something else removes the firewall entries of an address with no_accept; they are put back, later and later",
	"the kernel refuses an address that this host should serve",
}

func (k Kind) String() string { return names[k] }

// Kinds are all kinds, in the order in which they are shown.
func Kinds() []Kind {
	out := make([]Kind, kinds)
	for k := range out {
		out[k] = Kind(k)
	}
	return out
}

// Active is an alarm that goes on.
type Active struct {
	Kind    Kind
	Address string // of the other router; for Conflict the contested one
	MAC     string
	Since   time.Time
}

// state is the alarms of one router.
type state struct {
	look   uint64 // at which it was there
	active [kinds]bool
	alarms [kinds]Active
	raised uint64
}

// reception is what is known of when frames arrived on a port.
type reception struct {
	look    uint64 // at which it was there
	shown   *snapshot.Interface
	adverts uint64 // of the port's routers
	seen    uint64 // adverts at the look before
	frames  uint64 // of any kind, when the interface was asked
	asked   int64  // when that was; 0: never
	heard   int64  // something arrived after this
}

// Judge raises and ends alarms.
type Judge struct {
	Reader  *snapshot.Reader
	Journal *journal.Journal
	Log     *slog.Logger
	// Frames returns how many frames of any kind an interface has received. It
	// is asked about those whose masters hear no adverts.
	Frames func(ifindex int) (uint64, error)

	mu      sync.Mutex
	look    uint64
	before  int64 // when the look before was
	routers map[*engine.Router]*state
	ports   map[*engine.Port]*reception
}

// Run judges until ctx ends.
func (j *Judge) Run(ctx context.Context) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	var s snapshot.Snapshot
	for {
		select {
		case <-tick.C:
			j.Reader.Brief(&s)
			j.judge(&s)
		case <-ctx.Done():
			return nil
		}
	}
}

// Active returns the alarms of a router that go on, and how many were raised
// in all.
func (j *Judge) Active(r *engine.Router) ([]Active, uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.routers[r]
	if st == nil {
		return nil, 0
	}
	var out []Active
	for k := range kinds {
		if st.active[k] {
			out = append(out, st.alarms[k])
		}
	}
	return out, st.raised
}

func (j *Judge) judge(s *snapshot.Snapshot) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.routers == nil {
		j.routers, j.ports = map[*engine.Router]*state{}, map[*engine.Port]*reception{}
	}
	j.look++
	for i := range s.Interfaces {
		f := &s.Interfaces[i]
		r := j.ports[f.Port.Port]
		if r == nil {
			r = &reception{}
			j.ports[f.Port.Port] = r
		}
		r.look, r.shown, r.adverts = j.look, f, 0
	}
	addresses := 0
	for i := range s.Instances {
		x := &s.Instances[i]
		addresses += len(x.Addresses)
		if r := j.ports[x.Port]; r != nil {
			r.adverts += x.Received()
		}
	}
	for port, r := range j.ports {
		if r.look != j.look {
			delete(j.ports, port)
		} else if r.adverts != r.seen {
			r.seen, r.heard = r.adverts, max(r.heard, j.before)
		}
	}
	j.before = s.Now
	fresh := int64(conflictFresh) * int64(max(10, addresses)) / 10
	for i := range s.Instances {
		x := &s.Instances[i]
		st := j.routers[x.Router.Router]
		if st == nil {
			st = &state{}
			j.routers[x.Router.Router] = st
		}
		st.look = j.look
		rx := j.ports[x.Port]
		if rx != nil && rx.doubtful(x) && s.Now-rx.asked >= int64(deafAfter) {
			j.ask(rx, s.Now)
		}
		now := judgeInstance(s, x, rx, fresh)
		j.update(x, st, &now)
	}
	maps.DeleteFunc(j.routers, func(_ *engine.Router, st *state) bool { return st.look != j.look })
}

// doubtful reports whether an instance is master because another fell silent,
// and nothing is known to have arrived since.
func (r *reception) doubtful(i *snapshot.Instance) bool {
	silent := i.State.Reason == control.ReasonMasterDown || i.State.Reason == control.ReasonFastDetect
	return silent && i.State.State == control.Master && i.State.Lost != (engine.Addr{}) && r.heard < i.State.Since
}

// ask looks at all that an interface has received: not only adverts prove that
// it receives.
func (j *Judge) ask(r *reception, now int64) {
	frames, err := j.Frames(r.shown.Ifindex)
	if err != nil {
		j.Log.Debug("cannot tell whether an interface receives", "iface", r.shown.Name, "err", err)
		return
	}
	if frames != r.frames {
		r.frames, r.heard = frames, max(r.heard, r.asked)
	}
	r.asked = now
}

// found is what one look at an instance finds.
type found struct {
	active [kinds]bool
	alarms [kinds]Active
}

func (f *found) raise(s *snapshot.Snapshot, k Kind, seen *engine.Sighting) {
	f.active[k] = true
	f.alarms[k] = Active{Kind: k, Address: seen.Addr.String(), MAC: snapshot.MAC(seen.MAC), Since: s.Wall(seen.First)}
}

// raiseList raises an alarm about addresses, if there are any.
func (f *found) raiseList(s *snapshot.Snapshot, k Kind, addresses []string, since int64) {
	if len(addresses) > 0 {
		f.active[k] = true
		f.alarms[k] = Active{Kind: k, Address: strings.Join(addresses, ", "), Since: s.Wall(since)}
	}
}

// misfits are what a router does that does not fit our configuration.
var misfits = []struct {
	seen engine.SightingKind
	kind Kind
}{{engine.SeenLists, Lists}, {engine.SeenCollision, Collision}, {engine.SeenDuplicate, Duplicate}}

// judgeInstance looks at an instance; rx is nil if its interface is not open.
func judgeInstance(s *snapshot.Snapshot, i *snapshot.Instance, rx *reception, fresh int64) found {
	var out found
	interval := int64(i.Interval)
	seen := &i.State.Seen
	recent := func(k engine.SightingKind, limit int64) bool {
		return seen[k].Last > 0 && s.Now-seen[k].Last < limit
	}
	for _, m := range misfits {
		follows := i.State.State == control.Backup &&
			(m.kind == Lists && i.State.MasterLists == control.ListsOverlap ||
				m.kind == Duplicate && i.State.MasterDuplicate)
		if follows || recent(m.seen, 4*interval+int64(settle)) {
			out.raise(s, m.kind, &seen[m.seen])
		}
	}
	if rx != nil {
		for _, x := range rx.shown.Sessions {
			if x.Users > 0 && x.Peer == i.State.Master && x.State != bfd.Up && s.Now-x.Since > int64(unansweredAfter) {
				out.raise(s, Unanswered, &engine.Sighting{First: x.Since, Addr: x.Peer})
			}
		}
	}
	if trouble := i.Trouble.Load(); trouble != nil {
		out.raiseList(s, Removed, trouble.Removed, trouble.Since)
		out.raiseList(s, Failed, trouble.Failed, trouble.Since)
	}
	if i.Unguarded != nil {
		out.raiseList(s, Unguarded, i.Unguarded.Removed, i.Unguarded.Since)
	}
	since := i.State.Since
	if i.State.State != control.Master || s.Now-since <= int64(settle) {
		return out
	}
	if recent(engine.SeenConflict, fresh) && seen[engine.SeenConflict].Last > since+int64(settle) {
		out.raise(s, Conflict, &seen[engine.SeenConflict])
	}
	rival := &seen[engine.SeenMaster]
	if rival.Last > since+int64(settle) && s.Now-rival.Last < 4*interval+int64(settle) {
		out.raise(s, OtherMaster, rival)
		if rival.Last-rival.First > 3*interval {
			out.raise(s, Unheard, rival)
		}
	}
	if rx != nil && rx.doubtful(i) && rx.asked-since > int64(deafAfter) {
		out.raise(s, Deaf, &engine.Sighting{First: since, Addr: i.State.Lost})
		out.alarms[Deaf].MAC = ""
	}
	return out
}

// update compares what is the case with what was.
func (j *Judge) update(i *snapshot.Instance, st *state, now *found) {
	for k := range kinds {
		switch {
		case now.active[k] && !st.active[k]:
			st.raised++
			st.alarms[k] = now.alarms[k]
			j.tell(i, &st.alarms[k], false)
		case st.active[k] && !now.active[k]:
			j.tell(i, &st.alarms[k], true)
		case now.active[k]:
			now.alarms[k].Since = st.alarms[k].Since
			st.alarms[k] = now.alarms[k]
		}
		st.active[k] = now.active[k]
	}
}

func (j *Judge) tell(i *snapshot.Instance, a *Active, over bool) {
	e := journal.Entry{
		Time: time.Now(), Kind: journal.Alarm, Instance: i.Name, Interface: i.Interface,
		Why: a.Kind.String(), Peer: a.Address, MAC: a.MAC,
	}
	attrs := []any{"instance", i.Name, "iface", i.Interface, "vrid", i.VRID,
		"alarm", a.Kind, "address", a.Address, "mac", a.MAC, "since", a.Since}
	if over {
		e.Kind = journal.AlarmOver
		j.Log.Info("alarm is over", attrs...)
	} else {
		j.Log.Error(texts[a.Kind], attrs...)
	}
	j.Journal.Append(e)
}
