// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// Changes of the configuration while the daemons run. A revision before that
// cannot reload is left out.

var reloaders = everybody[:3]

const (
	reloadInstances = 20
	// reloadEvery is longer than keepalived takes on an idle machine. Under load
	// it may do several at once.
	reloadEvery = 250 * time.Millisecond
	// reloadPause is between the two nodes of a rolling change.
	reloadPause = 400 * time.Millisecond
	// rollWatched is how long a pair is watched that does not settle.
	rollWatched = 3 * time.Second
	// askEvery is how often a client asks by ARP who has an address.
	askEvery = time.Millisecond
)

// reloaded is what the other instances saw of reloads that change one.
type reloaded struct {
	Seconds      float64
	Sent, Lost   int     // pings of the other addresses, 1,000 a second are wanted
	Taken        int     // adverts of the backup for the others, and such with priority 0
	GapP50       float64 // between adverts of the master for one of them, in intervals
	GapP99, P999 float64
	GapMax       float64
	Asked, Done  int // reloads
	// Transitions of the others on both hosts, as xvrrp counts them. Nil: nobody
	// counted.
	Transitions *int
	// Idle are busy loops that did not run until the last reload.
	Idle int
}

// keepalivedReloaded is in keepalived's log once for each reload.
const keepalivedReloaded = "Reload complete"

// reload makes a daemon read its file again, in which something is new.
func (s *site) reload(daemon string, n *lab.Node, p *lab.Process) error {
	if !ours(daemon) {
		return unix.Kill(p.PID(), unix.SIGHUP)
	}
	out, err := n.Try(s.Bin+"/xvrrpctl", "--control-socket", n.Socket(), "reload", "--json")
	if err != nil {
		return fmt.Errorf("reload: %w: %s", err, out)
	}
	var told struct{ Changes []struct{ What string } }
	if err := json.Unmarshal([]byte(out), &told); err != nil {
		return fmt.Errorf("read the answer to a reload: %w: %s", err, out)
	}
	if len(told.Changes) == 0 {
		return errors.New("a reload changed nothing")
	}
	return nil
}

// changed is the configuration of twenty instances of which the last is
// another one each time.
func changed(n int) string {
	text := conf(masterPriority, reloadInstances)
	at := strings.LastIndex(text, "vrrp_instance")
	others, last := text[:at], text[at:]
	switch n % 3 {
	case 1:
		last = strings.Replace(last, fmt.Sprintf("priority %d", masterPriority), fmt.Sprintf("priority %d", masterPriority-1), 1)
	case 2:
		last = strings.Replace(last, "virtual_ipaddress {\n", "virtual_ipaddress {\n192.168.3.1/24\n", 1)
	}
	return others + last
}

// reloads measures the others while one instance changes again and again, and
// the same time without a reload. Two busy loops for each processor are the
// load.
func (b *bench) reloads(r *result, n int) {
	r.Reloads = map[string]map[string]reloaded{}
	for _, d := range reloaders {
		if !b.has(d) {
			continue
		}
		s := b.site(d)
		s.logRead = true
		// keepalived may never be steady with so many; it is measured as it is.
		settle := func(adverts int) {
			if s.within(20*time.Second, s.onlyMaster(masterAddr, adverts)) {
				return
			}
			if ours(d) {
				s.b.Fatalf("%s has not become the only master", masterAddr)
			}
			fmt.Println("reloads: keepalived did not settle")
		}
		s.m = s.start(d, s.master, masterPriority, reloadInstances)
		settle(10)
		s.p = s.start(d, s.backup, backupPriority, reloadInstances)
		settle(10 * reloadInstances)
		s.hold(time.Second)
		s.client.Run("ip", "address", "add", "192.168.2.250/24", "dev", "ens33")
		r.Reloads[d] = map[string]reloaded{
			"left alone": s.reloadsOf(d, n, false),
			"reloaded":   s.reloadsOf(d, n, true),
		}
		fmt.Printf("reloads of %s: %+v\n", d, r.Reloads[d])
		if d == "before" && r.Reloads[d]["reloaded"].Done == 0 {
			delete(r.Reloads, d)
		}
		s.lost(r, "reload", s.wire)
		b.end()
	}
}

