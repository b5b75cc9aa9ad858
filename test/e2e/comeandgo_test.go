// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// faulty waits until an instance is in FAULT and tells why, in JSON and in the
// text.
func (s *site) faulty(t *testing.T, n *lab.Node, why string) {
	t.Helper()
	s.Eventually("A is in FAULT: "+why, 10*time.Second, func() bool {
		a := instances(t, n)["A"]
		return a.State == "FAULT" && strings.Contains(a.Fault, why)
	})
	assert.Contains(t, n.Ctl("status"), why)
}

// serves waits until an instance is MASTER, its address is there, and its
// adverts arrive from the source.
func (s *site) serves(t *testing.T, n *lab.Node, source string) {
	t.Helper()
	s.is(t, n, "A", "MASTER")
	s.Eventually("the address is there", 5*time.Second, s.owner(n))
	seen := len(s.wire.Adverts(source))
	s.Eventually("adverts come from "+source, 5*time.Second, func() bool { return len(s.wire.Adverts(source)) > seen+2 })
	assert.Empty(t, instances(t, n)["A"].Fault)
}

// replug makes a node's interface and connects it to the switch.
func (s *site) replug(n *lab.Node, dev, addr string) {
	n.Attach(dev)
	if addr != "" {
		n.Run("ip", "address", "add", addr, "brd", "+", "dev", dev)
	}
	n.Run("ip", "link", "set", dev, "up")
}

// The interface is missing at the start, then it has no address, goes and comes
// in every way that there is. The instance is in FAULT, says why, and is back
// when the host has what it needs. Then it hears its peer, too: programs and
// memberships are there again.
func TestComeAndGo(t *testing.T) {
	s := newSite(t)
	n := s.Node("ka3")
	const source = "192.168.1.9"
	a := group{name: "A", vrid: 51, priority: 150, addresses: []string{vip + "/24"}}
	n.XVRRPD(s.File("a.conf", conf(a)))
	s.faulty(t, n, "there is no interface ens33")
	s.replug(n, "ens33", "")
	s.faulty(t, n, "no IPv4 address")
	n.Run("ip", "address", "add", source+"/24", "brd", "+", "dev", "ens33")
	s.serves(t, n, source)

	heard := func(what string) {
		t.Helper()
		a := a
		a.priority = 200
		p := s.backup.XVRRPD(s.File("p.conf", conf(a)))
		s.is(t, n, "A", "BACKUP")
		s.Eventually("it yields the address "+what, 5*time.Second, func() bool { return !n.Has(vip) })
		p.Signal(unix.SIGTERM)
		require.NoError(t, p.Wait(10*time.Second))
		s.serves(t, n, source)
	}
	heard("after it came")

	n.Run("ip", "link", "del", "ens33")
	s.faulty(t, n, "there is no interface ens33")
	s.replug(n, "ens33", source+"/24")
	s.serves(t, n, source)
	heard("after it was made again")

	n.Run("ip", "link", "set", "ens33", "down")
	n.Run("ip", "link", "set", "ens33", "name", "other0")
	s.faulty(t, n, "there is no interface ens33")
	s.Eventually("its address is not left on the renamed one", 5*time.Second, func() bool { return !n.Has(vip) })
	n.Run("ip", "link", "set", "other0", "name", "ens33")
	s.faulty(t, n, "ens33 is down")
	n.Run("ip", "link", "set", "ens33", "up")
	s.serves(t, n, source)
	heard("after it was renamed")

	// It is renamed while it is up, and addresses stay on it.
	n.Run("ip", "link", "set", "ens33", "name", "other0")
	s.faulty(t, n, "there is no interface ens33")
	s.Eventually("its address is not left on the renamed one", 5*time.Second, func() bool { return !n.Has(vip) })
	n.Run("ip", "link", "property", "add", "dev", "other0", "altname", "ens33")
	s.serves(t, n, source)
	n.Run("ip", "link", "property", "del", "dev", "other0", "altname", "ens33")
	s.faulty(t, n, "there is no interface ens33")
	n.Run("ip", "link", "set", "other0", "name", "ens33")
	s.serves(t, n, source)

	elsewhere := s.Node("elsewhere")
	n.Run("ip", "link", "set", "ens33", "netns", elsewhere.Netns())
	s.faulty(t, n, "there is no interface ens33")
	elsewhere.Run("ip", "link", "set", "ens33", "netns", n.Netns())
	n.Run("ip", "address", "add", source+"/24", "brd", "+", "dev", "ens33")
	n.Run("ip", "link", "set", "ens33", "up")
	s.serves(t, n, source)
	heard("after it was in another namespace")

	n.Run("ip", "link", "set", "ens33", "address", "02:00:00:00:77:01")
	s.Eventually("the address is announced with the new one", 5*time.Second, func() bool {
		for _, f := range s.wire.GARPs(vip) {
			if f.MAC.String() == "02:00:00:00:77:01" {
				return true
			}
		}
		return false
	})
	heard("with another MAC")

	// The source moves, at first only its prefix.
	transitions := len(instances(t, n)["A"].Counters.Transitions)
	since := instances(t, n)["A"].Since
	n.Run("ip", "address", "add", source+"/16", "brd", "+", "dev", "ens33")
	n.Run("ip", "address", "del", source+"/24", "dev", "ens33")
	seen := len(s.wire.Adverts(source))
	s.Eventually("adverts go on", 5*time.Second, func() bool { return len(s.wire.Adverts(source)) > seen+5 })
	sameSince(t, since, instances(t, n)["A"].Since)
	assert.Len(t, instances(t, n)["A"].Counters.Transitions, transitions)
	n.Run("ip", "address", "add", "192.168.1.10/24", "brd", "+", "dev", "ens33")
	n.Run("ip", "address", "del", source+"/16", "dev", "ens33")
	s.serves(t, n, "192.168.1.10")

	// It flaps.
	var flaps strings.Builder
	for range 100 {
		flaps.WriteString("link set ens33 down\nlink set ens33 up\n")
	}
	n.Run("ip", "-batch", s.File("flaps", flaps.String()))
	s.serves(t, n, "192.168.1.10")
	n.Run("ip", "-batch", s.File("flaps", flaps.String()+"link set ens33 down\n"))
	s.faulty(t, n, "ens33 is down")
}

