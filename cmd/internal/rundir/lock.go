// SPDX-License-Identifier: Apache-2.0

package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrInUse means that another daemon holds what this one wants.
var ErrInUse = errors.New("another xvrrpd uses it")

// Lock makes sure that one daemon alone serves an interface of a network
// namespace. The kernel drops it with the process.
type Lock struct {
	file *os.File
	path string
}

// LockInterface takes the lock of an interface. It returns ErrInUse if another
// daemon holds it; every other error means that there can be no lock here.
// netns is the inode of the network namespace.
func LockInterface(netns uint64, ifname string) (*Lock, error) {
	l, err := lock(filepath.Join(Root, "lock", strconv.FormatUint(netns, 10)+"-"+ifname))
	if err != nil {
		return nil, fmt.Errorf("lock interface %s: %w", ifname, err)
	}
	return l, nil
}

func lock(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder for locks: %w", err)
	}
	for {
		l, err := tryLock(path)
		if l != nil || err != nil {
			return l, err
		}
	}
}

// tryLock returns nil without an error if the file was removed before the lock
// was had: its last holder has just released it, and the next one makes
// another file.
func tryLock(path string) (_ *Lock, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	current := false
	defer func() {
		if !current {
			err = errors.Join(err, f.Close())
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	if current, err = isAt(f, path); !current {
		return nil, err
	}
	return &Lock{file: f, path: path}, nil
}

// isAt reports whether an open file is the one at a path.
func isAt(f *os.File, path string) (bool, error) {
	have, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(have, there), nil
}

// Release removes the file and gives the lock up, in this order: while the lock
// is held no other daemon removes or replaces the file.
func (l *Lock) Release() error {
	current, err := isAt(l.file, l.path)
	if current {
		err = os.Remove(l.path)
	}
	return errors.Join(err, l.file.Close())
}
