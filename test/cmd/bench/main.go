// SPDX-License-Identifier: Apache-2.0

// Command bench measures xvrrp beside Debian's keepalived and frr, in the same
// run and the same lab. Times come from packets that a third host captured.
// Raw samples go to bench-results/, the table to docs/benchmarks.md.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

const (
	masterAddr, backupAddr, clientAddr, vip = "192.168.1.4", "192.168.1.8", "192.168.1.20", "192.168.1.100"

	interval       = 10 * time.Millisecond
	masterPriority = 254
	backupPriority = 250
	// probeEvery is the client's resolution: 5,000 probes a second.
	probeEvery = 200 * time.Microsecond
	realtime   = 50
	// rttime is keepalived's limit of real-time processor time without a pause,
	// in microseconds: a thousand seconds, longer than it ever runs here.
	rttime = 1_000_000_000
)

// masterDown is Master_Down_Interval of the backup, RFC 9568 section 6.1.
var masterDown = 3*interval + interval*(256-backupPriority)/256

// result is everything that a run measured.
type result struct {
	When        time.Time           `json:"when"`
	Environment map[string]string   `json:"environment"`
	Detect      map[string][]sample `json:"last_advert_to_first_advert_ms"`
	Dark        map[string][]sample `json:"client_darkness_ms"`
	Floor       []sample            `json:"darkness_without_fault_ms"`
	Wakeup      []sample            `json:"timer_lateness_ms"`
	Mass        map[string][]sample `json:"cut_to_last_of_250_announced_ms"`
	Unsteady    map[string]int      `json:"cuts_with_addresses_on_both_hosts_before"`
	Load        map[string]*loads   `json:"load_250_instances_by_cut"`
	Frames      string              `json:"bpf_ns_per_frame"`
	Allocs      string              `json:"allocations"`

	Faults     map[string]map[string]map[string][]sample `json:"faults"` // by fault, daemon and number
	Starvation *unmoved                                  `json:"starvation"`
	Floods     []flooded                                 `json:"floods"`
	Soak       *unmoved                                  `json:"soak"`
	Garbage    []collected                               `json:"garbage_collection"`

	Scale   map[string]map[string]*grown   `json:"scale"`          // by shape and daemon
	Reloads map[string]map[string]reloaded `json:"reloads"`        // by daemon and whether there were any
	Rolling map[string]map[string][]sample `json:"rolling_change"` // by daemon and number

	LostFrames map[string]int `json:"frames_that_a_capture_lost"` // by part
}

type sample = float64

// loads are the processor time of 250 instances at 10 ms, in percent of a core,
// and memory in MiB, by cut.
type loads struct {
	Master, Backup       []sample
	MasterMiB, BackupMiB []sample // processes
	MasterBPF, BackupBPF []sample // maps and programs
	Events               []sample // that reached user space of xvrrp's backup meanwhile
}

