// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"encoding/binary"
	"net"
	"net/netip"
)

const (
	etherARP    = 0x0806
	arpLen      = 42
	arpEthernet = 1
	arpRequest  = 1
)

// appendGARP appends a gratuitous ARP in the form that keepalived sends:
// a broadcast request for the address, from the address, whose target hardware
// address is all ones.
func appendGARP(b []byte, mac net.HardwareAddr, addr netip.Addr) []byte {
	ip := addr.As4()
	broadcast := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	b = append(b, broadcast...)
	b = append(b, mac...)
	b = binary.BigEndian.AppendUint16(b, etherARP)
	b = binary.BigEndian.AppendUint16(b, arpEthernet)
	b = binary.BigEndian.AppendUint16(b, 0x0800)
	b = append(b, 6, 4)
	b = binary.BigEndian.AppendUint16(b, arpRequest)
	b = append(b, mac...)
	b = append(b, ip[:]...)
	b = append(b, broadcast...)
	return append(b, ip[:]...)
}

// appendProbe appends an ARP probe, RFC 5227 section 1.1: it asks who has the
// address without claiming it, so that no host learns anything from it.
func appendProbe(b []byte, mac net.HardwareAddr, addr netip.Addr) []byte {
	const sender, target = 28, 32
	at := len(b)
	b = appendGARP(b, mac, addr)
	clear(b[at+sender : at+sender+4])
	clear(b[at+target : at+target+6])
	return b
}
