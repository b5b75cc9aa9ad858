// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// PayloadMax is the largest VRRP message, in bytes, that an event carries
// whole and that can be a template.
const PayloadMax = 1056

// RouterID is the number that the daemon has given to a virtual router.
type RouterID uint32

// Slot is the place of a virtual router in the maps of its interface.
type Slot uint16

// slotMax is XVRRP_SLOTS.
const slotMax = 512

// SlotOf returns the slot of a VRID in an address family.
func SlotOf(vrid uint8, ipv6 bool) Slot {
	if ipv6 {
		return Slot(vrid) | 0x100
	}
	return Slot(vrid)
}

// Router is what the program has to know of a virtual router. The daemon has
// one program on each interface that an instance names, so its routers carry
// no VLAN; the field is for a program that serves VLANs from below.
type Router struct {
	ID       RouterID // comes back in its events
	Slot     Slot
	Version  uint8  // 2 or 3
	CheckTTL bool   // adverts with a TTL or hop limit other than 255 are invalid
	VLAN     uint16 // VLAN id that adverts carry on this interface, 0 for none
	// Dst is where its adverts go: the multicast group. Others are not for it.
	Dst netip.Addr
	// Broadcast is the directed broadcast address of the network that it
	// adverts in; nobody sends from it. The zero Addr: there is none.
	Broadcast netip.Addr
	// Addrs are the IPv4 addresses that it has on this interface.
	Addrs []netip.Addr
	// Own is an advert of our own, of whatever priority. If the daemon is gone
	// and another master says the same, Addrs are fenced. Nil: no fence.
	Own []byte
}

// Event is one advert as it left the program. Its Payload is valid until the
// callback that received it returns.
type Event struct {
	Router  RouterID
	RxNs    int64 // CLOCK_MONOTONIC, stamped before anything else saw the frame
	Ifindex int
	VLAN    [2]uint16 // outer, inner
	Src     netip.Addr
	Dst     netip.Addr
	TTL     uint8
	// MAC is the source of the frame. For ReasonVIPConflict it is the sender
	// of the ARP packet, Src the address that it speaks for, and the VRID
	// stands in Payload[1] as in an advert.
	MAC [6]byte
	// Reason is ReasonEvent, or the check that the advert failed in the
	// kernel. User space judges again in either case.
	Reason Reason
	// PayloadLen is the length that the IP header claims; Payload may be
	// shorter if the frame ended before, or above PayloadMax.
	PayloadLen int
	Payload    []byte
}

// Options of Open.
type Options struct {
	Ifindex int
	Ifname  string
	// Modes are tried in this order.
	Modes []Mode
	// Routers are in place before the first frame is seen.
	Routers []Router
	// Locals are the addresses that adverts are sent from.
	Locals []Local
	MAC    net.HardwareAddr
	// PinDir is the folder for pins; none are made if it is empty.
	PinDir string
	// Egress attaches a program to tc egress on kernels without tcx, and takes
	// it away if it is nil.
	Egress func(ifindex int, prog *ebpf.Program) error
	// Holder returns the id of the program on the XDP hook, or 0. It is asked
	// to explain a busy hook.
	Holder func(ifindex int) uint32
	Log    *slog.Logger
}

// Filter is the receive program on one interface.
type Filter struct {
	ifindex  int
	ifname   string
	mode     Mode
	pins     pins
	prog     *ebpf.Program
	link     attachment
	maps     rxMaps
	ring     *ring
	routers  []rxXvrrpRouter
	slots    []rxXvrrpSlot
	ids      [slotMax]atomic.Uint32 // RouterID, by Slot
	addrs    map[Slot][]netip.Addr  // what SetRouter told the program
	locals   []Local                // what SetLocals told it
	event    Event
	mappings [][]byte

	// See guard.go.
	lease      *rxXvrrpLease
	fences     []rxXvrrpFence
	sessions   []rxXvrrpSession
	roles      map[Slot]Role
	adopted    map[int]bool
	egress     *ebpf.Program
	egressLink attachment
	egressUndo func() error // nil: there is a link
	exit       *ebpf.Program
	exitLink   interface{ Close() error }
}

