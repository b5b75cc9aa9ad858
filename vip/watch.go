// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/plan"
)

// News is one thing that happened to an interface or to one of its addresses.
type News struct {
	Ifindex int
	// Addr is the address that came or went; invalid if the news is about the
	// interface itself.
	Addr netip.Addr
	// Down reports that the interface went down or is gone, or that the
	// address is no longer usable: removed, or tentative.
	Down bool
	// Gone reports that the interface itself is gone, and with it what was
	// attached to it, programs and memberships: even if another snapshot has
	// an interface of this index again.
	Gone bool
	// MAC is the one that the interface has, or had when it went; zero without
	// Ethernet framing.
	MAC [6]byte
}

// Watcher follows the interfaces and addresses of a network namespace. It is
// the only subscriber of the daemon: what it knows is one snapshot, and news
// are the difference of two. When the kernel could not deliver everything, it
// lists everything again, and the difference to what it knew holds what
// vanished in between, which no list names.
type Watcher struct {
	news func(News)
	lost func(error)

	// The subscription only receives. A request on it would reach the
	// subscriptions of others if it were addressed to groups, and its answers
	// would wait behind messages older than themselves.
	sub  *os.File
	conn syscall.RawConn
	in   []byte
	list *lister

	listed time.Time // when everything was listed last

	facts   atomic.Pointer[plan.Facts]
	changed chan struct{}
}

const (
	// receiveBuffer holds some thousand messages: all addresses of a large
	// takeover while this process does not run.
	receiveBuffer = 8 << 20
	// settleTime is how long changes are gathered before they are signalled.
	settleTime = 20 * time.Millisecond
	// relistPause keeps a stream of messages that never fits from turning
	// into a stream of lists.
	relistPause = 50 * time.Millisecond
	// maxDatagrams is how many become one snapshot at most, so that a stream of
	// them does not hold back news.
	maxDatagrams = 1024
)

// NewWatcher subscribes to the network namespace of the calling thread and
// lists what there is. Run calls news at once for each difference to that, and
// lost when messages were lost and everything is to be listed again; neither
// may block.
func NewWatcher(news func(News), lost func(error)) (*Watcher, error) {
	return newWatcher(news, lost, receiveBuffer)
}

func newWatcher(news func(News), lost func(error), buffer int) (*Watcher, error) {
	w := &Watcher{news: news, lost: lost, in: make([]byte, 1<<16), changed: make(chan struct{}, 1)}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	w.sub = os.NewFile(uintptr(fd), "rtnetlink")
	// Without CAP_NET_ADMIN the system's limit applies. What is lost is
	// noticed with either.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to interfaces and addresses: %w", err), w.sub.Close())
	}
	if w.conn, err = w.sub.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to interfaces and addresses: %w", err), w.sub.Close())
	}
	if w.list, err = openLister(); err != nil {
		return nil, errors.Join(err, w.sub.Close())
	}
	facts, err := w.list.facts()
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	w.facts.Store(facts)
	return w, nil
}

// Facts returns the newest snapshot. It may be called from any goroutine.
func (w *Watcher) Facts() *plan.Facts { return w.facts.Load() }

// Changed receives when Facts has changed, at most 20 ms later; several
// changes in that time are one.
func (w *Watcher) Changed() <-chan struct{} { return w.changed }

// Close frees the sockets. Run must have returned.
func (w *Watcher) Close() error { return errors.Join(w.sub.Close(), w.list.close()) }

// Run follows the messages of the kernel until the context ends.
func (w *Watcher) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.sub.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var signal time.Time // when the changes have to be signalled; zero: there are none
	for {
		if err := w.sub.SetReadDeadline(signal); err != nil {
			return fmt.Errorf("wait for route netlink: %w", err)
		}
		if ctx.Err() != nil { // the deadline above may have replaced that of AfterFunc
			return nil
		}
		before := w.Facts()
		d := draft{old: before}
		err := w.receive(&d)
		w.take(d.facts())
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.relist(ctx, err)
		}
		if w.Facts() != before && signal.IsZero() {
			signal = time.Now().Add(settleTime)
		}
		if !signal.IsZero() && !time.Now().Before(signal) {
			signal = time.Time{}
			select {
			case w.changed <- struct{}{}:
			default:
			}
		}
	}
}

