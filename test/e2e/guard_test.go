// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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
		Alarms   []struct{ Kind, Address, MAC string }
		Counters struct {
			Held int `json:"master_down_held"`
		}
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

// A pair that ran without it gets fast detection by a reload.
func TestFastDetectByReload(t *testing.T) {
	s := newSite(t)
	without := func(priority int) string {
		return strings.Replace(fast(priority, ""), "fast_detect interval 3.3 multiplier 3\n", "", 1)
	}
	s.master.XVRRPD(s.File("m.conf", without(200)))
	s.becomes(t, s.master, 0, "MASTER")
	s.backup.XVRRPD(s.File("b.conf", without(100)))
	s.becomes(t, s.backup, 0, "BACKUP")
	s.File("m.conf", fast(200, ""))
	s.File("b.conf", fast(100, ""))
	s.master.Ctl("reload")
	s.backup.Ctl("reload")
	s.sessionUp(t, s.backup)
	s.master.Cut("ens33")
	s.takesOverFast(t, "fast_detect")
}

func TestKilledDaemonIsReplacedAndFenced(t *testing.T) {
	s := newSite(t)
	master, _ := s.pair(t, "")
	master.Signal(unix.SIGKILL)
	s.takesOverFast(t, "peer_left")
	s.onlyAnswers(t, s.backup, time.Now())
	assert.True(t, s.master.Has(vip), "nobody is left to remove the address")
}

// onlyAnswers asks who has the address until someone has answered often, and
// wants no other MAC than that of n to have done so.
func (s *site) onlyAnswers(t *testing.T, n *lab.Node, since time.Time) {
	t.Helper()
	asked := 0
	s.Eventually("the address is answered for", 10*time.Second, func() bool {
		s.client.WhoHas("ens33", rs1, vip)
		asked++
		return asked > 20 && len(s.wire.Answers(vip, since)) > 0
	})
	assert.Equal(t, []string{n.MAC("ens33").String()}, s.wire.Answers(vip, since))
}

func TestHungDaemonIsFenced(t *testing.T) {
	s := newSite(t)
	master, _ := s.pair(t, "")
	master.Signal(unix.SIGSTOP)
	s.takesOverFast(t, "peer_left") // the lease of 0.3 s ran out, long before three adverts
	since := time.Now()
	s.onlyAnswers(t, s.backup, since)
	assert.True(t, s.master.Has(vip))

	// It wakes: knows that it slept, announces, and the lower one yields.
	master.Signal(unix.SIGCONT)
	s.becomes(t, s.backup, 0, "BACKUP")
	s.becomes(t, s.master, 0, "MASTER")
	s.Eventually("it is announced again", 5*time.Second, func() bool {
		g := s.wire.GARPs(vip)
		return g[len(g)-1].MAC.String() == s.master.MAC("ens33").String()
	})
	s.onlyAnswers(t, s.master, time.Now())
}

// hurried is fast with adverts every 10 ms, so that the RFC's timer is the first
// to notice that they stay out.
func hurried(priority int) string {
	return strings.Replace(fast(priority, ""), "advert_int 1\n", "advert_int 0.01\n", 1)
}

func (s *site) hurriedPair(t *testing.T) (master *lab.Process) {
	t.Helper()
	master = s.master.XVRRPD(s.File("m.conf", hurried(200)))
	s.becomes(t, s.master, 0, "MASTER")
	s.backup.XVRRPD(s.File("b.conf", hurried(100)))
	s.sessionUp(t, s.backup)
	return master
}

// A hung daemon whose host still serves is replaced when that host stops to, and
// not when its adverts stay out: there is one owner all the time.
func TestHungDaemonServesUntilItsLeaseEnds(t *testing.T) {
	s := newSite(t)
	master := s.hurriedPair(t)
	held := askGuard(t, s.backup).Instances[0].Counters.Held
	since := time.Now()
	master.Signal(unix.SIGSTOP)
	s.Eventually("the backup advertises", 10*time.Second, func() bool {
		s.client.WhoHas("ens33", rs1, vip)
		return len(s.wire.Adverts(ka2)) > 0
	})
	answers := 0
	for _, f := range s.wire.Answering(vip, since) {
		if f.Time.Before(s.wire.Adverts(ka2)[0].Time) {
			answers++
			assert.Equal(t, s.master.MAC("ens33"), f.MAC)
		}
	}
	assert.NotZero(t, answers)
	s.becomes(t, s.backup, 0, "MASTER")
	// The lease of the master and the patience of the backup are equally long.
	// Which ends first depends on whether the master's loop went round once more
	// after its last advert.
	assert.Contains(t, []string{"peer_left", "master_down"}, askGuard(t, s.backup).Instances[0].Why)
	s.onlyAnswers(t, s.backup, time.Now())
	assert.Equal(t, held+1, askGuard(t, s.backup).Instances[0].Counters.Held)
}

