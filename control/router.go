// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"
	"time"

	"github.com/xvrrp/xvrrp/control/packet"
)

// Instant is a point of CLOCK_MONOTONIC in nanoseconds, the clock of the
// kernel's receive stamps. Differences are signed.
type Instant int64

// Add returns i later by d.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// PriorityOwner is the priority of the router that owns the addresses.
const PriorityOwner = 255

// Track is an interface whose state matters to a Router.
type Track struct {
	// Weight 0 means that the Router is in FAULT while it is down. A
	// positive weight is added to the priority while it is up, a
	// negative one while it is down. Range -253 to 253.
	Weight int
	// Reverse swaps up and down.
	Reverse bool
	// Down is its present state; EventTrack changes it.
	Down bool
}

// Config of a Router. What SameIdentity compares is final; the rest is changed
// by Router.Reconfigure.
type Config struct {
	VRID     uint8
	Version  uint8 // 2 or 3
	Priority uint8 // 1 to 255; 255 means that this router owns the addresses
	Interval time.Duration
	// Source of our adverts: it breaks ties, and its family is the Router's. An
	// instance that has no source address yet has the unspecified one, and a
	// Track of weight 0 that is Down.
	Source netip.Addr
	// MAC is the source MAC of our adverts: it distinguishes them from those of
	// another host that sends from Source. The zero value leaves that to the
	// address alone: for links that have no MAC, or where peers share it (a
	// virtual router MAC).
	MAC [6]byte

	// DownAdverts is the number of missed adverts that make a master dead;
	// 3 in the RFCs.
	DownAdverts int

	NoPreempt    bool
	PreemptDelay time.Duration

	AuthType uint8                // version 2
	Auth     [packet.AuthLen]byte // version 2
	// Addrs are the virtual addresses as they stand in an advert, at most 255.
	// The Router keeps the slice.
	Addrs []byte

	// Strict refuses an address list that is not the configured set.
	Strict bool
	// SkipCheckAddrs leaves the address list of the known master unchecked.
	SkipCheckAddrs bool
	// LowerPrioNoAdvert keeps a master silent when it hears a losing advert.
	LowerPrioNoAdvert bool
	// HigherPrioSendAdvert sends a last advert before yielding.
	HigherPrioSendAdvert bool
	// OwnerIgnoreAdverts makes the owner deaf to other masters.
	OwnerIgnoreAdverts bool
	// HoldLimit is how long EventPeerUp may hold the Master_Down_Timer back.
	HoldLimit time.Duration

	Tracks []Track
}

// Router is one virtual router on this host. Its zero value is not usable; see
// New.
type Router struct {
	cfg    Config
	addrs  addrSet
	former netip.Addr // Source before the last Reconfigure
	state  State
	since  Instant

	priority uint8 // effective
	faults   int   // tracks of weight 0 that fail

	// As a backup:
	master         netip.Addr // whose adverts are accepted
	masterPriority uint8
	masterInterval time.Duration
	masterDown     Instant
	heard          Instant // the master's last advert
	contested      Instant // the last advert that is not accepted, from whomever
	heldTill       Instant // masterDown counts no sooner, see EventPeerUp
	preemptAt      Instant // end of preempt_delay; 0 if it is not running
	delayOver      bool    // preempt_delay has run for this master

	// As a master:
	nextAdvert Instant
	reassertAt Instant // no answer to a losing advert before
	// tookOver is the master that fell silent, which this router replaced.
	tookOver netip.Addr
	// stalled says that this host slept for so long that another may have
	// replaced it, and that it has sent nothing since.
	stalled bool
	// leaving says that it has resigned and serves until nextAdvert, or until
	// its successor is there.
	leaving bool
}

const (
	// handoverLinger is how long a router that resigned still serves after its
	// successor's first advert: clients learn of it a moment later.
	handoverLinger = 10 * time.Millisecond
	// handoverMargin is given to a successor on top of its Skew_Time, but not
	// more than handoverLongest in all: a stop has to end.
	handoverMargin  = 100 * time.Millisecond
	handoverLongest = 2 * time.Second
	// takeoverAdverts is the number of adverts with which a router replaces one
	// that fell silent. Should that one's daemon be dead or hang, its fence
	// asks for as many (XVRRP_FENCE_ADVERTS); then two never serve at once.
	takeoverAdverts = 3
	// stallGrace is what a master that slept leaves the kernel to deliver what
	// came meanwhile before it speaks.
	stallGrace = 500 * time.Microsecond
)

