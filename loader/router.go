// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// PayloadMax is the largest VRRP message, in bytes, that an event carries
// whole and that can be a template.
const PayloadMax = int(rxXvrrpLimitXVRRP_LIMIT_PAYLOAD)

// RouterID is the place of a virtual router in the maps: below Options.Routers,
// and chosen by the caller.
type RouterID uint32

// Router is what the programs have to know of a virtual router. Interface,
// VLAN, family and VRID are its identity: they cannot change.
type Router struct {
	Ifindex int    // of the interface on which its adverts arrive
	VLAN    uint16 // VLAN id that they carry there, 0 for none
	VRID    uint8
	IPv6    bool

	Version  uint8 // 2 or 3
	CheckTTL bool  // adverts with a TTL or hop limit other than 255 are invalid
	// Group is where its adverts go. Others are not for it.
	Group netip.Addr
	// Broadcast is the directed broadcast address of the network that it
	// adverts in; nobody sends from it. The zero Addr: there is none.
	Broadcast netip.Addr
	Name      string // of the instance, for whoever reads the maps
	// Addrs are the addresses that it has on this interface and VLAN.
	Addrs []netip.Addr
	// Own is an advert of our own, of whatever priority. If the daemon is gone
	// and another master says the same, Addrs are fenced. Nil: no fence.
	Own []byte
}

func (r *Router) id() rxXvrrpId {
	id := rxXvrrpId{Ifindex: uint32(r.Ifindex), Vlan: r.VLAN, Family: 4, Vrid: r.VRID}
	if r.IPv6 {
		id.Family = 6
	}
	return id
}

// Local is an address that adverts are sent from. Peers probe it.
type Local struct {
	Prefix netip.Prefix // with the address itself, not that of the network
	VLAN   uint16       // VLAN id that its packets carry on the interface, 0 for none
	// Discriminator of the reflector that answers S-BFD probes; 0: they are left
	// to the host. Probes are of IPv4 only.
	Discriminator uint32
}

// SetRouter tells the programs of a virtual router, or what has changed about
// one: the router is known at every moment in between. An address or an
// identity that another id has moves to this one. It returns ErrFull without
// room for the router or its addresses; a router that was known before stays.
func (c *Collection) SetRouter(id RouterID, r Router) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(id) >= len(c.live) {
		return fmt.Errorf("router %d of %s: %w", id, r.Name, ErrFull)
	}
	key := r.id()
	at := &c.routers[id]
	if c.live[id] && at.Id != key {
		return fmt.Errorf("router %d of %s: its identity cannot change", id, r.Name)
	}
	var own rxXvrrpDigest
	if len(r.Own) > 0 {
		var err error
		if own, err = digestOf(r.Own, r.IPv6); err != nil {
			return fmt.Errorf("own advert of %s: %w", r.Name, err)
		}
	}
	if c.live[id] {
		if err := c.setVIPs(id, key, r.Addrs); err != nil {
			return err
		}
		c.fill(at, &r, &own)
		return nil
	}
	p, err := c.hold(r.Ifindex)
	if err != nil {
		return err
	}
	p.routers++
	c.live[id] = true
	// A program may have written to it after the last router of this id went.
	c.Clear(id)
	c.slots[id] = rxXvrrpSlot{}
	at.Id, at.Port = key, p.id
	c.fill(at, &r, &own)
	c.inherit(id)
	if err := c.setVIPs(id, key, r.Addrs); err != nil {
		return errors.Join(err, c.removeRouter(id))
	}
	// Last: from here on its adverts are events.
	if err := putEntry(c.maps["ids"], key, uint32(id)); err != nil {
		return errors.Join(fmt.Errorf("tell the programs of %s: %w", r.Name, err), c.removeRouter(id))
	}
	c.ids[key] = id
	return nil
}

func (c *Collection) fill(at *rxXvrrpRouter, r *Router, own *rxXvrrpDigest) {
	putName(at.Name[:], r.Name)
	putAddr(&at.Dst, r.Group)
	putAddr(&at.Broadcast, r.Broadcast)
	at.Version = r.Version
	flags := uint32(0)
	if r.CheckTTL {
		flags |= uint32(rxXvrrpRouterFlagXVRRP_ROUTER_CHECK_TTL)
	}
	if len(r.Own) == 0 {
		atomic.StoreUint32(&at.Flags, flags)
		return
	}
	if at.Own != *own {
		// Without the flag nobody reads the digest.
		atomic.StoreUint32(&at.Flags, flags)
		at.Own = *own
	}
	atomic.StoreUint32(&at.Flags, flags|uint32(rxXvrrpRouterFlagXVRRP_ROUTER_FENCE))
}

