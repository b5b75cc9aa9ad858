// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// draft is an instance while it is being read: what is known about where its
// values came from decides what strict mode and `state MASTER` do with them.
type draft struct {
	Instance
	vrid         option[uint8]
	priority     option[uint8]
	interval     option[time.Duration]
	intervalPos  Pos
	preemptDelay option[time.Duration]
	downAdverts  option[int]
	accept       option[bool]
	statePos     Pos
	authPos      Pos
	authType     bool
	garp         garpOptions
	excluded     []Address
	lines        int // of virtual_ipaddress, also of those that are wrong
	extensions

	lowerPrioNoAdvert    option[bool]
	higherPrioSendAdvert option[bool]
	ownerIgnoreAdverts   option[bool]
}

var instanceKeywords = map[string]handler[draft]{
	"state": func(d *decoder, n *Node, i *draft) {
		w, ok := d.arg(n, 0, "MASTER or BACKUP")
		if !ok {
			return
		}
		i.statePos = w.Pos
		i.StateMaster = w.Text == "MASTER"
		if w.Text != "MASTER" && w.Text != "BACKUP" {
			d.diags.add(Warning, w.Pos, "state: %q is neither MASTER nor BACKUP; BACKUP is used%s",
				w.Text, suggest(w.Text, slices.Values([]string{"MASTER", "BACKUP"})))
		}
	},
	"interface": func(d *decoder, n *Node, i *draft) {
		if w, ok := d.arg(n, 0, "an interface"); ok {
			i.Interface, i.InterfacePos = w.Text, w.Pos
		}
	},
	"virtual_router_id": func(d *decoder, n *Node, i *draft) {
		v, _ := d.number(n, 1, 255, Error)
		i.vrid.write(uint8(v)) // a bad one is reported; it is not a missing one
	},
	"priority": func(d *decoder, n *Node, i *draft) {
		// keepalived would run with 100, and an election with a priority that
		// nobody wrote.
		if v, ok := d.number(n, 1, 255, Error); ok {
			i.priority.write(uint8(v))
		}
	},
	"advert_int": func(d *decoder, n *Node, i *draft) {
		if v, ok := d.seconds(n, 10*time.Millisecond, 255*time.Second, Error); ok {
			i.interval.write(v)
			i.intervalPos = n.Args[0].Pos
		}
	},
	"version": func(d *decoder, n *Node, i *draft) {
		if v, ok := d.number(n, 2, 3, Error); ok {
			i.Version = uint8(v)
		}
	},
	"mcast_src_ip": source,
	"unicast_src_ip": func(d *decoder, n *Node, i *draft) {
		source(d, n, i) // compat: one storage for both
	},
	"mcast_dst_ip": func(d *decoder, n *Node, i *draft) {
		if a, ok := d.multicast4(n); ok {
			i.Group = a
		}
	},
	"unicast_peer": func(d *decoder, n *Node, i *draft) {
		if len(n.Block) > 0 {
			d.diags.add(Error, n.Pos, "unicast_peer is not supported yet: adverts would go to everybody")
			return
		}
		d.diags.add(Warning, n.Pos, "unicast_peer is empty; adverts are multicast")
	},
	"virtual_ipaddress": func(d *decoder, n *Node, i *draft) {
		i.Addresses = append(i.Addresses, d.addresses(n, false)...)
		i.lines += len(n.Block)
	},
	"virtual_ipaddress_excluded": func(d *decoder, n *Node, i *draft) {
		i.excluded = append(i.excluded, d.addresses(n, true)...)
	},
	"track_interface": func(d *decoder, n *Node, i *draft) {
		i.Tracked = append(i.Tracked, d.trackInterface(n)...)
	},
	"dont_track_primary": func(_ *decoder, _ *Node, i *draft) { i.DontTrackPrimary = true },
	"preempt":            func(_ *decoder, _ *Node, i *draft) { i.NoPreempt = false },
	"nopreempt":          func(_ *decoder, _ *Node, i *draft) { i.NoPreempt = true },
	"preempt_delay": func(d *decoder, n *Node, i *draft) {
		if v, ok := d.seconds(n, 0, 1000*time.Second, Warning); ok {
			i.preemptDelay.write(v)
		}
	},
	"down_timer_adverts": func(d *decoder, n *Node, i *draft) {
		if v, ok := d.number(n, 1, 100, Warning); ok {
			i.downAdverts.write(v)
		}
	},
	"accept":                  func(_ *decoder, _ *Node, i *draft) { i.accept.write(true) },
	"no_accept":               func(_ *decoder, _ *Node, i *draft) { i.accept.write(false) },
	"authentication":          (*decoder).authentication,
	"strict_mode":             flag(func(i *draft, v bool) { i.Strict = v }),
	"skip_check_adv_addr":     flag(func(i *draft, v bool) { i.SkipCheckAddrs = v }),
	"lower_prio_no_advert":    flag(func(i *draft, v bool) { i.lowerPrioNoAdvert.write(v) }),
	"higher_prio_send_advert": flag(func(i *draft, v bool) { i.higherPrioSendAdvert.write(v) }),
	"owner_ignore_adverts":    flag(func(i *draft, v bool) { i.ownerIgnoreAdverts.write(v) }),
	"v3_checksum_as_v2":       flag(func(i *draft, v bool) { i.ChecksumAsV2 = v }),
}