// Adverts are lost, but probes are answered: the RFC's timer has the last word.
func TestMasterThatOnlyAnswersIsReplaced(t *testing.T) {
	lab.Require(t, "nft")
	s := newSite(t)
	s.hurriedPair(t)
	held := askGuard(t, s.backup).Instances[0].Counters.Held
	s.master.Run("nft", "add table ip lost; add chain ip lost out { type filter hook output priority 0; }; add rule ip lost out ip protocol 112 drop")
	s.takesOverFast(t, "master_down")
	assert.Equal(t, held+1, askGuard(t, s.backup).Instances[0].Counters.Held)
}

// A master that lowers its priority is alive, and is replaced at once.
func TestMasterThatLowersItsPriorityIsReplaced(t *testing.T) {
	s := newSite(t)
	s.master.Run("ip", "link", "add", "tracked", "type", "veth", "peer", "name", "tracked2")
	s.master.Run("ip", "link", "set", "tracked", "up")
	s.master.Run("ip", "link", "set", "tracked2", "up")
	s.master.XVRRPD(s.File("m.conf", strings.Replace(hurried(200), "priority 200\n", "priority 200\ntrack_interface {\ntracked weight -150\n}\n", 1)))
	s.becomes(t, s.master, 0, "MASTER")
	s.backup.XVRRPD(s.File("b.conf", hurried(100)))
	s.sessionUp(t, s.backup)
	held := askGuard(t, s.backup).Instances[0].Counters.Held
	s.master.Run("ip", "link", "set", "tracked2", "down")
	s.takesOverFast(t, "master_down")
	assert.Equal(t, held, askGuard(t, s.backup).Instances[0].Counters.Held)
}

// A daemon that dies without a peer goes on serving; with one it is silent
// until the next start removes the address.
func TestFenceOutlivesTheDaemon(t *testing.T) {
	lab.Require(t, "bpftool", "ping")
	s := newSite(t)
	master := s.master.XVRRPD(s.File("m.conf", fast(200, "")))
	s.becomes(t, s.master, 0, "MASTER")
	master.Signal(unix.SIGKILL)
	require.Error(t, master.Wait(10*time.Second))
	s.onlyAnswers(t, s.master, time.Now())

	s.backup.XVRRPD(s.File("b.conf", fast(100, "")))
	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("three adverts are out", 10*time.Second, func() bool { return len(s.wire.Adverts(ka2)) >= 3 })
	third := s.wire.Adverts(ka2)[2].Time
	s.onlyAnswers(t, s.backup, third)
	var fences []struct {
		Formatted struct{ Value struct{ Seen int } }
	}
	dump := s.master.Run("bpftool", "-j", "map", "dump", "pinned", pinned(s.master, "fences"))
	require.NoError(t, json.Unmarshal([]byte(dump), &fences), dump)
	seen := 0
	for _, f := range fences {
		seen += f.Formatted.Value.Seen
	}
	assert.Positive(t, seen, dump)
	_, err := s.master.Try("ping", "-c", "1", "-W", "1", "-I", vip, rs1)
	assert.Error(t, err, "nothing leaves from the address either")

	since := time.Now()
	again := s.master.XVRRPD(s.File("m.conf", fast(50, "")))
	assert.Contains(t, again.Output(), "removed a leftover address of an earlier run")
	s.Eventually("the address is gone", 5*time.Second, func() bool { return !s.master.Has(vip) })
	s.onlyAnswers(t, s.backup, since)
	assert.False(t, askGuard(t, s.master).Instances[0].Fence.Active)
}

