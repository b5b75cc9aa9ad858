// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BPFFS is where the BPF file system is mounted.
const BPFFS = "/sys/fs/bpf"

var pinRoot = filepath.Join(BPFFS, "xvrrp")

// PinDir returns the folder of a daemon's pins: one for each network namespace,
// and for each instance of the daemon in it; the instance may be empty. Daemons
// that have the same one keep apart: see Options.PinDir. The BPF file system
// allows no dot in a name.
func PinDir(netns uint64, instance string) string {
	name := strconv.FormatUint(netns, 10)
	if instance != "" {
		name += "-" + strings.NewReplacer(".", "@", "/", "@").Replace(instance)
	}
	return filepath.Join(pinRoot, name)
}

// ReclaimPins removes what daemons left that have ended and whose interfaces are
// gone, e.g. with their network namespace: such pins keep maps in memory for
// nothing.
func ReclaimPins() error { return reclaim(pinRoot) }

func reclaim(root string) error {
	dirs, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, reclaimFolder(filepath.Join(root, dir.Name()), pins.orphaned))
	}
	return errors.Join(errs...)
}

// DropDead takes off what daemons attached that have ended, for one that needs
// no programs. dir is the folder that it would have, see PinDir. A folder with
// something on an interface to keep stays whole: its links work with its maps.
func DropDead(dir string, keep map[int]bool) error {
	goes := func(p pins) bool {
		return p.ended() && !slices.ContainsFunc(p.links(), func(path string) bool { return keep[pinnedOn(path)] })
	}
	dirs, _ := filepath.Glob(dir + beside + "*")
	var errs []error
	for _, dir := range append(dirs, dir) {
		errs = append(errs, reclaimFolder(dir, goes))
	}
	return errors.Join(errs...)
}

// reclaimFolder removes what is in the folder of a daemon that does not live, if
// it is to go. What stays is not even locked: its daemon may be starting again.
func reclaimFolder(dir string, goes func(pins) bool) error {
	entries, _ := os.ReadDir(dir)
	if len(entries) > 0 && !slices.ContainsFunc(append(formerPins(dir), pins{dir: dir}), goes) {
		return nil
	}
	lock, err := tryLock(dir)
	if lock == nil || err != nil {
		return ignore(err, errInUse, fs.ErrNotExist)
	}
	defer lock.Close()
	var errs []error
	for _, p := range append(formerPins(dir), pins{dir: dir}) {
		if goes(p) {
			errs = append(errs, p.removeAll())
		}
	}
	_ = os.Remove(dir) // if it is empty: a daemon was killed before it pinned
	return errors.Join(errs...)
}

// ignore returns an error, unless it is one of some.
func ignore(err error, some ...error) error {
	for _, e := range some {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}

// errInUse means that another daemon, which lives, has a folder.
var errInUse = errors.New("another daemon uses it")

// claim locks a folder for pins, which this daemon then has for itself: dir, or
// one beside it if another daemon has that. One that holds pins of an interface
// is that of a predecessor, and taken before the others.
func claim(dir string, ifindex int) (string, *os.File, error) {
	if found, _ := filepath.Glob(dir + "*/*-" + strconv.Itoa(ifindex)); ifindex != 0 {
		for _, pin := range found {
			was := filepath.Dir(pin)
			if was != dir && !strings.HasPrefix(was, dir+beside) {
				continue // of another instance
			}
			if lock, err := lockOwn(was); !errors.Is(err, errInUse) {
				return was, lock, err
			}
		}
	}
	name := dir
	for n := 2; ; n++ {
		lock, err := lockOwn(name)
		if !errors.Is(err, errInUse) {
			return name, lock, err
		}
		name = dir + beside + strconv.Itoa(n)
	}
}

// beside is between the name of a folder that is taken and a number.
const beside = "~"

// lockOwn is lockFolder that waits a moment for the folder of a daemon that has
// ended: another one that starts may be looking whether it is to go.
func lockOwn(dir string) (*os.File, error) {
	for range ownTries {
		lock, err := lockFolder(dir)
		if !errors.Is(err, errInUse) || !(pins{dir: dir}).ended() {
			return lock, err
		}
		pause()
	}
	return lockFolder(dir)
}

// It waits for 50 ms in all; a test does something else meanwhile.
const ownTries = 10

var pause = func() { time.Sleep(5 * time.Millisecond) }

// lockFolder makes a folder if it is missing, and locks it. The kernel drops the
// lock with the process.
func lockFolder(dir string) (*os.File, error) {
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make pin folder: %w", err)
		}
		lock, err := tryLock(dir)
		if lock != nil || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return lock, err
		}
	}
}

