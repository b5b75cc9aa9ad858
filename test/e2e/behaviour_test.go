// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/test/lab"
)

// v3 is a configuration at 100 ms with further lines.
func v3(priority int, lines string) string {
	return fmt.Sprintf("global_defs {\nvrrp_version 3\n}\nvrrp_instance VI_1 {\nstate BACKUP\ninterface ens33\nvirtual_router_id 51\npriority %d\nadvert_int 0.1\n%s\nvirtual_ipaddress {\n%s/24\n}\n}\n", priority, lines, vip)
}

type status struct {
	Instances []struct {
		Name, State, Why, Fault, Master string
		Priority                        int
		Counters                        struct {
			Rejected        map[string]int
			Transitions     map[string]int
			AdvertsReceived int `json:"adverts_received"`
		}
		Arrival struct{ Count int }
		Peers   []struct{ Address string }
	}
	Interfaces []struct {
		Name, Dataplane string
		Frames          map[string]struct{ Pass, Drop int }
	}
}

func ask(t *testing.T, n *lab.Node) (s status) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(n.Ctl("status", "--json")), &s))
	return s
}

func (s *site) becomes(t *testing.T, n *lab.Node, instance int, state string) {
	t.Helper()
	s.Eventually(n.Name+" becomes "+state, 15*time.Second, func() bool {
		return ask(t, n).Instances[instance].State == state
	})
}

func TestTrackedInterfaces(t *testing.T) {
	s := newSite(t)
	tracked := s.Node("ka3", "ens33 192.168.1.9/24", "eth1 10.1.0.9/24", "eth2 10.2.0.9/24")
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")))
	daemon := tracked.XVRRPD(s.File("m.conf", v3(200, "track_interface {\neth1\neth2\n}")))
	s.becomes(t, tracked, 0, "MASTER")
	for _, dev := range []string{"eth1", "eth2", "ens33"} {
		tracked.Unplug(dev)
		s.becomes(t, tracked, 0, "FAULT")
		s.Eventually("the address is released", time.Second, func() bool { return !tracked.Has(vip) })
		s.becomes(t, s.backup, 0, "MASTER")
		tracked.Plug(dev)
		s.becomes(t, tracked, 0, "MASTER")
		s.becomes(t, s.backup, 0, "BACKUP")
	}
	zeros := 0
	for _, a := range s.wire.Adverts("192.168.1.9") {
		if a.Advert.Priority == 0 {
			zeros++
		}
	}
	assert.Equal(t, 4, zeros, "twice for each fault that could be told; the third took the link itself")
	assert.Contains(t, daemon.Output(), "from=FAULT to=BACKUP reason=link_up")
	assert.Contains(t, daemon.Output(), "from=BACKUP to=MASTER reason=master_down")
}

func TestNoPreemptAndPreemptDelay(t *testing.T) {
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")))
	s.becomes(t, s.backup, 0, "MASTER")

	polite := s.master.XVRRPD(s.File("m.conf", v3(200, "nopreempt")))
	s.Eventually("it follows the lower master", 10*time.Second, func() bool { return ask(t, s.master).Instances[0].Arrival.Count > 10 })
	assert.Equal(t, "BACKUP", ask(t, s.master).Instances[0].State)
	polite.Signal(unix.SIGTERM)
	require.NoError(t, polite.Wait(10*time.Second))

	n := len(s.wire.Adverts(ka2))
	s.master.XVRRPD(s.File("m.conf", v3(200, "preempt_delay 2")))
	s.becomes(t, s.master, 0, "MASTER")
	assert.Greater(t, len(s.wire.Adverts(ka2))-n, 15, "the lower one stayed master for about two seconds of adverts")
}

func TestCrashAndLeftovers(t *testing.T) {
	s := newSite(t)
	s.backup.XVRRPD(s.config(t, "backup.conf"))
	s.master.XVRRPD(s.config(t, "master.conf"))
	s.Eventually("the master owns the address", 15*time.Second, s.owner(s.master))
	s.Eventually("the backup has yielded", 10*time.Second, func() bool { return !s.backup.Has(vip) })
	n, crashed := len(s.wire.Adverts(ka2)), time.Now()
	s.master.Crash()
	s.Eventually("the backup takes over", 10*time.Second, s.owner(s.backup))
	mac := s.backup.MAC("ens33").String()
	s.Eventually("it announces the address", 10*time.Second, func() bool {
		return slices.ContainsFunc(s.wire.GARPs(vip), func(f lab.Frame) bool { return f.Time.After(crashed) && f.MAC.String() == mac })
	})
	last := s.wire.Adverts(ka1)
	assert.NotZero(t, last[len(last)-1].Advert.Priority, "a crash says nothing")

	// The crashed host still has the address, and its fence is closed; a start
	// removes it first.
	s.Eventually("three adverts are out", 10*time.Second, func() bool { return len(s.wire.Adverts(ka2)) >= n+3 })
	s.onlyAnswers(t, s.backup, s.wire.Adverts(ka2)[n+2].Time)
	require.True(t, s.master.Has(vip))
	daemon := s.master.XVRRPD(s.config(t, "master.conf"))
	assert.Contains(t, daemon.Output(), "removed a leftover address of an earlier run")
	s.Eventually("the master is back", 15*time.Second, func() bool { return s.master.Has(vip) && !s.backup.Has(vip) })
}

