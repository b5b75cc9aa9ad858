// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// report is the table of a run, in Markdown, with the bars beside it.
func report(r *result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Run of %s on %s, %s cores; %s; %s; %s; %s.\n\n", r.When.UTC().Format(time.DateOnly),
		r.Environment["kernel"], r.Environment["cores"], r.Environment["keepalived"], r.Environment["frr"],
		r.Environment["go"], revisions(r))
	missing(&b, r)
	fmt.Fprintf(&b, "Processor time is that of the daemon's threads; receiving a frame is charged to its sender.\n\n")
	row := func(what string, v []sample) {
		if len(v) == 0 {
			return
		}
		s := summarize(v)
		fmt.Fprintf(&b, "| %s | %d | %.2f | %.2f | %.2f | %.2f |\n", what, s.n, s.min, s.p50, s.p99, s.max)
	}
	fmt.Fprintf(&b, "| ms | n | min | p50 | p99 | max |\n|---|---|---|---|---|---|\n")
	row("noise floor: real-time timer lateness", r.Wakeup)
	row("noise floor: longest gap between replies in 1.5 s, nothing wrong", r.Floor)
	for _, d := range everybody {
		row("silent cut: last advert → first advert of "+d, r.Detect[d])
	}
	for _, d := range everybody {
		row("silent cut: client dark, "+d, r.Dark[d])
	}
	for _, d := range everybody {
		row("250 instances: last advert → last of 250 announced, "+d, r.Mass[d])
	}
	for _, d := range everybody {
		if n := r.Unsteady[d]; n > 0 {
			fmt.Fprintf(&b, "\n%s: after %d more cuts with 250 instances not every address was announced; they have no time. "+
				"The backup had %s of the addresses before a cut, at the most.\n", d, n, most(r.load(d).Held))
		}
	}
	if len(r.Load) > 0 {
		fmt.Fprintf(&b, "\n| 250 instances at 10 ms, steady: p50 (min–max) | n | processor of the daemon's threads, %%: master | backup | processes, MiB: master | backup | BPF maps, and bytecode of programs, MiB: master | backup | events to user space of the backup, max |\n|---|---|---|---|---|---|---|---|---|\n")
		for _, d := range everybody {
			l := r.Load[d]
			if l == nil {
				continue
			}
			events := "every advert"
			if ours(d) {
				events = fmt.Sprintf("%.0f", summarize(l.Events).max)
			}
			fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %s | %s | %s |\n", d, len(l.Master), spread(l.Master, 1), spread(l.Backup, 1),
				spread(l.MasterMiB, 1), spread(l.BackupMiB, 1), spread(l.MasterBPF, 1), spread(l.BackupBPF, 1), events)
		}
	}
	costTables(&b, r)
	scaleTable(&b, r)
	changeTables(&b, r)
	faultTables(&b, r)
	allBars(&b, r)
	beforeTable(&b, r)
	return b.String()
}

// most is the largest of a number of things.
func most(v []sample) string {
	if len(v) == 0 {
		return "an unknown number"
	}
	return fmt.Sprintf("%.0f", summarize(v).max)
}

// revisions names what was measured of xvrrp.
func revisions(r *result) string {
	if before := r.Environment["before"]; before != "" {
		return fmt.Sprintf("revision %s, before %s", r.Environment["revision"], before)
	}
	return "revision " + r.Environment["revision"]
}

// missing says what this run has not measured.
func missing(b *strings.Builder, r *result) {
	if r.Only != "" {
		fmt.Fprintf(b, "Measured: %s only.\n\n", r.Only)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Broken)) {
		why, _, _ := strings.Cut(r.Broken[name], "\n")
		fmt.Fprintf(b, "**Part %s ended early**: %s\n\n", name, why)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unsettled)) {
		for _, d := range everybody {
			if n := r.Unsettled[name][d]; n > 0 {
				fmt.Fprintf(b, "Part %s: %d trials of %s did not settle, and have no numbers.\n\n", name, n, d)
			}
		}
	}
}

// unsettled is the number of trials of xvrrp that did not settle.
func (r *result) unsettled() (n int) {
	for _, of := range r.Unsettled {
		n += of["xvrrp"]
	}
	return n
}

