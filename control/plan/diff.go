// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// Step is one change on the way from what there is to what is wanted.
type Step interface {
	// apply does the step in a State.
	apply(*State)
}

// Steps, in the order in which Diff returns them. What is given up goes before
// what may need its place; a port is there before its routers, and goes after
// them.
type (
	// StopRouter makes a router leave in order. It is gone when it is INIT.
	StopRouter struct{ ID Identity }
	// RemoveLeftovers removes addresses that a predecessor left.
	RemoveLeftovers struct{ Addresses []Address }
	// SetFirewall replaces the addresses on an interface that accept no
	// traffic; none: the table goes.
	SetFirewall struct {
		Interface string
		Addresses []netip.Addr
	}
	// OpenPort begins to receive and send on an interface.
	OpenPort struct {
		Key  PortKey
		Port Port
	}
	// ChangePort changes what the interface has to provide.
	ChangePort struct {
		Key       PortKey
		Was, Port Port
	}
	// ChangeRouter changes a router in place.
	ChangeRouter struct {
		ID          Identity
		Was, Router Router
	}
	// StartRouter starts a router, in FAULT if the host lacks what it needs.
	StartRouter struct {
		ID     Identity
		Router Router
	}
	// ClosePort ends what OpenPort began.
	ClosePort struct{ Key PortKey }
)

func (s StopRouter) apply(st *State) {
	delete(st.Routers, s.ID)
	st.Leaving[s.ID] = true
}

func (s RemoveLeftovers) apply(st *State) {
	for _, a := range s.Addresses {
		delete(st.Leftovers, a.Key())
	}
}

func (s SetFirewall) apply(st *State) {
	if len(s.Addresses) == 0 {
		delete(st.Firewall, s.Interface)
		return
	}
	st.Firewall[s.Interface] = s.Addresses
}

func (s OpenPort) apply(st *State)     { st.Ports[s.Key] = s.Port }
func (s ChangePort) apply(st *State)   { st.Ports[s.Key] = s.Port }
func (s ClosePort) apply(st *State)    { delete(st.Ports, s.Key) }
func (s ChangeRouter) apply(st *State) { st.Routers[s.ID] = s.Router }
func (s StartRouter) apply(st *State)  { st.Routers[s.ID] = s.Router }

// Apply notes that a step succeeded.
func (s *State) Apply(step Step) { step.apply(s) }

// Retired notes that a router that was stopped is INIT.
func (s *State) Retired(id Identity) { delete(s.Leaving, id) }

// Diff returns the steps from what there is to what is wanted that can be done
// now, in order. Some wait for others: a router that is to be replaced for the
// next Diff after it has retired, a port for its last router, one with another
// name of an open interface for that to be closed, and firewall entries for the
// routers of their interface that were stopped. When nothing is left
// to do and nothing is Leaving, have is want.
func Diff(have, want *State) []Step {
	var steps []Step
	add := func(s Step) { steps = append(steps, s) }
	serving := map[string]bool{} // interfaces of routers that are stopped, and may own their addresses for now
	for id := range have.Leaving {
		serving[id.Port.Name] = true
	}
	for _, id := range sorted(have.Routers, Identity.compare) {
		w, ok := want.Routers[id]
		if h := have.Routers[id]; !ok || !h.becomes(&w) {
			add(StopRouter{id})
			serving[id.Port.Name] = true
		}
	}
	if left := unwanted(have, want); len(left) > 0 {
		add(RemoveLeftovers{left})
	}
	for _, name := range slices.Sorted(maps.Keys(union(have.Firewall, want.Firewall))) {
		h, w := have.Firewall[name], want.Firewall[name]
		if serving[name] {
			w = together(h, w)
		}
		if !slices.Equal(h, w) {
			add(SetFirewall{name, w})
		}
	}
	for _, key := range sorted(want.Ports, PortKey.compare) {
		w := want.Ports[key]
		h, ok := have.Ports[key]
		switch {
		case !ok && have.occupied(key):
		case !ok:
			add(OpenPort{key, w})
		case !reflect.DeepEqual(h, w):
			add(ChangePort{key, h, w})
		}
	}
	for _, id := range sorted(want.Routers, Identity.compare) {
		w := want.Routers[id]
		h, ok := have.Routers[id]
		switch {
		case have.Leaving[id] || !ok && have.occupied(id.Port):
		case !ok:
			add(StartRouter{id, w})
		case h.becomes(&w) && !reflect.DeepEqual(h, w):
			add(ChangeRouter{id, h, w})
		}
	}
	for _, key := range sorted(have.Ports, PortKey.compare) {
		if _, ok := want.Ports[key]; !ok && !have.uses(key) {
			add(ClosePort{key})
		}
	}
	return steps
}

// becomes reports whether a router can be changed into another in place.
func (r *Router) becomes(w *Router) bool {
	return r.Config.SameIdentity(w.Config) && r.Idle == w.Idle
}

// occupied reports whether a port is open that is the same interface under
// another name: to close it later would take the programs off both.
func (s *State) occupied(key PortKey) bool {
	for k := range s.Ports {
		if k.Ifindex == key.Ifindex && k != key {
			return true
		}
	}
	return false
}

// uses reports whether a router is on the port.
func (s *State) uses(key PortKey) bool {
	for id := range s.Routers {
		if id.Port == key {
			return true
		}
	}
	for id := range s.Leaving {
		if id.Port == key {
			return true
		}
	}
	return false
}

