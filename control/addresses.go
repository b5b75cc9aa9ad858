// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"net/netip"
	"slices"
)

// Lists is how the address list of an advert compares with ours. Both are
// sets: neither order nor repetition is part of the protocol.
type Lists uint8

const (
	ListsSame Lists = iota
	// ListsOverlap: at least one address is in both, and at least one is not.
	ListsOverlap
	// ListsDisjoint: no address is in both.
	ListsDisjoint
)

// maxAddrs is the largest Count of an advert, RFC 9568 section 5.2.5.
const maxAddrs = 255

// addrLen returns the number of bytes of an address in an advert.
func (c *Config) addrLen() int {
	if c.Source.Is4() {
		return 4
	}
	return 16
}

// addrSet is a sorted set of addresses; those of IPv4 fill four bytes.
type addrSet [][16]byte

func newAddrSet(list []byte, addrLen int) addrSet {
	var s addrSet
	for a := range slices.Chunk(list, addrLen) {
		var addr [16]byte
		copy(addr[:], a)
		s = append(s, addr)
	}
	slices.SortFunc(s, compareAddr)
	return slices.Compact(s)
}

func compareAddr(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) }

// contains allocates nothing.
func (s addrSet) contains(a netip.Addr) bool {
	var addr [16]byte
	if a.Is4() {
		b := a.As4()
		copy(addr[:], b[:])
	} else {
		addr = a.As16()
	}
	_, ok := slices.BinarySearchFunc(s, addr, compareAddr)
	return ok
}

// compare allocates nothing, and takes a binary search for each address: a
// flood of adverts with long lists must not hold the loop up.
func (s addrSet) compare(list []byte, addrLen int) Lists {
	var seen [maxAddrs]bool
	found, others := 0, 0
	for ; len(list) >= addrLen; list = list[addrLen:] {
		var addr [16]byte
		copy(addr[:], list[:addrLen])
		n, ok := slices.BinarySearchFunc(s, addr, compareAddr)
		switch {
		case !ok:
			others++
		case !seen[n]:
			seen[n] = true
			found++
		}
	}
	switch {
	case found == len(s) && others == 0:
		return ListsSame
	case found > 0:
		return ListsOverlap
	}
	return ListsDisjoint
}

// Difference names what distinguishes the address list of an advert from the
// configured one: the addresses that it lacks, and those that it has in
// addition. It allocates, and is meant for reports of ListsOverlap or
// packet.RejectCollision, not for the event loop.
func (c *Config) Difference(list []byte) (missing, extra []netip.Addr) {
	ours, theirs := c.addresses(c.Addrs), c.addresses(list)
	without := func(list, of []netip.Addr) []netip.Addr {
		return slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return slices.Contains(of, a) })
	}
	return without(ours, theirs), without(theirs, ours)
}

func (c *Config) addresses(list []byte) []netip.Addr {
	var out []netip.Addr
	for b := range slices.Chunk(list, c.addrLen()) {
		if a, ok := netip.AddrFromSlice(b); ok {
			out = append(out, a)
		}
	}
	return out
}
