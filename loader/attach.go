// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Mode is the way in which the program meets frames.
type Mode string

const (
	// ModeNative runs in the driver, before the kernel makes an skb.
	ModeNative Mode = "native"
	// ModeGeneric runs XDP on the skb: any driver, later and slower.
	ModeGeneric Mode = "generic"
	// ModeTCX runs at tc ingress, before other programs; Linux 6.6.
	ModeTCX Mode = "tcx"
)

// Port is an interface to attach to.
type Port struct {
	Ifindex int
	Ifname  string
	MAC     [6]byte
	// Modes are tried in this order.
	Modes []Mode
	// Holder returns the id of the program on the XDP hook, or 0. It is asked
	// to explain a busy hook, and whether a pinned link is that of this
	// interface; nil is allowed.
	Holder func(ifindex int) uint32
	// Egress attaches a program to tc egress on kernels without tcx, and takes
	// it away if it is nil. Without Egress there is no fence for packets on
	// their way out on such kernels.
	Egress func(ifindex int, prog *ebpf.Program) error
	// EgressThere reports whether that program is still attached.
	EgressThere func(ifindex int) (bool, error)
}

// port is what is known of an interface on which a router is, or a program.
type port struct {
	id       uint32
	ifindex  int
	routers  int // with adverts on it
	attached bool
	known    bool // its name and hardware address are, see introduce

	mode        Mode
	link        attachment
	linkID      link.ID // that of tcx
	egress      attachment
	egressID    link.ID
	egressUndo  func() error // nil: there is a link, or no fence
	egressThere func(ifindex int) (bool, error)
	modes       []Mode // that were asked for
	pending     bool   // the fence is still to be attached, see AttachEgress
	fallback    func(ifindex int, prog *ebpf.Program) error
	head        struct{ prog, link uint32 } // see first
}

// attachment is the part of a BPF link that a port needs.
type attachment interface {
	Update(*ebpf.Program) error
	Info() (*link.Info, error)
	object
	Close() error
}

// hold returns the port of an interface, which gets an id with its first use.
func (c *Collection) hold(ifindex int) (*port, error) {
	if p, ok := c.ports[ifindex]; ok {
		return p, nil
	}
	if len(c.freePorts) == 0 {
		return nil, fmt.Errorf("interface %d: %w", ifindex, ErrFull)
	}
	p := &port{id: c.freePorts[len(c.freePorts)-1], ifindex: ifindex}
	if c.usedPorts[p.id] {
		if err := c.clearCounters(p.id); err != nil {
			return nil, err
		}
	}
	if err := putEntry(c.maps["ports"], uint32(ifindex), rxXvrrpPort{Id: p.id}); err != nil {
		return nil, fmt.Errorf("tell the programs of interface %d: %w", ifindex, err)
	}
	c.freePorts = c.freePorts[:len(c.freePorts)-1]
	c.usedPorts[p.id] = true
	c.ports[ifindex] = p
	return p, nil
}

// dropUnused forgets a port that nobody uses.
func (c *Collection) dropUnused(p *port) error {
	if p.attached || p.routers > 0 {
		return nil
	}
	delete(c.ports, p.ifindex)
	c.freePorts = append(c.freePorts, p.id)
	return deleteEntry(c.maps["ports"], uint32(p.ifindex))
}

