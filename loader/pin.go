// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// BPFFS is where the BPF file system is mounted.
const BPFFS = "/sys/fs/bpf"

var pinRoot = filepath.Join(BPFFS, "xvrrp")

// PinDir returns the folder of an interface's pins. Interfaces of two network
// namespaces may have the same name, so the namespace's inode is part of it.
// The BPF file system allows no dot in a name: eth0.100 becomes eth0@100.
func PinDir(netns uint64, ifname string) string {
	return filepath.Join(pinRoot, strconv.FormatUint(netns, 10), strings.ReplaceAll(ifname, ".", "@"))
}

// ReclaimPins removes what daemons left for interfaces that are gone, e.g.
// with their network namespace: such pins keep maps in memory for nothing.
func ReclaimPins() error {
	dirs, err := filepath.Glob(filepath.Join(pinRoot, "*", "*"))
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	var errs []error
	for _, dir := range dirs {
		if !orphaned(dir) {
			continue
		}
		errs = append(errs, pins{dir}.remove())
	}
	return errors.Join(errs...)
}

// orphaned says whether a folder has the pin of a link, and no link that still
// belongs to an interface.
func orphaned(dir string) bool {
	links, _ := filepath.Glob(filepath.Join(dir, linkPin+"*"))
	if egress := filepath.Join(dir, egressPin); len(links) == 0 && exists(egress) {
		links = append(links, egress)
	}
	for _, name := range links {
		l, err := link.LoadPinnedLink(name, nil)
		if err != nil {
			return false // not ours to judge
		}
		info, err := l.Info()
		_ = l.Close()
		if err != nil || linkIfindex(info) != 0 {
			return false
		}
	}
	return len(links) > 0
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
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

const (
	linkPin   = "link-"
	egressPin = "egress" // link of the fence
)

// pins are the names of a Filter in the BPF file system. An empty dir means
// that nothing is pinned.
type pins struct{ dir string }

// adopt returns the link that a predecessor pinned in this mode, if it still
// belongs to the interface.
func (p pins) adopt(mode Mode, ifindex int) attachment { return p.load(linkPin+string(mode), ifindex) }

func (p pins) adoptEgress(ifindex int) attachment { return p.load(egressPin, ifindex) }

func (p pins) load(name string, ifindex int) attachment {
	if p.dir == "" {
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

func (p pins) dropLinks() error {
	entries, err := os.ReadDir(p.dir)
	if p.dir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), linkPin) {
			continue
		}
		if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil {
			return fmt.Errorf("remove stale pin: %w", err)
		}
	}
	return nil
}

func (p pins) dropEgress() error {
	if p.dir == "" {
		return nil
	}
	err := os.Remove(filepath.Join(p.dir, egressPin))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove stale pin: %w", err)
	}
	return nil
}

// save pins program, link and maps, in place of a predecessor's.
func (p pins) save(f *Filter, mode Mode) error {
	if p.dir == "" {
		return nil
	}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("make pin folder: %w", err)
	}
	for name, object := range map[string]interface{ Pin(string) error }{
		"prog":     f.prog,
		"routers":  f.maps.Routers,
		"slots":    f.maps.Slots,
		"counters": f.maps.Counters,
		"events":   f.maps.Events,
		"budgets":  f.maps.Budgets,
		"sources":  f.maps.Sources,

		"vrid_budgets": f.maps.VridBudgets,
		"lease":        f.maps.Lease,
		"fences":       f.maps.Fences,
		"sessions":     f.maps.Sessions,
		"vips":         f.maps.Vips,
		"locals":       f.maps.Locals,
	} {
		path := filepath.Join(p.dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("replace pin: %w", err)
		}
		if err := object.Pin(path); err != nil {
			return fmt.Errorf("pin %s: %w", path, err)
		}
	}
	for name, l := range map[string]attachment{linkPin + string(mode): f.link, egressPin: f.egressLink} {
		path := filepath.Join(p.dir, name)
		if _, err := os.Stat(path); err == nil || l == nil {
			continue // adopted, or nothing to pin
		}
		if err := l.Pin(path); err != nil {
			return fmt.Errorf("pin %s: %w", path, err)
		}
	}
	return nil
}

func (p pins) remove() error {
	if p.dir == "" {
		return nil
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	// The namespace's folder goes with its last interface.
	_ = os.Remove(filepath.Dir(p.dir))
	return nil
}