func TestSeveralInstances(t *testing.T) {
	s := newSite(t)
	conf := func(a, b int) string {
		return v3(a, "") + strings.NewReplacer("VI_1", "VI_2", "id 51", "id 52", "global_defs {\nvrrp_version 3\n}\n", "",
			vip, "192.168.1.101").Replace(v3(b, ""))
	}
	s.master.XVRRPD(s.File("a.conf", conf(200, 90)))
	s.backup.XVRRPD(s.File("b.conf", conf(90, 200)))
	s.becomes(t, s.master, 0, "MASTER")
	s.becomes(t, s.backup, 1, "MASTER")
	s.becomes(t, s.master, 1, "BACKUP")
	s.becomes(t, s.backup, 0, "BACKUP")
	assert.True(t, s.master.Has(vip))
	assert.True(t, s.backup.Has("192.168.1.101"))
}

// The configuration that keepalived ships: strict, so nobody may talk to the
// addresses of a router that does not own them.
func TestStock(t *testing.T) {
	s := &site{Lab: lab.New(requireNFT(t))}
	n := s.Node("ka1", "eth0 192.168.200.4/24")
	s.client = s.Node("rs1", "eth0 192.168.200.20/24")
	s.wire = s.client.Capture("eth0")
	daemon := n.XVRRPD(s.config(t, "stock.conf"))
	s.Eventually("it owns the addresses", 10*time.Second, func() bool { return n.Has("192.168.200.18") })
	assert.Contains(t, daemon.Output(), "vrrp_garp_interval")
	assert.Contains(t, daemon.Output(), "state MASTER and priority 255 belong together")
	for _, ip := range []string{"192.168.200.16", "192.168.200.17", "192.168.200.18"} {
		_, err := s.client.Try("ping", "-c1", "-W1", ip)
		assert.Error(t, err, "no_accept: %s must not answer", ip)
		s.Eventually("it is announced", 5*time.Second, func() bool { return len(s.wire.GARPs(ip)) >= 5 })
	}
	s.client.Run("ping", "-c1", "-W1", "192.168.200.4")
	for _, a := range s.wire.Adverts("") {
		assert.Zero(t, a.Advert.AuthType)
		assert.Equal(t, 3, a.Advert.Count())
	}
	daemon.Signal(unix.SIGTERM)
	require.NoError(t, daemon.Wait(10*time.Second))
	assert.Empty(t, strings.TrimSpace(n.Run("nft", "list", "tables")))
}

func requireNFT(t *testing.T) *testing.T {
	lab.Require(t, "nft", "ping")
	return t
}

// Every data plane runs the same election.
func TestDataplanes(t *testing.T) {
	for _, mode := range []string{"native", "generic", "tcx", "socket"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			s.backup.XVRRPD(s.File("b.conf", v3(90, "")), "--dataplane", mode)
			s.becomes(t, s.backup, 0, "MASTER")
			master := s.master.XVRRPD(s.File("m.conf", v3(200, "")), "--dataplane", mode)
			s.becomes(t, s.master, 0, "MASTER")
			s.becomes(t, s.backup, 0, "BACKUP")
			st := ask(t, s.backup)
			assert.Equal(t, mode, st.Interfaces[0].Dataplane)
			assert.Equal(t, ka1, st.Instances[0].Master)
			s.Eventually("adverts are counted", 10*time.Second, func() bool {
				return ask(t, s.backup).Instances[0].Counters.AdvertsReceived > 10
			})
			if mode != "socket" {
				event := func() int { return ask(t, s.backup).Interfaces[0].Frames["event"].Pass }
				before, steady := event(), ask(t, s.backup).Interfaces[0].Frames["steady"].Pass
				s.Eventually("steady adverts pass", 10*time.Second, func() bool {
					return ask(t, s.backup).Interfaces[0].Frames["steady"].Pass > steady+10
				})
				assert.Equal(t, before, event(), "no event reaches user space in steady state")
			}
			s.master.Cut("ens33")
			master.Kill()
			s.becomes(t, s.backup, 0, "MASTER")
		})
	}
}