func init() {
	for name, h := range extensionKeywords {
		instanceKeywords[name] = func(d *decoder, n *Node, i *draft) { h(d, n, &i.extensions) }
	}
	for name, h := range garpKeywords {
		instanceKeywords[name] = func(d *decoder, n *Node, i *draft) { h(d, n, &i.garp) }
	}
}

// source takes an address. A prefix length, which does not matter, is cut off, as
// keepalived does.
func source(d *decoder, n *Node, i *draft) {
	if len(n.Args) > 0 {
		if p, err := netip.ParsePrefix(n.Args[0].Text); err == nil {
			n.Args[0].Text = p.Addr().String()
		}
	}
	if a, ok := d.address4(n); ok {
		i.Source = a
	}
}

func (d *decoder) instance(n *Node) {
	name, ok := d.arg(n, 0, "a name")
	if !ok || !d.needsBlock(n) {
		return
	}
	g := &d.global
	i := &draft{
		Instance: Instance{
			Name: name.Text, Pos: n.Pos, Interface: g.iface, InterfacePos: n.Pos,
			Version: g.version, Group: g.group, Strict: g.strict,
			SkipCheckAddrs: g.skipCheckAddrs, ChecksumAsV2: g.checksumAsV2,
		},
		downAdverts: g.downAdverts, garp: g.garp, extensions: g.extensions,
		lowerPrioNoAdvert: g.lowerPrioNoAdvert, higherPrioSendAdvert: g.higherPrioSendAdvert,
		ownerIgnoreAdverts: g.ownerIgnoreAdverts,
	}
	dispatch(d, n.Block, instanceKeywords, i, func(n *Node) {
		if why, ok := refusedInstance[n.Keyword]; ok {
			d.diags.add(Error, n.Pos, "%s is not supported yet: %s", n.Keyword, why)
			return
		}
		d.other(n, laterInstance, nil, maps.Keys(instanceKeywords), maps.Keys(refusedInstance))
	})
	d.settle(i)
	d.cfg.Instances = append(d.cfg.Instances, &i.Instance)
}

// settle fills in defaults and resolves what excludes what.
func (d *decoder) settle(i *draft) {
	if !i.vrid.set {
		d.diags.add(Error, i.Pos, "vrrp_instance %s has no virtual_router_id", i.Name)
	}
	i.VRID = i.vrid.value
	i.Priority = i.priority.value
	if !i.priority.set {
		i.Priority = 100
		if i.StateMaster {
			i.Priority = 255 // compat
		}
	}
	if i.Strict {
		d.strict(i)
	}
	if i.StateMaster && (i.NoPreempt || i.preemptDelay.value > 0) {
		d.diags.add(Warning, i.statePos, "nopreempt and preempt_delay need state BACKUP and are ignored")
		i.NoPreempt, i.preemptDelay.value = false, 0
	}
	if i.NoPreempt && i.preemptDelay.value > 0 {
		i.preemptDelay.value = 0
	}
	if i.Version == 3 && i.AuthPass != "" {
		d.diags.add(Warning, i.authPos, "authentication is not part of version 3 and is ignored")
		i.AuthPass = ""
	}
	d.interval(i)
	i.PreemptDelay = i.preemptDelay.value
	i.DownAdverts = i.downAdverts.value
	i.LowerPrioNoAdvert = i.lowerPrioNoAdvert.value
	i.HigherPrioSendAdvert = i.higherPrioSendAdvert.value
	i.OwnerIgnoreAdverts = i.ownerIgnoreAdverts.value
	i.Accept = !i.accept.set || i.accept.value
	if i.Priority == 255 && !i.Accept {
		// RFC 9568 section 6.1: Accept_Mode is about routers that are not the
		// owner. Without it the host would lose its own address.
		d.diags.add(Warning, i.Pos, "the owner of the addresses (priority 255) accepts packets to them; no_accept is ignored")
		i.Accept = true
	}
	i.GARP = i.garp.resolve(d.global.garpGap)
	i.FastDetect, i.Reflect, i.Fence = i.fastDetect, i.reflect, i.fence
	if took := i.FastDetect.Interval * time.Duration(i.FastDetect.Multiplier); i.FastDetect.Enabled && took >= 3*i.Interval {
		d.diags.add(Warning, i.Pos, "fast_detect takes %v, which is no faster than advert_int %v", took, i.Interval)
	}
	d.addressesOf(i)
	d.tracksOf(i)
}

