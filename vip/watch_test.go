// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/plan"
)

func addr(s string) plan.Addr { return plan.Addr{Prefix: netip.MustParsePrefix(s)} }

// What is told of two snapshots depends on nothing but them.
func TestCompare(t *testing.T) {
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	eth0 := plan.Link{Index: 2, Name: "eth0", MAC: mac, Ethernet: true, Up: true, Addrs: []plan.Addr{addr("10.0.0.1/24")}}
	change := func(f func(*plan.Link)) []plan.Link {
		l := eth0
		f(&l)
		return []plan.Link{l}
	}
	source := eth0.Addrs[0].Prefix.Addr()
	for _, tc := range []struct {
		name          string
		before, after []plan.Link
		want          []News
	}{
		{"nothing", []plan.Link{eth0}, []plan.Link{eth0}, nil},
		{"interface appears", nil, []plan.Link{eth0}, []News{
			{Ifindex: 2, MAC: mac}, {Ifindex: 2, Addr: source, MAC: mac}}},
		{"interface goes", []plan.Link{eth0}, nil, []News{
			{Ifindex: 2, Down: true, Gone: true, MAC: mac}, {Ifindex: 2, Addr: source, Down: true, MAC: mac}}},
		{"goes down", []plan.Link{eth0}, change(func(l *plan.Link) { l.Up = false }), []News{{Ifindex: 2, Down: true, MAC: mac}}},
		{"goes up", change(func(l *plan.Link) { l.Up = false }), []plan.Link{eth0}, []News{{Ifindex: 2, MAC: mac}}},
		{"another MAC", []plan.Link{eth0}, change(func(l *plan.Link) { l.MAC[5] = 9 }), []News{{Ifindex: 2, MAC: [6]byte{2, 0, 0, 0, 0, 9}}}},
		{"another name", []plan.Link{eth0}, change(func(l *plan.Link) { l.Name = "lan0" }), nil},
		{"made anew", []plan.Link{eth0}, change(func(l *plan.Link) { l.Index, l.Addrs = 7, nil }), []News{
			{Ifindex: 2, Down: true, Gone: true, MAC: mac}, {Ifindex: 2, Addr: source, Down: true, MAC: mac}, {Ifindex: 7, MAC: mac}}},
		{"address goes", []plan.Link{eth0}, change(func(l *plan.Link) { l.Addrs = nil }), []News{{Ifindex: 2, Addr: source, Down: true, MAC: mac}}},
		{"address comes", change(func(l *plan.Link) { l.Addrs = nil }), []plan.Link{eth0}, []News{{Ifindex: 2, Addr: source, MAC: mac}}},
		{"another prefix", []plan.Link{eth0}, change(func(l *plan.Link) { l.Addrs = []plan.Addr{addr("10.0.0.1/16")} }), nil},
		{"a second prefix", []plan.Link{eth0}, change(func(l *plan.Link) { l.Addrs = append(l.Addrs, addr("10.0.0.1/16")) }), nil},
		{"tentative", []plan.Link{eth0}, change(func(l *plan.Link) { l.Addrs = []plan.Addr{{Prefix: l.Addrs[0].Prefix, Tentative: true}} }),
			[]News{{Ifindex: 2, Addr: source, Down: true, MAC: mac}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []News
			compare(plan.NewFacts(tc.before), plan.NewFacts(tc.after), func(n News) { got = append(got, n) })
			assert.Equal(t, tc.want, got)
		})
	}
}

// A field that is added to plan.Link and forgotten in sameLink would make
// changes of it unseen.
func TestSameLinkKnowsEveryField(t *testing.T) {
	full := plan.Link{Index: 1, Name: "n", AltNames: []string{"a"}, Kind: "k", Parent: 1, VLAN: 1, MAC: [6]byte{1}, Ethernet: true,
		Up: true, Loopback: true, Addrs: []plan.Addr{addr("10.0.0.1/24")}}
	require.True(t, sameLink(full, full))
	for i := range reflect.TypeFor[plan.Link]().NumField() {
		other := full
		v := reflect.ValueOf(&other).Elem().Field(i)
		require.False(t, v.IsZero(), "set %s in this test", reflect.TypeFor[plan.Link]().Field(i).Name)
		v.SetZero()
		assert.False(t, sameLink(full, other), reflect.TypeFor[plan.Link]().Field(i).Name)
	}
}

