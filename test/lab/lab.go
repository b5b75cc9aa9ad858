// SPDX-License-Identifier: Apache-2.0

// Package lab builds hosts from network namespaces: a switch (a bridge without
// multicast snooping), nodes on it, and the ways in which they fail. Real
// programs run on the nodes; times come from packets that a node outside the
// one under test captured.
package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TB is the part of testing.TB that a lab needs; the demo has its own.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
}

// Require skips a test that cannot run here: on a laptop, without root or
// without a program. With CI=true it fails instead, so that nothing hides.
func Require(tb testing.TB, programs ...string) {
	tb.Helper()
	missing := ""
	if os.Geteuid() != 0 {
		missing = "root"
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = p
		}
	}
	switch {
	case missing == "":
	case os.Getenv("CI") == "true":
		tb.Fatalf("this test needs %s, and CI must have it", missing)
	default:
		tb.Skipf("this test needs %s", missing)
	}
}

var serial atomic.Int64

// Lab is one switch with its nodes.
type Lab struct {
	tb   TB
	name string
	Bin  string // folder of xvrrpd and xvrrpctl
	Dir  string // scratch files
	// Quiet says that xvrrpd logs no detail, as it does without a flag.
	Quiet bool
}

// New makes an empty lab. It is taken down with the test.
func New(tb TB) *Lab {
	tb.Helper()
	dir, err := os.MkdirTemp("", "xvrrp-lab-")
	if err != nil {
		tb.Fatalf("make scratch folder: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	l := &Lab{tb: tb, name: fmt.Sprintf("xv%d-%d", os.Getpid(), serial.Add(1)), Dir: dir, Bin: binaries(tb)}
	l.netns(l.name)
	l.in(l.name, "ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
	l.in(l.name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
	l.in(l.name, "ip", "link", "set", "br0", "up")
	// A switch does not look into IP packets; a kernel with br_netfilter does,
	// and drops what this lab sends on purpose.
	_ = enter(l.name, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0", "net.bridge.bridge-nf-call-arptables=0").Run()
	return l
}

// failed says whether what the programs printed is worth showing.
func (l *Lab) failed() bool {
	t, ok := l.tb.(interface{ Failed() bool })
	return ok && t.Failed()
}

var build struct {
	once sync.Once
	dir  string
	err  error
}

// binaries builds the programs once for all labs of the process.
func binaries(tb TB) string {
	build.once.Do(func() {
		root, err := exec.Command("go", "env", "GOMOD").Output()
		if err != nil {
			build.err = err
			return
		}
		build.dir = filepath.Join(filepath.Dir(strings.TrimSpace(string(root))), "bin")
		cmd := exec.Command("go", "build", "-o", build.dir+"/", "./cmd/...")
		cmd.Dir = filepath.Dir(build.dir)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if build.err != nil {
		tb.Fatalf("build the programs: %v", build.err)
	}
	return build.dir
}

func (l *Lab) netns(name string) {
	l.tb.Helper()
	l.must(exec.Command("ip", "netns", "add", name))
	l.tb.Cleanup(func() {
		forget("/run/netns/" + name)
		_ = exec.Command("ip", "netns", "del", name).Run()
	})
}

// forget removes what a daemon that was killed left outside its network
// namespace: its pins, and its files and locks below /run. The namespace goes,
// so that no successor would.
func forget(netns string) {
	var st unix.Stat_t
	if unix.Stat(netns, &st) != nil {
		return
	}
	for _, pattern := range []string{
		"/sys/fs/bpf/xvrrp/%d", "/sys/fs/bpf/xvrrp/%d-*", "/sys/fs/bpf/xvrrp/%d~*", "/run/xvrrp/netns-%d", "/run/xvrrp/lock/%d-*",
	} {
		left, _ := filepath.Glob(fmt.Sprintf(pattern, st.Ino))
		for _, path := range left {
			_ = os.RemoveAll(path)
		}
	}
	for _, folder := range []string{"/sys/fs/bpf/xvrrp", "/run/xvrrp/lock", "/run/xvrrp"} {
		_ = os.Remove(folder) // if nobody else has anything in it
	}
}

func (l *Lab) must(cmd *exec.Cmd) string {
	l.tb.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		l.tb.Fatalf("%s: %v: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}

// in runs a command in a namespace. nsenter, unlike `ip netns exec`, leaves
// /sys alone, where the BPF file system is.
func (l *Lab) in(ns string, args ...string) string {
	l.tb.Helper()
	return l.must(enter(ns, args...))
}

func enter(ns string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=/run/netns/" + ns, "--"}, args...)...)
}

// Node is one host.
type Node struct {
	lab   *Lab
	Name  string
	ns    string
	procs []*Process
}

// Node adds a host. Each interface is "NAME ADDRESS/LEN", or "NAME" for one
// without an address.
func (l *Lab) Node(name string, interfaces ...string) *Node {
	l.tb.Helper()
	n := &Node{lab: l, Name: name, ns: l.name + "-" + name}
	l.netns(n.ns)
	n.Run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1",
		"net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.promote_secondaries=1")
	n.Run("ip", "link", "set", "lo", "up")
	for _, i := range interfaces {
		dev, addr, _ := strings.Cut(i, " ")
		n.Attach(dev)
		if addr != "" {
			n.Run("ip", "address", "add", addr, "brd", "+", "dev", dev)
		}
		n.Run("ip", "link", "set", dev, "up")
	}
	l.tb.Cleanup(func() {
		for _, p := range n.procs {
			p.Kill()
			if l.failed() {
				out := p.Output()
				l.tb.Logf("%s: %s printed: %s", n.Name, strings.Join(p.cmd.Args[3:], " "), out[max(0, len(out)-3000):])
			}
		}
	})
	return n
}

// Attach makes an interface of the node, which is down, and connects it to the
// switch.
func (n *Node) Attach(dev string) {
	l := n.lab
	l.tb.Helper()
	port := n.Port(dev)
	l.must(exec.Command("ip", "link", "add", dev, "netns", n.ns, "type", "veth", "peer", port, "netns", l.name))
	l.in(l.name, "ip", "link", "set", port, "master", "br0", "up")
	l.poll(port)
}

// Detached makes an interface of the node that is up and leads nowhere.
func (n *Node) Detached(dev string) {
	n.lab.tb.Helper()
	n.Run("ip", "link", "add", dev, "type", "veth", "peer", dev+"-peer")
	n.Run("ip", "link", "set", dev+"-peer", "up")
	n.Run("ip", "link", "set", dev, "up")
}

// poll makes a port of the switch take what XDP on the other end of its veth
// sends back. A veth does so only with NAPI, which it has while an XDP program
// is attached; this one passes everything. A network card needs none of it.
func (l *Lab) poll(port string) {
	l.tb.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "port", Type: ebpf.XDP, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2 /* XDP_PASS */), asm.Return()},
	})
	if err != nil {
		l.tb.Fatalf("load the program of switch port %s: %v", port, err)
	}
	defer prog.Close()
	var at link.Link
	err = inNamespace(l.name, func() error {
		index, err := ifindex(port)
		if err != nil {
			return err
		}
		at, err = link.AttachXDP(link.XDPOptions{Program: prog, Interface: index, Flags: link.XDPDriverMode})
		return err
	})
	if err != nil {
		l.tb.Fatalf("poll switch port %s: %v", port, err)
	}
	l.tb.Cleanup(func() { _ = at.Close() })
}

// Port is the name of the switch's end of an interface.
func (n *Node) Port(dev string) string { return n.Name + "-" + dev }

// Run runs a command on the node, which must succeed.
func (n *Node) Run(args ...string) string {
	n.lab.tb.Helper()
	return n.lab.in(n.ns, args...)
}

// Try runs a command on the node.
func (n *Node) Try(args ...string) (string, error) {
	out, err := enter(n.ns, args...).CombinedOutput()
	return string(out), err
}

// Cut takes the node's port from the switch: its frames are lost, and its
// link stays up.
func (n *Node) Cut(dev string) { n.lab.in(n.lab.name, "ip", "link", "set", n.Port(dev), "nomaster") }

// Mend undoes Cut.
func (n *Node) Mend(dev string) {
	n.lab.in(n.lab.name, "ip", "link", "set", n.Port(dev), "master", "br0")
}

// Deafen keeps multicast from the node, which is still heard: loss in one
// direction.
func (n *Node) Deafen(dev string, on bool) {
	flood := "on"
	if on {
		flood = "off"
	}
	n.lab.in(n.lab.name, "bridge", "link", "set", "dev", n.Port(dev), "mcast_flood", flood)
}

// Unplug takes the carrier away; Plug gives it back.
func (n *Node) Unplug(dev string) { n.lab.in(n.lab.name, "ip", "link", "set", n.Port(dev), "down") }

// Plug undoes Unplug.
func (n *Node) Plug(dev string) { n.lab.in(n.lab.name, "ip", "link", "set", n.Port(dev), "up") }

// Process is a program that runs on a node.
type Process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
	err  error
}

// Start runs a program in the background until the test ends.
func (n *Node) Start(args ...string) *Process {
	n.lab.tb.Helper()
	p := &Process{cmd: enter(n.ns, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		n.lab.tb.Fatalf("start %s: %v", args[0], err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	n.procs = append(n.procs, p)
	return p
}

// Signal sends a signal to the program and everything that it started.
func (p *Process) Signal(s unix.Signal) { _ = unix.Kill(-p.cmd.Process.Pid, s) }

// PID is that of the program: nsenter executes it in its own place.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the program printed so far.
func (p *Process) Output() string { return p.out.String() }

// Wait waits for the end of the program and returns how it ended.
func (p *Process) Wait(limit time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		return fmt.Errorf("%s still runs", p.cmd.Path)
	}
}

// Ended says whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Kill ends the program without a chance to say anything, and waits.
func (p *Process) Kill() {
	p.Signal(unix.SIGKILL)
	<-p.done
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// File writes a scratch file and returns its path.
func (l *Lab) File(name, text string) string {
	l.tb.Helper()
	path := filepath.Join(l.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		l.tb.Fatalf("write %s: %v", path, err)
	}
	return path
}

// XVRRPD starts our daemon on a node and waits until it serves.
func (n *Node) XVRRPD(conf string, flags ...string) *Process {
	n.lab.tb.Helper()
	return n.XVRRPDWith(nil, conf, flags...)
}

// XVRRPDWith is XVRRPD by way of another program, e.g. env.
func (n *Node) XVRRPDWith(prefix []string, conf string, flags ...string) *Process {
	n.lab.tb.Helper()
	p := n.Launch(prefix, conf, flags...)
	n.lab.Eventually("xvrrpd serves on "+n.Name, 10*time.Second, func() bool {
		if p.Ended() {
			n.lab.tb.Fatalf("xvrrpd on %s ended: %s", n.Name, p.Output())
		}
		return strings.Contains(p.Output(), "xvrrpd starts")
	})
	return p
}

// Launch is XVRRPDWith without the wait.
func (n *Node) Launch(prefix []string, conf string, flags ...string) *Process {
	n.lab.tb.Helper()
	args := append(slices.Clone(prefix), filepath.Join(n.lab.Bin, "xvrrpd"), "-n", "-l", "-f", conf,
		"--control-socket", n.Socket(), "-p", filepath.Join(n.lab.Dir, n.Name+".pid"))
	if !n.lab.Quiet {
		args = append(args, "-D")
	}
	return n.Start(append(args, flags...)...)
}

// Socket is the path of the control socket that XVRRPD uses.
func (n *Node) Socket() string { return filepath.Join(n.lab.Dir, n.Name+".sock") }

// Ctl runs xvrrpctl against the node's daemon.
func (n *Node) Ctl(args ...string) string {
	n.lab.tb.Helper()
	return n.Run(append([]string{filepath.Join(n.lab.Bin, "xvrrpctl"), "--control-socket", n.Socket()}, args...)...)
}

// Has says whether the node has an address.
func (n *Node) Has(addr string) bool {
	return strings.Contains(n.Run("ip", "-4", "-o", "address", "show"), "inet "+addr+"/")
}

// Eventually waits until cond holds.
func (l *Lab) Eventually(what string, limit time.Duration, cond func() bool) {
	l.tb.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			l.tb.Fatalf("within %v it did not come true that %s", limit, what)
		case <-tick.C:
		}
	}
}

// Crash kills every process of the node at once and waits until none is left:
// what a power cut does to its daemons, but for the addresses, which stay.
func (n *Node) Crash() {
	n.lab.tb.Helper()
	n.lab.Eventually("every process of "+n.Name+" is gone", 10*time.Second, func() bool {
		out, err := exec.Command("ip", "netns", "pids", n.ns).Output()
		if err != nil {
			return false
		}
		pids := strings.Fields(string(out))
		// Stopped first: none sees the end of another.
		for _, signal := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} {
			for _, p := range pids {
				if pid, err := strconv.Atoi(p); err == nil {
					_ = unix.Kill(pid, signal)
				}
			}
		}
		return len(pids) == 0
	})
}

// Netns is the path of the node's network namespace.
func (n *Node) Netns() string { return "/run/netns/" + n.ns }

// Inject sends a raw frame from one of the node's interfaces.
func (n *Node) Inject(dev string, frame []byte) {
	n.lab.tb.Helper()
	fd, err := n.rawSocket(dev)
	if err == nil {
		err = errors.Join(unix.Send(fd, frame, 0), unix.Close(fd))
	}
	if err != nil {
		n.lab.tb.Fatalf("inject a frame from %s: %v", n.Name, err)
	}
}