// Without CAP_BPF the packet socket does the work.
func TestWithoutBPF(t *testing.T) {
	lab.Require(t, "setpriv")
	s := newSite(t)
	conf := s.File("b.conf", v3(90, ""))
	p := s.backup.Start("setpriv", "--bounding-set", "-all,+net_admin,+net_raw,+net_bind_service,+dac_override",
		"--inh-caps", "-all", filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-f", conf, "--control-socket", s.backup.Socket(),
		"-p", filepath.Join(s.Dir, "pid"))
	s.Eventually("it owns the address", 10*time.Second, s.owner(s.backup))
	assert.Contains(t, p.Output(), "mode=socket")
	assert.Contains(t, p.Output(), "no BPF program could be attached; receiving adverts through a packet socket")
}

// The systemd unit is sound, and its capabilities are enough for XDP.
func TestSystemdUnit(t *testing.T) {
	lab.Require(t, "setpriv", "systemd-analyze")
	s := newSite(t)
	xvrrpd := filepath.Join(s.Bin, "xvrrpd")
	text, err := os.ReadFile("../../packaging/xvrrpd.service")
	require.NoError(t, err)
	unit := s.File("xvrrpd.service", strings.NewReplacer("/usr/local/sbin/xvrrpd", xvrrpd,
		"/usr/local/bin/xvrrpctl", filepath.Join(s.Bin, "xvrrpctl")).Replace(string(text)))
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	require.NoError(t, err, string(out))
	assert.NotContains(t, string(out), "xvrrpd.service:")

	_, rest, _ := strings.Cut(string(text), "CapabilityBoundingSet=")
	line, _, _ := strings.Cut(rest, "\n")
	caps := strings.ReplaceAll(strings.ToLower(strings.Join(strings.Fields(line), ",+")), "cap_", "")
	p := s.backup.Start("setpriv", "--bounding-set", "-all,+"+caps, "--inh-caps", "-all", "--no-new-privs",
		xvrrpd, "-n", "-l", "-f", s.File("b.conf", v3(90, "")), "--control-socket", s.backup.Socket(),
		"-p", filepath.Join(s.Dir, "pid"))
	s.Eventually("it owns the address", 10*time.Second, s.owner(s.backup))
	assert.Contains(t, p.Output(), "mode=generic")
}

