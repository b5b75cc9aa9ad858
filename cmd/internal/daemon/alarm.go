// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
)

// Alarms say that two hosts serve one address, or may. What is seen is
// recorded by the kernel and the event loop; it is judged here, a few times a
// second.

const (
	alarmPeriod = 200 * time.Millisecond
	// conflictFresh is how long an answer of another host counts, for ten
	// addresses or fewer: each of those is asked for once a second.
	conflictFresh = 2500 * time.Millisecond
	// settle is given to a former master to let go after a change.
	settle = 100 * time.Millisecond
	// deafAfter is the silence that makes a new master doubt its own hearing.
	deafAfter = 500 * time.Millisecond
)

// Kinds of alarms.
const (
	// alarmConflict: another MAC speaks for one of our addresses in ARP.
	alarmConflict = "vip_conflict"
	// alarmOtherMaster: another router of the same VRID advertises as master.
	alarmOtherMaster = "other_master"
	// alarmUnheard: it goes on though ours has won: it does not hear us.
	alarmUnheard = "unheard"
	// alarmDeaf: we replaced a master that fell silent, and so did everybody
	// else: perhaps we only do not hear.
	alarmDeaf = "deaf"
)

var alarmKinds = []string{alarmConflict, alarmOtherMaster, alarmUnheard, alarmDeaf}

// alarms holds those of one instance; the loop does not know it.
type alarms struct {
	mu     sync.Mutex
	active map[string]ctlapi.Alarm
}

// list returns the active alarms, in the order of their kinds.
func (a *alarms) list() []ctlapi.Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := []ctlapi.Alarm{}
	for _, kind := range alarmKinds {
		if x, ok := a.active[kind]; ok {
			out = append(out, x)
		}
	}
	return out
}

// hearing is when frames of any kind were last seen to arrive on an interface.
type hearing struct {
	frames uint64
	last   int64
}

func (d *Daemon) watchAlarms(ctx context.Context) error {
	tick := time.NewTicker(alarmPeriod)
	defer tick.Stop()
	ears := map[*iface]*hearing{}
	for {
		select {
		case <-tick.C:
			now := clock.Now()
			for _, f := range d.ifaces {
				if ears[f] == nil {
					ears[f] = &hearing{last: now}
				}
				ears[f].listen(f, now)
			}
			for _, i := range d.insts {
				d.judgeAlarms(i, now, ears[i.iface])
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *hearing) listen(f *iface, now int64) {
	counters, err := f.plane.Counters()
	if err != nil {
		return
	}
	frames := uint64(0)
	for _, c := range counters {
		frames += c.Pass + c.Drop
	}
	if frames != h.frames {
		h.frames, h.last = frames, now
	}
}

// judgeAlarms compares what is the case with what was.
func (d *Daemon) judgeAlarms(i *instance, now int64, ears *hearing) {
	is := map[string]ctlapi.Alarm{}
	raise := func(kind string, s *sighting) {
		is[kind] = ctlapi.Alarm{
			Kind: kind, Address: peerName(s.addr.Load()), MAC: s.hardwareAddr().String(), Since: wall(s.first.Load()),
		}
	}
	since := i.shared.since.Load()
	if control.State(i.shared.state.Load()) == control.Master && now-since > int64(settle) {
		conflict, rival, interval := &i.shared.conflict, &i.shared.rival, int64(i.cfg.Interval)
		if at := conflict.last.Load(); at > since+int64(settle) && now-at < d.conflictFresh() {
			raise(alarmConflict, conflict)
		}
		if at := rival.last.Load(); at > since+int64(settle) && now-at < 4*interval+int64(settle) {
			raise(alarmOtherMaster, rival)
			if at-rival.first.Load() > 3*interval {
				raise(alarmUnheard, rival)
			}
		}
		tookOver := control.Reason(i.shared.reason.Load())
		silence := tookOver == control.ReasonMasterDown || tookOver == control.ReasonFastDetect
		if silence && i.shared.lostMaster.Load() != 0 && i.iface.plane.Mode() != transport.ModeSocket &&
			ears.last < since+int64(2*alarmPeriod) && now-since > int64(deafAfter) {
			is[alarmDeaf] = ctlapi.Alarm{Kind: alarmDeaf, Address: peerName(i.shared.lostMaster.Load()), Since: wall(ears.last)}
		}
	}
	i.alarms.mu.Lock()
	defer i.alarms.mu.Unlock()
	for _, kind := range alarmKinds {
		was, had := i.alarms.active[kind]
		a, has := is[kind]
		switch {
		case has && !had:
			d.alarm(i, a, false)
		case had && !has:
			d.alarm(i, was, true)
		case has:
			a.Since = was.Since
			is[kind] = a
		}
	}
	i.alarms.active = is
}

// conflictFresh grows with the number of addresses, which are asked for in
// turn.
func (d *Daemon) conflictFresh() int64 {
	n := 0
	for _, i := range d.insts {
		n += len(i.cfg.Addresses)
	}
	return int64(conflictFresh) * int64(max(10, n)) / 10
}

var alarmTexts = map[string]string{
	alarmConflict:    "another host answers for our address",
	alarmOtherMaster: "another router advertises as master",
	alarmUnheard:     "another master does not hear us: it should have yielded",
	alarmDeaf:        "we send and have heard nobody since the master fell silent",
}

// alarm says that one began or is over.
func (d *Daemon) alarm(i *instance, a ctlapi.Alarm, over bool) {
	e := ctlapi.Event{Time: time.Now(), Kind: "alarm", Instance: i.cfg.Name, Why: a.Kind, Peer: a.Address, MAC: a.MAC}
	attrs := []any{"instance", i.cfg.Name, "iface", i.iface.name, "vrid", i.cfg.VRID,
		"alarm", a.Kind, "address", a.Address, "mac", a.MAC, "since", a.Since}
	if over {
		e.Kind = "alarm_over"
		d.log.Info("alarm is over", attrs...)
	} else {
		i.shared.alarms.Add(1)
		d.log.Error(alarmTexts[a.Kind], attrs...)
	}
	d.ctl.events.send(e)
}
