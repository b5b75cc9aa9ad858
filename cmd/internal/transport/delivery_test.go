// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/test/lab"
)

// Addresses of the receiving end of the cable.
const (
	ourAddr   = "192.168.1.8"
	broadcast = "192.168.1.255"
)

// deliveries are adverts with what becomes of them: for the kernel's raw
// socket, which joined the group, and for us. Where the two differ we are the
// stricter, and docs/compatibility.md says why.
var deliveries = []struct {
	name   string
	change func(s *packettest.Spec, ours [6]byte)
	kernel bool
	reason loader.Reason
}{
	{"valid", func(*packettest.Spec, [6]byte) {}, true, loader.ReasonEvent},
	{"options", func(s *packettest.Spec, _ [6]byte) { s.Options = 10 }, true, loader.ReasonEvent},
	{"our MAC", func(s *packettest.Spec, ours [6]byte) { s.Mutate = toMAC(ours) }, true, loader.ReasonEvent},
	{"broadcast MAC", func(s *packettest.Spec, _ [6]byte) {
		s.Mutate = toMAC([6]byte{255, 255, 255, 255, 255, 255})
	}, true, loader.ReasonEvent},
	{"MAC of another group", func(s *packettest.Spec, _ [6]byte) {
		s.Mutate = toMAC([6]byte{1, 0, 0x5e, 0, 0, 19})
	}, true, loader.ReasonEvent},
	{"another MAC", func(s *packettest.Spec, ours [6]byte) {
		ours[5] ^= 1
		s.Mutate = toMAC(ours)
	}, false, loader.ReasonBadDstMAC},
	{"IP header checksum", func(s *packettest.Spec, _ [6]byte) { s.Mutate = flipped(10) }, false, loader.ReasonBadIPChecksum},
	{"IP header checksum with options", func(s *packettest.Spec, _ [6]byte) {
		s.Options, s.Mutate = 10, flipped(11)
	}, false, loader.ReasonBadIPChecksum},
	{"IHL 4", func(s *packettest.Spec, _ [6]byte) {
		s.Mutate = func(b []byte, ip, _ int) []byte { b[ip] = 0x44; return b }
	}, false, loader.ReasonBadIPHeader},
	{"fragment", func(s *packettest.Spec, _ [6]byte) {
		s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+6] = 0x20; return b }
	}, false, loader.ReasonFragment},
	{"another group", to("224.0.0.19"), false, loader.ReasonBadDestination},
	{"all hosts", to("224.0.0.1"), false, loader.ReasonBadDestination},
	{"another host", to("192.168.1.9"), false, loader.ReasonBadDestination},
	{"our address", to(ourAddr), true, loader.ReasonBadDestination},
	{"broadcast", to("255.255.255.255"), true, loader.ReasonBadDestination},
	{"directed broadcast", to(broadcast), true, loader.ReasonBadDestination},
	{"from a group", from("224.0.0.18"), false, loader.ReasonBadSource},
	{"from the broadcast address", from("255.255.255.255"), false, loader.ReasonBadSource},
	{"from loopback", from("127.0.0.1"), false, loader.ReasonBadSource},
	{"from nowhere", from("0.0.0.0"), true, loader.ReasonBadSource},
	{"from the directed broadcast address", from(broadcast), true, loader.ReasonBadSource},
	{"from class E", from("240.0.0.1"), true, loader.ReasonEvent},
}

func toMAC(mac [6]byte) func([]byte, int, int) []byte {
	return func(b []byte, _, _ int) []byte { copy(b, mac[:]); return b }
}

func flipped(at int) func([]byte, int, int) []byte {
	return func(b []byte, ip, _ int) []byte { b[ip+at] ^= 0xff; return b }
}

func to(a string) func(*packettest.Spec, [6]byte) {
	return func(s *packettest.Spec, ours [6]byte) {
		s.Dst = netip.MustParseAddr(a)
		if !s.Dst.IsMulticast() {
			s.Mutate = toMAC(ours)
		}
	}
}

func from(a string) func(*packettest.Spec, [6]byte) {
	return func(s *packettest.Spec, _ [6]byte) { s.Src = netip.MustParseAddr(a) }
}

// receiver is a data plane.
type receiver interface {
	FD() int
	Counters() (loader.Counters, error)
	Close() error
}