// Open loads the program, tells it of the virtual routers and attaches it in
// the first mode that works. The error of the last mode is returned if none
// does; it matches ErrUnsupported or ErrBusy where that is the cause.
func Open(opts Options) (*Filter, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("raise the locked-memory limit: %w: %w", ErrUnsupported, err)
	}
	f := &Filter{ifindex: opts.Ifindex, ifname: opts.Ifname, pins: pins{dir: opts.PinDir}, roles: map[Slot]Role{}, addrs: map[Slot][]netip.Addr{}}
	var errs []error
	for _, mode := range opts.Modes {
		err := f.open(mode, opts)
		if err == nil {
			for _, e := range errs {
				opts.Log.Warn(fmt.Sprintf("%v; using %s", e, mode), "iface", opts.Ifname)
			}
			return f, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (f *Filter) open(mode Mode, opts Options) (err error) {
	defer func() {
		if err != nil {
			_ = f.release()
		}
	}()
	if err := f.load(mode); err != nil {
		return err
	}
	if err := f.mapMemory(); err != nil {
		return err
	}
	f.SetMAC(opts.MAC)
	for _, r := range opts.Routers {
		if err := f.SetRouter(r); err != nil {
			return err
		}
	}
	if err := f.SetLocals(opts.Locals); err != nil {
		return err
	}
	f.adoptFences()
	if err := f.watchExit(); err != nil {
		// The lease still runs out, a little later.
		opts.Log.Warn("the end of the process does not end its lease at once", "iface", f.ifname, "err", err)
	}
	if err := f.attach(mode, opts.Holder); err != nil {
		return err
	}
	// Last: if this mode fails, a predecessor's fence stays as it is.
	if err := f.attachEgress(opts.Egress); err != nil {
		opts.Log.Warn("the fence holds for incoming packets only", "iface", f.ifname, "err", err)
	}
	if err := f.pins.save(f, mode); err != nil {
		return err
	}
	f.mode = mode
	return nil
}

// load keeps only the receive program that the mode needs, so that a kernel
// without tcx does not have to know it, and drops the multi-buffer flag where the
// kernel is older than that (5.18).
func (f *Filter) load(mode Mode) error {
	spec, err := loadRx()
	if err != nil {
		return fmt.Errorf("read the embedded program: %w", err)
	}
	keep := mode.program()
	for _, other := range []Mode{ModeNative, ModeTCX} {
		if name := other.program(); name != keep {
			delete(spec.Programs, name)
		}
	}
	// Loaded as any tc program: it may have to do without tcx.
	spec.Programs["xvrrp_egress"].AttachType = ebpf.AttachNone
	// As many as there are, and no memory for those that there are not.
	spec.Maps["vips"].MaxEntries, spec.Maps["vips"].Flags = vipsMax, unix.BPF_F_NO_PREALLOC
	coll, err := ebpf.NewCollection(spec)
	if err != nil && spec.Programs[keep].Flags != 0 {
		spec.Programs[keep].Flags = 0
		coll, err = ebpf.NewCollection(spec)
	}
	if err != nil {
		return fmt.Errorf("load program %s: %w: %w", keep, ErrUnsupported, err)
	}
	f.prog = coll.DetachProgram(keep)
	f.egress = coll.DetachProgram("xvrrp_egress")
	f.exit = coll.DetachProgram("xvrrp_exit")
	f.maps = rxMaps{
		Budgets:  coll.DetachMap("budgets"),
		Counters: coll.DetachMap("counters"),
		Events:   coll.DetachMap("events"),
		Fences:   coll.DetachMap("fences"),
		Lease:    coll.DetachMap("lease"),
		Locals:   coll.DetachMap("locals"),
		Routers:  coll.DetachMap("routers"),
		Scratch:  coll.DetachMap("scratch"),
		Sessions: coll.DetachMap("sessions"),
		Slots:    coll.DetachMap("slots"),
		Sources:  coll.DetachMap("sources"),
		Vips:     coll.DetachMap("vips"),

		VridBudgets: coll.DetachMap("vrid_budgets"),
	}
	coll.Close()
	return nil
}

func (f *Filter) mapMemory() error {
	var err error
	if f.ring, err = openRing(f.maps.Events); err != nil {
		return err
	}
	if f.routers, err = mapArray[rxXvrrpRouter](f, f.maps.Routers); err != nil {
		return fmt.Errorf("map routers: %w", err)
	}
	if f.slots, err = mapArray[rxXvrrpSlot](f, f.maps.Slots); err != nil {
		return fmt.Errorf("map slots: %w", err)
	}
	if f.fences, err = mapArray[rxXvrrpFence](f, f.maps.Fences); err != nil {
		return fmt.Errorf("map fences: %w", err)
	}
	if f.sessions, err = mapArray[rxXvrrpSession](f, f.maps.Sessions); err != nil {
		return fmt.Errorf("map sessions: %w", err)
	}
	leases, err := mapArray[rxXvrrpLease](f, f.maps.Lease)
	if err != nil {
		return fmt.Errorf("map lease: %w", err)
	}
	f.lease = &leases[0]
	return nil
}

// mapArray views a BPF_F_MMAPABLE array as a slice. Its elements are laid out
// at multiples of eight bytes, as the sizes of all value types are.
func mapArray[T any](f *Filter, m *ebpf.Map) ([]T, error) {
	n := int(m.MaxEntries())
	var elem T
	page := unix.Getpagesize()
	length := (n*int(unsafe.Sizeof(elem)) + page - 1) &^ (page - 1)
	mem, err := unix.Mmap(m.FD(), 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	f.mappings = append(f.mappings, mem)
	return unsafe.Slice((*T)(unsafe.Pointer(&mem[0])), n), nil
}

// vipsMax is the number of virtual addresses on one interface.
const vipsMax = 1 << 16

// SetRouter tells the program of a virtual router, or of what changed about
// it, while frames arrive.
func (f *Filter) SetRouter(r Router) error {
	at := &f.routers[r.Slot]
	f.ids[r.Slot].Store(uint32(r.ID))
	at.Vlan = r.VLAN
	putAddr(&at.Dst, r.Dst)
	putAddr(&at.Broadcast, r.Broadcast)
	flags := uint8(0)
	if r.CheckTTL {
		flags |= uint8(rxXvrrpRouterFlagXVRRP_ROUTER_CHECK_TTL)
	}
	if len(r.Own) > 0 && len(r.Own) <= PayloadMax {
		flags |= uint8(rxXvrrpRouterFlagXVRRP_ROUTER_FENCE)
		at.OwnLen = uint32(len(r.Own))
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&at.Own[0])), PayloadMax), r.Own)
	}
	at.Flags = flags
	for _, a := range r.Addrs {
		if err := f.maps.Vips.Put(wire4(a), uint32(r.Slot)); err != nil {
			return fmt.Errorf("tell the program of address %s: %w", a, err)
		}
	}
	for _, a := range f.addrs[r.Slot] {
		if !slices.Contains(r.Addrs, a) {
			f.forgetAddr(r.Slot, a)
		}
	}
	f.addrs[r.Slot] = slices.Clone(r.Addrs)
	at.Version = r.Version
	return nil
}

