// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// In a time namespace the daemon's clock is not that of the kernel's stamps.
// It neither takes over from a live master nor misses a dead one.
func TestTimeNamespace(t *testing.T) {
	lab.Require(t, "unshare")
	for _, offset := range []string{"-60", "86400"} {
		t.Run(offset, func(t *testing.T) {
			for _, mode := range []string{"auto", "socket"} {
				t.Run(mode, func(t *testing.T) {
					s := newSite(t)
					master := s.master.XVRRPD(s.File("master.conf", v3(200, "")))
					s.becomes(t, s.master, 0, "MASTER")
					s.backup.XVRRPDWith([]string{"unshare", "--time", "--fork", "--kill-child", "--monotonic", offset},
						s.File("backup.conf", v3(100, "")), "--dataplane", mode)
					s.becomes(t, s.backup, 0, "BACKUP")
					// Many master-down intervals' worth of adverts.
					s.Eventually("forty adverts are counted", 15*time.Second, func() bool {
						return ask(t, s.backup).Instances[0].Counters.AdvertsReceived >= 40
					})
					b := ask(t, s.backup).Instances[0]
					assert.Equal(t, "BACKUP", b.State)
					assert.NotContains(t, b.Counters.Transitions, "master_down")
					master.Signal(unix.SIGKILL)
					s.becomes(t, s.backup, 0, "MASTER")
				})
			}
		})
	}
}
