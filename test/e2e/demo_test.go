// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/test/lab"
)

// The demo leaves no namespace, process, pin and file behind. Other tests may run
// beside this one.
func TestDemoLeavesNothing(t *testing.T) {
	lab.Require(t, "tcpdump", "ping", "pgrep")
	program := filepath.Join(t.TempDir(), "demo")
	out, err := exec.Command("go", "build", "-o", program, "../cmd/demo").CombinedOutput()
	require.NoError(t, err, string(out))
	before := ownerless(t)
	cmd := exec.Command(program)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	namespaces, err := filepath.Glob(fmt.Sprintf("/run/netns/xv%d-*", cmd.Process.Pid))
	require.NoError(t, err)
	assert.Empty(t, namespaces)
	processes, _ := exec.Command("pgrep", "-a", "-s", fmt.Sprint(cmd.Process.Pid)).Output() // none is an error
	assert.Empty(t, string(processes))
	assert.Empty(t, slices.DeleteFunc(ownerless(t), func(s string) bool { return slices.Contains(before, s) }))
}

// ownerless returns pins, files and locks of namespaces that are not there.
func ownerless(t *testing.T) (left []string) {
	t.Helper()
	names, err := filepath.Glob("/run/netns/*")
	require.NoError(t, err)
	var there []string
	for _, name := range names {
		var st unix.Stat_t
		if unix.Stat(name, &st) == nil {
			there = append(there, fmt.Sprint(st.Ino))
		}
	}
	for _, pattern := range []string{"/sys/fs/bpf/xvrrp/*", "/run/xvrrp/netns-*", "/run/xvrrp/lock/*"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, path := range found {
			if !slices.ContainsFunc(there, func(ino string) bool { return strings.Contains(path, ino) }) {
				left = append(left, path)
			}
		}
	}
	return left
}
