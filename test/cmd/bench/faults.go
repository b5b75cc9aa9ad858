// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// Faults: every trial has daemons of its own, so that nothing that one learned
// of a peer that fails again and again is in the way of the next.

// lease is the default of vrrp_lease.
const lease = time.Second

// fault is one trial of one kind; it returns a number by name.
type fault struct {
	name  string
	what  string // of the first number
	run   func(s *site, d string) map[string]sample
	peers []string
}

// everybody is the daemons in the order of the tables: xvrrp, that of the
// revision before, and the peers.
var everybody = []string{"xvrrp", "before", "keepalived", "frr"}

// ours reports whether a daemon is xvrrp, of this revision or of the one
// before.
func ours(d string) bool { return d == "xvrrp" || d == "before" }

var faults = []fault{
	{"cut", "client dark, ms", (*site).silentCut, everybody},
	{"kill", "SIGKILL to the first advert of the other, ms", (*site).kill, everybody},
	{"stop", "SIGSTOP to the last answer of the hung host, ms", (*site).hang, everybody[:3]},
	{"term", "probes lost of 5,000 a second", (*site).planned, everybody},
}

// freeze is played in several labs at once: most of it is waiting.
var freeze = fault{"freeze", "resume to the last answer of the one that yields, ms", nil, []string{"xvrrp", "keepalived"}}

// runFault fills r.Faults[name][daemon][number], with a trial of each daemon in
// turn, so that slow phases of the machine meet all alike.
func (b *bench) runFault(r *result, f fault, trials int) {
	r.Faults[f.name] = map[string]map[string][]sample{}
	for t := range trials {
		for _, d := range f.peers {
			if !b.has(d) {
				continue
			}
			if t == 0 {
				r.Faults[f.name][d] = map[string][]sample{}
			}
			b.trial(f.part(), d, func() {
				s := b.site(d)
				s.begin(d)
				r.played(f, d, f.run(s, d))
				s.lost(r, f.part(), s.wire)
			})
		}
	}
}

// part is the name that -only knows a fault by.
func (f fault) part() string { return "fault-" + f.name }

// played keeps the numbers of a trial.
func (r *result) played(f fault, d string, got map[string]sample) {
	out := r.Faults[f.name][d]
	for name, v := range got {
		out[name] = append(out[name], v)
	}
	fmt.Printf("%s %s: %v\n", f.name, d, got)
}

// ownerless is a trial that could not be played.
const ownerless = "trials left out: nobody answered before"

// begin starts a master and a backup and waits until nothing changes any more.
func (s *site) begin(d string) {
	s.m = s.startFast(d, s.master, masterPriority)
	s.steady(masterAddr, 10)
	s.p = s.startFast(d, s.backup, backupPriority)
	if ours(d) {
		s.Eventually("the session is Up", 10*time.Second, s.sessionUp)
	}
	s.hold(300 * time.Millisecond)
	s.steady(masterAddr, 30)
	phase := unix.NsecToTimespec(rand.Int64N(int64(interval)))
	_ = unix.Nanosleep(&phase, nil)
}

// startFast is start with fast detection, if the daemon has it.
func (s *site) startFast(d string, n *lab.Node, priority int) *lab.Process {
	if !ours(d) {
		return s.start(d, n, priority, 1)
	}
	defer s.mark()
	return n.XVRRPD(s.File(n.Name+".conf", fastConf(priority)))
}

func fastConf(priority int) string {
	return "global_defs {\nfast_detect interval 1 multiplier 3\n}\n" + conf(priority, 1)
}

func (s *site) sessionUp() bool {
	st, err := status(s.backup)
	return err == nil && len(st.Interfaces) > 0 && len(st.Interfaces[0].Sessions) > 0 && st.Interfaces[0].Sessions[0].State == "Up"
}

// served starts the client and waits until it is served.
func (s *site) served() *lab.Prober {
	p := s.client.Probe(vip, probeEvery)
	s.Eventually("the client is served", 10*time.Second, func() bool { return p.Replies() > 250 })
	return p
}

