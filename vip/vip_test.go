// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("this test needs root, and CI must have it")
	}
	t.Skip("this test needs root")
}

func TestGARP(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	got := appendGARP(nil, mac, netip.MustParseAddr("192.168.1.100"))
	assert.Len(t, got, arpLen)
	assert.Equal(t, "ffffffffffff"+"020000000001"+"0806"+ // Ethernet
		"0001"+"0800"+"0604"+"0001"+ // request
		"020000000001"+"c0a80164"+"ffffffffffff"+"c0a80164", hex.EncodeToString(got))
}

func address(ip string) Address {
	return Address{Ifindex: 1, Prefix: netip.MustParsePrefix(ip)}
}

// A crash, and then another mask and label in the file: what the kernel has is
// removed, not what the file says.
func TestLeftoverWithAnotherPrefix(t *testing.T) {
	requireRoot(t)
	rt, err := openRtnetlink()
	require.NoError(t, err)
	defer rt.close()
	old := address("127.9.0.9/32")
	old.Label = "lo:old"
	add := old.message(unix.RTM_NEWADDR, unix.NLM_F_CREATE)
	require.NoError(t, rt.do([][]byte{add}, func(_ int, err error) { require.NoError(t, err) }))
	found, err := addressesOf([]Address{address("127.9.0.9/24")})
	require.NoError(t, err)
	require.Len(t, found, 1)
	assert.Equal(t, "lo:old", found[0].Label)
	removed, err := Remove([]Address{found[0].Address})
	require.NoError(t, err)
	assert.Len(t, removed, 1)
	found, err = addressesOf([]Address{old})
	require.NoError(t, err)
	assert.Empty(t, found)
}

// An ARP probe claims nothing: nobody learns an address from it.
func TestProbeFrame(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 4}
	b := appendProbe(nil, mac, netip.MustParseAddr("10.0.0.1"))
	assert.Equal(t, []byte{
		255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 4, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1,
	}, b)
}

// addressesOf returns what this host has of the given addresses, whatever their
// prefix and label: a crash and an edited file may have left them.
func addressesOf(addresses []Address) ([]Found, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_INET))
	list, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []Found
	for _, m := range list {
		f, err := parseAddress(m)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if f.Ifindex == a.Ifindex && f.Prefix.Addr() == a.Prefix.Addr() {
				out = append(out, f)
			}
		}
	}
	return out, nil
}