// tryLock returns nil without an error if the folder was removed before the lock
// was had.
func tryLock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open pin folder: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && isAt(f, dir) {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock pin folder %s: %w", dir, errInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("lock pin folder %s: %w", dir, err)
	}
	return nil, nil
}

// isAt reports whether an open folder is the one at a path.
func isAt(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(have, there)
}

// formerPins returns what the version before made, which had a folder for each
// interface: below that of a network namespace, named like the interface.
func formerPins(dir string) []pins {
	var out []pins
	entries, _ := os.ReadDir(dir) // none, or not ours to read
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, pins{dir: filepath.Join(dir, e.Name())})
		}
	}
	return out
}

// links returns the paths of the pinned links, also those of the version before.
func (p pins) links() []string {
	links, _ := filepath.Glob(filepath.Join(p.dir, linkPrefix+"*"))
	egress, _ := filepath.Glob(filepath.Join(p.dir, formerEgress+"*"))
	return append(links, egress...)
}

// takeFormer moves the links that the version before pinned for an interface to
// where they belong now, so that they are taken over.
func (p pins) takeFormer(ifindex int) error {
	for _, former := range p.former {
		for _, path := range former.links() {
			if pinnedOn(path) != ifindex {
				continue
			}
			name := filepath.Base(path) + "-" + strconv.Itoa(ifindex)
			if err := p.drop(name); err != nil {
				return err
			}
			if err := os.Rename(path, filepath.Join(p.dir, name)); err != nil {
				return fmt.Errorf("move pin of the version before: %w", err)
			}
			p.names[name] = true
		}
		if len(former.links()) > 0 {
			continue // of another interface
		}
		if err := former.removeAll(); err != nil {
			return err
		}
	}
	return nil
}

// pinnedOn returns the interface of a pinned link: 0 if that is gone, -1 if
// it cannot be told.
func pinnedOn(path string) int {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return -1
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return -1
	}
	return linkIfindex(info)
}

// orphaned reports whether the daemon of a folder has ended and none of its
// links belongs to an interface.
func (p pins) orphaned() bool {
	if !p.ended() {
		return false
	}
	for _, path := range p.links() {
		if pinnedOn(path) != 0 {
			return false
		}
	}
	return true
}

// ended reports whether the daemon of a folder has ended. A folder without a
// lease tells nothing.
func (p pins) ended() bool {
	m := p.open("lease")
	if m == nil {
		return false
	}
	defer m.Close()
	// That of the version before is longer and begins alike.
	var l rxXvrrpLease
	raw, err := m.LookupBytes(uint32(0))
	if err != nil || len(raw) < int(unsafe.Sizeof(l)) {
		return false
	}
	l.UntilNs, l.EndedNs = binary.NativeEndian.Uint64(raw), binary.NativeEndian.Uint64(raw[8:])
	return ended(&l)
}

// ended reports whether nobody renews a lease any more. That of a daemon that
// has just loaded its programs is 0 until its loop runs.
func ended(l *rxXvrrpLease) bool {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return l.EndedNs != 0 || l.UntilNs != 0 && int64(l.UntilNs) < now.Nano()
}

