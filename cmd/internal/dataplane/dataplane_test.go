// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
	"github.com/xvrrp/xvrrp/test/lab"
)

func TestPrograms(t *testing.T) {
	for name, tc := range map[string]struct {
		modes    []plan.Mode
		want     []loader.Mode
		fallback bool
	}{
		"auto": {
			[]plan.Mode{plan.ModeNative, plan.ModeGeneric, plan.ModeTCX, plan.ModeSocket},
			[]loader.Mode{loader.ModeNative, loader.ModeGeneric, loader.ModeTCX}, true,
		},
		"one program":   {[]plan.Mode{plan.ModeTCX}, []loader.Mode{loader.ModeTCX}, false},
		"packet socket": {[]plan.Mode{plan.ModeSocket}, nil, true},
		"none":          {nil, nil, false},
	} {
		modes, fallback := programs(tc.modes)
		assert.Equal(t, tc.want, modes, name)
		assert.Equal(t, tc.fallback, fallback, name)
	}
}

func TestLocals(t *testing.T) {
	a, b := netip.MustParsePrefix("192.168.1.2/24"), netip.MustParsePrefix("fe80::1/64")
	assert.Empty(t, locals(&plan.Port{}))
	c := netip.MustParsePrefix("fe80::2/64")
	assert.Equal(t, []loader.Local{
		{Prefix: a, Discriminator: 192<<24 | 168<<16 | 1<<8 | 2}, {Prefix: b}, {Prefix: c, Discriminator: bfd.Discriminator(c.Addr())},
	}, locals(&plan.Port{Locals: []plan.Local{{Prefix: a, Reflect: true}, {Prefix: b}, {Prefix: c, Reflect: true}}}))
}

// site is an interface in a network namespace of its own, and the other end of
// its cable.
type site struct {
	key  plan.PortKey
	mac  [6]byte
	peer int // index of the other end
}

func newSite(t *testing.T) *site {
	t.Helper()
	lab.Require(t)
	// The thread ends with the test, and its namespace with the thread.
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "peer"}))
	up := func(name string) netlink.Link {
		l, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(l))
		return l
	}
	port, peer := up("port"), up("peer")
	for _, a := range []netip.Addr{source, packettest.VIP} {
		addr, err := netlink.ParseAddr(a.String() + "/24")
		require.NoError(t, err)
		require.NoError(t, netlink.AddrAdd(port, addr))
	}
	return &site{
		plan.PortKey{Name: "port", Ifindex: port.Attrs().Index}, [6]byte(port.Attrs().HardwareAddr), peer.Attrs().Index,
	}
}

var source = netip.MustParseAddr("192.168.1.2")

func (s *site) plane() *Plane {
	return &Plane{
		NetNS: uint64(os.Getpid()), Instance: "dataplane-test", Room: RoomFor(&config.Config{}),
		Log: slog.New(slog.DiscardHandler),
	}
}

// slow is an advert with the longest interval: four of them are enough to load
// the programs on any machine.
func slow() packettest.Spec {
	s := packettest.Valid(3)
	s.Advert.Interval = packet.MaxInterval
	return s
}

// router is a virtual router with a fence.
func (s *site) router(id loader.RouterID) Router {
	valid := slow()
	return Router{
		ID: id, At: plan.Identity{Port: s.key, VRID: packettest.VRID},
		Plan: &plan.Router{
			Name: "VI_1", Config: control.Config{Version: 3, Source: source}, Advert: valid.Advert, Group: valid.Dst, Fence: true,
			Addresses: []plan.Address{{Ifindex: s.key.Ifindex, Prefix: netip.PrefixFrom(packettest.VIP, 24)}},
		},
	}
}

