// SPDX-License-Identifier: Apache-2.0

// Package snapshot collects what is the case now, as plain values: what the
// event loop published, and what the kernel recorded. The loop is not asked and
// does not notice.
package snapshot

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// Kernel is what can be read of the kernel side, by any thread.
type Kernel interface {
	Liveness(loader.RouterID) loader.Liveness
	Fence(loader.RouterID, int64) loader.Fence
	Lease() loader.Lease
	Counters(ifindex int) (loader.Counters, error)
	Arrived(loader.RouterID) uint64
	Answer(local uint32) loader.Answer
}

// Router is what is known of a virtual router beside what it publishes.
type Router struct {
	*engine.Router
	Records      Kernel // nil: no program
	Name         string
	Interface    string
	VRID         uint8
	Version      uint8
	BasePriority uint8
	Interval     time.Duration
	Addresses    []netip.Prefix
	Fence        bool
	Fault        string // why it cannot leave FAULT; empty if the host has what it needs
	Trouble      *atomic.Pointer[Trouble]
	// Unguarded is the trouble with the firewall entries of its addresses; nil:
	// none.
	Unguarded *Trouble
}

// Trouble is what this host does not do as it was told.
type Trouble struct {
	Since   int64    // CLOCK_MONOTONIC nanoseconds
	Failed  []string // addresses that the kernel refuses, with the reason
	Removed []string // owned addresses that something else removed, itself or their firewall entries
}

// Port is what is known of an interface that adverts use.
type Port struct {
	*engine.Port
	Records  Kernel // nil: no program
	Mode     string
	Reason   string // why no earlier mode is used
	Pins     string // folder in the BPF file system
	Reflects bool   // peers may probe
	// Counters are those of the packet socket; nil: the kernel has them.
	Counters func() (loader.Counters, error)
}

// Sources are what there is to read. They are replaced whole.
type Sources struct {
	Routers  []Router
	Ports    []Port
	Sessions []*engine.Session
}

// Reader takes snapshots.
type Reader struct {
	Clock func() int64
	Lease time.Duration

	mu      sync.RWMutex
	sources *Sources
}

// Set replaces what is read. When it returns, nobody reads what was there
// before: it may be freed.
func (r *Reader) Set(s *Sources) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sources = s
}

// Snapshot is what is the case at one moment.
type Snapshot struct {
	Now        int64 // CLOCK_MONOTONIC nanoseconds
	Instances  []Instance
	Interfaces []Interface
	// Other counts the frames that are not VRRP, of all interfaces with a
	// program together.
	Other uint64

	at map[int]int // position of an interface in Interfaces, by ifindex
}

// Instance is a virtual router.
type Instance struct {
	Router
	State       engine.State
	Peers       []engine.Peer
	Liveness    loader.Liveness
	KernelFence loader.Fence
	FenceOn     bool // the fence is wanted, and there is a program to hold it
}

// Interface is a port.
type Interface struct {
	Port
	Lease     loader.Lease // zero without a program
	LeaseHeld bool
	Frames    loader.Counters
	FramesErr error
	Sessions  []Session
	HasKernel bool
}

// Session is an S-BFD session that has been used.
type Session struct {
	engine.SessionState
	Replies      uint64
	Sent, Unsent uint64
	Verdicts     [4]uint64 // by bfd.Verdict
}

// Take reads everything.
func (r *Reader) Take() (s Snapshot) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s.Now = r.Clock()
	if r.sources == nil {
		return s
	}
	for i := range r.sources.Routers {
		s.Instances = append(s.Instances, r.sources.instance(&r.sources.Routers[i], s.Now))
	}
	for i := range r.sources.Ports {
		s.Interfaces = append(s.Interfaces, r.sources.port(&r.sources.Ports[i], s.Now))
	}
	r.sources.sessions(&s)
	s.Other = r.sources.other()
	return s
}