func TestTwoDaemons(t *testing.T) {
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")))
	second := func(flags ...string) (string, error) {
		return s.backup.Try(append([]string{filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-f", s.File("c.conf", v3(91, ""))}, flags...)...)
	}
	out, err := second("--control-socket", filepath.Join(s.Dir, "other.sock"), "-p", filepath.Join(s.Dir, s.backup.Name+".pid"))
	assert.Error(t, err)
	assert.Contains(t, out, ".pid, process")
	out, err = second("--control-socket", filepath.Join(s.Dir, "other.sock"))
	assert.Error(t, err)
	assert.Contains(t, out, "lock interface ens33: another xvrrpd uses it")
	s.becomes(t, s.backup, 0, "MASTER")
}

// A daemon killed and started again takes the pinned program over.
func TestRestartAfterCrashAdoptsThePins(t *testing.T) {
	lab.Require(t, "bpftool")
	s := newSite(t)
	conf := s.File("b.conf", v3(90, ""))
	p := s.backup.XVRRPD(conf, "--dataplane", "native")
	s.becomes(t, s.backup, 0, "MASTER")
	link := func() string {
		return s.backup.Run("bpftool", "-j", "link", "show", "pinned", pinned(s.backup, "link-native-*"))
	}
	before := link()
	p.Kill()
	s.backup.XVRRPD(conf, "--dataplane", "native")
	s.becomes(t, s.backup, 0, "MASTER")
	var a, b struct{ ID, ProgID int }
	require.NoError(t, json.Unmarshal([]byte(before), &a))
	require.NoError(t, json.Unmarshal([]byte(link()), &b))
	assert.Equal(t, a.ID, b.ID, "the link is the same")
}

// pinned returns the path of a pin of the node's daemon.
func pinned(n *lab.Node, name string) string {
	paths, _ := filepath.Glob(filepath.Join("/sys/fs/bpf/xvrrp", inode(n)+"*", name))
	if len(paths) != 1 {
		return "no pin " + name
	}
	return paths[0]
}

// routerID returns the id of the only virtual router of the node's daemon.
func routerID(t *testing.T, n *lab.Node) string {
	t.Helper()
	var entries []struct{ Formatted struct{ Value int } }
	dump := n.Run("bpftool", "-j", "map", "dump", "pinned", pinned(n, "ids"))
	require.NoError(t, json.Unmarshal([]byte(dump), &entries), dump)
	require.Len(t, entries, 1)
	return strconv.Itoa(entries[0].Formatted.Value)
}

// The commands of docs/bpftool.md.
func TestBpftool(t *testing.T) {
	lab.Require(t, "bpftool")
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")), "--dataplane", "native")
	s.master.XVRRPD(s.File("m.conf", v3(200, "")))
	s.Eventually("steady adverts arrive", 10*time.Second, func() bool { return ask(t, s.backup).Instances[0].Arrival.Count > 3 })
	assert.Contains(t, s.backup.Run("bpftool", "prog", "show", "pinned", pinned(s.backup, "prog-xdp")), "name xvrrp_xdp")
	assert.Regexp(t, `ens33\(\d+\) driver id \d+`, s.backup.Run("bpftool", "net"))
	for pin, fields := range map[string][]string{
		"meta":     {`"layout"`, `"generation"`, `"version"`},
		"ports":    {`"id"`, `"mac"`, `"name": "ens33"`},
		"ids":      {`"ifindex"`, `"vlan"`, `"family": 4`, `"vrid": 51`},
		"counters": {`"steady"`, `"rate_source"`, `"fenced_arp"`, `"sbfd_reflected"`, `"pass"`, `"drop"`},
		"lease":    {`"until_ns"`, `"ended_ns"`, `"fence_until_ns"`, `"tgid"`, `"masters"`},
		"sessions": {`"local"`, `"remote"`, `"replies"`, `"state"`, `"diag"`},
	} {
		dump := s.backup.Run("bpftool", "map", "dump", "pinned", pinned(s.backup, pin))
		for _, f := range fields {
			assert.Contains(t, dump, f)
		}
	}
	id := routerID(t, s.backup)
	slot := s.backup.Run("bpftool", "map", "lookup", "pinned", pinned(s.backup, "slots"), "key", id, "0", "0", "0")
	for _, f := range []string{`"last_ns"`, `"mean_gap_ns"`, `"jitter_ns"`, `"largest_gap_ns"`, `"gap_log2"`, `"arrivals"`} {
		assert.Contains(t, slot, f)
	}
	fence := s.backup.Run("bpftool", "map", "lookup", "pinned", pinned(s.backup, "fences"), "key", id, "0", "0", "0")
	for _, f := range []string{`"first_ns"`, `"last_ns"`, `"hold_ns"`, `"seen"`, `"src"`, `"mac"`} {
		assert.Contains(t, fence, f)
	}
	router := s.backup.Run("bpftool", "map", "lookup", "pinned", pinned(s.backup, "routers"), "key", id, "0", "0", "0")
	assert.Contains(t, router, `"name": "VI_1"`)
	template := s.backup.Run("bpftool", "map", "lookup", "pinned", pinned(s.backup, "templates"), "key", id, "0", "0", "0")
	assert.Contains(t, template, `"payload"`)
}

// Bad adverts are counted by reason, logged once, and move no timer.
func TestBadAdverts(t *testing.T) {
	for _, mode := range []string{"native", "socket"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			auth := "authentication {\nauth_type PASS\nauth_pass 123456\n}"
			conf := strings.Replace(strings.Replace(v3(90, auth), "vrrp_version 3", "vrrp_version 2", 1), "advert_int 0.1", "advert_int 1", 1)
			daemon := s.backup.XVRRPD(s.File("b.conf", conf), "--dataplane", mode)
			s.becomes(t, s.backup, 0, "MASTER")
			for _, tc := range badAdverts() {
				before := ask(t, s.backup)
				for range 3 {
					s.client.Inject("ens33", tc.frame)
				}
				s.Eventually(tc.name+" is counted as "+tc.reason, 10*time.Second, func() bool {
					return counted(ask(t, s.backup), tc.reason) >= counted(before, tc.reason)+3
				})
				assert.Equal(t, "MASTER", ask(t, s.backup).Instances[0].State, tc.name)
			}
			// 40 bad adverts of higher priority later nothing has moved.
			for _, reason := range []string{"bad_auth", "bad_ttl", "bad_checksum", "bad_interval"} {
				assert.Equal(t, 1, strings.Count(daemon.Output(), "reason="+reason+"\n"), "logged once: %s", reason)
			}
			assert.Equal(t, 1, strings.Count(daemon.Output(), "to=MASTER"))
			assert.NotContains(t, daemon.Output(), "from=MASTER")
		})
	}
}

func counted(s status, reason string) int {
	f := s.Interfaces[0].Frames[reason]
	return s.Instances[0].Counters.Rejected[reason] + f.Pass + f.Drop
}

type badAdvert struct {
	name, reason string
	frame        []byte
}

// badAdverts are mutations of an advert that would make us yield.
func badAdverts() []badAdvert {
	good := func() packettest.Spec {
		s := packettest.Valid(2)
		s.Src, s.Advert.VRID, s.Advert.Priority = netip.MustParseAddr("192.168.1.77"), 51, 200
		s.Advert.Form = packet.ChecksumMessage
		return s
	}
	build := func(change func(*packettest.Spec)) []byte {
		s := good()
		change(&s)
		return s.Build()
	}
	mutate := func(m func([]byte, int, int) []byte) []byte {
		return build(func(s *packettest.Spec) { s.Mutate = m })
	}
	byteAt := func(at int, v byte) []byte {
		return mutate(func(b []byte, _, p int) []byte { b[p+at] = v; return b })
	}
	return []badAdvert{
		{"truncated", "truncated", mutate(func(b []byte, _, _ int) []byte { return b[:len(b)-6] })},
		{"oversized", "bad_length", mutate(func(b []byte, ip, _ int) []byte {
			b = append(b, make([]byte, 1200)...)
			b[ip+2], b[ip+3] = byte((len(b)-ip)>>8), byte(len(b)-ip)
			return b
		})},
		{"another group", "bad_destination", build(func(s *packettest.Spec) { s.Dst = netip.MustParseAddr("224.0.0.19") })},
		{"another host", "bad_destination", build(func(s *packettest.Spec) { s.Dst = netip.MustParseAddr(rs1) })},
		{"our address", "bad_destination", build(func(s *packettest.Spec) { s.Dst = netip.MustParseAddr(ka2) })},
		{"broadcast", "bad_destination", build(func(s *packettest.Spec) { s.Dst = netip.MustParseAddr("255.255.255.255") })},
		{"another MAC", "bad_dst_mac", mutate(func(b []byte, _, _ int) []byte { copy(b, []byte{2, 9}); return b })},
		{"IP header checksum", "bad_ip_checksum", mutate(func(b []byte, ip, _ int) []byte { b[ip+10] ^= 1; return b })},
		{"from loopback", "bad_source", build(func(s *packettest.Spec) { s.Src = netip.MustParseAddr("127.0.0.1") })},
		{"from the directed broadcast", "bad_source", build(func(s *packettest.Spec) { s.Src = netip.MustParseAddr("192.168.1.255") })},
		{"from the virtual address", "bad_source", build(func(s *packettest.Spec) { s.Src = netip.MustParseAddr(vip) })},
		{"TTL 64", "bad_ttl", build(func(s *packettest.Spec) { s.TTL = 64 })},
		{"wrong checksum", "bad_checksum", byteAt(7, 0x55)},
		{"wrong password", "bad_auth", build(func(s *packettest.Spec) { copy(s.Advert.Auth[:], "654321") })},
		{"no authentication", "bad_auth_type", build(func(s *packettest.Spec) { s.Advert.AuthType, s.Advert.Auth = 0, [8]byte{} })},
		{"version 3", "bad_version", build(func(s *packettest.Spec) { s.Advert.Version = 3 })},
		{"wrong interval", "bad_interval", build(func(s *packettest.Spec) { s.Advert.Interval = 5 * time.Second })},
		{"other addresses", "vrid_collision", build(func(s *packettest.Spec) { s.Advert.Addrs = []byte{10, 9, 8, 7} })},
		{"count 0", "bad_count", byteAt(3, 0)},
		{"count lies", "bad_length", byteAt(3, 200)},
		{"type 3", "bad_type", byteAt(0, 0x23)},
		{"IHL 4", "bad_ip_header", mutate(func(b []byte, ip, _ int) []byte { b[ip] = 0x44; return b })},
		{"fragment", "fragment", mutate(func(b []byte, ip, _ int) []byte { b[ip+6] = 0x20; return b })},
		{"CARP", "bad_length", mutate(func(b []byte, ip, p int) []byte {
			// CARP, protocol 112 too: version 2, type 1, VHID 51, advskew, authlen 7.
			b = append(b[:p], 0x21, 51, 0, 7, 0, 1, 0, 0)
			b = append(b, make([]byte, 28)...)
			b[ip+2], b[ip+3] = 0, byte(len(b)-ip)
			return b
		})},
	}
}

// Two pairs with one VRID on one link, kept apart by their groups, leave each
// other alone.
func TestGroupsKeepPairsApart(t *testing.T) {
	for _, mode := range []string{"native", "generic", "tcx", "socket"} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			conf := func(group string, priority int, addr string) string {
				text := strings.Replace(v3(priority, ""), "vrrp_version 3", "vrrp_version 3\nvrrp_mcast_group4 "+group, 1)
				return s.File(group+".conf", strings.ReplaceAll(text, vip, addr))
			}
			weak := s.backup.XVRRPD(conf("224.0.0.18", 90, vip), "--dataplane", mode)
			s.becomes(t, s.backup, 0, "MASTER")
			strong := s.master.XVRRPD(conf("224.0.0.19", 200, "192.168.1.101"), "--dataplane", mode)
			s.becomes(t, s.master, 0, "MASTER")
			for _, n := range []*lab.Node{s.master, s.backup} {
				s.Eventually(n.Name+" hears the other pair", 10*time.Second, func() bool {
					return counted(ask(t, n), "bad_destination") >= 10
				})
			}
			for _, p := range []*lab.Process{weak, strong} {
				assert.NotContains(t, p.Output(), "from=MASTER")
				assert.NotContains(t, p.Output(), "refuse", "another group's adverts are no news")
			}
		})
	}
}

