// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
	"github.com/xvrrp/xvrrp/test/lab"
)

// nodeStatus is the part of the status that is measured here.
type nodeStatus struct {
	Instances []struct {
		Name     string
		State    string
		Counters struct {
			Transitions map[string]int
			Held        int `json:"master_down_held"`
		}
	}
	Interfaces []struct {
		Frames   map[string]struct{ Pass, Drop int }
		Sessions []sessionStatus
	}
	Loop struct {
		WakeLateMaxMs float64 `json:"wake_late_max_ms"`
		WakeLateP99   float64 `json:"wake_late_p99_below_ms"`
	}
}

type sessionStatus struct {
	State    string
	Verdicts map[string]int
	Sent     int `json:"probes_sent"`
}

func status(n *lab.Node) (st nodeStatus, err error) {
	err = json.Unmarshal([]byte(n.Ctl("status", "--json")), &st)
	return st, err
}

// status is that of a daemon, with its instances and its interface.
func (s *site) status(n *lab.Node) nodeStatus {
	st, err := status(n)
	switch {
	case err != nil:
		s.b.Fatalf("read the status of %s: %v", n.Name, err)
	case len(st.Instances) == 0:
		s.b.Fatalf("the status of %s has no instance", n.Name)
	case len(st.Interfaces) == 0:
		s.b.Fatalf("the status of %s has no interface", n.Name)
	}
	return st
}

// session is the one of fast detection that the backup has.
func (s *site) session() (st nodeStatus, session sessionStatus) {
	st = s.status(s.backup)
	if len(st.Interfaces[0].Sessions) == 0 {
		s.b.Fatalf("the status of the backup has no session")
	}
	return st, st.Interfaces[0].Sessions[0]
}

// downs are the verdicts that end a session.
func (s sessionStatus) downs() int { return s.Verdicts["down"] + s.Verdicts["admin_down"] }

// later is the number of times that a loop woke later than each of lateBounds.
func later(n *lab.Node) (out [len(lateBounds)]int) {
	for _, line := range strings.Split(n.Ctl("metrics"), "\n") {
		var text string
		var within float64 // a million is written 1e+06
		if _, err := fmt.Sscanf(line, "xvrrp_loop_wake_lateness_seconds_bucket{le=%q} %g", &text, &within); err != nil {
			continue
		}
		bound, err := strconv.ParseFloat(text, 64) // also +Inf, the last one
		if err != nil {
			continue
		}
		if math.IsInf(bound, 1) {
			for i := range out {
				out[i] = int(within) - out[i]
			}
		} else if i := slices.Index(lateBounds[:], time.Duration(math.Round(bound*1e9))); i >= 0 {
			out[i] = int(within)
		}
	}
	return out
}

// lateBounds are bounds of the daemon's own histogram.
var lateBounds = [...]time.Duration{1 << 20, 1 << 22, 1 << 23, 1 << 24, 1 << 25, 1 << 26} // 1 to 67 ms

// transitions of an instance.
func (s nodeStatus) transitions(instance int) (sum int) {
	for _, n := range s.Instances[instance].Counters.Transitions {
		sum += n
	}
	return sum
}

// transitionsBut are those of all instances but one.
func (s nodeStatus) transitionsBut(name string) (sum int) {
	for i := range s.Instances {
		if s.Instances[i].Name != name {
			sum += s.transitions(i)
		}
	}
	return sum
}

// plain is the configuration without a keyword about scheduling.
func plain(priority, instances int) string {
	text := conf(priority, instances)
	for _, line := range []string{fmt.Sprintf("vrrp_rt_priority %d\n", realtime), fmt.Sprintf("vrrp_rlimit_rttime %d\n", rttime)} {
		text = strings.ReplaceAll(text, line, "")
	}
	return text
}

func plainFast(priority int) string {
	return "global_defs {\nfast_detect interval 1 multiplier 3\n}\n" + plain(priority, 1)
}

// The instances of bothWays.
const (
	withFastDetect = iota
	advertsAlone
	ways
)

var wayNames = [ways]string{"fast_detect 1 ms x 3", "adverts alone"}

