// SPDX-License-Identifier: Apache-2.0

// Package daemon joins the rooms at run time: it builds the virtual routers
// from a configuration, runs the event loop and everything slow beside it, and
// leaves in order.
package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

// ErrInUse says that another daemon serves an interface in this namespace.
var ErrInUse = errors.New("another xvrrpd uses it")

// Options of New.
type Options struct {
	Config  *config.Config
	Version string
	// Dataplane is auto or one mode: native, generic, tcx, socket.
	Dataplane     string
	ControlSocket string
	MetricsListen string // TCP address, empty: only the control socket
	Log           *slog.Logger
}

// Daemon is everything that runs.
type Daemon struct {
	opts    Options
	log     *slog.Logger
	netns   uint64
	started time.Time
	ifaces  []*iface
	insts   []*instance
	locks   map[string]*os.File // by interface
	host    *vip.Host
	loop    *loop
	reports chan vip.Report
	ctl     *server
}

// New resolves the configuration on this host, takes hold of everything that
// the daemon needs and, last, removes what a crash left; addresses are not
// touched if it fails before. Adverts are
// received from here on, so that the first master-down timer counts from a
// moment at which they were heard.
func New(opts Options) (d *Daemon, err error) {
	h, diags := Resolve(opts.Config)
	if diags.Fatal() {
		var errs []error
		for _, g := range diags {
			errs = append(errs, errors.New(g.String()))
		}
		return nil, errors.Join(errs...)
	}
	d = &Daemon{opts: opts, log: opts.Log, netns: ctlapi.NetNS("self"), started: time.Now(), locks: map[string]*os.File{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	d.reports = make(chan vip.Report, 4*len(opts.Config.Instances)+64)
	d.host, err = vip.NewHost(len(opts.Config.Instances), clock.Now, d.reported)
	if err != nil {
		return d, err
	}
	byInterface := map[string][]*config.Instance{}
	var names []string
	for _, i := range opts.Config.Instances {
		if byInterface[i.Interface] == nil {
			names = append(names, i.Interface)
		}
		byInterface[i.Interface] = append(byInterface[i.Interface], i)
	}
	for _, name := range names {
		if err := d.lock(name); err != nil {
			return d, err
		}
	}
	if d.ctl, err = newServer(d); err != nil {
		return d, err
	}
	for _, name := range names {
		if err := d.openInterface(h, name, byInterface[name]); err != nil {
			return d, err
		}
	}
	if d.loop, err = newLoop(d.insts, d.ifaces, d.host, opts.Config.Process.Lease); err != nil {
		return d, err
	}
	return d, d.cleanUp(h)
}

// reported takes a report of vip.Host, which must not wait for a slow log.
func (d *Daemon) reported(r vip.Report) {
	select {
	case d.reports <- r:
	default:
		d.loop.stats.lost.Add(1)
	}
}

// lock makes sure that no other daemon serves the interface.
func (d *Daemon) lock(ifname string) error {
	dir := filepath.Join(ctlapi.RunDir, "lock")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for locks: %w", err)
	}
	path := filepath.Join(dir, strconv.FormatUint(d.netns, 10)+"-"+ifname)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open lock of interface %s: %w", ifname, err)
	}
	d.locks[ifname] = f
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return fmt.Errorf("lock interface %s: %w", ifname, err)
	}
	return nil
}

