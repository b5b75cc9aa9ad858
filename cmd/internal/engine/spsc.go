// SPDX-License-Identifier: Apache-2.0

package engine

import "sync/atomic"

// spsc is a bounded queue with one producer and one consumer, neither of which
// waits for the other.
type spsc[T any] struct {
	slots      []T // a power of two
	head, tail atomic.Uint64
}

func newSPSC[T any](size int) *spsc[T] {
	n := 1
	for n < size {
		n <<= 1
	}
	return &spsc[T]{slots: make([]T, n)}
}

// push reports whether there was room.
func (q *spsc[T]) push(v *T) bool {
	head := q.head.Load()
	if head-q.tail.Load() == uint64(len(q.slots)) {
		return false
	}
	q.slots[head&uint64(len(q.slots)-1)] = *v
	q.head.Store(head + 1)
	return true
}

// pop reports whether there was a value.
func (q *spsc[T]) pop(v *T) bool {
	tail := q.tail.Load()
	if tail == q.head.Load() {
		return false
	}
	slot := &q.slots[tail&uint64(len(q.slots)-1)]
	*v = *slot
	var zero T
	*slot = zero // what it points to may go
	q.tail.Store(tail + 1)
	return true
}
