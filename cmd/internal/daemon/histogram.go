// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"math/bits"
	"sync/atomic"
)

// histogram counts durations in powers of two from about a microsecond up.
// The loop adds, others read; nobody waits.
type histogram struct {
	buckets [histogramBuckets]atomic.Uint64
	sum     atomic.Int64
	max     atomic.Int64
}

const (
	histogramBuckets = 24 // the last one begins at 2^33 ns, more than 8 s
	histogramShift   = 10
)

func (h *histogram) add(ns int64) {
	ns = max(0, ns)
	bucket := min(bits.Len64(uint64(ns)>>histogramShift), histogramBuckets-1)
	h.buckets[bucket].Add(1)
	h.sum.Add(ns)
	if ns > h.max.Load() {
		h.max.Store(ns) // one writer
	}
}

// upper returns the upper bound of bucket i in nanoseconds.
func upper(i int) int64 { return 1 << (histogramShift + i) }
