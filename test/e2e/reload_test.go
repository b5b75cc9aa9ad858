// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// group is a virtual router in a configuration that a test changes.
type group struct {
	name      string
	dev       string
	vrid      int
	priority  int
	lines     string
	addresses []string
}

// conf returns a configuration at 100 ms.
func conf(groups ...group) string {
	var b strings.Builder
	b.WriteString("global_defs {\nvrrp_version 3\nvrrp_rt_priority 0\n}\n")
	for _, g := range groups {
		dev := g.dev
		if dev == "" {
			dev = "ens33"
		}
		fmt.Fprintf(&b, "vrrp_instance %s {\ninterface %s\nvirtual_router_id %d\npriority %d\nadvert_int 0.1\n%s\n"+
			"virtual_ipaddress {\n%s\n}\n}\n", g.name, dev, g.vrid, g.priority, g.lines, strings.Join(g.addresses, "\n"))
	}
	return b.String()
}

// live is the part of the status that reloads and changes of the host are
// about.
type live struct {
	Instances []instanceStatus
}

type instanceStatus struct {
	Name, State, Why, Fault string
	Since                   time.Time
	VRID, Priority          int
	Addresses               []string
	Counters                struct {
		Sent        int `json:"adverts_sent"`
		Transitions map[string]int
	}
	Alarms []struct{ Kind, Address string }
}

// instances returns the status of a node's instances by name.
func instances(t *testing.T, n *lab.Node) map[string]instanceStatus {
	t.Helper()
	var s live
	require.NoError(t, json.Unmarshal([]byte(n.Ctl("status", "--json")), &s))
	out := map[string]instanceStatus{}
	for _, i := range s.Instances {
		out[i.Name] = i
	}
	return out
}

// sameSince asserts that two are one moment of the monotonic clock, as near as
// it can be converted.
func sameSince(t *testing.T, want, got time.Time) {
	t.Helper()
	assert.WithinDuration(t, want, got, 20*time.Millisecond, "there was a transition")
}

func (i instanceStatus) alarm(kind string) bool {
	for _, a := range i.Alarms {
		if a.Kind == kind {
			return true
		}
	}
	return false
}

// is waits for the state of an instance.
func (s *site) is(t *testing.T, n *lab.Node, name, state string) {
	t.Helper()
	s.Eventually(name+" of "+n.Name+" is "+state, 10*time.Second, func() bool { return instances(t, n)[name].State == state })
}

// ctl runs xvrrpctl, which may fail.
func (s *site) ctl(n *lab.Node, args ...string) (string, error) {
	return n.Try(append([]string{filepath.Join(s.Bin, "xvrrpctl"), "--control-socket", n.Socket()}, args...)...)
}

// What cannot be run changes nothing and is explained, be it asked for by
// xvrrpctl or by SIGHUP.
func TestReloadRefused(t *testing.T) {
	lab.Require(t, "nft")
	s := newSite(t)
	a := group{name: "A", vrid: 51, priority: 200, addresses: []string{vip + "/24"}}
	file := s.File("a.conf", conf(a))
	daemon := s.master.XVRRPD(file)
	s.is(t, s.master, "A", "MASTER")
	before, held := instances(t, s.master)["A"], s.held(t, s.master, daemon)
	good := conf(a)
	for name, tc := range map[string]struct{ text, why string }{
		"a bad address": {strings.Replace(good, vip, "192.168.1.300", 1), "192.168.1.300"},
		"a bad number":  {strings.Replace(good, "priority 200", "priority many", 1), "many"},
		"one VRID twice": {conf(a, group{name: "B", vrid: 51, priority: 1, addresses: []string{"192.168.1.101/24"}}),
			"used twice"},
		"a loopback":         {strings.Replace(good, "interface ens33", "interface lo", 1), "loopback"},
		"another namespace":  {"net_namespace elsewhere\n" + good, "net_namespace cannot change"},
		"another instance":   {"instance other\n" + good, "instance cannot change"},
		"a file that ends":   {good[:len(good)-8], "never closed"},
		"not a text at all":  {"\x00\xff\x7fELF", ""},
		"an include of none": {"include /nonexistent/file\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s.File("a.conf", tc.text)
			out, err := s.ctl(s.master, "reload")
			require.Error(t, err, "%s\n%s", out, tc.text)
			assert.Contains(t, out, "refused and nothing has changed")
			assert.Contains(t, out, tc.why)
			plan, err := s.ctl(s.master, "reload", "--plan")
			assert.Error(t, err)
			assert.Contains(t, plan, tc.why)
			n := strings.Count(daemon.Output(), "refused and nothing has changed")
			daemon.Signal(unix.SIGHUP)
			s.Eventually("the log explains", 5*time.Second, func() bool {
				return strings.Count(daemon.Output(), "refused and nothing has changed") > n
			})
		})
	}
	require.NoError(t, os.Remove(file))
	out, err := s.ctl(s.master, "reload")
	assert.Error(t, err)
	assert.Contains(t, out, "no such file")
	after := instances(t, s.master)["A"]
	sameSince(t, before.Since, after.Since)
	assert.Equal(t, before.Counters.Transitions, after.Counters.Transitions)
	s.Eventually("it holds what it held", 15*time.Second, func() bool { return held == s.held(t, s.master, daemon) })
}