// Options of any length change nothing about a good advert.
func TestIPOptions(t *testing.T) {
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")))
	s.becomes(t, s.backup, 0, "MASTER")
	spec := packettest.Valid(3)
	spec.Src, spec.Advert.VRID, spec.Options = netip.MustParseAddr("192.168.1.77"), 51, 10
	spec.Advert.Interval = 100 * time.Millisecond
	s.client.Inject("ens33", spec.Build())
	s.Eventually("it yields", 5*time.Second, func() bool { return !s.backup.Has(vip) })
}

func TestBadConfig(t *testing.T) {
	s := newSite(t)
	xvrrpd := filepath.Join(s.Bin, "xvrrpd")
	links := s.backup.Run("ip", "address")
	for name, tc := range map[string]struct{ conf, want string }{
		"no VRID":      {s.File("2.conf", strings.Replace(v3(1, ""), "virtual_router_id 51", "", 1)), "2.conf:4:1: error: vrrp_instance VI_1 has no virtual_router_id"},
		"priority 256": {s.File("3.conf", v3(256, "")), "3.conf:8:10: error: priority: 256 is not in the range 1 to 255"},
		"unreadable":   {filepath.Join(s.Dir, "none.conf"), "none.conf: error: read " + s.Dir + "/none.conf: no such file or directory"},
		"a directory":  {s.Dir, "is a directory"},
		"no address":   {s.File("4.conf", strings.Replace(v3(1, ""), "ens33", "lo", 1)), "is a loopback"},
	} {
		for _, flags := range [][]string{{"-t"}, {"-n", "-l"}, {}} {
			out, err := s.backup.Try(append([]string{xvrrpd, "-f", tc.conf}, flags...)...)
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, name)
			assert.Equal(t, 4, exit.ExitCode(), name)
			assert.Contains(t, out, tc.want, name)
		}
	}
	assert.Equal(t, links, s.backup.Run("ip", "address"), "nothing was touched")
	out, err := s.backup.Try(xvrrpd, "-t", "-f", s.File("5.conf", v3(1, "advert_itn 5")))
	assert.Error(t, err)
	assert.Contains(t, out, `5.conf:10:1: warning: unknown keyword "advert_itn" is skipped; did you mean "advert_int"?`)
	_, err = s.backup.Try(xvrrpd, "-t", "-f", s.config(t, "master.conf"))
	assert.NoError(t, err)
	out, err = s.backup.Try(xvrrpd, "--dataplane", "fast")
	assert.Error(t, err)
	assert.Contains(t, out, `--dataplane: "fast" is not one of`)
}