// The frames that the bars compare.
const (
	frameEmpty  = "empty program"
	frameOther  = "not VRRP"
	frameAdvert = "steady advert"
)

var (
	frameLine = regexp.MustCompile(`(?m)^BenchmarkFrame/(\S+?)(?:-\d+)?\s.*?([\d.]+) bpf-ns/frame`)
	allocLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op\s+(\d+) B/op\s+(\d+) allocs/op`)
)

// frameCost is what a kind of frame costs in the kernel.
type frameCost struct {
	frame string
	ns    float64
}

// frameCosts reads what `go test -bench Frame` printed, in its order.
func frameCosts(text string) (costs []frameCost) {
	for _, m := range frameLine.FindAllStringSubmatch(text, -1) {
		if ns, err := strconv.ParseFloat(m[2], 64); err == nil {
			costs = append(costs, frameCost{strings.ReplaceAll(m[1], "_", " "), ns})
		}
	}
	return costs
}

// aboveEmpty is what a kind of frame costs above the empty program. It is not a
// number if one of the two was not measured.
func aboveEmpty(costs []frameCost, frame string) float64 {
	ns := map[string]float64{frameEmpty: math.NaN(), frame: math.NaN()}
	for _, c := range costs {
		ns[c.frame] = c.ns
	}
	return ns[frame] - ns[frameEmpty]
}

// costTables show what single frames, and single calls of the daemon, cost.
func costTables(b *strings.Builder, r *result) {
	costs := frameCosts(r.Frames)
	if len(costs) > 0 {
		fmt.Fprintf(b, "\n| frame in the kernel (`BPF_PROG_TEST_RUN`), smallest of 30 runs of 100,000 | ns | above the empty program, ns |\n|---|---|---|\n")
	}
	for _, c := range costs {
		fmt.Fprintf(b, "| %s | %.0f | %.0f |\n", c.frame, c.ns, aboveEmpty(costs, c.frame))
	}
	calls := allocLine.FindAllStringSubmatch(r.Allocs, -1)
	if len(calls) > 0 {
		fmt.Fprintf(b, "\n| one call in user space | ns | bytes allocated | allocations |\n|---|---|---|---|\n")
	}
	for _, c := range calls {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", c[1], c[2], c[3], c[4])
	}
}

// spread is the median, with the smallest and the largest.
func spread(v []sample, digits int) string {
	s := summarize(v)
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.p50, digits, s.min, digits, s.max)
}

// size names a shape for readers.
func size(sh shape) string {
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
	if sh.interfaces == 1 {
		return "1 interface, " + count(sh.each, "instance")
	}
	return count(sh.interfaces, "interface") + ", " + count(sh.each, "instance") + " each"
}

// scaleTable shows what daemons of different sizes take.
func scaleTable(b *strings.Builder, r *result) {
	if len(r.Scale) == 0 {
		return
	}
	fmt.Fprintf(b, "\n| adverts at 1 s | daemon | starts | start → last address, ms: min | p50 | max | processes | BPF maps, and bytecode of programs | programs | processor of the daemon's threads at rest, %%, p50 (min–max): master | backup | addresses: master | backup |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, sh := range shapes {
		for _, d := range everybody {
			g := r.Scale[sh.String()][d]
			if g == nil {
				continue
			}
			s := summarize(g.StartMs)
			fmt.Fprintf(b, "| %s | %s | %d | %.0f | %.0f | %.0f | %.1f MiB | %.1f MiB | %d | %s | %s | %d | %d |\n", size(sh.shape), d, s.n,
				s.min, s.p50, s.max, g.ProcessMiB, g.KernelMiB, g.Programs, spread(g.RestMaster, 2), spread(g.RestBackup, 2), g.Owned[0], g.Owned[1])
		}
	}
}

// changeTables show what changes of the configuration did to whom they do not
// concern.
func changeTables(b *strings.Builder, r *result) {
	if len(r.Reloads) > 0 {
		fmt.Fprintf(b, "\n| 19 of 20 instances at 10 ms, under load | daemon | s | reloads | completed | pings | lost | adverts of the backup, or with priority 0 | gaps between adverts, intervals: p50 | p99 | p99.9 | max |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	}
	for _, how := range []string{"left alone", "reloaded"} {
		for _, d := range everybody {
			if x, ok := r.Reloads[d][how]; ok {
				fmt.Fprintf(b, "| %s | %s | %.0f | %d | %d | %d | %d | %d | %.2f | %.2f | %.2f | %.2f |\n", how, d, x.Seconds, x.Asked, x.Done, x.Sent, x.Lost, x.Taken,
					x.GapP50, x.GapP99, x.P999, x.GapMax)
			}
		}
	}
	if len(r.Rolling) > 0 {
		fmt.Fprintf(b, "\n| rolling change of a pair's address list | daemon | n | p50 | max |\n|---|---|---|---|---|\n")
	}
	for _, d := range everybody {
		for _, name := range rollNames {
			if s := summarize(r.Rolling[d][name]); s.n > 0 {
				fmt.Fprintf(b, "| %s | %s | %d | %.0f | %.0f |\n", name, d, s.n, s.p50, s.max)
			}
		}
	}
}

// bars is the table of what is aimed at. What was not measured is not a number.
type bars struct{ b *strings.Builder }

// bar judges a number that is to be at most bound.
func (t bars) bar(what string, bound, measured float64, unit string) {
	if math.IsNaN(bound) {
		t.unbound(what, "what it is compared with was not measured", measured, unit)
		return
	}
	fmt.Fprintf(t.b, "| %s | ≤ %.2f %s | %s | %s |\n", what, bound, unit, amount(measured, unit), holds(bound, measured))
}

// unbound shows a number that there is nothing to judge by.
func (t bars) unbound(what, why string, measured float64, unit string) {
	fmt.Fprintf(t.b, "| %s | no bound: %s | %s | – |\n", what, why, amount(measured, unit))
}

func amount(measured float64, unit string) string {
	if math.IsNaN(measured) {
		return "not measured"
	}
	return fmt.Sprintf("%.2f %s", measured, unit)
}

func holds(bound, measured float64) string {
	switch {
	case math.IsNaN(bound) || math.IsNaN(measured):
		return "–"
	case measured <= bound:
		return "yes"
	}
	return "**no**"
}

// changeBars are the bars of sizes and changes.
func changeBars(r *result, t bars) {
	wait := ms(scaleWait)
	two := shape{200, 1}
	x, k := r.grown(two, "xvrrp"), r.grown(two, "keepalived")
	t.bar("200 interfaces: start to the last address, above the protocol's part, median: keepalived's",
		summarize(k.StartMs).p50-wait, summarize(x.StartMs).p50-wait, "ms")
	t.bar("200 interfaces: memory of processes, maps, and bytecode of programs", 60, x.ProcessMiB+x.KernelMiB, "MiB")
	programs := float64(x.Programs)
	if len(x.StartMs) == 0 {
		programs = math.NaN()
	}
	t.bar("200 interfaces: programs", 8, programs, "")
	restBars(r, t)
	for _, sh := range shapes {
		for _, d := range everybody {
			if !ours(d) || d == "before" && r.Scale[sh.String()][d] == nil {
				continue
			}
			wrong := math.NaN()
			if g := r.grown(sh.shape, d); len(g.RestMaster) > 0 {
				wrong = float64(sh.instances() - g.Owned[0] + g.Owned[1])
			}
			t.bar(fmt.Sprintf("%s, %s: addresses that the master lacks or the backup has", size(sh.shape), d), 0, wrong, "")
		}
	}
	reloads, ok := r.Reloads["xvrrp"]["reloaded"]
	number := func(v float64) float64 {
		if !ok {
			return math.NaN()
		}
		return v
	}
	t.bar("reloads: not completed", 0, number(float64(reloads.Asked-reloads.Done)), "")
	t.bar("reloads: adverts of the backup for the 19 others, or with priority 0", 0, number(float64(reloads.Taken)), "")
	t.bar("reloads: pings lost on the 19 others", 0, number(float64(reloads.Lost)), "")
	t.bar("reloads: advert gap of the 19 others, p99.9", 1.5, number(reloads.P999), "intervals")
	t.bar("reloads: advert gap of the 19 others, max: Master_Down_Interval", float64(masterDown)/float64(interval), number(reloads.GapMax), "intervals")
	rolling := r.Rolling["xvrrp"]
	t.bar("rolling change: questions that two hosts answered, max", 0, summarize(rolling[rollTwo]).max, "")
	t.bar("rolling change: probes lost on the address that stays, max", 0, summarize(rolling[rollLost]).max, "")
}

// restBars compare the processor time with 1,000 interfaces, which says nothing
// beside a pair of keepalived that fights over addresses.
func restBars(r *result, t bars) {
	sh := shape{1000, 1}
	x, k := r.grown(sh, "xvrrp"), r.grown(sh, "keepalived")
	for _, host := range []struct {
		name string
		x, k []sample
	}{{"master", x.RestMaster, k.RestMaster}, {"backup", x.RestBackup, k.RestBackup}} {
		what := "1,000 interfaces: processor at rest, " + host.name + ", median: keepalived's"
		measured := summarize(host.x).p50
		if len(host.k) > 0 && k.Owned != [2]int{sh.instances(), 0} {
			t.unbound(what, "keepalived was not at rest", measured, "%")
			continue
		}
		t.bar(what, summarize(host.k).p50, measured, "%")
	}
}

// grown is what was measured of a daemon of a shape; it has no numbers if
// nothing was.
func (r *result) grown(sh shape, d string) *grown {
	if g := r.Scale[sh.String()][d]; g != nil {
		return g
	}
	return &grown{ProcessMiB: math.NaN(), KernelMiB: math.NaN()}
}

// load is what was measured of 250 instances of a daemon.
func (r *result) load(d string) *loads {
	if l := r.Load[d]; l != nil {
		return l
	}
	return &loads{}
}

// faultTables show what daemons did when something failed, or when everything
// else was in the way.
func faultTables(b *strings.Builder, r *result) {
	if len(r.Faults) > 0 {
		fmt.Fprintf(b, "\n| fault | daemon | number | n | min | p50 | p99 | max |\n|---|---|---|---|---|---|---|---|\n")
	}
	for _, f := range slices.Concat(faults, hostChanges, []fault{freeze}) {
		for _, d := range everybody {
			numbers := r.Faults[f.name][d]
			for _, name := range slices.Sorted(maps.Keys(numbers)) {
				s, what := summarize(numbers[name]), name
				if what == "" {
					what = f.what
				}
				fmt.Fprintf(b, "| %s | %s | %s | %d | %s | %s | %s | %s |\n", f.name, d, what, s.n,
					figure(f.name, name, s.min), figure(f.name, name, s.p50), figure(f.name, name, s.p99), figure(f.name, name, s.max))
			}
		}
	}
	if len(r.Faults) > 0 {
		fmt.Fprintf(b, "\n![Survival of trials, by fault](benchmarks-survival.png)\n")
	}
	if len(r.Floods) > 0 {
		fmt.Fprintf(b, "\n| flood | daemon | frames/s | transitions | largest gap of the master's adverts, intervals | processor of both daemons' threads | without the flood |\n|---|---|---|---|---|---|---|\n")
	}
	for _, f := range r.Floods {
		fmt.Fprintf(b, "| %s | %s | %.0f | %d | %.2f | %.1f %% | %.1f %% |\n", f.Kind, f.Daemon, f.Rate, f.Transitions, f.GapMax, f.CPU, f.CPUIdle)
	}
	if r.Starvation != nil || r.Soak != nil {
		fmt.Fprintf(b, "\n| nothing failed | s | false failovers: %s | %s | keepalived | probes | verdicts | silences held | loop late, max: master | backup | stolen by the host |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
			wayNames[withFastDetect], wayNames[advertsAlone])
	}
	r.Starvation.row(b, "CPU starvation")
	r.Soak.row(b, "idle soak")
	if r.Starvation != nil || r.Soak != nil {
		fmt.Fprintf(b, "\n| wake-ups of the loop later than |")
		for _, bound := range lateBounds {
			fmt.Fprintf(b, " %.1f ms |", ms(bound))
		}
		fmt.Fprintf(b, "\n|---|%s\n", strings.Repeat("---|", len(lateBounds)))
	}
	r.Starvation.laterRows(b, "CPU starvation")
	r.Soak.laterRows(b, "idle soak")
	if s := r.Soak; s != nil {
		fmt.Fprintf(b, "\nNone in %.2f h would mean a rate below %.1f an hour with 95 %% confidence (3/T).\n", s.Seconds/3600, 3*3600/s.Seconds)
	}
	if len(r.Garbage) == 2 {
		fmt.Fprintf(b, "\n| garbage collection in 20 s | collections | loop woke late, p99 below | max | verdicts |\n|---|---|---|---|---|\n")
		for i, g := range r.Garbage {
			fmt.Fprintf(b, "| %s | %d | %.3f ms | %.2f ms | %d |\n", []string{"left alone", "forced (GOGC=1, status asked without pause)"}[i],
				g.Collections, g.WakeLateP99, g.WakeLateMax, g.Downs)
		}
	}
}

// row is a line of the table of pairs that nothing should move.
func (u *unmoved) row(b *strings.Builder, what string) {
	if u == nil {
		return
	}
	keepalived := "–"
	if n, ok := u.FalseFailovers["keepalived"]; ok {
		keepalived = fmt.Sprint(n)
	}
	fmt.Fprintf(b, "| %s | %.0f | %d | %d | %s | %d | %d | %d | %.1f ms | %.1f ms | %.1f s |\n", what, u.Seconds,
		u.FalseFailovers[wayNames[withFastDetect]], u.FalseFailovers[wayNames[advertsAlone]], keepalived,
		u.Probes, u.Downs, u.Held, u.WakeLateMaxMs["master"], u.WakeLateMaxMs["backup"], u.StolenMs/1000)
}

// laterRows say how late the loops woke.
func (u *unmoved) laterRows(b *strings.Builder, what string) {
	if u == nil {
		return
	}
	for _, host := range slices.Sorted(maps.Keys(u.Later)) {
		fmt.Fprintf(b, "| %s, %s |", what, host)
		for _, n := range u.Later[host] {
			fmt.Fprintf(b, " %d |", n)
		}
		fmt.Fprintln(b)
	}
}

// faultBars are the bars of the faults.
func faultBars(r *result, t bars) {
	number := func(f, d, name string) stats { return summarize(r.Faults[f][d][name]) }
	cut := number("cut", "xvrrp", "").p50
	t.bar("silent cut, fast_detect 1 ms x 3: client dark, median", 8, cut, "ms")
	t.bar("silent cut, fast_detect 1 ms x 3: client dark, median: 1/5 of keepalived's", number("cut", "keepalived", "").p50/5, cut, "ms")
	t.bar("SIGKILL: takeover, median", 5, number("kill", "xvrrp", "").p50, "ms")
	owners := number("kill", "xvrrp", "MACs that answer after it")
	t.bar("SIGKILL: MACs that answer from the takeover on, more or less than one, max", 0, max(owners.max-1, 1-owners.min), "")
	t.bar("SIGSTOP: one owner within lease + 10 ms, max", ms(lease)+10, number("stop", "xvrrp", "").max, "ms")
	term := number("term", "xvrrp", "")
	t.bar("SIGTERM: probes lost at 5,000 a second, median", 2, term.p50, "")
	t.bar("SIGTERM: probes lost at 5,000 a second, p99", 2, term.p99, "")
	frozen, announced := number("freeze", "xvrrp", ""), number("freeze", "xvrrp", thawAnnounced)
	t.bar("freeze: announced after resume within an advert, max", ms(interval), announced.max, "ms")
	if frozen.n > 0 {
		t.bar("freeze: trials without a record of the announcement", 0, float64(frozen.n-announced.n), "")
	}
	hostBars(r, t)
	unmovedBars(t, "CPU starvation", r.Starvation)
	floodBars(t, r.Floods)
	unmovedBars(t, "idle soak", r.Soak)
}

func unmovedBars(t bars, what string, u *unmoved) {
	for _, way := range wayNames {
		n := math.NaN()
		if u != nil {
			n = float64(u.FalseFailovers[way])
		}
		t.bar(what+": false failovers, "+way, 0, n, "")
	}
}

func floodBars(t bars, floods []flooded) {
	if len(floods) == 0 {
		t.bar("floods: transitions", 0, math.NaN(), "")
	}
	for _, f := range floods {
		if f.Daemon == "before" {
			continue
		}
		t.bar("flood, "+f.Kind+": transitions", 0, float64(f.Transitions), "")
		t.bar("flood, "+f.Kind+": largest advert gap", 1.5, f.GapMax, "intervals")
		if f.Kind == floodUnknown || f.Kind == floodTTL {
			t.bar("flood, "+f.Kind+": processor above that without a flood", 5, f.CPU-f.CPUIdle, "%")
		}
	}
}

// allBars says what is aimed at and whether this run reached it.
func allBars(b *strings.Builder, r *result) {
	fmt.Fprintf(b, "\n| bar | bound | measured | holds |\n|---|---|---|---|\n")
	t := bars{b}
	t.bar("parts of the run that ended early", 0, float64(len(r.Broken)), "")
	t.bar("trials of xvrrp that did not settle", 0, float64(r.unsettled()), "")
	costs := frameCosts(r.Frames)
	t.bar("frame that is not VRRP: above the empty program", 5, aboveEmpty(costs, frameOther), "ns")
	t.bar("steady advert: above the empty program", 150, aboveEmpty(costs, frameAdvert), "ns")

	mdi, detect := ms(masterDown), summarize(r.Detect["xvrrp"])
	t.bar("silent cut: last advert → first advert, p50: Master_Down_Interval + 0.5 ms", mdi+0.5, detect.p50, "ms")
	t.bar("silent cut: last advert → first advert, p99: Master_Down_Interval + 3 ms + noise floor (timer p99)",
		mdi+3+summarize(r.Wakeup).p99, detect.p99, "ms")
	dark := summarize(r.Dark["xvrrp"]).p50
	t.bar("silent cut: client dark, median: 0.9 × keepalived", 0.9*summarize(r.Dark["keepalived"]).p50, dark, "ms")
	t.bar("silent cut: client dark, median: 1.05 × FRR", 1.05*summarize(r.Dark["frr"]).p50, dark, "ms")

	x, k := r.load("xvrrp"), r.load("keepalived")
	t.bar("250 instances: processor of the backup, median: 1/5 of keepalived's", summarize(k.Backup).p50/5, summarize(x.Backup).p50, "%")
	t.bar("250 instances: processor of the master, median: 1/3 of keepalived's", summarize(k.Master).p50/3, summarize(x.Master).p50, "%")
	t.bar("250 instances: memory of processes, maps, and bytecode of programs, max", 40, max(summarize(x.MasterMiB).max+summarize(x.MasterBPF).max,
		summarize(x.BackupMiB).max+summarize(x.BackupBPF).max), "MiB")
	t.bar("250 instances: events to user space of the backup in steady state, max", 0, summarize(x.Events).max, "")
	t.bar("250 instances: last advert → last of 250 announced, median: 1/20 of keepalived's",
		summarize(r.Mass["keepalived"]).p50/20, summarize(r.Mass["xvrrp"]).p50, "ms")
	incomplete := math.NaN()
	if len(x.Master) > 0 {
		incomplete = float64(r.Unsteady["xvrrp"])
	}
	t.bar("250 instances: cuts without all 250 announced", 0, incomplete, "")
	changeBars(r, t)
	faultBars(r, t)
	checkBars(r, t)
}

const marker = "<!-- results -->"

// writeDocs replaces what stands behind the marker of docs/benchmarks.md.
func writeDocs(r *result, table string) {
	if err := plotFaults(r, "docs/benchmarks-survival.png"); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	const path = "docs/benchmarks.md"
	text, err := os.ReadFile(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return
	}
	head, _, _ := strings.Cut(string(text), marker)
	if err := os.WriteFile(path, []byte(head+marker+"\n\n"+table), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}
