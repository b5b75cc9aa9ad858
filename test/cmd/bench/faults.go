// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
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

// runFault fills r.Faults[name][daemon][number].
func (b *bench) runFault(r *result, f fault, trials int) {
	r.Faults[f.name] = map[string]map[string][]sample{}
	for _, d := range f.peers {
		if !b.has(d) {
			continue
		}
		out := map[string][]sample{}
		r.Faults[f.name][d] = out
		var s *site
		for t := range trials {
			if s == nil || d == "frr" {
				b.end()
				s = b.site(d)
			}
			s.begin(d)
			got := f.run(s, d)
			for name, v := range got {
				out[name] = append(out[name], v)
			}
			fmt.Printf("%s %s %d: %v\n", f.name, d, t+1, got)
			s.finish(d)
		}
		b.end()
	}
}

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

// finish ends the daemons and leaves no address behind.
func (s *site) finish(d string) {
	for _, p := range []*lab.Process{s.p, s.m} {
		p.Signal(unix.SIGCONT)
		p.Kill()
	}
	if d == "frr" {
		return // its site is taken down
	}
	for _, n := range []*lab.Node{s.backup, s.master} {
		_, _ = n.Try("ip", "address", "del", vip+"/24", "dev", "ens33")
	}
}

// startFast is start with fast detection, if the daemon has it.
func (s *site) startFast(d string, n *lab.Node, priority int) *lab.Process {
	if !ours(d) {
		return s.start(d, n, priority, 1)
	}
	return n.XVRRPD(s.File(n.Name+".conf", "global_defs {\nfast_detect interval 1 multiplier 3\n}\n"+conf(priority, 1)))
}

func (s *site) sessionUp() bool {
	st, err := status(s.backup)
	return err == nil && len(st.Interfaces[0].Sessions) > 0 && st.Interfaces[0].Sessions[0].State == "Up"
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
	p.Stop()
	gap, _ := p.Darkness(from.Add(-interval), time.Now())
	last := s.wire.Adverts(masterAddr)
	s.master.Mend("ens33")
	return map[string]sample{"": ms(gap), "last advert to first advert": ms(first.Sub(last[len(last)-1].Time))}
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
	a.Stop()
	p.Stop()
	gap, _ := p.Darkness(at.Add(-interval), time.Now())
	return map[string]sample{
		"": ms(first.Sub(at)), "MACs that answer after it": float64(len(s.wire.Answers(vip, takeover))), "client dark": ms(gap),
	}
}

func (s *site) firstGARP(after time.Time) (at time.Time) {
	mac := s.backup.MAC("ens33").String()
	s.Eventually("the backup announces the address", 10*time.Second, func() bool {
		for _, f := range s.wire.GARPs(vip) {
			if f.Time.After(after) && f.MAC.String() != s.master.MAC("ens33").String() && (f.MAC.String() == mac || f.MAC[0] == 0) {
				at = f.Time
				return true
			}
		}
		return false
	})
	return at
}

func (s *site) hang(string) map[string]sample {
	a := s.client.Ask("ens33", clientAddr, vip, askEvery)
	s.hold(50 * time.Millisecond)
	at := time.Now()
	s.m.Signal(unix.SIGSTOP)
	s.hold(lease + 300*time.Millisecond)
	a.Stop()
	return map[string]sample{"": ms(s.lastAnswer(s.master, at).Sub(at))}
}

// lastAnswer is when a host last answered for the address, or since.
func (s *site) lastAnswer(n *lab.Node, since time.Time) time.Time {
	mac, last := n.MAC("ens33").String(), since
	for _, f := range s.wire.Answering(vip, since) {
		if f.MAC.String() == mac {
			last = f.Time
		}
	}
	return last
}

func (s *site) planned(string) map[string]sample {
	p := s.served()
	from := time.Now()
	s.m.Signal(unix.SIGTERM)
	s.firstAdvert(from)
	s.hold(300 * time.Millisecond)
	sent := p.Sent()
	s.hold(100 * time.Millisecond)
	lost := sent - p.RepliesTo(sent)
	p.Stop()
	gap, _ := p.Darkness(from.Add(-interval), time.Now())
	return map[string]sample{"": float64(lost), "client dark": ms(gap)}
}

// freezes lets whole nodes sleep for five seconds, as a paused virtual machine
// does, in several labs, and wakes them one after the other.
func (b *bench) freezes(r *result, trials int) {
	const labs = 5
	r.Faults[freeze.name] = map[string]map[string][]sample{}
	for _, d := range freeze.peers {
		out := map[string][]sample{}
		r.Faults[freeze.name][d] = out
		var sites []*site
		for range labs {
			sites = append(sites, b.site(d))
		}
		for len(out[""]) < trials {
			for _, s := range sites {
				s.begin(d)
			}
			for _, s := range sites {
				at := time.Now()
				s.m.Signal(unix.SIGSTOP)
				s.master.Cut("ens33")
				s.firstAdvert(at)
			}
			sites[0].hold(5 * time.Second)
			for _, s := range sites {
				for name, v := range s.thaw() {
					out[name] = append(out[name], v)
				}
				s.finish(d)
			}
			fmt.Printf("freeze %s: %v\n", d, out[""][len(out[""])-labs:])
		}
		b.end()
	}
}

// thawWatched is how long a host that wakes is watched.
const thawWatched = 400 * time.Millisecond

const thawAnnounced = "resume to its announcement, ms"

// thaw wakes the master and looks who answers from then on. A host that
// announces nothing counts with the time that it is watched.
func (s *site) thaw() map[string]sample {
	a := s.client.Ask("ens33", clientAddr, vip, askEvery)
	s.hold(20 * time.Millisecond)
	s.master.Mend("ens33")
	resumed := time.Now()
	s.m.Signal(unix.SIGCONT)
	s.hold(thawWatched)
	a.Stop()
	out := map[string]sample{
		"":                            ms(s.lastAnswer(s.backup, resumed).Sub(resumed)),
		"MACs that answer at the end": float64(len(s.wire.Answers(vip, time.Now().Add(-200*time.Millisecond)))),
		thawAnnounced:                 ms(thawWatched),
	}
	mac := s.master.MAC("ens33").String()
	for _, f := range s.wire.GARPs(vip) {
		if f.Time.After(resumed) && f.MAC.String() == mac {
			out[thawAnnounced] = ms(f.Time.Sub(resumed))
			break
		}
	}
	return out
}
