// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/daemon"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/control/config"
)

// osFiles reads configuration files. A folder, a device or a program is not
// one.
type osFiles struct{}

func (osFiles) ReadFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	switch {
	case info.IsDir():
		return nil, errors.New("is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("is not a regular file")
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	return text, nil
}

func (osFiles) Glob(pattern string) ([]string, error) { return filepath.Glob(pattern) }

func environment(o *options) config.Environment {
	id := o.configID
	if id == "" {
		name, _ := os.Hostname()
		id, _, _ = strings.Cut(name, ".")
	}
	return config.Environment{ConfigID: id, Getenv: os.Getenv}
}

// inNamespace marks a process that has entered its namespace already.
const inNamespace = "XVRRPD_NETNS"

// enterNamespace moves the daemon into the network namespace of -s or of
// net_namespace. A namespace belongs to a thread, so the thread enters it and
// executes the program again; unlike `ip netns exec` this leaves /sys, and the
// BPF file system in it, alone.
func enterNamespace(o *options, cfg *config.Config) error {
	name := o.namespace
	if name == "" {
		name = cfg.NetNamespace
	}
	if name == "" || os.Getenv(inNamespace) == name {
		return nil
	}
	runtime.LockOSThread()
	f, err := os.Open(filepath.Join("/run/netns", name))
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", name, errors.Unwrap(err))
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	_ = f.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	err = unix.Exec(self, os.Args, append(os.Environ(), inNamespace+"="+name))
	return fmt.Errorf("execute %s in network namespace %s: %w", self, name, err)
}

// readyFD is where the process in the background reports that it runs, or why
// it does not.
const readyFD = "XVRRPD_READY_FD"

// detach starts the daemon in the background and waits until it runs. Go
// cannot fork, so the program is executed again.
func detach(o *options, stderr io.Writer) (code int, done bool) {
	if os.Getenv(readyFD) != "" {
		unix.CloseOnExec(3) // it ends with this process, not with those that it starts
		return 0, false
	}
	if o.foreground {
		return 0, false
	}
	fail := func(err error) (int, bool) {
		fmt.Fprintf(stderr, "xvrrpd: start in the background: %v\n", err)
		return exitRuntime, true
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), readyFD+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Dir = "/"
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	// The daemon leaves this folder; of an option given twice the last counts.
	for flag, path := range map[string]string{
		"--use-file": o.config, "--log-file": o.logging.File, "--pid": o.pid, "--control-socket": o.controlSocket,
	} {
		if abs, err := filepath.Abs(path); err == nil && path != "" {
			cmd.Args = append(cmd.Args, flag, abs)
		}
	}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	_ = w.Close()
	said, _ := io.ReadAll(r)
	if string(said) == "ready" {
		return exitOK, true
	}
	_ = cmd.Wait()
	if len(said) == 0 {
		said = []byte("the daemon exited without reporting an error; see the log")
	}
	fmt.Fprintf(stderr, "xvrrpd: %s\n", said)
	return exitRuntime, true
}

// reportReady tells the process that waits in the foreground; nil means that the
// daemon runs.
func reportReady(err error) {
	if os.Getenv(readyFD) == "" {
		return
	}
	f := os.NewFile(3, "ready")
	text := "ready"
	if err != nil {
		text = err.Error()
	}
	_, _ = f.WriteString(text)
	_ = f.Close()
	_ = os.Unsetenv(readyFD)
}

// untilSignal returns a context that ends with the first SIGTERM or SIGINT. The
// second one ends the process: an orderly stop that hangs can be ended without
// SIGKILL.
func untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGTERM, unix.SIGINT)
	go func() {
		select {
		case <-ch:
		case <-ctx.Done():
		}
		signal.Stop(ch) // back to the default action, before the stop begins
		cancel()
	}()
	return ctx, cancel
}

// Signals that keepalived answers with a dump (36 is SIGRTMIN+2 of glibc, 63
// and 64 are SIGRTMAX-1 and SIGRTMAX). Left alone they would end the daemon and
// leave its addresses behind.
var refusedSignals = []os.Signal{unix.SIGUSR1, unix.SIGUSR2, unix.Signal(36), unix.Signal(63), unix.Signal(64)}

// handleSignals reloads at SIGHUP, and tells systemd when that begins and ends.
func handleSignals(ctx context.Context, reloads, refused <-chan os.Signal, d *daemon.Daemon, log *slog.Logger) {
	for {
		select {
		case s := <-refused:
			log.Warn("this signal has no effect", "signal", s)
		case <-reloads:
			_, _ = systemd.SdNotify(false, systemd.SdNotifyReloading+"\n"+fmt.Sprintf("MONOTONIC_USEC=%d", clock.Local(clock.Now())/1000))
			_, _ = d.Reload(ctx, false) // it was logged
			_, _ = systemd.SdNotify(false, systemd.SdNotifyReady)
		case <-ctx.Done():
			return
		}
	}
}

// claimPID writes the pid file. The default one may be missing, unless
// another daemon has it.
func claimPID(opts *options, instance string, log *slog.Logger) (pidFile, error) {
	if opts.pid != "" {
		return writePID(opts.pid)
	}
	pid, err := writePID(rundir.PIDFile(instance))
	if err != nil && !errors.Is(err, rundir.ErrInUse) {
		log.Warn("no pid file", "err", err)
		err = nil
	}
	return pid, err
}

// pidFile is a path; empty: there is no file.
type pidFile string

// writePID replaces the file, unless it names an xvrrpd that runs: one that
// serves other interfaces and was given the same path.
func writePID(path string) (pidFile, error) {
	if old, err := os.ReadFile(path); err == nil {
		pid := strings.TrimSpace(string(old))
		comm, err := os.ReadFile(filepath.Join("/proc", filepath.Base(pid), "comm"))
		if err == nil && strings.TrimSpace(string(comm)) == "xvrrpd" && pid != strconv.Itoa(os.Getpid()) {
			return "", fmt.Errorf("pid file %s, process %s: %w", path, pid, rundir.ErrInUse)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make folder of the pid file: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("replace pid file: %w", err)
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("write pid file: %w", err)
	}
	return pidFile(path), nil
}

func (p pidFile) remove() {
	if p != "" {
		_ = os.Remove(string(p))
	}
}

// printSignal answers --signum.
func printSignal(function string, stdout, stderr io.Writer) int {
	signal, ok := map[string]unix.Signal{"STOP": unix.SIGTERM, "RELOAD": unix.SIGHUP}[function]
	if !ok {
		fmt.Fprintf(stderr, "xvrrpd: no signal for %q; there are those for STOP and RELOAD\n", function)
		return exitUsage
	}
	fmt.Fprintln(stdout, int(signal))
	return exitOK
}
