// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// Capture receives adverts through a packet socket: the data plane of a host
// where no BPF program can be used. It hands out the same events as
// loader.Collection, with the kernel's receive time, but every advert is one.
type Capture struct {
	*vrrpSocket
	ifindex  int
	mac      [6]byte
	routers  captureTable
	frame    packet.Frame
	event    loader.Event
	counters [loader.ReasonMax]atomic.Uint64
}

// captureKey is the identity of a virtual router on the interface.
type captureKey struct {
	vlan uint16
	vrid uint8
	ipv6 bool
}

type captureRouter struct {
	key    captureKey
	id     loader.RouterID
	expect packet.Expect // all but the MAC
}

// captureTable has the virtual routers by VRID, in short lists: the 250th of an
// interface copies eight.
type captureTable [32]captureList

func (t *captureTable) list(vrid uint8) *captureList { return &t[int(vrid)%len(t)] }

// captureList is never changed: another list takes its place. The loop reads it
// without a lock.
type captureList struct {
	now atomic.Pointer[[]captureRouter]
}

func (l *captureList) routers() []captureRouter {
	if now := l.now.Load(); now != nil {
		return *now
	}
	return nil
}

func (l *captureList) find(key captureKey) *captureRouter {
	list := l.routers()
	i := slices.IndexFunc(list, func(r captureRouter) bool { return r.key == key })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// set adds a router in the place of those with its id or its key.
func (l *captureList) set(r captureRouter) {
	next := []captureRouter{r}
	for _, old := range l.routers() {
		if old.id != r.id && old.key != r.key {
			next = append(next, old)
		}
	}
	l.now.Store(&next)
}

func (l *captureList) remove(id loader.RouterID) {
	hasID := func(r captureRouter) bool { return r.id == id }
	if list := l.routers(); slices.ContainsFunc(list, hasID) {
		next := slices.DeleteFunc(slices.Clone(list), hasID)
		l.now.Store(&next)
	}
}

// NewCapture opens the packet socket of an interface, whose hardware address
// mac is.
func NewCapture(ifname string, ifindex int, mac net.HardwareAddr) (*Capture, error) {
	socket, err := openVRRPSocket(ifindex)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", ifname, err)
	}
	return newCapture(socket, ifindex, mac), nil
}

func newCapture(socket *vrrpSocket, ifindex int, mac net.HardwareAddr) *Capture {
	c := &Capture{vrrpSocket: socket, ifindex: ifindex}
	c.SetMAC(mac)
	return c
}

// SetRouter makes adverts of a virtual router events with this id, or changes
// what is required of them. SetRouter and RemoveRouter may be called while
// another thread drains, by one thread at a time.
func (c *Capture) SetRouter(id loader.RouterID, r loader.Router) {
	own := c.routers.list(r.VRID)
	own.set(captureRouter{captureKey{r.VLAN, r.VRID, r.IPv6}, id, packet.Expect{
		Version: r.Version, CheckTTL: r.CheckTTL, MaxLen: loader.PayloadMax,
		Dst: r.Group, Broadcast: r.Broadcast,
	}})
	for i := range c.routers {
		if other := &c.routers[i]; other != own {
			other.remove(id)
		}
	}
}

// RemoveRouter forgets a virtual router.
func (c *Capture) RemoveRouter(id loader.RouterID) {
	for i := range c.routers {
		c.routers[i].remove(id)
	}
}

// vrrpSocket receives VRRP messages as the wire has them.
type vrrpSocket struct {
	fd   int
	buf  []byte
	oob  []byte
	from unix.RawSockaddrLinklayer // of the last frame
}

// openVRRPSocket opens one on an interface; 0: on all of them.
func openVRRPSocket(ifindex int) (*vrrpSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &vrrpSocket{fd: fd, buf: make([]byte, 2048), oob: make([]byte, 256)}
	if err := s.configure(ifindex); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return s, nil
}

func (s *vrrpSocket) configure(ifindex int) error {
	if err := attachFilter(s.fd, vrrpOnly...); err != nil {
		return err
	}
	for _, o := range []struct{ level, name int }{
		{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS},
		{unix.SOL_PACKET, unix.PACKET_AUXDATA},
		{unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING},
	} {
		if err := unix.SetsockoptInt(s.fd, o.level, o.name, 1); err != nil {
			return fmt.Errorf("set socket option %d: %w", o.name, err)
		}
	}
	// The filter is in place before the socket receives anything.
	err := unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex})
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// vrrpOnly passes IPv4 and IPv6 with protocol 112. The kernel has taken off
// the outer VLAN tag by then.
var vrrpOnly = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0800, SkipFalse: 2},
	bpf.LoadAbsolute{Off: 14 + 9, Size: 1},
	bpf.Jump{Skip: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x86dd, SkipFalse: 3},
	bpf.LoadAbsolute{Off: 14 + 6, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: packet.Protocol, SkipFalse: 1},
	bpf.RetConstant{Val: 0xffff},
	bpf.RetConstant{Val: 0},
}