// setVIPs adds before it removes.
func (c *Collection) setVIPs(id RouterID, key rxXvrrpId, addrs []netip.Addr) error {
	want := make(map[rxXvrrpAddress]bool, len(addrs))
	for _, a := range addrs {
		k := addressKey(int(key.Ifindex), key.Vlan, a)
		want[k] = true
		if owner, ok := c.vips[k]; ok && owner == id {
			continue
		}
		if err := putEntry(c.maps["vips"], k, uint32(id)); err != nil {
			return fmt.Errorf("tell the programs of address %s: %w", a, err)
		}
		c.vips[k] = id
	}
	for k, owner := range c.vips {
		if owner != id || want[k] {
			continue
		}
		if err := deleteEntry(c.maps["vips"], k); err != nil {
			return fmt.Errorf("take an address from the programs: %w", err)
		}
		delete(c.vips, k)
	}
	return nil
}

// RemoveRouter makes the programs forget a virtual router. A program that runs
// at this moment may still write to its liveness; the id is free for another
// router all the same, because SetRouter makes a slot new before it is used.
func (c *Collection) RemoveRouter(id RouterID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(id) >= len(c.live) || !c.live[id] {
		return nil
	}
	return c.removeRouter(id)
}

func (c *Collection) removeRouter(id RouterID) error {
	at := &c.routers[id]
	var errs []error
	if owner, ok := c.ids[at.Id]; ok && owner == id {
		errs = append(errs, deleteEntry(c.maps["ids"], at.Id))
		delete(c.ids, at.Id)
	}
	errs = append(errs, c.setVIPs(id, at.Id, nil))
	if was, ok := c.adopted[id]; ok && atomic.LoadUint32(&at.Master) == masterBefore {
		c.orphans[at.Id] = orphan{was, c.fences[id]} // for when it is set again
	}
	delete(c.adopted, id)
	c.Clear(id)
	c.SetRole(id, RoleBackup)
	atomic.StoreUint32(&c.fences[id].Seen, 0)
	p := c.ports[int(at.Id.Ifindex)]
	*at = rxXvrrpRouter{}
	c.live[id] = false
	p.routers--
	errs = append(errs, c.dropUnused(p))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove router %d from the maps: %w", id, err)
	}
	return nil
}

// SetLocals tells the programs the addresses that adverts are sent from on an
// interface, in place of those that they knew.
func (c *Collection) SetLocals(ifindex int, locals []Local) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := make(map[rxXvrrpAddress]rxXvrrpLocal, len(locals))
	for _, l := range locals {
		value := rxXvrrpLocal{Mask: maskOf(l.Prefix), Discriminator: l.Discriminator}
		want[addressKey(ifindex, l.VLAN, l.Prefix.Addr())] = value
	}
	for k, value := range want {
		if have, ok := c.locals[k]; ok && have == value {
			continue
		}
		if err := putEntry(c.maps["locals"], k, value); err != nil {
			return fmt.Errorf("tell the programs of address %s: %w", netip.AddrFrom16(k.Addr).Unmap(), err)
		}
		c.locals[k] = value
	}
	for k := range c.locals {
		if _, ok := want[k]; ok || k.Ifindex != uint32(ifindex) {
			continue
		}
		if err := deleteEntry(c.maps["locals"], k); err != nil {
			return fmt.Errorf("take an address from the programs: %w", err)
		}
		delete(c.locals, k)
	}
	return nil
}

func addressKey(ifindex int, vlan uint16, a netip.Addr) rxXvrrpAddress {
	return rxXvrrpAddress{Ifindex: uint32(ifindex), Vlan: vlan, Addr: a.As16()}
}

