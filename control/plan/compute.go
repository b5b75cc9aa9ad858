// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet"
)

// Compute returns what a configuration wants on a host with these facts, and
// what is to be said about it: an Error is about an instance that cannot run at
// all, a Warning about one that waits for the host.
func Compute(cfg *config.Config, facts *Facts, opts Options) (*State, config.Diagnostics) {
	c := &computer{facts: facts, opts: opts, state: NewState(), virtual: map[netip.Addr]bool{}, at: map[Identity]config.Pos{}}
	for _, i := range cfg.Instances {
		if i.Priority == control.PriorityOwner {
			continue // its address may be the interface's own
		}
		for _, a := range i.Addresses {
			c.virtual[a.Prefix.Addr()] = true
		}
	}
	for _, i := range cfg.Instances {
		c.instance(i)
	}
	for key, p := range c.state.Ports {
		p.Modes, p.ModesWhy = modes(opts.Dataplane, facts.ByIndex(key.Ifindex), &p)
		c.state.Ports[key] = p
	}
	return c.state, c.diags
}

// Observed returns what a predecessor left on this host: the addresses that
// carry our mark, and those that the configuration wants, but for an owner's.
func Observed(facts *Facts, want *State) *State {
	wanted := map[AddressKey]bool{}
	for _, r := range want.Routers {
		for _, a := range r.Addresses {
			wanted[a.Key()] = !a.Host
		}
	}
	s := NewState()
	for _, l := range facts.Links {
		for _, a := range l.Addrs {
			left := Address{Ifindex: l.Index, Prefix: a.Prefix, Peer: a.Peer}
			if a.Ours || wanted[left.Key()] {
				s.Leftovers[left.Key()] = left
			}
		}
	}
	return s
}

type computer struct {
	facts   *Facts
	opts    Options
	state   *State
	virtual map[netip.Addr]bool
	at      map[Identity]config.Pos // where the instance of a router stands
	diags   config.Diagnostics
}

func (c *computer) say(s config.Severity, at config.Pos, format string, args ...any) {
	c.diags = append(c.diags, config.Diagnostic{Pos: at, Severity: s, Message: fmt.Sprintf(format, args...)})
}

// draft is a router while it is put together.
type draft struct {
	Router
	cfg   *config.Instance
	link  *Link // nil: the interface is missing
	fault []string
}

func (c *computer) instance(i *config.Instance) {
	r := &draft{cfg: i, link: c.facts.Link(i.Interface)}
	if r.link != nil && r.link.Loopback {
		c.say(config.Error, i.InterfacePos, "interface %q is a loopback: adverts on it reach no other router", i.Interface)
		return
	}
	key := PortKey{Name: i.Interface}
	if r.link != nil {
		key = PortKey{Name: r.link.Name, Ifindex: r.link.Index}
	}
	id := Identity{Port: key, VRID: i.VRID}
	if first, ok := c.at[id]; ok {
		c.say(config.Error, i.Pos, "vrrp_instance %s has the interface and the VRID of another, at %v", i.Name, first)
		return
	}
	c.at[id] = i.Pos
	c.describe(r)
	source := c.source(r)
	if r.link != nil {
		r.Broadcast = broadcast(r.link.Addr(source))
	}
	c.config(r, source)
	why, broken := c.opts.Broken[key]
	r.Idle = r.link == nil || broken
	if broken {
		r.track(Watched{}, control.Track{Down: true})
		r.fault = append(r.fault, why)
	}
	c.tracks(r, source)
	c.addresses(r)
	if len(r.fault) > 0 {
		r.Fault = r.fault[0]
		c.say(config.Warning, i.InterfacePos, "vrrp_instance %s waits in FAULT: %s", i.Name, r.Fault)
	}
	c.state.Routers[id] = r.Router
	if !i.Accept {
		for _, a := range i.Addresses {
			c.state.Firewall[key.Name] = append(c.state.Firewall[key.Name], a.Prefix.Addr())
		}
	}
	if r.link != nil {
		c.port(key, r, source)
	}
}

