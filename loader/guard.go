// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Role is what a virtual router does here, as far as the kernel has to know.
type Role uint8

const (
	// RoleBackup serves nobody: the reflector does not speak for it.
	RoleBackup Role = iota
	// RoleMaster serves.
	RoleMaster
	// RoleLeaving still serves, and wants to be replaced.
	RoleLeaving
)

// SetRole tells the programs what a virtual router does here.
func (c *Collection) SetRole(id RouterID, role Role) {
	was := c.roles[id]
	if was == role {
		return
	}
	c.roles[id] = role
	r := &c.routers[id]
	master := uint32(0)
	if role != RoleBackup {
		master = masterNow
	}
	atomic.StoreUint32(&r.Master, master)
	delta := uint32(0)
	switch RoleMaster {
	case role:
		delta = 1
	case was:
		delta = ^uint32(0)
	}
	atomic.AddUint32(&c.serving[r.Port].Masters, delta)
	atomic.AddUint32(&c.lease.Masters, delta)
}

// Lease is the state of the daemon's lease as the programs see it.
type Lease struct {
	UntilNs int64  // CLOCK_MONOTONIC
	Masters uint32 // virtual routers that are served, on all interfaces
	Tgid    uint32 // process whose exit ends the lease; 0: the hook is missing
}

// Renew makes the lease hold until a time of CLOCK_MONOTONIC.
func (c *Collection) Renew(until int64) { atomic.StoreUint64(&c.lease.UntilNs, uint64(until)) }

// Lease returns the state of the lease.
func (c *Collection) Lease() Lease {
	return Lease{
		UntilNs: int64(atomic.LoadUint64(&c.lease.UntilNs)),
		Masters: atomic.LoadUint32(&c.lease.Masters),
		Tgid:    atomic.LoadUint32(&c.lease.Tgid),
	}
}

// PortLease is Lease with the virtual routers that are served from one
// interface: those that its reflector speaks for.
func (c *Collection) PortLease(ifindex int) Lease {
	l := c.Lease()
	l.Masters = 0
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.ports[ifindex]; ok {
		l.Masters = atomic.LoadUint32(&c.serving[p.id].Masters)
	}
	return l
}

// SessionMax is the number of S-BFD sessions of a Collection, and a power of
// two: the low bits of a discriminator choose the session.
const SessionMax = int(rxXvrrpLimitXVRRP_LIMIT_SESSIONS)

// Session is one whose initiator we are.
type Session struct {
	// Local is our discriminator and not 0; no other session has the same
	// remainder by SessionMax.
	Local uint32
	// Remote is the discriminator of the reflector.
	Remote  uint32
	Ifindex int
	VLAN    uint16 // VLAN id of its packets on the interface, 0 for none
	Peer    netip.Addr
	// Echo records the echoes that Peer forwards (RFC 9747) instead.
	Echo bool
}

// OpenSession makes the programs record the answers of a reflector.
func (c *Collection) OpenSession(open Session) {
	s := &c.sessions[open.Local%uint32(SessionMax)]
	atomic.StoreUint32(&s.Local, 0)
	s.Remote, s.Ifindex, s.Vlan, s.Echo = open.Remote, uint32(open.Ifindex), open.VLAN, 0
	if open.Echo {
		s.Echo = 1
	}
	putAddr(&s.Peer, open.Peer)
	s.State, s.Diag, s.Replies, s.LastNs = 0, 0, 0, 0
	atomic.StoreUint32(&s.Local, open.Local)
}

// CloseSession ends the session of a discriminator of ours.
func (c *Collection) CloseSession(local uint32) {
	atomic.StoreUint32(&c.sessions[local%uint32(SessionMax)].Local, 0)
}

// Answer is what the program recorded of a session.
type Answer struct {
	LastNs  int64 // arrival of the last answer, CLOCK_MONOTONIC; 0: none
	Replies uint64
	State   uint8 // of the last answer, RFC 5880 section 4.1
	Diag    uint8
}

// Answer returns what was recorded of a session. State belongs to the answer
// of LastNs or to a later one.
func (c *Collection) Answer(local uint32) Answer {
	s := &c.sessions[local%uint32(SessionMax)]
	a := Answer{LastNs: int64(atomic.LoadUint64(&s.LastNs))}
	a.State, a.Diag = uint8(atomic.LoadUint32(&s.State)), uint8(atomic.LoadUint32(&s.Diag))
	a.Replies = atomic.LoadUint64(&s.Replies)
	return a
}

// Fence is what the programs know of another master of a virtual router that
// this host is master of, too.
type Fence struct {
	// Active reports that this host does not speak for the addresses now.
	Active bool
	Source netip.Addr
	MAC    net.HardwareAddr
	Seen   uint32 // consistent adverts in a row
	// FirstNs and LastNs are the times of the first and the last of them.
	FirstNs, LastNs int64
}

// fenceAdverts close a fence.
const fenceAdverts = uint32(rxXvrrpLimitXVRRP_LIMIT_FENCE_ADVERTS)