// New returns a Router in INIT.
func New(cfg Config) *Router {
	r := &Router{masterInterval: cfg.Interval}
	r.configure(cfg)
	return r
}

// Config returns the configuration, with the present state of the tracks. The
// caller must not change it.
func (r *Router) Config() *Config { return &r.cfg }

// State returns where the Router is.
func (r *Router) State() State { return r.state }

// Since returns when it got there.
func (r *Router) Since() Instant { return r.since }

// Priority returns the effective priority: the configured one and the weights
// of the tracks, 1 to 254, or 255 for the owner.
func (r *Router) Priority() uint8 { return r.priority }

// Master returns the source of the adverts that a backup accepts, with their
// priority, or an invalid address.
func (r *Router) Master() (netip.Addr, uint8) { return r.master, r.masterPriority }

// Leaving reports whether the Router has resigned, but still serves.
func (r *Router) Leaving() bool { return r.leaving }

// Listening reports whether the Router slept and must not speak before its deadline.
func (r *Router) Listening() bool { return r.stalled }

// Deadline returns when the Router wants EventExpire.
func (r *Router) Deadline() (Instant, bool) {
	switch r.state {
	case Backup:
		down := max(r.masterDown, r.heldTill)
		if r.preemptAt != 0 && r.preemptAt < down {
			return r.preemptAt, true
		}
		return down, true
	case Master:
		return r.nextAdvert, true
	}
	return 0, false
}

// Skew returns the Skew_Time, RFC 3768 section 6.1 and RFC 9568 section 6.1,
// in nanoseconds.
func (r *Router) Skew() time.Duration {
	of := time.Second
	if r.cfg.Version == 3 {
		of = r.masterInterval
	}
	return of * time.Duration(256-int(r.priority)) / 256
}

// longestSkew returns the Skew_Time of the lowest priority.
func (r *Router) longestSkew() time.Duration {
	if r.cfg.Version == 3 {
		return r.cfg.Interval
	}
	return time.Second
}

// MasterDownInterval returns the silence after which the master is dead.
func (r *Router) MasterDownInterval() time.Duration {
	return time.Duration(r.cfg.DownAdverts)*r.masterInterval + r.Skew()
}

// Step moves the Router by one event and appends what must be done to out.
func (r *Router) Step(now Instant, ev Event, out []Action) []Action {
	switch ev.Kind {
	case EventStartup:
		return r.startup(now, ev.At, out)
	case EventShutdown:
		return r.shutdown(now, out)
	case EventTrack:
		return r.track(now, ev, out)
	case EventExpire:
		return r.expire(now, out)
	case EventRefresh:
		r.refresh(ev.At)
		return out
	case EventPeerDown:
		return r.peerDown(now, ev, ReasonFastDetect, out)
	case EventPeerLeft:
		return r.peerDown(now, ev, ReasonPeerLeft, out)
	case EventPeerUp:
		r.peerUp(ev)
		return out
	case EventStall:
		r.stall(now, now.Sub(ev.At))
		return out
	case EventAdvert:
		switch r.state {
		case Backup:
			return r.advertInBackup(now, ev, out)
		case Master:
			return r.advertInMaster(now, ev, out)
		}
	}
	return out
}

func (r *Router) startup(now, since Instant, out []Action) []Action {
	if r.state != Init {
		return out
	}
	if r.faults > 0 {
		return r.move(now, Fault, ReasonLinkDown, out)
	}
	if r.cfg.Priority == PriorityOwner {
		return r.becomeMaster(now, ReasonOwner, out)
	}
	// compat: `state MASTER` starts as a backup too and waits like any other.
	out = r.becomeBackup(now, ReasonStartup, out)
	if since > 0 {
		// An interval at least: a card may be deaf while a program is attached.
		r.masterDown = max(now.Add(r.masterInterval+r.Skew()), since.Add(r.MasterDownInterval()))
	}
	return out
}

