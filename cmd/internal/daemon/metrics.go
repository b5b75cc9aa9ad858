// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/histogram"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// collector makes metrics from what the loop published, at each scrape.
type collector struct{ d *Daemon }

var instanceLabels = []string{"instance", "interface", "vrid"}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("xvrrp_"+name, help, labels, nil)
}

func instanceDesc(name, help string, more ...string) *prometheus.Desc {
	return desc(name, help, append(append([]string{}, instanceLabels...), more...)...)
}

var (
	descInfo         = desc("build_info", "Version of the daemon.", "version")
	descState        = instanceDesc("state", "1 for the state that the virtual router is in, 0 for the others.", "state")
	descSince        = instanceDesc("state_seconds", "Time since the last transition.")
	descPriority     = instanceDesc("priority", "Effective priority.")
	descTransitions  = instanceDesc("transitions_total", "Changes of state by reason.", "reason")
	descSent         = instanceDesc("adverts_sent_total", "Adverts sent.")
	descReceived     = instanceDesc("adverts_received_total", "Valid adverts received.")
	descZeroSent     = instanceDesc("priority_zero_sent_total", "Adverts with priority 0 sent.")
	descZeroReceived = instanceDesc("priority_zero_received_total", "Adverts with priority 0 received.")
	descHeld         = instanceDesc("master_down_held_total", "Times that Master_Down_Interval had passed and the takeover was held back, because the master answered fast detection.")
	descRejected     = instanceDesc("adverts_rejected_total", "Adverts refused, by reason.", "reason")
	descForms        = instanceDesc("adverts_checksum_total", "Valid version 3 adverts by the bytes that their checksum covers.", "form")
	descJitter       = instanceDesc("advert_jitter_seconds", "Mean deviation of the master's adverts from their mean gap, as the kernel saw them.")
	descLargestGap   = instanceDesc("advert_largest_gap_seconds", "Largest gap between two adverts of the current master.")
	descFrames       = desc("frames_total", "Frames that left the receive program, by reason and verdict.", "interface", "reason", "verdict")
	descMode         = desc("dataplane", "1 for the data plane in use.", "interface", "mode")
	descSendErrors   = desc("advert_send_errors_total", "Adverts that the kernel refused to send.", "interface")
	descAnnounced    = desc("announcements_sent_total", "Gratuitous ARP frames sent.")
	descUnannounced  = desc("announcements_dropped_total", "Gratuitous ARP frames that the kernel refused.")
	descWakeups      = desc("loop_wakeups_total", "Rounds of the event loop.")
	descHandled      = desc("loop_event_seconds", "Time from the kernel's receive stamp of an event to the end of its handling.")
	descJudged       = desc("loop_deadline_lateness_seconds", "Time from a deadline to the moment the loop acted on it.")
	descWakeLate     = desc("loop_wake_lateness_seconds", "Time from a planned wake-up of the event loop to the wake-up: what a lease has to allow for.")
	descStalls       = desc("loop_stalls_total", "Times that a master was held up for longer than its peers wait.")
	descFence        = instanceDesc("fence_active", "1 while the kernel keeps this host from speaking for the addresses.")
	descAlarm        = instanceDesc("alarm", "1 while it is the case that two hosts serve one address, or may.", "alarm")
	descAlarms       = instanceDesc("alarms_total", "Alarms that were raised.")
	descLease        = desc("lease_held", "1 while the event loop keeps its promise to the kernel.", "interface")
	descReflector    = desc("fast_detect_reflector", "1 for what peers are answered, 0 for the others.", "interface", "state")
	descSession      = desc("fast_detect_session", "1 for the state of the session, 0 for the others.", "interface", "peer", "mode", "state")
	descSessionInfo  = desc("fast_detect_session_info", "Discriminators of the session, and the diagnostic of its last change.", "interface", "peer", "mode", "local_discriminator", "remote_discriminator", "diag")
	descSessionsFull = desc("fast_detect_sessions_full_total", "Masters that could not be probed because the interface has too many sessions.")
	descProbes       = desc("fast_detect_probes_total", "Probes sent.", "interface", "peer", "mode")
	descReplies      = desc("fast_detect_replies", "Probes answered since the session was opened.", "interface", "peer", "mode")
	descVerdicts     = desc("fast_detect_verdicts_total", "Changes of a session.", "interface", "peer", "mode", "verdict")
	descLost         = desc("loop_reports_lost_total", "Reports to the log that found their queue full.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descState, descSince, descPriority, descTransitions, descSent, descReceived,
		descZeroSent, descZeroReceived, descHeld, descRejected, descForms, descJitter, descLargestGap,
		descFrames, descMode, descSendErrors, descAnnounced, descUnannounced, descWakeups,
		descHandled, descJudged, descLost, descWakeLate, descStalls, descFence, descAlarm, descAlarms,
		descLease, descReflector, descSession, descSessionInfo, descSessionsFull, descProbes, descReplies, descVerdicts,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descInfo, 1, c.d.opts.Version)
	for _, i := range c.d.insts {
		i.collect(gauge, count)
	}
	for _, f := range c.d.ifaces {
		f.collect(gauge, count)
	}
	count(descAnnounced, c.d.host.Sent.Load())
	count(descUnannounced, c.d.host.Dropped.Load())
	stats := &c.d.loop.stats
	count(descWakeups, stats.wakeups.Load())
	count(descLost, stats.lost.Load())
	ch <- metric(descHandled, &stats.handled)
	ch <- metric(descJudged, &stats.judged)
	ch <- metric(descWakeLate, &stats.late)
	count(descStalls, stats.stalls.Load())
	count(descSessionsFull, stats.sessionsFull.Load())
}

