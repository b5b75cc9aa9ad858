// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// Changes of the configuration while the daemons run. The revision before
// could not reload.

var reloaders = []string{"xvrrp", "keepalived"}

const (
	reloadInstances = 20
	// reloadEvery is longer than keepalived takes on an idle machine. Under load
	// it may do several at once.
	reloadEvery = 250 * time.Millisecond
	// reloadPause is between the two nodes of a rolling change.
	reloadPause = 400 * time.Millisecond
	// askEvery is how often a client asks by ARP who has an address.
	askEvery = time.Millisecond
)

// reloaded is what the other instances saw of reloads that change one.
type reloaded struct {
	Seconds      float64
	Sent, Lost   int     // pings of the other addresses, 1,000 a second in all
	Adverts      int     // of the master, for the others
	Taken        int     // adverts of the backup for the others, and such with priority 0
	GapP50       float64 // between adverts of the master for one of them, in intervals
	GapP99, P999 float64
	GapMax       float64
	Asked, Done  int // reloads
}

// keepalivedReloaded is in keepalived's log once for each reload.
const keepalivedReloaded = "Reload complete"

// reload makes a daemon read its file again.
func (s *site) reload(daemon string, n *lab.Node, p *lab.Process) error {
	if daemon != "xvrrp" {
		return unix.Kill(p.PID(), unix.SIGHUP)
	}
	out, err := n.Try(s.Bin+"/xvrrpctl", "--control-socket", n.Socket(), "reload")
	if err != nil {
		return fmt.Errorf("reload: %w: %s", err, out)
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
		s := b.site(d)
		s.m = s.start(d, s.master, masterPriority, reloadInstances)
		s.steady(masterAddr, 10)
		s.p = s.start(d, s.backup, backupPriority, reloadInstances)
		// keepalived may never be steady with so many; it is measured as it is.
		if !s.within(20*time.Second, s.onlyMaster(masterAddr, 10*reloadInstances)) && d == "xvrrp" {
			s.b.Fatalf("%s has not become the only master", masterAddr)
		}
		s.hold(time.Second)
		s.client.Run("ip", "address", "add", "192.168.2.250/24", "dev", "ens33")
		r.Reloads[d] = map[string]reloaded{
			"left alone": s.reloadsOf(d, n, false),
			"reloaded":   s.reloadsOf(d, n, true),
		}
		fmt.Printf("reloads of %s: %+v\n", d, r.Reloads[d])
		b.end()
	}
}

func (s *site) reloadsOf(d string, n int, really bool) (out reloaded) {
	length := time.Duration(n)*reloadEvery + 5*time.Second
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		hog(length, 2*runtime.NumCPU())
	}()
	const others = reloadInstances - 1
	var probers []*lab.Prober
	for i := range others {
		probers = append(probers, s.client.Probe(address(i), others*time.Millisecond))
	}
	logged := strings.Count(s.m.Output(), keepalivedReloaded)
	from := time.Now()
	for i := range n {
		next := time.After(reloadEvery)
		if really {
			s.File("m.conf", changed(i+1))
			out.Asked++
			if err := s.reload(d, s.master, s.m); err != nil {
				fmt.Println(err)
			} else if d == "xvrrp" { // xvrrpctl waits for the end
				out.Done++
			}
		}
		<-next
	}
	to := time.Now()
	out.Seconds = to.Sub(from).Seconds()
	var sent []int
	for _, p := range probers {
		sent = append(sent, p.Sent())
	}
	s.hold(500 * time.Millisecond) // for answers on their way
	for i, p := range probers {
		out.Sent += sent[i]
		out.Lost += sent[i] - p.RepliesTo(sent[i])
		p.Stop()
	}
	<-loaded
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
	out.Adverts = len(adverts)
	gaps := gapsOf(adverts, others, from, to)
	slices.Sort(gaps)
	at := func(q float64) float64 { return gaps[int(math.Ceil(q*float64(len(gaps))))-1] }
	out.GapP50, out.GapP99, out.P999, out.GapMax = at(0.5), at(0.99), at(0.999), gaps[len(gaps)-1]
	return out
}