func linkMessage(family uint8, index int, name string) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	if name != "" {
		b = append(b, nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)).Serialize()...)
	}
	return b
}

func addrMessage(index int, prefix string) []byte {
	a := Address{Ifindex: index, Prefix: netip.MustParsePrefix(prefix)}
	return a.message(unix.RTM_NEWADDR, 0)[unix.NLMSG_HDRLEN:]
}

// Snapshots are read while the next one is made.
func TestOldSnapshotStaysAsItIs(t *testing.T) {
	make := func() *plan.Facts {
		return plan.NewFacts([]plan.Link{{Index: 2, Name: "eth0", Addrs: []plan.Addr{addr("10.0.0.1/24"), addr("10.0.0.2/24")}}})
	}
	old := make()
	d := draft{old: old}
	require.NoError(t, d.message(unix.RTM_NEWLINK, linkMessage(unix.AF_UNSPEC, 2, "lan0")))
	require.NoError(t, d.message(unix.RTM_DELADDR, addrMessage(2, "10.0.0.1/24")))
	require.NoError(t, d.message(unix.RTM_NEWADDR, addrMessage(2, "10.0.0.3/24")))
	assert.Equal(t, make(), old)
	next := d.facts()
	require.NotNil(t, next.Link("lan0"))
	assert.Nil(t, next.Link("lan0").Addr(netip.MustParseAddr("10.0.0.1")))
	assert.NotNil(t, next.Link("lan0").Addr(netip.MustParseAddr("10.0.0.3")))
}

func TestVLAN(t *testing.T) {
	message := func(elsewhere bool) []byte {
		b := append(linkMessage(unix.AF_UNSPEC, 7, "eth0.30"), nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(2)).Serialize()...)
		if elsewhere {
			b = append(b, nl.NewRtAttr(unix.IFLA_LINK_NETNSID, nl.Uint32Attr(0)).Serialize()...)
		}
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		data := nl.NewRtAttr(unix.IFLA_INFO_DATA, nil) // may stand before what it is of
		data.AddRtAttr(nl.IFLA_VLAN_ID, nl.Uint16Attr(30))
		info.AddChild(data)
		info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("vlan"))
		return append(b, info.Serialize()...)
	}
	l, err := parseLink(message(false))
	require.NoError(t, err)
	assert.Equal(t, plan.Link{Index: 7, Name: "eth0.30", Kind: "vlan", Parent: 2, VLAN: 30}, l)
	l, err = parseLink(message(true))
	require.NoError(t, err)
	assert.Zero(t, l.Parent, "an index of another namespace")
}

func TestWhatIsNotNewsOfAnInterface(t *testing.T) {
	eth0 := plan.NewFacts([]plan.Link{{Index: 2, Name: "eth0"}})
	for _, tc := range []struct {
		name string
		kind uint16
		body []byte
	}{
		{"a port leaves a bridge", unix.RTM_DELLINK, linkMessage(unix.AF_BRIDGE, 2, "eth0")},
		{"a bridge sets a port up", unix.RTM_NEWLINK, linkMessage(unix.AF_BRIDGE, 2, "port")},
		{"a wireless event", unix.RTM_NEWLINK, linkMessage(unix.AF_UNSPEC, 2, "")},
		{"an address of an interface that went", unix.RTM_NEWADDR, addrMessage(9, "10.0.0.1/24")},
		{"a request", unix.RTM_GETLINK, linkMessage(unix.AF_UNSPEC, 2, "other")},
	} {
		d := draft{old: eth0}
		require.NoError(t, d.message(tc.kind, tc.body), tc.name)
		assert.Equal(t, eth0, d.facts(), tc.name)
	}
}

