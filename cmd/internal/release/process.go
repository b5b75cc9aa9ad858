// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/realtime"
	"github.com/xvrrp/xvrrp/vip"
)

// Environment marks the process that is the releaser. Its value is its
// settings.
const Environment = "XVRRPD_RELEASER"

// settings are what a releaser takes over from the daemon.
type settings struct {
	lease      time.Duration
	priority   int // real-time
	lockMemory bool
}

// name is that of the process, 15 bytes at most.
const name = "xvrrpd-releaser"

// ignored are the signals that systemd and operators send to every process of a
// service, or to every one of its name. The releaser goes by the pipe: it has to
// outlive the daemon.
var ignored = []os.Signal{
	unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGABRT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2,
	unix.Signal(36), unix.Signal(63), unix.Signal(64),
}

// Main is the releaser, in a process of its own: it reads from standard input.
func Main(text string, log *slog.Logger) error {
	if info, err := os.Stdin.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return fmt.Errorf("the environment has %s, which xvrrpd sets for the process that it starts: unset it", Environment)
	}
	signal.Ignore(ignored...)
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
	set, err := parseSettings(text)
	if err != nil {
		return fmt.Errorf("settings of the releaser, %s: %w", Environment, err)
	}
	if set.lockMemory {
		if err := lockMemory(); err != nil {
			log.Info("memory of the releaser is not locked: it may be swapped out", "err", err)
		}
	}
	// As that of the daemon's threads, but for the event loop. The daemon has
	// said what the host does not give.
	_, _ = realtime.Prepare(realtime.Options{Priority: set.priority, PriorityRequired: true}, slog.New(slog.DiscardHandler))
	if err := dropCapabilities(); err != nil {
		log.Info("the releaser keeps the capabilities of the daemon", "err", err)
	}
	r := Releaser{Lease: set.lease, Remove: vip.RemoveOurs, Log: log}
	return r.Run(os.Stdin)
}

// lockMemory locks what there is, as it is used, and what comes later if there is
// no limit on that: without CAP_IPC_LOCK an allocation beyond one would fail.
func lockMemory() error {
	how := unix.MCL_CURRENT | unix.MCL_ONFAULT
	none := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &none) == nil {
		how |= unix.MCL_FUTURE
	}
	return unix.Mlockall(how)
}

func (s settings) String() string { return fmt.Sprintf("%s,%d,%t", s.lease, s.priority, s.lockMemory) }

func parseSettings(text string) (s settings, err error) {
	words := strings.Split(text, ",")
	if len(words) != 3 {
		return s, fmt.Errorf("%d words", len(words))
	}
	if s.lease, err = time.ParseDuration(words[0]); err != nil {
		return s, err
	}
	if s.lease <= 0 {
		return s, fmt.Errorf("lease of %v", s.lease)
	}
	if s.priority, err = strconv.Atoi(words[1]); err != nil {
		return s, err
	}
	s.lockMemory, err = strconv.ParseBool(words[2])
	return s, err
}

// dropCapabilities keeps what removes addresses, in every thread. Another program
// would not get the rest back, though the user is root.
func dropCapabilities() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("give up new privileges: %w", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the second is of capabilities above 31
	data[0].Effective = 1 << unix.CAP_NET_ADMIN
	data[0].Permitted = data[0].Effective
	_, _, errno = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0)
	if errno != 0 {
		return fmt.Errorf("keep CAP_NET_ADMIN alone: %w", errno)
	}
	return nil
}

// execute starts this program again, with the same options, so that it logs to
// where the daemon does.
func execute(s settings) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the releaser: %w", err)
	}
	// Not by its path: there may be another version by now.
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = name
	cmd.Env = append(os.Environ(), Environment+"="+s.String())
	cmd.Stdin, cmd.Stderr = r, os.Stderr
	// What is sent to the daemon's process group is not for the releaser.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start the releaser: %w", err)
	}
	p := &process{pipe: w, kill: func() { _ = cmd.Process.Kill() }, ended: make(chan error, 1)}
	go func() { p.ended <- cmd.Wait() }()
	return p, nil
}