func TestFenceOff(t *testing.T) {
	s := newSite(t)
	master, _ := s.pair(t, "fence off")
	master.Signal(unix.SIGKILL)
	s.takesOverFast(t, "peer_left")
	since := time.Now()
	s.Eventually("both answer, as asked for", 10*time.Second, func() bool {
		s.client.WhoHas("ens33", rs1, vip)
		return len(s.wire.Answers(vip, since)) == 2
	})
	// The survivor sees it, says so, and says when it is over.
	mac := s.master.MAC("ens33").String()
	s.Eventually("the alarm is raised", 5*time.Second, func() bool {
		a := askGuard(t, s.backup).Instances[0].Alarms
		return len(a) == 1 && a[0].Kind == "vip_conflict" && a[0].MAC == mac && a[0].Address == vip
	})
	s.master.Run("ip", "address", "del", vip+"/24", "dev", "ens33")
	s.Eventually("it is over", 10*time.Second, func() bool { return len(askGuard(t, s.backup).Instances[0].Alarms) == 0 })
}

// A planned stop: the client loses next to nothing, because the one that goes
// serves until the other is there.
func TestPlannedStop(t *testing.T) {
	for _, lines := range []string{"", "fast_detect off"} {
		t.Run(lines, func(t *testing.T) {
			s := newSite(t)
			master := s.master.XVRRPD(s.File("m.conf", fast(200, lines)))
			s.becomes(t, s.master, 0, "MASTER")
			s.backup.XVRRPD(s.File("b.conf", fast(100, lines)))
			if lines == "" {
				s.sessionUp(t, s.backup)
			} else {
				s.Eventually("it follows", 5*time.Second, func() bool { return ask(t, s.backup).Instances[0].Arrival.Count > 0 })
			}
			p := s.client.Probe(vip, time.Millisecond)
			s.Eventually("the client is served", 5*time.Second, func() bool { return p.Replies() > 100 })
			master.Signal(unix.SIGTERM)
			require.NoError(t, master.Wait(10*time.Second))
			n := p.Replies()
			s.Eventually("the client is served by the other", 5*time.Second, func() bool { return p.Replies() > n+200 })
			p.Stop()
			assert.LessOrEqual(t, p.Sent()-p.RepliesTo(p.Sent()), 20, "of a thousand a second")
			assert.False(t, s.master.Has(vip))
			s.onlyAnswers(t, s.backup, time.Now())
		})
	}
}

// A daemon without a peer does not wait for ever to stop.
func TestStopAlone(t *testing.T) {
	s := newSite(t)
	master := s.master.XVRRPD(s.File("m.conf", fast(200, "")))
	s.becomes(t, s.master, 0, "MASTER")
	master.Signal(unix.SIGTERM)
	require.NoError(t, master.Wait(5*time.Second))
	assert.False(t, s.master.Has(vip))
}

// The whole node sleeps, as a virtual machine that is paused does.
func TestFrozenNode(t *testing.T) {
	s := newSite(t)
	master, _ := s.pair(t, "")
	master.Signal(unix.SIGSTOP)
	s.master.Cut("ens33")
	s.takesOverFast(t, "fast_detect")
	n := len(s.wire.Adverts(ka2))
	s.Eventually("adverts are missed", 10*time.Second, func() bool { return len(s.wire.Adverts(ka2)) >= n+5 })
	s.master.Mend("ens33")
	master.Signal(unix.SIGCONT)
	s.becomes(t, s.backup, 0, "BACKUP")
	s.Eventually("it announces again", 5*time.Second, func() bool {
		g := s.wire.GARPs(vip)
		return g[len(g)-1].MAC.String() == s.master.MAC("ens33").String()
	})
	s.onlyAnswers(t, s.master, time.Now())
	var st struct {
		Loop struct{ Stalls int } `json:"loop"`
	}
	require.NoError(t, json.Unmarshal([]byte(s.master.Ctl("status", "--json")), &st))
	assert.Equal(t, 1, st.Loop.Stalls)
}