// cleanUp removes what a crash left, and sets up what has to be there before
// the first takeover.
func (d *Daemon) cleanUp(h *host) error {
	var left []vip.Found
	refused := map[string][]netip.Addr{} // by interface: addresses that accept no traffic
	for _, i := range d.opts.Config.Instances {
		there, err := vip.Present(h.addresses(i))
		if err != nil {
			return err
		}
		for _, a := range there {
			if i.Priority != control.PriorityOwner || a.Ours {
				left = append(left, a)
			}
		}
		if i.Accept {
			continue
		}
		for _, a := range i.Addresses {
			refused[i.Interface] = append(refused[i.Interface], a.Prefix.Addr())
		}
	}
	if err := vip.Remove(left); err != nil {
		d.log.Warn("addresses that were left behind", "err", err)
	} else {
		for _, f := range d.ifaces {
			f.guard.LiftFences()
		}
	}
	for _, a := range left {
		d.log.Warn("removed an address that was left behind", "address", a.Prefix)
	}
	for ifname := range d.locks {
		if err := vip.InstallFirewall(ifname, refused[ifname]); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) openInterface(h *host, name string, cfgs []*config.Instance) error {
	f := &iface{
		name: name, ifindex: h.links[name].Attrs().Index, bySlot: map[loader.Slot]*instance{},
		leaseTime: d.opts.Config.Process.Lease,
	}
	spec := loader.FilterOptions{Ifindex: f.ifindex, Ifname: name, MAC: h.links[name].Attrs().HardwareAddr}
	var groups []netip.Addr
	fast := false
	for _, cfg := range cfgs {
		local, err := vip.PrefixOf(h.links[name], cfg.Source)
		if err != nil {
			return err
		}
		r := h.kernelRouter(cfg, f.ifindex)
		r.Broadcast = broadcastOf(local)
		spec.Routers = append(spec.Routers, r)
		spec.Locals = addLocal(spec.Locals, loader.Local{Prefix: local, Reflect: cfg.Reflect})
		fast = fast || cfg.FastDetect.Enabled
		if !slices.Contains(groups, cfg.Group) {
			groups = append(groups, cfg.Group)
		}
	}
	f.reflects = slices.ContainsFunc(spec.Locals, func(l loader.Local) bool { return l.Reflect })
	var err error
	if err = d.openPlane(f, spec); err != nil {
		return err
	}
	d.ifaces = append(d.ifaces, f)
	if fast {
		if err := d.openDetector(f, spec.MAC); err != nil {
			return err
		}
	}
	if f.sender, err = transport.NewSender(name, f.ifindex, groups, len(cfgs)+1); err != nil {
		return err
	}
	for _, cfg := range cfgs {
		i, err := d.newInstance(h, f, cfg)
		if err != nil {
			return fmt.Errorf("vrrp_instance %s: %w", cfg.Name, err)
		}
		f.bySlot[i.slot] = i
		d.host.Register(i.set)
		d.insts = append(d.insts, i)
	}
	d.log.Info("data plane", "iface", name, "mode", f.plane.Mode(), "instances", len(cfgs))
	return nil
}

// addLocal adds a source address. Instances may share one: it is refused to
// peers if one of them refuses it.
func addLocal(locals []loader.Local, l loader.Local) []loader.Local {
	for i := range locals {
		if locals[i].Prefix == l.Prefix {
			locals[i].Reflect = locals[i].Reflect && l.Reflect
			return locals
		}
	}
	return append(locals, l)
}

var planeModes = map[string][]loader.Mode{
	"auto":    {loader.ModeNative, loader.ModeGeneric, loader.ModeTCX},
	"native":  {loader.ModeNative},
	"generic": {loader.ModeGeneric},
	"tcx":     {loader.ModeTCX},
	"socket":  nil,
}

// openPlane tries the modes in order; what is left is the packet socket, if
// the mode was not asked for by name.
func (d *Daemon) openPlane(f *iface, spec loader.FilterOptions) (err error) {
	modes, ok := planeModes[d.opts.Dataplane]
	if !ok {
		return fmt.Errorf("unknown data plane %q", d.opts.Dataplane)
	}
	f.guard = noGuard{}
	if len(modes) > 0 {
		spec.Modes, spec.Holder, spec.Egress, spec.Log = modes, xdpHolder, attachClsact, d.log
		spec.PinDir = loader.PinDir(d.netns, f.name)
		if err := loader.MountBPFFS(); err != nil {
			d.log.Warn("nothing is pinned; a crash takes the program along", "err", err)
			spec.PinDir = ""
		} else if err := loader.ReclaimPins(); err != nil {
			d.log.Warn("pins of interfaces that are gone", "err", err)
		}
		filter, err := loader.Open(spec)
		if err == nil {
			f.plane, f.guard = filter, filter
			return nil
		}
		if d.opts.Dataplane != "auto" {
			return err
		}
		d.log.Warn("no BPF program; adverts come through a packet socket", "iface", f.name, "err", err)
	}
	socket, err := transport.NewCapture(f.name, f.ifindex, spec.MAC)
	if err != nil {
		return err
	}
	for _, r := range spec.Routers {
		socket.SetRouter(loader.SlotOf(r.VRID, r.IPv6), r)
	}
	f.plane = socket
	return nil
}

// openDetector prepares fast detection, which needs the kernel's record of
// answers.
func (d *Daemon) openDetector(f *iface, mac net.HardwareAddr) error {
	if f.guard == (noGuard{}) || len(mac) != 6 {
		d.log.Warn("fast_detect needs a BPF program and Ethernet; the RFC's timer decides", "iface", f.name)
		return nil
	}
	prober, err := transport.NewProber(f.name, f.ifindex)
	if err != nil {
		return err
	}
	f.detector = newDetector(prober, [6]byte(mac))
	return nil
}

// kernelRouter is what the program has to know of an instance.
func (h *host) kernelRouter(cfg *config.Instance, ifindex int) loader.Router {
	r := loader.Router{VRID: cfg.VRID, Version: cfg.Version, CheckTTL: true, Group: cfg.Group, Name: cfg.Name}
	for _, a := range h.addresses(cfg) {
		if a.Ifindex == ifindex {
			r.Addrs = append(r.Addrs, a.Prefix.Addr())
		}
	}
	if cfg.Fence {
		advert := advertOf(cfg)
		advert.Priority = 1
		r.Own = packet.Append(nil, &advert, cfg.Source, cfg.Group)
	}
	return r
}

// broadcastOf returns the directed broadcast address of an IPv4 network, or
// the zero Addr for a point-to-point link, which has none (RFC 3021).
func broadcastOf(p netip.Prefix) netip.Addr {
	if p.Bits() > 30 {
		return netip.Addr{}
	}
	b := p.Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])|host)))
}

