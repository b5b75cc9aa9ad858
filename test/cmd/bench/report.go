// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// report is the table of a run, in Markdown, with the bars beside it.
func report(r *result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Run of %s on %s, %s cores; %s; %s; %s; revision %s.\n\n", r.When.UTC().Format(time.DateOnly),
		r.Environment["kernel"], r.Environment["cores"], r.Environment["keepalived"], r.Environment["frr"],
		r.Environment["go"], r.Environment["revision"])
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
			fmt.Fprintf(&b, "\n%s: %d more cuts with 250 instances do not count, because the backup held some addresses before.\n", d, n)
		}
	}
	if len(r.Load) > 0 {
		fmt.Fprintf(&b, "\n| 250 instances at 10 ms, steady: p50 (min–max) | n | CPU master, %% | CPU backup, %% | processes master, MiB | processes backup, MiB | BPF maps and programs master, MiB | BPF maps and programs backup, MiB | events to user space, max |\n|---|---|---|---|---|---|---|---|---|\n")
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
	if r.Frames != "" {
		fmt.Fprintf(&b, "\nCost of a frame in the kernel (`BPF_PROG_TEST_RUN`), and allocations:\n\n```\n%s\n%s\n```\n", r.Frames, r.Allocs)
	}
	scaleTable(&b, r)
	changeTables(&b, r)
	faultTables(&b, r)
	bars(&b, r)
	return b.String()
}

// spread is the median, with the smallest and the largest.
func spread(v []sample, digits int) string {
	s := summarize(v)
	return fmt.Sprintf("%.*f (%.*f–%.*f)", digits, s.p50, digits, s.min, digits, s.max)
}

