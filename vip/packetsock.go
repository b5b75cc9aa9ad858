// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packetSocket sends prepared frames on one interface. Each interface has its
// own, because the frames that wait in the queue of one use up the send buffer.
type packetSocket struct {
	fd   int
	addr unix.RawSockaddrLinklayer
	iovs []unix.Iovec
	msgs []mmsghdr
}

// mmsghdr is struct mmsghdr of sendmmsg(2), which x/sys does not have.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// maxFrames is the most frames that one system call takes (UIO_MAXIOV).
const maxFrames = 1024

func openPacketSocket(ifindex int) (frameSocket, error) {
	// Protocol 0: this socket receives nothing.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket for announcements: %w", err)
	}
	return &packetSocket{fd: fd, addr: unix.RawSockaddrLinklayer{
		Family: unix.AF_PACKET, Ifindex: int32(ifindex), Halen: 6,
	}}, nil
}

// send sends the frames with as few system calls as possible and returns how
// many the kernel took.
func (s *packetSocket) send(frames [][]byte) (sent int, err error) {
	for sent < len(frames) {
		n := min(len(frames)-sent, maxFrames)
		s.iovs, s.msgs = s.iovs[:0], s.msgs[:0]
		for _, f := range frames[sent : sent+n] {
			iov := unix.Iovec{Base: &f[0]}
			iov.SetLen(len(f))
			s.iovs = append(s.iovs, iov)
		}
		for i := range s.iovs {
			m := mmsghdr{}
			m.hdr.Name = (*byte)(unsafe.Pointer(&s.addr))
			m.hdr.Namelen = uint32(unsafe.Sizeof(s.addr))
			m.hdr.Iov = &s.iovs[i]
			m.hdr.SetIovlen(1)
			s.msgs = append(s.msgs, m)
		}
		took, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd),
			uintptr(unsafe.Pointer(&s.msgs[0])), uintptr(len(s.msgs)), 0, 0, 0)
		if errno != 0 {
			return sent, errno
		}
		sent += int(took)
	}
	return sent, nil
}

func (s *packetSocket) close() error { return unix.Close(s.fd) }
