// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Asker is a client that asks by ARP who has an address, again and again.
// Answers are found with Capture.Answering.
type Asker struct {
	fd      int
	mu      sync.Mutex
	asked   []time.Time
	stop    chan struct{}
	stopped sync.Once
	wg      sync.WaitGroup
}

// Ask starts to ask from one of the node's interfaces, every interval.
func (n *Node) Ask(dev, from, addr string, interval time.Duration) *Asker {
	n.lab.tb.Helper()
	frame := n.question(dev, from, addr)
	fd, err := n.rawSocket(dev)
	if err != nil {
		n.lab.tb.Fatalf("ask from %s: %v", n.Name, err)
	}
	a := &Asker{fd: fd, stop: make(chan struct{})}
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		every(interval, a.stop, func() {
			a.mu.Lock()
			a.asked = append(a.asked, time.Now())
			a.mu.Unlock()
			_ = unix.Send(a.fd, frame, unix.MSG_DONTWAIT)
		})
	}()
	n.lab.tb.Cleanup(a.Stop)
	return a
}

// Asked are the times of the questions so far.
func (a *Asker) Asked() []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[:len(a.asked):len(a.asked)]
}

// Rate is how many questions a second there were, from the first to the last.
func (a *Asker) Rate() float64 {
	asked := a.Asked()
	if len(asked) < 2 {
		return 0
	}
	return float64(len(asked)-1) / asked[len(asked)-1].Sub(asked[0]).Seconds()
}

// Stop ends the asking, which ends with the test at the latest.
func (a *Asker) Stop() {
	a.stopped.Do(func() {
		close(a.stop)
		a.wg.Wait()
		_ = unix.Close(a.fd)
	})
}

// rawSocket opens a packet socket that sends from an interface.
func (n *Node) rawSocket(dev string) (int, error) {
	return n.socketIn(func() (int, error) {
		index, err := ifindex(dev)
		if err != nil {
			return -1, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index})
	})
}

// question is an ARP request.
func (n *Node) question(dev, from, addr string) []byte {
	n.lab.tb.Helper()
	mac := n.MAC(dev)
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), netip.MustParseAddr(from).AsSlice()...)
	return append(append(b, make([]byte, 6)...), netip.MustParseAddr(addr).AsSlice()...)
}

// WhoHas asks once from one of the node's interfaces who has an address.
func (n *Node) WhoHas(dev, from, addr string) {
	n.lab.tb.Helper()
	n.Inject(dev, n.question(dev, from, addr))
}

// Answering returns the answers for addr that came after a moment.
func (c *Capture) Answering(addr string, since time.Time) []Frame {
	var out []Frame
	for _, f := range c.Frames() {
		if f.Advert == nil && f.Src.String() == addr && f.Src != f.ARPTarget && f.ARPTarget.IsValid() &&
			!f.ARPTarget.IsUnspecified() && f.Time.After(since) {
			out = append(out, f)
		}
	}
	return out
}

// Answers returns the hardware addresses of Answering, each once.
func (c *Capture) Answers(addr string, since time.Time) []string {
	var out []string
	seen := map[string]bool{}
	for _, f := range c.Answering(addr, since) {
		if mac := f.MAC.String(); !seen[mac] {
			seen[mac] = true
			out = append(out, mac)
		}
	}
	return out
}