func (s *site) reloadsOf(d string, n int, really bool) (out reloaded) {
	// Reloads may take longer than is planned, with a daemon that takes both
	// processors for itself for minutes; the load is stopped in the end.
	loops, longest := 2*runtime.NumCPU(), 4*time.Duration(n)*reloadEvery
	load := startHogs(longest+20*time.Second, loops)
	s.b.Cleanup(func() { load.stop() })
	const others = reloadInstances - 1
	counted := func() int { // of both hosts
		last := fmt.Sprintf("I%d", reloadInstances)
		return s.status(s.master).transitionsBut(last) + s.status(s.backup).transitionsBut(last)
	}
	var probers []*lab.Prober
	for i := range others {
		probers = append(probers, s.client.Probe(address(i), others*time.Millisecond))
	}
	logged, transitions := strings.Count(s.m.Output(), keepalivedReloaded), 0
	if ours(d) {
		transitions = counted()
	}
	from := time.Now()
	for i := 0; i < n && time.Since(from) < longest; i++ {
		next := time.After(reloadEvery)
		if really {
			s.File("m.conf", changed(i+1))
			out.Asked++
			if err := s.reload(d, s.master, s.m); err != nil {
				fmt.Println(err)
			} else if ours(d) { // xvrrpctl waits for the end
				out.Done++
			}
		}
		<-next
	}
	to := time.Now()
	var sent []int
	for _, p := range probers {
		sent = append(sent, p.Sent())
	}
	if ours(d) {
		transitions = counted() - transitions
		out.Transitions = &transitions
	}
	out.Seconds = to.Sub(from).Seconds()
	out.Idle = loops - load.stop()
	s.hold(500 * time.Millisecond) // for answers on their way
	for i, p := range probers {
		out.Sent += sent[i]
		out.Lost += sent[i] - p.RepliesTo(sent[i])
		p.Stop()
	}
	if d == "keepalived" {
		out.Done = strings.Count(s.m.Output(), keepalivedReloaded) - logged
	}
	var adverts []lab.Frame
	for _, f := range s.wire.Adverts("") {
		if f.Err != nil || f.Advert.VRID > others || f.Time.Before(from) || f.Time.After(to) {
			continue
		}
		if f.Src.String() != masterAddr || f.Advert.Priority == 0 {
			out.Taken++
			continue
		}
		adverts = append(adverts, f)
	}
	gaps := gapsOf(adverts, others, interval, from, to)
	slices.Sort(gaps)
	at := func(q float64) float64 { return gaps[int(math.Ceil(q*float64(len(gaps))))-1] }
	out.GapP50, out.GapP99, out.P999, out.GapMax = at(0.5), at(0.99), at(0.999), gaps[len(gaps)-1]
	return out
}

// gapsOf are the times without an advert, for each VRID from 1 on, in intervals:
// between two adverts, and before the first and after the last. A VRID without
// an advert has one gap, the whole time.
func gapsOf(adverts []lab.Frame, vrids int, interval time.Duration, from, to time.Time) (gaps []sample) {
	last := make([]time.Time, vrids)
	for i := range last {
		last[i] = from
	}
	gap := func(i int, until time.Time) {
		gaps = append(gaps, float64(until.Sub(last[i]))/float64(interval))
		last[i] = until
	}
	for _, f := range adverts {
		gap(int(f.Advert.VRID)-1, f.Time)
	}
	for i := range last {
		gap(i, to)
	}
	return gaps
}

// rollingConf is a pair's configuration with one of two address lists, which
// have the first address in common.
func rollingConf(priority, list int) string {
	return strings.Replace(conf(priority, 1), "virtual_ipaddress {\n",
		fmt.Sprintf("virtual_ipaddress {\n%s/24 dev ens33\n", rollingAddr(list)), 1)
}

func rollingAddr(list int) string { return fmt.Sprintf("192.168.1.%d", 101+list) }

// rolling changes the address list of a pair, one node after the other, and
// looks at who answers for the addresses, and what a client of the one that
// stays loses. Every change has daemons of its own: a pair that does not settle
// after one would be measured again with the next.
func (b *bench) rolling(r *result, trials int) {
	r.Rolling = map[string]map[string][]sample{}
	for t := range trials {
		for _, d := range reloaders {
			if !b.has(d) || t > 0 && r.Rolling[d] == nil {
				continue
			}
			s := b.site(d)
			got := s.rollingTrial(d, t%2 == 1)
			if t == 0 && (d != "before" || got[rollRefused] == 0) {
				r.Rolling[d] = map[string][]sample{}
			}
			if out := r.Rolling[d]; out != nil {
				for name, v := range got {
					out[name] = append(out[name], v)
				}
			}
			fmt.Printf("rolling change of %s %d: %v\n", d, t+1, got)
			s.lost(r, "rolling", s.wire)
			b.end()
		}
	}
}

