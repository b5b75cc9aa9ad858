// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"net"
	"net/netip"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
)

// Listener hears adverts while the ports are opened.
type Listener struct{ *transport.Listener }

// Listen opens one for the instances of a configuration whose interfaces are
// there and up. It returns nil without an error where switches may have to be
// asked for the adverts first, by IGMP, or where there is nothing to hear.
func Listen(cfg *config.Config, facts *plan.Facts) (*Listener, error) {
	interfaces, groups := map[int]net.HardwareAddr{}, map[netip.Addr]bool{}
	for _, i := range cfg.Instances {
		if !flooded.Contains(i.Group) {
			return nil, nil
		}
		groups[i.Group] = true
		if l := facts.Link(i.Interface); l != nil && l.Up && l.Ethernet {
			interfaces[l.Index] = l.MAC[:]
		}
	}
	if len(interfaces) == 0 {
		return nil, nil
	}
	list := make([]netip.Addr, 0, len(groups))
	for g := range groups {
		list = append(list, g)
	}
	l, err := transport.Listen(interfaces, list)
	if err != nil {
		return nil, err
	}
	return &Listener{l}, nil
}

// flooded are the groups that switches forward everywhere, RFC 4541 section
// 2.1.2.
var flooded = netip.MustParsePrefix("224.0.0.0/24")

// SetRouter makes adverts of a virtual router events with this id. It reports
// whether they are heard.
func (l *Listener) SetRouter(id loader.RouterID, at plan.Identity, r *plan.Router) bool {
	return l.Listener.SetRouter(id, heard(at, r))
}
