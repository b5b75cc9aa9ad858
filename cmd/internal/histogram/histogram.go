// SPDX-License-Identifier: Apache-2.0

// Package histogram counts durations without a lock.
package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Bucket 0 counts what is below 2^shift ns, about a microsecond; the bound
// doubles from bucket to bucket. The last bucket has no bound.
const (
	buckets = 24
	shift   = 10
)

// Histogram counts durations in powers of two. One goroutine adds, any number
// may read; neither waits. The zero value is empty.
type Histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Int64
	max    atomic.Int64
}

// Add counts a duration in nanoseconds. A negative one counts as 0.
func (h *Histogram) Add(ns int64) {
	ns = max(0, ns)
	bucket := min(bits.Len64(uint64(ns)>>shift), buckets-1)
	h.counts[bucket].Add(1)
	h.sum.Add(ns)
	if ns > h.max.Load() {
		h.max.Store(ns) // one writer
	}
}

// Max returns the longest duration in nanoseconds.
func (h *Histogram) Max() int64 { return h.max.Load() }

// Quantile returns, in nanoseconds, the upper bound of the bucket that q (0 to
// 1) falls into; for the last bucket, which has none, the longest duration. It
// returns 0 for an empty histogram.
func (h *Histogram) Quantile(q float64) int64 {
	counts, total := h.load()
	seen := uint64(0)
	for i, n := range counts {
		seen += n
		if n == 0 || float64(seen) < q*float64(total) {
			continue
		}
		if i == buckets-1 {
			return h.Max()
		}
		return upper(i)
	}
	return 0
}

// Cumulative returns what a Prometheus histogram wants: the number of
// durations, their sum in seconds, and for each bound in seconds the number of
// durations below it.
func (h *Histogram) Cumulative() (total uint64, sum float64, below map[float64]uint64) {
	counts, total := h.load()
	below = make(map[float64]uint64, buckets-1)
	seen := uint64(0)
	for i, n := range counts[:buckets-1] {
		seen += n
		below[time.Duration(upper(i)).Seconds()] = seen
	}
	return total, time.Duration(h.sum.Load()).Seconds(), below
}

func (h *Histogram) load() (counts [buckets]uint64, total uint64) {
	for i := range counts {
		counts[i] = h.counts[i].Load()
		total += counts[i]
	}
	return counts, total
}

// upper returns the upper bound of bucket i in nanoseconds.
func upper(i int) int64 { return 1 << (shift + i) }
