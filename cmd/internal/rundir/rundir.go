// SPDX-License-Identifier: Apache-2.0

// Package rundir knows where the files of a running daemon are: sockets, pid
// files and locks. Daemons on one machine never share a path by accident.
package rundir

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Root is the folder of all of them.
const Root = "/run/xvrrp"

// Socket returns where the daemon of this network namespace listens by
// default. instance is the instance name of the configuration, or empty.
func Socket(instance string) string { return filepath.Join(Dir(instance), "xvrrpd.sock") }

// PIDFile returns the default pid file of the daemon of this network
// namespace.
func PIDFile(instance string) string { return filepath.Join(Dir(instance), "xvrrpd.pid") }

// Dir returns the folder for the files of the daemon of this network namespace.
// A daemon outside the first namespace, or one with an instance name, has a
// folder of its own. Where it cannot be told whether this is the first one
// (that takes CAP_SYS_PTRACE, or all the capabilities of process 1) it is taken
// for another.
func Dir(instance string) string { return dir(NetNS("self"), NetNS("1"), instance) }

func dir(own, first uint64, instance string) string {
	path := Root
	if own != first {
		path = filepath.Join(path, "netns-"+strconv.FormatUint(own, 10))
	}
	if instance != "" {
		path = filepath.Join(path, "instance-"+instance)
	}
	return path
}

// NetNS returns the inode of a process's network namespace, 0 if it cannot be
// read. pid may be "self".
func NetNS(pid string) uint64 {
	info, err := os.Stat(fmt.Sprintf("/proc/%s/ns/net", pid))
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
