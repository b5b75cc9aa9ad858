// SPDX-License-Identifier: Apache-2.0

package config

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// defaults is what global_defs says about instances. An option of an instance
// that has a global default is an `option`, so that strict mode can tell a
// value in the file from a default.
type defaults struct {
	version     uint8
	group       netip.Addr
	iface       string
	strict      bool
	downAdverts option[int]
	garp        garpOptions
	minGARP     bool
	process     Process
	extensions
	garpGap time.Duration

	lowerPrioNoAdvert    option[bool]
	higherPrioSendAdvert option[bool]
	ownerIgnoreAdverts   option[bool]
	skipCheckAddrs       bool
	checksumAsV2         bool
}

// extensions are keywords that keepalived does not have. Each is one line,
// which keepalived skips; a block would derail it. They stand in global_defs
// or in an instance.
type extensions struct {
	fastDetect FastDetect
	reflect    bool
	fence      bool
}

// option is a value, and whether the file has it.
type option[T any] struct {
	value T
	set   bool
}

func (o *option[T]) write(v T) { *o = option[T]{v, true} }

type garpOptions struct {
	delay, refresh, lowerPrioDelay         option[time.Duration]
	repeat, refreshRepeat, lowerPrioRepeat option[int]
}

func builtin() defaults {
	return defaults{
		version:     2,
		group:       netip.AddrFrom4([4]byte{224, 0, 0, 18}),
		iface:       "eth0",
		downAdverts: option[int]{value: 3},
		process:     Process{RTPriority: DefaultRTPriority, NoSwap: true, Lease: DefaultLease},
		extensions: extensions{
			fastDetect: FastDetect{Interval: 3300 * time.Microsecond, Multiplier: 3},
			reflect:    true, fence: true,
		},
		garp: garpOptions{
			delay:         option[time.Duration]{value: 5 * time.Second},
			repeat:        option[int]{value: 5},
			refreshRepeat: option[int]{value: 1},
		},
	}
}

// settle applies vrrp_min_garp, which touches only defaults.
func (g *defaults) settle() {
	if !g.minGARP {
		return
	}
	if !g.garp.repeat.set {
		g.garp.repeat.value = 1
	}
	if !g.garp.delay.set {
		g.garp.delay.value = 0
	}
}

const longest = 1 << 31 * time.Second

func wholeSeconds(set func(*garpOptions, time.Duration)) handler[garpOptions] {
	return func(d *decoder, n *Node, into *garpOptions) {
		if v, ok := d.number(n, 0, 1<<31-1, Warning); ok {
			set(into, time.Duration(v)*time.Second)
		}
	}
}

// garpKeywords are those of an instance; global_defs has them with vrrp_ in
// front.
var garpKeywords = map[string]handler[garpOptions]{
	"garp_master_delay":     wholeSeconds(func(g *garpOptions, v time.Duration) { g.delay.write(v) }),
	"garp_master_refresh":   wholeSeconds(func(g *garpOptions, v time.Duration) { g.refresh.write(v) }),
	"garp_lower_prio_delay": wholeSeconds(func(g *garpOptions, v time.Duration) { g.lowerPrioDelay.write(v) }),
	"garp_master_repeat": func(d *decoder, n *Node, g *garpOptions) {
		if v, ok := d.number(n, 1, 1<<31-1, Warning); ok {
			g.repeat.write(v)
		} else if len(n.Args) > 0 && n.Args[0].Text == "0" {
			g.repeat.write(1) // compat: reported, and 1 is used
		}
	},
	"garp_master_refresh_repeat": func(d *decoder, n *Node, g *garpOptions) {
		if v, ok := d.number(n, 0, 1<<31-1, Warning); ok {
			g.refreshRepeat.write(max(1, v))
		}
	},
	"garp_lower_prio_repeat": func(d *decoder, n *Node, g *garpOptions) {
		if v, ok := d.number(n, 0, 1<<31-1, Warning); ok {
			g.lowerPrioRepeat.write(v)
		}
	},
}

var extensionKeywords = map[string]handler[extensions]{
	"fast_detect":           (*decoder).fastDetect,
	"fast_detect_reflector": flag(func(e *extensions, v bool) { e.reflect = v }),
	"fence":                 flag(func(e *extensions, v bool) { e.fence = v }),
}

// fastDetect reads `fast_detect [off] [interval MS] [multiplier N] [mode sbfd|echo]`.
func (d *decoder) fastDetect(n *Node, e *extensions) {
	f := e.fastDetect
	f.Enabled = true
	ok := true
	wrong := func(w Word, format string, args ...any) {
		d.diags.add(Error, w.Pos, n.Keyword+": "+format, args...)
		ok = false
	}
	for args := n.Args; len(args) > 0; {
		w := args[0]
		args = args[1:]
		if w.Text == "off" || w.Text == "on" {
			f.Enabled = w.Text == "on"
			continue
		}
		if !slices.Contains(fastDetectWords, w.Text) {
			wrong(w, "%q is not one of interval, multiplier, mode, on, off%s", w.Text, suggest(w.Text, slices.Values(fastDetectWords)))
			return
		}
		if len(args) == 0 {
			d.diags.add(Missing, w.Pos, "%s: %s needs a value", n.Keyword, w.Text)
			return
		}
		v := args[0]
		args = args[1:]
		switch w.Text {
		case "interval":
			ms, exact, number := parseSeconds(v.Text)
			f.Interval = ms / 1000
			switch {
			case !number:
				wrong(v, "interval: %q is not a number of milliseconds", v.Text)
			case f.Interval < 300*time.Microsecond || f.Interval > time.Second:
				wrong(v, "interval: %q is not in the range 0.3 to 1000 (milliseconds)", v.Text)
			case !exact || f.Interval%time.Microsecond != 0:
				f.Interval = f.Interval.Round(time.Microsecond)
				d.diags.add(Warning, v.Pos, "%s: interval %q is rounded to %v", n.Keyword, v.Text, f.Interval)
			}
		case "multiplier":
			f.Multiplier, _ = d.inRange(v, n.Keyword+": multiplier", 1, 50, Error)
			ok = ok && f.Multiplier > 0
		case "mode":
			f.Echo = v.Text == "echo"
			if v.Text != "echo" && v.Text != "sbfd" {
				wrong(v, "mode: %q is neither sbfd nor echo%s", v.Text, suggest(v.Text, slices.Values([]string{"sbfd", "echo"})))
			}
		}
	}
	if ok {
		e.fastDetect = f
	}
}

