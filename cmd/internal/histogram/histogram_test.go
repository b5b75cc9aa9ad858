// SPDX-License-Identifier: Apache-2.0

package histogram

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	assert.Zero(t, h.Quantile(0.99))
	for range 99 {
		h.Add(1500) // above 1024 ns, below 2048
	}
	h.Add(3_000_000)
	h.Add(-1)
	h.Add(1 << 50)
	assert.Equal(t, int64(1<<50), h.Max())
	assert.Equal(t, int64(2048), h.Quantile(0.5))
	assert.Equal(t, int64(1<<22), h.Quantile(0.985))
	total, sum, byUpper := h.Cumulative()
	assert.Equal(t, uint64(102), total)
	assert.InDelta(t, float64(1<<50)/1e9, sum, 1)
	assert.Equal(t, uint64(1), byUpper[1024e-9])
	assert.Equal(t, uint64(100), byUpper[2048e-9])
	assert.Equal(t, uint64(101), byUpper[float64(1<<33-1<<32)/1e9], "what is longer is in the last bucket only")
	assert.Len(t, byUpper, buckets-1)
	assert.Zero(t, testing.AllocsPerRun(100, func() { h.Add(5000) }))
}
