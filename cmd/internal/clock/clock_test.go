// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"
)

// Now is between two readings of the kernel's clock.
func TestNowIsTheKernelsClock(t *testing.T) {
	for range 1000 {
		before := read(unix.CLOCK_MONOTONIC)
		now := Now()
		after := read(unix.CLOCK_MONOTONIC)
		assert.GreaterOrEqual(t, now, before-tolerance)
		assert.LessOrEqual(t, now, after+tolerance)
	}
	assert.Zero(t, testing.AllocsPerRun(100, func() { Now() }))
}

// tolerance is for the time between the two readings that tie the clocks
// together, in nanoseconds.
const tolerance = 20_000
