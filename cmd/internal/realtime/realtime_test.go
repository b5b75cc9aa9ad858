// SPDX-License-Identifier: Apache-2.0

package realtime

import (
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fakeKernel refuses what it is told to and records the rest. Its calling
// thread, 0, has no entry among the threads.
type fakeKernel struct {
	tids     []int
	policies map[int]uint32
	prio     map[int]uint32
	nice     map[int]int
	tried    []int // policies that were asked for, in order
	affinity *unix.CPUSet
	locked   bool
	rtLimit  uint64

	refusePolicies []int
	refuseTids     []int // have no scheduling but their own
	gone           []int // have ended since they were listed
	refuseLock     error
	refuseLimit    error
	refuseNice     error
	refuseAffinity error
	refuseThreads  error
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{tids: []int{10, 11, 12}, policies: map[int]uint32{}, prio: map[int]uint32{}, nice: map[int]int{}}
}

func (k *fakeKernel) threads() ([]int, error) { return k.tids, k.refuseThreads }

func (k *fakeKernel) policy(tid int) (uint32, error) {
	if slices.Contains(k.gone, tid) {
		return 0, unix.ESRCH
	}
	return k.policies[tid], nil
}

func (k *fakeKernel) setScheduling(tid int, attr *unix.SchedAttr) error {
	k.tried = append(k.tried, int(attr.Policy))
	switch {
	case slices.Contains(k.gone, tid):
		return unix.ESRCH
	case slices.Contains(k.refuseTids, tid), slices.Contains(k.refusePolicies, int(attr.Policy)):
		return unix.EBUSY
	}
	k.policies[tid], k.prio[tid] = attr.Policy, attr.Priority
	return nil
}

func (k *fakeKernel) setNice(tid, nice int) error {
	k.nice[tid] = nice
	return k.refuseNice
}

func (k *fakeKernel) setAffinity(set *unix.CPUSet) error {
	k.affinity = set
	return k.refuseAffinity
}

func (k *fakeKernel) lockMemory() error {
	k.locked = k.refuseLock == nil
	return k.refuseLock
}

func (k *fakeKernel) limitRTTime(limit uint64) error {
	if k.refuseLimit == nil {
		k.rtLimit = limit
	}
	return k.refuseLimit
}

func logger(t *testing.T) (*slog.Logger, *strings.Builder) {
	var text strings.Builder
	t.Cleanup(func() { t.Log(text.String()) })
	return slog.New(slog.NewTextHandler(&text, nil)), &text
}

// A default that the host does not give never ends the daemon; what is required
// does.
func TestPrepare(t *testing.T) {
	for _, tc := range []struct {
		name     string
		options  Options
		host     func(*fakeKernel)
		err      error
		deadline bool
		priority int
		logged   []string
		others   uint32 // policy of the other threads
	}{
		{name: "all is had", options: Options{Priority: 60, LockMemory: true}, deadline: true, priority: 60, others: unix.SCHED_RR},
		{
			name: "no reservation", options: Options{Priority: 60}, priority: 60, others: unix.SCHED_RR,
			host:   func(k *fakeKernel) { k.refusePolicies = []int{unix.SCHED_DEADLINE} },
			logged: []string{"no deadline scheduling"},
		},
		{
			name: "no real-time scheduling at all", options: Options{Priority: 60},
			host:   func(k *fakeKernel) { k.refusePolicies = []int{unix.SCHED_DEADLINE, unix.SCHED_RR} },
			logged: []string{"no deadline scheduling", "no real-time priority"},
		},
		{
			name: "some threads have no priority", options: Options{Priority: 60}, deadline: true, priority: 60,
			host:   func(k *fakeKernel) { k.refuseTids = []int{11} },
			logged: []string{"some threads have no real-time priority"},
		},
		{
			name: "the limit on real-time CPU time cannot be lifted", options: Options{Priority: 60}, deadline: true,
			host:   func(k *fakeKernel) { k.refuseLimit = unix.EPERM },
			logged: []string{"no real-time priority"},
		},
		{
			name: "memory cannot be locked", options: Options{LockMemory: true, PriorityRequired: true},
			host:   func(k *fakeKernel) { k.refuseLock = unix.ENOMEM },
			logged: []string{"memory is not locked"},
		},
		{
			name: "threads cannot be listed", options: Options{Priority: 60}, deadline: true, priority: 60,
			host:   func(k *fakeKernel) { k.refuseThreads = unix.EACCES },
			logged: []string{"some threads have no real-time priority"},
		},
		{name: "with an affinity there is no reservation", options: Options{Priority: 60, CPUs: []int{1}}, priority: 60, others: unix.SCHED_RR},
		{name: "a required priority", options: Options{Priority: 50, PriorityRequired: true}, priority: 50, others: unix.SCHED_RR},
		{
			name: "a required priority is refused", options: Options{Priority: 50, PriorityRequired: true},
			host: func(k *fakeKernel) { k.refusePolicies = []int{unix.SCHED_RR} }, err: unix.EBUSY,
		},
		{name: "normal scheduling is required", options: Options{PriorityRequired: true}},
		{
			name: "a required lock is refused", options: Options{LockMemory: true, LockMemoryRequired: true},
			host: func(k *fakeKernel) { k.refuseLock = unix.EPERM }, err: unix.EPERM,
		},
		{
			name: "a nice value is refused", options: Options{Nice: -10},
			host: func(k *fakeKernel) { k.refuseNice = unix.EACCES }, err: unix.EACCES,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFakeKernel()
			if tc.host != nil {
				tc.host(k)
			}
			log, text := logger(t)
			s, err := prepare(tc.options, k, log)
			if tc.err != nil {
				require.ErrorIs(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.deadline, s.deadline)
			assert.Equal(t, tc.priority, s.priority)
			for _, tid := range k.tids {
				if tc.logged == nil {
					assert.Equal(t, tc.others, k.policies[tid], tid)
				}
			}
			assert.Equal(t, len(tc.logged), strings.Count(text.String(), "\n"))
			for _, want := range tc.logged {
				assert.Contains(t, text.String(), want)
			}
			assert.Equal(t, tc.options.LockMemory && k.refuseLock == nil, k.locked)
		})
	}
}

func TestPrepareThreads(t *testing.T) {
	k := newFakeKernel()
	k.gone = []int{11}
	log, _ := logger(t)
	_, err := prepare(Options{Nice: -5, Priority: 60, PriorityRequired: true, RTTime: 3 * time.Millisecond}, k, log)
	require.NoError(t, err, "a thread that has ended does not matter")
	assert.Equal(t, map[int]int{10: -5, 11: -5, 12: -5}, k.nice)
	assert.Equal(t, uint32(59), k.prio[10], "below the event loop's")
	assert.Equal(t, uint32(59), k.prio[12])
	assert.Equal(t, uint64(3000), k.rtLimit)
}

// A host that takes back what it offered does not end the daemon, unless it is
// required.
func TestApply(t *testing.T) {
	for _, tc := range []struct {
		name     string
		deadline bool
		required bool
		refuses  []int // policies
		tries    []int // policies, in order
		priority int
		refused  int
		err      error
		keeps    bool // the reservation
	}{
		{name: "the reservation holds", deadline: true, tries: []int{unix.SCHED_DEADLINE}, priority: 60, keeps: true},
		{
			name: "it was taken by somebody else", deadline: true, refuses: []int{unix.SCHED_DEADLINE},
			tries: []int{unix.SCHED_DEADLINE, unix.SCHED_RR}, priority: 60, refused: 1,
		},
		{
			name: "nor is there a real-time priority", deadline: true, refuses: []int{unix.SCHED_DEADLINE, unix.SCHED_RR},
			tries: []int{unix.SCHED_DEADLINE, unix.SCHED_RR}, refused: 2,
		},
		{name: "a default priority", refuses: []int{unix.SCHED_RR}, tries: []int{unix.SCHED_RR}, refused: 1},
		{
			name: "a required priority", required: true, refuses: []int{unix.SCHED_RR}, tries: []int{unix.SCHED_RR},
			priority: 60, err: unix.EBUSY,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newFakeKernel()
			k.refusePolicies = tc.refuses
			s := newSchedule(Options{Priority: 60, PriorityRequired: tc.required}, k)
			s.deadline = tc.deadline
			require.ErrorIs(t, s.Apply(), tc.err)
			assert.Equal(t, tc.tries, k.tried)
			assert.Equal(t, tc.priority, s.priority)
			assert.Len(t, s.refused, tc.refused)
			require.Equal(t, tc.keeps, s.deadline)
			if tc.keeps {
				return
			}
			// Without a reservation there is nothing to keep: Keep reports what was
			// refused, and ends.
			log, text := logger(t)
			require.NoError(t, s.Keep(t.Context(), log))
			assert.Equal(t, tc.refused > 0, strings.Contains(text.String(), "withdrew the scheduling"))
			assert.Len(t, k.tried, len(tc.tries), "no other thread is given anything")
		})
	}
}

