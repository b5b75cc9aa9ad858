// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// lockRealtime makes the calling goroutine's thread real-time; the thread is
// thrown away with the goroutine.
func lockRealtime() {
	runtime.LockOSThread()
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: realtime + 10,
	}, 0)
}

// tree returns a process and its children: keepalived works in a child. The
// kernel lists children by the thread that started them.
func tree(pid int) []int {
	out := []int{pid}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		text, _ := os.ReadFile(file) // a thread may have ended meanwhile
		for _, f := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(f); err == nil {
				out = append(out, tree(child)...)
			}
		}
	}
	return out
}

// treeCPU is the processor time of a process and its children, to the
// nanosecond, with that of threads that have ended. A child that has ended
// still counts, to the tick: keepalived starts another if one dies.
func treeCPU(p *lab.Process) time.Duration {
	var total time.Duration
	for _, pid := range tree(p.PID()) {
		total += processCPU(pid) + waitedFor(pid)
	}
	return total
}

// processCPU is the time on a process's own clock, see clock_getcpuclockid(3).
func processCPU(pid int) time.Duration {
	const sched = 2 // CPUCLOCK_SCHED, of a process
	var at unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|sched), &at) != nil {
		return 0 // it has ended
	}
	return time.Duration(at.Nano())
}

// waitedFor is the processor time of children that have ended.
func waitedFor(pid int) time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 15 {
		return 0
	}
	user, _ := strconv.Atoi(f[13])
	system, _ := strconv.Atoi(f[14])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// stolenMs is the processor time that the machine's host kept from it since the
// start, all processors together.
func stolenMs() float64 {
	text, _ := os.ReadFile("/proc/stat")
	f := strings.Fields(string(text))
	if len(f) < 9 {
		return 0
	}
	ticks, _ := strconv.ParseFloat(f[8], 64)
	return ticks * 10 // USER_HZ is 100
}

// treePss is the memory of a process and its children in MiB. What processes
// share is divided among them (keepalived works in a child, with the same
// text). BPF maps that a process maps are not in it: mapsAndPrograms has them.
func treePss(p *lab.Process) float64 {
	total := 0.0
	for _, pid := range tree(p.PID()) {
		total += pss(pid, "smaps_rollup", "") - pss(pid, "smaps", "anon_inode:bpf-map")
	}
	return total
}

// pss sums the proportional set size in MiB, in a file of /proc, of mappings
// whose name contains a text.
func pss(pid int, file, name string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	total, counts := 0.0, false
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) == 0:
		case !strings.HasSuffix(f[0], ":"): // the first line of a mapping
			counts = strings.Contains(line, name)
		case counts && f[0] == "Pss:":
			kib, _ := strconv.ParseFloat(f[1], 64)
			total += kib / 1024
		}
	}
	return total
}

// mapsAndPrograms is what a daemon holds of BPF: the memory of its maps and
// programs in MiB, and the number of its programs.
func mapsAndPrograms(p *lab.Process) (mib float64, programs int) {
	seen := map[string]bool{}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", p.PID()))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		fields := map[string]string{}
		for _, line := range strings.Split(string(text), "\n") {
			if name, value, ok := strings.Cut(line, ":"); ok {
				fields[name] = strings.TrimSpace(value)
			}
		}
		bytes, err := strconv.ParseFloat(fields["memlock"], 64)
		id := "map " + fields["map_id"]
		if fields["map_id"] == "" {
			id = "program " + fields["prog_id"]
		}
		if err != nil || seen[id] { // a link names its program, and no memory
			continue
		}
		seen[id] = true
		mib += bytes / (1 << 20)
		if fields["map_id"] == "" {
			programs++
		}
	}
	return mib, programs
}

// buildRevision builds the programs of a git revision in DIR/bin.
func buildRevision(revision, dir string) error {
	sh := `git archive "$1" | tar -x -C "$2" && cd "$2" && CGO_ENABLED=0 go build -o bin/ ./cmd/...`
	if out, err := exec.Command("sh", "-c", sh, "sh", revision, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("build revision %s: %w: %s", revision, err, out)
	}
	return nil
}

// killChildren ends every program that this one has started.
func killChildren() {
	for _, pid := range tree(os.Getpid())[1:] {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

var labName = regexp.MustCompile(`^xv\d+-\d+`)

// namespaces are the network namespaces of labs.
func namespaces() (names []string) {
	files, _ := os.ReadDir("/run/netns")
	for _, f := range files {
		if labName.MatchString(f.Name()) {
			names = append(names, f.Name())
		}
	}
	return names
}

// goBenchmarks runs what `go test -bench` measures: the cost of the program in
// the kernel, and allocations.
func goBenchmarks() (frames, allocs string, err error) {
	run := func(args ...string) (string, error) {
		out, err := exec.Command("go", append([]string{"test", "-run", "XXX", "-count", "1"}, args...)...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go test %s: %w: %s", strings.Join(args, " "), err, out)
		}
		var lines []string
		for _, l := range strings.Split(string(out), "\n") {
			if strings.HasPrefix(l, "Benchmark") {
				lines = append(lines, l)
			}
		}
		return strings.Join(lines, "\n"), nil
	}
	frames, err = run("-bench", "Frame", "-benchtime", "30x", "./loader")
	if err != nil {
		return "", "", err
	}
	for _, frame := range []string{frameOther, frameAdvert} {
		if math.IsNaN(aboveEmpty(frameCosts(frames), frame)) {
			return "", "", fmt.Errorf("the benchmark of %q or %q printed no figure: %s", frame, frameEmpty, frames)
		}
	}
	allocs, err = run("-bench", ".", "-benchmem", "./control/...", "./cmd/internal/...")
	return frames, allocs, err
}