// The first mode that works is used, with the routers of the port known to it.
func TestOpenFallsBack(t *testing.T) {
	for name, tc := range map[string]struct {
		modes  []plan.Mode
		want   loader.Mode
		reason string
	}{
		"first":         {[]plan.Mode{plan.ModeGeneric, plan.ModeSocket}, loader.ModeGeneric, ""},
		"next":          {[]plan.Mode{plan.ModeNative, plan.ModeGeneric}, loader.ModeGeneric, ""},
		"packet socket": {[]plan.Mode{plan.ModeNative, plan.ModeSocket}, transport.ModeSocket, "attach to lo (native)"},
		"only socket":   {[]plan.Mode{plan.ModeSocket}, transport.ModeSocket, ""},
		"none":          {[]plan.Mode{plan.ModeNative}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t) // here: a subtest has a thread of its own
			lo, err := netlink.LinkByName("lo")
			require.NoError(t, err)
			s.key = plan.PortKey{Name: "lo", Ifindex: lo.Attrs().Index} // has no native XDP
			d := s.plane()
			defer func() { assert.NoError(t, d.Close()) }()
			p, err := d.Open(s.key, &plan.Port{Modes: tc.modes}, []Router{s.router(3)})
			if tc.want == "" {
				require.ErrorIs(t, err, loader.ErrUnsupported)
				require.NoError(t, d.kernel.SetRouter(4, loader.Router{Ifindex: s.key.Ifindex}), "nothing is left of it")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tc.want, p.Mode)
			assert.Equal(t, tc.want != transport.ModeSocket, p.HasProgram())
			assert.Contains(t, p.Reason, tc.reason)
			assert.True(t, p.Knows(3))
			assert.False(t, p.Knows(4))
			p.RemoveRouter(3)
			assert.False(t, p.Knows(3))
			require.NoError(t, p.Close())
		})
	}
}

// A mode that does not work leaves the one before, however often it is tried.
func TestChangeOfModeFails(t *testing.T) {
	s := newSite(t)
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	s.key = plan.PortKey{Name: "lo", Ifindex: lo.Attrs().Index} // has no native XDP
	d := s.plane()
	defer func() { assert.NoError(t, d.Close()) }()
	p, err := d.Open(s.key, &plan.Port{Modes: []plan.Mode{plan.ModeGeneric}, ModesWhy: "was wanted"}, []Router{s.router(3)})
	require.NoError(t, err)
	defer func() { assert.NoError(t, p.Close()) }()
	for range 2 {
		require.ErrorIs(t, d.Change(p, &plan.Port{Modes: []plan.Mode{plan.ModeNative}}), loader.ErrUnsupported)
		assert.Equal(t, loader.ModeGeneric, p.Mode)
		assert.Equal(t, "was wanted", p.Reason)
		assert.True(t, p.InPath())
	}
	require.NoError(t, d.Change(p, &plan.Port{Modes: []plan.Mode{plan.ModeGeneric}}))
	assert.True(t, p.InPath())
}

// A program is possible again once whatever kept it away has gone.
func TestRetry(t *testing.T) {
	s := newSite(t)
	holder := s.plane()
	holder.Instance = "dataplane-holder"
	defer func() { assert.NoError(t, holder.Close()) }()
	other, err := holder.Open(s.key, &plan.Port{Modes: []plan.Mode{plan.ModeGeneric}}, nil)
	require.NoError(t, err)

	port := &plan.Port{Modes: []plan.Mode{plan.ModeGeneric, plan.ModeSocket}}
	d := s.plane()
	defer func() { assert.NoError(t, d.Close()) }()
	p, err := d.Open(s.key, port, []Router{s.router(3)})
	require.NoError(t, err)
	require.False(t, p.HasProgram())
	assert.False(t, d.Retry(p), "the hook is busy")
	require.NoError(t, other.Close())
	require.NoError(t, d.Change(p, &plan.Port{Modes: []plan.Mode{plan.ModeSocket}}))
	assert.False(t, d.Retry(p), "none is wanted")
	require.NoError(t, d.Change(p, port))
	assert.True(t, d.Retry(p))
	assert.Zero(t, xdpHolder(s.key.Ifindex), "it was tried only")
	assert.True(t, p.InPath())
	require.NoError(t, p.Close())
	p, err = d.Open(s.key, port, []Router{s.router(3)})
	require.NoError(t, err)
	assert.Equal(t, loader.ModeGeneric, p.Mode)
	assert.False(t, d.Retry(p), "it has one")
	require.NoError(t, p.Close())
}