func main() {
	trials := flag.Int("trials", 30, "silent cuts of each daemon")
	mass := flag.Int("mass", 10, "cuts with 250 instances")
	faulty := flag.Int("fault-trials", 50, "trials of each fault and daemon")
	reloading := flag.Int("reloads", 100, "reloads that change one of twenty instances")
	rolls := flag.Int("rolling", 20, "changes of the address list of a pair, one node after the other")
	starving := flag.Duration("starve", 10*time.Minute, "CPU starvation")
	soaking := flag.Duration("soak", 30*time.Minute, "idle soak")
	only := flag.String("only", "", "comma-separated parts: frames,cut,mass,scale,reload,rolling,faults (or one of fault-cut, -kill, -stop, -term, -freeze),gc,floods,starve,soak")
	before := flag.String("before", "", "also measure the programs of git `REVISION`")
	docs := flag.Bool("docs", true, "write docs/benchmarks.md")
	from := flag.String("from", "", "measure nothing; report samples of an earlier `FILE`")
	flag.Parse()
	if *from != "" {
		replay(*from, *docs)
		return
	}
	b := &bench{}
	defer b.end()
	if *before != "" {
		dir, err := buildRevision(*before)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		defer os.RemoveAll(dir)
		b.before = filepath.Join(dir, "bin")
	}
	part := func(name string) bool { return *only == "" || strings.Contains(","+*only+",", ","+name+",") }
	r := &result{
		When: time.Now(), Environment: environment(), Detect: map[string][]sample{},
		Dark: map[string][]sample{}, Mass: map[string][]sample{}, Load: map[string]*loads{}, Unsteady: map[string]int{},
		Faults: map[string]map[string]map[string][]sample{},
	}
	if part("frames") {
		r.Frames, r.Allocs = goBenchmarks()
	}
	if part("cut") {
		r.Wakeup = timerLateness(3000)
		r.Floor = b.floor(10)
		b.silentCuts(r, *trials)
	}
	if part("mass") {
		b.mass(r, *mass)
	}
	if part("scale") {
		b.scale(r)
		save(r)
	}
	if part("reload") {
		b.reloads(r, *reloading)
		save(r)
	}
	if part("rolling") {
		b.rolling(r, *rolls)
		save(r)
	}
	for _, f := range faults {
		if part("faults") || part("fault-"+f.name) {
			b.runFault(r, f, *faulty)
			save(r)
		}
	}
	if part("faults") || part("fault-freeze") {
		b.freezes(r, *faulty)
		save(r)
	}
	if part("gc") {
		b.garbage(r, 20*time.Second)
	}
	if part("floods") {
		b.floods(r, 5*time.Second)
		save(r)
	}
	if part("starve") {
		b.starve(r, *starving)
		save(r)
	}
	if part("soak") {
		b.soak(r, *soaking)
	}
	save(r)
	table := report(r)
	fmt.Println(table)
	if *docs && *only == "" {
		writeDocs(r, table)
	}
}

// replay reports an earlier run again.
func replay(file string, docs bool) {
	text, err := os.ReadFile(file)
	r := &result{}
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	table := report(r)
	fmt.Println(table)
	if docs {
		writeDocs(r, table)
	}
}

// bench is a lab.TB: it ends the run, and cleans up before.
type bench struct {
	cleanups []func()
	before   string // folder with the programs of the revision before; empty: it is not measured
}

// has reports whether a daemon is there to be measured.
func (b *bench) has(daemon string) bool {
	switch daemon {
	case "before":
		return b.before != ""
	case "frr":
		return lab.HaveFRR()
	}
	return true
}

func (b *bench) Helper()                 {}
func (b *bench) Logf(f string, a ...any) { fmt.Printf(f+"\n", a...) }
func (b *bench) Cleanup(f func())        { b.cleanups = append(b.cleanups, f) }
func (b *bench) Fatalf(f string, a ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+f+"\n", a...)
	b.end()
	os.Exit(1)
}

func (b *bench) end() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
	b.cleanups = nil
}

// site is one LAN with two hosts and the client.
type site struct {
	*lab.Lab
	b                      *bench
	master, backup, client *lab.Node
	wire                   *lab.Capture
	m, p                   *lab.Process // the daemons of a trial
	from                   int          // the first frame since the last daemon started
}

func (b *bench) site(daemon string) *site {
	s := &site{Lab: lab.New(b), b: b}
	if daemon == "before" {
		s.Bin = b.before
	}
	s.master = s.Node("m", "ens33 "+masterAddr+"/24")
	s.backup = s.Node("b", "ens33 "+backupAddr+"/24")
	s.client = s.Node("c", "ens33 "+clientAddr+"/24")
	s.wire = s.client.Capture("ens33")
	return s
}

func conf(priority, instances int) string { return confAt(realtime, priority, instances) }

