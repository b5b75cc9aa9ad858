// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/loader"
)

// listen opens a Listener at one end of a cable, and a socket to send from the
// other.
func listen(t *testing.T) (l *Listener, wire int, near, far *netlink.LinkAttrs) {
	t.Helper()
	ownNamespace(t)
	a, b := cable(t)
	near, far = a.Attrs(), b.Attrs()
	wire = packetSocket(t, near.Index)
	l, err := Listen(map[int]net.HardwareAddr{far.Index: far.HardwareAddr}, []netip.Addr{packettest.Group})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l, wire, near, far
}

func TestListener(t *testing.T) {
	l, wire, near, at := listen(t)

	send := func(priority uint8, vrid uint8) {
		s := packettest.Valid(3)
		s.Advert.Priority, s.Advert.VRID = priority, vrid
		require.NoError(t, unix.Send(wire, s.Build(), 0))
	}
	router := loader.Router{
		Ifindex: at.Index, VRID: packettest.VRID, Version: 3, CheckTTL: true, Group: packettest.Group,
	}
	// Before its router is known, as at the start of a daemon.
	send(150, packettest.VRID)
	send(151, packettest.VRID+1)
	send(152, packettest.VRID)
	assert.True(t, l.SetRouter(5, router))
	elsewhere := router
	elsewhere.Ifindex = near.Index
	assert.False(t, l.SetRouter(6, elsewhere))

	var got []uint8
	require.Eventually(t, func() bool {
		l.Drain(func(e *loader.Event) {
			assert.Equal(t, loader.RouterID(5), e.Router)
			assert.Equal(t, at.Index, e.Ifindex)
			assert.Equal(t, packettest.Src, e.Src)
			assert.GreaterOrEqual(t, e.RxNs, l.Since())
			got = append(got, e.Payload[2])
		})
		return len(got) > 0 && got[len(got)-1] == 152
	}, 10*time.Second, time.Millisecond)
	assert.Equal(t, []uint8{150, 152}, got)
	assert.NotZero(t, l.Since())

	l.Interrupted(near.Index)
	assert.NotZero(t, l.Since(), "that is none of its interfaces")
	l.Interrupted(at.Index)
	assert.Zero(t, l.Since())
}

// What found no room in its queue is not forgotten.
func TestListenerThatLostAdverts(t *testing.T) {
	l, wire, _, _ := listen(t)
	require.NoError(t, unix.SetsockoptInt(l.socket.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 0)) // the smallest
	for range 100 {
		require.NoError(t, unix.Send(wire, packettest.Valid(3).Build(), 0))
	}
	require.Eventually(t, func() bool { return l.Since() == 0 }, 10*time.Second, time.Millisecond)
	assert.Zero(t, l.Since(), "it stays lost")
}
