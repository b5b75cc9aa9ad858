// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ring reads a BPF ring buffer in place. The reader of cilium/ebpf brings its
// own epoll and deadline; the event loop has one already and must not sleep
// anywhere else, so this one only drains what is there.
type ring struct {
	fd       int
	mask     uint64
	consumer []byte // one page, ours to write
	producer []byte // one page, then the data twice, so that no record wraps
	data     []byte
}

const (
	ringBusy    = 1 << 31
	ringDiscard = 1 << 30
	ringHeader  = 8
)

func openRing(m *ebpf.Map) (*ring, error) {
	page, size := os.Getpagesize(), int(m.MaxEntries())
	r := &ring{fd: m.FD(), mask: uint64(size - 1)}
	var err error
	r.consumer, err = unix.Mmap(r.fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map consumer page of the event ring: %w", err)
	}
	r.producer, err = unix.Mmap(r.fd, int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		_ = unix.Munmap(r.consumer)
		return nil, fmt.Errorf("map the event ring: %w", err)
	}
	r.data = r.producer[page:]
	return r, nil
}

func (r *ring) close() error {
	if err := unix.Munmap(r.consumer); err != nil {
		return fmt.Errorf("unmap consumer page of the event ring: %w", err)
	}
	if err := unix.Munmap(r.producer); err != nil {
		return fmt.Errorf("unmap the event ring: %w", err)
	}
	return nil
}

// drain calls fn with every complete record that is there when it begins; what
// arrives meanwhile is for the next round. The bytes are valid during the call
// only. A record that the kernel is still writing ends the round: the ring
// stays readable and the loop comes back.
func (r *ring) drain(fn func([]byte)) int {
	head := (*uint64)(unsafe.Pointer(&r.producer[0]))
	tail := (*uint64)(unsafe.Pointer(&r.consumer[0]))
	at, end, n := atomic.LoadUint64(tail), atomic.LoadUint64(head), 0
	for at < end {
		offset := at & r.mask
		length := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.data[offset])))
		if length&ringBusy != 0 {
			break
		}
		size := uint64(length &^ (ringBusy | ringDiscard))
		if length&ringDiscard == 0 {
			fn(r.data[offset+ringHeader : offset+ringHeader+size])
			n++
		}
		at += (ringHeader + size + 7) &^ 7
		atomic.StoreUint64(tail, at)
	}
	return n
}
