// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/config"
)

// A host that takes back what it offered does not end the daemon, unless the
// file asks for it.
func TestRefusedSchedulingIsLeftOut(t *testing.T) {
	for _, tc := range []struct {
		name               string
		deadline           bool
		configured         bool
		refuses            []int // policies
		policies           []int // that were tried, in order
		priority           int
		refused            int
		fails              bool
		deadlineAfterwards bool
	}{
		{name: "the reservation holds", deadline: true, policies: []int{unix.SCHED_DEADLINE}, priority: 60, deadlineAfterwards: true},
		{
			name: "it was taken by somebody else", deadline: true, refuses: []int{unix.SCHED_DEADLINE},
			policies: []int{unix.SCHED_DEADLINE, unix.SCHED_RR}, priority: 60, refused: 1,
		},
		{
			name: "nor is there a real-time priority", deadline: true, refuses: []int{unix.SCHED_DEADLINE, unix.SCHED_RR},
			policies: []int{unix.SCHED_DEADLINE, unix.SCHED_RR}, refused: 2,
		},
		{
			name: "a default priority", refuses: []int{unix.SCHED_RR}, policies: []int{unix.SCHED_RR}, refused: 1,
		},
		{
			name: "a configured priority", configured: true, refuses: []int{unix.SCHED_RR},
			policies: []int{unix.SCHED_RR}, priority: 60, fails: true,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSchedule(&config.Process{RTPriority: 60, RTConfigured: tc.configured})
			s.deadline = tc.deadline
			var tried []int
			s.set = func(_ int, attr *unix.SchedAttr) error {
				tried = append(tried, int(attr.Policy))
				for _, p := range tc.refuses {
					if int(attr.Policy) == p {
						return unix.EBUSY
					}
				}
				return nil
			}
			err := s.apply()
			require.Equal(t, tc.fails, err != nil, err)
			assert.Equal(t, tc.policies, tried)
			assert.Equal(t, tc.priority, s.priority)
			assert.Len(t, s.refused, tc.refused)
			assert.Equal(t, tc.deadlineAfterwards, s.deadline)
			<-s.applied
		})
	}
}