// A list that changed while it was read may lack what was there all the time.
func TestAnswer(t *testing.T) {
	message := func(kind, flags int, seq uint32, body []byte) []byte {
		req := nl.NewNetlinkRequest(kind, flags)
		req.Seq = seq
		req.AddRawData(body)
		return req.Serialize()
	}
	eth0 := message(unix.RTM_NEWLINK, 0, 7, linkMessage(unix.AF_UNSPEC, 2, "eth0"))
	done := message(unix.NLMSG_DONE, 0, 7, nl.Uint32Attr(0))
	var busy = int32(unix.EBUSY)
	for _, tc := range []struct {
		name      string
		datagrams [][]byte
		links     int
		err       error
	}{
		{"complete", [][]byte{eth0, done}, 1, nil},
		{"in one", [][]byte{append(append([]byte{}, eth0...), done...)}, 1, nil},
		{"the rest of another", [][]byte{message(unix.NLMSG_DONE, 0, 6, nl.Uint32Attr(0)), eth0, done}, 1, nil},
		{"interrupted", [][]byte{eth0, message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 7, nl.Uint32Attr(0))}, 1, errInterrupted},
		{"refused", [][]byte{message(unix.NLMSG_ERROR, 0, 7, nl.Uint32Attr(uint32(-busy)))}, 0, unix.EBUSY},
		{"broken off", [][]byte{eth0, message(unix.NLMSG_DONE, 0, 7, nl.Uint32Attr(uint32(-busy)))}, 1, unix.EBUSY},
		{"malformed", [][]byte{message(unix.RTM_NEWLINK, 0, 7, []byte{0}), done}, 0, errMalformed},
	} {
		d := draft{old: &plan.Facts{}}
		a := answer{seq: 7, each: d.message}
		for _, b := range tc.datagrams {
			require.False(t, a.done, tc.name)
			a.read(b)
		}
		assert.True(t, a.done, tc.name)
		assert.ErrorIs(t, a.err, tc.err, tc.name)
		assert.Len(t, d.facts().Links, tc.links, tc.name)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte{}, uint16(unix.RTM_NEWLINK))
	f.Add(linkMessage(unix.AF_UNSPEC, 2, "eth0"), uint16(unix.RTM_NEWLINK))
	f.Add(addrMessage(2, "10.0.0.1/24"), uint16(unix.RTM_NEWADDR))
	f.Add(addrMessage(2, "10.0.0.1/24")[:11], uint16(unix.RTM_DELADDR))
	f.Fuzz(func(t *testing.T, b []byte, kind uint16) {
		d := draft{old: plan.NewFacts([]plan.Link{{Index: 2, Name: "eth0"}})}
		err := d.message(kind, b)
		if err == nil {
			_ = messages(b, func(h unix.NlMsghdr, body []byte) error { return d.message(h.Type, body) })
		}
		for _, l := range d.facts().Links {
			assert.NotEmpty(t, l.Name)
			for _, a := range l.Addrs {
				assert.True(t, a.Prefix.IsValid())
			}
		}
	})
}

// namespace gives the test a network namespace with a eth0 that is up. The
// thread ends with the test, and its namespace with the thread.
func namespace(t *testing.T) {
	requireRoot(t)
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	cable(t, "eth0")
}

// cable makes an interface with carrier.
func cable(t *testing.T, name string) netlink.Link {
	require.NoError(t, netlink.LinkAdd(pair(name)))
	require.NoError(t, netlink.LinkSetUp(watchedLink(t, name+"-far")))
	require.NoError(t, netlink.LinkSetUp(watchedLink(t, name)))
	return watchedLink(t, name)
}

func pair(name string) *netlink.Veth {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return &netlink.Veth{LinkAttrs: attrs, PeerName: name + "-far"}
}

func watchedLink(t *testing.T, name string) netlink.Link {
	l, err := netlink.LinkByName(name)
	require.NoError(t, err)
	return l
}

func parse(t *testing.T, s string) *netlink.Addr {
	a, err := netlink.ParseAddr(s)
	require.NoError(t, err)
	return a
}

// watched is a Watcher that runs, or is to be run.
type watched struct {
	*Watcher
	news chan News
	lost atomic.Int64
}

func watch(t *testing.T, buffer int) *watched {
	w := &watched{news: make(chan News, 1<<16)}
	var err error
	w.Watcher, err = newWatcher(func(n News) { w.news <- n }, func(error) { w.lost.Add(1) }, buffer)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, w.Close()) })
	return w
}