// As keepalived does, the daemon goes to the background unless told not to;
// the command returns when it runs.
func TestBackgroundAndNamespace(t *testing.T) {
	s := newSite(t)
	ns := strings.TrimPrefix(s.backup.Netns(), "/run/netns/")
	pid, sock := filepath.Join(s.Dir, "bg.pid"), filepath.Join(s.Dir, "bg.sock")
	t.Cleanup(s.backup.Crash)
	out, err := exec.Command(filepath.Join(s.Bin, "xvrrpd"), "-s", ns, "-f", s.File("b.conf", v3(90, "")),
		"-p", pid, "--control-socket", sock, "-g", filepath.Join(s.Dir, "bg.log")).CombinedOutput()
	require.NoError(t, err, string(out))
	s.Eventually("it owns the address", 10*time.Second, s.owner(s.backup))
	text, err := os.ReadFile(pid)
	require.NoError(t, err)
	var n int
	_, err = fmt.Sscan(string(text), &n)
	require.NoError(t, err)
	require.NoError(t, unix.Kill(n, unix.SIGTERM))
	s.Eventually("it is gone", 10*time.Second, func() bool { return !s.backup.Has(vip) && !exists(pid) })
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestMetricsAndEvents(t *testing.T) {
	lab.Require(t, "bash")
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")), "--metrics-listen", ka2+":9650")
	events := s.backup.Start(filepath.Join(s.Bin, "xvrrpctl"), "--control-socket", s.backup.Socket(), "events", "-f")
	s.becomes(t, s.backup, 0, "MASTER")
	s.master.XVRRPD(s.File("m.conf", v3(200, "")))
	s.Eventually("the transition is followed", 10*time.Second, func() bool {
		return strings.Contains(events.Output(), "MASTER -> BACKUP (higher_priority), priority 90, peer 192.168.1.4")
	})
	scrape := s.client.Run("bash", "-c", "exec 3<>/dev/tcp/"+net.JoinHostPort(ka2, "9650")[:len(ka2)]+"/9650; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
	for _, want := range []string{
		`xvrrp_state{instance="VI_1",interface="ens33",state="BACKUP",vrid="51"} 1`,
		`xvrrp_transitions_total{instance="VI_1",interface="ens33",reason="higher_priority",vrid="51"} 1`,
		`xvrrp_dataplane{interface="ens33",mode="generic"} 1`,
		`xvrrp_loop_deadline_lateness_seconds_bucket`,
	} {
		assert.Contains(t, scrape, want)
	}
	assert.Contains(t, s.backup.Ctl("status"), "192.168.1.4 (200)")
}

// The owner of the address is master at once, and its address is the host's:
// it stays when the daemon goes.
func TestOwner(t *testing.T) {
	s := newSite(t)
	conf := strings.ReplaceAll(strings.Replace(v3(255, ""), "BACKUP", "MASTER", 1), vip, ka1)
	owner := s.master.XVRRPD(s.File("o.conf", conf))
	s.becomes(t, s.master, 0, "MASTER")
	assert.Contains(t, owner.Output(), "from=INIT to=MASTER reason=owner")
	s.backup.XVRRPD(s.File("b.conf", strings.ReplaceAll(v3(90, ""), vip, ka1)))
	s.Eventually("the backup follows", 10*time.Second, func() bool { return ask(t, s.backup).Instances[0].Master == ka1 })
	owner.Signal(unix.SIGTERM)
	require.NoError(t, owner.Wait(10*time.Second), owner.Output())
	assert.True(t, s.master.Has(ka1))
}

// Blocks of announcements: at once, after the delay, and refreshed; each an
// ARP request for the address by itself.
func TestAnnouncements(t *testing.T) {
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "garp_master_repeat 3\ngarp_master_delay 1\ngarp_master_refresh 1\ngarp_master_refresh_repeat 2")))
	s.Eventually("the blocks are sent", 10*time.Second, func() bool { return len(s.wire.GARPs(vip)) >= 10 })
	garps := s.wire.GARPs(vip)
	var blocks []int
	for i, g := range garps {
		if i == 0 || g.Time.Sub(garps[i-1].Time) > 300*time.Millisecond {
			blocks = append(blocks, 0)
		}
		blocks[len(blocks)-1]++
	}
	assert.Equal(t, []int{3, 3, 2, 2}, blocks[:4])

	// A lower master that speaks up is answered, and the address announced.
	spec := packettest.Valid(3)
	spec.Src, spec.Advert.VRID, spec.Advert.Priority = netip.MustParseAddr("192.168.1.77"), 51, 10
	spec.Advert.Interval = 100 * time.Millisecond
	n := len(s.wire.GARPs(vip))
	s.client.Inject("ens33", spec.Build())
	s.Eventually("the address is announced again", 5*time.Second, func() bool { return len(s.wire.GARPs(vip)) >= n+3 })
	assert.Equal(t, "MASTER", ask(t, s.backup).Instances[0].State)
}

