// SPDX-License-Identifier: Apache-2.0

// Package packet encodes and decodes VRRP adverts: version 2 (RFC 3768, with
// the authentication data of RFC 2338 that keepalived still speaks) and
// version 3 (RFC 9568) over IPv4. Neither direction allocates.
package packet

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Numbers of the protocol.
const (
	Protocol = 112 // IP protocol
	TTL      = 255 // of every multicast advert, RFC 9568 section 5.1.1.3
	TOS      = 0xc0

	HeaderLen = 8
	AuthLen   = 8 // authentication data that ends every version 2 advert

	AuthNone = 0
	AuthPass = 1

	// MaxInterval is the largest advert interval of version 3: twelve bits of
	// centiseconds.
	MaxInterval = 4095 * 10 * time.Millisecond

	typeAdvertisement = 1
	intervalMask      = 0x0fff
)

// ChecksumForm says over which bytes a version 3 checksum was taken.
type ChecksumForm uint8

const (
	// ChecksumMessage covers the message only: version 2, and version 3 as
	// RFC 9568 section 5.2.8 has it for IPv4.
	ChecksumMessage ChecksumForm = iota
	// ChecksumPseudoHeader covers the IPv4 pseudo-header too, as keepalived
	// and FRR send version 3.
	ChecksumPseudoHeader
)

func (f ChecksumForm) String() string {
	if f == ChecksumPseudoHeader {
		return "pseudo_header"
	}
	return "message"
}

// Advert is a decoded advertisement.
type Advert struct {
	Version  uint8
	VRID     uint8
	Priority uint8
	// Interval is the sender's advert interval: whole seconds in version 2,
	// centiseconds in version 3.
	Interval time.Duration
	AuthType uint8         // version 2
	Auth     [AuthLen]byte // version 2
	Form     ChecksumForm
	// Addrs are the virtual addresses as they stand in the message, four bytes
	// each. Decode points it into the message that it was given.
	Addrs []byte
}

// Count returns the number of virtual addresses.
func (a *Advert) Count() int { return len(a.Addrs) / 4 }

// Decode reads a message into a. The addresses are those of the IP header; a
// version 3 checksum may cover them. The checks, in this order, are those of
// RFC 9568 section 7.1 that need no configuration: version, type, count,
// length, checksum and, in version 3, an interval other than 0 (erratum 8301).
// Reserved bits are ignored. An error is a Reject; a is undefined after it.
func Decode(b []byte, src, dst netip.Addr, a *Advert) error {
	if len(b) < HeaderLen {
		return RejectTruncated
	}
	a.Version = b[0] >> 4
	if a.Version != 2 && a.Version != 3 {
		return RejectVersion
	}
	if b[0]&0x0f != typeAdvertisement {
		return RejectType
	}
	count := int(b[3])
	if count == 0 {
		return RejectCount
	}
	end := HeaderLen + 4*count
	need := end
	if a.Version == 2 {
		need += AuthLen
	}
	if len(b) < need {
		return RejectLength
	}
	a.VRID, a.Priority = b[1], b[2]
	a.Addrs = b[HeaderLen:end]
	if a.Version == 2 {
		return decodeV2(b, end, a)
	}
	return decodeV3(b, src, dst, a)
}

func decodeV2(b []byte, end int, a *Advert) error {
	a.AuthType = b[4]
	a.Interval = time.Duration(b[5]) * time.Second
	a.Auth = [AuthLen]byte(b[end : end+AuthLen])
	a.Form = ChecksumMessage
	if fold(sum(b, 0)) != 0xffff {
		return RejectChecksum
	}
	return nil
}

func decodeV3(b []byte, src, dst netip.Addr, a *Advert) error {
	a.AuthType, a.Auth = AuthNone, [AuthLen]byte{}
	centiseconds := binary.BigEndian.Uint16(b[4:]) & intervalMask
	a.Interval = time.Duration(centiseconds) * 10 * time.Millisecond
	message := sum(b, 0)
	switch {
	case fold(message) == 0xffff:
		a.Form = ChecksumMessage
	case fold(message+pseudoHeader(src, dst, len(b))) == 0xffff:
		a.Form = ChecksumPseudoHeader
	default:
		return RejectChecksum
	}
	if centiseconds == 0 {
		return RejectInterval
	}
	return nil
}

// Append encodes a behind dst and returns the extended slice. Source and
// destination are used by the pseudo-header form. The interval is cut to the
// resolution and the range of the version.
func Append(dst []byte, a *Advert, src, group netip.Addr) []byte {
	start := len(dst)
	dst = append(dst, a.Version<<4|typeAdvertisement, a.VRID, a.Priority, uint8(a.Count()), 0, 0, 0, 0)
	dst = append(dst, a.Addrs...)
	if a.Version == 2 {
		dst = append(dst, a.Auth[:]...)
	}
	b := dst[start:]
	var initial uint32
	if a.Version == 2 {
		b[4] = a.AuthType
		b[5] = uint8(min(a.Interval/time.Second, 255))
	} else {
		centiseconds := min(a.Interval, MaxInterval) / (10 * time.Millisecond)
		binary.BigEndian.PutUint16(b[4:], uint16(centiseconds))
		if a.Form == ChecksumPseudoHeader {
			initial = pseudoHeader(src, group, len(b))
		}
	}
	binary.BigEndian.PutUint16(b[6:], ^fold(sum(b, initial)))
	return dst
}

// sum adds 16-bit words; a message is far too short for it to overflow.
func sum(b []byte, s uint32) uint32 {
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func pseudoHeader(src, dst netip.Addr, length int) uint32 {
	if !src.Is4() || !dst.Is4() {
		return 0
	}
	s, d := src.As4(), dst.As4()
	return sum(s[:], sum(d[:], uint32(Protocol)+uint32(length)))
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