const (
	rollTwo       = "questions that two hosts answered, of 1,000 a second for each address"
	rollLost      = "probes lost of 1,000 a second, on the address that stays"
	rollTaken     = "adverts of the backup"
	rollAsked     = "questions a second for each address, counted"
	rollSent      = "probes a second, counted"
	rollUnsettled = "pairs that had not settled 3 s after the change"
	rollRestless  = "pairs that did not settle before it, and were not changed"
	rollRefused   = "reloads that failed"
)

// rollNames are the numbers in the order of the table.
var rollNames = []string{rollTwo, rollLost, rollTaken, rollAsked, rollSent, rollUnsettled, rollRestless, rollRefused}

// rollingTrial starts a pair and changes it.
func (s *site) rollingTrial(d string, backupFirst bool) map[string]sample {
	c := func(n *lab.Node, priority int) string { return s.File(n.Name+".conf", rollingConf(priority, 0)) }
	s.m = s.launch(d, s.master, c(s.master, masterPriority))
	s.mark()
	if !s.within(20*time.Second, s.onlyMaster(masterAddr, 10)) {
		return map[string]sample{rollRestless: 1}
	}
	s.p = s.launch(d, s.backup, c(s.backup, backupPriority))
	// A backup that does not hear the master takes over within this.
	s.hold(time.Second)
	s.mark()
	if !s.within(20*time.Second, s.onlyMaster(masterAddr, 100)) {
		return map[string]sample{rollRestless: 1}
	}
	return s.roll(d, backupFirst)
}

// roll gives both nodes the other list.
func (s *site) roll(d string, backupFirst bool) map[string]sample {
	addrs := []string{vip, rollingAddr(0), rollingAddr(1)}
	from := time.Now()
	var askers []*lab.Asker
	for _, a := range addrs {
		askers = append(askers, s.client.Ask("ens33", clientAddr, a, askEvery))
	}
	p := s.client.Probe(vip, time.Millisecond)
	s.hold(100 * time.Millisecond)
	order := []*lab.Node{s.master, s.backup}
	if backupFirst {
		slices.Reverse(order)
	}
	refused := 0
	for _, n := range order {
		daemon, priority := s.m, masterPriority
		if n == s.backup {
			daemon, priority = s.p, backupPriority
		}
		s.File(n.Name+".conf", rollingConf(priority, 1))
		if err := s.reload(d, n, daemon); err != nil {
			fmt.Println(err)
			refused++
		}
		s.hold(reloadPause)
	}
	s.mark()
	settled := s.within(rollWatched, s.onlyMaster(masterAddr, 20))
	sent, rate, asked := p.Sent(), p.Rate(), 0.0
	for _, a := range askers {
		a.Stop()
		asked += a.Rate()
	}
	s.hold(100 * time.Millisecond)
	lost := sent - p.RepliesTo(sent)
	p.Stop()
	out := map[string]sample{
		rollLost: float64(lost), rollSent: rate, rollAsked: asked / float64(len(askers)),
		rollTwo: 0, rollTaken: 0, rollUnsettled: 0, rollRefused: float64(refused),
	}
	if !settled {
		out[rollUnsettled] = 1
	}
	for _, f := range s.wire.Adverts(backupAddr) {
		if f.Time.After(from) {
			out[rollTaken]++
		}
	}
	for i, a := range addrs {
		out[rollTwo] += sample(twoOwners(askers[i].Asked(), s.wire.Answering(a, from)))
	}
	return out
}

// twoOwners counts the questions that hosts with different MACs answered: every
// answer is one to the last question before it.
func twoOwners(asked []time.Time, answers []lab.Frame) (n int) {
	for i, at := range asked {
		first, two := "", false
		for ; len(answers) > 0; answers = answers[1:] {
			f := answers[0]
			if i+1 < len(asked) && !f.Time.Before(asked[i+1]) {
				break
			}
			if f.Time.Before(at) {
				continue
			}
			mac := f.MAC.String()
			two = two || first != "" && mac != first
			first = mac
		}
		if two {
			n++
		}
	}
	return n
}

// lost notes frames that the kernel had no room for in a capture.
func (s *site) lost(r *result, part string, c *lab.Capture) {
	n, err := c.Dropped()
	if err != nil {
		s.b.Fatalf("%v", err)
	}
	if r.LostFrames == nil {
		r.LostFrames = map[string]int{}
	}
	r.LostFrames[part] += n
}