// An interface without the address that adverts are sent from is in FAULT.
func TestSourceAddressGone(t *testing.T) {
	s := newSite(t)
	s.backup.XVRRPD(s.File("b.conf", v3(90, "")))
	master := s.master.XVRRPD(s.File("m.conf", v3(200, "")))
	s.becomes(t, s.master, 0, "MASTER")
	s.master.Run("ip", "address", "add", "192.168.1.50/24", "dev", "ens33")
	s.master.Run("ip", "address", "del", ka1+"/24", "dev", "ens33")
	s.Eventually("adverts come from the address that is left", 5*time.Second, func() bool {
		return ask(t, s.backup).Instances[0].Master == "192.168.1.50"
	})
	assert.NotContains(t, master.Output(), "from=MASTER")
	s.master.Run("ip", "address", "del", "192.168.1.50/24", "dev", "ens33")
	s.becomes(t, s.master, 0, "FAULT")
	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("the address is released", 5*time.Second, func() bool { return !s.master.Has(vip) })
	s.master.Run("ip", "address", "add", ka1+"/24", "dev", "ens33")
	s.becomes(t, s.master, 0, "MASTER")
}

// VLAN devices have a dot in their name; the BPF file system allows none.
func TestDottedInterface(t *testing.T) {
	s := newSite(t)
	n := s.Node("ka3", "eth0.100 192.168.1.9/24")
	n.XVRRPD(s.File("d.conf", strings.ReplaceAll(v3(90, "no_accept"), "ens33", "eth0.100")))
	s.becomes(t, n, 0, "MASTER")
	assert.Equal(t, "generic", ask(t, n).Interfaces[0].Dataplane)
}