// Attach puts the program on an interface in the first mode that works. A link
// that a predecessor pinned is taken over before another mode is tried. So is
// its fence on the way out; a new one is left to AttachEgress. If no mode works,
// the errors of all are returned; they match ErrUnsupported or ErrBusy where
// that is the cause. On an interface that has the program already it is attached
// anew, with a moment in between, unless only the fence was displaced.
func (c *Collection) Attach(want Port) (Mode, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, err := c.hold(want.Ifindex)
	if err != nil {
		return "", err
	}
	if p.attached {
		// A mode before its own may work by now.
		best := slices.Equal(p.modes, want.Modes) && p.mode == want.Modes[0]
		if in, err := p.receives(); err == nil && in && best {
			// Only the fence on the way out was displaced.
			p.pending = true
			return p.mode, errors.Join(c.unlinkEgress(p), c.pins.save(c, p))
		}
		if err := c.unlink(p); err != nil {
			return "", err
		}
	}
	if err := c.introduce(p, &want); err != nil {
		return "", errors.Join(fmt.Errorf("tell the programs of %s: %w", want.Ifname, err), c.dropUnused(p))
	}
	if err := c.pins.takeFormer(want.Ifindex); err != nil {
		c.log.Warn("could not take over the links that the previous version pinned", "iface", want.Ifname, "err", err)
	}
	mode, errs := c.takeOver(p, &want), []error(nil)
	for n := 0; mode == "" && n < len(want.Modes); n++ {
		if err := c.attach(p, &want, want.Modes[n]); err != nil {
			errs = append(errs, fmt.Errorf("attach to %s (%s): %w", want.Ifname, want.Modes[n], err))
			continue
		}
		mode = want.Modes[n]
	}
	if mode == "" {
		return "", errors.Join(errors.Join(errs...), c.dropUnused(p))
	}
	for _, e := range errs {
		c.log.Warn(fmt.Sprintf("%v; using %s", e, mode), "iface", want.Ifname)
	}
	p.attached, p.mode, p.modes, p.linkID = true, mode, want.Modes, idOf(p.link)
	// Last: if no mode works, a predecessor's fence stays as it is.
	p.pending, p.fallback, p.egressThere = !c.takeOverEgress(p), want.Egress, want.EgressThere
	if err := c.pins.save(c, p); err != nil {
		return "", errors.Join(err, c.detach(p))
	}
	return mode, nil
}

// introduce tells the programs the name and the hardware address of a port that
// is opened. When it is attached again, SetMAC may have told another by now.
func (c *Collection) introduce(p *port, want *Port) error {
	if p.known {
		return nil
	}
	value := rxXvrrpPort{Id: p.id, Mac: want.MAC}
	putName(value.Name[:], want.Ifname)
	if err := c.maps["ports"].Put(uint32(p.ifindex), value); err != nil {
		return err
	}
	p.known = true
	return nil
}

// takeOver continues the link that a predecessor pinned, also if a mode before
// its own might work by now: there is no moment without a program. It returns
// the mode, which is empty if there is no such link.
func (c *Collection) takeOver(p *port, want *Port) Mode {
	for _, mode := range want.Modes {
		old := c.pins.adopt(linkPin(mode, p.ifindex), p.ifindex)
		if old == nil {
			continue
		}
		if prog, err := c.program(mode); err == nil && takeable(p, old, want, mode) {
			c.refreshFences(p.ifindex)
			if old.Update(prog) == nil {
				p.link = old
				return mode
			}
		}
		_ = old.Close()
	}
	return ""
}

// attach makes a new link.
func (c *Collection) attach(p *port, want *Port, mode Mode) error {
	prog, err := c.program(mode)
	if err != nil {
		return err
	}
	// Whatever a predecessor left would be in the way of a new link, but not on
	// a tcx hook: there is no moment without a program.
	if mode != ModeTCX {
		if err := c.pins.dropLinks(p.ifindex); err != nil {
			return err
		}
	}
	c.refreshFences(p.ifindex)
	l, err := newLink(mode, prog, p.ifindex)
	if err != nil {
		return explain(want, mode, err)
	}
	if err := c.pins.dropLinks(p.ifindex); err != nil {
		return errors.Join(err, l.Close())
	}
	p.link = l
	return nil
}

// takeable reports whether a pinned link is worth taking over: one that another
// program comes before is not, nor that of an interface that has moved to
// another network namespace and has the same index there.
func takeable(p *port, l attachment, want *Port, mode Mode) bool {
	if mode == ModeTCX {
		return p.first(idOf(l), ebpf.AttachTCXIngress)
	}
	if want.Holder == nil {
		return true
	}
	info, err := l.Info()
	return err == nil && uint32(info.Program) == want.Holder(want.Ifindex)
}

// AttachEgress puts the fence on the way out of an interface that has a program,
// unless it is there. The kernel waits for all processors each time, 10 ms and
// more on some hosts, which is too long for a start with many interfaces: the
// virtual routers run before.
func (c *Collection) AttachEgress(ifindex int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.ports[ifindex]
	if !ok || !p.pending {
		return nil
	}
	if err := c.attachEgress(p); err != nil {
		return err
	}
	p.pending = false
	p.egressID = idOf(p.egress)
	return c.pins.save(c, p)
}

// takeOverEgress continues the fence that a predecessor pinned.
func (c *Collection) takeOverEgress(p *port) bool {
	old := c.pins.adopt(egressPin(p.ifindex), p.ifindex)
	if old == nil {
		return false
	}
	if id := idOf(old); p.first(id, ebpf.AttachTCXEgress) && old.Update(c.egress) == nil {
		p.egress, p.egressID = old, id
		return true
	}
	_ = old.Close() // it stays pinned until another has its place
	return false
}