// With nopreempt the one that replaced it stays.
func TestFrozenNodeYields(t *testing.T) {
	s := newSite(t)
	master, _ := s.pair(t, "nopreempt")
	master.Signal(unix.SIGSTOP)
	s.takesOverFast(t, "peer_left")
	n := len(s.wire.Adverts(ka2))
	s.Eventually("adverts are missed", 10*time.Second, func() bool { return len(s.wire.Adverts(ka2)) >= n+5 })
	master.Signal(unix.SIGCONT)
	s.becomes(t, s.master, 0, "BACKUP")
	assert.Equal(t, "stalled", askGuard(t, s.master).Instances[0].Why)
	assert.Equal(t, "MASTER", askGuard(t, s.backup).Instances[0].State)
	s.Eventually("the address is released", time.Second, func() bool { return !s.master.Has(vip) })
}

// The backup does not hear the master: both say what they see, and when it is
// over.
func TestOneWayLossIsAlarmed(t *testing.T) {
	s := newSite(t)
	s.master.XVRRPD(s.File("m.conf", v3(200, "")))
	s.becomes(t, s.master, 0, "MASTER")
	s.backup.XVRRPD(s.File("b.conf", v3(100, "")))
	s.Eventually("it follows", 5*time.Second, func() bool { return ask(t, s.backup).Instances[0].Arrival.Count > 0 })
	s.backup.Deafen("ens33", true)
	s.becomes(t, s.backup, 0, "MASTER")
	kinds := func(n *lab.Node) string {
		var out []string
		for _, a := range askGuard(t, n).Instances[0].Alarms {
			out = append(out, a.Kind+" "+a.Address+" "+a.MAC)
		}
		return strings.Join(out, ", ")
	}
	mac := s.backup.MAC("ens33").String()
	s.Eventually("the master sees one that does not hear it", 3*time.Second, func() bool {
		return strings.Contains(kinds(s.master), "other_master "+ka2+" "+mac+", unheard "+ka2+" "+mac)
	})
	s.Eventually("the other sees that its address is answered for", 3*time.Second, func() bool {
		return strings.Contains(kinds(s.backup), "vip_conflict "+vip+" "+s.master.MAC("ens33").String())
	})
	s.backup.Deafen("ens33", false)
	s.becomes(t, s.backup, 0, "BACKUP")
	s.Eventually("both are content", 5*time.Second, func() bool { return kinds(s.master)+kinds(s.backup) == "" })
	// The one that was master all along announced again.
	g := s.wire.GARPs(vip)
	assert.Equal(t, s.master.MAC("ens33").String(), g[len(g)-1].MAC.String())
	assert.Contains(t, s.master.Ctl("metrics"), `xvrrp_alarms_total{instance="VI_1",interface="ens33",vrid="51"}`)
}

// A backup that is cut off becomes master and doubts its own hearing, whatever
// another interface of it hears.
func TestCutOffBackupIsDeaf(t *testing.T) {
	for _, lines := range []string{"", "fast_detect interval 3.3 multiplier 3"} {
		t.Run(lines, func(t *testing.T) { testDeaf(t, lines) })
	}
	t.Run("socket", func(t *testing.T) { testDeaf(t, "", "--dataplane", "socket") })
}

func testDeaf(t *testing.T, lines string, flags ...string) {
	s := newSite(t)
	s.backup.Attach("ens34")
	s.backup.Run("ip", "address", "add", "198.51.100.2/24", "dev", "ens34")
	s.backup.Run("ip", "link", "set", "ens34", "up")
	s.client.Run("ip", "address", "add", "198.51.100.3/24", "dev", "ens33")
	s.client.Start("ping", "-q", "-i", "0.05", "198.51.100.2")
	s.master.XVRRPD(s.File("m.conf", v3(200, "")))
	s.becomes(t, s.master, 0, "MASTER")
	busy := "vrrp_instance VI_2 {\ninterface ens34\nvirtual_router_id 52\nvirtual_ipaddress {\n198.51.100.9/24\n}\n}\n"
	backup := s.backup.XVRRPD(s.File("b.conf", v3(100, lines)+busy), flags...)
	s.Eventually("it follows", 5*time.Second, func() bool { return ask(t, s.backup).Instances[0].Counters.AdvertsReceived > 0 })
	if lines != "" {
		s.sessionUp(t, s.backup)
	}
	s.backup.Cut("ens33")
	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("it says so", 3*time.Second, func() bool {
		a := askGuard(t, s.backup).Instances[0].Alarms
		return len(a) == 1 && a[0].Kind == "deaf" && a[0].Address == ka1
	})
	s.backup.Mend("ens33")
	s.becomes(t, s.backup, 0, "BACKUP")
	s.Eventually("it is over", 3*time.Second, func() bool { return len(askGuard(t, s.backup).Instances[0].Alarms) == 0 })
	assert.Contains(t, backup.Output(), "no frame received since the master went silent")
}

