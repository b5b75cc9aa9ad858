// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Keepalived starts Debian's keepalived on a node, in the foreground, with
// files of its own. It prints its log in detail.
func (n *Node) Keepalived(conf string) *Process {
	n.lab.tb.Helper()
	return n.KeepalivedWith(conf, "-l", "-D")
}

// KeepalivedWith is Keepalived with other flags. Without any it logs to syslog
// only.
func (n *Node) KeepalivedWith(conf string, flags ...string) *Process {
	n.lab.tb.Helper()
	pid := filepath.Join(n.lab.Dir, n.Name)
	// After a crash a pid file may name a process that nobody has reaped yet,
	// which keepalived takes for a running copy.
	stale, _ := filepath.Glob(pid + "-ka*.pid")
	for _, f := range stale {
		_ = os.Remove(f)
	}
	args := []string{"keepalived", "-n", "-P", "-f", conf,
		"-p", pid + "-ka.pid", "-r", pid + "-kav.pid", "-c", pid + "-kac.pid", "-b", pid + "-kab.pid"}
	return n.Start(append(args, flags...)...)
}

const frrDir = "/usr/lib/frr"

// HaveFRR says whether Debian's frr is there.
func HaveFRR() bool {
	_, err := os.Stat(filepath.Join(frrDir, "vrrpd"))
	return err == nil
}

// FRR starts zebra and vrrpd for one virtual router. It wants the virtual MAC
// and the addresses on a macvlan device, which it only switches on and off.
func (n *Node) FRR(dev string, vrid, priority int, interval time.Duration, addr string, prefix ...string) (zebra, vrrpd *Process) {
	n.lab.tb.Helper()
	mac := fmt.Sprintf("vrrp4-%d-%d", 2, vrid)
	n.Run("ip", "link", "add", mac, "link", dev, "address", fmt.Sprintf("00:00:5e:00:01:%02x", vrid),
		"type", "macvlan", "mode", "bridge")
	n.Run("ip", "address", "add", addr+"/32", "dev", mac)
	n.Run("ip", "link", "set", mac, "up")
	dir := filepath.Join(n.lab.Dir, "frr-"+n.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		n.lab.tb.Fatalf("make folder for frr: %v", err)
	}
	_ = os.Chmod(n.lab.Dir, 0o755) // frr drops its privileges
	_ = os.Chmod(dir, 0o777)
	conf := filepath.Join(dir, "frr.conf")
	text := fmt.Sprintf("interface %s\n vrrp %d version 3\n vrrp %d priority %d\n vrrp %d advertisement-interval %d\n vrrp %d ip %s\nexit\n",
		dev, vrid, vrid, priority, vrid, interval.Milliseconds(), vrid, addr)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		n.lab.tb.Fatalf("write %s: %v", conf, err)
	}
	args := func(name string) []string {
		return append(append([]string{}, prefix...), filepath.Join(frrDir, name), "-f", conf, "-z", filepath.Join(dir, "zserv"),
			"-i", filepath.Join(dir, name+".pid"), "--vty_socket", dir, "-P", "0", "--log", "stdout")
	}
	zebra = n.Start(args("zebra")...)
	n.lab.Eventually("zebra listens on "+n.Name, 10*time.Second, func() bool {
		_, err := os.Stat(filepath.Join(dir, "zserv"))
		return err == nil
	})
	return zebra, n.Start(args("vrrpd")...)
}