// What cannot work here is not tried again.
func TestNoRetry(t *testing.T) {
	s := newSite(t)
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	d := s.plane()
	defer func() { assert.NoError(t, d.Close()) }()
	port := &plan.Port{Modes: []plan.Mode{plan.ModeNative, plan.ModeSocket}}
	p, err := d.Open(plan.PortKey{Name: "lo", Ifindex: lo.Attrs().Index}, port, nil)
	require.NoError(t, err)
	assert.False(t, p.passes)
	assert.False(t, d.Retry(p))
	require.NoError(t, p.Close())
}

// Of a port whose addresses do not all find room, none takes it from others.
func TestNoRoomForAddresses(t *testing.T) {
	s := newSite(t)
	d := s.plane()
	d.Room.Addresses = 16
	defer func() { assert.NoError(t, d.Close()) }()
	port := func(network byte, addresses int) *plan.Port {
		p := &plan.Port{Modes: []plan.Mode{plan.ModeGeneric}}
		for n := range addresses {
			a := netip.AddrFrom4([4]byte{10, 0, network, byte(n)})
			p.Locals = append(p.Locals, plan.Local{Prefix: netip.PrefixFrom(a, 24)})
		}
		return p
	}
	_, err := d.Open(s.key, port(0, 17), nil)
	require.ErrorIs(t, err, loader.ErrFull)
	assert.ErrorContains(t, err, "a restart makes room")
	p, err := d.Open(s.key, port(1, 16), nil)
	require.NoError(t, err)
	require.NoError(t, p.Close())
}

// isMember reports whether the host is a member of the adverts' group on an
// interface.
func isMember(t *testing.T, name string) bool {
	t.Helper()
	raw, err := os.ReadFile("/proc/thread-self/net/igmp")
	require.NoError(t, err)
	at := ""
	for _, line := range strings.Split(string(raw), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) > 2 && !strings.HasPrefix(line, "\t"):
			at = words[1]
		case len(words) > 0 && words[0] == "120000E0" && at == name:
			return true
		}
	}
	return false
}

// An interface that gave IPv4 up for a while is a member again with its
// addresses.
func TestMemberAgainWithItsAddresses(t *testing.T) {
	s := newSite(t)
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	s.key = plan.PortKey{Name: "lo", Ifindex: lo.Attrs().Index} // a veth pair refuses such an MTU
	port := &plan.Port{
		Modes: []plan.Mode{plan.ModeSocket}, Groups: []netip.Addr{packettest.Group},
		Locals: []plan.Local{{Prefix: netip.PrefixFrom(source, 24)}},
	}
	d := s.plane()
	defer func() { assert.NoError(t, d.Close()) }()
	p, err := d.Open(s.key, port, nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, p.Close()) }()
	require.True(t, isMember(t, "lo"))
	require.NoError(t, netlink.LinkSetMTU(lo, 60), "too small for IPv4")
	without := *port
	without.Locals = nil
	require.NoError(t, d.Change(p, &without), "it has no IPv4")
	require.NoError(t, netlink.LinkSetMTU(lo, 1500))
	assert.False(t, isMember(t, "lo"))
	require.NoError(t, d.Change(p, port))
	assert.True(t, isMember(t, "lo"))
	require.NoError(t, d.Change(p, port))
	assert.True(t, isMember(t, "lo"))
}

