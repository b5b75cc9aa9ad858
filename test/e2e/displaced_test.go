// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// A program that something takes off by force is noticed and put back: a router
// without it hears nobody, and would be a second master. The agent's way is that
// of bpftool, which detaches the link of another program.
func TestDisplacedProgramIsPutBack(t *testing.T) {
	lab.Require(t, "bpftool")
	for _, mode := range []string{"native", "generic", "tcx"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			c := conf(group{name: "A", vrid: 51, priority: 100, addresses: []string{vip + "/24"}})
			p := s.backup.XVRRPD(s.File("b.conf", c), "--dataplane", mode)
			s.is(t, s.backup, "A", "MASTER")
			s.backup.Run("bpftool", "link", "detach", "pinned", pinned(s.backup, "link-"+mode+"-*"))
			s.Eventually("it is put back", 10*time.Second, func() bool {
				return strings.Contains(s.backup.Ctl("events"), "program_displaced") &&
					strings.Contains(p.Output(), "or another program runs before it; attached it again")
			})

			master := conf(group{name: "A", vrid: 51, priority: 200, addresses: []string{vip + "/24"}})
			m := s.master.XVRRPD(s.File("m.conf", master), "--dataplane", mode)
			s.is(t, s.backup, "A", "BACKUP")
			s.Eventually("it yields the address", 5*time.Second, func() bool { return !s.backup.Has(vip) })
			assert.True(t, s.master.Has(vip))
			m.Signal(unix.SIGTERM)
			require.NoError(t, m.Wait(10*time.Second))
			s.is(t, s.backup, "A", "MASTER")
		})
	}
}
