// SPDX-License-Identifier: Apache-2.0

// Package clock reads CLOCK_MONOTONIC, the time base of the whole project.
package clock

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Now returns CLOCK_MONOTONIC in nanoseconds: the clock of the kernel's stamps.
func Now() int64 {
	var ts unix.Timespec
	// The error cannot occur with this clock.
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// Realtime returns CLOCK_REALTIME in nanoseconds.
func Realtime() int64 {
	var ts unix.Timespec
	_, _, _ = unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_REALTIME, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}
