// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/loader"
)

// Receiver hands out what arrived.
type Receiver interface {
	// FD is readable, in the sense of epoll, while something waits.
	FD() int
	// Drain calls the function with every event that waits, and returns their
	// number. An event is valid during the call.
	Drain(func(*loader.Event)) int
}

// Socket is a Receiver that judges frames itself.
type Socket interface {
	Receiver
	SetMAC(ifindex int, mac [6]byte)
}

// Kernel is the kernel side: templates, liveness, roles, lease and sessions.
type Kernel interface {
	Install(loader.RouterID, *loader.Event) bool
	Clear(loader.RouterID)
	LastArrival(loader.RouterID) int64
	SetRole(loader.RouterID, loader.Role)
	Renew(until int64)
	SetMAC(ifindex int, mac [6]byte)
	OpenSession(loader.Session)
	CloseSession(local uint32)
	Answer(local uint32) loader.Answer
}

// Sender sends the adverts of one port in batches.
type Sender interface {
	// Queue reports whether the batch had room for the advert.
	Queue(*transport.Frame, uint8) bool
	// Flush returns how many adverts the kernel took and refused, and why.
	Flush() (sent, refused int, err error)
}

// Prober sends the probes of fast detection.
type Prober interface {
	Frames(*[bfd.Ports][]byte, *transport.ProbeSpec)
	// Send reports whether the kernel took the frame.
	Send(ifindex int, frame []byte) bool
}

// Set is the addresses of a router. None of its methods waits. The epoch of
// ownership begins with 0 and grows with each Takeover of a set that is not
// owned and each Release of one that is.
type Set interface {
	Takeover()
	Release()
	Announce()
	// Hold(true) means that the router slept and does not know whether it was
	// replaced: until Hold(false) nothing of the set is put back or announced
	// again.
	Hold(bool)
}

// Facts is the newest that is known of this host. The loop asks for it when it
// puts a batch in place. None of its methods waits.
type Facts interface {
	// Down reports whether a Watched, whose Ifindex is not 0, is not met.
	Down(Watched) bool
	// MAC returns that of an interface, zero if it is not known.
	MAC(ifindex int) [6]byte
}

// Port is an interface that adverts use.
type Port struct {
	Name    string
	Ifindex int
	Kernel  Kernel // nil: adverts come through Socket alone
	Socket  Socket // nil: adverts come through the kernel's ring
	Sender  Sender
	MAC     [6]byte // the loop's, once the port is in a table

	dirty   bool // adverts are queued
	failing bool // the last adverts were refused

	SendErrors atomic.Uint64 // adverts that the kernel refused
}

// Watched is a condition of the host on which a router depends: an interface
// that must be up or, with Addr, an address that must be there. An Ifindex of
// 0 is never met.
type Watched struct {
	Ifindex int
	Addr    netip.Addr
}

// Link is news of a Watched. MAC is that of the interface, zero if it is not
// known.
type Link struct {
	Watched
	Down bool
	MAC  [6]byte
}

// FastDetect is what a router wants of S-BFD towards its master.
type FastDetect struct {
	Enabled    bool
	Interval   time.Duration
	Multiplier int
	Echo       bool
}

// Spec is everything about a router that can change while it runs.
type Spec struct {
	Name       string
	Config     control.Config // the loop writes to its Tracks
	Frame      *transport.Frame
	Watch      []Watched // parallel to Config.Tracks
	FastDetect FastDetect
}

