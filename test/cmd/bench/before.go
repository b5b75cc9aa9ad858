// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// number is one thing that is measured of xvrrp and of the revision before.
type number struct {
	what    string
	samples []sample
	unit    string
	fixed   float64 // the part that the protocol or a lease takes
	noise   float64 // what this lab cannot tell apart
}

// Units of numbers that are times.
const (
	unitMs        = "ms"
	unitIntervals = "intervals"
)

const (
	share     = 0.05 // how much worse a median may be
	tailShare = 0.5  // and the largest of a few times
	tailMs    = 3.0  // one late wake-up of this lab
)

// numbers lists everything that is compared, of one daemon. A number that was
// not measured has no samples.
func numbers(r *result, d string) (out []number) {
	timer := summarize(r.Wakeup).p99
	add := func(what, unit string, fixed, noise float64, samples []sample) {
		out = append(out, number{what, samples, unit, fixed, noise})
	}
	add("silent cut: last advert → first advert", unitMs, ms(masterDown), timer, r.Detect[d])
	add("silent cut: client dark", unitMs, 0, timer, r.Dark[d])
	add("250 instances: last advert → last of 250 announced", unitMs, ms(masterDown), timer, r.Mass[d])
	l := r.load(d)
	add("250 instances: processor of the master", "%", 0, 0.5, l.Master)
	add("250 instances: processor of the backup", "%", 0, 0.5, l.Backup)
	add("250 instances: memory of the master's process", "MiB", 0, 0.5, l.MasterMiB)
	add("250 instances: memory of the backup's process", "MiB", 0, 0.5, l.BackupMiB)
	add("250 instances: BPF maps, and bytecode of programs, of the master", "MiB", 0, 0, l.MasterBPF)
	add("250 instances: BPF maps, and bytecode of programs, of the backup", "MiB", 0, 0, l.BackupBPF)
	add("250 instances: events to user space of the backup", "", 0, 0, l.Events)
	if len(l.Master) > 0 {
		add("250 instances: cuts without all 250 announced", "", 0, 0, []sample{float64(r.Unsteady[d])})
	}
	for _, sh := range shapes {
		g := r.Scale[sh.String()][d]
		if g == nil {
			continue
		}
		add(size(sh.shape)+": start → last address", unitMs, ms(scaleWait), timer, g.StartMs)
		add(size(sh.shape)+": memory of the process", "MiB", 0, 0.5, []sample{g.ProcessMiB})
		add(size(sh.shape)+": BPF maps, and bytecode of programs", "MiB", 0, 0, []sample{g.KernelMiB})
		add(size(sh.shape)+": programs", "", 0, 0, []sample{float64(g.Programs)})
		add(size(sh.shape)+": processor at rest, master", "%", 0, 0.1, g.RestMaster)
		add(size(sh.shape)+": processor at rest, backup", "%", 0, 0.1, g.RestBackup)
	}
	if x, ok := r.Reloads[d]["reloaded"]; ok {
		add("reloads: not completed", "", 0, 0, []sample{float64(x.Asked - x.Done)})
		add("reloads: adverts of the backup for the 19 others, or with priority 0", "", 0, 0, []sample{float64(x.Taken)})
		add("reloads: pings lost on the 19 others", "", 0, 0, []sample{float64(x.Lost)})
		add("reloads: advert gap of the 19 others, p99.9", unitIntervals, 1, timer/ms(interval), []sample{x.P999})
	}
	for _, name := range []string{rollTwo, rollLost, rollTaken} {
		add("rolling change: "+name, "", 0, 0, r.Rolling[d][name])
	}
	for _, f := range slices.Concat(faults, hostChanges) { // freeze does not measure the revision before
		for _, name := range slices.Sorted(maps.Keys(r.Faults[f.name][d])) {
			if strings.HasSuffix(name, ", counted") || strings.HasPrefix(name, "trials left out") {
				continue // says something of the measurement
			}
			out = append(out, faultNumber(f, name, timer, r.Faults[f.name][d][name]))
		}
	}
	for _, f := range r.Floods {
		if f.Daemon == d {
			add("flood, "+f.Kind+": transitions", "", 0, 0, []sample{float64(f.Transitions)})
			add("flood, "+f.Kind+": largest advert gap", unitIntervals, 1, timer/ms(interval), []sample{f.GapMax})
			add("flood, "+f.Kind+": processor", "%", 0, 1, []sample{f.CPU})
		}
	}
	return out
}

// faultNumber is a number of a fault: a time, unless it counts something.
func faultNumber(f fault, name string, timer float64, samples []sample) number {
	what := name
	if what == "" {
		what = f.what
	}
	n := number{what: f.name + ": " + strings.TrimSuffix(what, ", ms"), samples: samples, unit: unitMs, noise: timer}
	switch {
	case strings.Contains(what, "probes"):
		n.unit, n.noise = "", 2
	case strings.Contains(what, "MACs"):
		n.unit, n.noise = "", 0
	case f.name == "stop" && (name == "" || name == otherAnswers):
		n.fixed = ms(lease)
	}
	return n
}

// medianError is the standard error of a median, from the middle half of the
// samples.
func medianError(v []sample) float64 {
	if len(v) < 2 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	middle := v[len(v)*3/4] - v[len(v)/4]
	return 1.2533 * middle / 1.349 / math.Sqrt(float64(len(v)))
}

// medianBound is how large a median may be beside that of before.
func medianBound(x, before number) float64 {
	m := summarize(before.samples).p50
	apart := 2 * math.Hypot(medianError(x.samples), medianError(before.samples))
	return m + share*max(0, m-before.fixed) + before.noise + apart
}

// maxBound is how large the largest sample may be beside that of before.
func maxBound(before number) float64 {
	m := summarize(before.samples).max
	switch before.unit {
	case unitMs:
		return m + tailShare*max(0, m-before.fixed) + before.noise + tailMs
	case unitIntervals:
		return m + tailShare*max(0, m-before.fixed) + before.noise
	}
	return m + share*m + before.noise
}

// beforeTable compares with the revision before, if the run measured one.
func beforeTable(b *strings.Builder, r *result) {
	now, before := numbers(r, "xvrrp"), numbers(r, "before")
	if !slices.ContainsFunc(before, func(n number) bool { return len(n.samples) > 0 }) {
		return
	}
	fmt.Fprintf(b, "\n| no worse than the revision before | n | median: before | bound | now | holds | max: before | bound | now | holds |\n|---|---|---|---|---|---|---|---|---|---|\n")
	find := func(all []number, what string) number {
		if i := slices.IndexFunc(all, func(n number) bool { return n.what == what }); i >= 0 {
			return all[i]
		}
		return number{what: what}
	}
	var names []string
	for _, n := range append(slices.Clone(now), before...) {
		if !slices.Contains(names, n.what) {
			names = append(names, n.what)
		}
	}
	for _, what := range names {
		x, k := find(now, what), find(before, what)
		if len(x.samples) == 0 && len(k.samples) == 0 {
			continue
		}
		unit := max(x.unit, k.unit)
		s, was := summarize(x.samples), summarize(k.samples)
		mid, top := medianBound(x, k), maxBound(k)
		fmt.Fprintf(b, "| %s | %d, %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", what, was.n, s.n,
			amount(was.p50, unit), bound(mid, unit), amount(s.p50, unit), holds(mid, s.p50),
			amount(was.max, unit), bound(top, unit), amount(s.max, unit), holds(top, s.max))
	}
}

func bound(limit float64, unit string) string {
	if math.IsNaN(limit) {
		return "no bound"
	}
	return "≤ " + amount(limit, unit)
}
