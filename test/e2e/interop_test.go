// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// flavour is a way to speak VRRP that both daemons are configured for.
type flavour struct {
	name   string
	global string
	lines  string
}

var flavours = []flavour{
	{"v2 PASS", "", "advert_int 1\nauthentication {\nauth_type PASS\nauth_pass 123456\n}\n"},
	{"v3 10 ms", "vrrp_version 3\n", "advert_int 0.01\n"},
}

func (f flavour) config(priority int) string {
	return fmt.Sprintf("global_defs {\nrouter_id x\n%s}\nvrrp_instance VI_1 {\nstate BACKUP\ninterface ens33\nvirtual_router_id 51\npriority %d\n%svirtual_ipaddress {\n%s/24 dev ens33\n}\n}\n",
		f.global, priority, f.lines, vip)
}

// runner starts a daemon of one kind.
type runner struct {
	name  string
	start func(*lab.Node, string) *lab.Process
}

var (
	ours   = runner{"xvrrp", func(n *lab.Node, c string) *lab.Process { return n.XVRRPD(c) }}
	theirs = runner{"keepalived", (*lab.Node).Keepalived}
)

// Both roles, both flavours: election, preemption, priority 0, crash, restart.
func TestKeepalived(t *testing.T) {
	lab.Require(t, "keepalived", "tcpdump")
	for _, f := range flavours {
		for _, roles := range [][2]runner{{ours, theirs}, {theirs, ours}} {
			t.Run(fmt.Sprintf("%s/master %s", f.name, roles[0].name), func(t *testing.T) {
				s := newSite(t)
				dump := s.client.Start("tcpdump", "-i", "ens33", "-nn", "-vv", "-l", "proto", "112")
				s.Eventually("tcpdump listens", 10*time.Second, func() bool { return strings.Contains(dump.Output(), "listening") })
				high, low := s.File("high.conf", f.config(200)), s.File("low.conf", f.config(100))
				onlyOwner := func(n, other *lab.Node) func() bool {
					return func() bool { return n.Has(vip) && !other.Has(vip) }
				}
				// Election: the lower one alone, then preemption by the higher.
				low2 := roles[1].start(s.backup, low)
				s.Eventually("the lower one alone owns the address", 15*time.Second, s.owner(s.backup))
				master := roles[0].start(s.master, high)
				s.Eventually("the higher one preempts", 15*time.Second, onlyOwner(s.master, s.backup))

				// Priority 0 on an orderly stop.
				master.Signal(unix.SIGTERM)
				require.NoError(t, master.Wait(15*time.Second))
				s.Eventually("the lower one takes over", 15*time.Second, onlyOwner(s.backup, s.master))
				adverts := s.wire.Adverts(ka1)
				assert.Zero(t, adverts[len(adverts)-1].Advert.Priority)

				// Restart of the higher one: preemption again.
				roles[0].start(s.master, high)
				s.Eventually("the higher one preempts again", 15*time.Second, onlyOwner(s.master, s.backup))

				// Crash of the whole host: nothing is said.
				s.master.Cut("ens33")
				s.master.Crash()
				s.Eventually("the lower one takes over after a crash", 15*time.Second, s.owner(s.backup))
				s.master.Mend("ens33")
				roles[0].start(s.master, high)
				s.Eventually("the higher one is back", 15*time.Second, onlyOwner(s.master, s.backup))

				// Restart of the lower one changes nothing.
				low2.Signal(unix.SIGTERM)
				require.NoError(t, low2.Wait(15*time.Second))
				roles[1].start(s.backup, low)
				n := len(s.wire.Adverts(ka1))
				s.Eventually("the master goes on", 15*time.Second, func() bool { return len(s.wire.Adverts(ka1)) > n+5 })
				assert.True(t, onlyOwner(s.master, s.backup)())

				for _, a := range s.wire.Adverts("") {
					require.NoError(t, a.Err)
				}
				assert.NotContains(t, dump.Output(), "bad vrrp cksum")
				assert.Contains(t, dump.Output(), "vrid 51")
			})
		}
	}
}
