// SPDX-License-Identifier: Apache-2.0

// Package dataplane opens the interfaces that adverts use: it tries the modes
// in order, keeps what the loader and the sockets need together, and gives the
// event loop its interfaces.
package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
)

// batch is the number of adverts that one system call sends.
const batch = 256

// Plane is the data plane of the daemon.
type Plane struct {
	NetNS   uint64 // inode of the network namespace
	Version string // of the daemon, for whoever reads the maps
	Log     *slog.Logger

	Instance string // of the daemon: several in one namespace have pins apart
	Room     Room

	kernel *loader.Collection // nil until the first port wants a program
	claim  *transport.Claim   // nil until the first port is opened
}

// Port is an open interface. The event loop has Engine; the rest is for one
// goroutine, the one that changes things.
type Port struct {
	Engine *engine.Port
	Mode   loader.Mode
	Reason string // why no earlier mode is used
	Pins   string // folder in the BPF file system; empty: nothing is pinned

	kernel  *Kernel // nil: adverts come through the packet socket
	room    Room
	capture *socket
	sender  *transport.Sender
	routers map[loader.RouterID]bool
	modes   []loader.Mode // that are tried
	passes  bool          // so may the reason why none of them works

	complete bool      // see Plane.Complete
	failed   time.Time // when that failed last
	mac      [6]byte
	groups   []netip.Addr // that are joined
	locals   []plan.Local // of when they were
	log      *slog.Logger
}

// Router is a virtual router of a port that is opened.
type Router struct {
	ID   loader.RouterID
	At   plan.Identity
	Plan *plan.Router
}

