// SPDX-License-Identifier: Apache-2.0

// Package packettest builds frames for tests: one that is right, and
// mutations of it. It serves the Go codec and the program in bpf/ alike.
package packettest

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/xvrrp/xvrrp/control/packet"
)

// Addresses of the advert that Build makes.
var (
	Src   = netip.MustParseAddr("192.168.1.4")
	Group = netip.MustParseAddr("224.0.0.18")
	VIP   = netip.MustParseAddr("192.168.1.100")

	Group6 = netip.MustParseAddr("ff02::12")
)

// MAC is the source of the frame.
var MAC = [6]byte{0x02, 0, 0, 0, 0, 4}

// VRID of the advert that Build makes.
const VRID = 88

// Spec describes a frame; its zero value, given to Build, is made into a valid
// version 3 advert by Valid.
type Spec struct {
	Advert   packet.Advert
	Src, Dst netip.Addr
	TTL      uint8
	VLANs    []uint16
	Options  int  // 32-bit words of IPv4 options
	IPv6     bool // carry the message over IPv6 instead
	// Mutate changes the finished frame; ip and payload are the offsets of
	// the IP header and of the VRRP message. The checksum of the IPv4 header
	// is made right again, unless it was changed too.
	Mutate func(frame []byte, ip, payload int) []byte
}

// Valid returns the Spec of a valid advert.
func Valid(version uint8) Spec {
	vip := VIP.As4()
	a := packet.Advert{
		Version: version, VRID: VRID, Priority: 100, Interval: time.Second,
		Addrs: vip[:], Form: packet.ChecksumPseudoHeader,
	}
	if version == 2 {
		a.AuthType = packet.AuthPass
		copy(a.Auth[:], "123456")
	}
	return Spec{Advert: a, Src: Src, Dst: Group, TTL: packet.TTL}
}

// Build encodes the frame.
func (s Spec) Build() []byte {
	frame := append(s.dstMAC(), MAC[:]...)
	for i, id := range s.VLANs {
		tag := uint16(0x8100)
		if i == 0 && len(s.VLANs) == 2 {
			tag = 0x88a8
		}
		frame = binary.BigEndian.AppendUint16(frame, tag)
		frame = binary.BigEndian.AppendUint16(frame, id)
	}
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	var ip, payload int
	if s.IPv6 {
		frame = binary.BigEndian.AppendUint16(frame, 0x86dd)
		ip = len(frame)
		header := make([]byte, 40)
		header[0] = 6 << 4
		binary.BigEndian.PutUint16(header[4:], uint16(len(message)))
		header[6], header[7] = packet.Protocol, s.TTL
		src, dst := netip.MustParseAddr("fe80::4").As16(), Group6.As16()
		copy(header[8:], src[:])
		copy(header[24:], dst[:])
		frame = append(frame, header...)
	} else {
		frame = binary.BigEndian.AppendUint16(frame, 0x0800)
		ip = len(frame)
		header := make([]byte, 20+4*s.Options)
		header[0] = 4<<4 | byte(len(header)/4)
		header[1] = packet.TOS
		binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(message)))
		header[8], header[9] = s.TTL, packet.Protocol
		src, dst := s.Src.As4(), s.Dst.As4()
		copy(header[12:], src[:])
		copy(header[16:], dst[:])
		for i := 20; i < len(header); i++ {
			header[i] = 1 // no operation
		}
		binary.BigEndian.PutUint16(header[10:], headerChecksum(header))
		frame = append(frame, header...)
	}
	payload = len(frame)
	frame = append(frame, message...)
	if s.Mutate == nil {
		return frame
	}
	check := binary.BigEndian.Uint16(frame[ip+10:])
	frame = s.Mutate(frame, ip, payload)
	if !s.IPv6 && len(frame) >= payload && binary.BigEndian.Uint16(frame[ip+10:]) == check {
		RepairChecksum(frame[ip:])
	}
	return frame
}

// dstMAC is that of the group, RFC 1112 section 6.4.
func (s Spec) dstMAC() []byte {
	if s.IPv6 {
		return []byte{0x33, 0x33, 0, 0, 0, 0x12}
	}
	group := s.Dst.As4()
	return []byte{0x01, 0x00, 0x5e, group[1] & 0x7f, group[2], group[3]}
}

// RepairChecksum makes the checksum of an IPv4 header right, if it is whole.
func RepairChecksum(ip []byte) {
	if len(ip) < 20 {
		return
	}
	header := 4 * int(ip[0]&0x0f)
	if header < 20 || header > len(ip) {
		return
	}
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], headerChecksum(ip[:header]))
}

func headerChecksum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
