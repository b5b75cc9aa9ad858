// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"unsafe"
)

// Event is one advert as it left the program, or one ARP packet in which
// another host speaks for an address of a router that is MASTER. Its Payload is
// valid until the callback that received it returns.
type Event struct {
	RxNs    int64 // CLOCK_MONOTONIC, stamped before anything else saw the frame
	Router  RouterID
	Ifindex int
	// Src and Dst are the addresses of the advert. For ReasonVIPConflict Src
	// is the address that was spoken for.
	Src, Dst netip.Addr
	// MAC is the source of the frame, or the sender of the ARP packet.
	MAC [6]byte
	// Reason is ReasonEvent, ReasonVIPConflict, or the check that the advert
	// failed in the kernel. User space judges adverts again in either case.
	Reason Reason
	// Payload is the VRRP message: cut where the frame ended, and at
	// PayloadMax. It is empty for ReasonVIPConflict.
	Payload []byte
}

// FD is readable, in the sense of epoll, while adverts wait that have to be
// judged. Invalid ones wait for the next Drain and wake nobody.
func (c *Collection) FD() int { return c.events.fd }

// Drain calls fn with every event that waits, valid adverts first, and returns
// their number.
func (c *Collection) Drain(fn func(*Event)) int {
	return c.drain(c.events, fn) + c.drain(c.noise, fn)
}

func (c *Collection) drain(r *ring, fn func(*Event)) int {
	n := 0
	r.drain(func(b []byte) {
		if c.event.decode(b) {
			n++
			fn(&c.event)
		}
	})
	c.event.Payload = nil
	return n
}

const eventHeader = int(unsafe.Offsetof(rxXvrrpEvent{}.Payload))

// decode reports whether the record is whole.
func (e *Event) decode(b []byte) bool {
	if len(b) < eventHeader {
		return false
	}
	raw := (*rxXvrrpEvent)(unsafe.Pointer(&b[0]))
	e.RxNs = int64(raw.RxNs)
	e.Router = RouterID(raw.Router)
	e.Ifindex = int(raw.Ifindex)
	e.MAC = raw.Mac
	e.Reason = Reason(raw.Reason)
	e.Src, e.Dst = addrOf(raw.Src), addrOf(raw.Dst)
	e.Payload = b[eventHeader:]
	if n := int(raw.Copied); len(e.Payload) > n {
		e.Payload = e.Payload[:n]
	}
	return true
}

// addrOf reads an address of a map.
func addrOf(b [16]byte) netip.Addr { return netip.AddrFrom16(b).Unmap() }