func TestApplyAffinity(t *testing.T) {
	k := newFakeKernel()
	s := newSchedule(Options{CPUs: []int{1, 3}}, k)
	require.NoError(t, s.Apply())
	require.NotNil(t, k.affinity)
	assert.Equal(t, 2, k.affinity.Count())
	assert.True(t, k.affinity.IsSet(1) && k.affinity.IsSet(3))

	k.refuseAffinity = unix.EINVAL
	require.ErrorIs(t, newSchedule(Options{CPUs: []int{99}}, k).Apply(), unix.EINVAL)
}

func TestSettle(t *testing.T) {
	k := newFakeKernel()
	s := newSchedule(Options{Priority: 60}, k)
	k.policies[10] = unix.SCHED_DEADLINE // the event loop
	k.policies[11] = unix.SCHED_RR
	require.NoError(t, s.settleAll())
	assert.Len(t, k.tried, 2, "the loop keeps its own reservation")
	assert.Equal(t, uint32(unix.SCHED_DEADLINE), k.policies[11])
	assert.Equal(t, uint32(unix.SCHED_DEADLINE), k.policies[12])

	// The host has no more to give: a new thread gets a priority, and one that
	// cannot have even that does not keep the others from theirs.
	k.refusePolicies = []int{unix.SCHED_DEADLINE}
	k.tids = []int{13, 15, 16, 14}
	k.refuseTids, k.gone = []int{13}, []int{14}
	k.policies[15] = unix.SCHED_RR
	k.tried = nil
	err := s.settleAll()
	require.ErrorIs(t, err, unix.EBUSY)
	assert.False(t, errors.Is(err, unix.ESRCH), "a thread that has ended does not matter")
	assert.Equal(t, uint32(unix.SCHED_RR), k.policies[16])
	assert.Equal(t, uint32(59), k.prio[16])
	assert.Zero(t, k.prio[15], "it has a priority already")
}

// The real calls work at least where nothing is asked for.
func TestSystem(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tids, err := system{}.threads()
	require.NoError(t, err)
	assert.Contains(t, tids, unix.Gettid())
	policy, err := system{}.policy(0)
	require.NoError(t, err)
	assert.NotEqual(t, uint32(unix.SCHED_DEADLINE), policy)

	// A soft limit below the hard one takes no privilege, and leaves the hard
	// one as it is.
	var before, after unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_RTTIME, &before))
	t.Cleanup(func() { assert.NoError(t, unix.Setrlimit(unix.RLIMIT_RTTIME, &before)) })
	require.NoError(t, system{}.limitRTTime(1000))
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_RTTIME, &after))
	assert.Equal(t, unix.Rlimit{Cur: 1000, Max: before.Max}, after)
	require.NoError(t, system{}.limitRTTime(before.Cur))
}