func confAt(realtime, priority, instances int) string {
	var s strings.Builder
	fmt.Fprintf(&s, "global_defs {\nrouter_id bench\nvrrp_version 3\nvrrp_rt_priority %d\nvrrp_rlimit_rttime %d\nvrrp_garp_master_delay 0\n}\n", realtime, rttime)
	for i := range instances {
		fmt.Fprintf(&s, "vrrp_instance I%d {\nstate BACKUP\ninterface ens33\nvirtual_router_id %d\npriority %d\nadvert_int 0.01\nvirtual_ipaddress {\n%s/24 dev ens33\n}\n}\n",
			i+1, i+1, priority, address(i))
	}
	return s.String()
}

func address(i int) string {
	if i == 0 {
		return vip
	}
	return fmt.Sprintf("192.168.2.%d", i)
}

// start runs a daemon on a node with n instances.
func (s *site) start(daemon string, n *lab.Node, priority, instances int) *lab.Process {
	c := s.File(n.Name+".conf", conf(priority, instances))
	defer s.mark()
	switch daemon {
	case "xvrrp", "before":
		return n.XVRRPD(c)
	case "keepalived":
		return n.Keepalived(c)
	}
	_, p := n.FRR("ens33", 1, priority, interval, vip, "chrt", "-r", fmt.Sprint(realtime))
	return p
}

// mark says that a daemon has started: what was heard before shows nothing.
func (s *site) mark() { s.from = s.wire.Len() }

// steady waits until the master alone has sent a number of adverts since the
// last daemon started.
func (s *site) steady(src string, adverts int) {
	s.Eventually(src+" is the only master", 30*time.Second, s.onlyMaster(src, adverts))
}

func (s *site) onlyMaster(src string, adverts int) func() bool {
	return func() bool {
		left := adverts
		for _, f := range slices.Backward(s.wire.Since(s.from)) {
			if left == 0 {
				return true
			}
			if f.Advert == nil {
				continue
			}
			if f.Src.String() != src {
				return false
			}
			left--
		}
		return left == 0
	}
}

// silentCuts takes a cut of each daemon in turn, so that slow phases of the
// machine meet all alike. Every cut has daemons of its own: FRR 8.4 leaves its
// device up when it has been master once, and then answers for the address as a
// backup.
func (b *bench) silentCuts(r *result, trials int) {
	for t := range trials {
		for _, d := range everybody {
			if !b.has(d) {
				continue
			}
			s := b.site(d)
			s.start(d, s.master, masterPriority, 1)
			s.steady(masterAddr, 10)
			s.start(d, s.backup, backupPriority, 1)
			s.hold(time.Second)
			s.steady(masterAddr, 100)
			detect, dark := s.cut()
			r.Detect[d] = append(r.Detect[d], detect)
			r.Dark[d] = append(r.Dark[d], dark)
			fmt.Printf("%s %d: first advert after %.2f ms, dark %.2f ms\n", d, t+1, detect, dark)
			b.end()
		}
	}
}

// cut takes the master's port away at a random phase of its interval and
// measures from the wire; then it gives the port back.
func (s *site) cut() (detect, dark float64) {
	p := s.client.Probe(vip, probeEvery)
	s.Eventually("the client is served", 10*time.Second, func() bool { return p.Replies() > 500 })
	phase := unix.NsecToTimespec(rand.Int64N(int64(interval)))
	_ = unix.Nanosleep(&phase, nil)
	seen := len(s.wire.Adverts(backupAddr))
	from := time.Now()
	s.master.Cut("ens33")
	s.Eventually("the backup advertises", 10*time.Second, func() bool { return len(s.wire.Adverts(backupAddr)) > seen })
	s.Eventually("the client is served again", 10*time.Second, func() bool {
		return p.LastReply().After(s.wire.Adverts(backupAddr)[seen].Time.Add(20 * time.Millisecond))
	})
	p.Stop()
	gap, _ := p.Darkness(from.Add(-interval), time.Now())
	last := s.wire.Adverts(masterAddr)
	detect = ms(s.wire.Adverts(backupAddr)[seen].Time.Sub(last[len(last)-1].Time))
	s.master.Mend("ens33")
	return detect, ms(gap)
}

