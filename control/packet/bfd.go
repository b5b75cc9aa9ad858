// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Numbers of BFD, RFC 5880, as S-BFD (RFC 7880, 7881) and unaffiliated echo
// (RFC 9747) use them on one link.
const (
	SBFDPort    = 7784
	BFDEchoPort = 3785
	BFDTTL      = 255 // GTSM: it has not crossed a router
	BFDLen      = 24  // without authentication

	bfdVersion = 1
	protoUDP   = 17
	udpLen     = 8
)

// BFDDemand is the flag that marks a probe, RFC 7880 section 7.3.
const BFDDemand = 0x02

// BFD is a control packet, RFC 5880 section 4.1. Intervals are whole
// microseconds.
type BFD struct {
	Diag       uint8
	State      uint8 // 0 AdminDown, 1 Down, 2 Init, 3 Up
	Flags      uint8
	Multiplier uint8
	My, Your   uint32 // discriminators
	MinTx      time.Duration
	MinRx      time.Duration
	MinEchoRx  time.Duration
}

// AppendBFD encodes m.
func AppendBFD(b []byte, m *BFD) []byte {
	b = append(b, bfdVersion<<5|m.Diag&0x1f, m.State<<6|m.Flags&0x3f, m.Multiplier, BFDLen)
	b = binary.BigEndian.AppendUint32(b, m.My)
	b = binary.BigEndian.AppendUint32(b, m.Your)
	for _, d := range []time.Duration{m.MinTx, m.MinRx, m.MinEchoRx} {
		b = binary.BigEndian.AppendUint32(b, uint32(d/time.Microsecond))
	}
	return b
}

// BFDFrame is what carries a BFD packet: Ethernet, IPv4 without options, UDP.
type BFDFrame struct {
	SrcMAC, DstMAC   [6]byte
	Src, Dst         netip.Addr
	SrcPort, DstPort uint16
	TTL              uint8
}

// AppendBFDFrame encodes the whole frame, with its checksums.
func AppendBFDFrame(b []byte, f *BFDFrame, m *BFD) []byte {
	b = append(b, f.DstMAC[:]...)
	b = append(b, f.SrcMAC[:]...)
	b = binary.BigEndian.AppendUint16(b, etherIPv4)
	ip := len(b)
	b = append(b, 4<<4|ipv4Len/4, TOS)
	b = binary.BigEndian.AppendUint16(b, ipv4Len+udpLen+BFDLen)
	b = append(b, 0, 0, 0x40, 0, f.TTL, protoUDP, 0, 0) // do not fragment
	src, dst := f.Src.As4(), f.Dst.As4()
	b = append(append(b, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(b[ip+10:], ^fold(sum(b[ip:], 0)))
	udp := len(b)
	b = binary.BigEndian.AppendUint16(b, f.SrcPort)
	b = binary.BigEndian.AppendUint16(b, f.DstPort)
	b = binary.BigEndian.AppendUint16(b, udpLen+BFDLen)
	b = append(b, 0, 0)
	b = AppendBFD(b, m)
	pseudo := sum(dst[:], sum(src[:], protoUDP+udpLen+BFDLen))
	check := ^fold(sum(b[udp:], pseudo))
	if check == 0 {
		check = 0xffff // 0 would say that there is none
	}
	binary.BigEndian.PutUint16(b[udp+6:], check)
	return b
}
