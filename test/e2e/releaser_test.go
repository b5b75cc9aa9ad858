// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// leased is v3 with a lease.
func leased(priority int, lease, lines string) string {
	return strings.Replace(v3(priority, lines), "global_defs {\n", "global_defs {\nvrrp_lease "+lease+"\n", 1)
}

// releasers returns the processes of that name on a node.
func releasers(t *testing.T, n *lab.Node) (pids []int) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "pids", filepath.Base(n.Netns())).Output()
	require.NoError(t, err)
	for _, word := range strings.Fields(string(out)) {
		comm, err := os.ReadFile("/proc/" + word + "/comm")
		if err == nil && string(comm) == "xvrrpd-releaser\n" {
			pid, err := strconv.Atoi(word)
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// releaser waits for the one on a node.
func (s *site) releaser(t *testing.T, n *lab.Node) (pid int) {
	t.Helper()
	s.Eventually("there is a releaser", 10*time.Second, func() bool {
		pids := releasers(t, n)
		if len(pids) == 1 {
			pid = pids[0]
		}
		return len(pids) == 1
	})
	return pid
}

// unfenced starts a master and a backup without BPF.
func (s *site) unfenced(t *testing.T, lease, lines string) (master *lab.Process) {
	t.Helper()
	master = s.master.XVRRPD(s.File("m.conf", leased(200, lease, lines)), "--dataplane", "socket")
	s.becomes(t, s.master, 0, "MASTER")
	s.backup.XVRRPD(s.File("b.conf", leased(100, lease, lines)), "--dataplane", "socket")
	s.Eventually("it follows", 5*time.Second, func() bool { return ask(t, s.backup).Instances[0].Counters.AdvertsReceived > 0 })
	s.releaser(t, s.master)
	return master
}

// A daemon that hangs without a fence loses its addresses, and has them again
// when it is the better master.
func TestHungDaemonIsReleased(t *testing.T) {
	s := newSite(t)
	master := s.unfenced(t, "0.3", "")
	assert.Contains(t, master.Output(), "no BPF program, so no fence")
	master.Signal(unix.SIGSTOP)
	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("the address is released", 5*time.Second, func() bool { return !s.master.Has(vip) })
	s.onlyAnswers(t, s.backup, time.Now())
	s.Eventually("the releaser says so", 5*time.Second, func() bool {
		return strings.Contains(master.Output(), "xvrrpd hung: removed its addresses")
	})

	master.Signal(unix.SIGCONT)
	s.becomes(t, s.backup, 0, "BACKUP")
	s.Eventually("the address is back", 5*time.Second, s.owner(s.master))
	s.onlyAnswers(t, s.master, time.Now())
	// And once more: it is watched again.
	master.Signal(unix.SIGSTOP)
	s.Eventually("the address is released again", 5*time.Second, func() bool { return !s.master.Has(vip) })
	master.Signal(unix.SIGCONT)
}

// loopThread returns the thread of a daemon's event loop.
func loopThread(t *testing.T, p *lab.Process) int {
	t.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID()))
	require.NoError(t, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		require.NoError(t, err)
		attr, err := unix.SchedGetAttr(tid, 0)
		if err == nil && (attr.Policy == unix.SCHED_RR && attr.Priority == 60 ||
			attr.Policy == unix.SCHED_DEADLINE && attr.Runtime == uint64(2*time.Millisecond)) {
			return tid
		}
	}
	t.Fatal("no thread is scheduled as the event loop is")
	return 0
}