// bothWays is two instances on the same hosts, without a keyword about
// scheduling.
func bothWays(priority int) string {
	return strings.Replace(plain(priority, ways), "vrrp_instance I1 {\n", "vrrp_instance I1 {\nfast_detect interval 1 multiplier 3\n", 1)
}

// unmoved is what became of a pair that nothing should move.
type unmoved struct {
	Seconds float64
	// FalseFailovers of the backup, by way or daemon.
	FalseFailovers map[string]int
	Held           int // silences of the master that fast detection knew to be lateness
	Probes         int
	Downs          int                             // verdicts of the session
	WakeLateMaxMs  map[string]float64              // of xvrrp's loop, by host
	StolenMs       float64                         // processor time that the machine's host kept from it
	Later          map[string][len(lateBounds)]int // wake-ups of xvrrp's loop, by host
	Log            map[string]string               // of xvrrp, by host
}

// watchBothWays starts a pair of bothWays. What it returns says what has become
// of it since.
func (s *site) watchBothWays() func() *unmoved {
	mp := s.master.XVRRPD(s.File("m.conf", bothWays(masterPriority)))
	s.mark()
	s.steady(masterAddr, 20)
	bp := s.backup.XVRRPD(s.File("b.conf", bothWays(backupPriority)))
	s.mark()
	s.Eventually("the session is Up", 10*time.Second, s.sessionUp)
	s.steady(masterAddr, 200)
	before, was := s.session()
	lateBefore := map[string][len(lateBounds)]int{"master": later(s.master), "backup": later(s.backup)}
	began, stolen := time.Now(), stolenMs()
	return func() *unmoved {
		after, session := s.session()
		m := s.status(s.master)
		u := &unmoved{
			Seconds: time.Since(began).Seconds(), FalseFailovers: map[string]int{},
			Held:          after.Instances[withFastDetect].Counters.Held - before.Instances[withFastDetect].Counters.Held,
			Probes:        session.Sent - was.Sent,
			Downs:         session.downs() - was.downs(),
			WakeLateMaxMs: map[string]float64{"master": m.Loop.WakeLateMaxMs, "backup": after.Loop.WakeLateMaxMs},
			StolenMs:      stolenMs() - stolen,
			Later:         map[string][len(lateBounds)]int{"master": later(s.master), "backup": later(s.backup)},
			Log:           map[string]string{"master": mp.Output(), "backup": bp.Output()},
		}
		for host, counts := range u.Later {
			for i := range counts {
				counts[i] -= lateBefore[host][i]
			}
			u.Later[host] = counts
		}
		for way, name := range wayNames {
			became := after.transitions(way) - before.transitions(way)
			u.FalseFailovers[name] = (became + 1) / 2 // there and back
		}
		return u
	}
}

// starve runs both daemons in one lab, under the same load: eight seconds of
// ordinary work on every processor, then two of FIFO-50 hogs.
func (b *bench) starve(r *result, length time.Duration) {
	x, k := b.site("xvrrp"), b.site("keepalived")
	defer b.end()
	k.logRead = true
	// xvrrp as it is without a keyword; keepalived above the hogs.
	const above = config.DefaultRTPriority
	k.keepalived(k.master, k.File("m.conf", confAt(above, masterPriority, 1)))
	k.mark()
	k.steady(masterAddr, 10)
	ka := k.keepalived(k.backup, k.File("b.conf", confAt(above, backupPriority, 1)))
	k.mark()
	became := x.watchBothWays()
	k.steady(masterAddr, 100)
	entered := strings.Count(ka.Output(), "Entering MASTER STATE")
	began := time.Now()
	for time.Since(began) < length {
		for _, load := range []struct{ ran, wanted int }{
			{hog(8*time.Second, 2*runtime.NumCPU()), 2 * runtime.NumCPU()},
			{hog(2*time.Second, runtime.NumCPU(), "chrt", "-f", "50"), runtime.NumCPU()},
		} {
			if load.ran < load.wanted {
				b.Fatalf("starve: %d of %d busy loops ran until their limit", load.ran, load.wanted)
			}
		}
	}
	x.hold(time.Second)
	r.Starvation = became()
	r.Starvation.FalseFailovers["keepalived"] = strings.Count(ka.Output(), "Entering MASTER STATE") - entered
	fmt.Printf("starvation: %+v\n", r.Starvation.FalseFailovers)
}