// Open opens an interface in the first mode that works. Its routers are known
// before the first frame meets the program: a fence that a predecessor left
// closed is closed at every moment, and no advert of theirs is taken for that of
// a stranger. SetRouter says why one of them could not be told; see Knows.
func (d *Plane) Open(key plan.PortKey, p *plan.Port, routers []Router) (_ *Port, err error) {
	out := &Port{
		Engine:  &engine.Port{Name: key.Name, Ifindex: key.Ifindex, MAC: p.MAC},
		Reason:  p.ModesWhy,
		routers: map[loader.RouterID]bool{}, room: d.Room, log: d.Log,
		groups: p.Groups, locals: p.Locals,
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	if d.claim == nil {
		if d.claim, err = transport.NewClaim(); err != nil {
			return nil, err
		}
	}
	if out.sender, err = transport.NewSender(key.Name, key.Ifindex, p.Groups, batch); err != nil {
		return nil, err
	}
	out.Engine.Sender = out.sender
	if err := d.receive(out, key, p, routers); err != nil {
		return nil, err
	}
	return out, nil
}

// receive opens the way in which adverts arrive.
func (d *Plane) receive(out *Port, key plan.PortKey, p *plan.Port, routers []Router) error {
	modes, fallback := programs(p.Modes)
	out.modes, out.mac = modes, p.MAC
	var why error
	if len(modes) > 0 {
		err := d.open(out, p, routers)
		if err == nil {
			return nil
		}
		if !fallback {
			return err
		}
		why = err
		d.Log.Warn("no BPF program could be attached; receiving adverts through a packet socket", "iface", key.Name, "err", err)
	}
	c, err := transport.NewCapture(key.Name, key.Ifindex, p.MAC[:])
	if err != nil {
		return err
	}
	if why != nil {
		out.Reason = why.Error()
		out.passes = errors.Is(why, loader.ErrBusy) || errors.Is(why, unix.ENOMEM)
	}
	out.Mode, out.capture = transport.ModeSocket, &socket{c}
	out.Engine.Socket = out.capture
	for _, r := range routers {
		if err := out.SetRouter(r.ID, r.At, r.Plan); err != nil {
			return err
		}
	}
	return nil
}

// programs returns the modes that need a program, and whether the packet socket
// may take their place.
func programs(modes []plan.Mode) (out []loader.Mode, fallback bool) {
	for _, m := range modes {
		if m == plan.ModeSocket {
			fallback = true
			continue
		}
		out = append(out, loader.Mode(m))
	}
	return out, fallback
}

// open puts the program on an interface, and first into its maps what it has to
// know there.
func (d *Plane) open(out *Port, p *plan.Port, routers []Router) error {
	if err := d.load(out.Engine.Ifindex); err != nil {
		return err
	}
	ifindex := out.Engine.Ifindex
	if err := d.kernel.SetLocals(ifindex, locals(p)); err != nil {
		return errors.Join(d.Room.explain(err), d.kernel.SetLocals(ifindex, nil)) // some may be there
	}
	out.Pins, out.kernel, out.Engine.Kernel = d.kernel.PinDir(), &Kernel{d.kernel, ifindex}, d.kernel
	for _, r := range routers {
		// One without room does not keep the others from being served.
		_ = out.SetRouter(r.ID, r.At, r.Plan)
	}
	err := d.attach(out)
	if err == nil {
		return nil
	}
	for _, r := range routers {
		out.RemoveRouter(r.ID)
	}
	out.Pins, out.kernel, out.Engine.Kernel = "", nil, nil
	return errors.Join(err, d.kernel.SetLocals(ifindex, nil))
}

// load loads the programs when the first port wants them.
func (d *Plane) load(ifindex int) (err error) {
	if d.kernel != nil {
		return nil
	}
	pins := loader.PinDir(d.NetNS, d.Instance)
	if err := loader.MountBPFFS(); err != nil {
		d.Log.Warn("BPF pins are unavailable: a crash of xvrrpd also detaches its programs", "err", err)
		pins = ""
	} else if err := loader.ReclaimPins(); err != nil {
		d.Log.Warn("could not remove stale BPF pins", "err", err)
	}
	d.kernel, err = loader.Load(loader.Options{
		Routers: d.Room.Routers, Ports: d.Room.Ports, Addresses: d.Room.Addresses,
		Version: d.Version, PinDir: pins, Ifindex: ifindex, Log: d.Log,
	})
	return err
}

// Kernel returns the programs of all ports, nil if none has one.
func (d *Plane) Kernel() *loader.Collection { return d.kernel }

// DropUnused takes off what a predecessor attached to interfaces that have no
// program now. What is on the interfaces to keep may be taken over later.
// removable reports whether no other daemon serves an interface.
func (d *Plane) DropUnused(keep map[int]bool, removable func(ifname string) bool) {
	var err error
	if d.kernel != nil {
		err = d.kernel.DropUnused(keep)
	} else {
		err = loader.DropDead(loader.PinDir(d.NetNS, d.Instance), keep)
	}
	// A filter has no pin.
	err = errors.Join(err, dropClsact(func(ifindex int, ifname string) bool {
		return !keep[ifindex] && !d.attached(ifindex) && removable(ifname)
	}))
	if err != nil {
		d.Log.Warn("could not remove the BPF programs of an earlier run", "err", err)
	}
}

// attached reports whether an interface has a program, or may have.
func (d *Plane) attached(ifindex int) bool {
	if d.kernel == nil {
		return false
	}
	ok, err := d.kernel.Attached(ifindex)
	return ok || err != nil
}

// Close ends the programs. All ports are closed.
func (d *Plane) Close() error {
	var errs []error
	if d.claim != nil {
		errs = append(errs, d.claim.Close())
	}
	if d.kernel != nil {
		errs = append(errs, d.kernel.Close())
	}
	d.claim, d.kernel = nil, nil
	return errors.Join(errs...)
}

// xdpHolder returns the id of the program on an interface's XDP hook. A test
// looks at what is known when it is asked.
var xdpHolder = func(ifindex int) uint32 {
	link, err := netlink.LinkByIndex(ifindex)
	if err != nil || link.Attrs().Xdp == nil {
		return 0
	}
	return link.Attrs().Xdp.ProgId
}

func locals(p *plan.Port) []loader.Local {
	var out []loader.Local
	for _, l := range p.Locals {
		local := loader.Local{Prefix: l.Prefix}
		if l.Reflect {
			local.Discriminator = bfd.Discriminator(l.Prefix.Addr())
		}
		out = append(out, local)
	}
	return out
}

// HasProgram reports whether a BPF program receives the adverts.
func (p *Port) HasProgram() bool { return p.kernel != nil }

// Kernel is what the event loop and readers of the program's records use; nil
// without a program.
func (p *Port) Kernel() *Kernel { return p.kernel }

// Counters returns those of the packet socket; nil: the program has them.
func (p *Port) Counters() func() (loader.Counters, error) {
	if p.capture == nil {
		return nil
	}
	return p.capture.Counters
}

// Change makes an open interface provide something else. Its hardware address
// reaches the program by way of the event loop.
func (d *Plane) Change(p *Port, to *plan.Port) error {
	p.mac = to.MAC
	if p.kernel == nil {
		p.modes, _ = programs(to.Modes)
	}
	if p.kernel != nil {
		modes, _ := programs(to.Modes)
		if err := p.kernel.SetLocals(p.Engine.Ifindex, locals(to)); err != nil {
			return p.room.explain(err)
		}
		if !slices.Equal(modes, p.modes) && len(modes) > 0 && modes[0] != p.Mode {
			modesWere, reasonWas := p.modes, p.Reason
			p.modes, p.Reason = modes, to.ModesWhy
			if err := d.attach(p); err != nil {
				// It goes on as before, and the next try is one again.
				p.modes, p.Reason = modesWere, reasonWas
				return errors.Join(err, d.attach(p))
			}
		}
	}
	p.groups = to.Groups
	if slices.Equal(to.Locals, p.locals) {
		return p.sender.Join(to.Groups)
	}
	// With the addresses the interface may have lost its memberships.
	if err := p.sender.Rejoin(to.Groups); err != nil {
		return err
	}
	p.locals = to.Locals
	return nil
}

// Attach attaches the program of an open interface again: something took it off,
// or put another before it. There is a moment without it. An interface that went
// and is back with its index lost its memberships, too.
func (d *Plane) Attach(p *Port) error {
	if p.kernel == nil {
		return fmt.Errorf("receive from %s: the packet socket lost the interface", p.Engine.Name)
	}
	if err := d.attach(p); err != nil {
		return err
	}
	return p.sender.Rejoin(p.groups)
}

// Retry reports whether an interface would have a program if it were opened now.
// It uses the packet socket for a reason that may have passed: a busy hook, or
// want of memory. To know it, the program is attached for a moment.
func (d *Plane) Retry(p *Port) bool {
	if !p.passes || len(p.modes) == 0 || d.load(p.Engine.Ifindex) != nil {
		return false
	}
	_, err := d.kernel.Attach(d.port(p))
	return err == nil && d.kernel.Detach(p.Engine.Ifindex) == nil
}

func (d *Plane) attach(p *Port) (err error) {
	p.Mode, err = d.kernel.Attach(d.port(p))
	p.complete = false
	return d.Room.explain(err)
}

// completeAgain is when Complete is tried again after it failed.
const completeAgain = 30 * time.Second

// Complete attaches what may come after the routers of a port have started: the
// fence on the way out.
func (d *Plane) Complete(p *Port) {
	err := d.kernel.AttachEgress(p.Engine.Ifindex)
	p.complete = err == nil
	if err == nil {
		p.failed = time.Time{}
		return
	}
	if p.failed.IsZero() {
		d.Log.Warn("could not attach the fence for outgoing packets and will retry; only incoming ones are fenced",
			"iface", p.Engine.Name, "err", err)
	}
	p.failed = time.Now()
}

// Pending reports whether Complete has something to do now.
func (p *Port) Pending() bool {
	return p.kernel != nil && !p.complete && (p.failed.IsZero() || time.Since(p.failed) > completeAgain)
}

func (*Plane) port(p *Port) loader.Port {
	return loader.Port{
		Ifindex: p.Engine.Ifindex, Ifname: p.Engine.Name, MAC: p.mac, Modes: p.modes, Holder: xdpHolder,
		Egress: attachClsact, EgressThere: clsactThere,
	}
}

// InPath reports whether frames meet the program of an interface, which is
// attached, and before every other tcx program; or the packet socket.
func (p *Port) InPath() bool {
	if p.kernel == nil {
		return p.capture.Bound()
	}
	in, err := p.kernel.Attached(p.Engine.Ifindex)
	return in || err != nil // what cannot be asked is not known to be gone
}

// heard says which adverts are those of a virtual router.
func heard(at plan.Identity, r *plan.Router) loader.Router {
	return loader.Router{
		Ifindex: at.Port.Ifindex, VLAN: at.VLAN, VRID: at.VRID, IPv6: at.IPv6,
		Version: r.Config.Version, CheckTTL: true, Group: r.Group, Broadcast: r.Broadcast, Name: r.Name,
	}
}

// SetRouter makes the port receive the adverts of a virtual router, or changes
// what it knows of it.
func (p *Port) SetRouter(id loader.RouterID, at plan.Identity, r *plan.Router) error {
	k := heard(at, r)
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
	if p.kernel == nil {
		p.capture.SetRouter(id, k)
	} else if err := p.kernel.SetRouter(id, k); err != nil {
		return p.room.explain(err)
	}
	p.routers[id] = true
	return nil
}

// Knows reports whether the port receives the adverts of a virtual router.
func (p *Port) Knows(id loader.RouterID) bool { return p.routers[id] }

// RemoveRouter undoes SetRouter; the virtual router is INIT.
func (p *Port) RemoveRouter(id loader.RouterID) {
	if !p.routers[id] {
		return
	}
	delete(p.routers, id)
	if p.kernel == nil {
		p.capture.RemoveRouter(id)
		return
	}
	if err := p.kernel.RemoveRouter(id); err != nil {
		p.log.Warn("could not remove a virtual router from the BPF maps", "iface", p.Engine.Name, "err", err)
	}
}

// Close detaches the program and closes the sockets.
func (p *Port) Close() error {
	var errs []error
	if p.sender != nil {
		errs = append(errs, p.sender.Close())
	}
	if p.kernel != nil {
		errs = append(errs, p.kernel.SetLocals(p.Engine.Ifindex, nil), p.kernel.Detach(p.Engine.Ifindex))
		for id := range p.routers { // it never got as far as the event loop
			p.RemoveRouter(id)
		}
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

// Kernel is what the kernel recorded, as the readers of one port's records see
// it.
type Kernel struct {
	*loader.Collection
	ifindex int
}

// Lease returns the state of the lease, with the masters of the port.
func (k *Kernel) Lease() loader.Lease { return k.PortLease(k.ifindex) }

// Idle is a port of an interface that is missing. Its routers are in FAULT and
// send nothing.
func Idle(name string) *engine.Port { return &engine.Port{Name: name, Sender: nobody{}} }

type nobody struct{}

func (nobody) Queue(*transport.Frame, uint8) bool    { return true }
func (nobody) Flush() (sent, refused int, err error) { return 0, 0, nil }
