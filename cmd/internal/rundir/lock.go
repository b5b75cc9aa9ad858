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
	fd   int
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
	// Without the os package, which tries to make each file one that the
	// runtime can wait for: a daemon has hundreds of them to lock when it starts.
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	current := false
	defer func() {
		if !current {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
	}
	if current, err = isAt(fd, path); !current {
		return nil, err
	}
	return &Lock{fd: fd, path: path}, nil
}

// isAt reports whether an open file is the one at a path.
func isAt(fd int, path string) (bool, error) {
	var have, there unix.Stat_t
	if err := unix.Fstat(fd, &have); err != nil {
		return false, &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	switch err := unix.Lstat(path, &there); err {
	case nil:
		return have.Dev == there.Dev && have.Ino == there.Ino, nil
	case unix.ENOENT:
		return false, nil
	default:
		return false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
}

// Release removes the file and gives the lock up, in this order: while the lock
// is held no other daemon removes or replaces the file.
func (l *Lock) Release() error {
	current, err := isAt(l.fd, l.path)
	if current {
		err = os.Remove(l.path)
	}
	return errors.Join(err, unix.Close(l.fd))
}
