// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
)

// Prober sends the probes of S-BFD and the packets of unaffiliated echo on any
// interface, as whole frames: they need neither route nor neighbour entry, and
// no answer of the host's ARP stands between a probe and its peer. It never
// blocks.
type Prober struct {
	fd    int
	to    unix.RawSockaddrLinklayer
	ports [bfd.Ports]uint16
	held  []int // UDP sockets that keep the ports from others
}

// NewProber opens the packet socket and takes source ports.
func NewProber() (*Prober, error) {
	// Protocol 0: this socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket for probes: %w", err)
	}
	p := &Prober{fd: fd, to: unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Halen: 6}}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, 6) // as CS6
	for n := range p.ports {
		if err == nil {
			err = p.reserve(n)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up probes: %w", err), p.Close())
	}
	return p, nil
}

// Source ports, RFC 5881 section 4.
const firstPort, ports = 49152, 1 << 14

// reserve takes a free port. Answers are recorded below the network stack;
// when they reach the socket they are dropped, and the stack does not answer
// them with an error.
func (p *Prober) reserve(n int) error {
	nothing, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: 0}})
	if err != nil {
		return err
	}
	ins := unix.SockFilter{Code: nothing[0].Op, K: nothing[0].K}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open socket for answers: %w", err)
	}
	p.held = append(p.held, fd)
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &ins}); err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	for range 64 {
		port := firstPort + rand.IntN(ports)
		if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err == nil {
			p.ports[n] = uint16(port)
			return nil
		}
	}
	return fmt.Errorf("find a free source port: %w", err)
}

// ProbeSpec describes the probes of a session.
type ProbeSpec struct {
	SrcMAC, DstMAC [6]byte
	Src, Peer      netip.Addr
	BFD            packet.BFD
	Echo           bool
}

// Frames encodes the probes of a session, one for each source port, into the
// room that they had before.
func (p *Prober) Frames(frames *[bfd.Ports][]byte, s *ProbeSpec) {
	f := packet.BFDFrame{
		SrcMAC: s.SrcMAC, DstMAC: s.DstMAC,
		Src: s.Src, Dst: s.Peer, DstPort: packet.SBFDPort, TTL: packet.BFDTTL,
	}
	if s.Echo {
		// RFC 9747: to ourselves, by way of the peer.
		f.Dst, f.DstPort = s.Src, packet.BFDEchoPort
	}
	for n := range frames {
		f.SrcPort = p.ports[n]
		frames[n] = packet.AppendBFDFrame(frames[n][:0], &f, &s.BFD)
	}
}

// Send reports whether the kernel took the frame.
func (p *Prober) Send(ifindex int, frame []byte) bool {
	p.to.Ifindex = int32(ifindex)
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(p.fd), uintptr(unsafe.Pointer(&frame[0])),
		uintptr(len(frame)), unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&p.to)), unix.SizeofSockaddrLinklayer)
	return errno == 0
}

// Close gives the ports back.
func (p *Prober) Close() error {
	err := unix.Close(p.fd)
	for _, fd := range p.held {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}
