// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet"
)

// Frame is a captured advert or ARP packet. Time is the kernel's, taken when
// the frame arrived.
type Frame struct {
	Time   time.Time
	MAC    net.HardwareAddr // source
	Src    netip.Addr       // of the advert, or the sender address of ARP
	Advert *packet.Advert   // nil for ARP
	Err    error            // why an advert does not decode
	TTL    uint8
	TOS    uint8
	// ARP: an announcement has the same sender and target address.
	ARPTarget netip.Addr
	Raw       []byte
}

// GARP says whether the frame announces an address.
func (f *Frame) GARP() bool { return f.Advert == nil && f.Src == f.ARPTarget }

// Capture records adverts and ARP that reach an interface.
type Capture struct {
	fd      int
	mu      sync.Mutex
	frames  []Frame
	dropped int
	done    chan struct{}
}

// socketIn opens a socket in the node's namespace, which it keeps.
func (n *Node) socketIn(open func() (int, error)) (fd int, err error) {
	err = inNamespace(n.ns, func() (err error) {
		fd, err = open()
		return err
	})
	return fd, err
}

// inNamespace runs fn in a network namespace, on a thread that is thrown away.
func inNamespace(ns string, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		f, err := os.Open("/run/netns/" + ns)
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- fn()
	}()
	return <-done
}

// ifindex looks an interface of the node up.
func ifindex(dev string) (int, error) {
	i, err := net.InterfaceByName(dev)
	if err != nil {
		return 0, err
	}
	return i.Index, nil
}

// Capture starts to record on one of the node's interfaces.
func (n *Node) Capture(dev string) *Capture { return n.CaptureOf(dev, netip.Addr{}) }

// CaptureOf records what comes from one IPv4 address only, which the kernel
// picks out, so that a flood from others costs nothing here.
func (n *Node) CaptureOf(dev string, src netip.Addr) *Capture {
	n.lab.tb.Helper()
	fd, err := n.socketIn(func() (int, error) {
		index, err := ifindex(dev)
		if err != nil {
			return -1, err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		return fd, errors.Join(
			only(fd, src),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100000}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300, Ifindex: index}), // ETH_P_ALL
		)
	})
	if err != nil {
		n.lab.tb.Fatalf("capture on %s: %v", n.Name, err)
	}
	c := &Capture{fd: fd, done: make(chan struct{})}
	stop := make(chan struct{})
	go c.run(stop)
	n.lab.tb.Cleanup(func() {
		close(stop)
		<-c.done
		_ = unix.Close(fd)
	})
	return c
}

// only lets a socket receive IPv4 packets of one source, if there is one.
func only(fd int, src netip.Addr) error {
	if !src.IsValid() {
		return nil
	}
	b := src.As4()
	prog, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x0800, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 26, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(prog))
	for i, ins := range prog {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

func (c *Capture) run(stop chan struct{}) {
	defer close(c.done)
	buf, oob := make([]byte, 4096), make([]byte, 256)
	for {
		select {
		case <-stop:
			return
		default:
		}
		size, oobn, _, _, err := unix.Recvmsg(c.fd, buf, oob, 0)
		if err != nil {
			continue
		}
		if f, ok := parseFrame(buf[:size]); ok {
			f.Time = stamp(oob[:oobn])
			c.mu.Lock()
			c.frames = append(c.frames, f)
			c.mu.Unlock()
		}
	}
}

// stamp reads the kernel's receive time.
func stamp(oob []byte) time.Time {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Time{}
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Time{}
}

func parseFrame(b []byte) (Frame, bool) {
	if len(b) < 14 {
		return Frame{}, false
	}
	f := Frame{MAC: append(net.HardwareAddr(nil), b[6:12]...)}
	if binary.BigEndian.Uint16(b[12:]) == 0x0806 && len(b) >= 42 {
		f.Src = netip.AddrFrom4([4]byte(b[28:32]))
		f.ARPTarget = netip.AddrFrom4([4]byte(b[38:42]))
		return f, true
	}
	raw := append([]byte(nil), b...)
	var p packet.Frame
	if packet.ParseFrame(raw, 0, &p) != nil {
		return Frame{}, false
	}
	f.Src, f.TTL, f.TOS, f.Raw = p.Src, p.TTL, raw[15], raw
	f.Advert = &packet.Advert{}
	f.Err = packet.Decode(p.Payload, p.Src, p.Dst, f.Advert)
	return f, true
}

// Frames returns what was recorded so far.
func (c *Capture) Frames() []Frame { return c.Since(0) }

// Since returns what was recorded after the first n frames. It does not copy: a
// recorded frame never changes, and a copy of a long capture would hold up
// whatever is measured meanwhile.
func (c *Capture) Since(n int) []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames[n:len(c.frames):len(c.frames)]
}

// Len is the number of frames so far, for Since.
func (c *Capture) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.frames)
}

// Dropped is the number of frames so far that the kernel had no room for.
func (c *Capture) Dropped() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read the statistics of a capture: %w", err)
	}
	c.dropped += int(st.Drops) // the kernel forgets what it has told
	return c.dropped, nil
}

// Adverts returns those of one source, or of all.
func (c *Capture) Adverts(src string) []Frame {
	var out []Frame
	for _, f := range c.Frames() {
		if f.Advert != nil && (src == "" || f.Src.String() == src) {
			out = append(out, f)
		}
	}
	return out
}

// GARPs returns the announcements of an address.
func (c *Capture) GARPs(addr string) []Frame {
	var out []Frame
	for _, f := range c.Frames() {
		if f.GARP() && f.Src.String() == addr {
			out = append(out, f)
		}
	}
	return out
}