func (w *watched) run(t *testing.T) *watched {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	return w
}

const patience = 10 * time.Second

// until waits for a snapshot.
func (w *watched) until(t *testing.T, what string, ok func(*plan.Facts) bool) *plan.Facts {
	t.Helper()
	late := time.After(patience)
	for {
		if f := w.Facts(); ok(f) {
			return f
		}
		select {
		case <-w.Changed():
		case <-late:
			require.Fail(t, "no snapshot with "+what, "%+v", w.Facts().Links)
		}
	}
}

// next waits for news that fit.
func (w *watched) next(t *testing.T, what string, ok func(News) bool) News {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case n := <-w.news:
			if ok(n) {
				return n
			}
		case <-late:
			require.Fail(t, "no news of "+what)
		}
	}
}

// all returns the news until now: those of a change that is made last, and
// everything before.
func (w *watched) all(t *testing.T) (got []News) {
	t.Helper()
	last := cable(t, fmt.Sprintf("last%d", rand.Uint32()>>16)).Attrs().Index
	w.next(t, "the last change", func(n News) bool {
		if n.Ifindex < last {
			got = append(got, n)
		}
		return n.Ifindex == last
	})
	return got
}

func TestWatcherReadsLinks(t *testing.T) {
	namespace(t)
	w := watch(t, receiveBuffer).run(t)
	lo := w.Facts().Link("lo")
	require.NotNil(t, lo)
	assert.True(t, lo.Loopback)
	assert.False(t, lo.Up)
	assert.False(t, lo.Ethernet)

	eth0 := watchedLink(t, "eth0")
	known := w.Facts().Link("eth0")
	require.NotNil(t, known)
	assert.Equal(t, eth0.Attrs().HardwareAddr, net.HardwareAddr(known.MAC[:]))
	assert.Equal(t, "veth", known.Kind)
	assert.Zero(t, known.Parent, "the other end is not below")
	assert.True(t, known.Up)
	assert.True(t, known.Ethernet)

	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "vrrp.51", known.Index
	require.NoError(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PRIVATE}))
	above := w.until(t, "a device above", func(f *plan.Facts) bool { return f.Link("vrrp.51") != nil }).Link("vrrp.51")
	assert.Equal(t, "macvlan", above.Kind)
	assert.Equal(t, known.Index, above.Parent)
	assert.False(t, above.Up)

	require.NoError(t, netlink.LinkAddAltName(eth0, "uplink"))
	alt := w.until(t, "an alternative name", func(f *plan.Facts) bool { return f.Link("uplink") != nil })
	assert.Equal(t, known.Index, alt.Link("uplink").Index)
	require.NoError(t, netlink.LinkSetName(eth0, "lan0"))
	renamed := w.until(t, "another name", func(f *plan.Facts) bool { return f.Link("lan0") != nil })
	assert.Equal(t, known.Index, renamed.Link("lan0").Index)
	assert.Nil(t, renamed.Link("eth0"))

	require.NoError(t, netlink.LinkSetHardwareAddr(eth0, net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	w.next(t, "another MAC", func(n News) bool { return n == News{Ifindex: known.Index, MAC: [6]byte{2, 0, 0, 0, 0, 9}} })
	require.NoError(t, netlink.LinkSetDown(eth0))
	w.next(t, "down", func(n News) bool { return n.Ifindex == known.Index && n.Down && !n.Addr.IsValid() && !n.Gone })
	require.NoError(t, netlink.LinkSetUp(eth0))
	w.next(t, "up", func(n News) bool { return n.Ifindex == known.Index && !n.Down && !n.Addr.IsValid() })
	assert.Zero(t, w.lost.Load())
}

func TestWatcherReadsAddresses(t *testing.T) {
	namespace(t)
	eth0 := watchedLink(t, "eth0")
	index := eth0.Attrs().Index
	ours := Address{Ifindex: index, Prefix: netip.MustParsePrefix("10.0.0.9/32"), Scope: unix.RT_SCOPE_LINK}
	far := Address{Ifindex: index, Prefix: netip.MustParsePrefix("10.9.0.1/32"), Peer: netip.MustParseAddr("10.9.0.2")}
	w := watch(t, receiveBuffer).run(t)
	require.NoError(t, netlink.AddrAdd(eth0, parse(t, "10.0.0.1/24")))
	require.NoError(t, netlink.AddrAdd(eth0, parse(t, "10.0.0.2/24")))
	tentative := parse(t, "2001:db8::1/64")
	require.NoError(t, netlink.AddrAdd(eth0, tentative))
	rt, err := openRtnetlink()
	require.NoError(t, err)
	defer rt.close()
	require.NoError(t, rt.do([][]byte{
		ours.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE), far.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE),
	}, func(_ int, err error) { require.NoError(t, err) }))

	f := w.until(t, "all addresses", func(f *plan.Facts) bool { return f.ByIndex(index).Addr(far.Prefix.Addr()) != nil })
	of := func(s string) plan.Addr {
		a := f.ByIndex(index).Addr(netip.MustParseAddr(s))
		require.NotNil(t, a, s)
		return *a
	}
	assert.Equal(t, plan.Addr{Prefix: netip.MustParsePrefix("10.0.0.1/24")}, of("10.0.0.1"))
	assert.Equal(t, plan.Addr{Prefix: netip.MustParsePrefix("10.0.0.2/24"), Secondary: true}, of("10.0.0.2"))
	assert.Equal(t, netip.MustParseAddr("10.9.0.2"), of("10.9.0.1").Peer)
	assert.Equal(t, plan.Addr{Prefix: ours.Prefix, Scope: unix.RT_SCOPE_LINK, Ours: true}, of("10.0.0.9"), "the mark needs Linux 5.18")
	assert.Equal(t, netip.MustParsePrefix("2001:db8::1/64"), of("2001:db8::1").Prefix)
	w.equalsAList(t)

	require.NoError(t, netlink.AddrDel(eth0, parse(t, "10.0.0.1/24")))
	w.next(t, "the address that went", func(n News) bool { return n.Addr == netip.MustParseAddr("10.0.0.1") && n.Down })
}

