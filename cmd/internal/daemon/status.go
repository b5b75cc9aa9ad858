// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"os"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// status reads what the loop published. The loop is not asked and does not
// notice.
func (d *Daemon) status() ctlapi.Status {
	s := ctlapi.Status{
		Version: d.opts.Version, PID: os.Getpid(), StartedAt: d.started, Loop: d.loop.stats.status(),
	}
	for _, i := range d.insts {
		s.Instances = append(s.Instances, i.status())
	}
	for _, f := range d.ifaces {
		s.Interfaces = append(s.Interfaces, f.status(d.netns))
	}
	return s
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

func millis(ns int64) float64 { return float64(ns) / 1e6 }

func (i *instance) status() ctlapi.InstanceStatus {
	now := clock.Now()
	sh := &i.shared
	since := sh.since.Load()
	s := ctlapi.InstanceStatus{
		Name: i.cfg.Name, Interface: i.iface.name, VRID: i.cfg.VRID, Version: i.cfg.Version,
		State: control.State(sh.state.Load()).String(), Since: wall(since).Format(time.RFC3339Nano),
		SinceSeconds: seconds(now - since), Why: control.Reason(sh.reason.Load()).String(),
		Priority: uint8(sh.priority.Load()), BasePriority: i.cfg.Priority,
		AdvertMs: millis(int64(i.cfg.Interval)), Peers: []ctlapi.Peer{},
	}
	arrival := i.iface.plane.Liveness(i.slot)
	s.Arrival = ctlapi.Liveness(arrival)
	for _, a := range i.cfg.Addresses {
		s.Addresses = append(s.Addresses, a.Prefix.String())
	}
	if m := sh.master.Load(); m != 0 {
		s.Master, s.MasterPriority = address(m).String(), uint8(sh.masterPriority.Load())
	}
	for k := range sh.peers {
		p := &sh.peers[k]
		if w := p.addr.Load(); w != 0 {
			last := p.last.Load()
			if address(w).String() == s.Master {
				last = max(last, s.Arrival.LastNs)
			}
			s.Peers = append(s.Peers, ctlapi.Peer{
				Address: address(w).String(), Priority: uint8(p.priority.Load()),
				LastSeenSeconds: seconds(now - last),
			})
		}
	}
	s.Counters = i.counters(arrival)
	s.Alarms = i.alarms.list()
	s.Fence.Enabled = i.cfg.Fence && i.iface.plane.Mode() != transport.ModeSocket
	if f := i.iface.guard.Fence(i.slot, now); f.Seen > 0 {
		s.Fence.Active, s.Fence.Seen = f.Active, f.Seen
		s.Fence.Address, s.Fence.MAC = f.Source.String(), f.MAC.String()
	}
	return s
}

func (i *instance) counters(arrival loader.Liveness) ctlapi.Counters {
	sh := &i.shared
	c := ctlapi.Counters{
		AdvertsSent: sh.sent.Load(), AdvertsReceived: sh.received.Load() + arrival.Count,
		PriorityZeroSent: sh.zeroSent.Load(), PriorityZeroReceived: sh.zeroReceived.Load(),
		MasterDownHeld: sh.held.Load(), Transitions: map[string]uint64{}, Rejected: map[string]uint64{},
	}
	for r := range control.ReasonMax {
		if n := sh.transitions[r].Load(); n > 0 {
			c.Transitions[r.String()] = n
		}
	}
	for r := packet.RejectTruncated; r < packet.RejectMax; r++ {
		if n := sh.rejected[r].Load(); n > 0 {
			c.Rejected[r.String()] = n
		}
	}
	if i.cfg.Version == 3 {
		c.ChecksumForms = map[string]uint64{}
		for f := range sh.forms {
			c.ChecksumForms[packet.ChecksumForm(f).String()] = sh.forms[f].Load()
		}
	}
	return c
}

func (f *iface) status(netns uint64) ctlapi.InterfaceStatus {
	s := ctlapi.InterfaceStatus{
		Name: f.name, Dataplane: string(f.plane.Mode()), Frames: map[string]ctlapi.Count{},
		SendErrors: f.sendErrors.Load(),
	}
	if f.plane.Mode() != transport.ModeSocket {
		s.Pins = loader.PinDir(netns, f.name)
	}
	s.Lease, s.Sessions = f.lease(), f.sessions()
	counters, err := f.plane.Counters()
	if err != nil {
		s.Err = err.Error()
	}
	for r, n := range counters {
		s.Frames[loader.Reason(r).String()] = ctlapi.Count(n)
	}
	return s
}

func (f *iface) lease() *ctlapi.Lease {
	if f.plane.Mode() == transport.ModeSocket {
		return nil
	}
	l, now := f.guard.Lease(), clock.Now()
	out := &ctlapi.Lease{
		Held: l.UntilNs > now, RemainingMs: max(0, millis(l.UntilNs-now)), DurationMs: millis(int64(f.leaseTime)),
		ExitHook: l.Tgid != 0, Reflector: "off",
	}
	switch {
	case !f.reflects:
	case out.Held && l.Masters > 0:
		out.Reflector = bfd.Up.String()
	default:
		out.Reflector = bfd.AdminDown.String()
	}
	return out
}

func (f *iface) sessions() []ctlapi.Session {
	out := []ctlapi.Session{}
	if f.detector == nil {
		return out
	}
	now := clock.Now()
	for n := range f.detector.sessions {
		s := &f.detector.sessions[n]
		sh := &s.shared
		peer := sh.peer.Load()
		if peer == 0 {
			continue
		}
		x := ctlapi.Session{
			Peer: address(peer).String(), Mode: "sbfd", State: bfd.State(sh.state.Load()).String(),
			Diag: bfd.Diag(sh.diag.Load()).String(), SinceSeconds: seconds(now - sh.since.Load()),
			Instances: int(sh.users.Load()), IntervalMs: millis(sh.interval.Load()), Multiplier: int(sh.multiplier.Load()),
			LocalDiscr: s.local, RemoteDiscr: peer, Sent: sh.sent.Load(), Unsent: sh.unsent.Load(),
			Replies: f.guard.Answer(s.local).Replies, Verdicts: map[string]uint64{},
		}
		if sh.echo.Load() {
			x.Mode, x.RemoteDiscr = "echo", s.local
		}
		for v, name := range verdictNames {
			if name != "" {
				x.Verdicts[name] = sh.verdicts[v].Load()
			}
		}
		out = append(out, x)
	}
	return out
}

var verdictNames = [...]string{
	bfd.VerdictUp: "up", bfd.VerdictDown: "down", bfd.VerdictAdminDown: "admin_down",
}

func (s *loopStats) status() ctlapi.LoopStatus {
	return ctlapi.LoopStatus{
		Wakeups: s.wakeups.Load(), Graces: s.graces.Load(), LostReports: s.lost.Load(),
		HandledMaxMs: millis(s.handled.Max()), JudgedLateMaxMs: millis(s.judged.Max()),
		WakeLateMaxMs: millis(s.late.Max()), WakeLateP99Ms: millis(s.late.Quantile(0.99)), Stalls: s.stalls.Load(),
		HandledP99UpperMs: millis(s.handled.Quantile(0.99)), JudgedP99UpperMs: millis(s.judged.Quantile(0.99)),
	}
}
