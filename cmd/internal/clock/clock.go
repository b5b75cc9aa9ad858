// SPDX-License-Identifier: Apache-2.0

// Package clock reads CLOCK_MONOTONIC, the time base of the whole project.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// Go's monotonic clock is CLOCK_MONOTONIC, read through the vDSO: no system
// call. start is a moment of it, startNs the same moment by the clock itself.
var start, startNs = tie()

// tie reads both clocks as near to each other as a few tries allow: a pause
// between the two readings would stay an error for ever.
func tie() (at time.Time, ns int64) {
	best := int64(-1)
	for range 100 {
		before := read(unix.CLOCK_MONOTONIC)
		now := time.Now()
		if gap := read(unix.CLOCK_MONOTONIC) - before; best < 0 || gap < best {
			best, at, ns = gap, now, before+gap/2
		}
	}
	return at, ns
}

func read(id int32) int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(id, &ts) // cannot fail for these clocks
	return ts.Nano()
}

// Now returns CLOCK_MONOTONIC in nanoseconds: the clock of the kernel's stamps.
func Now() int64 { return startNs + int64(time.Since(start)) }

// Local returns a time of Now as this process's own CLOCK_MONOTONIC has it, for
// timers.
func Local(ns int64) int64 { return ns }

// Realtime returns CLOCK_REALTIME in nanoseconds.
func Realtime() int64 { return time.Now().UnixNano() }
