// SPDX-License-Identifier: Apache-2.0

// Command bench measures xvrrp beside Debian's keepalived and frr, in the same
// run and the same lab. Times come from packets that a third host captured.
// Raw samples go to bench-results/, the table to docs/benchmarks.md.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
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
	// Unsteady are cuts without all 250 announced. The name in the file is older:
	// not all of them were because the backup had addresses before.
	Unsteady map[string]int    `json:"cuts_with_addresses_on_both_hosts_before"`
	Load     map[string]*loads `json:"load_250_instances_by_cut"`
	Frames   string            `json:"bpf_ns_per_frame"`
	Allocs   string            `json:"allocations"`

	Faults     map[string]map[string]map[string][]sample `json:"faults"` // by fault, daemon and number
	Starvation *unmoved                                  `json:"starvation"`
	Floods     []flooded                                 `json:"floods"`
	Soak       *unmoved                                  `json:"soak"`
	Garbage    []collected                               `json:"garbage_collection"`

	Scale   map[string]map[string]*grown   `json:"scale"`          // by shape and daemon
	Reloads map[string]map[string]reloaded `json:"reloads"`        // by daemon and whether there were any
	Rolling map[string]map[string][]sample `json:"rolling_change"` // by daemon and number

	Only      string                    `json:"only"`           // the parts that were chosen; empty: all
	Broken    map[string]string         `json:"broken"`         // parts that ended early, and why
	Unsettled map[string]map[string]int `json:"did_not_settle"` // trials, by part and daemon

	LostFrames map[string]int `json:"frames_that_a_capture_lost"` // by part
}

type sample = float64

// loads are the processor time of 250 instances at 10 ms, in percent of a core,
// and memory in MiB, by cut.
type loads struct {
	Master, Backup       []sample
	MasterMiB, BackupMiB []sample // processes; the master's before the backup starts
	MasterBPF, BackupBPF []sample // maps, and bytecode of programs
	Events               []sample // that reached user space of xvrrp's backup meanwhile
	Held                 []sample // addresses of the backup before the cut
}

func main() {
	trials := flag.Int("trials", 30, "silent cuts of each daemon")
	mass := flag.Int("mass", 10, "cuts with 250 instances")
	faulty := flag.Int("fault-trials", 50, "trials of each fault and daemon")
	reloading := flag.Int("reloads", 100, "reloads that change one of twenty instances")
	rolls := flag.Int("rolling", 20, "changes of the address list of a pair, one node after the other")
	starving := flag.Duration("starve", 10*time.Minute, "CPU starvation")
	soaking := flag.Duration("soak", 30*time.Minute, "idle soak")
	only := flag.String("only", "", "comma-separated `PARTS`: frames,cut,mass,scale,reload,rolling,faults (or one of fault-cut, -kill, -stop, -term, -freeze, or host: -vip, -ruleset, -link, -source, -remade),gc,floods,starve,soak")
	before := flag.String("before", "", "also measure the programs of git `REVISION`")
	docs := flag.Bool("docs", true, "write docs/benchmarks.md; of a run with parts missing only if this flag is given")
	from := flag.String("from", "", "measure nothing; report samples of an earlier `FILE`")
	flag.Parse()
	r := &result{
		When: time.Now(), Only: *only, Detect: map[string][]sample{},
		Dark: map[string][]sample{}, Mass: map[string][]sample{}, Load: map[string]*loads{}, Unsteady: map[string]int{},
		Faults: map[string]map[string]map[string][]sample{},
		Broken: map[string]string{}, Unsettled: map[string]map[string]int{},
	}
	b := &bench{r: r}
	parts := []part{
		{"frames", func() { b.frames(r) }},
		{"cut", func() {
			r.Floor = b.floor(10)
			b.silentCuts(r, *trials)
		}},
		{"mass", func() { b.mass(r, *mass) }},
		{"scale", func() { b.scale(r) }},
		{"reload", func() { b.reloads(r, *reloading) }},
		{"rolling", func() { b.rolling(r, *rolls) }},
	}
	for _, f := range faults {
		parts = append(parts, part{f.part(), func() { b.runFault(r, f, *faulty) }})
	}
	for _, f := range hostChanges {
		parts = append(parts, part{f.part(), func() { b.runFault(r, f, min(*faulty, 20)) }})
	}
	parts = append(parts, []part{
		{freeze.part(), func() { b.freezes(r, *faulty) }},
		{"gc", func() { b.garbage(r, 20*time.Second) }},
		{"floods", func() { b.floods(r, 5*time.Second) }},
		{"starve", func() { b.starve(r, *starving) }},
		{"soak", func() { b.soak(r, *soaking) }},
	}...)
	parts, err := choose(parts, *only)
	if err != nil {
		quit(2, err)
	}
	docsAsked := false
	flag.Visit(func(f *flag.Flag) { docsAsked = docsAsked || f.Name == "docs" })
	if *from != "" {
		if r, err = replay(*from); err != nil {
			quit(1, err)
		}
	} else {
		b.measure(parts, *before)
	}
	table := report(r)
	fmt.Println(table)
	if *docs && (docsAsked || r.whole()) {
		writeDocs(r, table)
	}
	if len(r.Broken) > 0 {
		os.Exit(1)
	}
}

