// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/vip"
)

// publish writes the log and feeds the followers of events. There is one line
// for each transition; that of a takeover waits for the addresses, so that it
// can say how long they took.
func (d *Daemon) publish(ctx context.Context) error {
	p := &publisher{d: d, waiting: map[int][]transition{}}
	for {
		select {
		case t := <-d.loop.transitions:
			p.transition(t)
		case r := <-d.reports:
			p.report(r)
		case r := <-d.loop.refusals:
			p.refusal(r)
		case n := <-d.loop.detections:
			p.detection(n)
		case <-ctx.Done():
			p.rest()
			return nil
		}
	}
}

type publisher struct {
	d       *Daemon
	waiting map[int][]transition // takeovers and releases by instance, oldest first

	refusals   int // lines about refused adverts since quiet
	quiet      time.Time
	suppressed int
}

// Refused adverts are a stranger's to send: there are at most refusalLines of
// them in a refusalPeriod. The counters have them all.
const (
	refusalLines  = 20
	refusalPeriod = 10 * time.Second
)

// rest says what is left to say at the end.
func (p *publisher) rest() {
	for {
		select {
		case t := <-p.d.loop.transitions:
			p.transition(t)
		case r := <-p.d.reports:
			p.report(r)
		default:
			for _, ts := range p.waiting {
				for _, t := range ts {
					p.log(t, nil)
				}
			}
			return
		}
	}
}

func (p *publisher) transition(t transition) {
	p.d.ctl.events.send(ctlapi.Event{
		Time: wall(t.at), Kind: "transition", Instance: t.inst.cfg.Name,
		From: t.from.String(), To: t.to.String(), Why: t.reason.String(),
		Priority: t.priority, Peer: peerName(t.peer),
	})
	if t.to == control.Master || t.from == control.Master {
		p.waiting[t.inst.id] = append(p.waiting[t.inst.id], t)
		return
	}
	p.log(t, nil)
}

// report completes a transition. It may overtake it by a moment: the loop posts
// the one before it orders the other, but they are two channels. The worker
// carries out the newest order only; transitions that it passed over are
// logged without a report.
func (p *publisher) report(r vip.Report) {
	for more := true; more; {
		select {
		case t := <-p.d.loop.transitions:
			p.transition(t)
		default:
			more = false
		}
	}
	at := slices.IndexFunc(p.d.insts, func(i *instance) bool { return i.set == r.Set })
	ts := p.waiting[at]
	covered := 0
	for covered < len(ts) && ts[covered].at <= r.OrderedNs {
		covered++
	}
	if covered == 0 {
		if err := r.Err(); err != nil {
			p.d.log.Error("the kernel refused addresses; they are tried again", "instance", p.d.insts[at].cfg.Name, "err", err)
		}
		if len(r.Removed) > 0 {
			p.d.log.Warn("something else removed addresses; they are put back", "instance", p.d.insts[at].cfg.Name, "addresses", r.Removed)
		}
		return
	}
	for _, t := range ts[:covered-1] {
		p.log(t, nil)
	}
	p.log(ts[covered-1], &r)
	p.waiting[at] = ts[covered:]
}

func (p *publisher) log(t transition, r *vip.Report) {
	i := t.inst
	attrs := []any{
		"instance", i.cfg.Name, "iface", i.iface.name, "vrid", i.cfg.VRID,
		"from", t.from, "to", t.to, "reason", t.reason, "priority", t.priority,
	}
	if t.peer != 0 {
		attrs = append(attrs, "peer", address(t.peer))
	}
	if t.reason == control.ReasonMasterDown {
		if t.lastSeen > 0 {
			attrs = append(attrs, "silent_for", time.Duration(t.at-t.lastSeen))
		}
		attrs = append(attrs, "judged_late", time.Duration(t.late))
	}
	level := slog.LevelInfo
	if r != nil {
		attrs = append(attrs, "addresses_after", time.Duration(r.AppliedNs-r.OrderedNs))
		if r.Announced > 0 {
			attrs = append(attrs, "announced_after", time.Duration(r.Announced-r.OrderedNs))
		}
		if err := r.Err(); err != nil {
			level = slog.LevelError
			attrs = append(attrs, "err", err)
		}
	}
	p.d.log.Log(context.Background(), level, "transition", attrs...)
}

func (p *publisher) refusal(r refusal) {
	if now := time.Now(); now.Sub(p.quiet) > refusalPeriod {
		if p.suppressed > 0 {
			p.d.log.Warn("refused adverts of further kinds and peers were only counted", "kinds", p.suppressed)
		}
		p.quiet, p.refusals, p.suppressed = now, 0, 0
	}
	if p.refusals++; p.refusals > refusalLines {
		p.suppressed++
		return
	}
	e := ctlapi.Event{
		Time: time.Now(), Kind: "reject", Instance: r.inst.cfg.Name,
		Why: r.reason.String(), Peer: peerName(r.src),
	}
	if r.over {
		e.Kind, e.Why = "recovered", "valid adverts"
		p.d.log.Info("adverts are valid again", "instance", e.Instance, "peer", e.Peer)
	} else {
		p.d.log.Warn("advert refused; more of this kind are only counted",
			"instance", e.Instance, "iface", r.inst.iface.name, "vrid", r.inst.cfg.VRID,
			"peer", e.Peer, "reason", e.Why)
	}
	p.d.ctl.events.send(e)
}

// detection says that fast detection began to count, or that the RFC's timer
// is on its own again.
func (p *publisher) detection(n detection) {
	e := ctlapi.Event{
		Time: time.Now(), Kind: "fast_detect", Instance: n.iface.name, Peer: peerName(n.peer), Why: verdictNames[n.verdict],
	}
	attrs := []any{"iface", n.iface.name, "peer", e.Peer}
	switch n.verdict {
	case bfd.VerdictUp:
		p.d.log.Info("fast detection is up", attrs...)
	case bfd.VerdictAdminDown:
		p.d.log.Warn("the peer serves no longer; fast detection waits", append(attrs, "diag", n.diag, "instances", n.acted)...)
	default:
		attrs = append(attrs, "diag", n.diag, "unanswered_for", n.unanswered, "instances", n.acted)
		text := "the peer does not answer; fast detection waits"
		if n.still > 0 {
			text = "probes are not answered, though adverts come: the RFC's timer decides until they are"
			attrs = append(attrs, "instances_unmoved", n.still)
		}
		p.d.log.Warn(text, attrs...)
	}
	p.d.ctl.events.send(e)
}

func peerName(w uint32) string {
	if w == 0 {
		return ""
	}
	return address(w).String()
}

// wall converts a time of CLOCK_MONOTONIC, as near as two clocks allow.
func wall(ns int64) time.Time {
	return time.Now().Add(time.Duration(ns - clock.Now()))
}
