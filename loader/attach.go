// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

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

func (m Mode) program() string {
	if m == ModeTCX {
		return "xvrrp_tcx"
	}
	return "xvrrp_xdp"
}

// attachment is the part of a BPF link that a Filter needs.
type attachment interface {
	Update(*ebpf.Program) error
	Info() (*link.Info, error)
	Pin(string) error
	Close() error
}

// attach takes the link over that a predecessor pinned, or makes a new one.
func (f *Filter) attach(mode Mode, holder func(int) uint32) error {
	old := f.pins.adopt(mode, f.ifindex)
	if old != nil && (mode != ModeTCX || first(old, f.ifindex, ebpf.AttachTCXIngress)) {
		if err := old.Update(f.prog); err == nil {
			f.link = old
			return nil
		}
	}
	if mode == ModeTCX {
		// Before the old one goes: there is no moment without a program.
		l, err := newLink(mode, f.prog, f.ifindex)
		if err != nil {
			return errors.Join(fmt.Errorf("attach to %s (%s): %w", f.ifname, mode, f.explain(mode, holder, err)), closeLink(old))
		}
		f.link = l
		return errors.Join(f.pins.dropLinks(), closeLink(old))
	}
	// Whatever a predecessor left would be in the way of a new link.
	if err := errors.Join(f.pins.dropLinks(), closeLink(old)); err != nil {
		return err
	}
	l, err := newLink(mode, f.prog, f.ifindex)
	if err != nil {
		return fmt.Errorf("attach to %s (%s): %w", f.ifname, mode, f.explain(mode, holder, err))
	}
	f.link = l
	return nil
}

func closeLink(l attachment) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

// first reports whether a tcx link comes before every other program on its
// hook. Most network agents' programs end the chain with TC_ACT_OK: behind one
// of them ours would never run.
func first(l attachment, ifindex int, hook ebpf.AttachType) bool {
	info, err := l.Info()
	if err != nil {
		return false
	}
	chain, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: hook})
	if err != nil || len(chain.Programs) == 0 {
		return false
	}
	id, ok := chain.Programs[0].LinkID()
	return ok && id == info.ID
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
func (f *Filter) explain(mode Mode, holder func(int) uint32, err error) error {
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, ebpf.ErrNotSupported) {
			return fmt.Errorf("%w: %w", ErrUnsupported, err)
		}
		return err
	}
	if mode == ModeTCX || holder == nil {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	id := holder(f.ifindex)
	name := "unknown"
	if p, perr := ebpf.NewProgramFromID(ebpf.ProgramID(id)); perr == nil {
		if info, ierr := p.Info(); ierr == nil {
			name = info.Name
		}
		_ = p.Close()
	}
	return fmt.Errorf("XDP is held by program %s (id %d) on %s: %w: %w", name, id, f.ifname, ErrBusy, err)
}
