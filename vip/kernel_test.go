// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNetns moves the test to a network namespace of its own, with an interface
// eth0. The thread, and with it the namespace, ends with the test.
func inNetns(t *testing.T) (ifindex int) {
	requireRoot(t)
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}
	require.NoError(t, netlink.LinkAdd(veth))
	for _, name := range []string{"eth0", "peer"} {
		link, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(link))
		if name == "eth0" {
			ifindex = link.Attrs().Index
		}
	}
	return ifindex
}

// kernelHost is a Host on the real kernel whose worker is the test.
func kernelHost(t *testing.T) (h *Host, last func() Report) {
	var reports []Report
	now := int64(1)
	h, err := NewHost(func() int64 { return now }, func(r Report) { reports = append(reports, r) })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	return h, func() Report {
		require.NotEmpty(t, reports)
		return reports[len(reports)-1]
	}
}

func listed(t *testing.T, h *Host, ifindex int) (out []string) {
	found, err := h.kernel.addresses(ifindex)
	require.NoError(t, err)
	for _, f := range found {
		if f.Ours {
			out = append(out, f.Prefix.String())
		}
	}
	return out
}

func TestKernelTakeoverAndRelease(t *testing.T) {
	ifindex := inNetns(t)
	h, last := kernelHost(t)
	h.SetMAC(ifindex, testMAC)
	labelled := on(ifindex, "10.0.0.2/24")
	labelled.Label = "eth0:x"
	s := h.Add(spec(on(ifindex, "10.0.0.1/32"), labelled))
	s.Takeover()
	h.turn()
	r := last()
	require.NoError(t, r.Err())
	assert.ElementsMatch(t, []string{"10.0.0.1/32", "10.0.0.2/24"}, listed(t, h, ifindex))
	assert.Equal(t, uint64(2), h.Sent.Load())
	s.Release()
	h.turn()
	r = last()
	require.NoError(t, r.Err())
	assert.Empty(t, listed(t, h, ifindex))
}

// An address that was there under another label is removed all the same.
func TestKernelOtherLabel(t *testing.T) {
	ifindex := inNetns(t)
	h, last := kernelHost(t)
	there := on(ifindex, "10.0.0.2/24")
	there.Label = "eth0:old"
	add := there.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE)
	require.NoError(t, h.kernel.do([][]byte{add}, func(_ int, err error) { require.NoError(t, err) }))
	there.Label = "eth0:new"
	s := h.Add(spec(there))
	s.Takeover()
	h.turn()
	s.Release()
	h.turn()
	r := last()
	require.NoError(t, r.Err())
	assert.Empty(t, listed(t, h, ifindex))
}

func TestKernelReleaseTakesOthersAlong(t *testing.T) {
	for _, promote := range []string{"0", "1"} {
		ifindex := inNetns(t)
		// That of all counts, too.
		for _, of := range []string{"eth0", "all"} {
			path := "/proc/sys/net/ipv4/conf/" + of + "/promote_secondaries"
			require.NoError(t, os.WriteFile(path, []byte(promote), 0))
		}
		h, last := kernelHost(t)
		s, u := h.Add(spec(on(ifindex, "10.5.0.51/24"))), h.Add(spec(on(ifindex, "10.5.0.52/24")))
		s.Takeover()
		h.turn()
		u.Takeover()
		h.turn()
		s.Release()
		h.turn()
		r := last()
		require.NoError(t, r.Err())
		assert.Equal(t, []string{"10.5.0.52/24"}, listed(t, h, ifindex))
	}
}

// addAs adds an address as a program does that marks it; 0 is no mark.
func addAs(t *testing.T, h *Host, mark byte, a Address) {
	m := a.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	at := len(m) - 4 // the mark comes last, and is padded
	require.Equal(t, []byte{addrProto, 0, 0, 0}, m[at:])
	m[at] = mark
	if mark == 0 {
		m = m[:at-unix.SizeofRtAttr]
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
	}
	require.NoError(t, h.kernel.do([][]byte{m}, func(_ int, err error) { require.NoError(t, err) }))
}