// Router is one virtual router. The loop owns it; others read Published and
// Name.
type Router struct {
	ID   loader.RouterID
	VRID uint8
	Port *Port
	Set  Set

	Published Published

	name      atomic.Pointer[string]
	spec      Spec
	router    *control.Router
	at        int // position in the table
	session   *Session
	state     State  // what is published of it next
	epoch     uint64 // of ownership, see Set
	retiring  bool   // stopped, and not INIT yet
	retired   atomic.Bool
	listening bool // its set is held
	peers     Peers
	role      loader.Role

	deadline  control.Instant
	armed     bool            // deadline counts
	graceOf   control.Instant // the deadline that the loop saw too late
	graceEnd  control.Instant // and acts on then
	heldSince int64           // the advert since which the master has been silent, and is waited for
	heard     int64           // the last advert before the router ran, see Batch.Heard

	rejects     [16]rejects // what was reported, so that it is reported once
	rejectsNext int         // entry that makes room next
}

// NewRouter returns a router in INIT. set may be nil for a router without
// addresses of its own.
func NewRouter(id loader.RouterID, port *Port, set Set, spec Spec) *Router {
	r := &Router{ID: id, VRID: spec.Config.VRID, Port: port, Set: set, spec: spec, router: control.New(spec.Config)}
	r.name.Store(&r.spec.Name)
	r.Published.state.init()
	r.Published.peers.init()
	r.publish()
	return r
}

// Name returns the name of the instance.
func (r *Router) Name() string { return *r.name.Load() }

// Retired reports whether the router was stopped and is INIT: the loop does not
// use it any more.
func (r *Router) Retired() bool { return r.retired.Load() }

// Table is what the loop works on. It is built outside and handed over whole;
// after that only the loop writes to it.
type Table struct {
	Kernels  []Kernel
	Rings    []Receiver // drained in each iteration: a look at memory
	Ports    []*Port
	Routers  []*Router
	Sessions []*Session
	Prober   Prober // nil: no fast detection

	byID     []*Router
	due      []control.Instant // of each router: when the timer must fire
	near     []control.Instant // of each router: from when on it may be acted on along with others
	probeDue []control.Instant // of each session
	dirty    []*Port
	orders   []order
	judged   []Set         // that are held no longer, once the orders are given
	shortest time.Duration // a suspension up to this concerns no router
	// descriptors are watched in epoll.
	descriptors []int
}

const never = control.Instant(1<<63 - 1)

// prepare makes room for what the loop keeps in the table. It is called
// outside the loop.
func (t *Table) prepare() {
	highest := loader.RouterID(0)
	for _, r := range t.Routers {
		highest = max(highest, r.ID)
	}
	t.byID = make([]*Router, int(highest)+1)
	t.due = make([]control.Instant, len(t.Routers))
	t.near = make([]control.Instant, len(t.Routers))
	t.probeDue = make([]control.Instant, len(t.Sessions))
	t.dirty = make([]*Port, 0, len(t.Ports))
	t.orders = make([]order, 0, 4*len(t.Routers)+16)
	t.judged = make([]Set, 0, 2*len(t.Routers))
	for _, r := range t.Routers {
		t.byID[r.ID] = r
	}
	for _, ring := range t.Rings {
		t.descriptors = append(t.descriptors, ring.FD())
	}
	for _, p := range t.Ports {
		if p.Socket != nil {
			t.descriptors = append(t.descriptors, p.Socket.FD())
		}
	}
}

// Change gives a router another Spec of the same identity.
type Change struct {
	Router *Router
	Spec   Spec
}

// Heard is what the host heard of all routers that start, from the time that
// Since returns on CLOCK_MONOTONIC; their timers count from then. 0: something may
// be missing.
type Heard interface {
	Since() int64
	Drain(func(*loader.Event)) int
}

// Batch is one change of what the loop works on, applied between two
// iterations: first routers stop, then they change, then new ones start.
// Everything in it, the Table included, belongs to the loop afterwards.
type Batch struct {
	Number uint64 // see Engine.Applied
	Table  *Table // nil: unchanged
	Stop   []*Router
	Change []Change
	Start  []*Router
	// Heard, if there is one, has the adverts to the routers of Start that
	// arrived before their ports were open.
	Heard Heard
	Quit  bool // the loop ends once every router is INIT
}