type emitGauge func(*prometheus.Desc, float64, ...string)

type emitCount func(*prometheus.Desc, uint64, ...string)

func (i *instance) collect(gauge emitGauge, count emitCount) {
	s := i.status()
	labels := []string{s.Name, s.Interface, strconv.Itoa(int(s.VRID))}
	with := func(more string) []string { return append(append([]string{}, labels...), more) }
	for _, state := range []control.State{control.Init, control.Backup, control.Master, control.Fault} {
		gauge(descState, truth(state.String() == s.State), with(state.String())...)
	}
	gauge(descFence, truth(s.Fence.Active), labels...)
	for _, kind := range alarmKinds {
		gauge(descAlarm, truth(slices.ContainsFunc(s.Alarms, func(a ctlapi.Alarm) bool { return a.Kind == kind })), with(kind)...)
	}
	count(descAlarms, i.shared.alarms.Load(), labels...)
	gauge(descSince, s.SinceSeconds, labels...)
	gauge(descPriority, float64(s.Priority), labels...)
	count(descSent, s.Counters.AdvertsSent, labels...)
	count(descReceived, s.Counters.AdvertsReceived, labels...)
	count(descZeroSent, s.Counters.PriorityZeroSent, labels...)
	count(descZeroReceived, s.Counters.PriorityZeroReceived, labels...)
	count(descHeld, s.Counters.MasterDownHeld, labels...)
	gauge(descJitter, seconds(s.Arrival.JitterNs), labels...)
	gauge(descLargestGap, seconds(s.Arrival.LargestGapNs), labels...)
	for r := range control.ReasonMax {
		count(descTransitions, i.shared.transitions[r].Load(), with(r.String())...)
	}
	for r := packet.RejectTruncated; r < packet.RejectMax; r++ {
		count(descRejected, i.shared.rejected[r].Load(), with(r.String())...)
	}
	for f := range i.shared.forms {
		count(descForms, i.shared.forms[f].Load(), with(packet.ChecksumForm(f).String())...)
	}
}

func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

func (f *iface) collectGuard(gauge emitGauge, count emitCount) {
	if l := f.lease(); l != nil {
		gauge(descLease, truth(l.Held), f.name)
		for _, state := range []string{"Up", "AdminDown", "off"} {
			gauge(descReflector, truth(state == l.Reflector), f.name, state)
		}
	}
	for _, s := range f.sessions() {
		labels := []string{f.name, s.Peer, s.Mode}
		with := func(more string) []string { return append(append([]string{}, labels...), more) }
		for _, state := range []bfd.State{bfd.AdminDown, bfd.Down, bfd.Up} {
			gauge(descSession, truth(state.String() == s.State), with(state.String())...)
		}
		gauge(descSessionInfo, 1, append(with(strconv.FormatUint(uint64(s.LocalDiscr), 10)), strconv.FormatUint(uint64(s.RemoteDiscr), 10), s.Diag)...)
		count(descProbes, s.Sent, labels...)
		gauge(descReplies, float64(s.Replies), labels...)
		for v, n := range s.Verdicts {
			count(descVerdicts, n, with(v)...)
		}
	}
}

func (f *iface) collect(gauge emitGauge, count emitCount) {
	f.collectGuard(gauge, count)
	gauge(descMode, 1, f.name, string(f.plane.Mode()))
	count(descSendErrors, f.sendErrors.Load(), f.name)
	counters, err := f.plane.Counters()
	if err != nil {
		return // the scrape lacks them, which is what is true
	}
	for r, n := range counters {
		count(descFrames, n.Pass, f.name, loader.Reason(r).String(), "pass")
		count(descFrames, n.Drop, f.name, loader.Reason(r).String(), "drop")
	}
}

func metric(d *prometheus.Desc, h *histogram.Histogram) prometheus.Metric {
	total, sum, buckets := h.Cumulative()
	return prometheus.MustNewConstHistogram(d, total, sum, buckets)
}