// listing is what a Watcher would find that begins now.
func listing(t *testing.T) *plan.Facts {
	l, err := openLister()
	require.NoError(t, err)
	defer l.close()
	f, err := l.facts()
	require.NoError(t, err)
	return f
}

// equalsAList waits until the snapshot is what a Watcher would find that begins
// now. The kernel has changes of its own to make: carrier, duplicate addresses.
func (w *watched) equalsAList(t *testing.T) {
	t.Helper()
	for late := time.Now().Add(patience); ; {
		list := listing(t)
		if slices.EqualFunc(list.Links, w.Facts().Links, sameLink) {
			return
		}
		if time.Now().After(late) {
			require.Equal(t, list, w.Facts())
		}
		select {
		case <-w.Changed():
		case <-time.After(settleTime):
		}
	}
}

// A manager that gives an address another prefix adds it a second time and
// then removes the first; it never went away.
func TestAnotherPrefixIsNotAnotherAddress(t *testing.T) {
	namespace(t)
	eth0 := watchedLink(t, "eth0")
	require.NoError(t, netlink.AddrAdd(eth0, parse(t, "10.0.0.1/24")))
	w := watch(t, receiveBuffer).run(t)
	require.NoError(t, netlink.AddrAdd(eth0, parse(t, "10.0.0.1/16")))
	w.until(t, "both", func(f *plan.Facts) bool { return countIPv4(f, eth0) == 2 })
	require.NoError(t, netlink.AddrDel(eth0, parse(t, "10.0.0.1/24")))
	f := w.until(t, "the new one alone", func(f *plan.Facts) bool { return countIPv4(f, eth0) == 1 })
	assert.Equal(t, 16, f.Link("eth0").Addr(netip.MustParseAddr("10.0.0.1")).Prefix.Bits())
	for _, n := range w.all(t) {
		assert.False(t, n.Addr.Is4(), "%+v", n)
	}
}

func countIPv4(f *plan.Facts, l netlink.Link) (n int) {
	for _, a := range f.ByIndex(l.Attrs().Index).Addrs {
		if a.Prefix.Addr().Is4() {
			n++
		}
	}
	return n
}