// What others have added goes with a removal by value alone, and not along with
// the first address of its subnet.
func TestKernelRemoveLeavesOthers(t *testing.T) {
	const keepalived = 18
	ifindex := inNetns(t)
	for _, of := range []string{"eth0", "all"} {
		require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/promote_secondaries", []byte("0"), 0))
	}
	h, _ := kernelHost(t)
	ours, second := on(ifindex, "10.5.0.51/24"), on(ifindex, "10.5.0.52/24")
	theirs, hosts := on(ifindex, "10.5.0.53/24"), on(ifindex, "10.5.0.54/24")
	theirs.Broadcast = netip.MustParseAddr("10.5.0.255")
	peer := on(ifindex, "10.5.0.55/32")
	peer.Peer = netip.MustParseAddr("10.6.0.1")
	addAs(t, h, addrProto, ours)
	addAs(t, h, keepalived, theirs)
	addAs(t, h, 0, hosts)
	addAs(t, h, addrProto, second)
	addAs(t, h, addrProto, peer)
	list := []Address{second, on(ifindex, "10.5.0.99/24"), theirs, peer, ours, hosts, on(ifindex+1000, "10.0.0.3/24")}
	others := func() (out []Found) {
		found, err := h.kernel.addresses(ifindex)
		require.NoError(t, err)
		for _, f := range found {
			if !f.Ours {
				out = append(out, f)
			}
		}
		return out
	}
	before := others()
	require.Len(t, before, 2)

	removed, err := RemoveOurs(list)
	require.NoError(t, err)
	assert.Equal(t, []Address{second, peer, ours}, removed)
	assert.Empty(t, listed(t, h, ifindex))
	assert.Equal(t, before, others())
	removed, err = RemoveOurs(list)
	require.NoError(t, err)
	assert.Empty(t, removed)

	removed, err = Remove([]Address{theirs})
	require.NoError(t, err)
	assert.Equal(t, []Address{theirs}, removed)
	assert.Equal(t, before[1:], others(), "what went along is back")
	_, err = Remove([]Address{hosts})
	require.NoError(t, err)
	assert.Empty(t, others())
}

func TestKernelPutsBack(t *testing.T) {
	ifindex := inNetns(t)
	h, last := kernelHost(t)
	a := on(ifindex, "10.0.0.1/24")
	s := h.Add(spec(a))
	s.Takeover()
	h.turn()
	never := on(ifindex, "10.0.0.2/24")
	removed, err := Remove([]Address{never, a, on(ifindex+1000, "10.0.0.3/24")})
	require.NoError(t, err, "what is not there need not be removed")
	assert.Equal(t, []Address{a}, removed)
	require.Empty(t, listed(t, h, ifindex))
	h.Lost(a.Key())
	h.turn()
	assert.Equal(t, []string{"10.0.0.1/24"}, listed(t, h, ifindex))
	assert.Equal(t, []Address{a}, last().Removed)

	require.NoError(t, netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}))
	_, err = h.kernel.addresses(ifindex)
	assert.ErrorIs(t, err, unix.ENODEV)
	s.Release()
	h.turn()
	r := last()
	assert.NoError(t, r.Err(), "the interface took it along")
	s.Takeover()
	h.turn()
	r = last()
	assert.ErrorIs(t, r.Err(), unix.ENODEV)
}

// More addresses than fit one batch, and a list that needs several reads.
func TestKernelManyAddresses(t *testing.T) {
	ifindex := inNetns(t)
	h, last := kernelHost(t)
	h.SetMAC(ifindex, testMAC)
	s := h.Add(spec(many(ifindex, 1000)...))
	s.Takeover()
	h.turn()
	r := last()
	require.NoError(t, r.Err())
	assert.Len(t, listed(t, h, ifindex), 1000)
	s.Release()
	h.turn()
	assert.Empty(t, listed(t, h, ifindex))
}

