// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
)

// Slot is the RouterID of a virtual router of a Filter.
type Slot = RouterID

// SlotOf returns the slot of a VRID in an address family.
func SlotOf(vrid uint8, ipv6 bool) Slot {
	if ipv6 {
		return Slot(vrid) | 0x100
	}
	return Slot(vrid)
}

// FilterOptions of Open.
type FilterOptions struct {
	Ifindex int
	Ifname  string
	Modes   []Mode
	Routers []Router
	Locals  []Local
	MAC     net.HardwareAddr
	PinDir  string
	Egress  func(ifindex int, prog *ebpf.Program) error
	Holder  func(ifindex int) uint32
	Log     *slog.Logger
}

// Filter is a Collection for one interface. It goes once the daemon uses one
// Collection.
type Filter struct {
	*Collection
	ifindex int
	mode    Mode
}

// Open loads a Collection for one interface and attaches it.
func Open(opts FilterOptions) (*Filter, error) {
	c, err := Load(Options{Routers: 512, Addresses: 2048, Ports: 1, PinDir: opts.PinDir, Log: opts.Log})
	if err != nil {
		return nil, err
	}
	f := &Filter{Collection: c, ifindex: opts.Ifindex}
	if err := f.open(opts); err != nil {
		return nil, errors.Join(err, c.release())
	}
	return f, nil
}

func (f *Filter) open(opts FilterOptions) (err error) {
	for _, r := range opts.Routers {
		r.Ifindex = opts.Ifindex
		if err := f.SetRouter(SlotOf(r.VRID, r.IPv6), r); err != nil {
			return err
		}
	}
	if err := f.SetLocals(opts.Ifindex, opts.Locals); err != nil {
		return err
	}
	port := Port{
		Ifindex: opts.Ifindex, Ifname: opts.Ifname, Modes: opts.Modes, Holder: opts.Holder, Egress: opts.Egress,
	}
	copy(port.MAC[:], opts.MAC)
	f.mode, err = f.Attach(port)
	return err
}

// Mode returns how the program is attached.
func (f *Filter) Mode() Mode { return f.mode }

// Counters returns, by reason, the frames of all CPUs.
func (f *Filter) Counters() (Counters, error) {
	all, err := f.Collection.Counters(0)
	if err != nil {
		return Counters{}, err
	}
	c, err := f.Collection.Counters(f.ifindex)
	c[ReasonNotVRRP] = all[ReasonNotVRRP]
	return c, err
}

// SetMAC tells the program the hardware address of the interface.
func (f *Filter) SetMAC(mac net.HardwareAddr) {
	if len(mac) == 6 {
		f.Collection.SetMAC(f.ifindex, [6]byte(mac))
	}
}

// OpenSession makes the program record the answers of a reflector.
func (f *Filter) OpenSession(local, remote uint32, peer netip.Addr, echo bool) {
	f.Collection.OpenSession(Session{Local: local, Remote: remote, Ifindex: f.ifindex, Peer: peer, Echo: echo})
}