func TestEcho(t *testing.T) {
	lab.Require(t, "keepalived")
	s := newSite(t)
	// The peer is a plain router: it forwards, and has no reflector.
	s.master.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.ens33.send_redirects=0",
		"net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.ens33.rp_filter=0")
	s.master.Keepalived(s.File("m.conf", v3(200, "")))
	s.Eventually("keepalived is master", 15*time.Second, s.owner(s.master))
	s.backup.XVRRPD(s.File("b.conf", fast(100, "fast_detect mode echo")))
	s.Eventually("the session is Up", 15*time.Second, func() bool {
		g := askGuard(t, s.backup).Interfaces[0].Sessions
		return len(g) > 0 && g[0].State == "Up" && g[0].Mode == "echo"
	})
}

// What crosses the wire is BFD to others, too.
func TestTsharkUnderstands(t *testing.T) {
	lab.Require(t, "tshark")
	s := newSite(t)
	pcap := s.Dir + "/sbfd.pcap"
	dump := s.backup.Start("tcpdump", "-i", "ens33", "-U", "-w", pcap, "-c", "400", "udp")
	s.Eventually("tcpdump listens", 10*time.Second, func() bool { return len(dump.Output()) > 0 })
	s.pair(t, "", "--dataplane", "tcx") // tcpdump sees an answer before tcx takes it
	require.NoError(t, dump.Wait(20*time.Second))
	out := s.backup.Run("tshark", "-r", pcap, "-o", "udp.check_checksum:TRUE", "-d", "udp.port==7784,bfd",
		"-T", "fields", "-E", "separator=;", "-e", "_ws.col.Protocol", "-e", "bfd.version", "-e", "bfd.sta",
		"-e", "bfd.message_length", "-e", "_ws.expert.message", "-e", "udp.checksum.status", "-e", "ip.ttl", "-e", "ip.dsfield.dscp")
	probes := 0
	for _, l := range strings.Split(out, "\n") {
		if !strings.Contains(l, ";") {
			continue // what tshark says of running as root
		}
		probes++
		assert.Regexp(t, `^BFD Control;1;(3|0x3|0x03);24;;(1|Good);255;48$`, l)
	}
	assert.Equal(t, 400, probes)
	assert.Contains(t, s.backup.Run("tshark", "-r", pcap, "-Y", "udp.srcport==7784"), "192.168.1.4", "answers are among them")
}

// A backup that sleeps for as long as it likes does not wake as a master while
// adverts came.
func TestStalledBackupStays(t *testing.T) {
	s := newSite(t)
	s.master.XVRRPD(s.File("m.conf", fastAdverts(200)))
	s.becomes(t, s.master, 0, "MASTER")
	backup := s.backup.XVRRPD(s.File("b.conf", fastAdverts(100)))
	s.Eventually("it follows", 10*time.Second, func() bool { return ask(t, s.backup).Instances[0].Arrival.Count > 10 })
	before := transitions(t, s.backup)
	for range 5 {
		backup.Signal(unix.SIGSTOP)
		n := len(s.wire.Adverts(ka1))
		s.Eventually("many adverts are missed", 10*time.Second, func() bool { return len(s.wire.Adverts(ka1)) > n+60 })
		backup.Signal(unix.SIGCONT)
		n = len(s.wire.Adverts(ka1))
		s.Eventually("it goes on", 10*time.Second, func() bool { return len(s.wire.Adverts(ka1)) > n+10 })
	}
	assert.Equal(t, before, transitions(t, s.backup))
	assert.Empty(t, s.wire.Adverts(ka2))
}

