// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/netip"

	"github.com/xvrrp/xvrrp/cmd/internal/dataplane"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/release"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/vip"
)

// What the reconciler needs of everything that it changes or asks. Its tests
// have others in their place, and run without root and without a real clock.

// plane is the data plane.
type plane interface {
	Open(plan.PortKey, *plan.Port, []dataplane.Router) (*dataplane.Port, error)
	Change(*dataplane.Port, *plan.Port) error
	Attach(*dataplane.Port) error
	Pending(*dataplane.Port) bool
	Complete(*dataplane.Port)
	Retry(*dataplane.Port) bool
	InPath(*dataplane.Port) bool
	HasProgram(*dataplane.Port) bool
	Knows(*dataplane.Port, loader.RouterID) bool
	SetRouter(*dataplane.Port, loader.RouterID, plan.Identity, *plan.Router) error
	RemoveRouter(*dataplane.Port, loader.RouterID)
	ClosePort(*dataplane.Port) error
	Kernel() *loader.Collection
	LiftFences()
	DropUnused(keep map[int]bool, removable func(ifname string) bool)
	KeepPins() (made bool, err error)
	Close() error
}

// loop is the event loop.
type loop interface {
	Apply(*engine.Batch) bool
	Applied() uint64
	Retired(*engine.Router) bool
	Epoch(*engine.Router) uint64
}

// addresses are those of this host, and its firewall.
type addresses interface {
	Add(vip.Spec) *vip.Set
	Update(...vip.Change)
	Remove(*vip.Set)
	RemoveLeftovers([]vip.Address) error
	// Marked returns the facts with the mark on what this daemon has added.
	Marked(*plan.Facts) *plan.Facts
	// Unfenced replaces the addresses that the releaser has to remove when this
	// daemon hangs or is killed.
	Unfenced([]release.Address)
	Firewall(want map[string][]netip.Addr, removable func(ifname string) bool) (written []string, err error)
}

// links are the interfaces of this host.
type links interface {
	Facts() *plan.Facts
	Changed() <-chan struct{}
}

// present answers the event loop from the newest facts. It is an engine.Facts.
// On a kernel without the mark it takes a virtual address for one of the host's:
// what the loop would have to ask for has a lock. The plan knows better.
type present struct{ links }

func (p present) Down(w engine.Watched) bool { return down(p.Facts(), w) }

// down does not take an address for lost while the interface has another that
// adverts can be sent from: the plan moves the source there, and no router
// steps down.
func down(f *plan.Facts, w engine.Watched) bool {
	l := f.ByIndex(w.Ifindex)
	switch {
	case l == nil:
		return true
	case !w.Addr.IsValid():
		return !l.Up
	}
	a := l.Addr(w.Addr)
	return (a == nil || a.Tentative) && !l.OtherSource(w.Addr)
}

func (p present) MAC(ifindex int) (mac [6]byte) {
	if l := p.Facts().ByIndex(ifindex); l != nil {
		mac = l.MAC
	}
	return mac
}

// listener hears adverts while the ports are opened.
type listener interface {
	engine.Heard
	SetRouter(loader.RouterID, plan.Identity, *plan.Router) bool
	Close() error
}

// prober sends the probes of fast detection.
type prober interface {
	engine.Prober
	Close() error
}

// newProber returns no prober with an error, not a nil one in an interface.
func newProber() (prober, error) {
	p, err := transport.NewProber()
	if err != nil {
		return nil, err
	}
	return p, nil
}

// lock is held until it is released.
type lock interface{ Release() error }

type realPlane struct{ *dataplane.Plane }

func (realPlane) Pending(p *dataplane.Port) bool { return p.Pending() }

func (realPlane) InPath(p *dataplane.Port) bool { return p.InPath() }

func (realPlane) HasProgram(p *dataplane.Port) bool { return p.HasProgram() }

func (realPlane) Knows(p *dataplane.Port, id loader.RouterID) bool { return p.Knows(id) }

func (realPlane) SetRouter(p *dataplane.Port, id loader.RouterID, at plan.Identity, r *plan.Router) error {
	return p.SetRouter(id, at, r)
}

func (realPlane) RemoveRouter(p *dataplane.Port, id loader.RouterID) { p.RemoveRouter(id) }

func (realPlane) ClosePort(p *dataplane.Port) error { return p.Close() }

func (p realPlane) LiftFences() {
	if k := p.Kernel(); k != nil {
		k.LiftFences()
	}
}

func (p realPlane) KeepPins() (made bool, err error) {
	if k := p.Kernel(); k != nil {
		return k.KeepPins()
	}
	return false, nil
}

type realLoop struct{ *engine.Engine }

func (realLoop) Retired(r *engine.Router) bool { return r.Retired() }
func (realLoop) Epoch(r *engine.Router) uint64 { return r.Epoch() }

type realAddresses struct {
	*vip.Host
	releaser *release.Keeper
}

func (a realAddresses) Unfenced(list []release.Address) { a.releaser.Set(list) }

func (realAddresses) RemoveLeftovers(list []vip.Address) error {
	_, err := vip.Remove(list)
	return err
}

func (realAddresses) Firewall(want map[string][]netip.Addr, removable func(string) bool) ([]string, error) {
	return vip.Firewall(want, removable)
}

// lockOf returns what takes the locks of interfaces of a network namespace.
func lockOf(netns uint64) func(ifname string) (lock, error) {
	return func(ifname string) (lock, error) {
		l, err := rundir.LockInterface(netns, ifname)
		if err != nil {
			return nil, err
		}
		return l, nil
	}
}
