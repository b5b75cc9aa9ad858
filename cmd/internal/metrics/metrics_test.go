// SPDX-License-Identifier: Apache-2.0

package metrics

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
	(&Collector{}).Describe(ch)
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
