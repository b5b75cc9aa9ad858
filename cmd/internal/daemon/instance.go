// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

// instance is one virtual router at run time. The event loop owns it; what
// others read is in shared.
type instance struct {
	id     int
	cfg    *config.Instance
	iface  *iface
	slot   loader.Slot
	router *control.Router
	frame  *transport.Frame
	set    *vip.Set
	links  []int // ifindex of each of the Router's links

	session   *session // towards its master; nil: none
	deadline  control.Instant
	armed     bool            // deadline counts
	graceOf   control.Instant // the deadline that the loop saw too late
	graceEnd  control.Instant // and judges then
	heldSince int64           // the advert since which the master has been silent, and is waited for

	refused     [16]refused // what was reported, so that it is reported once
	refusedNext int         // entry that makes room next
	shared      shared
	alarms      alarms
}

// refused is a peer some of whose adverts were refused and reported.
type refused struct {
	src     netip.Addr
	reasons uint32 // a bit for each packet.Reject
}

// iface is an interface that adverts use.
type iface struct {
	name    string
	ifindex int
	plane   dataplane
	guard   guard
	sender  *transport.Sender
	bySlot  map[loader.Slot]*instance

	leaseTime time.Duration
	reflects  bool      // peers may probe
	detector  *detector // nil: no instance wants fast detection, or none is possible

	sendErrors atomic.Uint64 // adverts that the kernel refused
}

// dataplane is how adverts arrive: loader.Filter or transport.Capture.
type dataplane interface {
	FD() int
	Mode() loader.Mode
	Drain(func(*loader.Event)) int
	Install(loader.Slot, *loader.Event) bool
	Clear(loader.Slot)
	LastArrival(loader.Slot) int64
	SetMAC(net.HardwareAddr)
	Liveness(loader.Slot) loader.Liveness
	Counters() (loader.Counters, error)
	Close() error
}

// shared is what the loop publishes of an instance: single words, stored
// without waiting for anybody.
type shared struct {
	state          atomic.Uint32
	reason         atomic.Uint32
	since          atomic.Int64
	priority       atomic.Uint32
	master         atomic.Uint32 // IPv4, 0: none
	masterPriority atomic.Uint32

	sent, received         atomic.Uint64
	zeroSent, zeroReceived atomic.Uint64
	forms                  [2]atomic.Uint64 // by packet.ChecksumForm, version 3
	transitions            [control.ReasonMax]atomic.Uint64
	rejected               [packet.RejectMax]atomic.Uint64
	peers                  [8]peer
	held                   atomic.Uint64 // times that the master's answers held the takeover back
	conflict, rival        sighting
	lostMaster             atomic.Uint32 // that fell silent and was replaced; 0: none
	alarms                 atomic.Uint64 // that were raised
}

// sighting is another host that does what only this one should: it answers
// for an address, or sends adverts as a master.
type sighting struct {
	addr  atomic.Uint32
	mac   atomic.Uint64
	first atomic.Int64 // of this series
	last  atomic.Int64
}

// see records one; a pause longer than gap begins a new series.
func (s *sighting) see(addr uint32, mac [6]byte, at int64, gap time.Duration) {
	var b [8]byte
	copy(b[2:], mac[:])
	if at-s.last.Load() > int64(gap) {
		s.first.Store(at)
	}
	s.addr.Store(addr)
	s.mac.Store(binary.BigEndian.Uint64(b[:]))
	s.last.Store(at)
}

func (s *sighting) hardwareAddr() net.HardwareAddr {
	return binary.BigEndian.AppendUint64(nil, s.mac.Load())[2:]
}

// peer is a source whose valid adverts were events; the repetitions that the
// kernel keeps to itself are in the liveness slot.
type peer struct {
	addr     atomic.Uint32
	priority atomic.Uint32
	last     atomic.Int64
	count    atomic.Uint64
}

// firstRefusal remembers that an advert of src was refused and says whether
// that is news. There is room for a few peers; a new one takes the place of
// the oldest.
func (i *instance) firstRefusal(src netip.Addr, why packet.Reject) bool {
	bit := uint32(1) << why
	for k := range i.refused {
		if r := &i.refused[k]; r.src == src {
			news := r.reasons&bit == 0
			r.reasons |= bit
			return news
		}
	}
	i.refused[i.refusedNext] = refused{src, bit}
	i.refusedNext = (i.refusedNext + 1) % len(i.refused)
	return true
}

// acceptedAgain says whether adverts of src were refused before, and forgets
// it.
func (i *instance) acceptedAgain(src netip.Addr) bool {
	for k := range i.refused {
		if i.refused[k].src == src {
			i.refused[k] = refused{}
			return true
		}
	}
	return false
}

func word(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(w uint32) netip.Addr {
	if w == 0 {
		return netip.Addr{}
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], w)
	return netip.AddrFrom4(b)
}

// role is what the kernel has to know of the state.
func (i *instance) role() loader.Role {
	switch {
	case i.router.State() != control.Master:
		return loader.RoleBackup
	case i.router.Leaving():
		return loader.RoleLeaving
	}
	return loader.RoleMaster
}

// publish stores what the loop alone knows.
func (i *instance) publish() {
	master, priority := i.router.Master()
	i.shared.state.Store(uint32(i.router.State()))
	i.shared.since.Store(int64(i.router.Since()))
	i.shared.priority.Store(uint32(i.router.Priority()))
	i.shared.master.Store(word(master))
	i.shared.masterPriority.Store(uint32(priority))
}

// sawPeer remembers the source of a valid advert, in place of the one not
// heard for the longest time if there is no room.
func (i *instance) sawPeer(src netip.Addr, priority uint8, at int64) {
	w := word(src)
	oldest := &i.shared.peers[0]
	for k := range i.shared.peers {
		p := &i.shared.peers[k]
		if p.addr.Load() == w {
			p.priority.Store(uint32(priority))
			p.last.Store(at)
			p.count.Add(1)
			return
		}
		if p.last.Load() < oldest.last.Load() {
			oldest = p
		}
	}
	oldest.addr.Store(w)
	oldest.priority.Store(uint32(priority))
	oldest.last.Store(at)
	oldest.count.Store(1)
}