// forgetAddr removes an address, unless it has moved to another router.
func (f *Filter) forgetAddr(slot Slot, a netip.Addr) {
	var of uint32
	if f.maps.Vips.Lookup(wire4(a), &of) == nil && of == uint32(slot) {
		_ = f.maps.Vips.Delete(wire4(a)) // gone already is what is wanted
	}
}

// RemoveRouter makes the program forget a virtual router. The slot can be used
// again.
func (f *Filter) RemoveRouter(slot Slot) {
	f.routers[slot].Version = 0
	f.Clear(slot)
	for _, a := range f.addrs[slot] {
		f.forgetAddr(slot, a)
	}
	delete(f.addrs, slot)
	atomic.StoreUint32(&f.fences[slot].Seen, 0)
}

// SetLocals replaces the addresses that adverts are sent from.
func (f *Filter) SetLocals(locals []Local) error {
	for _, l := range locals {
		mask := net.CIDRMask(l.Prefix.Bits(), 32)
		value := rxXvrrpLocal{Mask: binary.NativeEndian.Uint32(mask)}
		if l.Reflect {
			value.Reflect = 1
		}
		if err := f.maps.Locals.Put(wire4(l.Prefix.Addr()), value); err != nil {
			return fmt.Errorf("tell the program of address %s: %w", l.Prefix, err)
		}
	}
	for _, was := range f.locals {
		same := func(l Local) bool { return l.Prefix.Addr() == was.Prefix.Addr() }
		if !slices.ContainsFunc(locals, same) {
			_ = f.maps.Locals.Delete(wire4(was.Prefix.Addr())) // gone already is what is wanted
		}
	}
	f.locals = slices.Clone(locals)
	return nil
}

