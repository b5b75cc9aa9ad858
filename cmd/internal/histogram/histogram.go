// SPDX-License-Identifier: Apache-2.0

// Package histogram counts durations without locks.
package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	buckets = 24 // the last one begins at 2^33 ns, more than 8 s
	shift   = 10
)

// Histogram counts durations in powers of two from about a microsecond up. One
// goroutine adds, others read; nobody waits.
type Histogram struct {
	counts [buckets]atomic.Uint64
	sum    atomic.Int64
	max    atomic.Int64
}

// Add counts a duration in nanoseconds; a negative one counts as 0.
func (h *Histogram) Add(ns int64) {
	ns = max(0, ns)
	h.counts[min(bits.Len64(uint64(ns)>>shift), buckets-1)].Add(1)
	h.sum.Add(ns)
	if ns > h.max.Load() {
		h.max.Store(ns) // one writer
	}
}

// upper returns the upper bound of bucket i in nanoseconds.
func upper(i int) int64 { return 1 << (shift + i) }

// Max returns the longest duration in nanoseconds.
func (h *Histogram) Max() int64 { return h.max.Load() }

// Quantile returns the upper bound of the bucket that q falls into, in
// nanoseconds; 0 if nothing was counted.
func (h *Histogram) Quantile(q float64) int64 {
	var counts [buckets]uint64
	total := uint64(0)
	for i := range counts {
		counts[i] = h.counts[i].Load()
		total += counts[i]
	}
	seen := uint64(0)
	for i, n := range counts {
		seen += n
		if n > 0 && float64(seen) >= q*float64(total) {
			return upper(i)
		}
	}
	return 0
}

// Cumulative returns the number of durations, their sum in seconds, and the
// number up to each upper bound in seconds, as Prometheus has it.
func (h *Histogram) Cumulative() (total uint64, sum float64, byUpper map[float64]uint64) {
	byUpper = map[float64]uint64{}
	for i := range h.counts {
		total += h.counts[i].Load()
		if i < buckets-1 {
			byUpper[time.Duration(upper(i)).Seconds()] = total
		}
	}
	return total, time.Duration(h.sum.Load()).Seconds(), byUpper
}