// maskOf is all ones in the part that makes an address one of IPv4.
func maskOf(p netip.Prefix) (mask [16]byte) {
	ones := p.Bits()
	if p.Addr().Is4() {
		ones += 96
	}
	for i := range ones {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// putAddr writes an address, or 16 zero bytes for none.
func putAddr(to *[16]byte, a netip.Addr) {
	if !a.IsValid() {
		*to = [16]byte{}
		return
	}
	*to = a.As16()
}

// putEntry writes to a hash.
func putEntry(m *ebpf.Map, key, value any) error {
	err := m.Put(key, value)
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}

func deleteEntry(m *ebpf.Map, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return nil
}

const (
	mix1 = uint64(rxXvrrpLimitXVRRP_LIMIT_MIX_1)
	mix2 = uint64(rxXvrrpLimitXVRRP_LIMIT_MIX_2)
	mix3 = uint64(rxXvrrpLimitXVRRP_LIMIT_MIX_3)
)

// digestOf is what `consistent` of bpf/fence.h compares an advert with.
func digestOf(own []byte, ipv6 bool) (rxXvrrpDigest, error) {
	const header, auth = 8, 8
	d := rxXvrrpDigest{Len: uint32(len(own))}
	if len(own) < header || len(own) > PayloadMax {
		return d, fmt.Errorf("%d bytes are no advert", len(own))
	}
	width := 1
	if ipv6 {
		width = 4
	}
	v2 := own[0]>>4 == 2
	want := header + 4*width*int(own[3])
	if v2 {
		want += auth
	}
	if len(own) != want {
		return d, fmt.Errorf("%d bytes, not %d as for its %d addresses", len(own), want, own[3])
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(own[at:]) }
	d.Header = [2]uint32{word(0), word(4)}
	for at := header; at < header+4*width*int(own[3]); at += 4 * width {
		v := uint64(word(at))
		if ipv6 {
			v += uint64(word(at+4))*mix1 + uint64(word(at+8))*mix2 + uint64(word(at+12))*mix3
		}
		d.Sum += v
		d.Squares += v * v
	}
	if v2 {
		d.Auth = [2]uint32{word(len(own) - auth), word(len(own) - auth/2)}
	}
	return d, nil
}

// Install makes an advert the template of a router: from now on its repetitions
// only refresh the router's liveness, which starts afresh at its arrival. It
// reports whether that is possible (one above PayloadMax stays an event).
//
// A program that compared an advert with the former template a moment ago may
// write its arrival into the new liveness, once: the new master then seems to
// have been heard when the former one was, which is earlier.
func (c *Collection) Install(id RouterID, e *Event) bool {
	c.Clear(id)
	if len(e.Payload) > PayloadMax || len(e.Payload) == 0 {
		return false
	}
	// The count goes on from master to master; everything else is about one.
	c.slots[id] = rxXvrrpSlot{LastNs: uint64(e.RxNs), Count: c.slots[id].Count}
	t := &c.templates[id]
	putAddr(&t.Src, e.Src)
	putAddr(&t.Dst, e.Dst)
	t.Mac = e.MAC
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&t.Payload[0])), PayloadMax), e.Payload)
	// Last, and atomically: the program compares nothing while len is 0.
	atomic.StoreUint32(&t.Len, uint32(len(e.Payload)))
	return true
}

// Clear removes the template of a router; every advert is an event again.
func (c *Collection) Clear(id RouterID) { atomic.StoreUint32(&c.templates[id].Len, 0) }

// LastArrival returns when the template was last seen, or when it was
// installed, in nanoseconds of CLOCK_MONOTONIC; 0 without a template.
func (c *Collection) LastArrival(id RouterID) int64 {
	if atomic.LoadUint32(&c.templates[id].Len) == 0 {
		return 0
	}
	return int64(atomic.LoadUint64(&c.slots[id].LastNs))
}

// Liveness is what the program recorded of the current master; Count alone
// counts the repetitions of every master since the start. Times are in
// nanoseconds; Arrivals holds up to 32 CLOCK_MONOTONIC stamps, oldest first.
type Liveness struct {
	LastNs       int64
	Count        uint64
	MeanGapNs    int64
	JitterNs     int64
	LargestGapNs int64
	GapLog2      []int64
	Arrivals     []int64
}

// Arrived returns the number of adverts that repeated the template of a router.
func (c *Collection) Arrived(id RouterID) uint64 { return atomic.LoadUint64(&c.slots[id].Count) }

// Liveness copies what was recorded of a router's master. Counts of one copy
// may differ by an advert that arrived during it.
func (c *Collection) Liveness(id RouterID) Liveness {
	s := &c.slots[id]
	l := Liveness{
		LastNs:       int64(atomic.LoadUint64(&s.LastNs)),
		Count:        atomic.LoadUint64(&s.Count),
		MeanGapNs:    int64(atomic.LoadUint64(&s.MeanGapNs)),
		JitterNs:     int64(atomic.LoadUint64(&s.JitterNs)),
		LargestGapNs: int64(atomic.LoadUint64(&s.LargestGapNs)),
		GapLog2:      make([]int64, len(s.GapLog2)),
	}
	for i := range s.GapLog2 {
		l.GapLog2[i] = int64(atomic.LoadUint64(&s.GapLog2[i]))
	}
	n := uint64(len(s.Arrivals))
	for i := l.Count - min(l.Count, n); i < l.Count; i++ {
		if at := atomic.LoadUint64(&s.Arrivals[i%n]); at != 0 {
			l.Arrivals = append(l.Arrivals, int64(at))
		}
	}
	return l
}
