// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/xvrrp/xvrrp/test/lab"
)

// shape is a size of a daemon: so many interfaces, with so many instances each.
type shape struct{ interfaces, each int }

func (s shape) String() string {
	if s.interfaces == 1 {
		return fmt.Sprintf("1 interface, %d instances", s.each)
	}
	return fmt.Sprintf("%d interfaces, %d instance each", s.interfaces, s.each)
}

func (s shape) instances() int { return s.interfaces * s.each }

// shapes, with the number of starts of each.
var shapes = []struct {
	shape
	starts int
}{{shape{1, 1}, 5}, {shape{200, 1}, 5}, {shape{1000, 1}, 3}, {shape{1, 250}, 5}}

// What the revision before is measured with: it took three quarters of a minute
// to start with 200 interfaces.
const (
	largestBefore = 200
	startsBefore  = 2
)

// scaleInterval is the advert interval of all these instances, and scaleWait
// what the protocol itself takes from the start to the address,
// Active_Down_Interval of RFC 9568 section 6.1.
const (
	scaleInterval = time.Second
	scaleWait     = 3*scaleInterval + scaleInterval*(256-masterPriority)/256
)

// Processor time at rest is taken in several windows.
const (
	restWindows = 4
	restWindow  = 5 * time.Second
	// restLimit is how long a pair may take to share the addresses as it should,
	// after the time that it is given anyway.
	restLimit = time.Minute
	// afterStart is from the last address until memory is read.
	afterStart = time.Second
)

// grown is what became of a daemon of one shape.
type grown struct {
	StartMs []sample // start of the program to the last address
	// Alone, while no other process shares its text, the largest of all starts:
	ProcessMiB float64 // of all processes
	KernelMiB  float64 // BPF maps, and bytecode of programs
	Programs   int
	// With a backup of the same kind on the other ends:
	Owned                  [2]int   // addresses of master and backup after the windows, or before if that was wrong
	RestMaster, RestBackup []sample // processor in percent of a core, by window
	// ProcessesMiB are those of each start.
	ProcessesMiB []sample
}

// scale starts daemons of every shape, one of each kind in turn, and looks at
// them at rest.
func (b *bench) scale(r *result) {
	r.Scale = map[string]map[string]*grown{}
	for _, sh := range shapes {
		of := map[string]*grown{}
		r.Scale[sh.String()] = of
		for n := range sh.starts {
			for _, d := range everybody[:3] {
				if !b.has(d) || d == "before" && (sh.interfaces > largestBefore || n >= startsBefore) {
					continue
				}
				b.trial("scale", d, func() {
					s := b.wires(d, sh.shape)
					took := s.startToLast(d, sh.shape)
					if of[d] == nil {
						of[d] = &grown{}
					}
					of[d].StartMs = append(of[d].StartMs, took)
					s.hold(afterStart)
					s.memory(of[d])
					if of[d].RestMaster == nil {
						s.rest(d, sh.shape, of[d])
					}
					fmt.Printf("%s, %s %d: %+v\n", sh, d, n+1, *of[d])
				})
			}
		}
	}
}

// wires is a pair of hosts with a wire for each interface. There is no client.
func (b *bench) wires(daemon string, sh shape) *site {
	s := &site{Lab: b.newLab(daemon), b: b}
	s.master, s.backup = s.Node("m"), s.Node("b")
	var links, m, p strings.Builder
	for i := range sh.interfaces {
		fmt.Fprintf(&links, "link add d%d type veth peer name d%d netns %s\n", i, i, filepath.Base(s.backup.Netns()))
		fmt.Fprintf(&m, "address add %s/24 dev d%d\nlink set d%d up\n", scaleAddr(i, 1), i, i)
		fmt.Fprintf(&p, "address add %s/24 dev d%d\nlink set d%d up\n", scaleAddr(i, 2), i, i)
	}
	s.master.Run("ip", "-batch", s.File("links", links.String()))
	s.master.Run("ip", "-batch", s.File("m-up", m.String()))
	s.backup.Run("ip", "-batch", s.File("b-up", p.String()))
	return s
}

// scaleAddr is an address of the network of an interface.
func scaleAddr(i, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(host)})
}

// scaleVIP is the n-th virtual address of an interface.
func scaleVIP(i, n int) netip.Addr { return scaleAddr(i, 3+n) }

func scaleConf(priority int, sh shape) string {
	var s strings.Builder
	fmt.Fprint(&s, "global_defs {\nrouter_id bench\nvrrp_version 3\n}\n")
	for i := range sh.interfaces {
		for n := range sh.each {
			fmt.Fprintf(&s, "vrrp_instance I%d_%d {\nstate BACKUP\ninterface d%d\nvirtual_router_id %d\npriority %d\nadvert_int 1\nvirtual_ipaddress {\n%s/24\n}\n}\n",
				i, n, i, n+1, priority, scaleVIP(i, n))
		}
	}
	return s.String()
}