// A log that nobody reads any more does not end the daemon.
func TestBrokenLogPipe(t *testing.T) {
	s := newSite(t)
	conf := s.File("b.conf", v3(90, ""))
	s.backup.Start("sh", "-c", fmt.Sprintf("%s -n -l -f %s --control-socket %s -p %s/p 2>&1 | head -n 1",
		filepath.Join(s.Bin, "xvrrpd"), conf, s.backup.Socket(), s.Dir))
	s.Eventually("it serves", 10*time.Second, func() bool { return exists(s.backup.Socket()) })
	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("it goes on", 5*time.Second, func() bool { return len(s.wire.Adverts(ka2)) > 20 })
}

// A file is not a socket, and stays.
func TestControlSocketSparesFiles(t *testing.T) {
	s := newSite(t)
	precious := s.File("precious", "data")
	out, err := s.backup.Try(filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-f", s.File("b.conf", v3(90, "")), "--control-socket", precious)
	assert.Error(t, err)
	assert.Contains(t, out, "that is not a socket")
	text, err := os.ReadFile(precious)
	require.NoError(t, err)
	assert.Equal(t, "data", string(text))
}

// A stop while others ask for the status waits for their answers.
func TestStopUnderQuestions(t *testing.T) {
	s := newSite(t)
	p := s.backup.XVRRPD(s.File("b.conf", v3(90, "")))
	ask := fmt.Sprintf("while %s --control-socket %s status --json >/dev/null; do :; done", filepath.Join(s.Bin, "xvrrpctl"), s.backup.Socket())
	for range 4 {
		s.backup.Start("sh", "-c", ask)
	}
	s.becomes(t, s.backup, 0, "MASTER")
	p.Signal(unix.SIGTERM)
	require.NoError(t, p.Wait(15*time.Second), p.Output())
	assert.NotContains(t, p.Output(), "panic")
}

// What the host lacks does not refuse a file: it may come.
func TestMissingInterface(t *testing.T) {
	s := newSite(t)
	conf := s.File("b.conf", strings.Replace(v3(90, ""), "ens33", "ens34", 1))
	out, err := s.backup.Try(filepath.Join(s.Bin, "xvrrpd"), "-t", "-f", conf)
	assert.ErrorContains(t, err, "exit status 5")
	assert.Contains(t, out, "b.conf:6:11: warning: vrrp_instance VI_1 waits in FAULT: there is no interface ens34")
	p := s.backup.XVRRPD(conf)
	s.becomes(t, s.backup, 0, "FAULT")
	assert.Equal(t, "there is no interface ens34", ask(t, s.backup).Instances[0].Fault)
	s.backup.Run("ip", "link", "set", "ens33", "down")
	s.backup.Run("ip", "link", "set", "ens33", "name", "ens34")
	s.backup.Run("ip", "link", "set", "ens34", "up")
	s.Eventually("it owns the address", 10*time.Second, s.owner(s.backup))
	p.Signal(unix.SIGTERM)
	require.NoError(t, p.Wait(10*time.Second))
}