// Interfaces that are tracked or carry an address are followed by their names,
// too.
func TestTrackedInterfacesComeAndGo(t *testing.T) {
	s := newSite(t)
	n := s.master
	a := group{name: "A", vrid: 51, priority: 150, lines: "track_interface {\nwan\n}",
		addresses: []string{vip + "/24", "10.8.0.100/24 dev lan0"}}
	n.XVRRPD(s.File("a.conf", conf(a)))
	s.faulty(t, n, "there is no interface wan")
	n.Detached("wan")
	s.faulty(t, n, "there is no interface lan0")
	n.Detached("lan0")
	s.serves(t, n, ka1)
	for _, dev := range []string{"wan", "lan0"} {
		n.Run("ip", "link", "del", dev)
		s.faulty(t, n, "there is no interface "+dev)
		s.Eventually("the address is gone", 5*time.Second, func() bool { return !n.Has(vip) })
		n.Detached(dev)
		s.serves(t, n, ka1)
		s.Eventually("so is the other", 5*time.Second, func() bool { return n.Has("10.8.0.100") })
	}
}

// What something else removes from a master is put back, with an alarm; a
// remover that goes on is not raced.
func TestRemovedByOthers(t *testing.T) {
	lab.Require(t, "nft")
	s := newSite(t)
	n := s.master
	n.Run("sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=0", "net.ipv4.conf.ens33.promote_secondaries=0")
	a := group{name: "A", vrid: 51, priority: 150, lines: "no_accept", addresses: []string{vip + "/24", "10.8.0.100/24", "10.8.0.101/24"}}
	daemon := n.XVRRPD(s.File("a.conf", conf(a)))
	s.serves(t, n, ka1)
	all := func() bool { return n.Has(vip) && n.Has("10.8.0.100") && n.Has("10.8.0.101") }
	s.Eventually("every address is there", 5*time.Second, all)

	n.Run("ip", "address", "del", vip+"/24", "dev", "ens33")
	s.Eventually("it is put back", 5*time.Second, s.owner(n))
	s.Eventually("that is an alarm", 5*time.Second, func() bool { return instances(t, n)["A"].alarm("vip_removed") })
	// The kernel takes the secondary one along.
	n.Run("ip", "address", "del", "10.8.0.100/24", "dev", "ens33")
	s.Eventually("both are put back", 5*time.Second, all)

	table := n.Run("nft", "list", "ruleset")
	require.Contains(t, table, vip)
	n.Run("nft", "flush", "ruleset")
	s.Eventually("the firewall is put back", 5*time.Second, func() bool { return n.Run("nft", "list", "ruleset") == table })
	restored := func() int { return strings.Count(daemon.Output(), "another program removed our firewall entries") }
	assert.Equal(t, 1, restored())
	s.Eventually("that is an alarm", 5*time.Second, func() bool { return instances(t, n)["A"].alarm("firewall_removed") })

	// A manager that keeps flushing.
	flusher := n.Start("sh", "-c", "while :; do nft flush ruleset; done")
	s.Eventually("the repairs slow down", 15*time.Second, func() bool { return restored() >= 8 })
	sent, repairs := instances(t, n)["A"].Counters.Sent, restored()
	s.Eventually("two seconds of adverts pass", 10*time.Second, func() bool { return instances(t, n)["A"].Counters.Sent >= sent+20 })
	assert.LessOrEqual(t, restored()-repairs, 10, "it is backed off")
	flusher.Kill()
	s.Eventually("the firewall is put back in the end", 10*time.Second, func() bool { return n.Run("nft", "list", "ruleset") == table })

	// A manager that keeps removing an address.
	monitor := n.Start("ip", "-o", "monitor", "address")
	remover := n.Start("sh", "-c", "while :; do ip address del "+vip+"/24 dev ens33 2>/dev/null; done")
	added := func() int {
		count := 0
		for line := range strings.Lines(monitor.Output()) {
			if strings.Contains(line, vip) && !strings.HasPrefix(line, "Deleted") {
				count++
			}
		}
		return count
	}
	s.Eventually("the repairs slow down", 15*time.Second, func() bool { return added() >= 8 })
	sent, repairs = instances(t, n)["A"].Counters.Sent, added()
	s.Eventually("two seconds of adverts pass", 10*time.Second, func() bool { return instances(t, n)["A"].Counters.Sent >= sent+20 })
	assert.LessOrEqual(t, added()-repairs, 10, "it is backed off")
	remover.Kill()
	s.Eventually("it is put back in the end", 10*time.Second, s.owner(n))
	assert.Equal(t, "MASTER", instances(t, n)["A"].State)
}

