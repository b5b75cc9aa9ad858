// SPDX-License-Identifier: Apache-2.0

// Command init is the first process of the machine that run.sh starts: it
// mounts and loads what the tests need, runs them and switches the machine off.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

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
	each("/modules", func(file string) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.FinitModule(int(f.Fd()), "", 0)
	})
	verdict := "PASS"
	each("/tests", func(file string) error {
		cmd := exec.Command(file, append(os.Args[1:], "-test.v", "-test.short")...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
		err := cmd.Run()
		if err != nil {
			verdict = "FAIL"
		}
		return err
	})
	fmt.Printf("KERNEL TESTS %s\n", verdict)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// each calls do for every file in a folder and says what fails.
func each(dir string, do func(file string) error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		fmt.Println(err)
	}
	for _, file := range files {
		if err := do(file); err != nil {
			fmt.Printf("KERNEL %s: %v\n", file, err)
		}
	}
}
