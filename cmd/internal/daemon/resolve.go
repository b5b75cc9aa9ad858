// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/vip"
)

// host is what the configuration refers to on this host.
type host struct {
	links map[string]netlink.Link
}

// Resolve looks up everything that the configuration names on this host and
// says what is missing. It changes nothing.
func Resolve(cfg *config.Config) (*host, config.Diagnostics) {
	h := &host{links: map[string]netlink.Link{}}
	var diags config.Diagnostics
	missing := func(at config.Pos, format string, args ...any) {
		diags = append(diags, config.Diagnostic{Pos: at, Severity: config.Error, Message: fmt.Sprintf(format, args...)})
	}
	need := func(name string, at config.Pos) {
		if _, ok := h.links[name]; ok {
			return
		}
		link, err := netlink.LinkByName(name)
		if err != nil {
			missing(at, "interface %q: %v", name, lookupError(err))
			return
		}
		h.links[name] = link
	}
	for _, i := range cfg.Instances {
		need(i.Interface, i.InterfacePos)
		if l := h.links[i.Interface]; l != nil && l.Attrs().Flags&net.FlagLoopback != 0 {
			missing(i.InterfacePos, "interface %q is a loopback: nobody would hear its adverts", i.Interface)
		}
		for _, t := range i.Tracked {
			need(t.Interface, t.Pos)
		}
		for _, a := range i.Addresses {
			if a.Dev != "" {
				need(a.Dev, a.DevPos)
			}
		}
	}
	if diags.Fatal() {
		return nil, diags
	}
	virtual := map[netip.Addr]bool{}
	for _, i := range cfg.Instances {
		if i.Priority == control.PriorityOwner {
			continue // its address may be the interface's own
		}
		for _, a := range i.Addresses {
			virtual[a.Prefix.Addr()] = true
		}
	}
	for _, i := range cfg.Instances {
		if i.Source.IsValid() {
			continue
		}
		src, err := vip.PrimaryIPv4(h.links[i.Interface], virtual)
		if err != nil {
			missing(i.InterfacePos, "%v", err)
			continue
		}
		i.Source = src
	}
	return h, diags
}

func lookupError(err error) error {
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return errors.New("there is none of this name on this host")
	}
	return err
}

// up says whether a link carries traffic: administratively up, and running.
func up(l netlink.Link) bool {
	a := l.Attrs()
	return a.Flags&net.FlagUp != 0 && a.RawFlags&iffRunning != 0
}

const iffRunning = 0x40 // IFF_RUNNING

// addresses converts the configured addresses of an instance.
func (h *host) addresses(i *config.Instance) []vip.Address {
	var out []vip.Address
	for _, a := range i.Addresses {
		dev := a.Dev
		if dev == "" {
			dev = i.Interface
		}
		out = append(out, vip.Address{
			Ifindex: h.links[dev].Attrs().Index, Prefix: a.Prefix, Scope: a.Scope,
			Broadcast: a.Broadcast, Label: a.Label, Peer: a.Peer,
		})
	}
	return out
}

// advertised returns the addresses of an instance as an advert holds them.
func advertised(i *config.Instance) []byte {
	var out []byte
	for _, a := range i.Addresses {
		if !a.Excluded {
			out = append(out, a.Prefix.Addr().AsSlice()...)
		}
	}
	return out
}