func TestInterfaceMadeAnew(t *testing.T) {
	namespace(t)
	before := watchedLink(t, "eth0").Attrs().Index
	w := watch(t, receiveBuffer).run(t)
	require.NoError(t, netlink.LinkDel(watchedLink(t, "eth0")))
	after := cable(t, "eth0").Attrs().Index
	require.NotEqual(t, before, after)
	w.next(t, "the end of the old one", func(n News) bool { return n.Ifindex == before && n.Gone && n.Down })
	w.next(t, "the new one", func(n News) bool { return n.Ifindex == after && !n.Down })
	f := w.until(t, "the new one", func(f *plan.Facts) bool { return f.ByIndex(after) != nil })
	assert.Equal(t, after, f.Link("eth0").Index)
	assert.Nil(t, f.ByIndex(before))
}

// An interface that comes back from another namespace has its index, but not
// its memberships: the two messages must not become one snapshot.
func TestInterfaceMovedAwayAndBack(t *testing.T) {
	namespace(t)
	eth0 := watchedLink(t, "eth0")
	index := eth0.Attrs().Index
	home, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(t, err)
	defer home.Close()
	w := watch(t, receiveBuffer) // does not run: everything waits to be one batch

	type result struct {
		*os.File
		error
	}
	away, back := make(chan result), make(chan error)
	moved := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		ns, err2 := os.Open("/proc/thread-self/ns/net")
		if err == nil {
			err = err2
		}
		away <- result{ns, err}
		if <-moved; err == nil {
			err = netlink.LinkSetNsFd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}, int(home.Fd()))
		}
		back <- err
	}()
	ns := <-away
	require.NoError(t, ns.error)
	defer ns.Close()
	require.NoError(t, netlink.LinkSetNsFd(eth0, int(ns.Fd())))
	close(moved)
	require.NoError(t, <-back)
	require.Equal(t, index, watchedLink(t, "eth0").Attrs().Index, "the kernel keeps an index that is free")
	require.NoError(t, netlink.LinkSetUp(eth0))

	w.run(t)
	w.next(t, "the interface that went", func(n News) bool { return n.Ifindex == index && n.Gone })
	w.next(t, "the interface that is back", func(n News) bool { return n.Ifindex == index && !n.Down && !n.Addr.IsValid() })
}

// More happens than the buffer holds, among it that an interface, an address
// and a carrier go. A list does not name what is not there.
func TestOverrun(t *testing.T) {
	namespace(t)
	gone, down, source := cable(t, "gone"), cable(t, "down"), watchedLink(t, "eth0")
	require.NoError(t, netlink.AddrAdd(source, parse(t, "10.0.0.1/24")))
	w := watch(t, 1) // the kernel's least
	flood := func() {
		for i := range 200 {
			a := parse(t, fmt.Sprintf("10.77.%d.1/32", i))
			require.NoError(t, netlink.AddrAdd(source, a))
			require.NoError(t, netlink.AddrDel(source, a))
		}
	}
	flood()
	require.NoError(t, netlink.LinkDel(gone))
	require.NoError(t, netlink.LinkSetDown(down))
	require.NoError(t, netlink.AddrDel(source, parse(t, "10.0.0.1/24")))
	flood()
	want := map[News]bool{
		{Ifindex: gone.Attrs().Index, Down: true, Gone: true, MAC: [6]byte(gone.Attrs().HardwareAddr)}: true,
		{Ifindex: down.Attrs().Index, Down: true, MAC: [6]byte(down.Attrs().HardwareAddr)}:             true,
		{Ifindex: source.Attrs().Index, Addr: netip.MustParseAddr("10.0.0.1"), Down: true,
			MAC: [6]byte(source.Attrs().HardwareAddr)}: true,
	}
	w.run(t)
	for len(want) > 0 {
		n := w.next(t, "what went", func(n News) bool { return want[n] })
		delete(want, n)
	}
	assert.Positive(t, w.lost.Load())
	w.equalsAList(t)
	// And from then on it follows as before.
	require.NoError(t, netlink.AddrAdd(source, parse(t, "10.0.0.1/24")))
	w.next(t, "the address that is back", func(n News) bool { return n.Addr == netip.MustParseAddr("10.0.0.1") && !n.Down })
}