// take makes next the newest snapshot and tells what is new in it.
func (w *Watcher) take(next *plan.Facts) {
	before := w.Facts()
	if slices.EqualFunc(before.Links, next.Links, sameLink) {
		return
	}
	w.facts.Store(next)
	compare(before, next, w.news)
}

// relist lists everything again. What happens meanwhile waits in the
// subscription.
func (w *Watcher) relist(ctx context.Context, cause error) {
	for cause != nil {
		w.lost(cause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(w.listed.Add(relistPause))):
		}
		w.discard()
		var facts *plan.Facts
		facts, cause = w.list.facts()
		w.listed = time.Now()
		if cause == nil {
			w.take(facts)
		}
	}
}

// discard empties the subscription of messages that are older than the list to
// come. The kernel adds none to a queue that overflowed until it is empty.
func (w *Watcher) discard() {
	_ = w.conn.Control(func(fd uintptr) {
		for {
			n, err := w.drain(int(fd), &draft{old: &plan.Facts{}})
			if n == 0 && !errors.Is(err, unix.ENOBUFS) {
				return
			}
		}
	})
}

// receive waits for messages and applies all that are there.
func (w *Watcher) receive(d *draft) error {
	var failed error
	err := w.conn.Read(func(fd uintptr) bool {
		var n int
		n, failed = w.drain(int(fd), d)
		return n > 0 || failed != nil
	})
	return errors.Join(failed, err)
}

// drain applies the messages that wait in the subscription and returns how many
// datagrams they came in. It stops where an interface went: one that is back by
// now, with the same index, was gone nevertheless.
func (w *Watcher) drain(fd int, d *draft) (n int, err error) {
	for n < maxDatagrams && !d.gone {
		size, from, err := unix.Recvfrom(fd, w.in, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return n, nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return n, fmt.Errorf("read from route netlink: %w", err)
		}
		n++
		// A request that another program sends to groups, not to the kernel
		// alone, arrives here as well. It is no news.
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue
		}
		err = messages(w.in[:size], func(h unix.NlMsghdr, body []byte) error { return d.message(h.Type, body) })
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// lister asks for everything that there is, on a socket of its own that
// belongs to no group.
type lister struct {
	fd  int
	seq uint32
	in  []byte
}

func openLister() (*lister, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route netlink socket: %w", err)
	}
	// The kernel answers at once. Should it ever not, the wait has a limit.
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind route netlink socket: %w", err), unix.Close(fd))
	}
	return &lister{fd: fd, in: make([]byte, 1<<16)}, nil
}

func (l *lister) close() error { return unix.Close(l.fd) }

// listTries is how often a list is asked for that changes while it is read.
const listTries = 20

// facts lists interfaces and addresses.
func (l *lister) facts() (*plan.Facts, error) {
	var err error
	for range listTries {
		d := draft{old: &plan.Facts{}}
		// Addresses second: one of an interface that the list did not have yet
		// is news that waits in the subscription.
		if err = l.dump(linkRequest(), d.message); err == nil {
			err = l.dump(addrRequest(), d.message)
		}
		if err == nil {
			return d.facts(), nil
		}
		if !errors.Is(err, errInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list interfaces and addresses: %w", err)
}

func linkRequest() *nl.NetlinkRequest {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	return req
}

func addrRequest() *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
	return req
}

// dump sends a request and hands over the messages that answer it.
func (l *lister) dump(req *nl.NetlinkRequest, each func(kind uint16, body []byte) error) error {
	l.seq++
	req.Seq = l.seq
	if err := unix.Sendto(l.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to route netlink: %w", err)
	}
	a := answer{seq: l.seq, each: each}
	for !a.done {
		n, _, err := unix.Recvfrom(l.fd, l.in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read from route netlink: %w", err)
		}
		a.read(l.in[:n])
	}
	return a.err
}

// answer is what the kernel answers to one request. It is read to its end in
// any case, or the rest would be in the way of the next.
type answer struct {
	seq  uint32
	each func(kind uint16, body []byte) error
	done bool
	err  error // the first
}

func (a *answer) read(datagram []byte) {
	a.fail(messages(datagram, func(h unix.NlMsghdr, body []byte) error {
		if h.Seq != a.seq {
			return nil // the rest of an answer that was given up
		}
		if h.Flags&unix.NLM_F_DUMP_INTR != 0 {
			a.fail(errInterrupted)
		}
		switch h.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			a.done = true
			if code := int32(u32(body)); code < 0 {
				a.fail(unix.Errno(-code))
			}
		default:
			a.fail(a.each(h.Type, body))
		}
		return nil
	}))
}

