// SPDX-License-Identifier: Apache-2.0

package packet_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

func probe() packet.BFD {
	return packet.BFD{
		State: 3, Flags: packet.BFDDemand, Multiplier: 3, My: 0x01020340, Your: 0xc0a80104,
		MinTx: time.Millisecond, MinRx: 300 * time.Microsecond,
	}
}

func TestBFDRoundTrip(t *testing.T) {
	in, out := probe(), packet.BFD{}
	b := packet.AppendBFD(nil, &in)
	// RFC 5880 section 4.1.
	assert.Equal(t, []byte{
		0x20, 0xc2, 3, 24, 1, 2, 3, 0x40, 0xc0, 0xa8, 1, 4,
		0, 0, 0x03, 0xe8, 0, 0, 1, 0x2c, 0, 0, 0, 0,
	}, b)
	require.NoError(t, packettest.DecodeBFD(b, &out))
	assert.Equal(t, in, out)
}

func TestBadBFD(t *testing.T) {
	m := probe()
	good := packet.AppendBFD(nil, &m)
	for _, tc := range []struct {
		name   string
		change func(b []byte) []byte
		want   error
	}{
		{"short", func(b []byte) []byte { return b[:23] }, packettest.ErrBFDLength},
		{"long", func(b []byte) []byte { return append(b, 0) }, packettest.ErrBFDLength},
		{"length field", func(b []byte) []byte { b[3] = 26; return b }, packettest.ErrBFDLength},
		{"version", func(b []byte) []byte { b[0] = 0; return b }, packettest.ErrBFDVersion},
		{"multipoint", func(b []byte) []byte { b[1] |= packettest.BFDMultipoint; return b }, packettest.ErrBFDFlags},
		{"authentication", func(b []byte) []byte { b[1] |= packettest.BFDAuth; return b }, packettest.ErrBFDFlags},
		{"multiplier", func(b []byte) []byte { b[2] = 0; return b }, packettest.ErrBFDMultiplier},
		{"my discriminator", func(b []byte) []byte { copy(b[4:8], make([]byte, 4)); return b }, packettest.ErrBFDDiscriminator},
		{"your discriminator", func(b []byte) []byte { copy(b[8:12], make([]byte, 4)); return b }, packettest.ErrBFDDiscriminator},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out packet.BFD
			assert.ErrorIs(t, packettest.DecodeBFD(tc.change(append([]byte(nil), good...)), &out), tc.want)
		})
	}
}

func TestBFDFrame(t *testing.T) {
	m := probe()
	b := packet.AppendBFDFrame(nil, &packet.BFDFrame{
		SrcMAC: [6]byte{2, 0, 0, 0, 0, 8}, DstMAC: [6]byte{2, 0, 0, 0, 0, 4},
		Src: netip.MustParseAddr("192.168.1.8"), Dst: netip.MustParseAddr("192.168.1.4"),
		SrcPort: 50000, DstPort: packet.SBFDPort, TTL: packet.BFDTTL,
	}, &m)
	assert.Len(t, b, 14+20+8+24)
	assert.Equal(t, byte(0xc0), b[15], "CS6")
	assert.Equal(t, byte(255), b[22])
	assert.Equal(t, uint16(0xffff), ones(b[14:34], 0), "IP header checksum")
	assert.Equal(t, uint16(0xffff), ones(b[34:], uint32(ones(b[26:34], 17+32))), "UDP checksum")
}

// ones is the ones' complement sum.
func ones(b []byte, s uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