func (c *computer) describe(r *draft) {
	i := r.cfg
	r.Name, r.Group, r.FastDetect, r.Fence, r.GARP = i.Name, i.Group, i.FastDetect, i.Fence, i.GARP
	r.Advert = packet.Advert{
		Version: i.Version, VRID: i.VRID, Interval: i.Interval, Form: packet.ChecksumPseudoHeader,
	}
	if i.ChecksumAsV2 {
		r.Advert.Form = packet.ChecksumMessage
	}
	if i.AuthPass != "" {
		r.Advert.AuthType = packet.AuthPass
		copy(r.Advert.Auth[:], i.AuthPass)
	}
	for _, a := range i.Addresses {
		if !a.Excluded {
			r.Advert.Addrs = append(r.Advert.Addrs, a.Prefix.Addr().AsSlice()...)
		}
	}
}

// source returns the address that adverts are sent from, or an invalid one.
func (c *computer) source(r *draft) netip.Addr {
	if r.cfg.Source.IsValid() {
		return r.cfg.Source
	}
	if r.link == nil {
		return netip.Addr{}
	}
	source, ok := r.link.primary(c.virtual)
	if !ok {
		r.fault = append(r.fault, fmt.Sprintf("interface %s has no IPv4 address to send adverts from", r.link.Name))
	}
	return source
}

// broadcast returns the directed broadcast address of the network of an
// address, or the zero Addr for a point-to-point link, which has none (RFC
// 3021), and for a source that the interface does not have.
func broadcast(a *Addr) netip.Addr {
	if a == nil || !a.Prefix.Addr().Is4() || a.Prefix.Bits() > 30 {
		return netip.Addr{}
	}
	b := a.Prefix.Addr().As4()
	host := uint32(1)<<(32-a.Prefix.Bits()) - 1
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(b[:])|host)))
}

func (c *computer) config(r *draft, source netip.Addr) {
	i := r.cfg
	if !source.IsValid() {
		// Nothing is sent in FAULT; the router needs an address of its family.
		source = netip.IPv4Unspecified()
	}
	r.Config = control.Config{
		VRID: i.VRID, Version: i.Version, Priority: i.Priority, Interval: i.Interval,
		Source: source, MAC: r.mac(), Strict: i.Strict, DownAdverts: i.DownAdverts, NoPreempt: i.NoPreempt,
		PreemptDelay: i.PreemptDelay, AuthType: r.Advert.AuthType, Auth: r.Advert.Auth,
		Addrs: r.Advert.Addrs, SkipCheckAddrs: i.SkipCheckAddrs,
		LowerPrioNoAdvert:    i.LowerPrioNoAdvert,
		HigherPrioSendAdvert: i.HigherPrioSendAdvert,
		OwnerIgnoreAdverts:   i.OwnerIgnoreAdverts,
		HoldLimit:            c.opts.Hold,
	}
}

func (r *draft) mac() [6]byte {
	if r.link == nil {
		return [6]byte{}
	}
	return r.link.MAC
}

func (r *draft) track(w Watched, t control.Track) {
	r.Watch = append(r.Watch, w)
	r.Config.Tracks = append(r.Config.Tracks, t)
}

// interfaceTrack watches an interface by its name.
func (c *computer) interfaceTrack(r *draft, name string, weight int, reverse bool) {
	l := c.facts.Link(name)
	if l == nil {
		r.track(Watched{}, control.Track{Weight: weight, Reverse: reverse, Down: true})
		if weight == 0 && !reverse {
			r.fault = append(r.fault, fmt.Sprintf("there is no interface %s", name))
		}
		return
	}
	r.track(Watched{Ifindex: l.Index}, control.Track{Weight: weight, Reverse: reverse, Down: !l.Up})
	if weight == 0 && l.Up == reverse {
		state := "down"
		if reverse {
			state = "up"
		}
		r.fault = append(r.fault, fmt.Sprintf("interface %s is %s", name, state))
	}
}

