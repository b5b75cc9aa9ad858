// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/config"
)

// What makes the event loop run when it has to. Only its thread is real-time:
// the others may allocate and collect garbage, and must not compete with it.

// prepareProcess sets what concerns every thread. What the user wrote must
// work; a default is done where the host allows it.
func prepareProcess(p *config.Process, log *slog.Logger) error {
	if p.Nice != 0 {
		if err := setNice(p.Nice); err != nil {
			return err
		}
	}
	if p.NoSwap {
		// As memory is used, and not all of what Go has reserved.
		err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
		switch {
		case err == nil:
		case p.NoSwapConfigured:
			return fmt.Errorf("vrrp_no_swap: lock memory: %w", err)
		default:
			log.Info("memory is not locked: it may be swapped out", "err", err)
		}
	}
	if p.RTPriority > 0 && !p.RTConfigured {
		if err := mayBeRealtime(p); err != nil {
			log.Info("the event loop runs with normal priority: a busy host may hold it up", "err", err)
			p.RTPriority = 0
		}
	}
	return nil
}

// setNice sets the nice value of every thread there is; those to come inherit
// it.
func setNice(nice int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("vrrp_priority: list threads: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		err = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("vrrp_priority: set nice value %d: %w", nice, err)
		}
	}
	return nil
}

// mayBeRealtime tries what prepareThread will do, on a thread that is left as
// it was.
func mayBeRealtime(p *config.Process) error {
	done := make(chan error)
	go func() { // its thread is thrown away
		runtime.LockOSThread()
		done <- setRealtime(p)
	}()
	return <-done
}

// prepareThread sets what concerns the event loop's thread alone.
func prepareThread(p *config.Process) error {
	if len(p.CPUs) > 0 {
		var set unix.CPUSet
		for _, cpu := range p.CPUs {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("vrrp_cpu_affinity: run on processors %v: %w", p.CPUs, err)
		}
	}
	return setRealtime(p)
}

// setRealtime gives the calling thread SCHED_RR. The limit on continuous
// real-time CPU time is set first, or lifted: the kernel kills a process that
// meets it.
func setRealtime(p *config.Process) error {
	if p.RTPriority == 0 {
		return nil
	}
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if p.RTTime > 0 {
		limit.Cur = uint64(p.RTTime.Microseconds())
	}
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &limit); err != nil {
		return fmt.Errorf("set the limit on real-time CPU time: %w", err)
	}
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(p.RTPriority)}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return fmt.Errorf("vrrp_rt_priority: set real-time priority %d: %w", p.RTPriority, err)
	}
	return nil
}