// attachEgress makes a tcx link that outlives the daemon, or what the kernel has
// instead.
func (c *Collection) attachEgress(p *port) error {
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: p.ifindex, Program: c.egress, Attach: ebpf.AttachTCXEgress, Anchor: link.Head(),
	})
	// Only now: there is no moment without a fence.
	if err := c.pins.takeOff(egressPin(p.ifindex)); err != nil {
		return errors.Join(err, closeNew(l))
	}
	if errors.Is(err, ebpf.ErrNotSupported) && p.fallback != nil {
		fallback := p.fallback
		if err := fallback(p.ifindex, c.egress); err != nil {
			return fmt.Errorf("attach the fence: %w", err)
		}
		p.egressUndo = func() error { return fallback(p.ifindex, nil) }
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach the fence: %w", err)
	}
	p.egress = l
	return nil
}

// closeNew closes a link that may be a nil interface.
func closeNew(l link.Link) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

func closeLink(l attachment) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

// Attached reports whether the programs are still in the path of the frames of
// an interface: none has been detached by force, and no other tcx program has
// been put before them.
func (c *Collection) Attached(ifindex int) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.ports[ifindex]
	if !ok || !p.attached {
		return false, nil
	}
	if p.egress != nil && !p.first(p.egressID, ebpf.AttachTCXEgress) {
		return false, nil
	}
	if p.egressUndo != nil && p.egressThere != nil {
		there, err := p.egressThere(ifindex)
		if err != nil {
			return false, fmt.Errorf("ask for the fence on interface %d: %w", ifindex, err)
		}
		if !there {
			return false, nil
		}
	}
	return p.receives()
}

// receives reports whether the program is in the path of what comes in.
func (p *port) receives() (bool, error) {
	if p.mode == ModeTCX {
		return p.first(p.linkID, ebpf.AttachTCXIngress), nil
	}
	info, err := p.link.Info()
	if err != nil {
		return false, fmt.Errorf("ask for the link on interface %d: %w", p.ifindex, err)
	}
	return linkIfindex(info) == p.ifindex, nil
}

// Detach takes the programs off an interface, which may be gone already.
func (c *Collection) Detach(ifindex int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.ports[ifindex]
	if !ok || !p.attached {
		return nil
	}
	if err := c.detach(p); err != nil {
		return fmt.Errorf("detach from interface %d: %w", ifindex, err)
	}
	return nil
}

func (c *Collection) detach(p *port) error {
	err := c.unlink(p)
	p.known = false
	return errors.Join(err, c.dropUnused(p))
}

// unlink ends the links of a port. With the last of its references the kernel
// detaches one.
func (c *Collection) unlink(p *port) error {
	err := errors.Join(c.pins.dropLinks(p.ifindex), closeLink(p.link), c.unlinkEgress(p))
	p.link, p.linkID, p.attached, p.pending = nil, 0, false, false
	return err
}

func (c *Collection) unlinkEgress(p *port) error {
	errs := []error{c.pins.takeOff(egressPin(p.ifindex)), closeLink(p.egress)}
	if p.egressUndo != nil {
		err := p.egressUndo()
		if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			err = nil // it went with the interface
		}
		errs = append(errs, err)
	}
	p.egress, p.egressUndo, p.egressID = nil, nil, 0
	return errors.Join(errs...)
}

// DropUnused takes off what a predecessor attached to interfaces that this
// Collection is not attached to, but for those to keep. Its maps speak for nobody
// any more.
func (c *Collection) DropUnused(keep map[int]bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	used := map[string]bool{}
	for _, p := range c.ports {
		if p.link != nil {
			used[linkPin(p.mode, p.ifindex)] = true
		}
		if p.egress != nil || p.pending {
			used[egressPin(p.ifindex)] = true
		}
	}
	for ifindex := range keep {
		for _, mode := range []Mode{ModeNative, ModeGeneric, ModeTCX} {
			used[linkPin(mode, ifindex)] = true
		}
		used[egressPin(ifindex)] = true
	}
	var errs []error
	for name := range c.pins.names {
		if !used[name] && (strings.HasPrefix(name, linkPrefix) || strings.HasPrefix(name, egressPrefix)) {
			errs = append(errs, c.pins.takeOff(name))
		}
	}
	return errors.Join(errs...)
}

