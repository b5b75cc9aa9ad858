// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/loader"
)

// Listener hears the adverts on several interfaces from the moment at which a
// daemon starts until their ports are open, which takes some tenths of a
// second: the kernel has to verify programs. A router may count what it hears
// as heard by itself.
type Listener struct {
	socket *vrrpSocket
	since  int64
	ports  map[int]*Capture // by ifindex; they receive nothing themselves
	gap    atomic.Bool      // something may have gone unheard
}

// listenBuffer, in bytes, has room for 10,000 adverts; each takes smallestFrame
// or more.
const (
	listenBuffer  = 8 << 20
	smallestFrame = 768
)

// Listen opens a Listener for interfaces, given by their index with their
// hardware addresses, and for groups. Each group is heard on each interface.
func Listen(interfaces map[int]net.HardwareAddr, groups []netip.Addr) (*Listener, error) {
	socket, err := openVRRPSocket(0)
	if err != nil {
		return nil, fmt.Errorf("listen for adverts: %w", err)
	}
	l := &Listener{socket: socket, ports: map[int]*Capture{}}
	for ifindex, mac := range interfaces {
		l.ports[ifindex] = newCapture(socket, ifindex, mac)
		for _, g := range groups {
			if err := l.join(ifindex, g.As4()); err != nil {
				return nil, errors.Join(fmt.Errorf("listen for adverts to %s: %w", g, err), l.Close())
			}
		}
	}
	// More than the limit needs a right that this process may lack. The kernel
	// doubles what it is told.
	if err := unix.SetsockoptInt(socket.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, listenBuffer/2); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for adverts: set the receive buffer: %w", err), l.Close())
	}
	l.since = clock.Now()
	return l, nil
}

// join lets the interface receive frames to a group. The routers join it by
// IGMP, too, which asks switches for it.
func (l *Listener) join(ifindex int, group [4]byte) error {
	return unix.SetsockoptPacketMreq(l.socket.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{
		Ifindex: int32(ifindex), Type: unix.PACKET_MR_MULTICAST, Alen: 6,
		Address: [8]uint8{0x01, 0x00, 0x5e, group[1] & 0x7f, group[2], group[3]},
	})
}

// SetRouter makes adverts of a virtual router events with this id; see
// Capture.SetRouter. It reports whether its interface is one of the Listener's.
func (l *Listener) SetRouter(id loader.RouterID, r loader.Router) bool {
	port, ok := l.ports[r.Ifindex]
	if ok {
		port.SetRouter(id, r)
	}
	return ok
}

// Interrupted tells that an interface was not there, or not up, for a while.
func (l *Listener) Interrupted(ifindex int) {
	if _, ok := l.ports[ifindex]; ok {
		l.gap.Store(true)
	}
}

// Since returns the time, on CLOCK_MONOTONIC, since which every advert was
// heard; 0 if one may have been lost.
func (l *Listener) Since() int64 {
	stats, err := unix.GetsockoptTpacketStats(l.socket.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil || stats.Drops > 0 {
		l.gap.Store(true)
	}
	if l.gap.Load() {
		return 0
	}
	return l.since
}

// Drain calls fn with the adverts for the routers that were heard. A flood does
// not keep it for ever: it hands out no more than the queue can hold. It does
// not go by the time of arrival, as Capture.Drain does: the first frames have
// none, because the kernel begins to note it a moment after the first socket
// wants it.
func (l *Listener) Drain(fn func(*loader.Event)) (n int) {
	for range listenBuffer / smallestFrame {
		size, rxNs, vlan, ok := l.socket.receive()
		if !ok {
			break
		}
		port := l.ports[int(l.socket.from.Ifindex)]
		if port != nil && port.take(size, max(rxNs, l.since), vlan, fn) {
			n++
		}
	}
	return n
}

// Close ends it.
func (l *Listener) Close() error { return unix.Close(l.socket.fd) }