// MountBPFFS mounts the BPF file system at its usual place if nobody has. It
// fails if nothing can be pinned there.
func MountBPFFS() error {
	var st unix.Statfs_t
	if err := unix.Statfs(BPFFS, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		if st.Flags&unix.ST_RDONLY != 0 {
			return fmt.Errorf("pin in the BPF file system on %s: %w", BPFFS, unix.EROFS)
		}
		return nil
	}
	if err := unix.Mount("bpf", BPFFS, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount the BPF file system on %s: %w", BPFFS, err)
	}
	return nil
}

// Pins of links have the index of their interface in their name, which stays
// when the interface is renamed.
const (
	linkPrefix   = "link-"
	egressPrefix = "egress-" // of the fence
	progPrefix   = "prog-"
	formerEgress = "egress"
)

func linkPin(mode Mode, ifindex int) string {
	return linkPrefix + string(mode) + "-" + strconv.Itoa(ifindex)
}

func egressPin(ifindex int) string { return egressPrefix + strconv.Itoa(ifindex) }

// pins are the names of a Collection in the BPF file system. An empty dir means
// that nothing is pinned.
type pins struct {
	dir   string
	lock  *os.File        // on dir
	names map[string]bool // what is there: ours, and what a predecessor left
	// former are the folders of the version before in this network namespace.
	former []pins
}

// openPins claims a folder and reads what a predecessor left in it: with many
// interfaces it takes its time to ask the file system for each.
func openPins(dir string, ifindex int) (p pins, err error) {
	if dir == "" {
		return pins{names: map[string]bool{}}, nil
	}
	if p.dir, p.lock, err = claim(dir, ifindex); err != nil {
		return pins{}, err
	}
	if err := p.list(); err != nil {
		return pins{}, errors.Join(err, p.lock.Close())
	}
	// The version before did not tell daemons of a namespace apart.
	netns, _, _ := strings.Cut(filepath.Base(dir), "-")
	p.former = formerPins(filepath.Join(filepath.Dir(dir), netns))
	return p, nil
}

// list notes what is in the folder. Folders in it are of the version before, and
// of another interface.
func (p *pins) list() error {
	p.names = map[string]bool{}
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			p.names[e.Name()] = true
		}
	}
	return nil
}

// hold makes the folder again if somebody removed it: then all pins are gone.
// It reports whether they are.
func (p *pins) hold() (anew bool, err error) {
	if isAt(p.lock, p.dir) {
		return false, nil
	}
	lock, err := lockFolder(p.dir)
	if err != nil {
		return false, err
	}
	_ = p.lock.Close()
	p.lock = lock
	return true, p.list()
}

// release lets another daemon have the folder, which goes if nothing is in it.
func (p *pins) release() error {
	if p.lock == nil {
		return nil
	}
	_ = os.Remove(p.dir)
	err := p.lock.Close()
	p.lock = nil
	return err
}

// adopt returns the link that a predecessor pinned, if it still belongs to the
// interface.
func (p pins) adopt(name string, ifindex int) attachment {
	if !p.names[name] {
		return nil
	}
	l, err := link.LoadPinnedLink(filepath.Join(p.dir, name), nil)
	if err != nil {
		return nil
	}
	info, err := l.Info()
	if err == nil && linkIfindex(info) == ifindex {
		return l
	}
	_ = l.Close()
	return nil
}

// linkIfindex is 0 for a link whose interface has gone.
func linkIfindex(info *link.Info) int {
	if x := info.XDP(); x != nil {
		return int(x.Ifindex)
	}
	if t := info.TCX(); t != nil {
		return int(t.Ifindex)
	}
	return 0
}

// open returns a map that a predecessor pinned, or nil.
func (p pins) open(name string) *ebpf.Map {
	if p.dir == "" {
		return nil
	}
	m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, name), nil)
	if err != nil {
		return nil
	}
	return m
}

// readPin reports whether there is a pinned map whose first value is like the
// one that it fills.
func readPin[T any](p pins, name string, value *T) bool {
	m := p.open(name)
	if m == nil {
		return false
	}
	defer m.Close()
	return sameValue[T](m) && m.Lookup(uint32(0), value) == nil
}

