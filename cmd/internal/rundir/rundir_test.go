// SPDX-License-Identifier: Apache-2.0

package rundir

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDir(t *testing.T) {
	assert.Equal(t, "/run/xvrrp", dir(1, 1, ""))
	assert.Equal(t, "/run/xvrrp/netns-2", dir(2, 1, ""))
	assert.Equal(t, "/run/xvrrp/instance-a", dir(1, 1, "a"))
	assert.Equal(t, "/run/xvrrp/netns-2/instance-a", dir(2, 1, "a"))
	assert.Equal(t, "/run/xvrrp/netns-2", dir(2, 0, ""), "what the first one is cannot be read")
}

func TestNetNS(t *testing.T) {
	assert.NotZero(t, NetNS("self"))
	assert.Zero(t, NetNS("none"))
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock", "1-eth0")
	first, err := lock(path)
	require.NoError(t, err)
	_, err = lock(path)
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, first.Release())
	assert.NoFileExists(t, path, "nothing is left behind")
	second, err := lock(path)
	require.NoError(t, err)
	require.NoError(t, second.Release())
}

// A file that is left over from a crash is not a lock.
func TestLockLeftover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1-eth0")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	l, err := lock(path)
	require.NoError(t, err)
	require.NoError(t, l.Release())
}

// The holder that removes the file may do so while another waits to lock it.
func TestLockOfRemovedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1-eth0")
	l, err := tryLock(path)
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	current, err := isAt(l.fd, path)
	require.NoError(t, err)
	assert.False(t, current, "there is no file")
	other, err := lock(path)
	require.NoError(t, err, "the removed file locks nothing")
	current, err = isAt(l.fd, path)
	require.NoError(t, err)
	assert.False(t, current, "there is another file")
	require.NoError(t, l.Release())
	assert.FileExists(t, path, "it is another's")
	require.NoError(t, other.Release())
}

func TestLockOneHolderAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1-eth0")
	var holders, taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 500 {
				l, err := lock(path)
				if err != nil {
					assert.ErrorIs(t, err, ErrInUse)
					continue
				}
				taken.Add(1)
				assert.Equal(t, int32(1), holders.Add(1), "there are two holders")
				holders.Add(-1)
				assert.NoError(t, l.Release())
			}
		})
	}
	all.Wait()
	assert.Positive(t, taken.Load())
	assert.NoFileExists(t, path)
}

func TestLockFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(dir, "target"), filepath.Join(dir, "1-eth0")))
	_, err := lock(filepath.Join(dir, "1-eth0"))
	require.Error(t, err)
	assert.NoFileExists(t, filepath.Join(dir, "target"))
}

func TestLockWithoutFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := lock(filepath.Join(file, "1-eth0"))
	require.Error(t, err)
	assert.NotErrorIs(t, err, ErrInUse)
}
