// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

// Flood describes adverts that are sent as fast as one processor can.
type Flood struct {
	Version  uint8
	VRID     uint8
	Addr     netip.Addr
	Interval time.Duration
	Frames   int // different ones; 0: one
	// Change makes the n-th frame what it is to be.
	Change func(n int, s *packettest.Spec)
}

// Flooder sends a Flood.
type Flooder struct {
	fd      int
	sent    atomic.Int64
	stop    chan struct{}
	stopped sync.Once
	wg      sync.WaitGroup
}

// Flood starts to send from one of the node's interfaces.
func (n *Node) Flood(dev string, f Flood) *Flooder {
	n.lab.tb.Helper()
	var frames [][]byte
	for i := range max(1, f.Frames) {
		s := packettest.Valid(f.Version)
		s.Src = netip.MustParseAddr("192.168.1.20")
		s.Advert.VRID, s.Advert.Addrs, s.Advert.Interval = f.VRID, f.Addr.AsSlice(), f.Interval
		f.Change(i, &s)
		frames = append(frames, s.Build())
	}
	fd, err := n.rawSocket(dev)
	if err != nil {
		n.lab.tb.Fatalf("flood from %s: %v", n.Name, err)
	}
	p := &Flooder{fd: fd, stop: make(chan struct{})}
	p.wg.Add(1)
	go p.run(frames)
	n.lab.tb.Cleanup(p.Stop)
	return p
}

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

func (p *Flooder) run(frames [][]byte) {
	defer p.wg.Done()
	const batch = 256
	msgs, iovs := make([]mmsghdr, batch), make([]unix.Iovec, batch)
	for i := range msgs {
		f := frames[i%len(frames)]
		iovs[i].Base = &f[0]
		iovs[i].SetLen(len(f))
		msgs[i].hdr.Iov = &iovs[i]
		msgs[i].hdr.SetIovlen(1)
	}
	for {
		select {
		case <-p.stop:
			return
		default:
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(p.fd), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0)
		if errno == 0 {
			p.sent.Add(int64(n))
		}
	}
}

// Sent is the number of frames so far.
func (p *Flooder) Sent() int { return int(p.sent.Load()) }

// Stop ends the flood, which ends with the test at the latest.
func (p *Flooder) Stop() {
	p.stopped.Do(func() {
		close(p.stop)
		p.wg.Wait()
		_ = unix.Close(p.fd)
	})
}