// attachFilter makes a socket receive what a program of classic BPF accepts.
func attachFilter(fd int, program ...bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, ins := range raw {
		filter[i] = unix.SockFilter{Code: ins.Op, Jt: ins.Jt, Jf: ins.Jf, K: ins.K}
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}

// Bound reports whether the socket still receives from its interface: one that
// went and came back, even with its index, is another.
func (c *Capture) Bound() bool {
	at, err := unix.Getsockname(c.fd)
	if err != nil {
		return true // what cannot be asked is not known to be gone
	}
	link, ok := at.(*unix.SockaddrLinklayer)
	return ok && link.Ifindex == c.ifindex
}

// SetMAC tells the hardware address of the interface. It may change.
func (c *Capture) SetMAC(mac net.HardwareAddr) { copy(c.mac[:], mac) }

// FD is readable while frames wait.
func (c *Capture) FD() int { return c.fd }

// Drain calls fn with the adverts for our virtual routers that wait. It ends
// with the first frame that arrived after it began: everything before a
// deadline is seen, and a flood does not keep the loop from its deadlines.
func (c *Capture) Drain(fn func(*loader.Event)) (n int) {
	began := clock.Now()
	for late := false; !late; {
		size, rxNs, vlan, ok := c.receive()
		if !ok {
			break
		}
		late = rxNs > began
		if c.take(size, rxNs, vlan, fn) {
			n++
		}
	}
	return n
}

// take handles a frame that was received, and reports whether it was an event.
func (c *Capture) take(size int, rxNs int64, vlan uint16, fn func(*loader.Event)) bool {
	id, reason := c.classify(c.buf[:size], vlan)
	c.counters[reason].Add(1)
	if reason < loader.ReasonBadSource && (reason != loader.ReasonTruncated || len(c.frame.Payload) < 2) {
		return false
	}
	c.event = loader.Event{
		RxNs: rxNs, Router: id, Ifindex: c.ifindex, Src: c.frame.Src, Dst: c.frame.Dst,
		MAC: c.frame.MAC, Reason: reason, Payload: c.frame.Payload,
	}
	fn(&c.event)
	return true
}

// receive reads one frame, with the time at which the kernel got it, on
// CLOCK_MONOTONIC, and the VLAN tag that the kernel took off.
func (s *vrrpSocket) receive() (size int, rxNs int64, vlan uint16, ok bool) {
	iov := unix.Iovec{Base: &s.buf[0]}
	iov.SetLen(len(s.buf))
	msg := unix.Msghdr{
		Name: (*byte)(unsafe.Pointer(&s.from)), Namelen: unix.SizeofSockaddrLinklayer, Iov: &iov, Control: &s.oob[0],
	}
	msg.SetIovlen(1)
	msg.SetControllen(len(s.oob))
	n, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&msg)), unix.MSG_DONTWAIT)
	if errno != 0 {
		return 0, 0, 0, false
	}
	rxNs = clock.Now()
	for b := s.oob[:msg.Controllen]; len(b) >= unix.SizeofCmsghdr; {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		length := int(h.Len)
		if length < unix.SizeofCmsghdr || length > len(b) {
			break
		}
		data := b[unix.CmsgLen(0):length]
		switch {
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SCM_TIMESTAMPNS && len(data) >= 16:
			stamp := int64(binary.NativeEndian.Uint64(data))*1e9 + int64(binary.NativeEndian.Uint64(data[8:]))
			// The stamp is wall time; how old it is does not depend on what
			// the wall clock says. A clock that was just set is not believed.
			if age := clock.Realtime() - stamp; age > 0 && age < 1e9 {
				rxNs -= age
			}
		case h.Level == unix.SOL_PACKET && h.Type == unix.PACKET_AUXDATA && len(data) >= 18:
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&data[0]))
			if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
				vlan = aux.Vlan_tci & 0x0fff
			}
		}
		b = b[min(unix.CmsgSpace(length-unix.CmsgLen(0)), len(b)):]
	}
	return int(n), rxNs, vlan, true
}

// classify gives a frame the reason that the program in bpf/ gives it, as long
// as there is no template and no budget is used up, and the router that it
// concerns.
func (c *Capture) classify(b []byte, vlan uint16) (loader.RouterID, loader.Reason) {
	f := &c.frame
	if err := packet.ParseFrame(b, vlan, f); err != nil {
		return 0, reasonOf(err)
	}
	vrid, err := f.VRID()
	if err != nil {
		return 0, loader.ReasonTruncated
	}
	r := c.routers.list(vrid).find(captureKey{f.VLAN[0], vrid, f.Src.Is6()})
	switch {
	case f.VLAN[1] != 0 || r == nil && f.VLAN[0] != 0:
		return 0, loader.ReasonOtherVLAN
	case r == nil:
		return 0, loader.ReasonUnknownVRID
	}
	expect := r.expect
	expect.MAC = c.mac
	if err := f.Check(&expect); err != nil {
		return r.id, reasonOf(err)
	}
	return r.id, loader.ReasonEvent
}

// Install does nothing: without a program there is no template, and every
// advert is an event.
func (c *Capture) Install(loader.RouterID, *loader.Event) bool { return false }

// Clear does nothing; see Install.
func (c *Capture) Clear(loader.RouterID) {}

// LastArrival returns 0: events carry every arrival.
func (c *Capture) LastArrival(loader.RouterID) int64 { return 0 }

// Liveness is empty; see LastArrival.
func (c *Capture) Liveness(loader.RouterID) loader.Liveness { return loader.Liveness{} }

// Counters returns, by reason, the frames that the socket received.
func (c *Capture) Counters() (loader.Counters, error) {
	var out loader.Counters
	for i := range c.counters {
		out[i].Pass = c.counters[i].Load()
	}
	return out, nil
}

// Mode returns "socket".
func (c *Capture) Mode() loader.Mode { return ModeSocket }

// ModeSocket is the data plane of a Capture.
const ModeSocket loader.Mode = "socket"

// Close closes the socket.
func (c *Capture) Close() error { return unix.Close(c.fd) }
