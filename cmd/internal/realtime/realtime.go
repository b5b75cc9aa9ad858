// SPDX-License-Identifier: Apache-2.0

// Package realtime makes the event loop run when it has to: scheduling classes,
// locked memory, processors.
//
// By default the loop's thread has SCHED_DEADLINE. A real-time priority is not
// enough on a host on which other real-time work takes whole processors: the
// kernel then gives 50 ms of each second to everybody else, by RT throttling or
// by a deadline server that stands above every priority, and 50 ms is more than
// five adverts at the shortest interval.
//
// The other threads need the same, though little of it. The runtime preempts
// the loop's goroutine every 10 ms, and a goroutine that is locked to its thread
// goes on only after another thread has handed it a processor (a P): if that one
// waits for the 50 ms, so does the loop.
package realtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The reservations of processor time. The loop uses a few percent of its own. A
// thread that has used its budget is throttled until the next period, unless
// there is unreserved bandwidth to reclaim (SCHED_FLAG_RECLAIM). The other
// threads get a short period because the loop may have to wait for one of them.
const (
	loopPeriod   = 10 * time.Millisecond
	loopRuntime  = 2 * time.Millisecond
	otherPeriod  = 2 * time.Millisecond
	otherRuntime = 100 * time.Microsecond
	// renewEvery is how soon a new thread gets its reservation: none inherits
	// one.
	renewEvery = time.Second
)

// Options of Prepare. What is required must be had; the rest is best effort.
type Options struct {
	// Nice is the nice value of every thread, -20 to 19 (vrrp_priority). Any but
	// 0 is required.
	Nice int
	// Priority is the SCHED_RR priority of the event loop, 1 to 99, or 0 for
	// normal scheduling (vrrp_rt_priority). If it is not required, it is what is
	// left where the host does not give SCHED_DEADLINE.
	Priority         int
	PriorityRequired bool
	// RTTime is the longest that a thread with a real-time priority may work
	// without a pause before the kernel ends the process (vrrp_rlimit_rttime);
	// 0: no limit.
	RTTime time.Duration
	// LockMemory keeps used memory from being swapped out (vrrp_no_swap).
	LockMemory         bool
	LockMemoryRequired bool
	// CPUs are the processors that the event loop may use (vrrp_cpu_affinity);
	// empty: any. A reservation is for the whole machine: with an affinity there
	// is none. An affinity is required.
	CPUs []int
}

// Schedule is how the threads run.
type Schedule struct {
	deadline bool // SCHED_DEADLINE
	priority int  // of SCHED_RR, 1 to 99; 0: normal
	required bool // the priority
	rtTime   time.Duration
	cpus     []int
	applied  chan struct{} // closed once the loop's thread runs like that
	refused  []error       // what it was to have, and the host did not give; read after applied
	kernel   kernel
}

// Prepare sets what concerns every thread, and finds out how the loop's may
// run. It fails if something required cannot be had.
func Prepare(o Options, log *slog.Logger) (*Schedule, error) { return prepare(o, system{}, log) }

func prepare(o Options, k kernel, log *slog.Logger) (*Schedule, error) {
	s := newSchedule(o, k)
	if o.Nice != 0 {
		err := s.eachThread(func(tid int) error { return k.setNice(tid, o.Nice) })
		if err != nil {
			return nil, fmt.Errorf("vrrp_priority: set nice value %d: %w", o.Nice, err)
		}
	}
	if o.LockMemory {
		err := k.lockMemory()
		switch {
		case err == nil:
		case o.LockMemoryRequired:
			return nil, fmt.Errorf("vrrp_no_swap: lock memory: %w", err)
		default:
			log.Info("memory is not locked: it may be swapped out", "err", err)
		}
	}
	if !s.required {
		s.choose(log)
	}
	if s.priority > 1 {
		err := s.eachThread(func(tid int) error { return s.realtime(tid, s.priority-1) })
		switch {
		case err == nil:
		case s.required:
			return nil, err
		default:
			log.Info("some threads have no real-time priority", "err", err)
		}
	}
	return s, nil
}

func newSchedule(o Options, k kernel) *Schedule {
	return &Schedule{
		priority: o.Priority, required: o.PriorityRequired, rtTime: o.RTTime, cpus: o.CPUs,
		applied: make(chan struct{}), kernel: k,
	}
}

