// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// In a time namespace the daemon's clock is not that of the kernel's stamps.
// It neither takes over from a live master nor misses a dead one.
func TestTimeNamespace(t *testing.T) {
	lab.Require(t, "unshare")
	for _, offset := range []string{"-60", "86400"} {
		t.Run(offset, func(t *testing.T) {
			for _, mode := range []string{"auto", "socket"} {
				t.Run(mode, func(t *testing.T) {
					s := newSite(t)
					master := s.master.XVRRPD(s.File("master.conf", v3(200, "")))
					s.becomes(t, s.master, 0, "MASTER")
					s.backup.XVRRPDWith([]string{"unshare", "--time", "--fork", "--kill-child", "--monotonic", offset},
						s.File("backup.conf", v3(100, "")), "--dataplane", mode)
					s.becomes(t, s.backup, 0, "BACKUP")
					// Many master-down intervals' worth of adverts.
					s.Eventually("forty adverts are counted", 15*time.Second, func() bool {
						return ask(t, s.backup).Instances[0].Counters.AdvertsReceived >= 40
					})
					b := ask(t, s.backup).Instances[0]
					assert.Equal(t, "BACKUP", b.State)
					assert.NotContains(t, b.Counters.Transitions, "master_down")
					master.Signal(unix.SIGKILL)
					s.becomes(t, s.backup, 0, "MASTER")
				})
			}
		})
	}
}

// mounted runs a program after a mount that nobody else sees.
func mounted(mount string) []string {
	return []string{"unshare", "--mount", "sh", "-c", mount + ` && exec "$@"`, "sh"}
}

// A folder that the daemon uses by default may be missing or read-only. One that
// it was told to use may not.
func TestUnwritableRun(t *testing.T) {
	lab.Require(t, "unshare")
	s := newSite(t)
	conf := s.File("alone.conf", v3(200, ""))
	args := append(mounted("mount -t tmpfs -o ro none /run"), filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-f", conf)
	daemon := s.master.Start(args...)
	s.Eventually("the address is served", 15*time.Second, s.owner(s.master))
	for _, want := range []string{"no pid file", "no control socket", "no lock"} {
		assert.Contains(t, daemon.Output(), want)
	}
	daemon.Signal(unix.SIGTERM)
	require.NoError(t, daemon.Wait(10*time.Second))
	assert.False(t, s.master.Has(vip))

	for _, more := range [][]string{{"--control-socket", "/run/mine/socket"}, {"-p", "/run/mine/pid"}} {
		daemon := s.master.Start(append(slices.Clone(args), more...)...)
		require.Error(t, daemon.Wait(10*time.Second), more[0])
		assert.Contains(t, daemon.Output(), "read-only file system", more[0])
	}
}

func TestReadOnlyBPFFS(t *testing.T) {
	lab.Require(t, "unshare")
	s := newSite(t)
	daemon := s.master.XVRRPDWith(mounted("mount -t bpf -o ro bpf /sys/fs/bpf"), s.File("alone.conf", v3(200, "")))
	s.becomes(t, s.master, 0, "MASTER")
	assert.Contains(t, daemon.Output(), "BPF pins are unavailable")
	assert.NotEqual(t, "socket", ask(t, s.master).Interfaces[0].Dataplane)
	daemon.Signal(unix.SIGTERM)
	require.NoError(t, daemon.Wait(10*time.Second))
}

// A log that nobody reads holds up neither the router nor the stop.
func TestUnreadLog(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(s.Dir, "log")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	pipe, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(pipe)
	for err == nil {
		_, err = unix.Write(pipe, make([]byte, 4096))
	}
	require.ErrorIs(t, err, unix.EAGAIN, "the pipe is full")

	daemon := s.master.Start("sh", "-c", `log=$1; shift; exec "$@" >"$log" 2>&1`, "sh", path,
		filepath.Join(s.Bin, "xvrrpd"), "-n", "-l", "-D", "-f", s.File("alone.conf", v3(200, "")),
		"--control-socket", s.master.Socket(), "-p", filepath.Join(s.Dir, "pid"))
	s.Eventually("the address is served", 15*time.Second, s.owner(s.master))
	s.master.Run("ip", "address", "del", ka1+"/24", "dev", "ens33")
	s.becomes(t, s.master, 0, "FAULT")
	s.master.Run("ip", "address", "add", ka1+"/24", "dev", "ens33")
	s.becomes(t, s.master, 0, "MASTER")
	daemon.Signal(unix.SIGTERM)
	require.NoError(t, daemon.Wait(15*time.Second))
	assert.False(t, s.master.Has(vip))
}
