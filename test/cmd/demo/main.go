// SPDX-License-Identifier: Apache-2.0

// Command demo plays the main job in network namespaces: two hosts, one
// virtual address, a crash, and what a client notices of it. It runs as root
// by `make demo` and leaves nothing behind.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

const (
	ka1 = "192.168.1.4"
	ka2 = "192.168.1.8"
	rs1 = "192.168.1.20"
	vip = "192.168.1.100"
)

// stage is a lab.TB that ends the program, and cleans up before.
type stage struct{ cleanups []func() }

func (s *stage) Helper()                   {}
func (s *stage) Logf(f string, a ...any)   { fmt.Printf(f+"\n", a...) }
func (s *stage) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *stage) Fatalf(f string, a ...any) { fmt.Fprintf(os.Stderr, "demo: "+f+"\n", a...); s.end(1) }

func (s *stage) end(code int) {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	os.Exit(code)
}

func main() {
	s := &stage{}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: network namespaces and XDP need root")
		os.Exit(1)
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, unix.SIGTERM)
	go func() {
		<-interrupted
		s.end(130)
	}()
	play(s)
	s.end(0)
}

func say(format string, a ...any) { fmt.Printf("\n== "+format+"\n", a...) }

// owners prints the IPv4 addresses of both hosts.
func owners(nodes ...*lab.Node) {
	for _, n := range nodes {
		fmt.Println(n.Name + "# ip address show ens33")
		fmt.Println(grep(n.Run("ip", "address", "show", "ens33"), "inet "))
	}
}

func play(s *stage) {
	say("Two hosts (ka1 %s, ka2 %s) and a client (rs1 %s) on one LAN", ka1, ka2, rs1)
	l := lab.New(s)
	master := l.Node("ka1", "ens33 "+ka1+"/24")
	backup := l.Node("ka2", "ens33 "+ka2+"/24")
	client := l.Node("rs1", "ens33 "+rs1+"/24")
	wire := client.Capture("ens33")
	dump := client.Start("tcpdump", "-i", "ens33", "-nn", "-l", "-t", "host", "224.100.100.100")
	tail := &follower{p: dump}
	l.Eventually("tcpdump listens", 10*time.Second, func() bool { return strings.Contains(dump.Output(), "listening") })

	say("ka2 (priority 90) starts alone and takes %s after its master-down time", vip)
	lower := backup.XVRRPD(l.File("backup.conf", article("BACKUP", 90)))
	l.Eventually("ka2 owns the address", 10*time.Second, func() bool { return backup.Has(vip) })
	tail.wait(l, 2)
	owners(backup)

	say("ka1 (priority 100) starts and preempts; ka2 releases the address at once")
	daemon := master.XVRRPD(l.File("master.conf", article("MASTER", 100)))
	l.Eventually("ka1 owns the address", 10*time.Second, func() bool { return master.Has(vip) && !backup.Has(vip) })
	tail.wait(l, 3)
	owners(master, backup)
	fmt.Println("ka2# xvrrpctl status")
	fmt.Print(backup.Ctl("status"))

	say("rs1 pings %s a thousand times a second; then ka1 crashes: no packet leaves it any more", vip)
	probe := client.Probe(vip, time.Millisecond)
	l.Eventually("the client is served", 5*time.Second, func() bool { return probe.Replies() > 500 })
	seen := len(wire.Adverts(ka2))
	from := time.Now()
	master.Cut("ens33")
	daemon.Kill()
	l.Eventually("ka2 announces the address", 10*time.Second, func() bool { return len(wire.Adverts(ka2)) > seen })
	l.Eventually("the client is served again", 5*time.Second, func() bool { return probe.LastReply().After(lastOf(wire.Adverts(ka2))) })
	tail.wait(l, 1)
	owners(backup)
	timeline(wire, probe, from, seen, added(lower.Output()))
	probe.Stop()
	dark, _ := probe.Darkness(from, time.Now())
	fmt.Printf("\nThe client was without an answer for %v: the master-down time of VRRP at one\n"+
		"advert a second is 3 s + 166/256 s = 3.648 s, counted from the last advert.\n", dark.Round(time.Millisecond))

	say("ka1 comes back, removes what the crash left and preempts; SIGTERM then hands over politely")
	master.Mend("ens33")
	daemon = master.XVRRPD(l.File("master.conf", article("MASTER", 100)))
	l.Eventually("ka1 owns the address", 10*time.Second, func() bool { return master.Has(vip) && !backup.Has(vip) })
	daemon.Signal(unix.SIGTERM)
	if err := daemon.Wait(10 * time.Second); err != nil {
		s.Fatalf("stop of ka1: %v", err)
	}
	l.Eventually("ka2 owns the address", 10*time.Second, func() bool { return backup.Has(vip) })
	tail.wait(l, 2)
	owners(master, backup)
	say("Done; everything is taken down again")
}

func lastOf(frames []lab.Frame) time.Time { return frames[len(frames)-1].Time }

// timeline prints what happened on the wire, as rs1 saw it.
func timeline(wire *lab.Capture, probe *lab.Prober, cut time.Time, seen int, addresses time.Duration) {
	lastAdvert := lastOf(wire.Adverts(ka1))
	first := wire.Adverts(ka2)[seen].Time
	fmt.Println("\nTimeline, from the last advert of ka1:")
	line := func(at time.Time, what string) {
		if !at.IsZero() {
			fmt.Printf("  %+10.3f ms  %s\n", float64(at.Sub(lastAdvert).Microseconds())/1000, what)
		}
	}
	line(lastAdvert, "last advert of ka1")
	line(cut, "ka1 crashes")
	line(first, "ka2 has detected it: its first advert")
	line(first.Add(addresses), "address added, by ka2's log")
	for _, g := range wire.GARPs(vip) {
		if g.Time.After(first) {
			line(g.Time, "first gratuitous ARP of ka2, from "+g.MAC.String())
			break
		}
	}
	line(probe.FirstReplyAfter(first), "first reply to the client")
}

// added returns how long the last takeover took to add the address.
func added(log string) time.Duration {
	_, after, _ := strings.Cut(log[strings.LastIndex(log, "to=MASTER"):], "addresses_after=")
	d, _ := time.ParseDuration(strings.Fields(after + " ")[0])
	return d
}

func article(state string, priority int) string {
	return fmt.Sprintf(`global_defs {
   router_id %s
   vrrp_mcast_group4 224.100.100.100
}

vrrp_instance VI_1 {
    state %s
    interface ens33
    virtual_router_id 88
    priority %d
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass 123456
    }
    virtual_ipaddress {
        192.168.1.100/24 dev ens33 label ens33:1
    }
}
`, strings.ToLower(state), state, priority)
}

// follower prints what tcpdump has printed since the last time.
type follower struct {
	p    *lab.Process
	read int
}

// wait prints until at least n adverts were printed.
func (f *follower) wait(l *lab.Lab, n int) {
	l.Eventually("tcpdump prints adverts", 10*time.Second, func() bool {
		return strings.Count(f.p.Output()[f.read:], "VRRP") >= n
	})
	out := f.p.Output()
	for _, line := range strings.Split(out[f.read:], "\n") {
		if strings.Contains(line, "VRRP") {
			fmt.Println("  rs1# tcpdump: " + line)
		}
	}
	f.read = len(out)
}

func grep(text, word string) string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if strings.Contains(line, word) {
			out = append(out, "  "+strings.TrimSpace(line))
		}
	}
	return strings.Join(out, "\n")
}