// The event loop alone hangs: what the rest of the daemon does for the addresses
// of a master waits until the loop knows whether it is one.
func TestHungLoopIsReleased(t *testing.T) {
	s := newSite(t)
	master := s.unfenced(t, "0.3", "")
	loop := loopThread(t, master)
	runtime.LockOSThread() // a thread is traced by a thread
	defer runtime.UnlockOSThread()
	require.NoError(t, unix.PtraceSeize(loop))
	defer func() { _ = unix.PtraceDetach(loop) }() // or a daemon that is killed stays
	require.NoError(t, unix.PtraceInterrupt(loop))
	var status unix.WaitStatus
	_, err := unix.Wait4(loop, &status, unix.WALL, nil)
	require.NoError(t, err)

	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("the address is released", 5*time.Second, func() bool { return !s.master.Has(vip) })
	since := time.Now()
	n := len(s.wire.Adverts(ka2))
	s.Eventually("it stays away", 10*time.Second, func() bool {
		assert.False(t, s.master.Has(vip))
		return len(s.wire.Adverts(ka2)) > n+20
	})
	s.onlyAnswers(t, s.backup, since)
	for _, g := range s.wire.GARPs(vip) {
		assert.False(t, g.Time.After(since) && g.MAC.String() == s.master.MAC("ens33").String())
	}

	require.NoError(t, unix.PtraceDetach(loop))
	s.becomes(t, s.backup, 0, "BACKUP")
	s.Eventually("the address is back", 5*time.Second, s.owner(s.master))
	s.onlyAnswers(t, s.master, time.Now())
}

// With nopreempt the one that replaced it stays: not even for a moment does the
// one that wakes speak for the address.
func TestReleasedDaemonYields(t *testing.T) {
	s := newSite(t)
	master := s.unfenced(t, "0.3", "nopreempt\ngarp_master_refresh 1")
	master.Signal(unix.SIGSTOP)
	s.becomes(t, s.backup, 0, "MASTER")
	s.Eventually("the address is released", 5*time.Second, func() bool { return !s.master.Has(vip) })
	n := len(s.wire.Adverts(ka2))
	s.Eventually("a refresh is due", 10*time.Second, func() bool { return len(s.wire.Adverts(ka2)) > n+15 })
	woken := time.Now()
	master.Signal(unix.SIGCONT)
	s.becomes(t, s.master, 0, "BACKUP")
	s.onlyAnswers(t, s.backup, woken)
	for _, g := range s.wire.GARPs(vip) {
		if g.Time.After(woken) {
			assert.Equal(t, s.backup.MAC("ens33"), g.MAC)
		}
	}
	assert.False(t, s.master.Has(vip))
}

func TestHangShorterThanLeaseIsLeftAlone(t *testing.T) {
	s := newSite(t)
	master := s.unfenced(t, "60", "")
	master.Signal(unix.SIGSTOP)
	s.becomes(t, s.backup, 0, "MASTER")
	n := len(s.wire.Adverts(ka2))
	s.Eventually("it serves for a while", 10*time.Second, func() bool { return len(s.wire.Adverts(ka2)) > n+20 })
	assert.True(t, s.master.Has(vip))
	master.Signal(unix.SIGCONT)
	s.becomes(t, s.backup, 0, "BACKUP")
	assert.NotContains(t, master.Output(), "removed its addresses")
}

// A daemon that is killed without a fence leaves no address, and no process.
func TestKilledDaemonIsReleased(t *testing.T) {
	s := newSite(t)
	master := s.unfenced(t, "60", "")
	master.Signal(unix.SIGKILL)
	s.Eventually("the address is gone", 5*time.Second, func() bool { return !s.master.Has(vip) })
	require.Error(t, master.Wait(10*time.Second))
	s.Eventually("the releaser is gone", 5*time.Second, func() bool { return len(releasers(t, s.master)) == 0 })
	assert.Contains(t, master.Output(), "xvrrpd is gone: removed its addresses")
	s.becomes(t, s.backup, 0, "MASTER")
	s.onlyAnswers(t, s.backup, time.Now())
}

// Signals to every process of the service leave the stop to the daemon.
func TestReleaserEndsWithTheDaemon(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		s := newSite(t)
		master := s.unfenced(t, "1", "")
		pid := s.releaser(t, s.master)
		for _, ignored := range []unix.Signal{sig, unix.SIGHUP, unix.SIGUSR1, unix.SIGABRT} {
			require.NoError(t, unix.Kill(pid, ignored))
		}
		assert.Equal(t, pid, s.releaser(t, s.master))
		master.Signal(sig)
		require.NoError(t, master.Wait(10*time.Second))
		assert.False(t, s.master.Has(vip))
		assert.Empty(t, releasers(t, s.master))
		assert.NotContains(t, master.Output(), "removed its addresses")
		assert.NotContains(t, master.Output(), "the releaser is not running")
	}
}