// scaleTable shows what daemons of different sizes take.
func scaleTable(b *strings.Builder, r *result) {
	if len(r.Scale) == 0 {
		return
	}
	fmt.Fprintf(b, "\n| adverts at 1 s | daemon | starts | start → last address, ms: min | p50 | max | processes | BPF maps and programs | programs | processor at rest, %%, p50 (min–max): master | backup | addresses: master | backup |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, sh := range shapes {
		for _, d := range everybody {
			g := r.Scale[sh.String()][d]
			if g == nil {
				continue
			}
			s := summarize(g.StartMs)
			fmt.Fprintf(b, "| %s | %s | %d | %.0f | %.0f | %.0f | %.1f MiB | %.1f MiB | %d | %s | %s | %d | %d |\n", sh, d, s.n,
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
		for _, d := range reloaders {
			if x, ok := r.Reloads[d][how]; ok {
				fmt.Fprintf(b, "| %s | %s | %.0f | %d | %d | %d | %d | %d | %.2f | %.2f | %.2f | %.2f |\n", how, d, x.Seconds, x.Asked, x.Done, x.Sent, x.Lost, x.Taken,
					x.GapP50, x.GapP99, x.P999, x.GapMax)
			}
		}
	}
	if len(r.Rolling) > 0 {
		fmt.Fprintf(b, "\n| rolling change of a pair's address list | daemon | n | p50 | max |\n|---|---|---|---|---|\n")
	}
	for _, d := range reloaders {
		for _, name := range rollNames {
			if s := summarize(r.Rolling[d][name]); s.n > 0 {
				fmt.Fprintf(b, "| %s | %s | %d | %.0f | %.0f |\n", name, d, s.n, s.p50, s.max)
			}
		}
	}
}

// changeBars are the bars of sizes and changes.
func changeBars(r *result, bar func(what string, bound, measured float64, unit string)) {
	wait := ms(scaleWait)
	of := func(sh shape) (x, k *grown) { return r.Scale[sh.String()]["xvrrp"], r.Scale[sh.String()]["keepalived"] }
	if x, k := of(shape{200, 1}); x != nil && k != nil {
		bar("200 interfaces: start to the last address, above the protocol's part, median: keepalived's",
			summarize(k.StartMs).p50-wait, summarize(x.StartMs).p50-wait, "ms")
		bar("200 interfaces: memory of process and kernel", 60, x.ProcessMiB+x.KernelMiB, "MiB")
		bar("200 interfaces: programs", 8, float64(x.Programs), "")
	}
	if x, k := of(shape{1000, 1}); x != nil && k != nil {
		bar("1,000 interfaces: processor at rest, master, median: keepalived's",
			summarize(k.RestMaster).p50, summarize(x.RestMaster).p50, "%")
		bar("1,000 interfaces: processor at rest, backup, median: keepalived's",
			summarize(k.RestBackup).p50, summarize(x.RestBackup).p50, "%")
	}
	for _, sh := range shapes {
		for _, d := range everybody {
			if g := r.Scale[sh.String()][d]; g != nil && ours(d) {
				bar(fmt.Sprintf("%s, %s: addresses that the master lacks or the backup has", sh, d), 0,
					float64(sh.instances()-g.Owned[0]+g.Owned[1]), "")
			}
		}
	}
	if x, ok := r.Reloads["xvrrp"]["reloaded"]; ok {
		bar("reloads: not completed", 0, float64(x.Asked-x.Done), "")
		bar("reloads: adverts of the backup for the 19 others, or with priority 0", 0, float64(x.Taken), "")
		bar("reloads: pings lost on the 19 others", 0, float64(x.Lost), "")
		bar("reloads: advert gap of the 19 others, p99.9", 1.5, x.P999, "intervals")
		bar("the same, max: Master_Down_Interval", float64(masterDown)/float64(interval), x.GapMax, "intervals")
	}
	if x := r.Rolling["xvrrp"]; x != nil {
		bar("rolling change: questions that two hosts answered, max", 0, summarize(x[rollTwo]).max, "")
		bar("rolling change: probes lost on the address that stays, max", 0, summarize(x[rollLost]).max, "")
	}
}

// beforeBars compare with the revision before: no worse than its median, with
// what this lab cannot tell apart.
func beforeBars(r *result, bar func(what string, bound, measured float64, unit string)) {
	floor := summarize(r.Wakeup).p99
	compare := func(what string, x, before []sample) {
		if len(x) > 0 && len(before) > 0 {
			bar("no worse than before: "+what+", median + 5 % + noise floor (timer p99)", 1.05*summarize(before).p50+floor, summarize(x).p50, "ms")
		}
	}
	compare("last advert → first advert", r.Detect["xvrrp"], r.Detect["before"])
	compare("client dark", r.Dark["xvrrp"], r.Dark["before"])
	compare("last of 250 announced", r.Mass["xvrrp"], r.Mass["before"])
	for _, f := range faults {
		if f.name != "term" {
			compare(f.name+": "+strings.TrimSuffix(f.what, ", ms"), r.Faults[f.name]["xvrrp"][""], r.Faults[f.name]["before"][""])
		}
	}
	if x, k := r.Load["xvrrp"], r.Load["before"]; x != nil && k != nil {
		bar("no worse than before: processor of the master with 250 instances, median + 5 %",
			1.05*summarize(k.Master).p50, summarize(x.Master).p50, "%")
		bar("no worse than before: processor of the backup with 250 instances, median + 5 %",
			1.05*summarize(k.Backup).p50, summarize(x.Backup).p50, "%")
	}
}

// faultTables show what daemons did when something failed, or when everything
// else was in the way.
func faultTables(b *strings.Builder, r *result) {
	if len(r.Faults) > 0 {
		fmt.Fprintf(b, "\n| fault | daemon | number | n | min | p50 | p99 | max |\n|---|---|---|---|---|---|---|---|\n")
	}
	for _, f := range append(slices.Clone(faults), freeze) {
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
		fmt.Fprintf(b, "\n| flood | daemon | frames/s | transitions | largest gap of the master's adverts, intervals | CPU of both daemons | CPU without the flood |\n|---|---|---|---|---|---|---|\n")
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
func faultBars(r *result, bar func(what string, bound, measured float64, unit string)) {
	number := func(f, d, name string) stats { return summarize(r.Faults[f][d][name]) }
	if x, k := number("cut", "xvrrp", ""), number("cut", "keepalived", ""); x.n > 0 && k.n > 0 {
		bar("silent cut, fast_detect 1 ms x 3: client dark, median", 8, x.p50, "ms")
		bar("the same: 1/5 of keepalived's", k.p50/5, x.p50, "ms")
	}
	if x := number("kill", "xvrrp", ""); x.n > 0 {
		bar("SIGKILL: takeover, median", 5, x.p50, "ms")
		bar("SIGKILL: MACs that answer from the takeover on, max", 1, number("kill", "xvrrp", "MACs that answer after it").max, "")
	}
	if x := number("stop", "xvrrp", ""); x.n > 0 {
		bar("SIGSTOP: one owner within lease + 10 ms, max", ms(lease)+10, x.max, "ms")
	}
	if x := number("term", "xvrrp", ""); x.n > 0 {
		bar("SIGTERM: probes lost at 5,000 a second, median", 2, x.p50, "")
		bar("the same, p99", 2, x.p99, "")
	}
	if x := number("freeze", "xvrrp", ""); x.n > 0 {
		announced := number("freeze", "xvrrp", thawAnnounced)
		bar("freeze: announced after resume within an advert, max", ms(interval), announced.max, "ms")
		bar("the same: trials without a record of it", 0, float64(x.n-announced.n), "")
	}
	if s := r.Starvation; s != nil {
		for _, way := range wayNames {
			bar("CPU starvation: false failovers, "+way, 0, float64(s.FalseFailovers[way]), "")
		}
	}
	for _, f := range r.Floods {
		if f.Daemon == "before" {
			continue
		}
		bar("flood, "+f.Kind+": transitions", 0, float64(f.Transitions), "")
		bar("flood, "+f.Kind+": largest advert gap", 1.5, f.GapMax, "intervals")
		if f.Kind == floodUnknown || f.Kind == floodTTL {
			bar("flood, "+f.Kind+": CPU above that before", 5, f.CPU-f.CPUIdle, "%")
		}
	}
	if s := r.Soak; s != nil {
		for _, way := range wayNames {
			bar("idle soak: false failovers, "+way, 0, float64(s.FalseFailovers[way]), "")
		}
	}
}

// bars says what is aimed at and whether this run reached it.
func bars(b *strings.Builder, r *result) {
	fmt.Fprintf(b, "\n| bar | bound | measured | holds |\n|---|---|---|---|\n")
	bar := func(what string, bound, measured float64, unit string) {
		fmt.Fprintf(b, "| %s | ≤ %.2f %s | %.2f %s | %v |\n", what, bound, unit, measured, unit,
			map[bool]string{true: "yes", false: "**no**"}[measured <= bound])
	}
	mdi := ms(masterDown)
	if v := r.Detect["xvrrp"]; len(v) > 0 {
		s, floor := summarize(v), summarize(r.Wakeup)
		bar("last advert → first advert, p50: Master_Down_Interval + 0.5 ms", mdi+0.5, s.p50, "ms")
		bar("the same, p99: Master_Down_Interval + 3 ms + noise floor (timer p99)", mdi+3+floor.p99, s.p99, "ms")
	}
	if k, x := r.Dark["keepalived"], r.Dark["xvrrp"]; len(k) > 0 && len(x) > 0 {
		bar("client dark, median: 0.9 × keepalived", 0.9*summarize(k).p50, summarize(x).p50, "ms")
	}
	if f, x := r.Dark["frr"], r.Dark["xvrrp"]; len(f) > 0 && len(x) > 0 {
		bar("client dark, median: 1.05 × FRR", 1.05*summarize(f).p50, summarize(x).p50, "ms")
	}
	if k, x := r.Load["keepalived"], r.Load["xvrrp"]; k != nil && x != nil {
		bar("CPU of the backup, median: 1/5 of keepalived's", summarize(k.Backup).p50/5, summarize(x.Backup).p50, "%")
		bar("CPU of the master, median: 1/3 of keepalived's", summarize(k.Master).p50/3, summarize(x.Master).p50, "%")
		bar("memory of processes and kernel, max", 40, max(summarize(x.MasterMiB).max+summarize(x.MasterBPF).max,
			summarize(x.BackupMiB).max+summarize(x.BackupBPF).max), "MiB")
		bar("events to user space in steady state, max", 0, summarize(x.Events).max, "")
	}
	if k, x := r.Mass["keepalived"], r.Mass["xvrrp"]; len(k) > 0 && len(x) > 0 {
		bar("last of 250 announced: 1/20 of keepalived's", summarize(k).p50/20, summarize(x).p50, "ms")
	}
	changeBars(r, bar)
	faultBars(r, bar)
	beforeBars(r, bar)
	checkBars(r, bar)
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
