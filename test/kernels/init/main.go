// SPDX-License-Identifier: Apache-2.0

// Command init is the first process of the machine that run.sh starts: it
// mounts what the tests need, runs them and switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func main() {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"bpf", "/sys/fs/bpf"}} {
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			fmt.Printf("mount %s: %v\n", m.dir, err)
		}
	}
	var name unix.Utsname
	_ = unix.Uname(&name)
	fmt.Printf("KERNEL %s\n", unix.ByteSliceToString(name.Release[:]))
	cmd := exec.Command("/loader.test", os.Args[1:]...)
	cmd.Args = append(cmd.Args, "-test.v", "-test.short")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	verdict := "PASS"
	if err := cmd.Run(); err != nil {
		verdict = "FAIL: " + err.Error()
	}
	fmt.Printf("KERNEL TESTS %s\n", verdict)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