// xdpHolder returns the id of the program on an interface's XDP hook.
func xdpHolder(ifindex int) uint32 {
	link, err := netlink.LinkByIndex(ifindex)
	if err != nil || link.Attrs().Xdp == nil {
		return 0
	}
	return link.Attrs().Xdp.ProgId
}

// advertOf is the advert of an instance, without a priority.
func advertOf(cfg *config.Instance) packet.Advert {
	advert := packet.Advert{
		Version: cfg.Version, VRID: cfg.VRID, Interval: cfg.Interval,
		Form: packet.ChecksumPseudoHeader, Addrs: advertised(cfg),
	}
	if cfg.ChecksumAsV2 {
		advert.Form = packet.ChecksumMessage
	}
	if cfg.AuthPass != "" {
		advert.AuthType = packet.AuthPass
		copy(advert.Auth[:], cfg.AuthPass)
	}
	return advert
}

// macOf returns the MAC of a link, or zero if it has none of six bytes.
func macOf(link netlink.Link) (mac [6]byte) {
	if hw := link.Attrs().HardwareAddr; len(hw) == len(mac) {
		copy(mac[:], hw)
	}
	return mac
}

func (d *Daemon) newInstance(h *host, f *iface, cfg *config.Instance) (*instance, error) {
	i := &instance{id: len(d.insts), cfg: cfg, iface: f, slot: loader.SlotOf(cfg.VRID, false)}
	advert := advertOf(cfg)
	i.frame = transport.NewFrame(advert, cfg.Source, cfg.Group)
	rc := control.Config{
		VRID: cfg.VRID, Version: cfg.Version, Priority: cfg.Priority, Interval: cfg.Interval,
		Source: cfg.Source, MAC: macOf(h.links[cfg.Interface]), Strict: cfg.Strict, DownAdverts: cfg.DownAdverts, NoPreempt: cfg.NoPreempt,
		PreemptDelay: cfg.PreemptDelay, AuthType: advert.AuthType, Auth: advert.Auth,
		Addrs: advert.Addrs, SkipCheckAddrs: cfg.SkipCheckAddrs,
		LowerPrioNoAdvert:    cfg.LowerPrioNoAdvert,
		HigherPrioSendAdvert: cfg.HigherPrioSendAdvert,
		OwnerIgnoreAdverts:   cfg.OwnerIgnoreAdverts,
		HoldLimit:            f.leaseTime,
	}
	track := func(name string, weight int, reverse bool) {
		link := h.links[name]
		i.links = append(i.links, link.Attrs().Index)
		rc.Tracks = append(rc.Tracks, control.Track{Weight: weight, Reverse: reverse, Down: !up(link)})
	}
	if !cfg.DontTrackPrimary {
		track(cfg.Interface, 0, false)
	}
	for _, t := range cfg.Tracked {
		track(t.Interface, t.Weight, t.Reverse)
	}
	for _, a := range cfg.Addresses {
		// Interfaces of addresses are tracked too, as keepalived does.
		if a.Dev != "" && !a.NoTrack && !slices.Contains(i.links, h.links[a.Dev].Attrs().Index) &&
			(a.Dev != cfg.Interface || !cfg.DontTrackPrimary) {
			track(a.Dev, 0, false)
		}
	}
	if !cfg.SourceConfigured {
		// Without its source address the interface cannot send adverts, and
		// what it owns went with it: that is a FAULT too.
		i.links = append(i.links, sourceOf(f.ifindex))
		rc.Tracks = append(rc.Tracks, control.Track{})
	}
	i.router = control.New(rc)
	// The owner's addresses may be the host's own: those that are there
	// already are announced, and neither added nor removed.
	own := map[netip.Addr]bool{}
	if cfg.Priority == control.PriorityOwner {
		there, err := vip.Present(h.addresses(cfg))
		if err != nil {
			return nil, err
		}
		for _, a := range there {
			own[a.Prefix.Addr()] = !a.Ours
		}
	}
	var err error
	i.set, err = vip.NewSet(i.id, h.addresses(cfg), own, vip.Announcement(cfg.GARP))
	return i, err
}