func (a *answer) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

var (
	errInterrupted = errors.New("it changed while it was listed")
	errMalformed   = errors.New("malformed route netlink message")
)

// draft is a snapshot in the making: what messages change in an older one,
// which stays as it is.
type draft struct {
	old   *plan.Facts
	links map[int]*plan.Link // what differs from old; nil: gone
	gone  bool               // an interface of old is gone
}

// message applies RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR or RTM_DELADDR. Others
// are passed over.
func (d *draft) message(kind uint16, body []byte) error {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(body) < unix.SizeofIfInfomsg {
			return fmt.Errorf("%w: interface of %d bytes", errMalformed, len(body))
		}
		// A bridge tells of its ports in the same group: a port that leaves it
		// is not gone.
		if body[0] != unix.AF_UNSPEC {
			return nil
		}
		index := int(int32(u32(body[4:])))
		if kind == unix.RTM_DELLINK {
			d.gone = d.gone || d.old.ByIndex(index) != nil
			d.set(index, nil)
			return nil
		}
		link, err := parseLink(body)
		if err != nil || link.Name == "" { // a wireless event has no name
			return err
		}
		if known := d.edit(index); known != nil {
			link.Addrs = known.Addrs
		}
		d.set(index, &link)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		index, addr, err := parseAddr(body)
		if err != nil {
			return err
		}
		if !addr.Prefix.IsValid() {
			return nil
		}
		// An interface that is not known went before it was listed.
		if link := d.edit(index); link != nil && kind == unix.RTM_NEWADDR {
			link.Addrs = addAddr(link.Addrs, addr)
		} else if link != nil {
			link.Addrs = removeAddr(link.Addrs, addr)
		}
	}
	return nil
}

func (d *draft) set(index int, l *plan.Link) {
	if d.links == nil {
		d.links = map[int]*plan.Link{}
	}
	d.links[index] = l
}

// edit returns an interface to be changed, nil if there is none.
func (d *draft) edit(index int) *plan.Link {
	if l, ok := d.links[index]; ok {
		return l
	}
	known := d.old.ByIndex(index)
	if known == nil {
		return nil
	}
	l := *known
	l.Addrs = slices.Clone(l.Addrs)
	d.set(index, &l)
	return &l
}

// facts returns the snapshot with all changes.
func (d *draft) facts() *plan.Facts {
	if len(d.links) == 0 {
		return d.old
	}
	var links []plan.Link
	for _, l := range d.old.Links {
		if _, ok := d.links[l.Index]; !ok {
			links = append(links, l)
		}
	}
	for _, l := range d.links {
		if l != nil {
			links = append(links, *l)
		}
	}
	return plan.NewFacts(links)
}

// sameAddr reports whether the kernel takes two for one. IPv6 addresses are
// unique on an interface; those of IPv4 may be there with several prefixes and
// peers.
func sameAddr(a, b plan.Addr) bool {
	if a.Prefix.Addr() != b.Prefix.Addr() {
		return false
	}
	return a.Prefix.Addr().Is6() || a.Prefix == b.Prefix && a.Peer == b.Peer
}

func removeAddr(list []plan.Addr, a plan.Addr) []plan.Addr {
	return slices.DeleteFunc(list, func(b plan.Addr) bool { return sameAddr(a, b) })
}

// addAddr adds an address or replaces what is known of it.
func addAddr(list []plan.Addr, a plan.Addr) []plan.Addr {
	for i, b := range list {
		if sameAddr(a, b) && a.Secondary == b.Secondary {
			list[i] = a
			return list
		}
	}
	list = removeAddr(list, a) // a secondary one was promoted
	return slices.Insert(list, place(list, a), a)
}