func quit(code int, err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(code)
}

// part is one thing to measure, by the name that -only knows.
type part struct {
	name string
	run  func()
}

// choose returns the parts that a comma-separated list names, or all. "faults"
// stands for every fault, and "host" for what others change on a host.
func choose(parts []part, only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	names := strings.Split(only, ",")
	is := func(p part, name string) bool {
		f, fault := strings.CutPrefix(p.name, "fault-")
		return p.name == name || fault && (name == "faults" || name == "host" && isHostChange(f))
	}
	for _, name := range names {
		if !slices.ContainsFunc(parts, func(p part) bool { return is(p, name) }) {
			return nil, fmt.Errorf("choose parts: there is none of the name %q", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(parts), func(p part) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return is(p, name) })
	}), nil
}

// measure runs the parts. One that fails ends alone, and what is there of it
// is kept.
func (b *bench) measure(parts []part, before string) {
	r := b.r
	r.Environment = environment(before)
	if others := namespaces(); len(others) > 0 {
		quit(1, fmt.Errorf("a lab is there already, or was left behind (ip netns del): %s", strings.Join(others, " ")))
	}
	b.cleanUpOnSignal()
	defer b.close()
	if err := b.build(before); err != nil {
		b.close()
		quit(1, err)
	}
	r.Wakeup = timerLateness(3000)
	for _, p := range parts {
		if why := b.attempt(p.run); why != "" {
			r.Broken[p.name] = why
		}
		save(r)
	}
}

// whole reports whether nothing is missing of a run.
func (r *result) whole() bool { return r.Only == "" && len(r.Broken) == 0 }

// replay reads an earlier run again.
func replay(file string) (*result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read an earlier run: %w", err)
	}
	r := &result{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("read an earlier run of %s: %w", file, err)
	}
	return r, nil
}

// bench is a lab.TB: a failure ends what is attempted, and cleans up.
type bench struct {
	r       *result
	failure string // of what is attempted

	mu       sync.Mutex // held while cleanups run
	cleanups []func()
	dir      string // scratch, with the programs
	now      string // folder with those of the tree
	before   string // folder with those of the revision before; empty: it is not measured
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

// build makes the programs that are measured, in a folder that nobody else
// builds in meanwhile: those of the tree, and of the revision before if there is
// one.
func (b *bench) build(before string) (err error) {
	if b.dir, err = os.MkdirTemp("", "xvrrp-bench-"); err != nil {
		return fmt.Errorf("make folder for the programs: %w", err)
	}
	b.now = filepath.Join(b.dir, "now")
	cmd := exec.Command("go", "build", "-o", b.now+"/", "./cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w: %s", err, out)
	}
	if before == "" {
		return nil
	}
	if err := buildRevision(before, b.dir); err != nil {
		return err
	}
	b.before = filepath.Join(b.dir, "bin")
	return nil
}

// newLab is a lab with the programs of a daemon.
func (b *bench) newLab(daemon string) *lab.Lab {
	l := lab.New(b)
	l.Quiet, l.Bin = true, b.now
	if daemon == "before" {
		l.Bin = b.before
	}
	return l
}

func (b *bench) Helper()                 {}
func (b *bench) Logf(f string, a ...any) { fmt.Printf(f+"\n", a...) }

// Cleanup waits for ever once a signal came.
func (b *bench) Cleanup(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cleanups = append(b.cleanups, f)
}

// Fatalf ends the calling goroutine, as that of a test does.
func (b *bench) Fatalf(f string, a ...any) {
	b.failure = fmt.Sprintf(f, a...)
	runtime.Goexit()
}

