// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Address is a virtual address on an interface of this host. Two of them are
// the same object if they are equal.
type Address struct {
	Ifindex   int
	Prefix    netip.Prefix
	Scope     uint8
	Broadcast netip.Addr // invalid: none
	Label     string
	Peer      netip.Addr // invalid: none
	Own       bool       // the host's own: announced, and neither added nor removed
}

// Key identifies an address of this host.
type Key struct {
	Ifindex int
	Addr    netip.Addr
}

// Key returns what identifies the address, whatever its prefix and label.
func (a Address) Key() Key { return Key{a.Ifindex, a.Prefix.Addr()} }

func (a Address) String() string { return a.Prefix.String() }

// addrProto marks addresses as ours where the kernel can (5.18): what a crash
// leaves is known by it, whatever the configuration says by then. It is the
// number of the protocol, and not keepalived's 18: a keepalived beside this
// daemon has addresses of its own.
const addrProto = 112

const ifaProto = 11 // IFA_PROTO

// message builds RTM_NEWADDR or RTM_DELADDR with room for the sequence number
// that is filled in when it is sent.
func (a Address) message(kind, flags int) []byte {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	m := nl.NewIfAddrmsg(unix.AF_INET)
	m.Index = uint32(a.Ifindex)
	m.Prefixlen = uint8(a.Prefix.Bits())
	m.Scope = a.Scope
	req.AddData(m)
	local := a.Prefix.Addr().AsSlice()
	remote := local
	if a.Peer.IsValid() {
		remote = a.Peer.AsSlice()
	}
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, local))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, remote))
	if kind == unix.RTM_NEWADDR {
		if a.Broadcast.IsValid() {
			req.AddData(nl.NewRtAttr(unix.IFA_BROADCAST, a.Broadcast.AsSlice()))
		}
		req.AddData(nl.NewRtAttr(ifaProto, []byte{addrProto}))
		// A deletion does without: the address may have been there already, and
		// under another label.
		if a.Label != "" {
			req.AddData(nl.NewRtAttr(unix.IFA_LABEL, nl.ZeroTerminated(a.Label)))
		}
	}
	return req.Serialize()
}

// rtnetlink sends batches of prepared messages. The library does one message
// and one answer at a time; a takeover wants all of them in one system call.
type rtnetlink struct {
	fd  int
	seq uint32
	out []byte
	in  []byte
}

// answerTimeout is how long the kernel may take to answer. It carries requests
// out while they are sent, so that its answers are there already.
const answerTimeout = time.Second

func openRtnetlink() (*rtnetlink, error) {
	r := &rtnetlink{fd: -1, in: make([]byte, 1<<16)}
	return r, r.open()
}

func (r *rtnetlink) open() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open route netlink socket: %w", err)
	}
	// Acknowledgements without the copied request: a batch's answers fit.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	// Dumps of one interface, since Linux 4.20. Before, they are of all.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("set up route netlink socket: %w", err)
	}
	r.fd = fd
	return nil
}

func (r *rtnetlink) close() error {
	if r.fd < 0 {
		return nil
	}
	return unix.Close(r.fd)
}

// ready opens the socket if an error has closed it.
func (r *rtnetlink) ready() error {
	if r.fd >= 0 {
		return nil
	}
	return r.open()
}

// broken closes the socket after an error, and with it the answers that may
// still come: they must not be taken for those to later messages.
func (r *rtnetlink) broken(err error) error {
	_ = unix.Close(r.fd)
	r.fd = -1
	return err
}

// maxBatch is how many messages are sent before their answers are read: it
// keeps the answers within the receive buffer.
const maxBatch = 256

