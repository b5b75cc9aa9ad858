// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
)

func TestCheck(t *testing.T) {
	own, peer := netip.MustParseAddr("192.168.1.8"), netip.MustParseAddr("192.168.1.4")
	virtual := netip.MustParseAddr("192.168.1.100")
	list := []byte{192, 168, 1, 101, 192, 168, 1, 100}
	for name, tc := range map[string]struct {
		version uint8
		src     netip.Addr
		change  func(*packet.Advert)
		want    error
	}{
		"valid, version 2":    {2, peer, func(*packet.Advert) {}, nil},
		"valid, version 3":    {3, peer, func(*packet.Advert) {}, nil},
		"another order":       {3, peer, func(a *packet.Advert) { a.Addrs = append(list[4:8:8], list[:4]...) }, nil},
		"our own":             {3, own, func(*packet.Advert) {}, packet.RejectOwn},
		"from a virtual one":  {3, virtual, func(*packet.Advert) {}, packet.RejectSource},
		"from the owner":      {3, virtual, func(a *packet.Advert) { a.Priority = 255 }, nil},
		"another version":     {3, peer, func(a *packet.Advert) { a.Version = 2 }, packet.RejectVersion},
		"authentication type": {2, peer, func(a *packet.Advert) { a.AuthType = packet.AuthNone }, packet.RejectAuthType},
		"password":            {2, peer, func(a *packet.Advert) { a.Auth[0] = 'x' }, packet.RejectAuth},
		"interval, version 2": {2, peer, func(a *packet.Advert) { a.Interval *= 2 }, packet.RejectInterval},
		"interval, version 3": {3, peer, func(a *packet.Advert) { a.Interval *= 2 }, nil},
		"an address less":     {3, peer, func(a *packet.Advert) { a.Addrs = list[:4] }, nil},
		"other addresses":     {3, peer, func(a *packet.Advert) { a.Addrs = []byte{10, 0, 0, 1} }, packet.RejectCollision},
	} {
		t.Run(name, func(t *testing.T) {
			auth := [packet.AuthLen]byte{'s', 'e', 'c', 'r', 'e', 't'}
			r := control.New(control.Config{
				VRID: 1, Version: tc.version, Priority: 100, Interval: time.Second, Source: own,
				Addrs: list, AuthType: packet.AuthPass, Auth: auth,
			})
			a := packet.Advert{
				Version: tc.version, VRID: 1, Priority: 200, Interval: time.Second,
				Addrs: list, AuthType: packet.AuthPass, Auth: auth,
			}
			tc.change(&a)
			_, err := r.Check(tc.src, [6]byte{2}, &a)
			assert.ErrorIs(t, err, tc.want)
		})
	}
}