func (s *site) silentCut(string) map[string]sample {
	p := s.served()
	from := time.Now()
	s.master.Cut("ens33")
	first := s.firstAdvert(from)
	s.Eventually("the client is served again", 10*time.Second, func() bool {
		return p.LastReply().After(first.Add(50 * time.Millisecond))
	})
	rate := p.Rate()
	p.Stop()
	gap, _ := p.Darkness(from.Add(-interval), time.Now())
	last := s.wire.Adverts(masterAddr)
	s.master.Mend("ens33")
	return map[string]sample{"": ms(gap), "last advert to first advert": ms(first.Sub(last[len(last)-1].Time)), probeRate: rate}
}

// firstAdvert waits for the backup's first advert after a moment.
func (s *site) firstAdvert(after time.Time) (at time.Time) {
	s.Eventually("the backup advertises", 10*time.Second, func() bool {
		for _, f := range s.wire.Adverts(backupAddr) {
			if f.Time.After(after) {
				at = f.Time
				return true
			}
		}
		return false
	})
	return at
}

func (s *site) kill(string) map[string]sample {
	p := s.served()
	a := s.client.Ask("ens33", clientAddr, vip, askEvery)
	s.hold(50 * time.Millisecond)
	at := time.Now()
	s.m.Signal(unix.SIGKILL)
	first := s.firstAdvert(at)
	// From the takeover on: from the first announcement of the new master.
	takeover := s.firstGARP(at)
	s.hold(300 * time.Millisecond)
	rate := p.Rate()
	a.Stop()
	p.Stop()
	gap, _ := p.Darkness(at.Add(-interval), time.Now())
	return map[string]sample{
		"": ms(first.Sub(at)), "MACs that answer after it": float64(len(s.wire.Answers(vip, takeover))), "client dark": ms(gap),
		probeRate: rate, askRate: a.Rate(),
	}
}

func (s *site) firstGARP(after time.Time) (at time.Time) {
	mac, master := s.backup.MAC("ens33").String(), s.master.MAC("ens33").String()
	s.Eventually("the backup announces the address", 10*time.Second, func() bool {
		for _, f := range s.wire.GARPs(vip) {
			if f.Time.After(after) && f.MAC.String() != master && (f.MAC.String() == mac || f.MAC[0] == 0) {
				at = f.Time
				return true
			}
		}
		return false
	})
	return at
}

// hungWatched is how long a hung host is watched.
const hungWatched = lease + 300*time.Millisecond

const (
	otherAnswers = "to the first answer of the other, ms"
	lastOwners   = "MACs that answer at the end"
	probeRate    = "probes a second, counted"
	askRate      = "questions a second, counted"
)

func (s *site) hang(string) map[string]sample {
	a := s.client.Ask("ens33", clientAddr, vip, askEvery)
	since := time.Now()
	if !s.answers(s.master, since) {
		a.Stop()
		return map[string]sample{ownerless: 1}
	}
	at := time.Now()
	s.m.Signal(unix.SIGSTOP)
	s.hold(hungWatched)
	out := s.owners(s.master, s.backup, since, at, hungWatched)
	a.Stop()
	out[askRate] = a.Rate()
	return out
}

// answers waits until a host answers for the address.
func (s *site) answers(n *lab.Node, since time.Time) bool {
	mac := n.MAC("ens33").String()
	return s.within(2*time.Second, func() bool { return slices.Contains(s.wire.Answers(vip, since), mac) })
}

// owners says who answered from a moment on, at which one host was to yield to
// another. A time that is not over when they are watched no more is the time
// that they were watched.
func (s *site) owners(yields, follows *lab.Node, since, at time.Time, watched time.Duration) map[string]sample {
	return ownersOf(s.wire.Answering(vip, since), yields.MAC("ens33").String(), follows.MAC("ens33").String(), at, watched)
}

