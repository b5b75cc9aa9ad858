// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// setRealtime gives the calling thread SCHED_RR with a priority of 1 to 99; 0
// leaves it alone. The limit on continuous real-time CPU time is lifted first:
// the kernel kills a process that meets it.
func setRealtime(priority int) error {
	if priority == 0 {
		return nil
	}
	unlimited := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &unlimited); err != nil {
		return fmt.Errorf("lift the limit on real-time CPU time: %w", err)
	}
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(priority)}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return fmt.Errorf("set real-time priority %d: %w", priority, err)
	}
	return nil
}