// Requests of other programs reach a subscription if they are sent to its
// groups. They are neither news nor trouble, and nobody is made to list
// anything anew.
func TestOthersAreNotHeard(t *testing.T) {
	namespace(t)
	eth0 := watchedLink(t, "eth0")
	one, two := watch(t, receiveBuffer).run(t), watch(t, receiveBuffer).run(t)

	updates, done := make(chan netlink.LinkUpdate, 1024), make(chan struct{})
	defer close(done)
	require.NoError(t, netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true}))
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer unix.Close(fd)
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK, Pid: 1 << 30}
	for _, forged := range [][]byte{linkMessage(unix.AF_UNSPEC, eth0.Attrs().Index, ""), {1}} {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, 0)
		req.AddRawData(forged)
		err := unix.Sendto(fd, req.Serialize(), 0, to)
		require.True(t, err == nil || err == unix.ECONNREFUSED, "%v", err) // nobody has that port; the groups got it
	}
	for _, w := range []*watched{one, two} {
		for _, n := range w.all(t) {
			assert.NotEqual(t, eth0.Attrs().Index, n.Ifindex, "%+v", n)
		}
		assert.Zero(t, w.lost.Load())
		assert.NotNil(t, w.Facts().Link("eth0"))
	}
}

// Several changes are one signal; none is forgotten.
func TestChangesAreGathered(t *testing.T) {
	namespace(t)
	eth0 := watchedLink(t, "eth0")
	w := watch(t, receiveBuffer)
	for i := range 100 {
		require.NoError(t, netlink.AddrAdd(eth0, parse(t, fmt.Sprintf("10.0.0.%d/24", i+1))))
	}
	w.run(t)
	<-w.Changed()
	assert.Equal(t, 100, countIPv4(w.Facts(), eth0))
}

// Whatever happens, and in whatever order: who watched knows what somebody
// who begins now finds, to the order of addresses.
func TestWatcherEqualsAList(t *testing.T) {
	for _, promote := range []string{"0", "1"} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("promote %s seed %d", promote, seed), func(t *testing.T) {
				namespace(t)
				for _, of := range []string{"all", "default", "eth0"} {
					require.NoError(t, os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/promote_secondaries", []byte(promote), 0))
				}
				randomly(t, seed)
			})
		}
	}
}

func randomly(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	w := watch(t, receiveBuffer).run(t)
	for range 20 {
		for range 10 {
			disturb(r)
		}
		w.equalsAList(t)
	}
	assert.Zero(t, w.lost.Load())
}

// disturb does something to an interface. Much of it is refused, which is as
// good.
func disturb(r *rand.Rand) {
	name := fmt.Sprintf("eth%d", r.IntN(3))
	l := netlink.Link(pair(name))
	if known, err := netlink.LinkByName(name); err == nil {
		l = known
	}
	a := &netlink.Addr{Scope: []int{0, 0, 0, 253}[r.IntN(4)]}
	if r.IntN(4) == 0 {
		a.IPNet = &net.IPNet{IP: net.ParseIP(fmt.Sprintf("2001:db8::%x", 1+r.IntN(9))), Mask: net.CIDRMask(64, 128)}
		a.Scope = 0
	} else {
		bits := []int{16, 24, 32}[r.IntN(3)]
		a.IPNet = &net.IPNet{IP: net.IPv4(10, 0, byte(r.IntN(3)), byte(1+r.IntN(5))), Mask: net.CIDRMask(bits, 32)}
	}
	switch r.IntN(12) {
	case 0:
		_ = netlink.LinkAdd(l)
	case 1:
		_ = netlink.LinkSetUp(l)
	case 2:
		_ = netlink.LinkSetDown(l)
	case 3:
		if r.IntN(3) == 0 {
			_ = netlink.LinkDel(l)
		}
	case 4:
		_ = netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, byte(r.IntN(256))})
	case 5, 6, 7:
		_ = netlink.AddrDel(l, a)
	default:
		_ = netlink.AddrAdd(l, a)
	}
}
