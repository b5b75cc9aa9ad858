// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Local is an address that adverts are sent from. Peers probe it.
type Local struct {
	Prefix netip.Prefix // with the address itself, not that of the network
	// Reflect answers S-BFD probes; without it they are left to the host.
	Reflect bool
}

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

// SessionMax is the number of S-BFD sessions of one interface.
const SessionMax = 64

// Answer is what the program recorded of a session.
type Answer struct {
	LastNs  int64 // arrival of the last answer, CLOCK_MONOTONIC; 0: none
	Replies uint64
	State   uint8 // of the last answer, RFC 5880 section 4.1
	Diag    uint8
}

// Fence is what the program knows of another master of a virtual router that
// this host is master of, too.
type Fence struct {
	// Active says that this host does not speak for the addresses now.
	Active bool
	Source netip.Addr
	MAC    net.HardwareAddr
	Seen   uint32 // consistent adverts in a row
	// FirstNs and LastNs are the times of the first and the last of them.
	FirstNs, LastNs int64
}

// Lease is the state of the daemon's lease as the program sees it.
type Lease struct {
	UntilNs int64
	Masters uint32 // virtual routers that the reflector speaks for
	Tgid    uint32 // process whose exit ends the lease; 0: the hook is missing
}

// SetRole tells the program what a virtual router does here.
func (f *Filter) SetRole(slot Slot, role Role) {
	if f.roles[slot] == role {
		return
	}
	f.roles[slot] = role
	masters := uint32(0)
	for _, r := range f.roles {
		if r == RoleMaster {
			masters++
		}
	}
	master := (*uint32)(unsafe.Pointer(&f.routers[slot].Master)) // with its padding
	if role == RoleBackup {
		atomic.StoreUint32(master, 0)
	} else {
		atomic.StoreUint32(master, 1)
	}
	atomic.StoreUint32(&f.lease.Masters, masters)
}

// Renew makes the lease hold until a time of CLOCK_MONOTONIC.
func (f *Filter) Renew(until int64) { atomic.StoreUint64(&f.lease.UntilNs, uint64(until)) }

// Lease returns the state of the lease.
func (f *Filter) Lease() Lease {
	return Lease{
		UntilNs: int64(atomic.LoadUint64(&f.lease.UntilNs)),
		Masters: atomic.LoadUint32(&f.lease.Masters),
		Tgid:    atomic.LoadUint32(&f.lease.Tgid),
	}
}

// SetMAC tells the program the hardware address of the interface. It may change.
func (f *Filter) SetMAC(mac net.HardwareAddr) {
	if len(mac) == len(f.lease.Mac) {
		copy(f.lease.Mac[:], mac)
	}
}

// OpenSession makes the program record the answers of a reflector, or the
// echoes that peer forwards. index is the low bits of local, which must not be
// 0; remote is the discriminator of the reflector.
func (f *Filter) OpenSession(local, remote uint32, peer netip.Addr, echo bool) {
	s := &f.sessions[local%SessionMax]
	atomic.StoreUint32(&s.Local, 0)
	s.Remote, s.Peer, s.Echo = remote, wire4(peer), 0
	if echo {
		s.Echo = 1
	}
	s.State, s.Diag, s.Replies, s.LastNs = 0, 0, 0, 0
	atomic.StoreUint32(&s.Local, local)
}

// CloseSession ends it.
func (f *Filter) CloseSession(local uint32) {
	atomic.StoreUint32(&f.sessions[local%SessionMax].Local, 0)
}

// Answer returns what was recorded of a session. State belongs to the answer
// of LastNs or to a later one.
func (f *Filter) Answer(local uint32) Answer {
	s := &f.sessions[local%SessionMax]
	a := Answer{LastNs: int64(atomic.LoadUint64(&s.LastNs))}
	a.State, a.Diag = uint8(atomic.LoadUint32(&s.State)), uint8(atomic.LoadUint32(&s.Diag))
	a.Replies = atomic.LoadUint64(&s.Replies)
	return a
}

// wire4 returns an IPv4 address as it stands in a map: its bytes in order.
func wire4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