func ownersOf(answers []lab.Frame, yields, follows string, at time.Time, watched time.Duration) map[string]sample {
	const atEnd = 200 * time.Millisecond
	last, first := at, watched
	owners := map[string]bool{}
	for _, f := range answers {
		mac, after := f.MAC.String(), f.Time.Sub(at)
		if after < 0 || after > watched {
			continue
		}
		switch mac {
		case yields:
			last = f.Time
		case follows:
			first = min(first, after)
		}
		if after > watched-atEnd {
			owners[mac] = true
		}
	}
	yielded := last.Sub(at)
	if yielded > watched-10*askEvery { // it goes on
		yielded = watched
	}
	return map[string]sample{"": ms(yielded), otherAnswers: ms(first), lastOwners: float64(len(owners))}
}

// watched is how long a fault is watched; a time that long had not ended.
func watched(fault, number string) time.Duration {
	switch {
	case isHostChange(fault): // every number of it is such a time
		return hostWatched
	case number != "" && number != otherAnswers:
	case fault == "stop":
		return hungWatched
	case fault == freeze.name:
		return thawWatched
	}
	return 0
}

// figure is a number of a fault, as it is printed.
func figure(fault, number string, v sample) string {
	if w := watched(fault, number); w > 0 && v >= ms(w) {
		return fmt.Sprintf("> %.0f", ms(w))
	}
	return fmt.Sprintf("%.2f", v)
}

func (s *site) planned(string) map[string]sample {
	p := s.served()
	from := time.Now()
	s.m.Signal(unix.SIGTERM)
	s.firstAdvert(from)
	s.hold(300 * time.Millisecond)
	sent := p.Sent()
	s.hold(100 * time.Millisecond)
	lost, rate := sent-p.RepliesTo(sent), p.Rate()
	p.Stop()
	gap, _ := p.Darkness(from.Add(-interval), time.Now())
	return map[string]sample{"": float64(lost), "client dark": ms(gap), probeRate: rate}
}

// freezes lets whole nodes sleep for five seconds, as a paused virtual machine
// does, in several labs, and wakes them one after the other; the daemons in
// turn. If one lab fails, so does what is left of its round.
func (b *bench) freezes(r *result, trials int) {
	const labs = 5
	r.Faults[freeze.name] = map[string]map[string][]sample{}
	for t := 0; t < trials; t += labs {
		for _, d := range freeze.peers {
			if t == 0 {
				r.Faults[freeze.name][d] = map[string][]sample{}
			}
			played := 0
			if b.attempt(func() { b.freezeAll(r, d, labs, &played) }) != "" {
				b.unsettled(freeze.part(), d, labs-played)
			}
		}
	}
}

// freezeAll is one trial in each lab. It counts those that it has played.
func (b *bench) freezeAll(r *result, d string, labs int, played *int) {
	var sites []*site
	for range labs {
		s := b.site(d)
		s.begin(d)
		sites = append(sites, s)
	}
	for _, s := range sites {
		at := time.Now()
		s.m.Signal(unix.SIGSTOP)
		s.master.Cut("ens33")
		s.firstAdvert(at)
	}
	sites[0].hold(5 * time.Second)
	for _, s := range sites {
		r.played(freeze, d, s.thaw())
		s.lost(r, freeze.part(), s.wire)
		*played++
	}
}

// thawWatched is how long a host that wakes is watched.
const thawWatched = 400 * time.Millisecond

const thawAnnounced = "resume to its announcement, ms"

// thaw wakes the master and looks who answers from then on. A host that
// announces nothing has no number for it.
func (s *site) thaw() map[string]sample {
	a := s.client.Ask("ens33", clientAddr, vip, askEvery)
	since := time.Now()
	answered := s.answers(s.backup, since)
	s.master.Mend("ens33")
	resumed := time.Now()
	s.m.Signal(unix.SIGCONT)
	if !answered {
		a.Stop()
		return map[string]sample{ownerless: 1}
	}
	s.hold(thawWatched)
	out := s.owners(s.backup, s.master, since, resumed, thawWatched)
	a.Stop()
	out[askRate] = a.Rate()
	mac := s.master.MAC("ens33").String()
	for _, f := range s.wire.GARPs(vip) {
		if f.Time.After(resumed) && f.MAC.String() == mac {
			out[thawAnnounced] = ms(f.Time.Sub(resumed))
			break
		}
	}
	return out
}