// held is what can be counted from outside of what a daemon has: addresses,
// tables, pins, and the open descriptors, those of BPF by their kind.
func (s *site) held(t *testing.T, n *lab.Node, daemon *lab.Process) string {
	t.Helper()
	lines := strings.Split(n.Run("ip", "-o", "-4", "address"), "\n")
	slices.Sort(lines) // masters take over in any order
	return strings.Join(lines, "\n") + n.Run("nft", "list", "tables") +
		fmt.Sprint(pins(t, inode(n)), descriptors(t, daemon.PID()))
}

// Everything that a file can say changes by a reload, and an instance that it
// says the same of does not notice.
func TestReloadChanges(t *testing.T) {
	s := newSite(t)
	s.master.Detached("wan")
	keep := group{name: "KEEP", vrid: 50, priority: 150, addresses: []string{"192.168.1.150/24"}}
	a := group{name: "A", vrid: 51, priority: 150, addresses: []string{vip + "/24"}}
	b := group{name: "B", vrid: 52, priority: 150, addresses: []string{"192.168.1.101/24"}}
	s.File("a.conf", conf(keep, a))
	s.master.XVRRPD(filepath.Join(s.Dir, "a.conf"))
	s.is(t, s.master, "KEEP", "MASTER")
	s.is(t, s.master, "A", "MASTER")
	s.Eventually("its announcements are over", 15*time.Second, func() bool { return len(s.wire.GARPs("192.168.1.150")) >= 10 })
	garps := len(s.wire.GARPs("192.168.1.150"))
	before := instances(t, s.master)
	reload := func(groups ...group) {
		t.Helper()
		s.File("a.conf", conf(append([]group{keep}, groups...)...))
		s.master.Ctl("reload")
	}

	s.File("a.conf", conf(keep, a, b))
	plan := s.master.Ctl("reload", "--plan")
	assert.Contains(t, plan, "B: is added")
	assert.NotContains(t, plan, "KEEP")
	assert.Len(t, instances(t, s.master), 2, "a plan changes nothing")

	reload(a, b)
	s.is(t, s.master, "B", "MASTER")
	a.priority = 90
	reload(a, b)
	s.Eventually("the wire has the priority", 5*time.Second, func() bool {
		list := s.wire.Adverts(ka1)
		for _, f := range list[max(0, len(list)-6):] {
			if f.Advert.VRID == 51 && f.Advert.Priority == 90 {
				return true
			}
		}
		return false
	})
	a.lines = "track_interface {\nwan weight -20\n}\nfast_detect interval 10 multiplier 3"
	reload(a, b)
	s.master.Run("ip", "link", "set", "wan", "down")
	s.Eventually("the weight counts", 5*time.Second, func() bool { return instances(t, s.master)["A"].Priority == 70 })
	a.lines = ""
	reload(a, b)
	assert.Equal(t, 90, instances(t, s.master)["A"].Priority, "it is not tracked any more")

	// An address is added, and one moves from one master to another without
	// leaving the host.
	a.addresses = append(a.addresses, "192.168.1.102/24")
	reload(a, b)
	s.Eventually("the address is there", 5*time.Second, func() bool { return s.master.Has("192.168.1.102") })
	monitor := s.master.Start("ip", "-o", "monitor", "address")
	a.addresses, b.addresses = a.addresses[:1], append(b.addresses, "192.168.1.102/24")
	reload(a, b)
	b.addresses = append(b.addresses, "192.168.1.103/24")
	reload(a, b)
	s.Eventually("the address is there", 5*time.Second, func() bool {
		return s.master.Has("192.168.1.103") && strings.Contains(monitor.Output(), "192.168.1.103")
	})
	assert.NotContains(t, monitor.Output(), "192.168.1.102/", "it stayed")

	// Names are no identity; VRIDs are.
	transitions := instances(t, s.master)["A"].Counters.Transitions
	a.name = "NEW"
	reload(a, b)
	assert.Equal(t, transitions, instances(t, s.master)["NEW"].Counters.Transitions)
	a.vrid, b.vrid = b.vrid, a.vrid
	reload(a, b)
	s.is(t, s.master, "NEW", "MASTER")
	s.is(t, s.master, "B", "MASTER")
	assert.Equal(t, 52, instances(t, s.master)["NEW"].VRID)
	s.Eventually("every address is there", 5*time.Second, func() bool {
		return s.master.Has(vip) && s.master.Has("192.168.1.101") && s.master.Has("192.168.1.102")
	})

	// Another interval is on the wire, and an instance goes in order.
	s.File("a.conf", strings.Replace(conf(keep, a), "priority 90\nadvert_int 0.1", "priority 90\nadvert_int 0.2", 1))
	s.master.Ctl("reload")
	s.Eventually("the interval is advertised", 5*time.Second, func() bool {
		list := s.wire.Adverts(ka1)
		for _, f := range list[max(0, len(list)-6):] {
			if f.Advert.VRID == 52 && f.Advert.Interval == 200*time.Millisecond {
				return true
			}
		}
		return false
	})
	s.Eventually("its addresses are gone", 5*time.Second, func() bool {
		return !s.master.Has("192.168.1.101") && !s.master.Has("192.168.1.102")
	})
	after := instances(t, s.master)
	assert.Len(t, after, 2)
	sameSince(t, before["KEEP"].Since, after["KEEP"].Since)
	assert.Equal(t, before["KEEP"].Counters.Transitions, after["KEEP"].Counters.Transitions)
	assert.Greater(t, after["KEEP"].Counters.Sent, before["KEEP"].Counters.Sent, "counters go on")
	assert.Len(t, s.wire.GARPs("192.168.1.150"), garps, "nothing announces it again")
}

