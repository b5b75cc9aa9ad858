// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"
	"time"
)

// State of a Router, in keepalived's words; RFC 9568 says Active for MASTER.
type State uint8

const (
	Init State = iota
	Backup
	Master
	Fault
)

func (s State) String() string {
	return [...]string{"INIT", "BACKUP", "MASTER", "FAULT"}[s]
}

// Reason says why a Router changed its state.
type Reason uint8

const (
	ReasonStartup Reason = iota
	ReasonOwner
	ReasonMasterDown
	ReasonHigherPriority
	ReasonLinkDown
	ReasonLinkUp
	ReasonShutdown
	ReasonFastDetect
	ReasonPeerLeft
	ReasonStalled
	ReasonMax
)

func (r Reason) String() string {
	return [...]string{"startup", "owner", "master_down", "higher_priority",
		"link_down", "link_up", "shutdown", "fast_detect", "peer_left", "stalled"}[r]
}

// EventKind is the kind of an Event.
type EventKind uint8

const (
	// EventStartup leaves INIT. The host has heard the adverts since At; 0: since
	// now.
	EventStartup EventKind = iota
	// EventShutdown enters it: the orderly stop.
	EventShutdown
	// EventExpire reports that the deadline has passed and that nothing which
	// arrived before it is still waiting.
	EventExpire
	// EventRefresh reports the arrival (At) of a repetition of the advert that
	// the last ActionFollow was for.
	EventRefresh
	// EventAdvert is an advert that passed Check.
	EventAdvert
	// EventTrack reports that track number Track is up or Down.
	EventTrack
	// EventPeerDown reports that Source is dead: if it is the master, its
	// Master_Down_Timer fires now.
	EventPeerDown
	// EventPeerLeft reports that Source lives and serves no longer, with the
	// same effect.
	EventPeerLeft
	// EventPeerUp reports that Source has answered the fast detector at At, and
	// that it serves: if it is the master, its Master_Down_Timer is held back.
	EventPeerUp
	// EventStall reports that this host did nothing from At until now. It comes
	// before what arrived meanwhile.
	EventStall
)

// Event is something that happened. It is a value, so that handing it over
// allocates nothing; each field names the kinds that it counts for.
type Event struct {
	Kind EventKind
	// At is when it happened: EventAdvert, EventRefresh, EventPeerUp and
	// EventStall.
	At Instant
	// Source is whom it is about: EventAdvert, EventPeerDown, EventPeerLeft and
	// EventPeerUp.
	Source netip.Addr
	// EventAdvert: what it says, and the source MAC of its frame.
	Priority uint8
	Interval time.Duration
	MAC      [6]byte
	// EventTrack: the track, an index of Config.Tracks, and its state.
	Track int
	Down  bool
}

// ActionKind is the kind of an Action.
type ActionKind uint8

const (
	// ActionAdvert sends an advert with Priority.
	ActionAdvert ActionKind = iota
	// ActionTakeover adds the addresses and announces them.
	ActionTakeover
	// ActionRelease removes the addresses and ends every announcement.
	ActionRelease
	// ActionAnnounce repeats the announcements: another host may have made
	// others of the same addresses.
	ActionAnnounce
	// ActionFollow accepts the advert of the current event as the master's:
	// repetitions of it need only EventRefresh, and its source may be watched by
	// a faster detector.
	ActionFollow
	// ActionUnfollow ends that.
	ActionUnfollow
	// ActionAddresses changes the addresses of a master to those of its new
	// configuration: those that stay are not touched.
	ActionAddresses
	// ActionTransition reports a change of state: From, To and Reason.
	ActionTransition
)

// Action is something to do. Kind says which fields count.
type Action struct {
	Kind     ActionKind
	Priority uint8
	From, To State
	Reason   Reason
}
