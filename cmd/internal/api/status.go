// SPDX-License-Identifier: Apache-2.0

package api

import (
	"os"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

func millis(ns int64) float64 { return float64(ns) / 1e6 }

func (s *Server) statusNow() ctlapi.Status {
	now := s.opts.Reader.Take()
	out := ctlapi.Status{
		Version: s.opts.Version, PID: os.Getpid(), StartedAt: s.started, Loop: loopStatus(s.opts.Loop),
		FramesNotVRRP: now.Other,
	}
	for i := range now.Instances {
		out.Instances = append(out.Instances, s.instance(&now, &now.Instances[i]))
	}
	for i := range now.Interfaces {
		out.Interfaces = append(out.Interfaces, s.port(&now, &now.Interfaces[i]))
	}
	return out
}

func (s *Server) instance(now *snapshot.Snapshot, i *snapshot.Instance) ctlapi.InstanceStatus {
	st := &i.State
	out := ctlapi.InstanceStatus{
		Name: i.Name, Interface: i.Interface, VRID: i.VRID, Version: i.Version,
		State: st.State.String(), Since: now.Wall(st.Since).Format(time.RFC3339Nano),
		SinceSeconds: seconds(now.Now - st.Since), Why: st.Reason.String(), Fault: i.Fault,
		Priority: st.Priority, BasePriority: i.BasePriority,
		AdvertMs: millis(int64(i.Interval)), Arrival: liveness(&i.Liveness), Peers: []ctlapi.Peer{},
		Master: st.Master.String(), MasterPriority: st.MasterPriority, Counters: counters(i), Alarms: []ctlapi.Alarm{},
	}
	for _, a := range i.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	for _, p := range i.Peers {
		out.Peers = append(out.Peers, ctlapi.Peer{
			Address: p.Addr.String(), Priority: p.Priority, LastSeenSeconds: seconds(now.Now - p.Last),
		})
	}
	active, _ := s.opts.Alarms.Active(i.Router.Router)
	for _, a := range active {
		out.Alarms = append(out.Alarms, ctlapi.Alarm{Kind: a.Kind.String(), Address: a.Address, MAC: a.MAC, Since: a.Since})
	}
	out.Fence.Enabled = i.FenceOn
	if f := i.KernelFence; f.Seen > 0 {
		out.Fence.Active, out.Fence.Seen = f.Active, f.Seen
		out.Fence.Address, out.Fence.MAC = f.Source.String(), f.MAC.String()
	}
	return out
}

func liveness(l *loader.Liveness) ctlapi.Liveness {
	return ctlapi.Liveness{
		LastNs: l.LastNs, Count: l.Count, MeanGapNs: l.MeanGapNs, JitterNs: l.JitterNs,
		LargestGapNs: l.LargestGapNs, GapLog2: l.GapLog2, Arrivals: l.Arrivals,
	}
}

func counters(i *snapshot.Instance) ctlapi.Counters {
	p := &i.Published
	c := ctlapi.Counters{
		AdvertsSent: p.Sent.Load(), AdvertsReceived: i.Received(),
		PriorityZeroSent: p.ZeroSent.Load(), PriorityZeroReceived: p.ZeroReceived.Load(),
		MasterDownHeld: p.Held.Load(), Transitions: map[string]uint64{}, Rejected: map[string]uint64{},
	}
	for r := range control.ReasonMax {
		if n := p.Transitions[r].Load(); n > 0 {
			c.Transitions[r.String()] = n
		}
	}
	for r := packet.RejectTruncated; r < packet.RejectMax; r++ {
		if n := p.Rejected[r].Load(); n > 0 {
			c.Rejected[r.String()] = n
		}
	}
	if i.Version == 3 {
		c.ChecksumForms = map[string]uint64{}
		for _, f := range snapshot.Forms {
			c.ChecksumForms[f.String()] = p.Forms[f].Load()
		}
	}
	return c
}

func (s *Server) port(now *snapshot.Snapshot, f *snapshot.Interface) ctlapi.InterfaceStatus {
	out := ctlapi.InterfaceStatus{
		Name: f.Name, Dataplane: f.Mode, DataplaneWhy: f.Reason, Pins: f.Pins, Frames: map[string]ctlapi.Count{},
		SendErrors: f.SendErrors.Load(), Sessions: []ctlapi.Session{},
	}
	if f.HasKernel {
		out.Lease = &ctlapi.Lease{
			Held: f.LeaseHeld, RemainingMs: max(0, millis(f.Lease.UntilNs-now.Now)),
			DurationMs: millis(int64(s.opts.Reader.Lease)), ExitHook: f.Lease.Tgid != 0, Reflector: f.Reflector(),
		}
	}
	for i := range f.Sessions {
		out.Sessions = append(out.Sessions, session(now, &f.Sessions[i]))
	}
	if f.FramesErr != nil {
		out.Err = f.FramesErr.Error()
	}
	for r, n := range f.Frames {
		out.Frames[loader.Reason(r).String()] = ctlapi.Count{Pass: n.Pass, Drop: n.Drop}
	}
	return out
}

func session(now *snapshot.Snapshot, s *snapshot.Session) ctlapi.Session {
	out := ctlapi.Session{
		Peer: s.Peer.String(), Mode: s.Mode(), State: s.State.String(), Diag: s.Diag.String(),
		SinceSeconds: seconds(now.Now - s.Since), Instances: int(s.Users), IntervalMs: millis(int64(s.Interval)),
		Multiplier: int(s.Multiplier), LocalDiscr: s.Local, RemoteDiscr: s.Remote, Sent: s.Sent, Unsent: s.Unsent,
		Replies: s.Replies, Verdicts: map[string]uint64{},
	}
	for _, v := range bfd.Verdicts {
		out.Verdicts[v.String()] = s.Verdicts[v]
	}
	return out
}

func loopStatus(s *engine.Stats) ctlapi.LoopStatus {
	return ctlapi.LoopStatus{
		Wakeups: s.Wakeups.Load(), Graces: s.Graces.Load(), LostReports: s.Lost.Load(), Stalls: s.Suspensions.Load(),
		HandledMaxMs: millis(s.Handled.Max()), JudgedLateMaxMs: millis(s.Acted.Max()),
		WakeLateMaxMs: millis(s.Late.Max()), WakeLateP99Ms: millis(s.Late.Quantile(0.99)),
		HandledP99UpperMs: millis(s.Handled.Quantile(0.99)), JudgedP99UpperMs: millis(s.Acted.Quantile(0.99)),
	}
}
