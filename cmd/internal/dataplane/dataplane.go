// SPDX-License-Identifier: Apache-2.0

// Package dataplane opens the interfaces that adverts use: it tries the modes
// in order, keeps what the loader and the sockets need together, and gives the
// event loop its interfaces.
package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/vishvananda/netlink"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
)

// batch is the number of adverts that one system call sends.
const batch = 256

// Plane is the data plane of the daemon.
type Plane struct {
	NetNS uint64 // inode of the network namespace
	Log   *slog.Logger
}

// Port is an open interface. The event loop has Engine; the rest is for one
// goroutine, the one that changes things.
type Port struct {
	Engine *engine.Port
	Mode   loader.Mode
	Reason string // why no earlier mode is used
	Pins   string // folder in the BPF file system; empty: nothing is pinned

	kernel  *Kernel // nil: adverts come through the packet socket
	capture *socket
	sender  *transport.Sender
	routers map[loader.RouterID]loader.Router
}

// Open opens an interface in the first mode that works.
func (d *Plane) Open(key plan.PortKey, p *plan.Port) (_ *Port, err error) {
	out := &Port{
		Engine:  &engine.Port{Name: key.Name, Ifindex: key.Ifindex, MAC: p.MAC},
		Reason:  p.ModesWhy,
		routers: map[loader.RouterID]loader.Router{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	if err := d.receive(out, key, p); err != nil {
		return nil, err
	}
	if out.sender, err = transport.NewSender(key.Name, key.Ifindex, p.Groups, batch); err != nil {
		return nil, err
	}
	out.Engine.Sender = out.sender
	return out, nil
}

// receive opens the way in which adverts arrive.
func (d *Plane) receive(out *Port, key plan.PortKey, p *plan.Port) error {
	var modes []loader.Mode
	fallback := false
	for _, m := range p.Modes {
		if m == plan.ModeSocket {
			fallback = true
			continue
		}
		modes = append(modes, loader.Mode(m))
	}
	var why error
	if len(modes) > 0 {
		filter, pins, err := d.load(key, p, modes)
		if err == nil {
			out.Mode, out.Pins = filter.Mode(), pins
			out.kernel = newKernel(filter)
			out.Engine.Kernel = out.kernel
			return nil
		}
		if !fallback {
			return err
		}
		why = err
		d.Log.Warn("no BPF program; adverts come through a packet socket", "iface", key.Name, "err", err)
	}
	c, err := transport.NewCapture(key.Name, key.Ifindex, p.MAC[:], nil)
	if err != nil {
		return err
	}
	if why != nil {
		out.Reason = why.Error()
	}
	out.Mode, out.capture = transport.ModeSocket, &socket{c}
	out.Engine.Socket = out.capture
	return nil
}

func (d *Plane) load(key plan.PortKey, p *plan.Port, modes []loader.Mode) (*loader.Filter, string, error) {
	spec := loader.Options{
		Ifindex: key.Ifindex, Ifname: key.Name, Modes: modes, Locals: locals(p), MAC: p.MAC[:],
		PinDir: loader.PinDir(d.NetNS, key.Name), Egress: attachClsact, Holder: xdpHolder, Log: d.Log,
	}
	if err := loader.MountBPFFS(); err != nil {
		d.Log.Warn("nothing is pinned: a crash takes the program along", "err", err)
		spec.PinDir = ""
	} else if err := loader.ReclaimPins(); err != nil {
		d.Log.Warn("pins of interfaces that are gone remain", "err", err)
	}
	filter, err := loader.Open(spec)
	return filter, spec.PinDir, err
}

// xdpHolder returns the id of the program on an interface's XDP hook.
func xdpHolder(ifindex int) uint32 {
	link, err := netlink.LinkByIndex(ifindex)
	if err != nil || link.Attrs().Xdp == nil {
		return 0
	}
	return link.Attrs().Xdp.ProgId
}

func locals(p *plan.Port) []loader.Local {
	var out []loader.Local
	for _, l := range p.Locals {
		out = append(out, loader.Local(l))
	}
	return out
}

// HasProgram reports whether a BPF program receives the adverts.
func (p *Port) HasProgram() bool { return p.kernel != nil }

// Kernel is what the event loop and readers of the program's records use; nil
// without a program.
func (p *Port) Kernel() *Kernel { return p.kernel }

// Rings returns what the event loop has to drain.
func (p *Port) Rings() []engine.Receiver {
	if p.kernel == nil {
		return nil
	}
	return []engine.Receiver{p.kernel.filter}
}

// Counters returns those of the packet socket; nil: the program has them.
func (p *Port) Counters() func() (loader.Counters, error) {
	if p.capture == nil {
		return nil
	}
	return p.capture.Counters
}

// Change makes an open interface provide something else. Its hardware address
// reaches the program by way of the event loop.
func (p *Port) Change(to *plan.Port) error {
	if p.kernel != nil {
		if err := p.kernel.filter.SetLocals(locals(to)); err != nil {
			return err
		}
	}
	return p.sender.Join(to.Groups)
}

// SetRouter makes the port receive the adverts of a virtual router, or changes
// what it knows of it.
func (p *Port) SetRouter(id loader.RouterID, at plan.Identity, r *plan.Router) error {
	k := loader.Router{
		ID: id, Slot: loader.SlotOf(at.VRID, at.IPv6), Version: r.Config.Version, CheckTTL: true, VLAN: at.VLAN,
		Dst: r.Group, Broadcast: r.Broadcast,
	}
	for _, a := range r.Addresses {
		if a.Ifindex == at.Port.Ifindex {
			k.Addrs = append(k.Addrs, a.Prefix.Addr())
		}
	}
	if r.Fence {
		advert := r.Advert
		advert.Priority = 1
		k.Own = packet.Append(nil, &advert, r.Config.Source, r.Group)
	}
	p.routers[id] = k
	if p.kernel != nil {
		p.kernel.learn(id, k.Slot)
		return p.kernel.filter.SetRouter(k)
	}
	p.tellSocket()
	return nil
}

// RemoveRouter undoes SetRouter; the virtual router is INIT.
func (p *Port) RemoveRouter(id loader.RouterID) {
	k, ok := p.routers[id]
	if !ok {
		return
	}
	delete(p.routers, id)
	if p.kernel != nil {
		p.kernel.filter.RemoveRouter(k.Slot)
		return
	}
	p.tellSocket()
}

func (p *Port) tellSocket() {
	var all []loader.Router
	for _, k := range p.routers {
		all = append(all, k)
	}
	p.capture.SetRouters(all)
}

// LiftFences forgets other masters, once the addresses that a predecessor left
// are gone.
func (p *Port) LiftFences() {
	if p.kernel != nil {
		p.kernel.filter.LiftFences()
	}
}

// Close detaches the program and closes the sockets.
func (p *Port) Close() error {
	var errs []error
	if p.sender != nil {
		errs = append(errs, p.sender.Close())
	}
	if p.kernel != nil {
		errs = append(errs, p.kernel.filter.Close())
	}
	if p.capture != nil {
		errs = append(errs, p.capture.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close interface %s: %w", p.Engine.Name, err)
	}
	return nil
}

// socket is a packet socket as the event loop uses it.
type socket struct{ *transport.Capture }

func (s *socket) SetMAC(_ int, mac [6]byte) { s.Capture.SetMAC(mac[:]) }

// Kernel is the program of one interface, which numbers virtual routers by
// VRID: what the event loop and the readers of its records use.
type Kernel struct {
	filter *loader.Filter
	slots  atomic.Pointer[[]loader.Slot] // by RouterID
}

func newKernel(f *loader.Filter) *Kernel {
	k := &Kernel{filter: f}
	k.slots.Store(&[]loader.Slot{})
	return k
}

// learn notes the slot of a router before anybody asks for it.
func (k *Kernel) learn(id loader.RouterID, slot loader.Slot) {
	was := *k.slots.Load()
	slots := make([]loader.Slot, max(len(was), int(id)+1))
	copy(slots, was)
	slots[id] = slot
	k.slots.Store(&slots)
}

func (k *Kernel) slot(id loader.RouterID) loader.Slot {
	slots := *k.slots.Load()
	if int(id) >= len(slots) {
		return 0 // no virtual router has VRID 0
	}
	return slots[id]
}

func (k *Kernel) Install(id loader.RouterID, e *loader.Event) bool {
	return k.filter.Install(k.slot(id), e)
}
func (k *Kernel) Clear(id loader.RouterID)             { k.filter.Clear(k.slot(id)) }
func (k *Kernel) LastArrival(id loader.RouterID) int64 { return k.filter.LastArrival(k.slot(id)) }
func (k *Kernel) SetRole(id loader.RouterID, r loader.Role) {
	k.filter.SetRole(k.slot(id), r)
}
func (k *Kernel) Renew(until int64)         { k.filter.Renew(until) }
func (k *Kernel) SetMAC(_ int, mac [6]byte) { k.filter.SetMAC(mac[:]) }
func (k *Kernel) CloseSession(local uint32) { k.filter.CloseSession(local) }
func (k *Kernel) OpenSession(s loader.Session) {
	k.filter.OpenSession(s.Local, s.Remote, s.Peer, s.Echo)
}
func (k *Kernel) Answer(local uint32) loader.Answer { return k.filter.Answer(local) }

func (k *Kernel) Liveness(id loader.RouterID) loader.Liveness { return k.filter.Liveness(k.slot(id)) }
func (k *Kernel) Fence(id loader.RouterID, now int64) loader.Fence {
	return k.filter.Fence(k.slot(id), now)
}
func (k *Kernel) Lease() loader.Lease                   { return k.filter.Lease() }
func (k *Kernel) Counters(int) (loader.Counters, error) { return k.filter.Counters() }

// Idle is a port of an interface that is missing. Its routers are in FAULT and
// send nothing.
func Idle(name string) *engine.Port { return &engine.Port{Name: name, Sender: nobody{}} }

type nobody struct{}

func (nobody) Queue(*transport.Frame, uint8) bool    { return true }
func (nobody) Flush() (sent, refused int, err error) { return 0, 0, nil }
