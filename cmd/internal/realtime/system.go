// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// kernel is what is asked of it. Thread 0 is the calling one.
type kernel interface {
	threads() ([]int, error)
	policy(tid int) (uint32, error)
	setScheduling(tid int, attr *unix.SchedAttr) error
	setNice(tid, nice int) error
	setAffinity(*unix.CPUSet) error // of the calling thread
	lockMemory() error
	limitRTTime(microseconds uint64) error
}

// system is the kernel of this host.
type system struct{}

func (system) threads() ([]int, error) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var tids []int
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	return tids, nil
}

func (system) policy(tid int) (uint32, error) {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return 0, err
	}
	return attr.Policy, nil
}

func (system) setScheduling(tid int, attr *unix.SchedAttr) error {
	return unix.SchedSetAttr(tid, attr, 0)
}

func (system) setNice(tid, nice int) error { return unix.Setpriority(unix.PRIO_PROCESS, tid, nice) }

func (system) setAffinity(set *unix.CPUSet) error { return unix.SchedSetaffinity(0, set) }

// lockMemory locks memory as it is used, and not all that Go has reserved.
func (system) lockMemory() error {
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// limitRTTime leaves the hard limit alone if that allows the soft one: raising
// it takes CAP_SYS_RESOURCE.
func (system) limitRTTime(microseconds uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_RTTIME, &limit); err != nil {
		return err
	}
	limit.Cur = microseconds
	limit.Max = max(limit.Max, limit.Cur)
	return unix.Setrlimit(unix.RLIMIT_RTTIME, &limit)
}
