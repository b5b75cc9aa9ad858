// SPDX-License-Identifier: Apache-2.0

package clock

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// printNow makes the test program print Now and end.
const printNow = "XVRRP_TEST_PRINT_NOW"

func TestMain(m *testing.M) {
	if os.Getenv(printNow) != "" {
		fmt.Println(Now(), Local(Now()), monotonic())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// aligned is more than the two clocks can differ by.
const aligned = int64(time.Millisecond)

func TestNow(t *testing.T) {
	for range 1000 {
		before := monotonic() - offset
		now := Now()
		after := monotonic() - offset
		require.GreaterOrEqual(t, now, before-aligned)
		require.LessOrEqual(t, now, after+aligned)
	}
	last := Now()
	for range 1000 {
		now := Now()
		require.GreaterOrEqual(t, now, last)
		last = now
	}
}

func TestNowAllocatesNothing(t *testing.T) {
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = Now() }))
	assert.Zero(t, testing.AllocsPerRun(100, func() { _ = Realtime() }))
}

func TestRealtime(t *testing.T) {
	var ts unix.Timespec
	require.NoError(t, unix.ClockGettime(unix.CLOCK_REALTIME, &ts))
	assert.InDelta(t, ts.Nano(), Realtime(), float64(time.Minute))
}

// A process in a time namespace has the same Now as one outside.
func TestTimeNamespace(t *testing.T) {
	lab.Require(t, "unshare")
	for _, seconds := range []int64{60, -1} {
		cmd := exec.Command("unshare", "--time", "--fork", "--monotonic", strconv.FormatInt(seconds, 10), os.Args[0])
		cmd.Env = append(os.Environ(), printNow+"=1")
		before := Now()
		out, err := cmd.CombinedOutput()
		after := Now()
		require.NoError(t, err, "%s", out)
		var now, local, own int64
		_, err = fmt.Sscan(string(out), &now, &local, &own)
		require.NoError(t, err, "%s", out)
		assert.GreaterOrEqual(t, now, before-aligned, seconds)
		assert.LessOrEqual(t, now, after+aligned, seconds)
		assert.InDelta(t, own, local, float64(after-before), "Local is the clock of the namespace, offset %d s", seconds)
	}
}

func TestParseOffsets(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
	}{
		{"monotonic           0         0\nboottime            0         0\n", 0},
		{"monotonic         -60         0\nboottime           -7         0\n", -60e9},
		{"monotonic          -1 999999999\nboottime            0         0\n", -1},
		{"boottime            5         0\nmonotonic       86400        17\n", 86400e9 + 17},
		{"1 12 0\n7 0 0\n", 12e9},
	} {
		got, err := parseOffsets(c.text)
		require.NoError(t, err, c.text)
		assert.Equal(t, c.want, got, c.text)
	}
	for _, text := range []string{"", "boottime 5 0\n", "monotonic\n", "monotonic x 0\n", "monotonic 0 x\n", strings.Repeat("9", 40)} {
		_, err := parseOffsets(text)
		assert.Error(t, err, text)
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		_ = Now()
	}
}