// Fence returns what is known of another master of a slot's router; now is on
// CLOCK_MONOTONIC. The rule for Active is that of fenced() in bpf/fence.h.
func (f *Filter) Fence(slot Slot, now int64) Fence {
	s, r := &f.fences[slot], &f.routers[slot]
	out := Fence{
		Seen: atomic.LoadUint32(&s.Seen), FirstNs: int64(atomic.LoadUint64(&s.FirstNs)),
		LastNs: int64(atomic.LoadUint64(&s.LastNs)),
	}
	if out.Seen == 0 {
		return out
	}
	out.Source = netip.AddrFrom4([4]byte(s.Src[:4]))
	out.MAC = append(net.HardwareAddr(nil), s.Mac[:]...)
	held := f.lease.EndedNs == 0 && int64(atomic.LoadUint64(&f.lease.UntilNs)) > now
	out.Active = uint32(r.Flags)&uint32(rxXvrrpRouterFlagXVRRP_ROUTER_FENCE) != 0 &&
		out.Seen >= fenceAdverts && now-out.LastNs <= int64(s.HoldNs) && (r.Master == 0 || !held)
	return out
}

// fenceAdverts is XVRRP_FENCE_ADVERTS.
const fenceAdverts = 3

// LiftFences forgets other masters, e.g. once the addresses that a
// predecessor left are gone.
func (f *Filter) LiftFences() {
	for slot := range f.fences {
		if f.adopted[slot] {
			f.SetRole(Slot(slot), RoleBackup)
		}
		atomic.StoreUint32(&f.fences[slot].Seen, 0)
	}
	f.adopted = map[int]bool{}
}

// adoptFences takes over the fences of a predecessor that died, so that its
// addresses stay silent until they are removed.
func (f *Filter) adoptFences() {
	f.adopted = map[int]bool{}
	if f.pins.dir == "" {
		return
	}
	old, err := ebpf.LoadPinnedMap(filepath.Join(f.pins.dir, "fences"), nil)
	if err != nil {
		return // there was none, or of another layout
	}
	defer old.Close()
	if old.ValueSize() != f.maps.Fences.ValueSize() {
		return
	}
	for slot := range f.fences {
		var was rxXvrrpFence
		if f.routers[slot].Version == 0 || old.Lookup(uint32(slot), &was) != nil || was.Seen < fenceAdverts {
			continue
		}
		f.fences[slot] = was
		f.lease.FenceUntilNs = max(f.lease.FenceUntilNs, was.LastNs+was.HoldNs)
		// As a master without a lease: adverts keep the fence closed.
		f.SetRole(Slot(slot), RoleLeaving)
		f.adopted[slot] = true
	}
}

// watchExit makes the end of this process end the lease. The program learns
// the process's number by being run from inside it.
func (f *Filter) watchExit() error {
	if _, err := f.exit.Run(&ebpf.RunOptions{}); err != nil {
		return fmt.Errorf("run %s: %w", "xvrrp_exit", err)
	}
	l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sched_process_exit", Program: f.exit})
	if err != nil {
		return fmt.Errorf("attach to the exit of processes: %w", err)
	}
	f.exitLink = l
	return nil
}

// attachEgress puts the fence into the other direction: a tcx link that
// outlives the daemon, or what the kernel has instead.
func (f *Filter) attachEgress(fallback func(ifindex int, prog *ebpf.Program) error) error {
	old := f.pins.adoptEgress(f.ifindex)
	if old != nil && first(old, f.ifindex, ebpf.AttachTCXEgress) {
		if err := old.Update(f.egress); err == nil {
			f.egressLink = old
			return nil
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: f.ifindex, Program: f.egress, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
	})
	// Only now: there is no moment without a fence.
	if err := errors.Join(f.pins.dropEgress(), closeLink(old)); err != nil {
		return err
	}
	if errors.Is(err, ebpf.ErrNotSupported) && fallback != nil {
		if err := fallback(f.ifindex, f.egress); err != nil {
			return fmt.Errorf("attach the fence to %s: %w", f.ifname, err)
		}
		f.egressUndo = func() error { return fallback(f.ifindex, nil) }
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach the fence to %s: %w", f.ifname, err)
	}
	f.egressLink = l
	return nil
}