func (c *computer) tracks(r *draft, source netip.Addr) {
	i := r.cfg
	switch {
	case r.link == nil:
		// Also with dont_track_primary: there is nothing to send on.
		r.track(Watched{}, control.Track{Down: true})
		r.fault = append(r.fault, fmt.Sprintf("there is no interface %s", i.Interface))
	case !i.DontTrackPrimary:
		c.interfaceTrack(r, i.Interface, 0, false)
	}
	for _, t := range i.Tracked {
		c.interfaceTrack(r, t.Interface, t.Weight, t.Reverse)
	}
	watched := map[string]bool{}
	for _, a := range i.Addresses {
		// Interfaces of addresses are tracked too, as keepalived does.
		if a.Dev == "" || a.NoTrack || watched[a.Dev] || a.Dev == i.Interface ||
			slices.ContainsFunc(i.Tracked, func(t config.Track) bool { return t.Interface == a.Dev }) {
			continue
		}
		watched[a.Dev] = true
		c.interfaceTrack(r, a.Dev, 0, false)
	}
	if r.link != nil && !i.Source.IsValid() {
		// Without its source address the interface cannot send adverts, and
		// what it owns went with it: that is a FAULT too.
		if source.IsValid() {
			r.track(Watched{Ifindex: r.link.Index, Addr: source}, control.Track{})
		} else {
			r.track(Watched{}, control.Track{Down: true})
		}
	}
}

func (c *computer) addresses(r *draft) {
	owner := r.cfg.Priority == control.PriorityOwner
	for _, a := range r.cfg.Addresses {
		dev := a.Dev
		if dev == "" {
			dev = r.cfg.Interface
		}
		l := c.facts.Link(dev)
		if l == nil {
			continue // the router is in FAULT, or the address is not tracked
		}
		out := Address{
			Ifindex: l.Index, Prefix: a.Prefix, Scope: a.Scope, Broadcast: a.Broadcast, Label: a.Label, Peer: a.Peer,
		}
		if there := l.Addr(a.Prefix.Addr()); owner && there != nil && !there.Ours {
			out.Host = true
		}
		r.Addresses = append(r.Addresses, out)
	}
}

// port adds what a router wants of its interface.
func (c *computer) port(key PortKey, r *draft, source netip.Addr) {
	p, ok := c.state.Ports[key]
	if !ok {
		p = Port{MAC: r.link.MAC, Ethernet: r.link.Ethernet}
	}
	if !slices.Contains(p.Groups, r.Group) {
		p.Groups = append(slices.Clone(p.Groups), r.Group)
	}
	p.Probes = p.Probes || r.FastDetect.Enabled
	p.Reflects = p.Reflects || r.cfg.Reflect // also before there is an address to probe
	if source.IsValid() {
		local := Local{Prefix: netip.PrefixFrom(source, source.BitLen()), Reflect: r.cfg.Reflect}
		if a := r.link.Addr(source); a != nil {
			local.Prefix = a.Prefix
		}
		p.Locals = addLocal(slices.Clone(p.Locals), local)
	}
	c.state.Ports[key] = p
}

// addLocal adds a source address. Routers may share one: it is refused to
// peers if one of them refuses it.
func addLocal(locals []Local, l Local) []Local {
	for i := range locals {
		if locals[i].Prefix == l.Prefix {
			locals[i].Reflect = locals[i].Reflect && l.Reflect
			return locals
		}
	}
	return append(locals, l)
}

// modes returns the ways to receive adverts on a device, in the order in which
// they are tried: first those in which everything that is asked for works.
func modes(dataplane string, l *Link, p *Port) (order []Mode, why string) {
	if dataplane != "auto" {
		return []Mode{Mode(dataplane)}, ""
	}
	if l != nil && l.Kind == "veth" && (p.Probes || p.Reflects) {
		// What native XDP sends back is lost unless the other end of the pair
		// polls, which it does while it has an XDP program. That end may be in
		// another namespace and cannot be asked.
		return []Mode{ModeGeneric, ModeTCX, ModeNative, ModeSocket},
			"a veth loses what native XDP answers, unless its other end has an XDP program, too"
	}
	return []Mode{ModeNative, ModeGeneric, ModeTCX, ModeSocket}, ""
}