// choose finds the best that the host allows.
func (s *Schedule) choose(log *slog.Logger) {
	if len(s.cpus) == 0 {
		err := onThread(func() error { return s.reserve(0, loopRuntime, loopPeriod) })
		if s.deadline = err == nil; !s.deadline {
			log.Info("no deadline scheduling for the event loop; trying a real-time priority", "err", err)
		}
	}
	if err := onThread(func() error { return s.realtime(0, s.priority) }); err != nil {
		log.Info("no real-time priority: a busy host may delay the event loop", "err", err)
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

// eachThread calls fn once for every thread, until a list has no other: a thread
// that is made meanwhile inherits from one that may not have had its turn. Those
// to come inherit what they are made from. One that ends does not matter.
func (s *Schedule) eachThread(fn func(tid int) error) error {
	known := map[int]bool{}
	for {
		tids, err := s.kernel.threads()
		if err != nil {
			return fmt.Errorf("list threads: %w", err)
		}
		before := len(known)
		for _, tid := range tids {
			if known[tid] {
				continue
			}
			known[tid] = true
			if err := fn(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if len(known) == before {
			return nil
		}
	}
}

// Apply sets what concerns the event loop's thread alone, which calls it, once.
// What was to be had when Prepare tried it may have gone to somebody else since;
// only what is required has to be had now.
func (s *Schedule) Apply() error {
	defer close(s.applied)
	if len(s.cpus) > 0 {
		var set unix.CPUSet
		for _, cpu := range s.cpus {
			set.Set(cpu)
		}
		if err := s.kernel.setAffinity(&set); err != nil {
			return fmt.Errorf("vrrp_cpu_affinity: run on processors %v: %w", s.cpus, err)
		}
	}
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
		if s.required {
			return err
		}
		s.priority = 0
		s.refused = append(s.refused, err)
	}
	return nil
}

// Keep gives every other thread its reservation, and those that come later,
// until ctx ends. Where the host has no more to give they have a real-time
// priority. It waits for Apply, and reports what that could not have.
func (s *Schedule) Keep(ctx context.Context, log *slog.Logger) error {
	select {
	case <-s.applied:
	case <-ctx.Done():
		return nil
	}
	if len(s.refused) > 0 {
		log.Warn("the host withdrew the scheduling of the event loop: a busy host may delay it",
			"real_time_priority", s.priority, "err", errors.Join(s.refused...))
	}
	if !s.deadline {
		return nil
	}
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	told := false
	for {
		if err := s.settleAll(); err != nil && !told {
			told = true
			log.Info("some threads have no deadline scheduling: other real-time work may delay the event loop", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// settleAll settles every thread, also those behind one that cannot be.
func (s *Schedule) settleAll() error {
	var last error
	err := s.eachThread(func(tid int) error {
		if err := s.settle(tid); err != nil && !errors.Is(err, unix.ESRCH) {
			last = err
		}
		return nil
	})
	return errors.Join(err, last)
}

// settle gives a thread that has no reservation the small one, or a real-time
// priority, which a thread that comes from one with a reservation has lost.
func (s *Schedule) settle(tid int) error {
	policy, err := s.kernel.policy(tid)
	if err != nil {
		return fmt.Errorf("ask how thread %d is scheduled: %w", tid, err)
	}
	if policy == unix.SCHED_DEADLINE {
		return nil
	}
	err = s.reserve(tid, otherRuntime, otherPeriod)
	if err != nil && policy != unix.SCHED_RR && s.priority > 1 {
		return errors.Join(err, s.realtime(tid, s.priority-1))
	}
	return err
}

// reserve gives a thread SCHED_DEADLINE, 0 is the calling one. What it starts
// does not inherit that.
func (s *Schedule) reserve(tid int, runtime, period time.Duration) error {
	err := s.kernel.setScheduling(tid, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_DEADLINE,
		Flags:   unix.SCHED_FLAG_RESET_ON_FORK | unix.SCHED_FLAG_RECLAIM,
		Runtime: uint64(runtime), Deadline: uint64(period), Period: uint64(period),
	})
	if err != nil {
		return fmt.Errorf("reserve %v of every %v: %w", runtime, period, err)
	}
	return nil
}

// realtime gives a thread SCHED_RR, 0 is the calling one. The limit on
// continuous real-time CPU time is set first, or lifted: the kernel kills a
// process that meets it.
func (s *Schedule) realtime(tid, priority int) error {
	limit := uint64(unix.RLIM_INFINITY)
	if s.rtTime > 0 {
		limit = uint64(s.rtTime.Microseconds())
	}
	if err := s.kernel.limitRTTime(limit); err != nil {
		return fmt.Errorf("vrrp_rlimit_rttime: set the limit on real-time CPU time: %w", err)
	}
	err := s.kernel.setScheduling(tid, &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: unix.SCHED_RR, Priority: uint32(priority),
	})
	if err != nil {
		return fmt.Errorf("vrrp_rt_priority: set real-time priority %d: %w", priority, err)
	}
	return nil
}