// attempt runs what may fail, and says why it did. It cleans up, and ends what
// would be in the way of the next.
func (b *bench) attempt(run func()) (failure string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.end()
		defer func() {
			if b.failure != "" {
				fmt.Fprintln(os.Stderr, "bench:", b.failure)
				killChildren()
			}
		}()
		run()
	}()
	<-done
	failure, b.failure = b.failure, ""
	return failure
}

// trial attempts one of a daemon, in which it may not settle.
func (b *bench) trial(name, daemon string, run func()) {
	if b.attempt(run) != "" {
		b.unsettled(name, daemon, 1)
	}
}

// unsettled notes trials that have no numbers.
func (b *bench) unsettled(name, daemon string, trials int) {
	if b.r.Unsettled[name] == nil {
		b.r.Unsettled[name] = map[string]int{}
	}
	b.r.Unsettled[name][daemon] += trials
}

func (b *bench) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cleanUp()
}

func (b *bench) cleanUp() {
	for len(b.cleanups) > 0 { // each once, also if one fails
		last := len(b.cleanups) - 1
		f := b.cleanups[last]
		b.cleanups = b.cleanups[:last]
		f()
	}
}

func (b *bench) close() {
	b.end()
	_ = os.RemoveAll(b.dir)
}

// cleanUpOnSignal leaves nothing behind when the run is ended.
func (b *bench) cleanUpOnSignal() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	go func() {
		<-ended
		b.mu.Lock() // for ever: nothing is to be set up any more
		killChildren()
		b.cleanUp()
		killChildren() // what was on its way
		for _, ns := range namespaces() {
			if strings.HasPrefix(ns, fmt.Sprintf("xv%d-", os.Getpid())) {
				_ = exec.Command("ip", "netns", "del", ns).Run()
			}
		}
		_ = os.RemoveAll(b.dir)
		os.Exit(130)
	}()
}

// site is one LAN with two hosts and the client.
type site struct {
	*lab.Lab
	b                      *bench
	master, backup, client *lab.Node
	wire                   *lab.Capture
	m, p                   *lab.Process // the daemons of a trial
	logRead                bool         // keepalived's log tells what it has done
	from                   int          // the first frame since the last daemon started
}

func (b *bench) site(daemon string) *site {
	s := &site{Lab: b.newLab(daemon), b: b}
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
		return s.keepalived(n, c)
	}
	_, p := n.FRR("ens33", 1, priority, interval, vip, "chrt", "-r", fmt.Sprint(realtime))
	return p
}

// keepalived starts it with a log of its usual length, to syslog, or to a pipe
// if it is read.
func (s *site) keepalived(n *lab.Node, conf string) *lab.Process {
	if s.logRead {
		return n.KeepalivedWith(conf, "-l")
	}
	return n.KeepalivedWith(conf)
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
			b.trial("cut", d, func() {
				s := b.site(d)
				s.start(d, s.master, masterPriority, 1)
				s.steady(masterAddr, 10)
				s.start(d, s.backup, backupPriority, 1)
				s.hold(time.Second)
				s.steady(masterAddr, 100)
				detect, dark := s.cut()
				s.lost(r, "cut", s.wire)
				r.Detect[d] = append(r.Detect[d], detect)
				r.Dark[d] = append(r.Dark[d], dark)
				fmt.Printf("%s %d: first advert after %.2f ms, dark %.2f ms\n", d, t+1, detect, dark)
			})
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

// frames measures single frames and calls.
func (b *bench) frames(r *result) {
	var err error
	if r.Frames, r.Allocs, err = goBenchmarks(); err != nil {
		b.Fatalf("%v", err)
	}
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
			b.trial("mass", d, func() { b.massOf(r, d, t) })
		}
	}
}

// massWatched is how long announcements are waited for after a cut: four times the
// longest that keepalived took for all. The capture is left alone meanwhile.
const massWatched = 10 * time.Second