// A kernel that does not answer costs the answers, not the worker; what it
// says later is not taken for the answer to something else.
func TestNetlinkTimeout(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(pair[1])
	timeout := unix.NsecToTimeval(1e6)
	require.NoError(t, unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout))
	r := &rtnetlink{fd: pair[0], in: make([]byte, 1<<16)}
	stale := make([]byte, unix.NLMSG_HDRLEN+4)
	binary.NativeEndian.PutUint32(stale, uint32(len(stale)))
	binary.NativeEndian.PutUint16(stale[4:], unix.NLMSG_ERROR)
	binary.NativeEndian.PutUint32(stale[8:], 1) // answers the first message only
	_, err = unix.Write(pair[1], stale)
	require.NoError(t, err)

	a := on(1<<20, "10.0.0.1/24") // there is no such interface
	message := func() []byte { return a.message(unix.RTM_NEWADDR, 0) }
	var answers []error
	err = r.read(func(kind, _ uint16, seq uint32, body []byte) bool {
		answers = append(answers, errorOf(body))
		return true
	})
	require.ErrorIs(t, err, unix.EAGAIN)
	assert.Equal(t, []error{nil}, answers)
	assert.Equal(t, -1, r.fd, "closed")

	// And works again.
	answers = nil
	require.NoError(t, r.do([][]byte{message(), message()}, func(_ int, err error) { answers = append(answers, err) }))
	defer r.close()
	require.Len(t, answers, 2)
	for _, err := range answers {
		assert.True(t, errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM), "%v", err)
	}
}

func TestNetlinkHasADeadline(t *testing.T) {
	r, err := openRtnetlink()
	require.NoError(t, err)
	defer r.close()
	tv, err := unix.GetsockoptTimeval(r.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO)
	require.NoError(t, err)
	assert.Equal(t, answerTimeout.Nanoseconds(), tv.Nano())
}

// The first order of a batch wakes the worker, which takes all of them.
func TestOrdersSignalOnce(t *testing.T) {
	b := newBench(t)
	s, u := b.Add(spec()), b.Add(spec())
	b.turn()
	signals := func() uint64 {
		var count [8]byte
		_, _ = unix.Read(b.event, count[:])
		return binary.NativeEndian.Uint64(count[:])
	}
	signals() // of the sets that came
	require.Zero(t, signals())
	s.Takeover()
	assert.Equal(t, uint64(1), signals())
	s.Announce()
	u.Takeover()
	assert.Zero(t, signals())
	b.turn()
	s.Release()
	assert.Equal(t, uint64(1), signals())
}

// Orders reach the worker while it sleeps.
func TestOrdersWakeTheWorker(t *testing.T) {
	b := newBench(t)
	reports := make(chan Report, 1)
	b.report = func(r Report) { reports <- r }
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- b.Run(ctx) }()
	s := b.Add(spec(Address{Ifindex: 1, Prefix: netip.MustParsePrefix("10.0.0.1/24")}))
	for epoch := uint64(1); epoch <= 20; epoch++ {
		if epoch%2 == 1 {
			s.Takeover()
		} else {
			s.Release()
		}
		assert.Equal(t, epoch, (<-reports).Epoch)
	}
	cancel()
	require.NoError(t, <-ran)
}

// What an interface receives is its own, and not what it sends.
func TestReceived(t *testing.T) {
	eth0 := inNetns(t)
	peer, err := netlink.LinkByName("peer")
	require.NoError(t, err)
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	var c Counters
	t.Cleanup(func() { assert.NoError(t, c.Close()) })
	received := func(ifindex int) uint64 {
		n, err := c.Received(ifindex)
		require.NoError(t, err)
		return n
	}
	before, quiet := received(eth0), received(lo.Attrs().Index)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index}
	for range 10 {
		require.NoError(t, unix.Sendto(fd, make([]byte, 60), 0, to))
	}
	assert.GreaterOrEqual(t, received(eth0), before+10)
	assert.Less(t, received(eth0), before+100)
	assert.Equal(t, quiet, received(lo.Attrs().Index))

	_, err = c.Received(9999)
	require.ErrorIs(t, err, unix.ENODEV)
	received(eth0) // the refusal is not in its way
}

func BenchmarkReceived(b *testing.B) {
	var c Counters
	b.ReportAllocs()
	for b.Loop() {
		_, err := c.Received(1)
		require.NoError(b, err)
	}
	require.NoError(b, c.Close())
}