// Real time and locked memory without any keyword, and what keywords change.
func TestProcess(t *testing.T) {
	for _, tc := range []struct {
		name, lines  string
		loop, others string // policy, and priority or reservation
		locked       bool
		nice, cpus   string
	}{
		{"defaults", "", "deadline 2ms", "deadline 100µs", true, "0", ""},
		{"off", "vrrp_rt_priority 0\nvrrp_no_swap off\nvrrp_priority 5", "other", "other", false, "5", ""},
		{"keywords", "vrrp_rt_priority 70\nvrrp_cpu_affinity 1\nvrrp_no_swap", "rr 70", "rr 69", true, "0", "1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSite(t)
			p := s.master.XVRRPD(s.File("m.conf", "global_defs {\n"+tc.lines+"\n}\n"+v3(200, "")))
			s.becomes(t, s.master, 0, "MASTER")
			var seen, want map[string]int
			s.Eventually("every thread has what it should", 5*time.Second, func() bool {
				tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
				require.NoError(t, err)
				seen = map[string]int{}
				for _, task := range tasks {
					tid, err := strconv.Atoi(task.Name())
					require.NoError(t, err)
					attr, err := unix.SchedGetAttr(tid, 0)
					if err != nil {
						return false // it ended meanwhile
					}
					how := "other"
					switch attr.Policy {
					case unix.SCHED_RR:
						how = fmt.Sprintf("rr %d", attr.Priority)
					case unix.SCHED_DEADLINE:
						how = fmt.Sprintf("deadline %v", time.Duration(attr.Runtime))
						assert.NotZero(t, attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK)
					}
					seen[how]++
					if attr.Policy != unix.SCHED_DEADLINE {
						assert.Equal(t, tc.nice, fmt.Sprint(attr.Nice))
					}
					if tc.cpus != "" && how == tc.loop {
						status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
						require.NoError(t, err)
						assert.Regexp(t, `Cpus_allowed_list:\s`+tc.cpus+"\n", string(status))
					}
				}
				want = map[string]int{tc.others: len(tasks)}
				if tc.loop != tc.others {
					want = map[string]int{tc.loop: 1, tc.others: len(tasks) - 1}
				}
				return maps.Equal(want, seen)
			})
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
			require.NoError(t, err)
			assert.Equal(t, tc.locked, !regexp.MustCompile(`VmLck:\s+0 kB`).Match(status))
			limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.PID()))
			require.NoError(t, err)
			if tc.loop != "other" {
				assert.Regexp(t, `Max realtime timeout\s+unlimited`, string(limits))
			}
		})
	}
}

// systemd is told that the daemon runs, and that it lives for as long as its
// loop goes round.
func TestWatchdog(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(s.Dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer conn.Close()
	hear := func(limit time.Duration) string {
		b := make([]byte, 256)
		_ = conn.SetReadDeadline(time.Now().Add(limit))
		n, err := conn.Read(b)
		if err != nil {
			return err.Error()
		}
		return string(b[:n])
	}
	p := s.master.XVRRPDWith([]string{"env", "NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=1200000"}, s.File("m.conf", v3(200, "")))
	assert.Equal(t, "READY=1", hear(5*time.Second))
	assert.Equal(t, "WATCHDOG=1", hear(5*time.Second))
	assert.Equal(t, "WATCHDOG=1", hear(5*time.Second))
	p.Signal(unix.SIGSTOP)
	for said := "WATCHDOG=1"; said == "WATCHDOG=1"; {
		said = hear(time.Second) // what was on its way
	}
	assert.Contains(t, hear(time.Second), "timeout")
	p.Signal(unix.SIGCONT)
	assert.Equal(t, "WATCHDOG=1", hear(5*time.Second))
}

// A master without a reflector, or one that refuses, does not answer: that is an
// alarm and a line in the log with the reason, not silence.
func TestSessionThatIsNotAnswered(t *testing.T) {
	lab.Require(t, "keepalived")
	for name, master := range map[string]func(*site){
		"keepalived": func(s *site) { s.master.Keepalived(s.File("m.conf", v3(200, ""))) },
		"refused":    func(s *site) { s.master.XVRRPD(s.File("m.conf", v3(200, "fast_detect_reflector off"))) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			master(s)
			backup := s.backup.XVRRPD(s.File("b.conf", fast(100, "")))
			s.Eventually("the alarm", 30*time.Second, func() bool { return instances(t, s.backup)["VI_1"].alarm("fast_detect_unanswered") })
			assert.Contains(t, backup.Output(), "alarm=fast_detect_unanswered")
			assert.Equal(t, "BACKUP", instances(t, s.backup)["VI_1"].State, "the adverts decide")
		})
	}
}