// place returns the position of a new address. IPv4 addresses stand before
// those of IPv6 and in the order of the kernel, so that the same one is primary
// whether a list or messages told of them: a primary one behind the primary
// ones of its scope or a narrower one, a secondary one last. IPv6 addresses are
// sorted.
func place(list []plan.Addr, a plan.Addr) int {
	v4 := len(list)
	if i := slices.IndexFunc(list, func(b plan.Addr) bool { return b.Prefix.Addr().Is6() }); i >= 0 {
		v4 = i
	}
	if addr := a.Prefix.Addr(); addr.Is6() {
		i, _ := slices.BinarySearchFunc(list[v4:], addr, func(b plan.Addr, addr netip.Addr) int { return b.Prefix.Addr().Compare(addr) })
		return v4 + i
	}
	if a.Secondary {
		return v4
	}
	at := 0
	for i, b := range list[:v4] {
		if !b.Secondary && b.Scope >= a.Scope {
			at = i + 1
		}
	}
	return at
}

// parseLink reads the body of RTM_NEWLINK. The name is empty if the message is
// not about the interface as a whole.
func parseLink(body []byte) (plan.Link, error) {
	l := plan.Link{Index: int(int32(u32(body[4:])))}
	hardware, flags := binary.NativeEndian.Uint16(body[2:]), u32(body[8:])
	l.Ethernet = hardware == unix.ARPHRD_ETHER
	l.Up = flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0
	l.Loopback = flags&unix.IFF_LOOPBACK != 0
	below, elsewhere := 0, false
	err := attributes(body[unix.SizeofIfInfomsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = text(v)
		case unix.IFLA_ADDRESS:
			if l.Ethernet && len(v) == len(l.MAC) {
				l.MAC = [6]byte(v)
			}
		case unix.IFLA_LINK:
			below = int(u32(v))
		case unix.IFLA_LINK_NETNSID:
			elsewhere = true
		case unix.IFLA_PROP_LIST:
			return attributes(v, func(kind uint16, v []byte) error {
				if kind == unix.IFLA_ALT_IFNAME {
					l.AltNames = append(l.AltNames, text(v))
				}
				return nil
			})
		case unix.IFLA_LINKINFO:
			return parseInfo(&l, v)
		}
		return nil
	})
	// The other end of a pair is not below it, and an index of another
	// namespace means nothing here.
	if pair := l.Kind == "veth" || l.Kind == "netkit" || l.Kind == "vxcan"; !pair && !elsewhere {
		l.Parent = below
	}
	return l, err
}

// parseInfo reads IFLA_LINKINFO.
func parseInfo(l *plan.Link, b []byte) error {
	var data []byte
	err := attributes(b, func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.Kind = text(v)
		case unix.IFLA_INFO_DATA:
			data = v
		}
		return nil
	})
	if err != nil || l.Kind != "vlan" {
		return err
	}
	return attributes(data, func(kind uint16, v []byte) error {
		if kind == nl.IFLA_VLAN_ID && len(v) >= 2 {
			l.VLAN = binary.NativeEndian.Uint16(v)
		}
		return nil
	})
}

// parseAddr reads the body of RTM_NEWADDR or RTM_DELADDR. The prefix is
// invalid if it is of neither IPv4 nor IPv6.
func parseAddr(body []byte) (ifindex int, a plan.Addr, err error) {
	if len(body) < unix.SizeofIfAddrmsg {
		return 0, a, fmt.Errorf("%w: address of %d bytes", errMalformed, len(body))
	}
	if body[0] != unix.AF_INET && body[0] != unix.AF_INET6 {
		return 0, a, nil
	}
	flags := body[2] // the lower eight of IFA_FLAGS
	a.Scope, ifindex = body[3], int(u32(body[4:]))
	var local, remote netip.Addr
	err = attributes(body[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			remote, _ = netip.AddrFromSlice(v)
		case ifaProto:
			a.Ours = len(v) == 1 && v[0] == addrProto
		}
		return nil
	})
	if err != nil {
		return 0, a, err
	}
	if !local.IsValid() { // IPv6 without a peer
		local = remote
	}
	if local != remote {
		a.Peer = remote
	}
	if a.Prefix = netip.PrefixFrom(local, int(body[1])); !a.Prefix.IsValid() {
		return 0, a, fmt.Errorf("%w: address %s/%d", errMalformed, local, body[1])
	}
	a.Secondary = local.Is4() && flags&unix.IFA_F_SECONDARY != 0 // of IPv6 it is IFA_F_TEMPORARY
	a.Tentative = flags&unix.IFA_F_TENTATIVE != 0
	return ifindex, a, nil
}