// Run works until ctx ends and then leaves: priority 0, service until a
// successor is there, addresses removed, the program detached. ready is called once the routers run.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	how, err := prepareProcess(&d.opts.Config.Process, d.log)
	if err != nil {
		return errors.Join(err, d.close())
	}
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	// A worker that fails stops the daemon: without news of interfaces, say, it
	// would be wrong and not know it.
	slow, failing := errgroup.WithContext(work)
	slow.Go(func() error { return d.host.Run(work) })
	slow.Go(func() error { return d.watchLinks(work) })
	slow.Go(func() error { return d.watchSources(work) })
	slow.Go(func() error { return d.ctl.serve(work) })
	slow.Go(func() error { return d.watchAlarms(work) })
	slow.Go(func() error { return d.feedWatchdog(work) })
	slow.Go(func() error { return how.keep(work, d.log) })
	published := make(chan error, 1)
	publishing, stopPublishing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPublishing()
	go func() { published <- d.publish(publishing) }()

	stopped := make(chan error, 1)
	go func() { stopped <- d.loop.run(how, ready) }()
	select {
	case <-ctx.Done():
		err = d.stopLoop(stopped)
	case <-failing.Done():
		err = d.stopLoop(stopped)
	case err = <-stopped:
	}
	stopWork()
	err = errors.Join(err, slow.Wait())
	stopPublishing()
	return errors.Join(err, <-published, d.close())
}

// stopLoop makes the routers leave in order and waits for it.
func (d *Daemon) stopLoop(stopped <-chan error) error {
	d.loop.stop.Store(true)
	d.loop.wake()
	return <-stopped
}

// close gives back what New took, in the reverse order.
func (d *Daemon) close() error {
	var errs []error
	if d.loop != nil {
		errs = append(errs, d.loop.close())
	}
	for _, f := range d.ifaces {
		if f.sender != nil {
			errs = append(errs, f.sender.Close())
		}
		if f.detector != nil {
			errs = append(errs, f.detector.prober.Close())
		}
		errs = append(errs, f.plane.Close())
	}
	if d.host != nil {
		errs = append(errs, d.host.Close())
	}
	if d.ctl != nil {
		errs = append(errs, d.ctl.close())
		// The locks are held, so the tables are ours.
		for ifname := range d.locks {
			errs = append(errs, vip.RemoveFirewall(ifname))
		}
	}
	for _, f := range d.locks {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