// gapsOf are the times without an advert, for each VRID from 1 on, in intervals:
// between two adverts, and before the first and after the last. A VRID without
// an advert has one gap, the whole time.
func gapsOf(adverts []lab.Frame, vrids int, from, to time.Time) (gaps []sample) {
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

func rollingAddr(list int) string { return fmt.Sprintf("192.168.1.%d", 101+list%2) }

// rolling changes the address list of a pair, one node after the other, and
// looks at who answers for the addresses, and what a client of the one that
// stays loses.
func (b *bench) rolling(r *result, trials int) {
	r.Rolling = map[string]map[string][]sample{}
	for _, d := range reloaders {
		out := map[string][]sample{}
		r.Rolling[d] = out
		s := b.site(d)
		launch := func(n *lab.Node, priority int) *lab.Process {
			c := s.File(n.Name+".conf", rollingConf(priority, 0))
			if d == "xvrrp" {
				return n.XVRRPD(c)
			}
			return n.Keepalived(c)
		}
		s.m = launch(s.master, masterPriority)
		s.steady(masterAddr, 10)
		s.p = launch(s.backup, backupPriority)
		s.steady(masterAddr, 100)
		for t := range trials {
			got := s.roll(d, t+1)
			for name, v := range got {
				out[name] = append(out[name], v)
			}
			fmt.Printf("rolling change of %s %d: %v\n", d, t+1, got)
			s.within(10*time.Second, s.onlyMaster(masterAddr, 100))
		}
		b.end()
	}
}

const (
	rollTwo   = "questions that two hosts answered, of 1,000 a second for each address"
	rollLost  = "probes lost of 1,000 a second, on the address that stays"
	rollTaken = "adverts of the backup"
)

// roll gives both nodes the next list, the master first every other time.
func (s *site) roll(d string, list int) map[string]sample {
	addrs := []string{vip, rollingAddr(0), rollingAddr(1)}
	var askers []*lab.Asker
	for _, a := range addrs {
		askers = append(askers, s.client.Ask("ens33", clientAddr, a, askEvery))
	}
	p := s.client.Probe(vip, time.Millisecond)
	s.hold(100 * time.Millisecond)
	from := time.Now()
	order := []*lab.Node{s.master, s.backup}
	if list%4 >= 2 { // either list comes first on either node
		slices.Reverse(order)
	}
	for _, n := range order {
		daemon, priority := s.m, masterPriority
		if n == s.backup {
			daemon, priority = s.p, backupPriority
		}
		s.File(n.Name+".conf", rollingConf(priority, list))
		if err := s.reload(d, n, daemon); err != nil {
			s.b.Fatalf("%v", err)
		}
		s.hold(reloadPause)
	}
	sent := p.Sent()
	s.hold(100 * time.Millisecond)
	lost := sent - p.RepliesTo(sent)
	p.Stop()
	for _, a := range askers {
		a.Stop()
	}
	taken := 0
	for _, f := range s.wire.Adverts(backupAddr) {
		if f.Time.After(from) {
			taken++
		}
	}
	two := 0
	for _, a := range addrs {
		two += twoOwners(s.wire.Answering(a, from))
	}
	return map[string]sample{rollTwo: float64(two), rollLost: float64(lost), rollTaken: float64(taken)}
}

// twoOwners counts the questions that hosts with different MACs answered. The
// client does not capture its own questions: answers within the asking interval
// after the first are of one question.
func twoOwners(answers []lab.Frame) (n int) {
	for i := 0; i < len(answers); {
		first, two := answers[i], false
		for ; i < len(answers) && answers[i].Time.Sub(first.Time) < askEvery; i++ {
			two = two || answers[i].MAC.String() != first.MAC.String()
		}
		if two {
			n++
		}
	}
	return n
}