// floor is the darkness that the client sees although nothing fails.
func (b *bench) floor(rounds int) []sample {
	s := b.site("")
	defer b.end()
	s.master.Run("ip", "address", "add", vip+"/24", "dev", "ens33")
	var out []sample
	for range rounds {
		p := s.client.Probe(vip, probeEvery)
		s.Eventually("the client is served", 10*time.Second, func() bool { return p.Replies() > 7500 })
		p.Stop()
		gap, _ := p.Darkness(time.Time{}, time.Now())
		out = append(out, ms(gap))
	}
	return out
}

// timerLateness is how late this machine wakes a real-time thread.
func timerLateness(n int) []sample {
	var out []sample
	done := make(chan struct{})
	go func() {
		defer close(done)
		lockRealtime()
		for range n {
			var before, after unix.Timespec
			_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &before)
			pause := unix.NsecToTimespec(int64(time.Millisecond))
			_ = unix.Nanosleep(&pause, nil)
			_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &after)
			out = append(out, float64(after.Nano()-before.Nano()-int64(time.Millisecond))/1e6)
		}
	}()
	<-done
	return out
}

// mass measures 250 instances of each daemon in turn: the load in steady state,
// and the time from a cut to the announcement of the last address. Every cut
// has daemons of its own: keepalived does not always settle again after one.
func (b *bench) mass(r *result, cuts int) {
	for t := range cuts {
		for _, d := range everybody[:3] {
			if !b.has(d) {
				continue
			}
			if r.Load[d] == nil {
				r.Load[d] = &loads{}
			}
			b.massOf(r, d, t)
		}
	}
}

func (b *bench) massOf(r *result, daemon string, t int) {
	const n = 250
	s := b.site(daemon)
	defer b.end()
	m := s.start(daemon, s.master, masterPriority, n)
	s.Eventually("every instance is announced", 60*time.Second, func() bool { return s.announced(masterAddr, time.Time{}) == n })
	p := s.start(daemon, s.backup, backupPriority, n)
	s.hold(2 * time.Second)
	// keepalived may never be steady with so many; it is measured then as it is.
	s.within(20*time.Second, s.onlyMaster(masterAddr, 5*n))
	s.load(daemon, m, p, r.Load[daemon])
	fmt.Printf("%s, 250 instances: %+v\n", daemon, *r.Load[daemon])
	s.within(20*time.Second, s.onlyMaster(masterAddr, 5*n))
	from := time.Now()
	s.master.Cut("ens33")
	if s.within(30*time.Second, func() bool { return s.announced(backupAddr, from) == n }) {
		took := ms(s.lastAnnounced(from).Sub(s.lastAdvert(masterAddr)))
		r.Mass[daemon] = append(r.Mass[daemon], took)
		fmt.Printf("%s %d: last of 250 announced after %.1f ms\n", daemon, t+1, took)
	} else {
		// The backup held some of them already: it had not been steady.
		r.Unsteady[daemon]++
		fmt.Printf("%s %d: only %d of 250 announced\n", daemon, t+1, s.announced(backupAddr, from))
	}
}

// load measures both daemons over five seconds.
func (s *site) load(daemon string, m, p *lab.Process, l *loads) {
	before := 0
	if ours(daemon) {
		before = s.events()
	}
	cm, cb, at := treeCPU(m), treeCPU(p), time.Now()
	s.hold(5 * time.Second)
	wall := time.Since(at).Seconds()
	l.Master = append(l.Master, (treeCPU(m)-cm).Seconds()/wall*100)
	l.Backup = append(l.Backup, (treeCPU(p)-cb).Seconds()/wall*100)
	l.MasterMiB, l.BackupMiB = append(l.MasterMiB, treePss(m)), append(l.BackupMiB, treePss(p))
	bpf, _ := mapsAndPrograms(m)
	l.MasterBPF = append(l.MasterBPF, bpf)
	bpf, _ = mapsAndPrograms(p)
	l.BackupBPF = append(l.BackupBPF, bpf)
	if ours(daemon) {
		l.Events = append(l.Events, sample(s.events()-before))
	}
}

