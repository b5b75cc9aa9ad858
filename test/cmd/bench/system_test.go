// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWaitedFor(t *testing.T) {
	before := waitedFor(os.Getpid())
	c := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	require.NoError(t, c.Run())
	used := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	assert.InDelta(t, used.Seconds(), (waitedFor(os.Getpid()) - before).Seconds(), 0.03)
	assert.Positive(t, used)
}
