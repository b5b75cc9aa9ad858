// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
)

// Frame is what surrounds a VRRP message: the counterpart of the parser in
// bpf/, used where frames come from a packet socket and to check that parser.
type Frame struct {
	VLAN   [2]uint16 // outer and inner VLAN id, 0 for none
	MAC    [6]byte   // source
	DstMAC [6]byte
	Src    netip.Addr
	Dst    netip.Addr
	TTL    uint8
	header []byte // of IPv4, as far as the frame holds it
	// PayloadLen is the length that the IP header claims.
	PayloadLen int
	// Payload is what the frame holds of it.
	Payload []byte
}

const (
	ethernetLen  = 14
	etherIPv4    = 0x0800
	etherIPv6    = 0x86dd
	etherVLAN    = 0x8100
	etherQinQ    = 0x88a8
	ipv4Len      = 20
	ipv6Len      = 40
	fragmentMask = 0x3fff // more fragments, or an offset
)

// ParseFrame finds the VRRP message in an Ethernet frame with up to two VLAN
// tags. It returns RejectNotVRRP for other traffic, RejectIPHeader or
// RejectFragment. A VLAN tag that the kernel has taken off already is passed as
// stripped, 0 if there was none.
func ParseFrame(b []byte, stripped uint16, f *Frame) error {
	*f = Frame{VLAN: [2]uint16{stripped, 0}}
	if len(b) < ethernetLen {
		return RejectNotVRRP
	}
	f.DstMAC, f.MAC = [6]byte(b), [6]byte(b[6:12])
	ethertype := binary.BigEndian.Uint16(b[12:])
	b = b[ethernetLen:]
	for range 2 {
		if ethertype != etherVLAN && ethertype != etherQinQ {
			break
		}
		if len(b) < 4 {
			return RejectNotVRRP
		}
		id := binary.BigEndian.Uint16(b) & 0x0fff
		if f.VLAN[0] != 0 {
			f.VLAN[1] = id
		} else {
			f.VLAN[0] = id
		}
		ethertype = binary.BigEndian.Uint16(b[2:])
		b = b[4:]
	}
	switch ethertype {
	case etherIPv4:
		return parseIPv4(b, f)
	case etherIPv6:
		return parseIPv6(b, f)
	}
	return RejectNotVRRP
}

func parseIPv4(b []byte, f *Frame) error {
	if len(b) < ipv4Len || b[9] != Protocol {
		return RejectNotVRRP
	}
	header, total := int(b[0]&0x0f)*4, int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 != 4 || header < ipv4Len || total < header {
		return RejectIPHeader
	}
	if binary.BigEndian.Uint16(b[6:])&fragmentMask != 0 {
		return RejectFragment
	}
	f.header = b[:min(header, len(b))]
	f.TTL = b[8]
	f.Src = netip.AddrFrom4([4]byte(b[12:16]))
	f.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	f.setPayload(b, header, total-header)
	return nil
}

func parseIPv6(b []byte, f *Frame) error {
	if len(b) < ipv6Len || b[6] != Protocol {
		return RejectNotVRRP
	}
	if b[0]>>4 != 6 {
		return RejectIPHeader
	}
	f.TTL = b[7]
	f.Src = netip.AddrFrom16([16]byte(b[8:24]))
	f.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	f.setPayload(b, ipv6Len, int(binary.BigEndian.Uint16(b[4:])))
	return nil
}

func (f *Frame) setPayload(b []byte, at, length int) {
	f.PayloadLen = length
	b = b[min(at, len(b)):]
	f.Payload = b[:min(length, len(b))]
}

// VRID returns the virtual router that the message names, if it reaches that
// far.
func (f *Frame) VRID() (uint8, error) {
	if len(f.Payload) < 2 {
		return 0, RejectTruncated
	}
	return f.Payload[1], nil
}

// Expect is what a virtual router requires of the frame of an advert.
type Expect struct {
	Version  uint8
	CheckTTL bool
	MaxLen   int        // longest message, in bytes
	MAC      [6]byte    // of the interface
	Dst      netip.Addr // where adverts go
	// Broadcast is the directed broadcast address of the network; the zero
	// Addr: there is none.
	Broadcast netip.Addr
}

// Check is the part of an advert's validation that the kernel's program does
// too, in its order. It begins with what the network stack checks before a
// socket receives a packet. Decode repeats what does not depend on the frame.
// An error is a Reject.
func (f *Frame) Check(x *Expect) error {
	switch {
	case f.DstMAC[0]&1 == 0 && f.DstMAC != x.MAC:
		return RejectDstMAC
	case f.header != nil && fold(sum(f.header, 0)) != 0xffff:
		return RejectIPChecksum
	case f.Dst != x.Dst:
		return RejectDestination
	case f.PayloadLen > x.MaxLen:
		return RejectLength
	case len(f.Payload) < f.PayloadLen || len(f.Payload) < HeaderLen:
		return RejectTruncated
	case badSource(f.Src, x.Broadcast):
		return RejectSource
	case x.CheckTTL && f.TTL != TTL:
		return RejectTTL
	}
	return f.checkMessage(x.Version)
}

// badSource reports whether no host may send from an address.
func badSource(a, broadcast netip.Addr) bool {
	if a.Is4() {
		b := a.As4()
		return b[0] == 0 || a.IsLoopback() || a.IsMulticast() || b == [4]byte{255, 255, 255, 255} || a == broadcast
	}
	return a.IsUnspecified() || a.IsLoopback() || a.IsMulticast()
}

func (f *Frame) checkMessage(version uint8) error {
	m := f.Payload
	if m[0]>>4 != version {
		return RejectVersion
	}
	if m[0]&0x0f != typeAdvertisement {
		return RejectType
	}
	if m[3] == 0 {
		return RejectCount
	}
	size := 4
	if f.Src.Is6() {
		size = 16
	}
	need := HeaderLen + size*int(m[3])
	if version == 2 {
		need += AuthLen
	}
	if len(m) < need {
		return RejectLength
	}
	return nil
}