// An interface that went and came back with its index is noticed, also if no
// message told of it.
func TestInterfaceIsMadeAnew(t *testing.T) {
	for _, mode := range []plan.Mode{plan.ModeGeneric, plan.ModeTCX, plan.ModeSocket} {
		t.Run(string(mode), func(t *testing.T) {
			s := newSite(t)
			d := s.plane()
			defer func() { assert.NoError(t, d.Close()) }()
			p, err := d.Open(s.key, &plan.Port{Modes: []plan.Mode{mode}, Groups: []netip.Addr{packettest.Group}}, nil)
			if errors.Is(err, loader.ErrUnsupported) {
				t.Skip("this kernel has no such mode")
			}
			require.NoError(t, err)
			defer func() { assert.NoError(t, p.Close()) }()
			require.True(t, p.InPath())
			l, err := netlink.LinkByName("port")
			require.NoError(t, err)
			require.NoError(t, netlink.LinkSetDown(l))
			require.NoError(t, netlink.LinkSetUp(l))
			require.True(t, p.InPath(), "it was only down")
			require.NoError(t, netlink.LinkDel(l))
			attrs := netlink.LinkAttrs{Name: "port", Index: s.key.Ifindex}
			require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}))
			l, err = netlink.LinkByIndex(s.key.Ifindex)
			require.NoError(t, err)
			require.NoError(t, netlink.LinkSetUp(l))

			assert.False(t, p.InPath())
			assert.False(t, isMember(t, "port"))
			err = d.Attach(p)
			if mode == plan.ModeSocket {
				assert.ErrorContains(t, err, "receive from port: the packet socket lost the interface", "it is to be opened again")
				return
			}
			require.NoError(t, err)
			assert.True(t, p.InPath())
			assert.True(t, isMember(t, "port"))
		})
	}
}

// The kernel finds somebody who wants VRRP, so it answers no advert to an
// address of the host with an ICMP error.
func TestHostSpeaksVRRP(t *testing.T) {
	s := newSite(t)
	d := s.plane()
	p, err := d.Open(s.key, &plan.Port{Modes: []plan.Mode{plan.ModeSocket}, Groups: []netip.Addr{packettest.Group}}, nil)
	require.NoError(t, err)
	defer func() { assert.NoError(t, p.Close()) }()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer func() { assert.NoError(t, unix.Close(fd)) }()
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.peer}))

	toGroup := packettest.Valid(3)
	toHost := toGroup
	toHost.Dst = source
	toHost.Mutate = func(frame []byte, _, _ int) []byte {
		copy(frame, s.mac[:])
		return frame
	}
	tid := unix.Gettid() // Eventually asks on another thread, which is in another namespace
	counted := func(name string) (delivered, unknown int) {
		before, err := ipCounters(tid)
		require.NoError(t, err, name)
		for _, f := range []packettest.Spec{toGroup, toHost} {
			_, err := unix.Write(fd, f.Build())
			require.NoError(t, err, name)
		}
		require.Eventually(t, func() bool {
			now, err := ipCounters(tid)
			return err == nil && now["InReceives"] >= before["InReceives"]+2
		}, 10*time.Second, time.Millisecond, name)
		after, err := ipCounters(tid)
		require.NoError(t, err, name)
		return after["InDelivers"] - before["InDelivers"], after["InUnknownProtos"] - before["InUnknownProtos"]
	}
	delivered, refused := counted("open")
	assert.Equal(t, 2, delivered)
	assert.Zero(t, refused)
	require.NoError(t, d.Close())
	_, refused = counted("closed")
	assert.Equal(t, 2, refused)
}

