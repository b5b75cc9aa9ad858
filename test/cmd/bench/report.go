// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

var daemons = []string{"xvrrp", "keepalived", "frr"}

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
	for _, d := range daemons {
		row("silent cut: last advert → first advert of "+d, r.Detect[d])
	}
	for _, d := range daemons {
		row("silent cut: client dark, "+d, r.Dark[d])
	}
	for _, d := range daemons {
		row("250 instances: last advert → last of 250 announced, "+d, r.Mass[d])
	}
	for _, d := range daemons {
		if n := r.Unsteady[d]; n > 0 {
			fmt.Fprintf(&b, "\n%s: %d more cuts with 250 instances do not count, because the backup held some addresses before.\n", d, n)
		}
	}
	if len(r.CPU) > 0 {
		fmt.Fprintf(&b, "\n| 250 instances at 10 ms, steady | CPU master | CPU backup | memory master | memory backup | events to user space |\n|---|---|---|---|---|---|\n")
		for _, d := range daemons {
			l, ok := r.CPU[d]
			if !ok {
				continue
			}
			events := fmt.Sprint(l.Events)
			if l.Events < 0 {
				events = "every advert"
			}
			fmt.Fprintf(&b, "| %s | %.1f %% | %.1f %% | %.1f MiB | %.1f MiB | %s |\n", d, l.Master, l.Backup, l.MasterRSS, l.BackupRSS, events)
		}
	}
	if r.Frames != "" {
		fmt.Fprintf(&b, "\nCost of a frame in the kernel (`BPF_PROG_TEST_RUN`), and allocations:\n\n```\n%s\n%s\n```\n", r.Frames, r.Allocs)
	}
	bars(&b, r)
	return b.String()
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
	k, kok := r.CPU["keepalived"]
	if x, ok := r.CPU["xvrrp"]; ok && kok {
		bar("CPU of the backup: 1/5 of keepalived's", k.Backup/5, x.Backup, "%")
		bar("CPU of the master: 1/3 of keepalived's", k.Master/3, x.Master, "%")
		bar("resident memory", 40, max(x.MasterRSS, x.BackupRSS), "MiB")
		bar("events to user space in steady state", 0, float64(x.Events), "")
	}
	if k, x := r.Mass["keepalived"], r.Mass["xvrrp"]; len(k) > 0 && len(x) > 0 {
		bar("last of 250 announced: 1/20 of keepalived's", summarize(k).p50/20, summarize(x).p50, "ms")
	}
}

const marker = "<!-- results -->"

// writeDocs replaces what stands behind the marker of docs/benchmarks.md.
func writeDocs(table string) {
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
