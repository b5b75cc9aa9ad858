// SPDX-License-Identifier: Apache-2.0

// Package metrics makes Prometheus metrics of a snapshot, at each scrape.
package metrics

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xvrrp/xvrrp/cmd/internal/alarm"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/histogram"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// Collector implements prometheus.Collector.
type Collector struct {
	Version string
	Reader  *snapshot.Reader
	Alarms  *alarm.Judge
	Loop    *engine.Stats
	// Announcements returns the gratuitous ARP frames that were sent and those
	// that the kernel refused.
	Announcements func() (sent, dropped uint64)
	// LogDropped returns the log lines that were dropped.
	LogDropped func() uint64
}

var instanceLabels = []string{"instance", "interface", "vrid"}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("xvrrp_"+name, help, labels, nil)
}

func instanceDesc(name, help string, more ...string) *prometheus.Desc {
	return desc(name, help, append(slices.Clone(instanceLabels), more...)...)
}

var (
	descInfo         = desc("build_info", "Version of the daemon.", "version")
	descState        = instanceDesc("state", "1 for the state of the virtual router, 0 for the other states.", "state")
	descSince        = instanceDesc("state_seconds", "Time since the last transition.")
	descPriority     = instanceDesc("priority", "Effective priority.")
	descTransitions  = instanceDesc("transitions_total", "Transitions, by reason.", "reason")
	descSent         = instanceDesc("adverts_sent_total", "Adverts sent.")
	descReceived     = instanceDesc("adverts_received_total", "Valid adverts received.")
	descZeroSent     = instanceDesc("priority_zero_sent_total", "Adverts with priority 0 sent.")
	descZeroReceived = instanceDesc("priority_zero_received_total", "Adverts with priority 0 received.")
	descHeld         = instanceDesc("master_down_held_total", "Expiries of Master_Down_Interval at which no takeover followed, because the master answered fast detection.")
	descRejected     = instanceDesc("adverts_rejected_total", "Adverts refused, by reason.", "reason")
	descForms        = instanceDesc("adverts_checksum_total", "Valid version 3 adverts, by the bytes that their checksum covers.", "form")
	descJitter       = instanceDesc("advert_jitter_seconds", "Mean deviation of the gaps between the master's adverts from their mean, measured in the kernel.")
	descLargestGap   = instanceDesc("advert_largest_gap_seconds", "Largest gap between two adverts of the current master.")
	descFrames       = desc("frames_total", "Frames that left the receive program, by reason and verdict.", "interface", "reason", "verdict")
	descMode         = desc("dataplane", "1 for the data plane in use.", "interface", "mode")
	descSendErrors   = desc("advert_send_errors_total", "Adverts that the kernel refused to send.", "interface")
	descAnnounced    = desc("announcements_sent_total", "Gratuitous ARP frames sent.")
	descUnannounced  = desc("announcements_dropped_total", "Gratuitous ARP frames that the kernel refused.")
	descWakeups      = desc("loop_wakeups_total", "Iterations of the event loop.")
	descHandled      = desc("loop_event_seconds", "Time from the kernel's receive stamp of an event to the end of its handling.")
	descActed        = desc("loop_deadline_lateness_seconds", "Time from a deadline to the moment at which the loop acted on it.")
	descWakeLate     = desc("loop_wake_lateness_seconds", "Time from a planned wake-up of the event loop to the wake-up. A lease must be longer.")
	descSuspensions  = desc("loop_stalls_total", "Suspensions of a master that were longer than its peers wait.")
	descFence        = instanceDesc("fence_active", "1 while the kernel drops this host's traffic for the addresses.")
	descAlarm        = instanceDesc("alarm", "1 while the alarm is active.", "alarm")
	descAlarms       = instanceDesc("alarms_total", "Alarms raised.")
	descLease        = desc("lease_held", "1 while the event loop renews its lease in time.", "interface")
	descReflector    = desc("fast_detect_reflector", "1 for the state that the S-BFD reflector reports to peers, 0 for the other states.", "interface", "state")
	descSession      = desc("fast_detect_session", "1 for the state of the session, 0 for the other states.", "interface", "peer", "mode", "state")
	descSessionInfo  = desc("fast_detect_session_info", "Discriminators of the session, and the diagnostic of its last change.", "interface", "peer", "mode", "local_discriminator", "remote_discriminator", "diag")
	descSessionsFull = desc("fast_detect_sessions_full_total", "Masters that were not probed because no session was free.")
	descProbes       = desc("fast_detect_probes_total", "Probes sent.", "interface", "peer", "mode")
	descReplies      = desc("fast_detect_replies", "Replies since the session was opened.", "interface", "peer", "mode")
	descVerdicts     = desc("fast_detect_verdicts_total", "Changes of a session, by verdict.", "interface", "peer", "mode", "verdict")
	descLost         = desc("loop_reports_lost_total", "Records of the event loop that were lost because the journal was too slow.")
	descLogDropped   = desc("log_lines_dropped_total", "Log lines that were dropped because the log was not read.")
)

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descState, descSince, descPriority, descTransitions, descSent, descReceived,
		descZeroSent, descZeroReceived, descHeld, descRejected, descForms, descJitter, descLargestGap,
		descFrames, descMode, descSendErrors, descAnnounced, descUnannounced, descWakeups,
		descHandled, descActed, descLost, descWakeLate, descSuspensions, descFence, descAlarm, descAlarms,
		descLease, descReflector, descSession, descSessionInfo, descSessionsFull, descProbes, descReplies, descVerdicts, descLogDropped,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	out := emitter(ch)
	out.gauge(descInfo, 1, c.Version)
	s := c.Reader.Take()
	for i := range s.Instances {
		c.instance(out, &s, &s.Instances[i])
	}
	for i := range s.Interfaces {
		port(out, &s.Interfaces[i])
	}
	sent, dropped := c.Announcements()
	out.count(descAnnounced, sent)
	out.count(descUnannounced, dropped)
	out.count(descLogDropped, c.LogDropped())
	out.count(descWakeups, c.Loop.Wakeups.Load())
	out.count(descLost, c.Loop.Lost.Load())
	out.histogram(descHandled, &c.Loop.Handled)
	out.histogram(descActed, &c.Loop.Acted)
	out.histogram(descWakeLate, &c.Loop.Late)
	out.count(descSuspensions, c.Loop.Suspensions.Load())
	out.count(descSessionsFull, c.Loop.SessionsFull.Load())
}