// Fence returns what is known of another master of a router; now is on
// CLOCK_MONOTONIC. The rule for Active is that of `fenced` in bpf/fence.h.
func (c *Collection) Fence(id RouterID, now int64) Fence {
	s, r := &c.fences[id], &c.routers[id]
	out := Fence{
		Seen: atomic.LoadUint32(&s.Seen), FirstNs: int64(atomic.LoadUint64(&s.FirstNs)),
		LastNs: int64(atomic.LoadUint64(&s.LastNs)),
	}
	if out.Seen == 0 {
		return out
	}
	out.Source = addrOf(s.Src)
	out.MAC = append(net.HardwareAddr(nil), s.Mac[:]...)
	held := atomic.LoadUint64(&c.lease.EndedNs) == 0 && int64(atomic.LoadUint64(&c.lease.UntilNs)) > now
	fence := uint32(rxXvrrpRouterFlagXVRRP_ROUTER_FENCE)
	out.Active = atomic.LoadUint32(&r.Flags)&fence != 0 && out.Seen >= fenceAdverts &&
		now-out.LastNs <= int64(atomic.LoadUint64(&s.HoldNs)) && (atomic.LoadUint32(&r.Master) != masterNow || !held)
	return out
}

// adopt reads what a predecessor left: the fences that it may have closed, so
// that its addresses stay silent until they are removed, and the number of
// daemons before. It returns that of this one.
func (c *Collection) adopt() (generation uint32) {
	var was rxXvrrpMeta
	if !readPin(c.pins, "meta", &was) {
		return 1
	}
	if was.Layout != uint32(rxXvrrpLimitXVRRP_LIMIT_LAYOUT) {
		c.log.Warn("the fences of the previous daemon are not taken over: its maps are of another version")
		return was.Generation + 1
	}
	routers, fences := c.pins.open("routers"), c.pins.open("fences")
	defer closeMap(routers)
	if !sameValue[rxXvrrpRouter](routers) || !sameValue[rxXvrrpFence](fences) {
		closeMap(fences)
		return was.Generation + 1
	}
	c.dead, c.orphans, c.adopted = fences, map[rxXvrrpId]orphan{}, map[RouterID]RouterID{}
	for id := range min(routers.MaxEntries(), fences.MaxEntries()) {
		var r rxXvrrpRouter
		var f rxXvrrpFence
		if fences.Lookup(id, &f) != nil || f.Seen < fenceAdverts || routers.Lookup(id, &r) != nil || r.Version == 0 {
			continue
		}
		c.orphans[r.Id] = orphan{RouterID(id), f}
	}
	return was.Generation + 1
}

// sameValue reports whether a map is there and has values of this size.
func sameValue[T any](m *ebpf.Map) bool {
	var v T
	return m != nil && m.ValueSize() == uint32(unsafe.Sizeof(v))
}

func closeMap(m *ebpf.Map) {
	if m != nil {
		_ = m.Close()
	}
}

// inherit takes over the fence of a predecessor's router.
func (c *Collection) inherit(id RouterID) {
	o, ok := c.orphans[c.routers[id].Id]
	if !ok {
		return
	}
	delete(c.orphans, c.routers[id].Id)
	c.takeFence(id, &o.fence)
	// As a master without a lease: adverts keep the fence closed.
	atomic.StoreUint32(&c.routers[id].Master, masterBefore)
	c.adopted[id] = o.was
}

func (c *Collection) takeFence(id RouterID, f *rxXvrrpFence) {
	c.fences[id] = *f
	if until := f.LastNs + f.HoldNs; until > atomic.LoadUint64(&c.lease.FenceUntilNs) {
		atomic.StoreUint64(&c.lease.FenceUntilNs, until)
	}
}

// refreshFences takes over what a predecessor's programs have counted on an
// interface since it was inherited. They do so until ours take their place, and
// to load those, or to open many interfaces, may take longer than a fence holds.
func (c *Collection) refreshFences(ifindex int) {
	for id, was := range c.adopted {
		at := &c.routers[id]
		var f rxXvrrpFence
		if int(at.Id.Ifindex) != ifindex || atomic.LoadUint32(&at.Master) != masterBefore || c.dead.Lookup(uint32(was), &f) != nil {
			continue
		}
		if f.LastNs > atomic.LoadUint64(&c.fences[id].LastNs) {
			c.takeFence(id, &f)
		}
	}
}

const (
	masterNow = uint32(rxXvrrpLimitXVRRP_LIMIT_MASTER)
	// masterBefore stands for a router that a predecessor was master of: its fence
	// also holds under the lease of this daemon.
	masterBefore = uint32(rxXvrrpLimitXVRRP_LIMIT_MASTER_BEFORE)
)

// LiftFences forgets the other masters that were taken over from a predecessor,
// once the addresses that it left are gone.
func (c *Collection) LiftFences() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id := range c.adopted {
		// Unless it is ours by now.
		if atomic.CompareAndSwapUint32(&c.routers[id].Master, masterBefore, 0) {
			atomic.StoreUint32(&c.fences[id].Seen, 0)
		}
	}
	// A router that comes later finds no address of its predecessor.
	closeMap(c.dead)
	c.adopted, c.orphans, c.dead = nil, nil, nil
}
