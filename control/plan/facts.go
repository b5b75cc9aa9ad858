// SPDX-License-Identifier: Apache-2.0

// Package plan computes what the daemon has to set up: from a configuration and
// the facts of this host, what is wanted ([Compute]), and from what there is to
// what is wanted, the steps ([Diff]). Both are pure. Boot, reload, news of an
// interface and stop are the same operation with other inputs:
//
//	want := Compute(config, facts)
//	for step in Diff(have, want) { if it succeeds, have.Apply(step) }
//
// A step that fails leaves its object out of what there is, so the next Diff
// tries it again.
//
// A file is refused for what it says, never for what the host lacks at that
// moment: an instance without its interface or address exists, in FAULT, with a
// word about why.
package plan

import (
	"cmp"
	"net/netip"
	"slices"
)

// Facts are what is known of this host at one moment. They are never changed;
// news make new ones.
type Facts struct {
	Links []Link // in the order of their index
}

// Link is an interface.
type Link struct {
	Index    int
	Name     string
	AltNames []string
	Kind     string // as the kernel calls it: veth, vlan, bond…; empty for hardware
	Parent   int    // index of the device below, 0 if there is none
	VLAN     uint16 // of a VLAN device
	MAC      [6]byte
	Ethernet bool
	Up       bool // administratively up, and running
	Loopback bool
	Addrs    []Addr
}

// Addr is an address of an interface.
type Addr struct {
	Prefix    netip.Prefix // with the address itself, not that of the network
	Peer      netip.Addr   // of a point-to-point address; invalid: none
	Ours      bool         // a virtual address: it has our mark (IFA_PROTO), or this daemon knows that it added it
	Secondary bool
	Tentative bool // duplicate address detection is not over
	Scope     uint8
}

// NewFacts returns facts of links, which it puts in order.
func NewFacts(links []Link) *Facts {
	f := &Facts{Links: slices.Clone(links)}
	slices.SortFunc(f.Links, func(a, b Link) int { return cmp.Compare(a.Index, b.Index) })
	return f
}

// Without returns the facts without some interfaces.
func (f *Facts) Without(indexes map[int]bool) *Facts {
	return &Facts{Links: slices.DeleteFunc(slices.Clone(f.Links), func(l Link) bool { return indexes[l.Index] })}
}

// Link returns the interface with a name or an alternative name, nil if there
// is none.
func (f *Facts) Link(name string) *Link {
	for i := range f.Links {
		if f.Links[i].Name == name {
			return &f.Links[i]
		}
	}
	for i := range f.Links {
		if slices.Contains(f.Links[i].AltNames, name) {
			return &f.Links[i]
		}
	}
	return nil
}

// ByIndex returns the interface with an index, nil if there is none.
func (f *Facts) ByIndex(index int) *Link {
	at, ok := slices.BinarySearchFunc(f.Links, index, func(l Link, index int) int { return cmp.Compare(l.Index, index) })
	if !ok {
		return nil
	}
	return &f.Links[at]
}

// Addr returns what the interface has of an address, nil if it is not there.
func (l *Link) Addr(a netip.Addr) *Addr {
	for i := range l.Addrs {
		if l.Addrs[i].Prefix.Addr() == a {
			return &l.Addrs[i]
		}
	}
	return nil
}

// primary returns the IPv4 address that adverts are sent from: the first one
// that is not a virtual address, and that is secondary only if all are, as when
// the kernel has promoted a virtual address before it. ok reports whether there
// is any.
func (l *Link) primary(virtual map[netip.Addr]bool) (addr netip.Addr, ok bool) {
	for i := range l.Addrs {
		a := &l.Addrs[i]
		ip := a.Prefix.Addr()
		switch {
		case !ip.Is4() || a.Ours || virtual[ip]:
		case !a.Secondary:
			return ip, true
		case !ok:
			addr, ok = ip, true
		}
	}
	return addr, ok
}

// OtherSource reports whether the interface has, beside this one, an address
// that adverts can be sent from.
func (l *Link) OtherSource(than netip.Addr) bool {
	_, ok := l.primary(map[netip.Addr]bool{than: true})
	return ok
}
