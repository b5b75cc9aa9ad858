// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Prober is a client that sends an ICMP echo request to an address again and
// again and records when the answers came.
type Prober struct {
	fd      int
	id      uint16 // of the requests, another one for each prober
	to      [4]byte
	began   time.Time
	sent    atomic.Int64
	mu      sync.Mutex
	replies []time.Time
	seqs    []int // of the replies, unwrapped
	stop    chan struct{}
	stopped sync.Once
	wg      sync.WaitGroup
}

// Probe starts to probe addr from the node every interval.
func (n *Node) Probe(addr string, interval time.Duration) *Prober {
	n.lab.tb.Helper()
	to := netip.MustParseAddr(addr).As4()
	fd, err := n.socketIn(func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		if err != nil {
			return -1, err
		}
		return fd, errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50000}),
			unix.Connect(fd, &unix.SockaddrInet4{Addr: to}),
		)
	})
	if err != nil {
		n.lab.tb.Fatalf("probe from %s: %v", n.Name, err)
	}
	p := &Prober{fd: fd, id: uint16(probers.Add(1)), to: to, began: time.Now(), stop: make(chan struct{})}
	p.wg.Add(2)
	go p.send(interval)
	go p.receive()
	n.lab.tb.Cleanup(p.Stop)
	return p
}

var probers atomic.Uint32

func (p *Prober) send(interval time.Duration) {
	defer p.wg.Done()
	every(interval, p.stop, func() {
		b := make([]byte, 16)
		b[0] = 8 // echo request
		binary.BigEndian.PutUint16(b[4:], p.id)
		binary.BigEndian.PutUint16(b[6:], uint16(p.sent.Load()))
		binary.BigEndian.PutUint16(b[2:], checksum(b))
		_ = unix.Send(p.fd, b, unix.MSG_DONTWAIT)
		p.sent.Add(1) // also one that this host refused: it has no answer
	})
}

// every runs fn at multiples of an interval, on a thread of its own, until it is
// stopped. Times that are missed are left out: a burst afterwards would not be
// the same load.
func every(interval time.Duration, stop chan struct{}, fn func()) {
	runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	for next := now.Nano(); ; {
		select {
		case <-stop:
			return
		default:
		}
		fn()
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
		next = following(next, now.Nano(), int64(interval))
		at := unix.NsecToTimespec(next)
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil) == unix.EINTR {
		}
	}
}

// following is the first multiple of the interval, counted from last, that is
// after now.
func following(last, now, interval int64) int64 {
	return last + ((now-last)/interval+1)*interval
}

func checksum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

func (p *Prober) receive() {
	defer p.wg.Done()
	buf, oob := make([]byte, 256), make([]byte, 128)
	for {
		n, oobn, _, _, err := unix.Recvmsg(p.fd, buf, oob, 0)
		// Before it was connected the socket heard answers for other probers.
		if err == nil && n >= 28 && buf[20] == 0 && [4]byte(buf[12:16]) == p.to && binary.BigEndian.Uint16(buf[24:]) == p.id {
			p.record(binary.BigEndian.Uint16(buf[26:]), stamp(oob[:oobn]))
			continue
		}
		select {
		case <-p.stop:
			return
		default:
		}
	}
}

// record notes an answer. Requests are more than sequence numbers are.
func (p *Prober) record(number uint16, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	seq := int(number)
	for len(p.seqs) > 0 && seq < p.seqs[len(p.seqs)-1]-1<<15 {
		seq += 1 << 16
	}
	p.seqs = append(p.seqs, seq)
	p.replies = append(p.replies, at)
}

// MAC is the hardware address of one of the node's interfaces.
func (n *Node) MAC(dev string) (mac net.HardwareAddr) {
	n.lab.tb.Helper()
	err := inNamespace(n.ns, func() error {
		i, err := net.InterfaceByName(dev)
		if err == nil {
			mac = i.HardwareAddr
		}
		return err
	})
	if err != nil {
		n.lab.tb.Fatalf("hardware address of %s on %s: %v", dev, n.Name, err)
	}
	return mac
}

// Replies returns the number of answers so far.
func (p *Prober) Replies() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.replies)
}

// RepliesTo returns how many of the first n requests were answered, by however
// many hosts.
func (p *Prober) RepliesTo(n int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	answered := map[int]bool{}
	for _, seq := range p.seqs {
		if seq < n {
			answered[seq] = true
		}
	}
	return len(answered)
}

// LastReply returns when the last answer came.
func (p *Prober) LastReply() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.replies) == 0 {
		return time.Time{}
	}
	return p.replies[len(p.replies)-1]
}

// Sent returns the number of requests so far, the number of the next one.
func (p *Prober) Sent() int { return int(p.sent.Load()) }

// Rate is how many requests a second there were so far.
func (p *Prober) Rate() float64 { return float64(p.Sent()) / time.Since(p.began).Seconds() }

// Darkness returns the longest time between two answers of those that came
// between from and to, and when it began.
func (p *Prober) Darkness(from, to time.Time) (longest time.Duration, began time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 1; i < len(p.replies); i++ {
		a, b := p.replies[i-1], p.replies[i]
		if b.Before(from) || a.After(to) {
			continue
		}
		if gap := b.Sub(a); gap > longest {
			longest, began = gap, a
		}
	}
	return longest, began
}

// FirstReplyAfter returns the first answer after t.
func (p *Prober) FirstReplyAfter(t time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.replies {
		if r.After(t) {
			return r
		}
	}
	return time.Time{}
}

// Stop ends the probing, which ends with the test at the latest.
func (p *Prober) Stop() {
	p.stopped.Do(func() {
		close(p.stop)
		p.wg.Wait()
		_ = unix.Close(p.fd)
	})
}
