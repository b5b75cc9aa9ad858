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
	// EventStartup leaves INIT.
	EventStartup EventKind = iota
	// EventShutdown enters it: the orderly stop.
	EventShutdown
	// EventExpire says that the deadline has passed and that nothing which
	// arrived before it is still waiting.
	EventExpire
	// EventRefresh reports the arrival (At) of a repetition of the advert that
	// the last ActionTemplate was for.
	EventRefresh
	// EventAdvert is an advert that passed Check: At, Source, Priority and
	// Interval.
	EventAdvert
	// EventLink reports that link number Link is up or Down.
	EventLink
	// EventPeerDown says that Source is dead, or serves no longer (Left): if it
	// is the master, its Master_Down_Timer fires now.
	EventPeerDown
	// EventPeerUp says that Source has answered the fast detector at At, and
	// that it serves: if it is the master, its Master_Down_Timer is held back.
	EventPeerUp
	// EventStall says that this host did nothing for the time Gap, which ends
	// now. It comes before what arrived meanwhile.
	EventStall
)

// Event is something that happened. It is a value, so that handing it over
// allocates nothing; Kind says which fields count.
type Event struct {
	Kind     EventKind
	At       Instant // arrival of the advert or the answer
	Source   netip.Addr
	Priority uint8
	Interval time.Duration
	Link     int
	Down     bool
	Left     bool
	Gap      time.Duration
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
	// ActionTemplate makes the advert of the current event the template of
	// the kernel's fast path.
	ActionTemplate
	// ActionForget removes the template.
	ActionForget
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