// emitter sends metrics. A label that is not UTF-8, such as a name from a file
// in another encoding, is made so: one bad name must not end the scrape.
type emitter chan<- prometheus.Metric

func valid(labels []string) []string {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "\uFFFD")
	}
	return labels
}

func (ch emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, valid(labels)...)
}

func (ch emitter) truth(d *prometheus.Desc, v bool, labels ...string) {
	if v {
		ch.gauge(d, 1, labels...)
		return
	}
	ch.gauge(d, 0, labels...)
}

func (ch emitter) count(d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), valid(labels)...)
}

func (ch emitter) histogram(d *prometheus.Desc, h *histogram.Histogram) {
	total, sum, buckets := h.Cumulative()
	ch <- prometheus.MustNewConstHistogram(d, total, sum, buckets)
}

func seconds(ns int64) float64 { return time.Duration(ns).Seconds() }

func (c *Collector) instance(out emitter, s *snapshot.Snapshot, i *snapshot.Instance) {
	labels := []string{i.Name, i.Interface, strconv.Itoa(int(i.VRID))}
	with := func(more string) []string { return append(slices.Clone(labels), more) }
	for _, state := range snapshot.States {
		out.truth(descState, state == i.State.State, with(state.String())...)
	}
	out.truth(descFence, i.KernelFence.Active, slices.Clone(labels)...)
	active, raised := c.Alarms.Active(i.Router.Router)
	for _, kind := range alarm.Kinds() {
		is := slices.ContainsFunc(active, func(a alarm.Active) bool { return a.Kind == kind })
		out.truth(descAlarm, is, with(kind.String())...)
	}
	p := &i.Published
	out.count(descAlarms, raised, slices.Clone(labels)...)
	out.gauge(descSince, seconds(s.Now-i.State.Since), slices.Clone(labels)...)
	out.gauge(descPriority, float64(i.State.Priority), slices.Clone(labels)...)
	out.count(descSent, p.Sent.Load(), slices.Clone(labels)...)
	out.count(descReceived, i.Received(), slices.Clone(labels)...)
	out.count(descZeroSent, p.ZeroSent.Load(), slices.Clone(labels)...)
	out.count(descZeroReceived, p.ZeroReceived.Load(), slices.Clone(labels)...)
	out.count(descHeld, p.Held.Load(), slices.Clone(labels)...)
	out.gauge(descJitter, seconds(i.Liveness.JitterNs), slices.Clone(labels)...)
	out.gauge(descLargestGap, seconds(i.Liveness.LargestGapNs), slices.Clone(labels)...)
	for r := range control.ReasonMax {
		out.count(descTransitions, p.Transitions[r].Load(), with(r.String())...)
	}
	for r := packet.RejectTruncated; r < packet.RejectMax; r++ {
		out.count(descRejected, p.Rejected[r].Load(), with(r.String())...)
	}
	for _, f := range snapshot.Forms {
		out.count(descForms, p.Forms[f].Load(), with(f.String())...)
	}
}

func port(out emitter, f *snapshot.Interface) {
	if f.HasKernel {
		out.truth(descLease, f.LeaseHeld, f.Name)
		for _, state := range []string{"Up", "AdminDown", "off"} {
			out.truth(descReflector, state == f.Reflector(), f.Name, state)
		}
	}
	for i := range f.Sessions {
		session(out, f.Name, &f.Sessions[i])
	}
	out.gauge(descMode, 1, f.Name, f.Mode)
	out.count(descSendErrors, f.SendErrors.Load(), f.Name)
	if f.FramesErr != nil {
		return // the scrape lacks them, which is what is true
	}
	for r, n := range f.Frames {
		out.count(descFrames, n.Pass, f.Name, loader.Reason(r).String(), "pass")
		out.count(descFrames, n.Drop, f.Name, loader.Reason(r).String(), "drop")
	}
}

func session(out emitter, ifname string, s *snapshot.Session) {
	labels := []string{ifname, s.Peer.Addr().String(), s.Mode()}
	with := func(more ...string) []string { return append(slices.Clone(labels), more...) }
	for _, state := range []bfd.State{bfd.AdminDown, bfd.Down, bfd.Up} {
		out.truth(descSession, state == s.State, with(state.String())...)
	}
	out.gauge(descSessionInfo, 1, with(strconv.FormatUint(uint64(s.Local), 10), strconv.FormatUint(uint64(s.Remote), 10), s.Diag.String())...)
	out.count(descProbes, s.Sent, with()...)
	out.gauge(descReplies, float64(s.Replies), with()...)
	for _, v := range bfd.Verdicts {
		out.count(descVerdicts, s.Verdicts[v], with(v.String())...)
	}
}