// Brief reads what alarms are judged by, several times a second, into the memory
// of the snapshot before: states, numbers of adverts, and sessions. Its time grows
// with each of them, not with their product.
func (r *Reader) Brief(s *Snapshot) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	*s = Snapshot{Now: r.Clock(), Instances: s.Instances[:0], Interfaces: s.Interfaces[:0], at: s.at}
	if r.sources == nil {
		return
	}
	for _, x := range r.sources.Routers {
		i := Instance{Router: x, State: x.Published.State()}
		if x.Records != nil {
			i.Liveness.Count = x.Records.Arrived(x.ID)
		}
		s.Instances = append(s.Instances, i)
	}
	n := len(r.sources.Ports)
	s.Interfaces = slices.Grow(s.Interfaces, n)[:n]
	for i, p := range r.sources.Ports {
		f := &s.Interfaces[i]
		*f = Interface{Port: p, HasKernel: p.Records != nil, Sessions: f.Sessions[:0]}
	}
	r.sources.sessions(s)
}

// other asks one port for the traffic that is not for us: all have the same.
func (src *Sources) other() uint64 {
	for i := range src.Ports {
		if p := &src.Ports[i]; p.Records != nil {
			all, err := p.Records.Counters(0)
			if err != nil {
				return 0
			}
			return all[loader.ReasonNotVRRP].Pass
		}
	}
	return 0
}

func (src *Sources) instance(r *Router, now int64) Instance {
	i := Instance{Router: *r, State: r.Published.State()}
	peers := r.Published.Peers()
	if r.Records != nil {
		i.Liveness, i.KernelFence, i.FenceOn = r.Records.Liveness(r.ID), r.Records.Fence(r.ID, now), r.Fence
	}
	for _, p := range peers {
		if p.Addr == (engine.Addr{}) {
			continue
		}
		if p.Addr == i.State.Master {
			p.Last = max(p.Last, i.Liveness.LastNs)
		}
		i.Peers = append(i.Peers, p)
	}
	return i
}

func (src *Sources) port(p *Port, now int64) Interface {
	f := Interface{Port: *p, HasKernel: p.Records != nil}
	switch {
	case p.Counters != nil:
		f.Frames, f.FramesErr = p.Counters()
	case f.HasKernel:
		f.Frames, f.FramesErr = p.Records.Counters(p.Ifindex)
	}
	if !f.HasKernel {
		return f
	}
	f.Lease = p.Records.Lease()
	f.LeaseHeld = f.Lease.UntilNs > now
	return f
}

// sessions adds each session to the interface that it is on.
func (src *Sources) sessions(s *Snapshot) {
	if s.at == nil {
		s.at = make(map[int]int, len(s.Interfaces))
	}
	clear(s.at)
	for i := range s.Interfaces {
		if f := &s.Interfaces[i]; f.HasKernel {
			s.at[f.Ifindex] = i
		}
	}
	for _, from := range src.Sessions {
		state := from.Current()
		i, ok := s.at[int(state.Ifindex)]
		if !ok || state.Peer == (engine.Addr{}) {
			continue
		}
		f := &s.Interfaces[i]
		x := Session{
			SessionState: state, Sent: from.Sent.Load(), Unsent: from.Unsent.Load(),
			Replies: f.Records.Answer(state.Local).Replies,
		}
		for v := range x.Verdicts {
			x.Verdicts[v] = from.Verdicts[v].Load()
		}
		f.Sessions = append(f.Sessions, x)
	}
}

// Received returns the adverts that the loop judged and the repetitions that
// the kernel kept to itself.
func (i *Instance) Received() uint64 { return i.Published.Received.Load() + i.Liveness.Count }

// Reflector returns what the port's reflector tells peers: Up, AdminDown or
// off.
func (f *Interface) Reflector() string {
	switch {
	case !f.Reflects:
		return "off"
	case f.LeaseHeld && f.Lease.Masters > 0:
		return bfd.Up.String()
	}
	return bfd.AdminDown.String()
}

// MAC returns a hardware address as it is written.
func MAC(mac [6]byte) string { return net.HardwareAddr(mac[:]).String() }

// Wall converts a time of CLOCK_MONOTONIC, as near as two clocks allow.
func (s *Snapshot) Wall(ns int64) time.Time { return time.Now().Add(time.Duration(ns - s.Now)) }

// States are those of a virtual router.
var States = []control.State{control.Init, control.Backup, control.Master, control.Fault}

// Forms are the checksum forms of version 3.
var Forms = []packet.ChecksumForm{packet.ChecksumMessage, packet.ChecksumPseudoHeader}

// Mode returns sbfd or echo.
func (s *Session) Mode() string {
	if s.Echo {
		return "echo"
	}
	return "sbfd"
}