// ipCounters returns those of IPv4 in the namespace of a thread.
func ipCounters(tid int) (map[string]int, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/snmp", tid))
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(raw), "\n")
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	if len(names) != len(values) {
		return nil, fmt.Errorf("%d names of counters, and %d values", len(names), len(values))
	}
	out := map[string]int{}
	for i, name := range names[1:] {
		if out[name], err = strconv.Atoi(values[i+1]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// A fence that a dead daemon left closed is closed at every moment of the start
// of its successor: not one question for the address is answered.
func TestFenceStaysClosedOverARestart(t *testing.T) {
	s := newSite(t)
	port := &plan.Port{MAC: s.mac, Modes: []plan.Mode{plan.ModeGeneric}}
	dead := s.plane()
	_, err := dead.Open(s.key, port, []Router{s.router(0)})
	require.NoError(t, err)
	defer func() { assert.NoError(t, dead.Close()) }() // until then it holds its links, as its pins do
	dead.kernel.SetRole(0, loader.RoleMaster)          // and renews no lease

	unlock(t, dead.kernel.PinDir())
	asker := s.ask(t)
	require.Eventually(t, func() bool { return dead.kernel.Fence(0, clock.Now()).Active }, 10*time.Second, time.Millisecond)
	asker.more(t)
	asker.answers.Store(0) // those from before
	next := s.plane()
	asked, holder := false, xdpHolder
	defer func() { xdpHolder = holder }()
	xdpHolder = func(ifindex int) uint32 {
		asked = true
		assert.True(t, next.kernel.Fence(1, clock.Now()).Active, "known before the program is attached")
		return holder(ifindex)
	}
	_, err = next.Open(s.key, port, []Router{s.router(1)})
	require.NoError(t, err)
	defer func() { assert.NoError(t, next.Close()) }()
	next.kernel.Renew(clock.Now() + int64(time.Hour))
	asker.more(t)
	assert.True(t, next.kernel.Fence(1, clock.Now()).Active, "the lease is none for what the dead one left")
	assert.True(t, asked)
	assert.Zero(t, asker.answers.Load())
	next.kernel.LiftFences()
	require.Eventually(t, func() bool { return asker.answers.Load() > 0 }, 10*time.Second, time.Millisecond)
}

// unlock puts the pins of a daemon into a new folder of the same name, which is
// not locked: as if the daemon had died.
func unlock(t *testing.T, dir string) {
	t.Helper()
	was := dir + "-was"
	require.NoError(t, os.Rename(dir, was))
	require.NoError(t, os.Mkdir(dir, 0o700))
	entries, err := os.ReadDir(was)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.Rename(filepath.Join(was, e.Name()), filepath.Join(dir, e.Name())))
	}
	require.NoError(t, os.Remove(was))
}

// asker asks for the address without a pause, and is the other master.
type asker struct {
	fd              int
	rounds, answers atomic.Uint64
}

func (s *site) ask(t *testing.T) *asker {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	require.NoError(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1))
	arp := uint16(unix.ETH_P_ARP)
	require.NoError(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: arp<<8 | arp>>8, Ifindex: s.peer}))
	a := &asker{fd: fd}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				a.round()
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-done
		assert.NoError(t, unix.Close(fd))
	})
	return a
}

func (a *asker) round() {
	if a.rounds.Load()%5000 == 0 {
		_, _ = unix.Write(a.fd, slow().Build())
	}
	question := append([]byte{255, 255, 255, 255, 255, 255}, packettest.MAC[:]...)
	question = append(question, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	question = append(append(question, packettest.MAC[:]...), packettest.Src.AsSlice()...)
	question = append(append(question, 0, 0, 0, 0, 0, 0), packettest.VIP.AsSlice()...)
	_, _ = unix.Write(a.fd, question)
	var b [64]byte
	for {
		n, err := unix.Read(a.fd, b[:])
		if err != nil {
			break
		}
		if n >= 32 && b[21] == 2 && netip.AddrFrom4([4]byte(b[28:32])) == packettest.VIP {
			a.answers.Add(1)
		}
	}
	a.rounds.Add(1)
}

// more waits until whatever was on its way has come and gone.
func (a *asker) more(t *testing.T) {
	t.Helper()
	until := a.rounds.Load() + 1000
	require.Eventually(t, func() bool { return a.rounds.Load() > until }, 10*time.Second, time.Millisecond)
}