// dropLinks removes the pins of an interface's links, of whatever mode.
func (p pins) dropLinks(ifindex int) error {
	var errs []error
	for _, mode := range []Mode{ModeNative, ModeGeneric, ModeTCX} {
		errs = append(errs, p.takeOff(linkPin(mode, ifindex)))
	}
	return errors.Join(errs...)
}

// takeOff detaches a pinned link and removes the pin. Without the first the
// hook would be held for a moment longer: the kernel lets go of what is pinned
// only some time after its name is gone.
func (p pins) takeOff(name string) error {
	if !p.names[name] {
		return nil
	}
	if l, err := link.LoadPinnedLink(filepath.Join(p.dir, name), nil); err == nil {
		_ = l.Detach() // at the latest with the pin
		_ = l.Close()
	}
	return p.drop(name)
}

func (p pins) drop(name string) error {
	if !p.names[name] {
		return nil
	}
	err := os.Remove(filepath.Join(p.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale pin: %w", err)
	}
	delete(p.names, name)
	return nil
}

// object is what can be pinned.
type object interface {
	Pin(string) error
	Unpin() error
}

// replace pins an object, in place of a predecessor's.
func (p pins) replace(name string, object object) error {
	// The library remembers a pin that somebody removed.
	if err := errors.Join(p.drop(name), object.Unpin()); err != nil {
		return err
	}
	path := filepath.Join(p.dir, name)
	if err := object.Pin(path); err != nil {
		return fmt.Errorf("pin %s: %w", path, err)
	}
	p.names[name] = true
	return nil
}

// save pins the links and the program of a port, and with the first of all ports
// the rest in place of a predecessor's. If somebody removed the folder, everything
// is pinned again.
func (p *pins) save(c *Collection, at *port) error {
	if p.dir == "" {
		return nil
	}
	anew, err := p.hold()
	if err != nil {
		return err
	}
	if c.pinned && !anew {
		return p.savePort(c, at)
	}
	c.pinned = false
	if err := p.saveAll(c); err != nil {
		return err
	}
	for _, at := range c.ports {
		if !at.attached {
			continue
		}
		if err := p.savePort(c, at); err != nil {
			return err
		}
	}
	c.pinned = true
	return nil
}

// savePort pins the links and the program of a port.
func (p *pins) savePort(c *Collection, at *port) error {
	name := programName(at.mode)
	if prog := c.ingress[name]; !prog.pinned {
		if err := p.replace(progPrefix+name, prog); err != nil {
			return err
		}
		prog.pinned = true
	}
	for name, l := range map[string]attachment{linkPin(at.mode, at.ifindex): at.link, egressPin(at.ifindex): at.egress} {
		if l == nil || p.names[name] {
			continue // nothing to pin, or adopted
		}
		if err := p.replace(name, l); err != nil {
			return err
		}
	}
	return nil
}

func (p pins) saveAll(c *Collection) error {
	// Those of the modes come with the first port that uses one.
	for _, name := range []string{programXDP, programTCX} {
		if err := p.drop(progPrefix + name); err != nil {
			return err
		}
		if prog := c.ingress[name]; prog != nil {
			prog.pinned = false
		}
	}
	objects := map[string]object{progPrefix + "egress": c.egress}
	for name, m := range c.maps {
		if name != "scratch" && !strings.HasPrefix(name, ".") {
			objects[name] = m
		}
	}
	for name, object := range objects {
		if err := p.replace(name, object); err != nil {
			return err
		}
	}
	return nil
}

// remove removes the pins that this Collection made or found.
func (p pins) remove() error {
	if p.dir == "" {
		return nil
	}
	for name := range p.names {
		if err := p.drop(name); err != nil {
			return err
		}
	}
	// The folder of all daemons goes with the last of them.
	_ = os.Remove(p.dir)
	_ = os.Remove(filepath.Dir(p.dir))
	return nil
}

// removeAll removes what a daemon left that has ended.
func (p pins) removeAll() error {
	if err := p.list(); err != nil {
		return err
	}
	return p.remove()
}