// A pair gets another address one node at a time: there is never a second
// master, and the list that differs is an alarm meanwhile. A list without a
// common address is another group.
func TestReloadOneNodeAtATime(t *testing.T) {
	s := newSite(t)
	g := func(priority int, addresses ...string) string {
		return conf(group{name: "A", vrid: 51, priority: priority, addresses: addresses})
	}
	s.master.XVRRPD(s.File("m.conf", g(200, vip+"/24")))
	s.backup.XVRRPD(s.File("b.conf", g(90, vip+"/24")))
	s.is(t, s.master, "A", "MASTER")
	s.is(t, s.backup, "A", "BACKUP")
	s.Eventually("the backup has heard the master", 5*time.Second, func() bool { return len(ask(t, s.backup).Instances[0].Peers) > 0 })

	s.File("m.conf", g(200, vip+"/24", "192.168.1.101/24"))
	plan := s.master.Ctl("reload", "--plan")
	assert.Contains(t, plan, "A: adds 192.168.1.101; peers without it raise an alarm until they are reloaded")
	s.master.Ctl("reload")
	s.Eventually("the backup raises an alarm", 5*time.Second, func() bool { return instances(t, s.backup)["A"].alarm("address_list") })
	s.Eventually("the address is there", 5*time.Second, func() bool { return s.master.Has("192.168.1.101") })
	sent := instances(t, s.master)["A"].Counters.Sent
	s.Eventually("the alarm has lasted for many adverts", 5*time.Second, func() bool { return instances(t, s.master)["A"].Counters.Sent > sent+20 })
	s.File("b.conf", g(90, vip+"/24", "192.168.1.101/24"))
	s.backup.Ctl("reload")
	s.Eventually("the alarm is over", 5*time.Second, func() bool { return !instances(t, s.backup)["A"].alarm("address_list") })
	assert.Empty(t, s.wire.Adverts(ka2), "the backup has never been master")
	assert.Equal(t, "BACKUP", instances(t, s.backup)["A"].State)

	s.File("b.conf", g(90, "192.168.1.109/24"))
	s.backup.Ctl("reload")
	s.Eventually("the VRID is used twice", 5*time.Second, func() bool {
		return instances(t, s.backup)["A"].alarm("vrid_collision") && instances(t, s.master)["A"].alarm("vrid_collision")
	})
}