func TestReleaserIsStartedAgain(t *testing.T) {
	s := newSite(t)
	master := s.unfenced(t, "1", "")
	first := s.releaser(t, s.master)
	require.NoError(t, unix.Kill(first, unix.SIGKILL))
	s.Eventually("there is another one", 10*time.Second, func() bool {
		pids := releasers(t, s.master)
		return len(pids) == 1 && pids[0] != first
	})
	assert.Contains(t, master.Output(), "the releaser is not running")
	assert.True(t, s.master.Has(vip))
	master.Signal(unix.SIGKILL)
	s.Eventually("it knows what to remove", 5*time.Second, func() bool { return !s.master.Has(vip) })
}

// fence off keeps the address on a host whose daemon is gone; with a fence there
// is no releaser.
func TestNoReleaser(t *testing.T) {
	for _, tc := range []struct{ plane, lines string }{{"socket", "fence off"}, {"auto", ""}} {
		s := newSite(t)
		master := s.master.XVRRPD(s.File("m.conf", v3(200, tc.lines)), "--dataplane", tc.plane)
		s.becomes(t, s.master, 0, "MASTER")
		assert.Empty(t, releasers(t, s.master))
		master.Signal(unix.SIGKILL)
		require.Error(t, master.Wait(10*time.Second))
		s.Eventually("no process is left that could remove the address", 10*time.Second, func() bool {
			pids, err := exec.Command("ip", "netns", "pids", filepath.Base(s.master.Netns())).Output()
			require.NoError(t, err)
			return len(pids) == 0
		})
		assert.True(t, s.master.Has(vip))
	}
}

// It holds no socket, lock or pin of the daemon, and has one capability.
func TestReleaserHoldsNothing(t *testing.T) {
	s := newSite(t)
	s.unfenced(t, "1", "")
	proc := fmt.Sprintf("/proc/%d", s.releaser(t, s.master))
	s.Eventually("it has given up what it does not need", 5*time.Second, func() bool {
		status, err := os.ReadFile(proc + "/status")
		require.NoError(t, err)
		return strings.Contains(string(status), fmt.Sprintf("CapEff:\t%016x\n", 1<<unix.CAP_NET_ADMIN))
	})
	status, err := os.ReadFile(proc + "/status")
	require.NoError(t, err)
	assert.Contains(t, string(status), "NoNewPrivs:\t1\n")
	assert.Regexp(t, `VmLck:\s+[1-9]`, string(status), "its memory is locked, as the daemon's is")
	links, err := os.ReadDir(proc + "/fd")
	require.NoError(t, err)
	for _, l := range links {
		to, err := os.Readlink(filepath.Join(proc, "fd", l.Name()))
		require.NoError(t, err)
		assert.NotRegexp(t, `^socket:|bpf|/run/|\.pid$|\.sock$`, to)
	}
	tasks, err := os.ReadDir(proc + "/task")
	require.NoError(t, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		require.NoError(t, err)
		attr, err := unix.SchedGetAttr(tid, 0)
		require.NoError(t, err)
		assert.Equal(t, uint32(unix.SCHED_RR), attr.Policy)
		assert.Equal(t, uint32(59), attr.Priority)
	}
}

// A daemon in the background reports that it runs, though its releaser goes on.
func TestBackgroundDaemonWithReleaser(t *testing.T) {
	s := newSite(t)
	pidFile := filepath.Join(s.Dir, "d.pid")
	foreground := s.master.Start(filepath.Join(s.Bin, "xvrrpd"), "-g", filepath.Join(s.Dir, "log"),
		"-f", s.File("m.conf", leased(200, "0.3", "")), "-p", pidFile, "--dataplane", "socket")
	t.Cleanup(s.master.Crash)
	require.NoError(t, foreground.Wait(10*time.Second))
	s.Eventually("the address is served", 15*time.Second, s.owner(s.master))
	s.releaser(t, s.master)
	text, err := os.ReadFile(pidFile)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	s.Eventually("the address is gone", 5*time.Second, func() bool { return !s.master.Has(vip) })
	s.Eventually("the releaser is gone", 5*time.Second, func() bool { return len(releasers(t, s.master)) == 0 })
	said, err := os.ReadFile(filepath.Join(s.Dir, "log"))
	require.NoError(t, err)
	assert.Contains(t, string(said), "xvrrpd is gone: removed its addresses", "it logs to where the daemon does")
}