// hog keeps every processor busy with n programs for a while. Their limit of
// processor time ends them: whatever would have to run to end real-time hogs
// might not. It returns how many that limit ended.
func hog(d time.Duration, n int, prefix ...string) int {
	// SIGXCPU is the soft limit's, and SIGKILL that of the hard one.
	return startHogs(d, n, prefix...).wait(unix.SIGXCPU, unix.SIGKILL)
}

// hogs are busy loops.
type hogs []*exec.Cmd

// startHogs starts n busy loops, which end by themselves after a while.
func startHogs(d time.Duration, n int, prefix ...string) (running hogs) {
	seconds := int(d.Seconds()) * runtime.NumCPU() / n
	for range n {
		args := append(slices.Clone(prefix), "sh", "-c", fmt.Sprintf("ulimit -t %d; while :; do :; done", seconds))
		c := exec.Command(args[0], args[1:]...)
		if c.Start() == nil {
			running = append(running, c)
		}
	}
	return running
}

// stop ends ordinary ones, and returns how many had run until then.
func (h hogs) stop() (ran int) {
	for _, c := range h {
		_ = c.Process.Signal(unix.SIGTERM)
	}
	return h.wait(unix.SIGTERM)
}

// wait returns how many one of the signals has ended.
func (h hogs) wait(by ...unix.Signal) (n int) {
	for _, c := range h {
		_ = c.Wait()
		if st, ok := c.ProcessState.Sys().(syscall.WaitStatus); ok && slices.Contains(by, st.Signal()) {
			n++
		}
	}
	return n
}

// What the program drops by itself, but for a trickle.
const (
	floodUnknown = "unknown VRIDs"
	floodTTL     = "our VRID, TTL 64"
)

// flooded is one row of the flood matrix.
type flooded struct {
	Daemon      string
	Kind        string
	Rate        float64 // frames a second
	Transitions int
	GapMax      float64 // largest gap between the master's adverts, in intervals
	CPU         float64 // of both daemons, percent of a core
	CPUIdle     float64
}

// kindOfFlood is a row of the flood matrix.
type kindOfFlood struct {
	kind  string
	flood lab.Flood
}

// floods plays every flood to each daemon in turn.
func (b *bench) floods(r *result, length time.Duration) {
	spoofed := netip.MustParseAddr("192.168.1.66")
	for _, f := range []kindOfFlood{
		{floodUnknown, lab.Flood{Frames: 190, Change: func(n int, s *packettest.Spec) { s.Advert.VRID = uint8(60 + n%190) }}},
		{floodTTL, lab.Flood{Change: func(_ int, s *packettest.Spec) { s.TTL = 64 }}},
		{"wrong checksum", lab.Flood{Change: func(_ int, s *packettest.Spec) {
			s.Mutate = func(b []byte, _, p int) []byte { b[p+6] ^= 1; return b }
		}}},
		{"wrong password", lab.Flood{Version: 2, Change: func(_ int, s *packettest.Spec) { copy(s.Advert.Auth[:], "guessed!") }}},
		{"lower priority, one source", lab.Flood{Change: func(_ int, s *packettest.Spec) { s.Advert.Priority, s.Src = 1, spoofed }}},
		{"lower priority, forty sources", lab.Flood{Frames: 40, Change: func(n int, s *packettest.Spec) {
			s.Advert.Priority, s.Src = 1, netip.AddrFrom4([4]byte{192, 168, 1, byte(150 + n)})
		}}},
	} {
		for _, d := range []string{"xvrrp", "before"} {
			if b.has(d) {
				b.floodOf(r, d, f, length)
			}
		}
	}
}

