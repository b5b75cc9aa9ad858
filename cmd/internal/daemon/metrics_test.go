// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Names, labels and help of metrics are an interface: dashboards and alerts
// are written against them.
func TestMetricNames(t *testing.T) {
	ch := make(chan *prometheus.Desc, 100)
	(&collector{}).Describe(ch)
	close(ch)
	var lines []string
	for d := range ch {
		lines = append(lines, d.String())
	}
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/metrics.golden"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestHistogram(t *testing.T) {
	var h histogram
	for _, ns := range []int64{-1, 0, 1023, 1024, 2047, 2048, 1 << 40} {
		h.add(ns)
	}
	assert.Equal(t, uint64(3), h.buckets[0].Load(), "below 1024 ns")
	assert.Equal(t, uint64(2), h.buckets[1].Load())
	assert.Equal(t, uint64(1), h.buckets[2].Load())
	assert.Equal(t, uint64(1), h.buckets[histogramBuckets-1].Load())
	assert.Equal(t, int64(1<<40), h.max.Load())
	assert.Equal(t, upper(1), h.quantile(0.5))
}
