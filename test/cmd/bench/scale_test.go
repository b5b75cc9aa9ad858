// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestVirtual(t *testing.T) {
	for _, c := range []struct {
		addr string
		want bool
	}{
		{scaleVIP(0, 0).String(), true},
		{scaleVIP(999, 0).String(), true},
		{scaleVIP(0, 249).String(), true},
		{scaleAddr(7, 1).String(), false},
		{scaleAddr(7, 2).String(), false},
		{"127.0.0.3", false},
		{"fe80::a", false},
	} {
		t.Run(c.addr, func(t *testing.T) { assert.Equal(t, c.want, virtual(netip.MustParseAddr(c.addr))) })
	}
	assert.False(t, virtual(netip.Addr{}), "a message without an address")
}
