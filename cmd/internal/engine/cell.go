// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"runtime"
	"sync/atomic"
	"unsafe"
)

// cell publishes a value of several words: one writer stores, anybody loads,
// and a load is never a mixture of two stores (a seqlock). T holds no pointer,
// and its size is a multiple of eight bytes.
type cell[T comparable] struct {
	seq   atomic.Uint64 // odd while a store is under way
	words []atomic.Uint64
	last  T // the writer's copy
}

func (c *cell[T]) init() {
	c.words = make([]atomic.Uint64, unsafe.Sizeof(c.last)/8)
}

// store publishes v, unless it is what was published last.
func (c *cell[T]) store(v *T) {
	if *v == c.last {
		return
	}
	c.last = *v
	from := unsafe.Slice((*uint64)(unsafe.Pointer(&c.last)), len(c.words))
	c.seq.Add(1)
	for i := range c.words {
		c.words[i].Store(from[i])
	}
	c.seq.Add(1)
}

func (c *cell[T]) load() (v T) {
	to := unsafe.Slice((*uint64)(unsafe.Pointer(&v)), len(c.words))
	for {
		before := c.seq.Load()
		for i := range c.words {
			to[i] = c.words[i].Load()
		}
		if before&1 == 0 && c.seq.Load() == before {
			return v
		}
		runtime.Gosched()
	}
}
