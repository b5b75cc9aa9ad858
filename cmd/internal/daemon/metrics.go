// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/xvrrp/xvrrp/control"
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
	descLost         = desc("loop_reports_lost_total", "Reports to the log that found their queue full.")
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descInfo, descState, descSince, descPriority, descTransitions, descSent, descReceived,
		descZeroSent, descZeroReceived, descRejected, descForms, descJitter, descLargestGap,
		descFrames, descMode, descSendErrors, descAnnounced, descUnannounced, descWakeups,
		descHandled, descJudged, descLost,
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
	ch <- stats.handled.metric(descHandled)
	ch <- stats.judged.metric(descJudged)
}

type emitGauge func(*prometheus.Desc, float64, ...string)

type emitCount func(*prometheus.Desc, uint64, ...string)

func (i *instance) collect(gauge emitGauge, count emitCount) {
	s := i.status()
	labels := []string{s.Name, s.Interface, strconv.Itoa(int(s.VRID))}
	with := func(more string) []string { return append(append([]string{}, labels...), more) }
	for _, state := range []control.State{control.Init, control.Backup, control.Master, control.Fault} {
		v := 0.0
		if state.String() == s.State {
			v = 1
		}
		gauge(descState, v, with(state.String())...)
	}
	gauge(descSince, s.SinceSeconds, labels...)
	gauge(descPriority, float64(s.Priority), labels...)
	count(descSent, s.Counters.AdvertsSent, labels...)
	count(descReceived, s.Counters.AdvertsReceived, labels...)
	count(descZeroSent, s.Counters.PriorityZeroSent, labels...)
	count(descZeroReceived, s.Counters.PriorityZeroReceived, labels...)
	gauge(descJitter, seconds(s.Arrival.JitterNs), labels...)
	gauge(descLargestGap, seconds(s.Arrival.LargestGapNs), labels...)
	for r := control.ReasonStartup; r <= control.ReasonShutdown; r++ {
		count(descTransitions, i.shared.transitions[r].Load(), with(r.String())...)
	}
	for r := range rejectMax {
		count(descRejected, i.shared.rejected[r].Load(), with(r.String())...)
	}
	for f := range i.shared.forms {
		count(descForms, i.shared.forms[f].Load(), with(packet.ChecksumForm(f).String())...)
	}
}

func (f *iface) collect(gauge emitGauge, count emitCount) {
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

func (h *histogram) metric(d *prometheus.Desc) prometheus.Metric {
	buckets := map[float64]uint64{}
	total := uint64(0)
	for i := range h.buckets {
		total += h.buckets[i].Load()
		if i < histogramBuckets-1 {
			buckets[seconds(upper(i))] = total
		}
	}
	return prometheus.MustNewConstHistogram(d, total, seconds(h.sum.Load()), buckets)
}
