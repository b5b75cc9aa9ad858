// SPDX-License-Identifier: Apache-2.0

// Package transport moves adverts: a raw socket for each interface sends them
// and, where no BPF program can, a packet socket receives them.
package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet"
)

// ipHeaderLen is the length of the IPv4 header in front of our adverts.
const ipHeaderLen = 20

// Frame is an advert ready to send, with its IPv4 header. It is encoded again
// only when the priority changes.
type Frame struct {
	buf      []byte
	template packet.Advert
	src, dst netip.Addr
	to       unix.RawSockaddrInet4
	id       uint16
	queued   bool
	encoded  bool
}

// NewFrame prepares the adverts that a describes. Their priority is that of
// the call to Queue.
func NewFrame(a packet.Advert, src, dst netip.Addr) *Frame {
	f := &Frame{template: a, src: src, dst: dst, buf: make([]byte, ipHeaderLen, 1500)}
	f.to = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: dst.As4()}
	f.buf[0] = 4<<4 | ipHeaderLen/4
	f.buf[1] = packet.TOS
	f.buf[8], f.buf[9] = packet.TTL, packet.Protocol
	s, d := src.As4(), dst.As4()
	copy(f.buf[12:], s[:])
	copy(f.buf[16:], d[:])
	return f
}

func (f *Frame) encode(priority uint8) {
	f.template.Priority = priority
	f.buf = packet.Append(f.buf[:ipHeaderLen], &f.template, f.src, f.dst)
	binary.BigEndian.PutUint16(f.buf[2:], uint16(len(f.buf)))
	f.encoded = true
}

// Sender sends adverts on one interface, in batches. It is used by the event
// loop only and never blocks.
type Sender struct {
	fd     int
	msgs   []mmsghdr
	iovs   []unix.Iovec
	frames []*Frame
	n      int

	ifindex int
	groups  []netip.Addr
}

// mmsghdr is struct mmsghdr of sendmmsg(2), which x/sys does not have.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// NewSender opens the raw socket of an interface for at most batch adverts at
// a time and joins the groups. The socket stays open for as long as the daemon
// runs: it holds the memberships. It is not one of protocol VRRP: for each
// advert the kernel looks at all of those that the host has, one for each
// interface, and this one is to receive nothing.
func NewSender(ifname string, ifindex int, groups []netip.Addr, batch int) (*Sender, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("open raw socket: %w", err)
	}
	s := &Sender{
		fd: fd, msgs: make([]mmsghdr, batch), iovs: make([]unix.Iovec, batch), frames: make([]*Frame, batch),
	}
	if err := s.configure(ifname, ifindex, groups); err != nil {
		return nil, errors.Join(fmt.Errorf("set up raw socket on %s: %w", ifname, err), unix.Close(fd))
	}
	return s, nil
}

func (s *Sender) configure(ifname string, ifindex int, groups []netip.Addr) error {
	if err := attachFilter(s.fd, bpf.RetConstant{Val: 0}); err != nil {
		return err
	}
	if err := unix.BindToDevice(s.fd, ifname); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	for _, o := range []struct{ level, name, value int }{
		{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0},
		{unix.SOL_SOCKET, unix.SO_DONTROUTE, 1},
		{unix.SOL_SOCKET, unix.SO_PRIORITY, 6}, // network control, as CS6 would map
	} {
		if err := unix.SetsockoptInt(s.fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("set socket option %d: %w", o.name, err)
		}
	}
	s.ifindex = ifindex
	return s.Join(groups)
}

// Join makes the groups those that the socket is a member of. Unlike the rest
// it is not the event loop's.
func (s *Sender) Join(groups []netip.Addr) error {
	member := func(option int, g netip.Addr) error {
		mreq := &unix.IPMreqn{Multiaddr: g.As4(), Ifindex: int32(s.ifindex)}
		return unix.SetsockoptIPMreqn(s.fd, unix.IPPROTO_IP, option, mreq)
	}
	for _, g := range groups {
		if slices.Contains(s.groups, g) {
			continue
		}
		if err := member(unix.IP_ADD_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("join %s: %w", g, err)
		}
		s.groups = append(s.groups, g)
	}
	var kept []netip.Addr
	for _, g := range s.groups {
		if slices.Contains(groups, g) {
			kept = append(kept, g)
			continue
		}
		if err := member(unix.IP_DROP_MEMBERSHIP, g); err != nil {
			return fmt.Errorf("leave %s: %w", g, err)
		}
	}
	s.groups = kept
	return nil
}

// Rejoin joins the groups anew. An interface that went, or gave IPv4 up for a
// while, came back without its memberships; the socket still lists them. It is
// no error if the interface has no IPv4 now. Like Join it is not the event
// loop's.
func (s *Sender) Rejoin(groups []netip.Addr) error {
	if err := s.Join(nil); err != nil {
		return err
	}
	if err := s.Join(groups); !errors.Is(err, unix.ENODEV) {
		return err
	}
	return nil
}

// Queue puts an advert into the batch. It reports false if the batch has no
// room for it; Flush makes room.
func (s *Sender) Queue(f *Frame, priority uint8) bool {
	if s.n == len(s.msgs) || f.queued {
		return false
	}
	if !f.encoded || f.template.Priority != priority {
		f.encode(priority)
	}
	f.id++
	binary.BigEndian.PutUint16(f.buf[4:], f.id)
	iov := &s.iovs[s.n]
	iov.Base = &f.buf[0]
	iov.SetLen(len(f.buf))
	m := &s.msgs[s.n].hdr
	m.Name = (*byte)(unsafe.Pointer(&f.to))
	m.Namelen = unix.SizeofSockaddrInet4
	m.Iov = iov
	m.SetIovlen(1)
	f.queued = true
	s.frames[s.n] = f
	s.n++
	return true
}

// Flush sends the batch and returns how many adverts the kernel took and how
// many it refused; err says why. A refused advert is not repeated: its time
// has passed.
func (s *Sender) Flush() (sent, refused int, err error) {
	for at := 0; at < s.n; {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.msgs[at])), uintptr(s.n-at), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			err = errno
			refused++
			at++
			continue
		}
		sent += int(n)
		at += int(n)
	}
	for i := range s.n {
		s.frames[i].queued = false
	}
	s.n = 0
	return sent, refused, err
}

// Close leaves the groups and closes the socket.
func (s *Sender) Close() error { return unix.Close(s.fd) }

// Claim makes the host one that speaks VRRP: while it is open, the kernel does
// not answer an advert to an address of the host with an ICMP error, nor count
// adverts as packets of an unknown protocol.
type Claim struct{ fd int }

// NewClaim opens a raw VRRP socket that receives nothing.
func NewClaim() (*Claim, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, packet.Protocol)
	if err != nil {
		return nil, fmt.Errorf("open raw VRRP socket: %w", err)
	}
	if err := attachFilter(fd, bpf.RetConstant{Val: 0}); err != nil {
		return nil, errors.Join(fmt.Errorf("set up raw VRRP socket: %w", err), unix.Close(fd))
	}
	return &Claim{fd}, nil
}

// Close gives the protocol up.
func (c *Claim) Close() error { return unix.Close(c.fd) }
