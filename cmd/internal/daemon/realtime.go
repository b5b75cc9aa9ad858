// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
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
// then gives 50 ms of each second to everybody else, by RT throttling or by a
// deadline server that stands above every priority, and 50 ms is more than five
// adverts at the shortest interval.
//
// The other threads need the same, though little of it. The runtime preempts
// the loop's goroutine every 10 ms, and a goroutine that is locked to its thread
// goes on only after another thread has handed it a processor (a P): if that one
// waits for the 50 ms, so does the loop.

// The reservations of processor time. The loop uses a few percent of its own.
// Who has used up what is reserved waits for the next period, unless nobody else
// has reserved the rest (SCHED_FLAG_RECLAIM): for the other threads the period
// is short, because the loop may wait for one of them.
const (
	loopPeriod   = 10 * time.Millisecond
	loopRuntime  = 2 * time.Millisecond
	otherPeriod  = 2 * time.Millisecond
	otherRuntime = 100 * time.Microsecond
	// renewEvery is how soon a new thread gets its reservation: none inherits
	// one.
	renewEvery = time.Second
)

// schedule is how the threads run.
type schedule struct {
	deadline   bool // SCHED_DEADLINE
	priority   int  // of SCHED_RR, 1 to 99; 0: normal
	configured bool // priority is not the default
	rtTime     time.Duration
	cpus       []int
	applied    chan struct{} // closed once the loop's thread runs like that
	refused    []error       // what it was to have, and the host did not give; read after applied
	// set gives a thread its scheduling; tests have one of their own.
	set func(tid int, attr *unix.SchedAttr) error
}

// prepareProcess sets what concerns every thread, and finds out how the loop's
// may run. What the user wrote must work; a default is done where the host
// allows it.
func prepareProcess(p *config.Process, log *slog.Logger) (*schedule, error) {
	s := newSchedule(p)
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
		err := eachThread(func(tid int) error { return s.realtime(tid, s.priority-1) })
		if err != nil && p.RTConfigured {
			return nil, err
		}
		if err != nil {
			log.Info("not every thread has a real-time priority", "err", err)
		}
	}
	return s, nil
}

func newSchedule(p *config.Process) *schedule {
	return &schedule{
		priority: p.RTPriority, configured: p.RTConfigured, rtTime: p.RTTime, cpus: p.CPUs, applied: make(chan struct{}),
		set: func(tid int, attr *unix.SchedAttr) error { return unix.SchedSetAttr(tid, attr, 0) },
	}
}

// choose finds the best that the host allows.
func (s *schedule) choose(log *slog.Logger) {
	// A reservation is for the whole machine; with an affinity there is none.
	if len(s.cpus) == 0 {
		err := onThread(func() error { return s.reserve(0, loopRuntime, loopPeriod) })
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
	defer close(s.applied)
	if len(s.cpus) > 0 {
		var set unix.CPUSet
		for _, cpu := range s.cpus {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("vrrp_cpu_affinity: run on processors %v: %w", s.cpus, err)
		}
	}
	// What was to be had a moment ago may have gone to somebody else. Only what
	// the file asks for has to be had.
	if s.deadline {
		err := s.reserve(0, loopRuntime, loopPeriod)
		if err == nil {
			return nil
		}
		s.deadline = false
		s.refused = append(s.refused, err)
	}
	if s.priority > 0 {
		err := s.realtime(0, s.priority)
		if err == nil {
			return nil
		}
		if s.configured {
			return err
		}
		s.priority = 0
		s.refused = append(s.refused, err)
	}
	return nil
}

// keep gives every other thread its reservation, and those that come later,
// until ctx ends. Where the host has no more to give they have a real-time
// priority.
func (s *schedule) keep(ctx context.Context, log *slog.Logger) error {
	select {
	case <-s.applied:
	case <-ctx.Done():
		return nil
	}
	if len(s.refused) > 0 {
		log.Warn("the host no longer gives the event loop the scheduling that it offered: a busy host may hold it up",
			"real_time_priority", s.priority, "err", errors.Join(s.refused...))
	}
	if !s.deadline {
		return nil
	}
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	told := false
	for {
		var refused error
		err := eachThread(func(tid int) error {
			err := s.settle(tid)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				refused = err
			}
			return nil
		})
		if err = errors.Join(err, refused); err != nil && !told {
			told = true
			log.Info("not every thread has deadline scheduling: a host that is busy with real-time work may hold the event loop up", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// settle gives a thread that has no reservation the small one, or a real-time
// priority, which a thread that comes from one with a reservation has lost.
func (s *schedule) settle(tid int) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return fmt.Errorf("ask how thread %d is scheduled: %w", tid, err)
	}
	if attr.Policy == unix.SCHED_DEADLINE {
		return nil
	}
	err = s.reserve(tid, otherRuntime, otherPeriod)
	if err != nil && attr.Policy != unix.SCHED_RR && s.priority > 1 {
		return errors.Join(err, s.realtime(tid, s.priority-1))
	}
	return err
}

// reserve gives a thread SCHED_DEADLINE, 0 is the calling one. What it starts
// does not inherit that.
func (s *schedule) reserve(tid int, runtime, period time.Duration) error {
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_DEADLINE,
		Flags:   unix.SCHED_FLAG_RESET_ON_FORK | unix.SCHED_FLAG_RECLAIM,
		Runtime: uint64(runtime), Deadline: uint64(period), Period: uint64(period),
	}
	if err := s.set(tid, attr); err != nil {
		return fmt.Errorf("reserve %v of every %v: %w", runtime, period, err)
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
	if err := s.set(tid, attr); err != nil {
		return fmt.Errorf("vrrp_rt_priority: set real-time priority %d: %w", priority, err)
	}
	return nil
}