// messages hands over the messages of a datagram.
func messages(b []byte, each func(unix.NlMsghdr, []byte) error) error {
	for len(b) >= unix.NLMSG_HDRLEN {
		h := unix.NlMsghdr{
			Len: u32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: u32(b[8:]), Pid: u32(b[12:]),
		}
		if h.Len < unix.NLMSG_HDRLEN || uint64(h.Len) > uint64(len(b)) {
			return fmt.Errorf("%w: %d bytes of %d", errMalformed, len(b), h.Len)
		}
		if err := each(h, b[unix.NLMSG_HDRLEN:h.Len]); err != nil {
			return err
		}
		b = b[min(align(int(h.Len)), len(b)):]
	}
	return nil
}

// attributes hands over the attributes in b, without the flags of their kinds.
func attributes(b []byte, each func(kind uint16, value []byte) error) error {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		kind := binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
		if size < unix.SizeofRtAttr || size > len(b) {
			return fmt.Errorf("%w: attribute of %d bytes", errMalformed, size)
		}
		if err := each(kind, b[unix.SizeofRtAttr:size]); err != nil {
			return err
		}
		b = b[min(align(size), len(b)):]
	}
	return nil
}

// align rounds up to the four bytes at which messages and attributes begin.
func align(n int) int { return (n + 3) &^ 3 }

// u32 reads a number; one that is not all there is 0.
func u32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(b)
}

// text reads a string up to its zero byte.
func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// sameLink reports whether nothing of an interface differs.
func sameLink(a, b plan.Link) bool {
	return a.Index == b.Index && a.Name == b.Name && slices.Equal(a.AltNames, b.AltNames) && a.Kind == b.Kind &&
		a.Parent == b.Parent && a.VLAN == b.VLAN && a.MAC == b.MAC && a.Ethernet == b.Ethernet && a.Up == b.Up &&
		a.Loopback == b.Loopback && slices.Equal(a.Addrs, b.Addrs)
}

// compare tells what is new in after.
func compare(before, after *plan.Facts, news func(News)) {
	for i := range before.Links {
		was := &before.Links[i]
		is := after.ByIndex(was.Index)
		if is == nil {
			news(News{Ifindex: was.Index, Down: true, Gone: true, MAC: was.MAC})
			is = &plan.Link{Index: was.Index, MAC: was.MAC}
		} else if is.Up != was.Up || is.MAC != was.MAC {
			news(News{Ifindex: is.Index, Down: !is.Up, MAC: is.MAC})
		}
		compareAddrs(was, is, news)
	}
	for i := range after.Links {
		is := &after.Links[i]
		if before.ByIndex(is.Index) == nil {
			news(News{Ifindex: is.Index, Down: !is.Up, MAC: is.MAC})
			compareAddrs(&plan.Link{}, is, news)
		}
	}
}

// compareAddrs tells which addresses of an interface went and came. One that
// only has another prefix now did neither.
func compareAddrs(was, is *plan.Link, news func(News)) {
	if slices.Equal(was.Addrs, is.Addrs) {
		return
	}
	old, now := usable(was), usable(is)
	for addr := range old {
		if !now[addr] {
			news(News{Ifindex: is.Index, Addr: addr, Down: true, MAC: is.MAC})
		}
	}
	for addr := range now {
		if !old[addr] {
			news(News{Ifindex: is.Index, Addr: addr, MAC: is.MAC})
		}
	}
}

// usable returns the addresses that an interface can send from.
func usable(l *plan.Link) map[netip.Addr]bool {
	m := map[netip.Addr]bool{}
	for _, a := range l.Addrs {
		if !a.Tentative {
			m[a.Prefix.Addr()] = true
		}
	}
	return m
}