var fastDetectWords = []string{"interval", "multiplier", "mode", "on", "off"}

var globalKeywords = map[string]handler[defaults]{
	"vrrp_version": func(d *decoder, n *Node, g *defaults) {
		if v, ok := d.number(n, 2, 3, Error); ok {
			g.version = uint8(v)
		}
	},
	"vrrp_mcast_group4": func(d *decoder, n *Node, g *defaults) {
		if a, ok := d.multicast4(n); ok {
			g.group = a
		}
	},
	"default_interface": func(d *decoder, n *Node, g *defaults) {
		if w, ok := d.arg(n, 0, "an interface"); ok {
			g.iface = w.Text
		}
	},
	"vrrp_garp_interval": func(d *decoder, n *Node, g *defaults) {
		// compat: an explicit 0 is refused, though the configuration that
		// keepalived ships has it; the line is ignored.
		if v, ok := d.seconds(n, time.Microsecond, longest, Warning); ok {
			g.garpGap = v
		}
	},
	"vrrp_down_timer_adverts": func(d *decoder, n *Node, g *defaults) {
		if v, ok := d.number(n, 1, 100, Warning); ok {
			g.downAdverts.write(v)
		}
	},
	"vrrp_priority": func(d *decoder, n *Node, g *defaults) {
		if v, ok := d.number(n, -20, 19, Warning); ok {
			g.process.Nice = v
		}
	},
	"vrrp_rt_priority": func(d *decoder, n *Node, g *defaults) {
		if v, ok := d.number(n, 0, 1<<31-1, Warning); ok {
			// compat: clipped to what the scheduler has
			g.process.RTPriority, g.process.RTConfigured = min(v, 99), true
		}
	},
	"vrrp_rlimit_rttime": func(d *decoder, n *Node, g *defaults) {
		if v, ok := d.number(n, 1, 1<<31-1, Warning); ok {
			g.process.RTTime = time.Duration(v) * time.Microsecond
		}
	},
	"vrrp_no_swap": flag(func(g *defaults, v bool) { g.process.NoSwap, g.process.NoSwapConfigured = v, true }),
	"vrrp_cpu_affinity": func(d *decoder, n *Node, g *defaults) {
		for _, w := range n.Args {
			if cpu, ok := d.inRange(w, n.Keyword, 0, 1023, Warning); ok {
				g.process.CPUs = append(g.process.CPUs, cpu)
			}
		}
	},
	"vrrp_lease": func(d *decoder, n *Node, g *defaults) {
		if v, ok := d.seconds(n, 50*time.Millisecond, time.Minute, Error); ok {
			g.process.Lease = v
		}
	},
	"vrrp_min_garp":                flag(func(g *defaults, v bool) { g.minGARP = v }),
	"vrrp_strict":                  flag(func(g *defaults, v bool) { g.strict = v }),
	"vrrp_skip_check_adv_addr":     flag(func(g *defaults, v bool) { g.skipCheckAddrs = v }),
	"vrrp_lower_prio_no_advert":    flag(func(g *defaults, v bool) { g.lowerPrioNoAdvert.write(v) }),
	"vrrp_higher_prio_send_advert": flag(func(g *defaults, v bool) { g.higherPrioSendAdvert.write(v) }),
	"vrrp_owner_ignore_adverts":    flag(func(g *defaults, v bool) { g.ownerIgnoreAdverts.write(v) }),
	"v3_checksum_as_v2":            flag(func(g *defaults, v bool) { g.checksumAsV2 = v }),
	// Read where files are opened; here it only has to be known.
	"include_check": func(*decoder, *Node, *defaults) {},
}

func init() {
	for name, h := range extensionKeywords {
		globalKeywords[name] = func(d *decoder, n *Node, g *defaults) { h(d, n, &g.extensions) }
	}
	for name, h := range garpKeywords {
		globalKeywords["vrrp_"+name] = func(d *decoder, n *Node, g *defaults) { h(d, n, &g.garp) }
	}
}

func (d *decoder) globalDefs(n *Node) {
	if !d.needsBlock(n) {
		return
	}
	dispatch(d, n.Block, globalKeywords, &d.global, func(n *Node) {
		d.other(n, laterGlobal, lvsGlobal, maps.Keys(globalKeywords))
	})
}

func (d *decoder) needsBlock(n *Node) bool {
	if !n.HasBlock {
		d.diags.add(Error, n.Pos, "%s needs a block: { … }", n.Keyword)
	}
	return n.HasBlock
}