// What a daemon left that was killed is found by its mark, not by the file: the
// instance is gone from it, and the interface has another name.
func TestLeftoversWithoutInstance(t *testing.T) {
	lab.Require(t, "nft")
	s := newSite(t)
	n := s.master
	before := outside(t, n)
	a := group{name: "A", vrid: 51, priority: 150, lines: "no_accept", addresses: []string{vip + "/24", "10.8.0.100/32 dev lo"}}
	b := group{name: "B", vrid: 52, priority: 150, addresses: []string{"192.168.1.101/24"}}
	n.XVRRPD(s.File("a.conf", conf(a, b)))
	s.serves(t, n, ka1)
	s.Eventually("the others are there", 5*time.Second, func() bool { return n.Has("10.8.0.100") && n.Has("192.168.1.101") })
	n.Crash()
	require.True(t, n.Has(vip))
	n.Run("ip", "link", "set", "ens33", "down")
	n.Run("ip", "link", "set", "ens33", "name", "lan0")
	n.Run("ip", "link", "set", "lan0", "up")
	b.dev = "lan0"
	p := n.XVRRPD(s.File("a.conf", conf(b)))
	s.is(t, n, "B", "MASTER")
	s.Eventually("its address is there", 5*time.Second, func() bool { return n.Has("192.168.1.101") })
	assert.False(t, n.Has(vip), "nobody wants it")
	assert.False(t, n.Has("10.8.0.100"))
	assert.NotContains(t, n.Run("nft", "list", "tables"), "xvrrp")
	p.Signal(unix.SIGTERM)
	require.NoError(t, p.Wait(10*time.Second))
	assert.False(t, n.Has("192.168.1.101"))
	assert.Subset(t, before, outside(t, n), "nothing more is left")
}

