// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
)

// Addr is an address without a pointer, so that it can be published: 16 bytes,
// IPv4 mapped. The zero value is no address.
type Addr [16]byte

// addrOf returns a as it is published.
func addrOf(a netip.Addr) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return a.As16()
}

// Addr returns the address, invalid for the zero value.
func (a Addr) Addr() netip.Addr {
	if a == (Addr{}) {
		return netip.Addr{}
	}
	return netip.AddrFrom16(a).Unmap()
}

// String returns the address, empty for the zero value.
func (a Addr) String() string {
	if a == (Addr{}) {
		return ""
	}
	return a.Addr().String()
}

// SightingKind is what another host does that only this one should do, or that
// does not fit our configuration.
type SightingKind uint8

const (
	// SeenConflict: another MAC answers for an address of the router.
	SeenConflict SightingKind = iota
	// SeenMaster: another router advertises as master.
	SeenMaster
	// SeenLists: a router advertises a list that overlaps ours.
	SeenLists
	// SeenCollision: a router of the same VRID advertises a list that has
	// nothing in common with ours.
	SeenCollision
	// SeenDuplicate: another host sends adverts from our source address.
	SeenDuplicate
	sightings
)

// Sighting is a series of observations of one kind. Times are CLOCK_MONOTONIC
// nanoseconds.
type Sighting struct {
	First, Last int64
	Addr        Addr
	MAC         [6]byte
	_           [2]byte
}

// see records one; a pause longer than gap begins a new series.
func (s *Sighting) see(addr netip.Addr, mac [6]byte, at int64, gap time.Duration) {
	if at-s.Last > int64(gap) {
		s.First = at
	}
	s.Addr, s.MAC, s.Last = addrOf(addr), mac, at
}

// State is what a virtual router is now.
type State struct {
	Since          int64 // CLOCK_MONOTONIC nanoseconds
	State          control.State
	Reason         control.Reason // of the last transition
	Priority       uint8          // effective
	MasterPriority uint8
	// MasterLists and MasterDuplicate are what is wrong with the adverts of the
	// master that a backup follows: their repetitions stay in the kernel.
	MasterLists     control.Lists
	MasterDuplicate bool
	_               [2]byte
	Master          Addr // whose adverts a backup accepts
	Lost            Addr // the master that fell silent and was replaced
	Seen            [sightings]Sighting
}

// Peer is a source of valid adverts. Repetitions that the kernel keeps to
// itself are in its liveness record.
type Peer struct {
	Addr     Addr
	Last     int64 // CLOCK_MONOTONIC nanoseconds
	Count    uint64
	Priority uint8
	_        [7]byte
}

// Peers are those heard last.
type Peers [8]Peer

// saw remembers the source of a valid advert, in place of the one not heard
// for the longest time if there is no room.
func (p *Peers) saw(src netip.Addr, priority uint8, at int64) {
	addr := addrOf(src)
	oldest := &p[0]
	for k := range p {
		if p[k].Addr == addr {
			p[k].Priority, p[k].Last = priority, at
			p[k].Count++
			return
		}
		if p[k].Last < oldest.Last {
			oldest = &p[k]
		}
	}
	*oldest = Peer{Addr: addr, Last: at, Count: 1, Priority: priority}
}

// Published is what the loop publishes of a virtual router. Counters only grow.
type Published struct {
	state cell[State]
	peers cell[Peers]

	Sent, Received         atomic.Uint64
	ZeroSent, ZeroReceived atomic.Uint64
	Forms                  [2]atomic.Uint64 // by packet.ChecksumForm, version 3
	Transitions            [control.ReasonMax]atomic.Uint64
	Rejected               [packet.RejectMax]atomic.Uint64
	// Held counts the times that Master_Down_Interval had passed and the
	// master's answers held the takeover back.
	Held atomic.Uint64
}

// State returns what the router is now, read as a whole.
func (p *Published) State() State { return p.state.load() }

// Peers returns the sources of valid adverts.
func (p *Published) Peers() Peers { return p.peers.load() }

// SessionState is what an S-BFD session is now.
type SessionState struct {
	Since      int64
	Interval   time.Duration
	Peer       Addr // zero: the session was never used
	Local      uint32
	Remote     uint32
	Ifindex    int32
	Users      int32
	Multiplier int32
	State      bfd.State
	Diag       bfd.Diag
	Echo       bool
	_          [1]byte
}