// SetMAC tells the programs the hardware address of an interface, which may
// change. It has no effect on an interface without the program.
func (c *Collection) SetMAC(ifindex int, mac [6]byte) {
	var value rxXvrrpPort
	if err := c.maps["ports"].Lookup(uint32(ifindex), &value); err != nil || value.Mac == mac {
		return
	}
	value.Mac = mac
	// The entry is there, so this replaces it and needs no room.
	if err := c.maps["ports"].Update(uint32(ifindex), value, ebpf.UpdateExist); err != nil {
		c.log.Warn("could not tell the BPF programs the new hardware address", "ifindex", ifindex, "err", err)
	}
}

// Counters returns, by reason, the frames of an interface on all CPUs. Traffic
// that is not for us is counted for all interfaces together: ask for interface
// 0.
func (c *Collection) Counters(ifindex int) (Counters, error) {
	var sum Counters
	id := uint32(0)
	if ifindex != 0 {
		c.mu.Lock()
		p, ok := c.ports[ifindex]
		c.mu.Unlock()
		if !ok {
			return sum, nil
		}
		id = p.id
	}
	var perCPU []rxXvrrpCounters
	if err := c.maps["counters"].Lookup(id, &perCPU); err != nil {
		return sum, fmt.Errorf("read counters of interface %d: %w", ifindex, err)
	}
	for i := range perCPU {
		counts := (*Counters)(unsafe.Pointer(&perCPU[i]))
		for r := range sum {
			sum[r].Pass += counts[r].Pass
			sum[r].Drop += counts[r].Drop
		}
	}
	return sum, nil
}

func (c *Collection) clearCounters(id uint32) error {
	n, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	if err := c.maps["counters"].Put(id, make([]rxXvrrpCounters, n)); err != nil {
		return fmt.Errorf("clear counters: %w", err)
	}
	return nil
}

// idOf returns the id of a link, or 0, which no link has.
func idOf(l attachment) link.ID {
	if l == nil {
		return 0
	}
	info, err := l.Info()
	if err != nil {
		return 0
	}
	return info.ID
}

// queryAttr is union bpf_attr of BPF_PROG_QUERY.
type queryAttr struct {
	ifindex, hook, flags, attachFlags       uint32
	ids                                     uint64
	count, _                                uint32
	progFlags, linkIDs, linkFlags, revision uint64
}

// first reports whether a tcx link comes before every other program on its
// hook. Most network agents' programs end the chain with TC_ACT_OK: behind one
// of them ours would never run. It is asked often, on many interfaces: the
// library's question lists the programs, and allocates.
func (p *port) first(id link.ID, hook ebpf.AttachType) bool {
	p.head.prog, p.head.link = 0, 0
	attr := queryAttr{
		ifindex: uint32(p.ifindex), hook: uint32(hook), count: 1,
		// The kernel writes to p, which does not move.
		ids: uint64(uintptr(unsafe.Pointer(&p.head.prog))), linkIDs: uint64(uintptr(unsafe.Pointer(&p.head.link))),
	}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(p)
	// There is no room for more than the first one.
	return (errno == 0 || errno == unix.ENOSPC) && id != 0 && p.head.link == uint32(id)
}

func newLink(mode Mode, prog *ebpf.Program, ifindex int) (attachment, error) {
	switch mode {
	case ModeTCX:
		return link.AttachTCX(link.TCXOptions{
			Interface: ifindex, Program: prog, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
		})
	case ModeGeneric:
		return link.AttachXDP(link.XDPOptions{
			Interface: ifindex, Program: prog, Flags: link.XDPGenericMode,
		})
	default:
		return link.AttachXDP(link.XDPOptions{
			Interface: ifindex, Program: prog, Flags: link.XDPDriverMode,
		})
	}
}

// explain names the program that holds a busy hook.
func explain(p *Port, mode Mode, err error) error {
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return err
	}
	if mode == ModeTCX || p.Holder == nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	id := p.Holder(p.Ifindex)
	name := "unknown"
	if prog, perr := ebpf.NewProgramFromID(ebpf.ProgramID(id)); perr == nil {
		if info, ierr := prog.Info(); ierr == nil {
			name = info.Name
		}
		_ = prog.Close()
	}
	return fmt.Errorf("XDP is held by program %s (id %d) on %s: %w: %w", name, id, p.Ifname, ErrBusy, err)
}
