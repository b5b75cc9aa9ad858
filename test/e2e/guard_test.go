// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// guardStatus is the part of the status that is about fast detection, lease,
// fence and alarms.
type guardStatus struct {
	Instances []struct {
		State, Why string
		Fence      struct {
			Enabled, Active bool
			Address         string
			Seen            int
		}
		Alarms []struct{ Kind, Address, MAC string }
	}
	Interfaces []struct {
		Lease struct {
			Held      bool
			Reflector string
			ExitHook  bool `json:"exit_hook"`
		}
		Sessions []struct {
			Peer, Mode, State, Diag string
			Replies                 int
			Instances               int
		}
	}
}

func askGuard(t *testing.T, n *lab.Node) (s guardStatus) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(n.Ctl("status", "--json")), &s))
	return s
}

// fast is a configuration with adverts a second apart, so that whatever is
// faster than three of them is due to fast detection.
func fast(priority int, lines string) string {
	return fmt.Sprintf("global_defs {\nvrrp_version 3\nvrrp_lease 0.3\n}\nvrrp_instance VI_1 {\nstate BACKUP\ninterface ens33\nvirtual_router_id 51\npriority %d\nadvert_int 1\nfast_detect interval 3.3 multiplier 3\n%s\nvirtual_ipaddress {\n%s/24\n}\n}\n", priority, lines, vip)
}

// sessionUp waits for the session of a backup.
func (s *site) sessionUp(t *testing.T, n *lab.Node) {
	t.Helper()
	s.Eventually("the session is Up", 10*time.Second, func() bool {
		g := askGuard(t, n)
		return len(g.Interfaces[0].Sessions) > 0 && g.Interfaces[0].Sessions[0].State == "Up"
	})
}

// pair starts a master and a backup with fast detection, and waits for it.
func (s *site) pair(t *testing.T, lines string, flags ...string) (master, backup *lab.Process) {
	t.Helper()
	master = s.master.XVRRPD(s.File("m.conf", fast(200, lines)), flags...)
	s.becomes(t, s.master, 0, "MASTER")
	backup = s.backup.XVRRPD(s.File("b.conf", fast(100, lines)), flags...)
	s.sessionUp(t, s.backup)
	return master, backup
}

// takesOverFast waits for the backup to be master for the reason that is
// wanted, after which the RFC's timer cannot have had a part in it.
func (s *site) takesOverFast(t *testing.T, why string) {
	t.Helper()
	s.becomes(t, s.backup, 0, "MASTER")
	assert.Equal(t, why, askGuard(t, s.backup).Instances[0].Why)
}

func TestFastDetectSilentCut(t *testing.T) {
	for _, plane := range []string{"native", "generic", "tcx"} {
		t.Run(plane, func(t *testing.T) {
			s := newSite(t)
			_, backup := s.pair(t, "", "--dataplane", plane)
			s.master.Cut("ens33")
			s.takesOverFast(t, "fast_detect")
			assert.Contains(t, backup.Output(), "the peer does not answer; fast detection waits")
			s.master.Mend("ens33")
			s.becomes(t, s.backup, 0, "BACKUP")
			s.sessionUp(t, s.backup)
		})
	}
}

func TestKilledDaemonIsReplacedAndFenced(t *testing.T) {
	s := newSite(t)
	master, _ := s.pair(t, "")
	master.Signal(unix.SIGKILL)
	s.takesOverFast(t, "peer_left")
	assert.True(t, s.master.Has(vip), "nobody is left to remove the address")
}
