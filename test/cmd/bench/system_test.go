// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestWaitedFor(t *testing.T) {
	before := waitedFor(os.Getpid())
	c := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	require.NoError(t, c.Run())
	used := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	assert.InDelta(t, used.Seconds(), (waitedFor(os.Getpid()) - before).Seconds(), 0.03)
	assert.Positive(t, used)
}

func TestTreeHasChildrenOfEveryThread(t *testing.T) {
	// Two goroutines that keep a thread each: one of them at least is not on
	// the main thread.
	var children []int
	for range 2 {
		started, release := make(chan *exec.Cmd), make(chan struct{})
		go func() {
			runtime.LockOSThread()
			c := exec.Command("sleep", "60")
			if c.Start() != nil {
				c = nil
			}
			started <- c
			<-release
		}()
		t.Cleanup(func() { close(release) })
		c := <-started
		require.NotNil(t, c)
		t.Cleanup(func() {
			_ = c.Process.Kill()
			_ = c.Wait()
		})
		children = append(children, c.Process.Pid)
	}
	assert.Subset(t, tree(os.Getpid()), children)
}

func TestProcessCPUKeepsThreadsThatEnded(t *testing.T) {
	type thread struct {
		id     int
		during time.Duration
	}
	before, ran := processCPU(os.Getpid()), make(chan thread)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		for range 1 << 24 {
			runtime.KeepAlive(t)
		}
		ran <- thread{unix.Gettid(), processCPU(os.Getpid())}
	}()
	got := <-ran
	assert.Greater(t, got.during, before)
	if got.id != os.Getpid() { // the main thread stays
		require.Eventually(t, func() bool {
			_, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", got.id))
			return os.IsNotExist(err)
		}, time.Minute, time.Millisecond)
	}
	assert.GreaterOrEqual(t, processCPU(os.Getpid()), got.during)
	assert.Zero(t, processCPU(1<<22+1), "no such process")
}