// within says whether cond comes true in time.
func (s *site) within(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); s.hold(20 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}

// hold lets the lab run for a while: the time over which something is measured.
func (s *site) hold(d time.Duration) { <-time.After(d) }

// events counts the frames that reached user space of xvrrp's backup.
func (s *site) events() int {
	st, err := status(s.backup)
	if err != nil {
		s.b.Fatalf("read the status: %v", err)
	}
	if len(st.Interfaces) == 0 {
		s.b.Fatalf("the status has no interface")
	}
	frames, ok := st.Interfaces[0].Frames["event"]
	if !ok {
		s.b.Fatalf("the status does not count events")
	}
	return frames.Pass
}

// announced counts the addresses that a host has announced since a moment.
func (s *site) announced(src string, since time.Time) int {
	mac := s.mac(src)
	seen := map[string]bool{}
	for _, f := range s.wire.Frames() {
		if f.GARP() && f.Time.After(since) && f.MAC.String() == mac {
			seen[f.Src.String()] = true
		}
	}
	return len(seen)
}

func (s *site) mac(src string) string {
	n := s.master
	if src == backupAddr {
		n = s.backup
	}
	return strings.TrimSpace(n.Run("sh", "-c", "ip -o link show ens33 | sed 's/.*ether \\([^ ]*\\).*/\\1/'"))
}

// lastAnnounced is when the last address was announced for the first time.
func (s *site) lastAnnounced(since time.Time) time.Time {
	mac := s.mac(backupAddr)
	first := map[string]time.Time{}
	for _, f := range s.wire.Frames() {
		if _, ok := first[f.Src.String()]; f.GARP() && !ok && f.Time.After(since) && f.MAC.String() == mac {
			first[f.Src.String()] = f.Time
		}
	}
	var last time.Time
	for _, t := range first {
		if t.After(last) {
			last = t
		}
	}
	return last
}

func (s *site) lastAdvert(src string) time.Time {
	a := s.wire.Adverts(src)
	return a[len(a)-1].Time
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

func save(r *result) {
	dir := filepath.Join("bench-results", r.When.UTC().Format("20060102-150405"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return
	}
	text, _ := json.MarshalIndent(r, "", " ")
	if err := os.WriteFile(filepath.Join(dir, "samples.json"), text, 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	fmt.Println("raw samples in", dir)
}

func environment() map[string]string {
	out := map[string]string{}
	for name, cmd := range map[string][]string{
		"kernel":     {"uname", "-r"},
		"cores":      {"nproc"},
		"go":         {"go", "version"},
		"keepalived": {"sh", "-c", "keepalived --version 2>&1 | head -1"},
		"frr":        {"sh", "-c", "/usr/lib/frr/vrrpd --version 2>&1 | head -1"},
		"revision":   {"git", "rev-parse", "--short", "HEAD"},
	} {
		text, _ := exec.Command(cmd[0], cmd[1:]...).Output()
		out[name] = strings.TrimSpace(string(text))
	}
	return out
}

// stats of samples, in their unit.
type stats struct {
	n                  int
	min, p50, p99, max float64
}

func summarize(v []sample) stats {
	if len(v) == 0 {
		return stats{}
	}
	v = slices.Sorted(slices.Values(v))
	at := func(q float64) float64 { return v[max(0, int(math.Ceil(q*float64(len(v))))-1)] }
	return stats{len(v), v[0], at(0.5), at(0.99), v[len(v)-1]}
}