func (b *bench) floodOf(r *result, daemon string, f kindOfFlood, length time.Duration) {
	s := b.site(daemon)
	defer b.end()
	watcher := s.Node("w", "ens33 192.168.1.30/24")
	every, text := interval, conf
	if f.flood.Version == 2 {
		every, text = time.Second, confV2
	} else {
		f.flood.Version = 3
	}
	f.flood.VRID, f.flood.Addr, f.flood.Interval = 1, netip.MustParseAddr(vip), every
	m := s.master.XVRRPD(s.File("m.conf", text(masterPriority, 1)))
	s.mark()
	s.steady(masterAddr, 3)
	p := s.backup.XVRRPD(s.File("b.conf", text(backupPriority, 1)))
	s.mark()
	s.steady(masterAddr, 5)
	s.hold(time.Second)
	row := flooded{Daemon: daemon, Kind: f.kind}
	cpu := func(d time.Duration) float64 {
		before, at := treeCPU(m)+treeCPU(p), time.Now()
		s.hold(d)
		return (treeCPU(m) + treeCPU(p) - before).Seconds() / time.Since(at).Seconds() * 100
	}
	row.CPUIdle = cpu(length)
	transitions := func() int { return s.status(s.master).transitions(0) + s.status(s.backup).transitions(0) }
	before := transitions()
	wire, from := watcher.CaptureOf("ens33", netip.MustParseAddr(masterAddr)), time.Now()
	s.hold(3 * every)
	flood, at := s.client.Flood("ens33", f.flood), time.Now()
	row.CPU = cpu(length)
	row.Rate = float64(flood.Sent()) / time.Since(at).Seconds()
	flood.Stop()
	if flood.Sent() == 0 {
		b.Fatalf("flood, %s: nothing was sent", f.kind)
	}
	s.hold(2 * every)
	to := time.Now()
	adverts := slices.DeleteFunc(wire.Adverts(masterAddr), func(a lab.Frame) bool {
		return a.Err != nil || a.Advert.VRID != 1 || a.Time.Before(from) || a.Time.After(to)
	})
	row.GapMax = slices.Max(gapsOf(adverts, 1, every, from, to))
	row.Transitions = transitions() - before
	s.lost(r, "floods", wire)
	r.Floods = append(r.Floods, row)
	fmt.Printf("flood: %+v\n", row)
}

func confV2(priority, _ int) string {
	return fmt.Sprintf("vrrp_instance I1 {\nstate BACKUP\ninterface ens33\nvirtual_router_id 1\npriority %d\nadvert_int 1\nauthentication {\nauth_type PASS\nauth_pass 123456\n}\nvirtual_ipaddress {\n%s/24\n}\n}\n", priority, vip)
}

// soak leaves a pair alone.
func (b *bench) soak(r *result, length time.Duration) {
	s := b.site("xvrrp")
	defer b.end()
	became := s.watchBothWays()
	s.hold(length)
	r.Soak = became()
	fmt.Printf("soak: %+v\n", r.Soak.FalseFailovers)
}

// collected is the loop's lateness with and without garbage collections.
type collected struct {
	Collections int
	WakeLateP99 float64
	WakeLateMax float64
	Downs       int
}

// garbage forces collections: the daemon collects at every allocation's worth
// of its heap, and questions make it allocate.
func (b *bench) garbage(r *result, length time.Duration) {
	for _, forced := range []bool{false, true} {
		s := b.site("xvrrp")
		s.master.XVRRPD(s.File("m.conf", plainFast(masterPriority)))
		s.mark()
		s.steady(masterAddr, 10)
		env := []string{"env", "GODEBUG=gctrace=1"}
		if forced {
			env = append(env, "GOGC=1")
		}
		p := s.backup.XVRRPDWith(env, s.File("b.conf", plainFast(backupPriority)))
		s.Eventually("the session is Up", 10*time.Second, s.sessionUp)
		for end := time.Now().Add(length); time.Now().Before(end); {
			if forced {
				_, _ = status(s.backup)
			} else {
				s.hold(time.Second)
			}
		}
		st, session := s.session()
		row := collected{
			Collections: strings.Count(p.Output(), "\ngc "), WakeLateP99: st.Loop.WakeLateP99,
			WakeLateMax: st.Loop.WakeLateMaxMs, Downs: session.downs(),
		}
		r.Garbage = append(r.Garbage, row)
		fmt.Printf("garbage collection, forced %v: %+v\n", forced, row)
		b.end()
	}
}
