// SPDX-License-Identifier: Apache-2.0

package bfd_test

import (
	"hash/fnv"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control/bfd"
)

// Two hosts compute it apart: it is part of the protocol.
func TestDiscriminator(t *testing.T) {
	for text, want := range map[string]uint32{
		"192.0.2.9": 192<<24 | 2<<8 | 9, "::ffff:192.0.2.9": 192<<24 | 2<<8 | 9, "255.255.255.255": 1<<32 - 1,
		"fe80::1": 0xe08432e8, "fe80::2": 0xe38437a1,
		"fe80::1c2:ac00:4bc": 1,
	} {
		assert.Equal(t, want, bfd.Discriminator(netip.MustParseAddr(text)), text)
	}
	assert.Zero(t, bfd.Discriminator(netip.Addr{}))
	a := netip.MustParseAddr("2001:db8::77")
	h := fnv.New32a()
	h.Write(a.AsSlice())
	assert.Equal(t, h.Sum32(), bfd.Discriminator(a))
	assert.Zero(t, testing.AllocsPerRun(100, func() { bfd.Discriminator(a) }), "the loop asks")
}