// outside returns what daemons of a node's namespace have outside of it. An
// earlier namespace that was crashed may have had the same inode.
func outside(t *testing.T, n *lab.Node) []string {
	t.Helper()
	out := pins(t, inode(n))
	for _, pattern := range []string{"/run/xvrrp/lock/%s-*", "/run/xvrrp/netns-%s*"} {
		found, err := filepath.Glob(fmt.Sprintf(pattern, inode(n)))
		require.NoError(t, err)
		out = append(out, found...)
	}
	return out
}

// Two daemons serve two interfaces of one namespace. Neither makes the other
// list everything again, and neither touches what the other has.
func TestTwoDaemonsOnTwoInterfaces(t *testing.T) {
	lab.Require(t, "nft")
	s := newSite(t)
	n := s.Node("ka3", "ens33 192.168.1.9/24", "eth1 10.1.0.9/24")
	n.Detached("shared")
	before := outside(t, n)
	start := func(name string, g group) *lab.Process {
		g.lines = "no_accept"
		p := n.Start(filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-D", "-f", s.File(name+".conf", "instance "+name+"\n"+conf(g)),
			"--control-socket", filepath.Join(s.Dir, name+".sock"), "-p", filepath.Join(s.Dir, name+".pid"))
		s.Eventually("it serves", 10*time.Second, func() bool { return n.Has(g.addresses[0][:len(g.addresses[0])-3]) })
		return p
	}
	one := group{name: "A", vrid: 51, priority: 150, addresses: []string{vip + "/24", "10.8.0.100/24 dev shared"}}
	two := group{name: "B", dev: "eth1", vrid: 51, priority: 150, addresses: []string{"10.1.0.100/24"}}
	first := start("one", one)
	s.Eventually("the other address is there", 5*time.Second, func() bool { return n.Has("10.8.0.100") })
	monitor := n.Start("ip", "-o", "monitor", "address")
	for range 3 {
		second := start("two", two)
		assert.Contains(t, n.Run("nft", "list", "ruleset"), vip)
		assert.Contains(t, n.Run("nft", "list", "ruleset"), "10.1.0.100")
		second.Signal(unix.SIGTERM)
		require.NoError(t, second.Wait(10*time.Second))
	}
	s.Eventually("the monitor has seen it", 5*time.Second, func() bool { return strings.Contains(monitor.Output(), "Deleted") })
	assert.NotContains(t, monitor.Output(), vip+"/")
	assert.NotContains(t, monitor.Output(), "10.8.0.100/")
	assert.NotContains(t, first.Output(), "resynchronizing")
	assert.NotContains(t, first.Output(), "something else removed")
	assert.True(t, n.Has(vip) && n.Has("10.8.0.100"))
	first.Signal(unix.SIGTERM)
	require.NoError(t, first.Wait(10*time.Second))
	assert.Subset(t, before, outside(t, n), "nothing more is left")
	_, err := os.Stat(filepath.Join(s.Dir, "one.pid"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

// An interface that cannot be opened, here because another daemon serves it,
// is tried again until it can.
func TestInterfaceOfAnotherDaemon(t *testing.T) {
	s := newSite(t)
	n := s.master
	n.Detached("lan0")
	n.Run("ip", "address", "add", "10.1.0.9/24", "dev", "lan0")
	a := group{name: "A", vrid: 51, priority: 150, addresses: []string{vip + "/24"}}
	b := group{name: "B", dev: "lan0", vrid: 51, priority: 150, addresses: []string{"10.1.0.100/24"}}
	other := n.Start(filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-D", "-f", s.File("b.conf", conf(a)),
		"--control-socket", filepath.Join(s.Dir, "other.sock"), "-p", filepath.Join(s.Dir, "other.pid"))
	s.Eventually("the other serves", 10*time.Second, s.owner(n))
	n.XVRRPD(s.File("a.conf", conf(b)))
	s.is(t, n, "B", "MASTER")
	s.File("a.conf", conf(a, b))
	n.Ctl("reload")
	s.faulty(t, n, "another xvrrpd uses it")
	s.is(t, n, "B", "MASTER")
	other.Signal(unix.SIGTERM)
	require.NoError(t, other.Wait(10*time.Second))
	assert.FileExists(t, pinned(n, "lease"), "each has pins of its own")
	s.serves(t, n, ka1)
	s.File("a.conf", conf(b))
	n.Ctl("reload")
	s.Eventually("it goes in order", 5*time.Second, func() bool { return !n.Has(vip) && len(instances(t, n)) == 1 })
}
