// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
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
	if err := r.ready(); err != nil {
		return nil, err
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	m := nl.NewIfAddrmsg(unix.AF_INET)
	m.Index = uint32(ifindex)
	req.AddData(m)
	r.seq++
	req.Seq = r.seq
	r.out = append(r.out[:0], req.Serialize()...)
	if err := r.send(); err != nil {
		return nil, err
	}
	var refused error
	err = r.read(func(kind, flags uint16, seq uint32, body []byte) bool {
		if seq == r.seq && flags&unix.NLM_F_DUMP_INTR != 0 {
			refused = unix.EINTR // the list changed while it was read
		}
		switch {
		case seq != r.seq:
		case kind == unix.RTM_NEWADDR:
			f, err := parseAddress(body)
			refused = errors.Join(refused, err)
			if f.Ifindex == ifindex {
				found = append(found, f)
			}
		case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE:
			refused = errors.Join(refused, errorOf(body))
			return false
		}
		return true
	})
	if err == nil && refused != nil {
		err = fmt.Errorf("list addresses of interface %d: %w", ifindex, refused)
	}
	return found, err
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
// gone, along with another or with its interface, is no error.
func Remove(list []Address) (removed []Address, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	rt, err := openRtnetlink()
	if err != nil {
		return nil, err
	}
	defer rt.close()
	var msgs [][]byte
	for _, a := range list {
		msgs = append(msgs, a.message(unix.RTM_DELADDR, 0))
	}
	var refused error
	err = rt.do(msgs, func(i int, err error) {
		switch {
		case err == nil:
			removed = append(removed, list[i])
		case !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.ENODEV):
			refused = errors.Join(refused, fmt.Errorf("remove address %s: %w", list[i].Prefix, err))
		}
	})
	return removed, errors.Join(err, refused)
}
