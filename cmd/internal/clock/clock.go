// SPDX-License-Identifier: Apache-2.0

// Package clock reads the time base of the whole project: the kernel's
// CLOCK_MONOTONIC, which stamps frames in BPF programs. In a time namespace
// (time_namespaces(7)) a process sees that clock shifted; Now is not.
package clock

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// offset is what this process's time namespace adds to CLOCK_MONOTONIC, in
	// nanoseconds. It cannot change while a process is in the namespace.
	offset = namespaceOffset()
	// At start, the kernel's clock was at base.
	base, start = align()
)

// Now returns the kernel's CLOCK_MONOTONIC in nanoseconds. It is the same clock
// as bpf_ktime_get_ns, also in a time namespace. It makes no system call: Go's
// monotonic time is the same clock, read through the vDSO.
func Now() int64 { return base + int64(time.Since(start)) }

// Local converts a time of Now for system calls that take an absolute time of
// CLOCK_MONOTONIC, such as timerfd_settime: they expect the clock of the
// process's time namespace.
func Local(ns int64) int64 { return ns + offset }

// Realtime returns CLOCK_REALTIME in nanoseconds.
func Realtime() int64 { return time.Now().UnixNano() }

// align reads the kernel's clock and Go's as one. Of several attempts it keeps
// the one with the least time between the two readings.
func align() (base int64, start time.Time) {
	best := time.Duration(1<<63 - 1)
	for range 20 {
		before := time.Now()
		ns := monotonic()
		after := time.Now()
		if gap := after.Sub(before); gap < best {
			best, base, start = gap, ns-offset, before.Add(gap/2)
		}
	}
	return base, start
}

// monotonic reads CLOCK_MONOTONIC as this process sees it.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return ts.Nano()
}

// namespaceOffset returns what the time namespace of this process adds to
// CLOCK_MONOTONIC: 0 on a kernel without time namespaces (before 5.6).
func namespaceOffset() int64 {
	// The file tells of the namespace that children will be in. If that is
	// another one, this process was made before it and is in the first.
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		return 0
	}
	if children, err := os.Readlink("/proc/self/ns/time_for_children"); err != nil || children != own {
		return 0
	}
	text, err := os.ReadFile("/proc/self/timens_offsets")
	if err != nil {
		return 0
	}
	ns, err := parseOffsets(string(text))
	if err != nil {
		return 0
	}
	return ns
}

// parseOffsets returns the offset of CLOCK_MONOTONIC, in nanoseconds, from the
// text of timens_offsets. Its lines are CLOCK SECONDS NANOSECONDS; only the
// seconds can be negative.
func parseOffsets(text string) (int64, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "monotonic" && fields[0] != strconv.Itoa(unix.CLOCK_MONOTONIC) {
			continue
		}
		sec, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("offset of CLOCK_MONOTONIC: %w", err)
		}
		ns, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("offset of CLOCK_MONOTONIC: %w", err)
		}
		return sec*1e9 + ns, nil
	}
	return 0, fmt.Errorf("no offset of CLOCK_MONOTONIC in %q", text)
}
