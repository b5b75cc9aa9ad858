// SPDX-License-Identifier: Apache-2.0

package packettest

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/xvrrp/xvrrp/control/packet"
)

// BFDEchoTTL is the TTL of an echo that the peer forwarded.
const BFDEchoTTL = 254

// Flags of a BFD control packet, RFC 5880 section 4.1, beside
// packet.BFDDemand.
const (
	BFDPoll       = 0x20
	BFDFinal      = 0x10
	BFDAuth       = 0x04
	BFDMultipoint = 0x01
)

// Errors of DecodeBFD.
var (
	ErrBFDLength        = errors.New("lengths contradict")
	ErrBFDVersion       = errors.New("not version 1")
	ErrBFDFlags         = errors.New("multipoint or authentication bit is set")
	ErrBFDMultiplier    = errors.New("detect multiplier is 0")
	ErrBFDDiscriminator = errors.New("discriminator is 0")
)

// DecodeBFD reads a control packet without authentication, which is the whole
// payload of a UDP packet. The order of its checks is that of bpf/sbfd.h.
func DecodeBFD(b []byte, m *packet.BFD) error {
	if len(b) != packet.BFDLen {
		return ErrBFDLength
	}
	*m = packet.BFD{
		Diag: b[0] & 0x1f, State: b[1] >> 6, Flags: b[1] & 0x3f, Multiplier: b[2],
		My: binary.BigEndian.Uint32(b[4:]), Your: binary.BigEndian.Uint32(b[8:]),
		MinTx: micros(b[12:]), MinRx: micros(b[16:]), MinEchoRx: micros(b[20:]),
	}
	switch {
	case b[0]>>5 != 1:
		return ErrBFDVersion
	case m.Flags&(BFDAuth|BFDMultipoint) != 0:
		return ErrBFDFlags
	case b[3] != packet.BFDLen:
		return ErrBFDLength
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
