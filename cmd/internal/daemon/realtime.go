// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/config"
)

// What makes the event loop run when it has to.
//
// By default its thread has SCHED_DEADLINE. A real-time priority is not enough
// on a host on which other real-time work takes whole processors: the kernel
// then gives 50 ms of each second to everybody else, by way of a deadline of
// its own that stands above every priority (RT throttling before Linux 6.12),
// and 50 ms is more than five adverts at the shortest interval.
//
// The other threads are real-time, too, one priority below that of the loop.
// The runtime makes the loop wait for them now and then, to collect garbage or
// to hand over a processor; on a starved host it waited for half a second.

// The reservation of the event loop's thread. It uses a few percent of that;
// more leaves room for all that may happen at once.
const (
	deadlineRuntime = 4 * time.Millisecond
	deadlinePeriod  = 10 * time.Millisecond
)

// schedule is how the event loop's thread runs.
type schedule struct {
	deadline bool // SCHED_DEADLINE
	priority int  // of SCHED_RR, 1 to 99; 0: normal
	rtTime   time.Duration
	cpus     []int
}

// prepareProcess sets what concerns every thread, and finds out how the loop's
// may run. What the user wrote must work; a default is done where the host
// allows it.
func prepareProcess(p *config.Process, log *slog.Logger) (*schedule, error) {
	s := &schedule{priority: p.RTPriority, rtTime: p.RTTime, cpus: p.CPUs}
	if p.Nice != 0 {
		if err := setNice(p.Nice); err != nil {
			return nil, err
		}
	}
	if p.NoSwap {
		// As memory is used, and not all of what Go has reserved.
		err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
		switch {
		case err == nil:
		case p.NoSwapConfigured:
			return nil, fmt.Errorf("vrrp_no_swap: lock memory: %w", err)
		default:
			log.Info("memory is not locked: it may be swapped out", "err", err)
		}
	}
	if !p.RTConfigured {
		s.choose(log)
	}
	if s.priority > 1 {
		return s, eachThread(func(tid int) error { return s.realtime(tid, s.priority-1) })
	}
	return s, nil
}

// choose finds the best that the host allows.
func (s *schedule) choose(log *slog.Logger) {
	// A reservation is for the whole machine; with an affinity there is none.
	if len(s.cpus) == 0 {
		err := onThread(s.reserve)
		if s.deadline = err == nil; !s.deadline {
			log.Info("the event loop has no deadline scheduling; a real-time priority is tried", "err", err)
		}
	}
	if err := onThread(func() error { return s.realtime(0, s.priority) }); err != nil {
		log.Info("the event loop runs with normal priority: a busy host may hold it up", "err", err)
		s.priority = 0
	}
}

// onThread tries something on a thread that is thrown away.
func onThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// setNice sets the nice value of every thread.
func setNice(nice int) error {
	return eachThread(func(tid int) error {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil {
			return fmt.Errorf("vrrp_priority: set nice value %d: %w", nice, err)
		}
		return nil
	})
}

// eachThread calls fn for every thread that there is; those to come inherit
// what they are made from. One that ends meanwhile does not matter.
func eachThread(fn func(tid int) error) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := fn(tid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// apply sets what concerns the event loop's thread alone, which calls it.
func (s *schedule) apply() error {
	if len(s.cpus) > 0 {
		var set unix.CPUSet
		for _, cpu := range s.cpus {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("vrrp_cpu_affinity: run on processors %v: %w", s.cpus, err)
		}
	}
	if s.deadline {
		return s.reserve()
	}
	if s.priority > 0 {
		return s.realtime(0, s.priority)
	}
	return nil
}

// reserve gives the calling thread SCHED_DEADLINE. What it starts does not
// inherit that.
func (s *schedule) reserve() error {
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_DEADLINE,
		Flags:   unix.SCHED_FLAG_RESET_ON_FORK,
		Runtime: uint64(deadlineRuntime), Deadline: uint64(deadlinePeriod), Period: uint64(deadlinePeriod),
	}
	if err := unix.SchedSetAttr(0, attr, 0); err != nil {
		return fmt.Errorf("reserve %v of every %v: %w", deadlineRuntime, deadlinePeriod, err)
	}
	return nil
}

// realtime gives a thread SCHED_RR, 0 is the calling one. The limit on
// continuous real-time CPU time is set first, or lifted: the kernel kills a
// process that meets it.
func (s *schedule) realtime(tid, priority int) error {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if s.rtTime > 0 {
		limit.Cur = uint64(s.rtTime.Microseconds())
	}
	if err := unix.Setrlimit(unix.RLIMIT_RTTIME, &limit); err != nil {
		return fmt.Errorf("set the limit on real-time CPU time: %w", err)
	}
	attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(priority)}
	if err := unix.SchedSetAttr(tid, attr, 0); err != nil {
		return fmt.Errorf("vrrp_rt_priority: set real-time priority %d: %w", priority, err)
	}
	return nil
}
