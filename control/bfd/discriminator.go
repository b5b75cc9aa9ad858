// SPDX-License-Identifier: Apache-2.0

package bfd

import (
	"encoding/binary"
	"net/netip"
)

// Discriminator returns that of the reflector at an address, or 0 without one.
// It follows from the address, so that peers need not be told: an IPv4 address
// is its own, of an IPv6 address it is a hash (FNV-1a).
func Discriminator(a netip.Addr) uint32 {
	a = a.Unmap()
	switch {
	case a.Is4():
		b := a.As4()
		return binary.BigEndian.Uint32(b[:])
	case !a.IsValid():
		return 0
	}
	h := uint32(2166136261)
	for _, b := range a.As16() {
		h = (h ^ uint32(b)) * 16777619
	}
	return max(h, 1) // 0 is no discriminator
}