func (r *Router) shutdown(now Instant, out []Action) []Action {
	if r.state != Master {
		return r.move(now, Init, ReasonShutdown, out)
	}
	if r.leaving {
		return out
	}
	// Resign, but serve until a successor has spoken, or could have: that is
	// the longest Skew_Time there is.
	r.leaving, r.stalled = true, false
	r.nextAdvert = now.Add(min(r.longestSkew()+handoverMargin, handoverLongest))
	return append(out, Action{Kind: ActionAdvert, Priority: 0})
}

// left ends the service of a router that resigned.
func (r *Router) left(now Instant, out []Action) []Action {
	r.leaving = false
	return r.move(now, Init, ReasonShutdown, append(out, Action{Kind: ActionRelease}))
}

// peerDown is the master-down timer, fired by a faster detector.
func (r *Router) peerDown(now Instant, ev Event, why Reason, out []Action) []Action {
	if r.state != Backup || !r.master.IsValid() || r.master != ev.Source {
		return out
	}
	return r.becomeMaster(now, why, out)
}

// peerUp holds the Master_Down_Timer back: a master that answers is late, not
// dead. An answer buys one Advertisement_Interval less than an advert would, so
// a master that advertised on time until it died is replaced no later than
// without fast detection. A master that answers but never advertises is
// replaced after HoldLimit. An advert that is not accepted ends the hold: the
// master has lowered its priority, or a lower router serves already.
func (r *Router) peerUp(ev Event) {
	if r.state != Backup || !r.master.IsValid() || r.master != ev.Source ||
		!r.accepts(r.masterPriority) || r.contested > r.heard {
		return
	}
	r.heldTill = min(ev.At.Add(r.MasterDownInterval()-r.masterInterval), r.masterDown.Add(r.cfg.HoldLimit))
}

// endHold lets the Master_Down_Timer count again: now, if it has run out.
func (r *Router) endHold(now Instant) {
	r.masterDown = max(r.masterDown, min(now, r.heldTill))
	r.heldTill = 0
}

// forget ends the relation to the master that was followed.
func (r *Router) forget(now Instant) {
	r.endHold(now)
	r.master, r.masterPriority = netip.Addr{}, 0
}

// Slept reports whether a master that is late by gap may have been replaced: its
// last advert was due an interval before that. The loop asks at every wake-up,
// and steps the Router only if it is so.
func (r *Router) Slept(gap time.Duration) bool {
	return r.state == Master && !r.leaving && gap > time.Duration(r.cfg.DownAdverts-1)*r.cfg.Interval
}

// stall prepares a master for what it missed. A backup needs nothing: the
// kernel's stamps say what arrived while it slept.
func (r *Router) stall(now Instant, gap time.Duration) {
	if !r.Slept(gap) {
		return
	}
	r.stalled = true
	r.reassertAt = 0
	r.nextAdvert = now.Add(stallGrace)
	if r.cfg.NoPreempt && gap >= time.Duration(r.cfg.DownAdverts)*r.cfg.Interval {
		// Every peer would have replaced it by now, and that one stays: listen
		// for as long as it may take to say so.
		r.nextAdvert = now.Add(r.cfg.Interval + stallGrace)
	}
}

func (r *Router) expire(now Instant, out []Action) []Action {
	deadline, ok := r.Deadline()
	if !ok || now < deadline {
		return out
	}
	if r.leaving {
		return r.left(now, out)
	}
	if r.stalled {
		// Nobody has said otherwise. Announce, too: one that did serve
		// meanwhile may have gone again.
		r.stalled = false
		r.nextAdvert = now.Add(r.cfg.Interval)
		return append(out, Action{Kind: ActionAdvert, Priority: r.priority}, Action{Kind: ActionAnnounce})
	}
	if r.state == Master {
		// From the deadline, not from now, so that lateness does not add up;
		// but a master that slept does not send what it missed.
		r.nextAdvert = r.nextAdvert.Add(r.cfg.Interval)
		if r.nextAdvert <= now {
			r.nextAdvert = now.Add(r.cfg.Interval)
		}
		return append(out, Action{Kind: ActionAdvert, Priority: r.priority})
	}
	if r.preemptAt != 0 && r.preemptAt <= now && now < r.masterDown {
		// From here on the lower master's adverts no longer count, and what
		// remains of the master-down time must still pass.
		r.preemptAt, r.delayOver = 0, true
		r.forget(now)
		return append(out, Action{Kind: ActionUnfollow})
	}
	return r.becomeMaster(now, ReasonMasterDown, out)
}