// Reloads at once are done one after the other, also while a master is being
// replaced; one by another user is refused. Nothing is left behind by any.
func TestReloadsLeakNothing(t *testing.T) {
	lab.Require(t, "setpriv", "nft")
	s := newSite(t)
	a := group{name: "A", vrid: 51, priority: 200, addresses: []string{vip + "/24"}}
	b := group{name: "B", vrid: 52, priority: 200, lines: "no_accept", addresses: []string{"192.168.1.101/24"}}
	file := s.File("a.conf", conf(a, b))
	daemon := s.master.XVRRPD(file)
	s.is(t, s.master, "A", "MASTER")
	s.is(t, s.master, "B", "MASTER")
	counted := func() string { return s.held(t, s.master, daemon) }
	// A change, another instance, and one on an interface of its own.
	s.master.Detached("lan0")
	s.master.Run("ip", "address", "add", "10.1.0.9/24", "dev", "lan0")
	changed := a
	changed.priority, changed.addresses = 190, []string{vip + "/24", "192.168.1.102/24"}
	c := group{name: "C", dev: "lan0", vrid: 53, priority: 200, addresses: []string{"10.1.0.100/24"}}
	files := []string{conf(a), conf(changed, b, c), conf(a, c), conf(a, b)}
	reload := func(text string) {
		s.File("a.conf", text)
		s.master.Ctl("reload")
	}
	settled := func(before string) {
		t.Helper()
		s.is(t, s.master, "A", "MASTER")
		s.is(t, s.master, "B", "MASTER")
		after := ""
		s.Eventually("what there is, is what there was: "+before, 15*time.Second, func() bool {
			after = counted()
			return before == after
		})
	}
	for _, text := range files { // whatever is opened once is open then
		reload(text)
	}
	s.is(t, s.master, "B", "MASTER")
	s.Eventually("only its addresses are there", 10*time.Second, func() bool {
		return s.master.Has("192.168.1.101") && !s.master.Has("192.168.1.102") && !s.master.Has("10.1.0.100")
	})
	before, threads := counted(), tasks(t, daemon.PID())
	since := instances(t, s.master)["A"].Since
	for n := range 100 {
		reload(files[n%len(files)])
	}
	settled(before)
	sameSince(t, since, instances(t, s.master)["A"].Since)

	var flaps strings.Builder
	for range 100 {
		flaps.WriteString("link set ens33 down\nlink set ens33 up\n")
	}
	s.master.Run("ip", "-batch", s.File("flaps", flaps.String()))
	settled(before)
	assert.InDelta(t, threads, tasks(t, daemon.PID()), 8, "threads come and go with system calls, but not for each reload")

	require.NoError(t, os.Chmod(s.master.Socket(), 0o666))
	require.NoError(t, os.Chmod(s.Dir, 0o755))
	out, err := s.master.Try("setpriv", "--reuid", "65534", "--clear-groups", filepath.Join(s.Bin, "xvrrpctl"),
		"--control-socket", s.master.Socket(), "reload")
	assert.Error(t, err)
	assert.Contains(t, out, "a reload is for root and for the user of the daemon")
	settled(before)

	// The backup is reloaded by many while it takes over.
	lower := func(priority int, groups ...group) string {
		return s.File("b.conf", strings.ReplaceAll(conf(groups...), "priority 200", fmt.Sprintf("priority %d", priority)))
	}
	other := s.backup.XVRRPD(lower(90, a, b))
	s.is(t, s.backup, "A", "BACKUP")
	held := ""
	for range 2 { // whatever is opened once is open then
		s.master.Cut("ens33")
		lower(91, a)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				out, err := s.ctl(s.backup, "reload")
				assert.NoError(t, err, out)
			})
		}
		all.Wait()
		s.is(t, s.backup, "A", "MASTER")
		s.Eventually("the address is there", 5*time.Second, s.owner(s.backup))
		assert.Len(t, instances(t, s.backup), 1)
		assert.Equal(t, 91, instances(t, s.backup)["A"].Priority)
		s.Eventually("the other address is gone", 5*time.Second, func() bool { return !s.backup.Has("192.168.1.101") })
		if held != "" {
			s.Eventually("it holds what it held before", 15*time.Second, func() bool { return held == s.held(t, s.backup, other) })
		}
		held = s.held(t, s.backup, other)
		s.master.Mend("ens33")
		lower(90, a, b)
		s.backup.Ctl("reload")
		s.is(t, s.backup, "A", "BACKUP")
		s.is(t, s.backup, "B", "BACKUP")
	}
}

// descriptors returns what a process has open, by kind.
func descriptors(t *testing.T, pid int) map[string]int {
	t.Helper()
	out := map[string]int{}
	list, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	for _, fd := range list {
		if to, err := os.Readlink(fd); err == nil { // it may be closed by now
			kind, _, _ := strings.Cut(to, ":[") // socket:[1234]
			out[kind]++
		}
	}
	return out
}

// tasks returns the number of threads of a process.
func tasks(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	require.NoError(t, err)
	return len(list)
}

// pins returns what the daemons of a namespace have in the BPF file system.
func pins(t *testing.T, netns string) []string {
	t.Helper()
	var out []string
	list, err := filepath.Glob("/sys/fs/bpf/xvrrp/*")
	require.NoError(t, err)
	for _, dir := range list {
		if strings.Contains(dir, netns) {
			_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
				out = append(out, path)
				return nil
			})
		}
	}
	return out
}