// together returns the addresses that there are and, after them, those that are
// wanted beside them.
func together(have, want []netip.Addr) []netip.Addr {
	all := slices.Clone(have)
	for _, a := range want {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

func unwanted(have, want *State) []Address {
	var out []Address
	for key, a := range have.Leftovers {
		if _, ok := want.Leftovers[key]; !ok {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, func(a, b Address) int {
		return cmp.Or(cmp.Compare(a.Ifindex, b.Ifindex), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	return out
}

func sorted[K comparable, V any](m map[K]V, compare func(K, K) int) []K {
	return slices.SortedFunc(maps.Keys(m), compare)
}

func union[K comparable, V any](a, b map[K]V) map[K]bool {
	out := map[K]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// Change is a step in words.
type Change struct {
	Instance string // or what else it is about
	What     string
	Wire     string // what other hosts notice of it; empty: nothing
}

// Describe returns what a reload would do, and what that costs on the wire.
func Describe(have, want *State) []Change {
	var out []Change
	for _, s := range Diff(have, want) {
		switch s := s.(type) {
		case StopRouter:
			h := have.Routers[s.ID]
			if w, ok := want.Routers[s.ID]; ok {
				out = append(out, Change{h.Name, "stops and starts again as " + w.Name + " (" + identityChange(&h, &w) + ")",
					"a master resigns with priority 0"})
				continue
			}
			out = append(out, Change{h.Name, "is removed", "a master resigns with priority 0"})
		case StartRouter:
			what := "is added"
			if s.Router.Fault != "" {
				what += ", in FAULT: " + s.Router.Fault
			}
			out = append(out, Change{Instance: s.Router.Name, What: what})
		case ChangeRouter:
			out = append(out, routerChanges(&s.Was, &s.Router)...)
		case RemoveLeftovers:
			for _, a := range s.Addresses {
				out = append(out, Change{Instance: a.Prefix.Addr().String(), What: "is removed: no instance has it any more"})
			}
		case SetFirewall:
			out = append(out, firewallChanges(s.Interface, have.Firewall[s.Interface], s.Addresses)...)
		case OpenPort:
			out = append(out, Change{Instance: s.Key.Name, What: "is opened"})
		case ClosePort:
			out = append(out, Change{Instance: s.Key.Name, What: "is closed"})
		case ChangePort:
			out = append(out, Change{Instance: s.Key.Name, What: "changes what the interface provides"})
		}
	}
	return out
}

func firewallChanges(ifname string, have, want []netip.Addr) []Change {
	var out []Change
	for _, a := range want {
		if !slices.Contains(have, a) {
			out = append(out, Change{ifname, "drops packets to and from " + a.String(), "it answers no ping and no connection"})
		}
	}
	for _, a := range have {
		if !slices.Contains(want, a) {
			out = append(out, Change{ifname, "no longer drops packets to and from " + a.String(), ""})
		}
	}
	return out
}

func identityChange(h, w *Router) string {
	switch {
	case h.Idle != w.Idle:
		return "its interface can be used"
	case h.Config.Version != w.Config.Version:
		return "version"
	case h.Config.AuthType != w.Config.AuthType || h.Config.Auth != w.Config.Auth:
		return "authentication"
	}
	return "priority 255"
}

func routerChanges(h, w *Router) []Change {
	var out []Change
	say := func(wire, what string, args ...string) {
		out = append(out, Change{w.Name, what + strings.Join(args, ", "), wire})
	}
	if h.Name != w.Name {
		say("", "is the new name of ", h.Name)
	}
	if h.Config.Priority != w.Config.Priority {
		say("the next advert carries it; another router may take over", "changes its priority")
	}
	if h.Config.Interval != w.Config.Interval {
		wire := "peers learn it from the next advert"
		if w.Config.Version == 2 {
			wire = "peers refuse adverts until they are reloaded, too: two masters until then"
		}
		say(wire, "changes advert_int")
	}
	if h.Config.Source != w.Config.Source {
		say("adverts come from another address; ties may be decided differently", "changes its source to ", w.Config.Source.String())
	}
	added, removed := addressChanges(h, w)
	if len(added) > 0 {
		say(listWire(h, w, "peers without it raise an alarm until they are reloaded"), "adds ", added...)
	}
	if len(removed) > 0 {
		say(listWire(h, w, "peers that still have it raise an alarm until they are reloaded"), "removes ", removed...)
	}
	if h.FastDetect != w.FastDetect {
		say("", "changes fast_detect")
	}
	if h.Fault != w.Fault && w.Fault != "" {
		say("", "waits in FAULT: ", w.Fault)
	}
	if len(out) == 0 {
		say("", "changes settings that other hosts do not see")
	}
	return out
}

// listWire returns what a change of the advertised list costs.
func listWire(h, w *Router, overlap string) string {
	if string(h.Advert.Addrs) == string(w.Advert.Addrs) {
		return "" // not in adverts
	}
	for _, a := range w.Addresses {
		for _, b := range h.Addresses {
			if a.Prefix.Addr() == b.Prefix.Addr() {
				return overlap
			}
		}
	}
	return "no address stays: peers take it for another group and refuse its adverts until they are reloaded"
}

func addressChanges(h, w *Router) (added, removed []string) {
	had, has := map[AddressKey]bool{}, map[AddressKey]bool{}
	for _, a := range h.Addresses {
		had[a.Key()] = true
	}
	for _, a := range w.Addresses {
		has[a.Key()] = true
		if !had[a.Key()] {
			added = append(added, a.Prefix.Addr().String())
		}
	}
	for _, a := range h.Addresses {
		if !has[a.Key()] {
			removed = append(removed, a.Prefix.Addr().String())
		}
	}
	return added, removed
}
