// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Numbers of BFD, RFC 5880, as S-BFD (RFC 7880, 7881) and unaffiliated echo
// (RFC 9747) use them on one link.
const (
	SBFDPort    = 7784
	BFDEchoPort = 3785
	BFDTTL      = 255 // GTSM: it has not crossed a router
	BFDEchoTTL  = 254 // of an echo that the peer forwarded
	BFDLen      = 24  // without authentication

	bfdVersion = 1
	protoUDP   = 17
	udpLen     = 8
)

// Flags of a BFD control packet.
const (
	BFDPoll       = 0x20
	BFDFinal      = 0x10
	BFDAuth       = 0x04
	BFDDemand     = 0x02
	BFDMultipoint = 0x01
)

// Errors of DecodeBFD, beside ErrTruncated, ErrLength and ErrVersion.
var (
	ErrBFDFlags         = errors.New("multipoint or authentication bit is set")
	ErrBFDMultiplier    = errors.New("detect multiplier is 0")
	ErrBFDDiscriminator = errors.New("discriminator is 0")
)

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

// DecodeBFD reads a control packet without authentication, which is the whole
// payload of a UDP packet. The order of its checks is that of bpf/sbfd.h.
func DecodeBFD(b []byte, m *BFD) error {
	if len(b) < BFDLen {
		return ErrTruncated
	}
	*m = BFD{
		Diag: b[0] & 0x1f, State: b[1] >> 6, Flags: b[1] & 0x3f, Multiplier: b[2],
		My: binary.BigEndian.Uint32(b[4:]), Your: binary.BigEndian.Uint32(b[8:]),
		MinTx: micros(b[12:]), MinRx: micros(b[16:]), MinEchoRx: micros(b[20:]),
	}
	switch {
	case len(b) != BFDLen:
		return ErrLength
	case b[0]>>5 != bfdVersion:
		return ErrVersion
	case m.Flags&(BFDAuth|BFDMultipoint) != 0:
		return ErrBFDFlags
	case b[3] != BFDLen:
		return ErrLength
	case m.Multiplier == 0:
		return ErrBFDMultiplier
	case m.My == 0 || m.Your == 0:
		return ErrBFDDiscriminator
	}
	return nil
}

func micros(b []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(b)) * time.Microsecond
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
