// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"time"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet"
)

// State is what there is to set up, or what there is. Its objects are found by
// keys; it holds no position in a file and no pointer into a configuration.
type State struct {
	Ports   map[PortKey]Port
	Routers map[Identity]Router
	// Leaving are routers that were stopped and still serve until their
	// successor is there.
	Leaving map[Identity]bool
	// Firewall holds, by interface, the addresses that accept no traffic.
	Firewall map[string][]netip.Addr
	// Leftovers are addresses that a predecessor left on this host.
	Leftovers map[AddressKey]Address
}

// NewState returns a State without anything.
func NewState() *State {
	return &State{
		Ports: map[PortKey]Port{}, Routers: map[Identity]Router{}, Leaving: map[Identity]bool{},
		Firewall: map[string][]netip.Addr{}, Leftovers: map[AddressKey]Address{},
	}
}

// Clone returns a copy that can be changed. Values are shared: they are never
// written to.
func (s *State) Clone() *State {
	return &State{
		Ports: maps.Clone(s.Ports), Routers: maps.Clone(s.Routers), Leaving: maps.Clone(s.Leaving),
		Firewall: maps.Clone(s.Firewall), Leftovers: maps.Clone(s.Leftovers),
	}
}

// PortKey is an interface that adverts use. One that was re-created has another
// index and is another port. An index of 0 is an interface that is missing.
type PortKey struct {
	Name    string
	Ifindex int
}

func (k PortKey) compare(o PortKey) int {
	return cmp.Or(cmp.Compare(k.Ifindex, o.Ifindex), cmp.Compare(k.Name, o.Name))
}

// Mode is a way in which adverts can be received.
type Mode string

const (
	ModeNative  Mode = "native"  // XDP in the driver
	ModeGeneric Mode = "generic" // XDP on the skb
	ModeTCX     Mode = "tcx"     // tc ingress
	ModeSocket  Mode = "socket"  // a packet socket, without BPF
)

// Port is what an interface has to provide.
type Port struct {
	MAC      [6]byte
	Ethernet bool
	Groups   []netip.Addr // to join
	Locals   []Local
	Modes    []Mode // in the order in which they are tried
	// ModesWhy is why the first mode is not the fastest one; empty if it is.
	ModesWhy string
	Probes   bool // a router on it wants fast detection
	Reflects bool // a router on it wants probes to be answered
}

// Local is an address that adverts are sent from. Peers probe it.
type Local struct {
	Prefix  netip.Prefix // with the address itself
	Reflect bool         // answer S-BFD probes
}

// Identity is what makes a virtual router this one and no other. A change of it
// means that the old router leaves and a new one starts.
type Identity struct {
	Port PortKey
	VLAN uint16 // that adverts carry on the port, 0 for none
	IPv6 bool
	VRID uint8
}

func (id Identity) compare(o Identity) int {
	six := func(v bool) int {
		if v {
			return 1
		}
		return 0
	}
	return cmp.Or(id.Port.compare(o.Port), cmp.Compare(id.VLAN, o.VLAN), cmp.Compare(six(id.IPv6), six(o.IPv6)), cmp.Compare(id.VRID, o.VRID))
}

// Router is everything about a virtual router that can change while it runs,
// and in Config also what cannot: see control.Config.SameIdentity.
type Router struct {
	Name string
	// Fault is what the host lacks; empty if it has what the router needs.
	Fault string
	// Idle is a router whose interface is missing or could not be opened: it
	// has nothing to send and receive on.
	Idle      bool
	Config    control.Config
	Advert    packet.Advert // without a priority
	Group     netip.Addr    // where adverts go
	Broadcast netip.Addr    // of the network that they come from; zero: there is none
	Addresses []Address
	// Watch is what the tracks of Config are about, in their order.
	Watch      []Watched
	FastDetect config.FastDetect
	Fence      bool
	GARP       config.GARP
}

// Watched is a condition of the host: an interface that must be up or, with
// Addr, an address that must be there. An Ifindex of 0 is never met.
type Watched struct {
	Ifindex int
	Addr    netip.Addr
}

// AddressKey is what tells two addresses of this host apart.
type AddressKey struct {
	Ifindex int
	Addr    netip.Addr
}

// Address is a virtual address on an interface.
type Address struct {
	Ifindex   int
	Prefix    netip.Prefix
	Scope     uint8
	Broadcast netip.Addr // invalid: none
	Label     string
	Peer      netip.Addr // invalid: none
	// Host is an address that the host has of its own: it is announced, and
	// neither added nor removed.
	Host bool
}

// Key returns the key of the address.
func (a Address) Key() AddressKey { return AddressKey{a.Ifindex, a.Prefix.Addr()} }

// Options are what the command line says.
type Options struct {
	// Dataplane is auto or one Mode.
	Dataplane string
	// Hold is how long a master that answers probes may hold a takeover back.
	Hold time.Duration
	// Broken are ports that could not be opened, with the reason. They are still
	// wanted; their routers wait in FAULT.
	Broken map[PortKey]string
}