func (g garpOptions) resolve(gap time.Duration) GARP {
	out := GARP{
		Repeat: g.repeat.value, Delay: g.delay.value, Interval: gap,
		Refresh: g.refresh.value, RefreshRepeat: g.refreshRepeat.value,
		LowerPrioRepeat: g.repeat.value, LowerPrioDelay: g.delay.value,
	}
	if g.lowerPrioRepeat.set {
		out.LowerPrioRepeat = g.lowerPrioRepeat.value
	}
	if g.lowerPrioDelay.set {
		out.LowerPrioDelay = g.lowerPrioDelay.value
	}
	return out
}

// interval rounds advert_int to what the version can say.
func (d *decoder) interval(i *draft) {
	i.Interval = time.Second
	if !i.interval.set {
		return
	}
	wanted := i.interval.value
	if i.Version == 2 {
		i.Interval = min(max(wanted.Round(time.Second), time.Second), 255*time.Second)
	} else {
		i.Interval = min(wanted.Round(10*time.Millisecond), 40950*time.Millisecond)
	}
	if i.Interval != wanted {
		d.diags.add(Warning, i.intervalPos, "advert_int: version %d cannot say %v; %v is used", i.Version, wanted, i.Interval)
	}
}

// strict applies vrrp_strict: what RFC 9568 does not know is undone, aloud.
func (d *decoder) strict(i *draft) {
	undo := func(at Pos, what string) {
		d.diags.add(Warning, at, "strict mode: %s", what)
	}
	if owner := i.Priority == 255; i.StateMaster != owner {
		undo(i.statePos, "state MASTER and priority 255 belong together; the priority decides")
		i.StateMaster = owner
	}
	if i.AuthPass != "" {
		undo(i.authPos, "authentication is not part of VRRP any more and is ignored")
		i.AuthPass = ""
	}
	if i.preemptDelay.value > 0 {
		undo(i.Pos, "preempt_delay is ignored")
		i.preemptDelay = option[time.Duration]{}
	}
	if i.downAdverts.value != 3 {
		undo(i.Pos, "down_timer_adverts is 3")
		i.downAdverts.value = 3
	}
	if i.garp.lowerPrioRepeat.set || i.garp.lowerPrioDelay.set {
		undo(i.Pos, "garp_lower_prio_repeat and garp_lower_prio_delay are ignored")
	}
	i.garp.lowerPrioRepeat.write(0)
	i.garp.lowerPrioDelay.write(0)
	if i.lowerPrioNoAdvert.set && !i.lowerPrioNoAdvert.value {
		undo(i.Pos, "lower_prio_no_advert is on")
	}
	i.lowerPrioNoAdvert.value = true
	if i.higherPrioSendAdvert.value {
		undo(i.Pos, "higher_prio_send_advert is off")
	}
	i.higherPrioSendAdvert.value = false
	i.ownerIgnoreAdverts.value = true
	switch {
	case i.Priority == 255:
		// The owner accepts in any case.
	case i.Version == 2 && i.accept.set && i.accept.value:
		undo(i.Pos, "version 2 has no accept mode; packets to the addresses are dropped")
		fallthrough
	case !i.accept.set, i.Version == 2:
		i.accept.write(false)
	}
}

var authKeywords = map[string]handler[draft]{
	"auth_type": func(d *decoder, n *Node, i *draft) {
		w, ok := d.arg(n, 0, "PASS")
		i.authType = true
		switch {
		case !ok:
		case w.Text == "AH":
			d.diags.add(Error, w.Pos, "auth_type AH is not supported: the instance would run unauthenticated")
		case w.Text != "PASS":
			d.diags.add(Error, w.Pos, "auth_type: %q is not PASS%s", w.Text, suggest(w.Text, slices.Values([]string{"PASS"})))
		}
	},
	"auth_pass": func(d *decoder, n *Node, i *draft) {
		w, ok := d.arg(n, 0, "a password")
		if !ok {
			return
		}
		if len(w.Text) > 8 {
			// compat: peers cut it too.
			d.diags.add(Warning, w.Pos, "auth_pass is cut to eight bytes")
			w.Text = w.Text[:8]
		}
		i.AuthPass = w.Text
	},
}

func (d *decoder) authentication(n *Node, i *draft) {
	if !d.needsBlock(n) {
		return
	}
	i.authPos = n.Pos
	dispatch(d, n.Block, authKeywords, i, func(n *Node) {
		d.other(n, nil, nil, maps.Keys(authKeywords))
	})
	switch {
	case i.AuthPass == "" && !d.diags.Fatal():
		d.diags.add(Error, n.Pos, "authentication without auth_pass: the instance would run unauthenticated")
	case !i.authType:
		// compat: keepalived sends no authentication then, and would refuse
		// adverts that carry some.
		d.diags.add(Warning, n.Pos, "authentication without auth_type: adverts are not authenticated")
		i.AuthPass = ""
	}
}
