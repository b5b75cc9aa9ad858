// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"sync/atomic"
	"time"
)

// Announcement describes how the addresses of a Set are announced; see
// config.GARP.
type Announcement struct {
	Repeat          int
	Delay           time.Duration // until the second block; 0: there is none
	Refresh         time.Duration // 0: none
	RefreshRepeat   int
	LowerPrioRepeat int
	LowerPrioDelay  time.Duration
	Interval        time.Duration // between two frames on one interface; 0: none
}

// Spec is the content of a Set.
type Spec struct {
	Addresses []Address // with different keys
	Announce  Announcement
}

// Set is the addresses of one virtual router. [Host.Add] makes it.
//
// Takeover, Release and Announce belong to one thread, the event loop. They
// never wait, take no lock and allocate nothing; the worker does the rest.
type Set struct {
	host *Host
	next *Set // in host.ordered

	// epoch is odd while the virtual router owns its addresses and grows with
	// every change. An announcement made for an older one is not sent.
	epoch    atomic.Uint64
	since    [2]atomic.Int64 // when the newest odd and even epoch were ordered
	announce atomic.Bool     // ordered after a losing advert
	queued   atomic.Bool     // it is in host.ordered
	held     atomic.Bool     // see Hold

	// The rest is the worker's.
	how      Announcement
	objects  []*object
	retired  bool   // by Remove
	applied  uint64 // the epoch that the worker has carried out
	dirty    bool   // it is in host.dirty
	failed   []AddressError
	removed  []Address
	wakeAt   int64  // of the entry in the plan that makes it dirty; 0: there is none
	refresh  int    // the generation of its refreshes
	delaying uint64 // the epoch that a second block after a losing advert is planned for
}

// Takeover orders the addresses to be added and announced. The epoch begins
// with 0 and grows by 1 with each Takeover of a Set that is not owned and each
// Release of one that is.
func (s *Set) Takeover() { s.order(true) }

// Release orders the addresses to be removed. From this moment none is
// announced.
func (s *Set) Release() { s.order(false) }

// Hold(true) means that it is not known whether another host has taken over:
// until Hold(false), nothing that the set owns is put back or announced again.
// Orders are carried out.
func (s *Set) Hold(on bool) { s.held.Store(on) }

func (s *Set) order(own bool) {
	if epoch := s.epoch.Load(); owned(epoch) != own {
		epoch++
		s.since[epoch&1].Store(s.host.now())
		s.epoch.Store(epoch)
		s.wake()
	}
}

// Announce orders the announcements that follow a losing advert.
func (s *Set) Announce() {
	s.announce.Store(true)
	s.wake()
}

// wake puts the set on the worker's list, a stack that the worker takes whole.
func (s *Set) wake() {
	if !s.queued.CompareAndSwap(false, true) {
		return
	}
	for {
		head := s.host.ordered.Load()
		s.next = head
		if s.host.ordered.CompareAndSwap(head, s) {
			if head == nil {
				s.host.signal() // the one who found it empty wakes the worker
			}
			return
		}
	}
}

// ordered returns the newest epoch and when it was ordered.
func (s *Set) ordered() (epoch uint64, at int64) {
	for {
		epoch = s.epoch.Load()
		at = s.since[epoch&1].Load()
		if s.epoch.Load() == epoch {
			return epoch, at
		}
	}
}

func owned(epoch uint64) bool { return epoch&1 == 1 }

// owns reports whether the addresses are to be on this host.
func (s *Set) owns() bool { return !s.retired && owned(s.epoch.Load()) }

// state is what the worker knows of an object on this host.
type state uint8

const (
	absent state = iota
	present
	unsure // the kernel did not answer, or something else may have removed it
)

// object is one address of a Set: its messages and frames are prepared when
// the Set is made, so that a takeover is one batch.
type object struct {
	Address
	set   *Set
	link  *link
	add   []byte // messages
	del   []byte
	frame []byte // announcement, nil: the interface has no Ethernet framing
	probe []byte // asks whether another host has the address, too

	state   state
	leaving bool  // the Set does not hold it any more
	noted   bool  // the record has it for the attempt that is made
	err     error // why the last attempt failed

	// An attempt that failed and an address that others remove again and again
	// wait longer each time.
	failures  int
	repairs   int
	notBefore int64
	removed   bool  // by others, and it has not stayed since
	lostAt    int64 // when they last did
	watched   bool  // it is looked at again soon

	due       int    // announcements to send; it is in link.waiting if positive
	epoch     uint64 // that they were made for
	announced uint64 // the epoch of the last one that was sent
}

// wanted reports whether the object is to be on this host.
func (o *object) wanted(own bool) bool { return own && !o.leaving && !o.Own }

// announceable reports whether it may be announced: the host has it.
func (o *object) announceable() bool {
	return o.frame != nil && !o.leaving && (o.Own || o.state == present)
}

// announced reports whether each address that can be was announced.
func (s *Set) announced(epoch uint64) bool {
	any := false
	for _, o := range s.objects {
		if o.announceable() {
			if o.announced != epoch {
				return false
			}
			any = true
		}
	}
	return any
}

// AddressError is why the kernel refused to add or remove an address.
type AddressError struct {
	Address Address
	Err     error
}

func (e *AddressError) Error() string {
	return "address " + e.Address.Prefix.String() + ": " + e.Err.Error()
}

func (e *AddressError) Unwrap() error { return e.Err }
