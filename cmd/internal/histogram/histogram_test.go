// SPDX-License-Identifier: Apache-2.0

package histogram

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestAdd(t *testing.T) {
	var h Histogram
	for _, ns := range []int64{-1, 0, 1023, 1024, 2047, 2048, 1 << 40} {
		h.Add(ns)
	}
	assert.Equal(t, uint64(3), h.counts[0].Load(), "below 1024 ns")
	assert.Equal(t, uint64(2), h.counts[1].Load())
	assert.Equal(t, uint64(1), h.counts[2].Load())
	assert.Equal(t, uint64(1), h.counts[buckets-1].Load())
	assert.Equal(t, int64(1<<40), h.Max())
}

func TestQuantile(t *testing.T) {
	var h Histogram
	assert.Zero(t, h.Quantile(0.99), "nothing was added")
	for range 90 {
		h.Add(100)
	}
	for range 10 {
		h.Add(3000)
	}
	for q, want := range map[float64]int64{0: 1024, 0.5: 1024, 0.9: 1024, 0.91: 4096, 1: 4096} {
		assert.Equal(t, want, h.Quantile(q), q)
	}
	h.Add(1 << 41)
	assert.Equal(t, int64(1<<41), h.Quantile(1), "the last bucket has no bound")
}

// A quantile is never below the true one, and less than twice as much.
func TestQuantileBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var h Histogram
	all := make([]int64, 1000)
	for i := range all {
		all[i] = 1024 + random.Int64N(1<<(12+i%18))
		h.Add(all[i])
	}
	slices.Sort(all)
	for _, q := range []float64{0.1, 0.5, 0.9, 0.99, 1} {
		exact := all[int(q*float64(len(all)))-1]
		got := h.Quantile(q)
		assert.Greater(t, got, exact, q)
		assert.LessOrEqual(t, got, 2*exact, q)
	}
}

func TestCumulative(t *testing.T) {
	var h Histogram
	for _, ns := range []int64{10, 1500, 1600, 1 << 40} {
		h.Add(ns)
	}
	total, sum, below := h.Cumulative()
	assert.Equal(t, uint64(4), total)
	assert.InDelta(t, time.Duration(10+1500+1600+1<<40).Seconds(), sum, 1e-9)
	assert.Len(t, below, buckets-1)
	assert.Equal(t, uint64(1), below[1024e-9])
	assert.Equal(t, uint64(3), below[2048e-9])
	assert.Equal(t, uint64(3), below[time.Duration(upper(buckets-2)).Seconds()], "the last bucket is in the total only")
}

func TestAddAllocatesNothing(t *testing.T) {
	var h Histogram
	assert.Zero(t, testing.AllocsPerRun(100, func() { h.Add(5000) }))
}