// do sends the messages and calls answer with the index of each that the
// kernel answered, and why it refused it.
func (r *rtnetlink) do(messages [][]byte, answer func(int, error)) error {
	for start := 0; start < len(messages); start += maxBatch {
		part := messages[start:min(start+maxBatch, len(messages))]
		if err := r.ready(); err != nil {
			return err
		}
		r.out = r.out[:0]
		first := r.seq + 1
		for _, m := range part {
			r.seq++
			binary.NativeEndian.PutUint32(m[8:], r.seq)
			r.out = append(r.out, m...)
		}
		if err := r.send(); err != nil {
			return err
		}
		got := 0
		err := r.read(func(kind, _ uint16, seq uint32, body []byte) bool {
			if kind == unix.NLMSG_ERROR && seq-first < uint32(len(part)) {
				got++
				answer(start+int(seq-first), errorOf(body))
			}
			return got < len(part)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addresses lists the IPv4 addresses of an interface. The error is ENODEV if
// there is no such interface.
func (r *rtnetlink) addresses(ifindex int) (found []Found, err error) {
	err = r.dump(ifindex, func(body []byte) error {
		f, err := parseAddress(body)
		if f.Ifindex == ifindex {
			found = append(found, f)
		}
		return err
	})
	return found, err
}

// dump calls address with the message of each IPv4 address of an interface, and
// before Linux 4.20 of every other one. A message is overwritten by the next.
func (r *rtnetlink) dump(ifindex int, address func(body []byte) error) error {
	if err := r.ready(); err != nil {
		return err
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	m := nl.NewIfAddrmsg(unix.AF_INET)
	m.Index = uint32(ifindex)
	req.AddData(m)
	r.seq++
	req.Seq = r.seq
	r.out = append(r.out[:0], req.Serialize()...)
	if err := r.send(); err != nil {
		return err
	}
	var refused error
	err := r.read(func(kind, flags uint16, seq uint32, body []byte) bool {
		if seq == r.seq && flags&unix.NLM_F_DUMP_INTR != 0 {
			refused = unix.EINTR // the list changed while it was read
		}
		switch {
		case seq != r.seq:
		case kind == unix.RTM_NEWADDR:
			refused = errors.Join(refused, address(body))
		case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE:
			refused = errors.Join(refused, errorOf(body))
			return false
		}
		return true
	})
	if err == nil && refused != nil {
		err = fmt.Errorf("list addresses of interface %d: %w", ifindex, refused)
	}
	return err
}

func (r *rtnetlink) send() error {
	if err := unix.Sendto(r.fd, r.out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return r.broken(fmt.Errorf("send to route netlink: %w", err))
	}
	return nil
}

// read calls message with each message of the kernel until it returns false.
func (r *rtnetlink) read(message func(kind, flags uint16, seq uint32, body []byte) bool) error {
	for {
		size, _, err := unix.Recvfrom(r.fd, r.in, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return r.broken(fmt.Errorf("read from route netlink: %w", err))
		}
		for b := r.in[:size]; len(b) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.NLMSG_HDRLEN || length > len(b) {
				break
			}
			kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
			if !message(kind, flags, binary.NativeEndian.Uint32(b[8:]), b[unix.NLMSG_HDRLEN:length]) {
				return nil
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// errorOf returns the error of an NLMSG_ERROR or NLMSG_DONE message.
func errorOf(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}

// Found is an address that this host has, as the kernel lists it.
type Found struct {
	Address
	// Ours is true if this daemon or an earlier one added it; the kernel can
	// tell since Linux 5.18.
	Ours bool

	marked bool // by whoever added it
}

func parseAddress(m []byte) (f Found, err error) {
	header := nl.DeserializeIfAddrmsg(m)
	attrs, err := nl.ParseRouteAttr(m[header.Len():])
	if err != nil {
		return f, fmt.Errorf("read an address: %w", err)
	}
	f.Ifindex, f.Scope = int(header.Index), header.Scope
	var local, remote netip.Addr
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_ADDRESS:
			remote, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_LABEL:
			f.Label = nl.BytesToString(attr.Value)
		case ifaProto:
			f.marked = true
			f.Ours = len(attr.Value) == 1 && attr.Value[0] == addrProto
		}
	}
	if local != remote {
		f.Peer = remote
	}
	f.Prefix = netip.PrefixFrom(local, int(header.Prefixlen))
	return f, nil
}

// Remove deletes addresses and returns those that this host had. One that is
// gone, along with another or with its interface, is no error. Others that go
// along are put back.
func Remove(list []Address) (removed []Address, err error) {
	return remove(list, func(Found) bool { return true })
}

// RemoveOurs is Remove, but leaves an address alone that something else than
// this daemon has added. Where the kernel does not tell, it is removed.
func RemoveOurs(list []Address) (removed []Address, err error) {
	tells := marksAddresses()
	return remove(list, func(f Found) bool { return f.Ours || !f.marked && !tells })
}

// marksAddresses reports whether the kernel remembers who added an address. Some
// older ones do, too.
func marksAddresses() bool {
	var name unix.Utsname
	var major, minor int
	_ = unix.Uname(&name)
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 5 || major == 5 && minor >= 18)
}

// there is an address of this host, and what adds it again.
type there struct {
	Found
	message []byte
}

// identity is what makes an address another one for the kernel.
type identity struct {
	ifindex         int
	prefix, network netip.Prefix
}

func (a Address) identity() identity {
	of := a.Prefix
	if a.Peer.IsValid() {
		of = netip.PrefixFrom(a.Peer, of.Bits())
	}
	return identity{a.Ifindex, a.Prefix, of.Masked()}
}

func remove(list []Address, removable func(Found) bool) (removed []Address, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	rt, err := openRtnetlink()
	if err != nil {
		return nil, err
	}
	defer rt.close()
	before, err := rt.there(list)
	if err != nil {
		return nil, err
	}
	found := map[identity]Found{}
	for _, f := range before {
		found[f.identity()] = f.Found
	}
	var msgs [][]byte
	var sent []Address
	for _, a := range list {
		if f, ok := found[a.identity()]; ok && removable(f) {
			delete(found, a.identity())
			msgs = append(msgs, a.message(unix.RTM_DELADDR, 0))
			sent = append(sent, a)
		}
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	var errs []error
	err = rt.do(msgs, func(i int, err error) {
		switch {
		case err == nil, errors.Is(err, unix.EADDRNOTAVAIL): // it went along with another
			removed = append(removed, sent[i])
		case !errors.Is(err, unix.ENODEV):
			errs = append(errs, fmt.Errorf("remove address %s: %w", sent[i].Prefix, err))
		}
	})
	keep := slices.DeleteFunc(before, func(f there) bool {
		_, ok := found[f.identity()]
		return !ok
	})
	return removed, errors.Join(append(errs, err, rt.putBack(sent, keep))...)
}

// there lists the addresses of the interfaces that addresses are on.
func (r *rtnetlink) there(list []Address) (found []there, err error) {
	asked := map[int]bool{}
	for _, a := range list {
		if asked[a.Ifindex] {
			continue
		}
		asked[a.Ifindex] = true
		err := r.dump(a.Ifindex, func(body []byte) error {
			f, err := parseAddress(body)
			if f.Ifindex == a.Ifindex {
				req := nl.NewNetlinkRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
				found = append(found, there{f, append(req.Serialize(), body...)})
			}
			return err
		})
		if err != nil && !errors.Is(err, unix.ENODEV) {
			return nil, err
		}
	}
	return found, nil
}

// putBack adds the addresses that were there before, and went along with those
// that were removed: the first of a subnet takes the others with it, unless
// promote_secondaries is set.
func (r *rtnetlink) putBack(removed []Address, before []there) error {
	if len(before) == 0 {
		return nil
	}
	now, err := r.there(removed)
	if err != nil {
		return err
	}
	stayed := map[identity]bool{}
	for _, f := range now {
		stayed[f.identity()] = true
	}
	var msgs [][]byte
	var gone []there
	for _, f := range before {
		if !stayed[f.identity()] {
			binary.NativeEndian.PutUint32(f.message, uint32(len(f.message)))
			msgs = append(msgs, f.message)
			gone = append(gone, f)
		}
	}
	var errs []error
	err = r.do(msgs, func(i int, err error) {
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("put back address %s: %w", gone[i].Prefix, err))
		}
	})
	return errors.Join(append(errs, err)...)
}