// Mode returns how the program is attached.
func (f *Filter) Mode() Mode { return f.mode }

// FD is readable, in the sense of epoll, while events wait.
func (f *Filter) FD() int { return f.ring.fd }

// Drain calls fn with every event that waits and returns their number.
func (f *Filter) Drain(fn func(*Event)) int {
	return f.ring.drain(func(b []byte) {
		if parseEvent(b, &f.event) {
			f.event.Router = f.routerOf(&f.event)
			fn(&f.event)
		}
	})
}

// routerOf returns the router of an event. The program sends none without a
// VRID.
func (f *Filter) routerOf(e *Event) RouterID {
	if len(e.Payload) < 2 {
		return ^RouterID(0)
	}
	return RouterID(f.ids[SlotOf(e.Payload[1], e.Src.Is6())].Load())
}

const eventHeader = int(unsafe.Offsetof(rxXvrrpEvent{}.Payload))

func parseEvent(b []byte, e *Event) bool {
	if len(b) < eventHeader {
		return false
	}
	raw := (*rxXvrrpEvent)(unsafe.Pointer(&b[0]))
	e.RxNs = int64(raw.RxNs)
	e.Ifindex = int(raw.Ifindex)
	e.VLAN = [2]uint16{raw.VlanOuter, raw.VlanInner}
	e.TTL = raw.Ttl
	e.MAC = raw.Mac
	e.Reason = Reason(raw.Reason)
	e.PayloadLen = int(raw.PayloadLen)
	if raw.Family == 4 {
		e.Src = netip.AddrFrom4([4]byte(raw.Src[:4]))
		e.Dst = netip.AddrFrom4([4]byte(raw.Dst[:4]))
	} else {
		e.Src = netip.AddrFrom16(raw.Src)
		e.Dst = netip.AddrFrom16(raw.Dst)
	}
	e.Payload = b[eventHeader:]
	if len(e.Payload) > e.PayloadLen {
		e.Payload = e.Payload[:e.PayloadLen]
	}
	return true
}

// Install makes an advert the template of a slot: from now on its repetitions
// only refresh the slot's liveness, which starts afresh at its arrival. It
// reports whether that is possible (one above PayloadMax stays an event).
func (f *Filter) Install(slot Slot, e *Event) bool {
	f.Clear(slot)
	if len(e.Payload) > PayloadMax || len(e.Payload) == 0 {
		return false
	}
	// The count goes on from master to master; everything else is about one.
	f.slots[slot] = rxXvrrpSlot{LastNs: uint64(e.RxNs), Count: f.slots[slot].Count}
	t := &f.routers[slot].Template
	putAddr(&t.Src, e.Src)
	putAddr(&t.Dst, e.Dst)
	t.Mac = e.MAC
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&t.Payload[0])), PayloadMax), e.Payload)
	// Last, and atomically: the program compares nothing while len is 0.
	atomic.StoreUint32(&t.Len, uint32(len(e.Payload)))
	return true
}

