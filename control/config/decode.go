// SPDX-License-Identifier: Apache-2.0

package config

import (
	"iter"
	"maps"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// decoder turns the tree into typed values. global_defs is read first, so that
// its place in the file does not matter; keepalived does the same at start.
type decoder struct {
	file   string
	diags  *Diagnostics
	noted  map[string]bool
	cfg    Config
	global defaults
}

// handler reads one keyword. T is what the block describes.
type handler[T any] func(d *decoder, n *Node, into *T)

func (d *decoder) config(tree []*Node) *Config {
	d.global = builtin()
	for _, n := range tree {
		if n.Keyword == "global_defs" {
			d.globalDefs(n)
		}
	}
	d.global.settle()
	d.cfg.Process = d.global.process
	for i, n := range tree {
		tree[i] = nil // of many instances the text is several times as large as what it says
		switch n.Keyword {
		case "global_defs":
		case "vrrp_instance":
			d.instance(n)
		case "net_namespace":
			if w, ok := d.arg(n, 0, "the name of a network namespace"); ok {
				d.cfg.NetNamespace = w.Text
			}
		case "instance":
			if w, ok := d.arg(n, 0, "a name"); ok {
				d.cfg.Instance = w.Text
			}
		default:
			d.other(n, laterTop, lvsTop, maps.Keys(topKeywords))
		}
	}
	d.duplicates()
	if len(d.cfg.Instances) == 0 && !d.diags.Fatal() {
		d.diags.add(Error, Pos{File: d.file}, "there is no vrrp_instance")
	}
	return &d.cfg
}

// other deals with a keyword that has no handler.
func (d *decoder) other(n *Node, later, lvs map[string]bool, known ...iter.Seq[string]) {
	if later[n.Keyword] || lvs[n.Keyword] {
		if d.noted[n.Keyword] {
			return
		}
		d.noted[n.Keyword] = true
		if lvs[n.Keyword] {
			d.diags.add(Note, n.Pos, "%s belongs to keepalived's load balancer; xvrrp does VRRP only and skips it", n.Keyword)
			return
		}
		d.diags.add(Note, n.Pos, "%s has no effect yet", n.Keyword)
		return
	}
	what := "keyword"
	if n.HasBlock {
		// keepalived reads on inside and then closes the block around it.
		what = "block"
	}
	d.diags.add(Warning, n.Pos, "unknown %s %q is skipped%s", what, n.Keyword, suggest(n.Keyword, append(known, maps.Keys(later), maps.Keys(lvs))...))
}

func dispatch[T any](d *decoder, nodes []*Node, handlers map[string]handler[T], into *T, other func(*Node)) {
	for _, n := range nodes {
		if h, ok := handlers[n.Keyword]; ok {
			h(d, n, into)
		} else {
			other(n)
		}
	}
}

// duplicates finds what two instances must not share.
func (d *decoder) duplicates() {
	type key struct {
		iface string
		vrid  uint8
	}
	vrids, names := map[key]*Instance{}, map[string]*Instance{}
	for _, i := range d.cfg.Instances {
		if first, ok := names[i.Name]; ok {
			d.diags.add(Error, i.Pos, "vrrp_instance %q is defined twice; the other is at %v", i.Name, first.Pos)
			continue
		}
		names[i.Name] = i
		k := key{i.Interface, i.VRID}
		if first, ok := vrids[k]; ok {
			d.diags.add(Error, i.Pos, "virtual_router_id %d is used twice on %s; the other is %s at %v",
				i.VRID, i.Interface, first.Name, first.Pos)
			continue
		}
		vrids[k] = i
	}
}

// Readers of arguments. Each adds a diagnostic for what is wrong and reports whether there is a
// value.

func (d *decoder) arg(n *Node, i int, what string) (Word, bool) {
	if i >= len(n.Args) {
		d.diags.add(Missing, n.Pos, "%s needs %s", n.Keyword, what)
		return Word{}, false
	}
	return n.Args[i], true
}

// number reads an integer; one that is malformed or out of range is worth s.
func (d *decoder) number(n *Node, low, high int, s Severity) (int, bool) {
	w, ok := d.arg(n, 0, "a number")
	if !ok {
		return 0, false
	}
	return d.inRange(w, n.Keyword, low, high, s)
}

func (d *decoder) inRange(w Word, what string, low, high int, s Severity) (int, bool) {
	v, err := strconv.Atoi(w.Text)
	if err != nil {
		d.diags.add(s, w.Pos, "%s: %q is not a whole number", what, w.Text)
		return 0, false
	}
	if v < low || v > high {
		d.diags.add(s, w.Pos, "%s: %d is not in the range %d to %d", what, v, low, high)
		return 0, false
	}
	return v, true
}

// seconds reads decimal seconds, to the microsecond.
func (d *decoder) seconds(n *Node, low, high time.Duration, s Severity) (time.Duration, bool) {
	w, ok := d.arg(n, 0, "a number of seconds")
	if !ok {
		return 0, false
	}
	v, exact, ok := parseSeconds(w.Text)
	if !ok {
		d.diags.add(s, w.Pos, "%s: %q is not a number of seconds", n.Keyword, w.Text)
		return 0, false
	}
	if !exact {
		d.diags.add(Warning, w.Pos, "%s: %q is rounded to %v", n.Keyword, w.Text, v)
	}
	if v < low || v > high {
		d.diags.add(s, w.Pos, "%s: %q is not in the range %v to %v", n.Keyword, w.Text, low, high)
		return 0, false
	}
	return v, true
}

func parseSeconds(s string) (v time.Duration, exact, ok bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if whole+fraction == "" || strings.Trim(whole+fraction, "0123456789") != "" || len(whole) > 9 {
		return 0, false, false
	}
	seconds, _ := strconv.Atoi("0" + whole)
	exact = len(strings.TrimRight(fraction, "0")) <= 6
	digits := (fraction + "0000000")[:7]
	micros, _ := strconv.Atoi(digits[:6])
	if digits[6] >= '5' {
		micros++
	}
	return time.Duration(seconds)*time.Second + time.Duration(micros)*time.Microsecond, exact, true
}

// boolean reads an optional on|off|true|false|yes|no; none means true.
func (d *decoder) boolean(n *Node) (v, ok bool) {
	if len(n.Args) == 0 {
		return true, true
	}
	switch n.Args[0].Text {
	case "on", "true", "yes":
		return true, true
	case "off", "false", "no":
		return false, true
	}
	d.diags.add(Warning, n.Args[0].Pos, "%s: %q is not one of on, off, true, false, yes, no", n.Keyword, n.Args[0].Text)
	return false, false
}

// address4 reads an IPv4 address; anything else is an error.
func (d *decoder) address4(n *Node) (netip.Addr, bool) {
	w, ok := d.arg(n, 0, "an address")
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(w.Text)
	if err != nil {
		d.diags.add(Error, w.Pos, "%s: %q is not an IP address", n.Keyword, w.Text)
		return netip.Addr{}, false
	}
	if !a.Is4() {
		d.diags.add(Error, w.Pos, "%s: %s is an IPv6 address; IPv6 virtual routers are not supported yet", n.Keyword, a)
		return netip.Addr{}, false
	}
	return a, true
}

func (d *decoder) multicast4(n *Node) (netip.Addr, bool) {
	a, ok := d.address4(n)
	if ok && !a.IsMulticast() {
		d.diags.add(Error, n.Args[0].Pos, "%s: %s is not a multicast address", n.Keyword, a)
		return netip.Addr{}, false
	}
	return a, ok
}

func flag[T any](set func(*T, bool)) handler[T] {
	return func(d *decoder, n *Node, into *T) {
		if v, ok := d.boolean(n); ok {
			set(into, v)
		}
	}
}