// refresh takes the arrival of a steady advert that the kernel recorded.
func (r *Router) refresh(at Instant) {
	if r.state != Backup || !r.master.IsValid() || !r.accepts(r.masterPriority) {
		return
	}
	r.heard = max(r.heard, at)
	if down := at.Add(r.MasterDownInterval()); down > r.masterDown {
		r.masterDown = down
	}
}

func (r *Router) track(now Instant, ev Event, out []Action) []Action {
	if ev.Track < 0 || ev.Track >= len(r.cfg.Tracks) || r.cfg.Tracks[ev.Track].Down == ev.Down {
		return out
	}
	r.cfg.Tracks[ev.Track].Down = ev.Down
	skew := r.Skew()
	r.weigh()
	return r.weighed(now, skew, out)
}

// weighed acts on what weigh found; skew is the Skew_Time before.
func (r *Router) weighed(now Instant, skew time.Duration, out []Action) []Action {
	switch {
	case r.state == Init:
		return out
	case r.leaving:
		if r.faults > 0 {
			return r.left(now, out)
		}
		return out
	case r.faults > 0 && r.state != Fault:
		if r.state == Master {
			// compat: twice, as keepalived does on entering FAULT.
			out = append(out, Action{Kind: ActionAdvert, Priority: 0},
				Action{Kind: ActionAdvert, Priority: 0}, Action{Kind: ActionRelease})
		}
		return r.move(now, Fault, ReasonLinkDown, out)
	case r.faults == 0 && r.state == Fault:
		return r.becomeBackup(now, ReasonLinkUp, out)
	case r.state == Backup:
		r.masterDown = r.masterDown.Add(r.Skew() - skew)
		if !r.master.IsValid() {
			return out
		}
		if !r.accepts(r.masterPriority) {
			r.preemptAt = 0
			r.forget(now)
			return append(out, Action{Kind: ActionUnfollow})
		}
		r.planPreempt(now)
	}
	return out
}

// weigh computes the effective priority and the number of faults.
func (r *Router) weigh() {
	sum := int(r.cfg.Priority)
	r.faults = 0
	for _, t := range r.cfg.Tracks {
		up := t.Down == t.Reverse
		switch {
		case t.Weight == 0 && !up:
			r.faults++
		case t.Weight > 0 && up, t.Weight < 0 && !up:
			sum += t.Weight
		}
	}
	if r.cfg.Priority == PriorityOwner {
		r.priority = PriorityOwner // compat: weights do not touch the owner
		return
	}
	r.priority = uint8(max(1, min(254, sum)))
}

func (r *Router) becomeMaster(now Instant, why Reason, out []Action) []Action {
	r.nextAdvert = now.Add(r.cfg.Interval)
	r.reassertAt = 0
	// The advert goes first: it silences other backups while the addresses
	// are being added. RFC 9568 section 6.4.2.
	adverts, silent := 1, r.master
	if silent.IsValid() {
		adverts = takeoverAdverts
	}
	for range adverts {
		out = append(out, Action{Kind: ActionAdvert, Priority: r.priority})
	}
	out = r.move(now, Master, why, append(out, Action{Kind: ActionTakeover}))
	r.tookOver = silent
	return out
}

func (r *Router) becomeBackup(now Instant, why Reason, out []Action) []Action {
	r.masterDown = now.Add(r.MasterDownInterval())
	return r.move(now, Backup, why, out)
}

func (r *Router) move(now Instant, to State, why Reason, out []Action) []Action {
	from := r.state
	r.state, r.since = to, now
	if to != Backup {
		// RFC 9568 section 6.4.3: a learned interval is forgotten.
		r.forget(now)
		r.masterInterval = r.cfg.Interval
		r.preemptAt, r.delayOver = 0, false
		out = append(out, Action{Kind: ActionUnfollow})
	}
	r.tookOver, r.stalled = netip.Addr{}, false
	if from == to {
		return out
	}
	return append(out, Action{Kind: ActionTransition, From: from, To: to, Reason: why})
}
