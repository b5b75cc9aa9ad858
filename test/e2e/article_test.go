// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

const (
	ka1 = "192.168.1.4"
	ka2 = "192.168.1.8"
	rs1 = "192.168.1.20"
	vip = "192.168.1.100"
)

// site is the article's LAN: two hosts and a third one that watches.
type site struct {
	*lab.Lab
	master, backup, client *lab.Node
	wire                   *lab.Capture
}

func newSite(t *testing.T) *site {
	lab.Require(t, "ip", "nsenter", "tcpdump")
	s := &site{Lab: lab.New(t)}
	s.master = s.Node("ka1", "ens33 "+ka1+"/24")
	s.backup = s.Node("ka2", "ens33 "+ka2+"/24")
	s.client = s.Node("rs1", "ens33 "+rs1+"/24")
	s.wire = s.client.Capture("ens33")
	return s
}

// config copies one of the article's files, unmodified.
func (s *site) config(t *testing.T, name string) string {
	text, err := os.ReadFile(filepath.Join("../../control/config/testdata", name))
	require.NoError(t, err)
	return s.File(name, string(text))
}

func (s *site) owner(n *lab.Node) func() bool { return func() bool { return n.Has(vip) } }

func TestArticle(t *testing.T) {
	lab.Require(t, "ping")
	s := newSite(t)
	dump := s.client.Start("tcpdump", "-i", "ens33", "-nn", "-l", "host", "224.100.100.100", "or", "igmp")
	s.Eventually("tcpdump listens", 10*time.Second, func() bool { return strings.Contains(dump.Output(), "listening") })

	// The backup alone takes the address.
	backup := s.backup.XVRRPD(s.config(t, "backup.conf"))
	assert.False(t, s.backup.Has(vip))
	s.Eventually("the backup owns the address", 10*time.Second, s.owner(s.backup))
	assert.Contains(t, s.backup.Run("ip", "address"), "inet 192.168.1.100/24 scope global secondary ens33:1")
	assert.Contains(t, s.backup.Run("ip", "maddress", "show", "dev", "ens33"), "224.100.100.100")

	// A reload of the same file changes nothing.
	backup.Signal(unix.SIGHUP)
	s.Eventually("HUP is answered in the log", 5*time.Second, func() bool {
		return strings.Contains(backup.Output(), "configuration reloaded")
	})

	// The master preempts; the backup releases at once.
	master := s.master.XVRRPD(s.config(t, "master.conf"))
	s.Eventually("the master owns the address", 10*time.Second, s.owner(s.master))
	s.Eventually("the backup has released it", time.Second, func() bool { return !s.backup.Has(vip) })
	s.client.Run("ping", "-c1", "-W1", vip)
	s.Eventually("the backup's kernel keeps steady adverts to itself", 10*time.Second, func() bool {
		return strings.Contains(s.backup.Ctl("status"), "steady")
	})

	// An orderly stop says so and hands over after the skew time.
	master.Signal(unix.SIGTERM)
	require.NoError(t, master.Wait(10*time.Second), master.Output())
	assert.False(t, s.master.Has(vip))
	s.Eventually("the backup owns the address again", 10*time.Second, s.owner(s.backup))

	backup.Signal(unix.SIGTERM)
	require.NoError(t, backup.Wait(10*time.Second), backup.Output())
	s.Eventually("the backup said so on the wire", 5*time.Second, func() bool {
		last := s.wire.Adverts(ka2)
		return last[len(last)-1].Advert.Priority == 0
	})

	// tcpdump prints what the article shows.
	s.Eventually("tcpdump has printed it", 5*time.Second, func() bool {
		return strings.Contains(dump.Output(), "192.168.1.8 > 224.100.100.100: VRRPv2, Advertisement, vrid 88, prio 0,")
	})
	assert.Contains(t, dump.Output(), "igmp v3 report", "the join is on the wire")
	line := regexp.MustCompile(`IP 192\.168\.1\.[48] > 224\.100\.100\.100: VRRPv2, Advertisement, vrid 88, prio (0|90|100), authtype simple, intvl 1s, length 20$`)
	seen := map[string]bool{}
	for _, l := range strings.Split(dump.Output(), "\n") {
		if strings.Contains(l, "VRRP") {
			m := line.FindStringSubmatch(l)
			require.NotNil(t, m, l)
			seen[m[1]] = true
		}
	}
	assert.Equal(t, map[string]bool{"0": true, "90": true, "100": true}, seen)
	for _, f := range s.wire.Adverts("") {
		require.NoError(t, f.Err)
		assert.Equal(t, uint8(255), f.TTL)
		assert.Equal(t, uint8(0xc0), f.TOS)
	}
	left, err := filepath.Glob("/sys/fs/bpf/xvrrp/" + inode(s.master) + "*")
	require.NoError(t, err)
	assert.Empty(t, left, "a clean stop removes the pins")
}

func inode(n *lab.Node) string {
	link := n.Run("readlink", "/proc/self/ns/net") // net:[4026532000]
	return strings.Trim(strings.TrimSpace(link), "net:[]")
}