// launch starts a daemon and does not wait.
func (s *site) launch(daemon string, n *lab.Node, conf string) *lab.Process {
	if ours(daemon) {
		return n.Launch(nil, conf)
	}
	return s.keepalived(n, conf)
}

// startToLast starts the master and returns the time until it has its last
// address, as the kernel tells.
func (s *site) startToLast(daemon string, sh shape) sample {
	conf := s.File("m.conf", scaleConf(masterPriority, sh))
	updates, stop := make(chan netlink.AddrUpdate, 4096), make(chan struct{})
	defer close(stop)
	ns, err := netns.GetFromPath(s.master.Netns())
	if err == nil {
		err = errors.Join(netlink.AddrSubscribeWithOptions(updates, stop, netlink.AddrSubscribeOptions{
			Namespace: &ns, ReceiveBufferSize: 8 << 20, ReceiveBufferForceSize: true,
		}), ns.Close())
	}
	if err != nil {
		s.b.Fatalf("watch the addresses: %v", err)
	}
	from := time.Now()
	s.m = s.launch(daemon, s.master, conf)
	limit := time.After(5 * time.Minute)
	seen := map[string]bool{}
	for len(seen) < sh.instances() {
		select {
		case u, ok := <-updates:
			if !ok {
				s.b.Fatalf("watch the addresses: the kernel's messages ended: %s", s.m.Output())
			}
			if a, _ := netip.AddrFromSlice(u.LinkAddress.IP); u.NewAddr && virtual(a.Unmap()) {
				seen[a.String()] = true
			}
		case <-limit:
			s.b.Fatalf("%s has %d of %d addresses after five minutes: %s", daemon, len(seen), sh.instances(), s.m.Output())
		}
	}
	return ms(time.Since(from))
}

// virtual reports whether an address is one of scaleVIP.
func virtual(a netip.Addr) bool { return a.Is4() && a.As4()[0] == 10 && a.As4()[3] > 2 }

// memory notes what the master takes.
func (s *site) memory(g *grown) {
	mib := treePss(s.m)
	kernel, programs := mapsAndPrograms(s.m)
	g.ProcessesMiB = append(g.ProcessesMiB, mib)
	g.ProcessMiB, g.KernelMiB, g.Programs = max(g.ProcessMiB, mib), max(g.KernelMiB, kernel), max(g.Programs, programs)
}

// owned counts the virtual addresses of master and backup.
func (s *site) owned() (out [2]int) {
	for i, n := range []*lab.Node{s.master, s.backup} {
		for _, line := range strings.Split(n.Run("ip", "-4", "-o", "address", "show"), "\n") {
			f := strings.Fields(line)
			if len(f) < 4 {
				continue
			}
			if a, err := netip.ParsePrefix(f[3]); err == nil && virtual(a.Addr()) {
				out[i]++
			}
		}
	}
	return out
}

// rest lets a backup join, and measures both when they have come to rest.
func (s *site) rest(daemon string, sh shape, g *grown) {
	s.p = s.launch(daemon, s.backup, s.File("b.conf", scaleConf(backupPriority, sh)))
	// Longer than a router that hears nobody takes, after the longest start.
	s.hold(time.Duration(2*g.StartMs[0])*time.Millisecond + 2*scaleWait)
	want := [2]int{sh.instances(), 0}
	for end := time.Now().Add(restLimit); ; s.hold(time.Second) {
		if g.Owned = s.owned(); g.Owned == want || time.Now().After(end) {
			break
		}
	}
	s.mustRun()
	var master, backup []sample
	for range restWindows {
		m, p, at := treeCPU(s.m), treeCPU(s.p), time.Now()
		s.hold(restWindow)
		wall := time.Since(at).Seconds()
		master = append(master, (treeCPU(s.m)-m).Seconds()/wall*100)
		backup = append(backup, (treeCPU(s.p)-p).Seconds()/wall*100)
	}
	s.mustRun()
	g.RestMaster, g.RestBackup = master, backup
	if g.Owned == want { // and still at rest?
		g.Owned = s.owned()
	}
}

// mustRun fails if a daemon has ended: it would take no processor time.
func (s *site) mustRun() {
	for _, p := range []*lab.Process{s.m, s.p} {
		if p.Ended() {
			s.b.Fatalf("a daemon has ended: %s", p.Output())
		}
	}
}