func (b *bench) massOf(r *result, daemon string, t int) {
	const n = 250
	s := b.site(daemon)
	m := s.start(daemon, s.master, masterPriority, n)
	mac := s.master.MAC("ens33").String()
	if !s.within(60*time.Second, func() bool { return len(s.announced(mac, time.Time{})) == n }) {
		b.Fatalf("%s has announced %d of %d addresses", daemon, len(s.announced(mac, time.Time{})), n)
	}
	alone := treePss(m)
	p := s.start(daemon, s.backup, backupPriority, n)
	s.hold(2 * time.Second)
	// keepalived may never be steady with so many; it is measured then as it is.
	s.within(20*time.Second, s.onlyMaster(masterAddr, 5*n))
	l := r.Load[daemon]
	s.load(daemon, m, p, l)
	l.MasterMiB = append(l.MasterMiB, alone)
	fmt.Printf("%s, 250 instances: %+v\n", daemon, *l)
	s.within(20*time.Second, s.onlyMaster(masterAddr, 5*n))
	l.Held = append(l.Held, sample(s.virtual(s.backup)))
	mac = s.backup.MAC("ens33").String()
	from := time.Now()
	s.master.Cut("ens33")
	s.hold(massWatched)
	s.lost(r, "mass", s.wire)
	announced := s.announced(mac, from)
	if len(announced) < n {
		r.Unsteady[daemon]++
		fmt.Printf("%s %d: only %d of %d announced\n", daemon, t+1, len(announced), n)
		return
	}
	last := slices.MaxFunc(slices.Collect(maps.Values(announced)), time.Time.Compare)
	took := ms(last.Sub(s.lastAdvert(masterAddr)))
	r.Mass[daemon] = append(r.Mass[daemon], took)
	fmt.Printf("%s %d: last of %d announced after %.1f ms\n", daemon, t+1, n, took)
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
	l.BackupMiB = append(l.BackupMiB, treePss(p))
	bpf, _ := mapsAndPrograms(m)
	l.MasterBPF = append(l.MasterBPF, bpf)
	bpf, _ = mapsAndPrograms(p)
	l.BackupBPF = append(l.BackupBPF, bpf)
	if ours(daemon) {
		l.Events = append(l.Events, sample(s.events()-before))
	}
}

// within reports whether cond comes true in time. It looks seldom: most
// conditions copy all that was captured, and the capture waits for them.
func (s *site) within(limit time.Duration, cond func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); s.hold(250 * time.Millisecond) {
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

// announced is when each address was announced first since a moment, by the
// host with a hardware address.
func (s *site) announced(mac string, since time.Time) map[string]time.Time {
	first := map[string]time.Time{}
	for _, f := range s.wire.Frames() {
		if _, ok := first[f.Src.String()]; f.GARP() && !ok && f.Time.After(since) && f.MAC.String() == mac {
			first[f.Src.String()] = f.Time
		}
	}
	return first
}

// virtual counts the virtual addresses that a host has.
func (s *site) virtual(n *lab.Node) (count int) {
	for _, line := range strings.Split(n.Run("ip", "-4", "-o", "address", "show", "dev", "ens33"), "\n") {
		if f := strings.Fields(line); len(f) > 3 && f[3] != masterAddr+"/24" && f[3] != backupAddr+"/24" {
			count++
		}
	}
	return count
}

func (s *site) lastAdvert(src string) time.Time {
	a := s.wire.Adverts(src)
	return a[len(a)-1].Time
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// save writes what there is so far. An end in the middle leaves the last file.
func save(r *result) {
	dir := filepath.Join("bench-results", r.When.UTC().Format("20060102-150405"))
	file := filepath.Join(dir, "samples.json")
	text, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(file+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: save samples:", err)
		return
	}
	fmt.Println("raw samples in", dir)
}

func environment(before string) map[string]string {
	out := map[string]string{}
	for name, cmd := range map[string][]string{
		"kernel":     {"uname", "-r"},
		"cores":      {"nproc"},
		"go":         {"go", "version"},
		"keepalived": {"sh", "-c", "keepalived --version 2>&1 | head -1"},
		"frr":        {"sh", "-c", "/usr/lib/frr/vrrpd --version 2>&1 | head -1"},
		"revision":   {"git", "describe", "--always", "--dirty"},
		"before":     {"git", "rev-parse", "--short", "--verify", before + "^{commit}"},
	} {
		if name == "before" && before == "" {
			continue
		}
		text, _ := exec.Command(cmd[0], cmd[1:]...).Output()
		out[name] = strings.TrimSpace(string(text))
	}
	return out
}

// stats of samples, in their unit. Without samples they are not numbers.
type stats struct {
	n                  int
	min, p50, p99, max float64
}

func summarize(v []sample) stats {
	if len(v) == 0 {
		nan := math.NaN()
		return stats{0, nan, nan, nan, nan}
	}
	v = slices.Sorted(slices.Values(v))
	at := func(q float64) float64 { return v[max(0, int(math.Ceil(q*float64(len(v))))-1)] }
	return stats{len(v), v[0], at(0.5), at(0.99), v[len(v)-1]}
}
