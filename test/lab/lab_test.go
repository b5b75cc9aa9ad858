// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

// What a test does not stop ends with it, also if it fails before.
func TestClientsEndWithTheTest(t *testing.T) {
	Require(t, "ip", "nsenter", "sysctl")
	stops := map[string]chan struct{}{}
	t.Run("a test", func(t *testing.T) {
		n := New(t).Node("c", "ens33 192.168.1.20/24")
		p := n.Probe("192.168.1.100", time.Millisecond)
		a := n.Ask("ens33", "192.168.1.20", "192.168.1.100", time.Millisecond)
		f := n.Flood("ens33", Flood{
			Version: 3, VRID: 1, Addr: netip.MustParseAddr("192.168.1.100"), Interval: time.Second,
			Change: func(int, *packettest.Spec) {},
		})
		stops["prober"], stops["asker"], stops["flooder"] = p.stop, a.stop, f.stop
		p.Stop() // and once more in the end
	})
	for name, stop := range stops {
		select {
		case <-stop:
		default:
			assert.Fail(t, "it goes on", name)
		}
	}
}