// In each mode we believe no advert that the kernel would have kept from a
// socket.
func TestDeliveryIsThatOfARawSocket(t *testing.T) {
	ownNamespace(t)
	near, far := cable(t)
	wire := packetSocket(t, near.Attrs().Index)
	raw := rawSocket(t, far)
	mac := far.Attrs().HardwareAddr
	router := loader.Router{
		VRID: packettest.VRID, Version: 3, CheckTTL: true,
		Group: packettest.Group, Broadcast: netip.MustParseAddr(broadcast),
	}

	for _, mode := range []loader.Mode{loader.ModeNative, loader.ModeGeneric, loader.ModeTCX, ModeSocket} {
		r, err := open(far, mode, router)
		if mode == loader.ModeTCX && errors.Is(err, loader.ErrUnsupported) && os.Getenv("CI") != "true" {
			t.Log("this kernel has no tcx")
			continue
		}
		require.NoError(t, err, mode)
		for i, tc := range deliveries {
			before, err := r.Counters()
			require.NoError(t, err)
			s := packettest.Valid(3)
			s.Advert.Priority = uint8(i + 1)
			tc.change(&s, [6]byte(mac))
			require.NoError(t, unix.Send(wire, s.Build(), 0), tc.name)
			// Behind it, one that arrives in any case.
			last := packettest.Valid(3)
			last.Advert.Priority = 255
			require.NoError(t, unix.Send(wire, last.Build(), 0))

			assert.Equal(t, tc.kernel, received(t, raw, s.Advert.Priority), "%s: the kernel's socket", tc.name)
			assert.Equal(t, tc.reason, counted(t, r, before), "%s: %s", tc.name, mode)
		}
		require.NoError(t, r.Close())
	}
}

// ownNamespace gives the test a network namespace. The thread ends with the
// test, and its namespace with the thread.
func ownNamespace(t *testing.T) {
	t.Helper()
	lab.Require(t)
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
}

// cable returns the two ends of a veth pair, the second with an address.
func cable(t *testing.T) (near, far netlink.Link) {
	t.Helper()
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "near"}, PeerName: "far"}))
	for _, f := range []string{"all", "near", "far"} {
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+f+"/rp_filter", []byte("0"), 0))
	}
	for _, l := range []*netlink.Link{&near, &far} {
		name := "near"
		if l == &far {
			name = "far"
		}
		var err error
		*l, err = netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(*l))
	}
	addr, err := netlink.ParseAddr(ourAddr + "/24")
	require.NoError(t, err)
	require.NoError(t, netlink.AddrAdd(far, addr))
	// Until the kernel has noticed that both ends are up, it drops what is sent.
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE) // what is awaited is asked by another thread
	require.NoError(t, err)
	defer here.Close()
	require.Eventually(t, func() bool {
		for _, name := range []string{"near", "far"} {
			l, err := here.LinkByName(name)
			if err != nil || l.Attrs().OperState != netlink.OperUp {
				return false
			}
		}
		return true
	}, 10*time.Second, time.Millisecond)
	return near, far
}

func packetSocket(t *testing.T, ifindex int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: htons(unix.ETH_P_IP)}))
	return fd
}

// rawSocket receives adverts as a VRRP router without BPF does.
func rawSocket(t *testing.T, l netlink.Link) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, packet.Protocol)
	require.NoError(t, err)
	t.Cleanup(func() { _ = unix.Close(fd) })
	require.NoError(t, unix.BindToDevice(fd, l.Attrs().Name))
	require.NoError(t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0))
	mreq := &unix.IPMreqn{Multiaddr: packettest.Group.As4(), Ifindex: int32(l.Attrs().Index)}
	require.NoError(t, unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, mreq))
	require.NoError(t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return fd
}

func open(l netlink.Link, mode loader.Mode, router loader.Router) (receiver, error) {
	a := l.Attrs()
	if mode == ModeSocket {
		c, err := NewCapture(a.Name, a.Index, a.HardwareAddr)
		if err == nil {
			c.SetRouter(0, router)
		}
		return c, err
	}
	c, err := loader.Load(loader.Options{Routers: 1})
	if err != nil {
		return nil, err
	}
	router.Ifindex = a.Index
	if err := c.SetRouter(0, router); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	_, err = c.Attach(loader.Port{
		Ifindex: a.Index, Ifname: a.Name, Modes: []loader.Mode{mode}, MAC: [6]byte(a.HardwareAddr),
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return program{c, a.Index}, nil
}

// program is a BPF program on one interface.
type program struct {
	*loader.Collection
	ifindex int
}

func (p program) Counters() (loader.Counters, error) { return p.Collection.Counters(p.ifindex) }

// received reports whether the socket got the advert with this priority before
// the one with 255.
func received(t *testing.T, fd int, priority uint8) (got bool) {
	t.Helper()
	for buf := make([]byte, 2048); ; {
		n, err := unix.Read(fd, buf)
		require.NoError(t, err)
		switch m := buf[4*int(buf[0]&0x0f) : n]; m[2] {
		case 255:
			return got
		case priority:
			got = true
		}
	}
}

// counted returns the reason for which the first of two adverts was counted;
// the second is an event.
func counted(t *testing.T, r receiver, before loader.Counters) loader.Reason {
	t.Helper()
	if c, ok := r.(*Capture); ok {
		// The raw socket has the second, so both wait here, too. A call may
		// end with the first of them.
		c.Drain(func(*loader.Event) {})
		c.Drain(func(*loader.Event) {})
	}
	after, err := r.Counters()
	require.NoError(t, err)
	after[loader.ReasonEvent].Pass--
	for i := range after {
		// The host itself sends, e.g. to find its IPv6 neighbours.
		if loader.Reason(i) != loader.ReasonNotVRRP && after[i].Pass != before[i].Pass {
			return loader.Reason(i)
		}
	}
	return loader.ReasonMax
}