func putAddr(to *[16]byte, a netip.Addr) {
	*to = [16]byte{}
	if a.Is4() {
		b := a.As4()
		copy(to[:], b[:])
		return
	}
	*to = a.As16()
}

// Clear removes the template of a slot; every advert is an event again.
func (f *Filter) Clear(slot Slot) { atomic.StoreUint32(&f.routers[slot].Template.Len, 0) }

// LastArrival returns when the template was last seen, or when it was
// installed; 0 without a template.
func (f *Filter) LastArrival(slot Slot) int64 {
	if atomic.LoadUint32(&f.routers[slot].Template.Len) == 0 {
		return 0
	}
	return int64(atomic.LoadUint64(&f.slots[slot].LastNs))
}

// Liveness is what the program recorded of the current master; Count alone
// counts the repetitions of every master since the start. Times are in
// nanoseconds; Arrivals holds up to 32 CLOCK_MONOTONIC stamps, oldest first.
type Liveness struct {
	LastNs       int64   `json:"last_ns"`
	Count        uint64  `json:"count"`
	MeanGapNs    int64   `json:"mean_gap_ns"`
	JitterNs     int64   `json:"jitter_ns"`
	LargestGapNs int64   `json:"largest_gap_ns"`
	GapLog2      []int64 `json:"gap_log2"`
	Arrivals     []int64 `json:"arrivals"`
}

// Liveness copies a slot. Counts of one copy may differ by an advert that
// arrived during it.
func (f *Filter) Liveness(slot Slot) Liveness {
	s := &f.slots[slot]
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

// Counters returns, by reason, the frames of all CPUs.
func (f *Filter) Counters() (Counters, error) {
	var perCPU []rxXvrrpCounters
	if err := f.maps.Counters.Lookup(uint32(0), &perCPU); err != nil {
		return Counters{}, fmt.Errorf("read counters of %s: %w", f.ifname, err)
	}
	var sum Counters
	for i := range perCPU {
		counts := (*Counters)(unsafe.Pointer(&perCPU[i]))
		for r := range sum {
			sum[r].Pass += counts[r].Pass
			sum[r].Drop += counts[r].Drop
		}
	}
	return sum, nil
}

// Close detaches the program and removes the pins: the clean stop.
func (f *Filter) Close() error {
	err := errors.Join(f.pins.remove(), f.release())
	if f.egressUndo != nil {
		err = errors.Join(err, f.egressUndo())
	}
	return err
}

// release frees what this process holds and leaves pins alone.
func (f *Filter) release() error {
	var errs []error
	if f.ring != nil {
		errs = append(errs, f.ring.close())
		f.ring = nil
	}
	for _, m := range f.mappings {
		errs = append(errs, unix.Munmap(m))
	}
	f.mappings, f.routers, f.slots = nil, nil, nil
	f.lease, f.fences, f.sessions = nil, nil, nil
	for _, l := range []*attachment{&f.link, &f.egressLink} {
		if *l != nil {
			errs = append(errs, (*l).Close())
			*l = nil
		}
	}
	if f.exitLink != nil {
		errs = append(errs, f.exitLink.Close())
		f.exitLink = nil
	}
	for _, p := range []**ebpf.Program{&f.prog, &f.egress, &f.exit} {
		if *p != nil {
			errs = append(errs, (*p).Close())
			*p = nil
		}
	}
	errs = append(errs, f.maps.Close())
	f.maps = rxMaps{}
	return errors.Join(errs...)
}
