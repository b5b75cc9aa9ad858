// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

// pinDir is a folder for pins of one test.
func pinDir(t *testing.T) string {
	t.Helper()
	requireRoot(t)
	require.NoError(t, MountBPFFS())
	root := filepath.Join(BPFFS, "xvrrp-test-"+strconv.Itoa(os.Getpid()))
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(root)) })
	return filepath.Join(root, strings.NewReplacer("/", "-", ".", "-").Replace(t.Name()))
}

// namespace puts the test into a network namespace of its own, with interfaces
// of these names, and returns their indexes.
func namespace(t *testing.T, names ...string) []int {
	t.Helper()
	requireRoot(t)
	// The thread ends with the test, and its namespace with the thread.
	runtime.LockOSThread()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	var out []int
	for _, name := range names {
		require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}))
		l, err := netlink.LinkByName(name)
		require.NoError(t, err)
		out = append(out, l.Attrs().Index)
	}
	return out
}

func loadPinned(t *testing.T, dir string) *Collection {
	t.Helper()
	c, err := Load(Options{Routers: 16, PinDir: dir})
	require.NoError(t, err)
	return c
}

func attachLo(t *testing.T, c *Collection, modes ...Mode) {
	t.Helper()
	mode, err := c.Attach(Port{Ifindex: loopback, Ifname: "lo", Modes: modes})
	require.NoError(t, err)
	assert.Equal(t, modes[len(modes)-1], mode)
	// Before Linux 6.6 the fence needs what a Port names for it.
	if err := c.AttachEgress(loopback); !errors.Is(err, ebpf.ErrNotSupported) {
		require.NoError(t, err)
	}
}

func TestAttachInEveryMode(t *testing.T) {
	for _, mode := range []Mode{ModeGeneric, ModeTCX} { // lo has no native XDP
		t.Run(string(mode), func(t *testing.T) {
			dir := pinDir(t)
			if mode == ModeTCX {
				requireTCX(t)
			}
			c := loadPinned(t, dir)
			attachLo(t, c, mode)
			pinned := filepath.Join(dir, linkPin(mode, loopback))
			before := linkID(t, pinned)
			// A crash: the process lets go without Close. The pin keeps it.
			require.NoError(t, c.release())

			again := loadPinned(t, dir)
			attachLo(t, again, mode)
			router := ours
			router.Ifindex, router.Name = loopback, "VI_1"
			require.NoError(t, again.SetRouter(3, router))
			assert.Equal(t, before, linkID(t, pinned), "the link is taken over")
			attached, err := again.Attached(loopback)
			require.NoError(t, err)
			assert.True(t, attached)
			if _, err := exec.LookPath("bpftool"); err == nil || os.Getenv("CI") == "true" {
				dump := func(name string) string {
					out, err := exec.Command("bpftool", "map", "dump", "pinned", filepath.Join(dir, name)).CombinedOutput()
					require.NoError(t, err, string(out))
					return string(out)
				}
				counters := dump("counters")
				for _, name := range reasonNames {
					assert.Contains(t, counters, `"`+name+`"`)
				}
				assert.Contains(t, dump("ports"), `"name": "lo"`)
				assert.Contains(t, dump("routers"), `"name": "VI_1"`)
			}
			var m rxXvrrpMeta
			require.True(t, readPin(pins{dir: dir}, "meta", &m))
			assert.Equal(t, uint32(2), m.Generation)
			require.NoError(t, again.Close())
			assert.NoDirExists(t, dir)
		})
	}
}

// Only the program of a mode that a port uses is loaded and pinned; one that a
// predecessor pinned for another mode goes.
func TestProgramsAreLoadedWhenWanted(t *testing.T) {
	dir := pinDir(t)
	requireTCX(t)
	xdp, tcx := filepath.Join(dir, "prog-xdp"), filepath.Join(dir, "prog-tcx")
	dead := loadPinned(t, dir)
	assert.Empty(t, dead.ingress)
	attachLo(t, dead, ModeTCX)
	assert.Len(t, dead.ingress, 1)
	assert.FileExists(t, tcx)
	assert.NoFileExists(t, xdp)
	require.NoError(t, dead.release())

	c := loadPinned(t, dir)
	attachLo(t, c, ModeGeneric)
	assert.FileExists(t, xdp)
	assert.NoFileExists(t, tcx)
	assert.NoFileExists(t, filepath.Join(dir, linkPin(ModeTCX, loopback)))
	attachLo(t, c, ModeTCX)
	assert.FileExists(t, tcx)
	assert.FileExists(t, filepath.Join(dir, linkPin(ModeTCX, loopback)))
	assert.NoFileExists(t, filepath.Join(dir, linkPin(ModeGeneric, loopback)))
	require.NoError(t, c.Close())
}

// An error that may pass is not remembered; one of the multi-buffer flag, which
// old kernels do not know, is not final, and is logged.
func TestProgramIsTriedAgain(t *testing.T) {
	requireRoot(t)
	var said bytes.Buffer
	change := func(*ebpf.CollectionSpec) {}
	c, err := load(Options{Routers: 2, Log: slog.New(slog.NewTextHandler(&said, nil))},
		func(spec *ebpf.CollectionSpec) { change(spec) })
	require.NoError(t, err)
	defer c.Close()
	lease := c.maps["lease"]
	c.maps["lease"] = c.maps["meta"]
	_, err = c.program(ModeNative)
	require.ErrorIs(t, err, ebpf.ErrMapIncompatible)
	assert.Empty(t, said.String(), "that is not for the flag")
	c.maps["lease"] = lease
	change = func(spec *ebpf.CollectionSpec) { spec.Programs["xvrrp_xdp"].Flags |= 1 << 31 }
	_, err = c.program(ModeNative)
	require.NoError(t, err)
	assert.Contains(t, said.String(), "without support for frames in several buffers")

	change = func(spec *ebpf.CollectionSpec) {
		spec.Programs["xvrrp_tcx"].Instructions = asm.Instructions{asm.Return()}
	}
	_, err = c.program(ModeTCX)
	require.Error(t, err)
	assert.Len(t, c.ingress, 2, "refused for good")
}

func linkID(t *testing.T, path string) link.ID {
	t.Helper()
	l, err := link.LoadPinnedLink(path, nil)
	require.NoError(t, err)
	defer l.Close()
	info, err := l.Info()
	require.NoError(t, err)
	return info.ID
}

// agent puts another program before all others on a hook.
func agent(t *testing.T, ifindex int, hook ebpf.AttachType) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "agent", Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0 /* TC_ACT_OK */), asm.Return()},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = prog.Close() })
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: hook, Anchor: link.Head()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
}

// Most network agents' programs end the chain with TC_ACT_OK. Ours comes before
// them, whoever was there first, and also after a crash.
func TestTCXComesFirst(t *testing.T) {
	dir := pinDir(t)
	requireTCX(t)
	hooks := []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}
	for range 2 { // the second time a link is there to be adopted, but not first
		for _, hook := range hooks {
			agent(t, loopback, hook)
		}
		c := loadPinned(t, dir)
		attachLo(t, c, ModeTCX)
		attached, err := c.Attached(loopback)
		require.NoError(t, err)
		assert.True(t, attached)
		require.NoError(t, c.release())
	}
	c := loadPinned(t, dir)
	attachLo(t, c, ModeTCX)
	// One comes before us while we run: that is noticed and put right.
	for _, hook := range hooks {
		agent(t, loopback, hook)
		attached, err := c.Attached(loopback)
		require.NoError(t, err)
		assert.False(t, attached, hook)
		attachLo(t, c, ModeTCX)
		attached, err = c.Attached(loopback)
		require.NoError(t, err)
		assert.True(t, attached)
	}
	for _, hook := range hooks {
		chain, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: hook})
		require.NoError(t, err)
		assert.Len(t, chain.Programs, 4, "three agents and one of ours")
	}
	require.NoError(t, c.Close())
}

// attachedTCX returns a Collection that is attached to an interface.
func attachedTCX(t *testing.T) (c *Collection, ifindex int) {
	t.Helper()
	requireTCX(t)
	ifindex = namespace(t, "port")[0]
	c, err := Load(Options{Routers: 2})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = c.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{ModeTCX}})
	require.NoError(t, err)
	return c, ifindex
}

// A hook that loses its last program is made anew, with a revision as before.
func TestHookIsMadeAnew(t *testing.T) {
	c, port := attachedTCX(t)
	attached, err := c.Attached(port)
	require.NoError(t, err)
	require.True(t, attached)
	require.NoError(t, c.ports[port].link.(link.Link).Detach())
	agent(t, port, ebpf.AttachTCXIngress)
	attached, err = c.Attached(port)
	require.NoError(t, err)
	assert.False(t, attached)
}

// The path is looked at on every interface, again and again.
func TestAttachedAllocatesNothing(t *testing.T) {
	c, port := attachedTCX(t)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = c.Attached(port) }))
}

func TestBusyHookIsExplained(t *testing.T) {
	requireRoot(t)
	holder, err := Load(Options{Routers: 2})
	require.NoError(t, err)
	defer holder.Close()
	attachLo(t, holder, ModeGeneric)
	info, err := program(t, holder, ModeGeneric).Info()
	require.NoError(t, err)
	id, _ := info.ID()
	port := Port{Ifindex: loopback, Ifname: "lo", Modes: []Mode{ModeGeneric}, Holder: func(int) uint32 { return uint32(id) }}
	var said bytes.Buffer
	c, err := Load(Options{Routers: 2, Log: slog.New(slog.NewTextHandler(&said, nil))})
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Attach(port)
	require.ErrorIs(t, err, ErrBusy)
	assert.ErrorContains(t, err, "XDP is held by program xvrrp_xdp (id "+strconv.Itoa(int(id))+") on lo")
	assert.Empty(t, c.ports, "nothing is left of it")
	requireTCX(t)
	port.Modes = []Mode{ModeGeneric, ModeTCX}
	mode, err := c.Attach(port)
	require.NoError(t, err)
	assert.Equal(t, ModeTCX, mode)
	assert.Contains(t, said.String(), "XDP is held by program xvrrp_xdp")
	assert.Contains(t, said.String(), "; using tcx")
}

// An interface that was renamed between a crash and the restart.
func TestRenamedInterfaceKeepsItsLink(t *testing.T) {
	dir := pinDir(t)
	ports := namespace(t, "before")
	c := loadPinned(t, dir)
	_, err := c.Attach(Port{Ifindex: ports[0], Ifname: "before", Modes: []Mode{ModeGeneric}})
	require.NoError(t, err)
	pinned := filepath.Join(dir, linkPin(ModeGeneric, ports[0]))
	id := linkID(t, pinned)
	require.NoError(t, c.release())
	l, err := netlink.LinkByName("before")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetName(l, "after"))

	again := loadPinned(t, dir)
	_, err = again.Attach(Port{Ifindex: ports[0], Ifname: "after", Modes: []Mode{ModeGeneric}})
	require.NoError(t, err)
	assert.Equal(t, id, linkID(t, pinned))
	require.NoError(t, again.Close())
	assert.NoDirExists(t, dir)
}

// A port that is attached again keeps the MAC that the event loop has told: who
// attaches it may not have heard of it yet. One that is opened again does not.
func TestAttachedAgainKeepsMAC(t *testing.T) {
	ports := namespace(t, "port")
	c, err := Load(Options{Routers: 2})
	require.NoError(t, err)
	defer c.Close()
	want := Port{Ifindex: ports[0], Ifname: "port", MAC: [6]byte{2, 0, 0, 0, 0, 1}, Modes: []Mode{ModeGeneric}}
	now := [6]byte{2, 0, 0, 0, 0, 2}
	router := ours
	router.Ifindex = want.Ifindex
	require.NoError(t, c.SetRouter(0, router)) // as when it is opened
	attach := func(mac [6]byte) {
		t.Helper()
		_, err := c.Attach(want)
		require.NoError(t, err)
		var value rxXvrrpPort
		require.NoError(t, c.maps["ports"].Lookup(uint32(want.Ifindex), &value))
		assert.Equal(t, mac, value.Mac)
	}
	attach(want.MAC)
	c.SetMAC(want.Ifindex, now)
	attach(now)
	require.NoError(t, c.Detach(want.Ifindex))
	attach(want.MAC)
}

// What is forced off an interface is noticed, and attached again.
func TestForcedDetachmentIsNoticed(t *testing.T) {
	ports := namespace(t, "port")
	for _, mode := range []Mode{ModeGeneric, ModeTCX} {
		if mode == ModeTCX {
			requireTCX(t)
		}
		c, err := Load(Options{Routers: 2})
		require.NoError(t, err)
		want := Port{Ifindex: ports[0], Ifname: "port", Modes: []Mode{mode}}
		attached, err := c.Attached(ports[0])
		require.NoError(t, err)
		assert.False(t, attached, "not attached yet")
		_, err = c.Attach(want)
		require.NoError(t, err)
		require.NoError(t, c.ports[ports[0]].link.(link.Link).Detach())
		attached, err = c.Attached(ports[0])
		require.NoError(t, err)
		assert.False(t, attached, mode)
		_, err = c.Attach(want)
		require.NoError(t, err)
		attached, err = c.Attached(ports[0])
		require.NoError(t, err)
		assert.True(t, attached, mode)
		require.NoError(t, c.Close())
	}
}

// An interface that has gone takes its links along.
func TestInterfaceGoes(t *testing.T) {
	dir := pinDir(t)
	ports := namespace(t, "goes", "stays")
	c := loadPinned(t, dir)
	for _, ifindex := range ports {
		_, err := c.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{ModeGeneric}})
		require.NoError(t, err)
	}
	l, err := netlink.LinkByIndex(ports[0])
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(l))
	attached, err := c.Attached(ports[0])
	require.NoError(t, err)
	assert.False(t, attached)
	require.NoError(t, c.Detach(ports[0]))
	require.NoError(t, c.Detach(ports[0]), "it is not there any more")
	left, err := filepath.Glob(dir + "/*-" + strconv.Itoa(ports[0]))
	require.NoError(t, err)
	assert.Empty(t, left)
	attached, err = c.Attached(ports[1])
	require.NoError(t, err)
	assert.True(t, attached)
	require.NoError(t, c.Close())
	assert.NoDirExists(t, dir)
}

// Pins of a daemon that has ended, whose interfaces are gone, are removed; those
// of one that lives, or whose interfaces are there, are not.
func TestPinsAreReclaimed(t *testing.T) {
	root := pinDir(t)
	ports := namespace(t, "port")
	lives, dead, served := filepath.Join(root, "lives"), filepath.Join(root, "dead"), filepath.Join(root, "served")
	var collections []*Collection
	for _, dir := range []string{lives, dead, served} {
		c := loadPinned(t, dir)
		port := Port{Ifindex: loopback, Ifname: "lo", Modes: []Mode{ModeTCX}}
		if dir != served {
			port.Ifindex = ports[0]
		}
		requireTCX(t)
		_, err := c.Attach(port)
		require.NoError(t, err)
		c.Renew(monotonic() + 1e12)
		collections = append(collections, c)
	}
	l, err := netlink.LinkByIndex(ports[0])
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(l))
	for _, c := range collections[1:] {
		c.Renew(1)
		require.NoError(t, c.release())
	}
	require.NoError(t, reclaim(root))
	assert.DirExists(t, lives)
	assert.NoDirExists(t, dead)
	assert.DirExists(t, served)
	require.NoError(t, collections[0].Close())
	require.NoError(t, reclaim(filepath.Join(root, "nothing")))
}

// Two daemons of one network namespace that are told of the same folder do not
// share it, and each finds its own again after a crash, whoever comes first.
func TestPinsOfTwoDaemons(t *testing.T) {
	dir := pinDir(t)
	ports := namespace(t, "one", "two")
	start := func(n int) *Collection {
		c, err := Load(Options{Routers: 2, PinDir: dir, Ifindex: ports[n]})
		require.NoError(t, err)
		_, err = c.Attach(Port{Ifindex: ports[n], Ifname: "port", Modes: []Mode{ModeGeneric}})
		require.NoError(t, err)
		return c
	}
	id := func(c *Collection, n int) link.ID {
		return linkID(t, filepath.Join(c.PinDir(), linkPin(ModeGeneric, ports[n])))
	}
	one, two := start(0), start(1)
	assert.Equal(t, dir, one.PinDir())
	assert.Equal(t, dir+"~2", two.PinDir())
	folders, ids := []string{one.PinDir(), two.PinDir()}, []link.ID{id(one, 0), id(two, 1)}
	require.NoError(t, reclaim(filepath.Dir(dir)))
	require.NoError(t, one.release())
	require.NoError(t, two.release())

	two, one = start(1), start(0)
	assert.Equal(t, folders, []string{one.PinDir(), two.PinDir()})
	assert.Equal(t, ids, []link.ID{id(one, 0), id(two, 1)}, "taken over")
	require.NoError(t, one.Close())
	assert.NoDirExists(t, folders[0])
	assert.Equal(t, ids[1], id(two, 1))

	// Somebody removes the folder: the next link makes it again.
	require.NoError(t, os.RemoveAll(folders[1]))
	_, err := two.Attach(Port{Ifindex: ports[1], Ifname: "two", Modes: []Mode{ModeGeneric}})
	require.NoError(t, err)
	id(two, 1)
	for _, name := range []string{"lease", "prog-xdp"} {
		assert.FileExists(t, filepath.Join(folders[1], name))
	}
	require.NoError(t, two.Close())
	assert.NoDirExists(t, folders[1])
}

// If somebody removes the folder, the links of all ports are pinned again when the
// next one is attached, and when it is asked for: they outlive the daemon.
func TestRemovedPinsAreMadeAgain(t *testing.T) {
	dir := pinDir(t)
	ports := namespace(t, "one", "two", "three")
	c := loadPinned(t, dir)
	attach := func(n int) {
		_, err := c.Attach(Port{Ifindex: ports[n], Ifname: "port", Modes: []Mode{ModeGeneric}})
		require.NoError(t, err)
	}
	pinned := func(n int) bool {
		id, err := c.ports[ports[n]].link.Info()
		require.NoError(t, err)
		return id.ID == linkID(t, filepath.Join(dir, linkPin(ModeGeneric, ports[n])))
	}
	keep := func(want bool) {
		t.Helper()
		made, err := c.KeepPins()
		require.NoError(t, err)
		assert.Equal(t, want, made)
	}
	keep(false)
	attach(0)
	attach(1)
	keep(false)
	require.NoError(t, os.RemoveAll(dir))
	attach(2)
	for n := range ports {
		assert.True(t, pinned(n))
	}
	keep(false)

	require.NoError(t, os.RemoveAll(dir))
	keep(true)
	for n := range ports {
		assert.True(t, pinned(n))
	}
	assert.FileExists(t, filepath.Join(dir, "lease"))
	assert.FileExists(t, filepath.Join(dir, "prog-xdp"))
	keep(false)

	// What stands in its place is told, and tried again.
	require.NoError(t, os.RemoveAll(dir))
	other, err := lockFolder(dir)
	require.NoError(t, err)
	for range 2 {
		_, err = c.KeepPins()
		require.ErrorIs(t, err, errInUse)
	}
	require.NoError(t, other.Close())
	keep(true)
	assert.True(t, pinned(1))
	require.NoError(t, c.Close())
	assert.NoDirExists(t, dir)
}

// The fence on the way out comes after the start, but that of a predecessor is
// continued at once, and is there until another has its place.
func TestEgressComesLater(t *testing.T) {
	dir := pinDir(t)
	requireTCX(t)
	ifindex := namespace(t, "port")[0]
	fences := func() int {
		chain, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: ebpf.AttachTCXEgress})
		require.NoError(t, err)
		return len(chain.Programs)
	}
	attach := func(c *Collection) {
		_, err := c.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{ModeGeneric}})
		require.NoError(t, err)
	}
	dead := loadPinned(t, dir)
	attach(dead)
	assert.Zero(t, fences())
	attached, err := dead.Attached(ifindex)
	require.NoError(t, err)
	assert.True(t, attached, "nothing is missing")
	require.NoError(t, dead.AttachEgress(ifindex))
	require.NoError(t, dead.AttachEgress(ifindex))
	assert.Equal(t, 1, fences())
	pinned := linkID(t, filepath.Join(dir, egressPin(ifindex)))
	require.NoError(t, dead.release())

	next := loadPinned(t, dir)
	attach(next)
	require.NoError(t, next.DropUnused(nil))
	assert.Equal(t, 1, fences())
	assert.Equal(t, pinned, next.ports[ifindex].egressID)
	require.NoError(t, next.release())

	agent(t, ifindex, ebpf.AttachTCXEgress)
	last := loadPinned(t, dir)
	attach(last)
	require.NoError(t, last.DropUnused(nil))
	assert.Equal(t, 2, fences(), "that of the predecessor is behind the agent's")
	require.NoError(t, last.AttachEgress(ifindex))
	assert.Equal(t, 2, fences())
	assert.NotEqual(t, pinned, last.ports[ifindex].egressID)
	require.NoError(t, last.Close())
	assert.Equal(t, 1, fences())
}

// A program that another puts itself before on the way out is attached again
// without touching the one that receives; a failure is not the end.
func TestOnlyTheFenceIsAttachedAgain(t *testing.T) {
	requireTCX(t)
	ifindex := namespace(t, "port")[0]
	c, err := Load(Options{Routers: 2})
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Close()) }()
	attach := func() link.ID {
		mode, err := c.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{ModeTCX}})
		require.NoError(t, err)
		assert.Equal(t, ModeTCX, mode)
		require.NoError(t, c.AttachEgress(ifindex))
		return c.ports[ifindex].linkID
	}
	in := func() bool {
		attached, err := c.Attached(ifindex)
		require.NoError(t, err)
		return attached
	}
	receiver := attach()
	agent(t, ifindex, ebpf.AttachTCXEgress)
	assert.False(t, in())
	assert.Equal(t, receiver, attach())
	assert.True(t, in())
	agent(t, ifindex, ebpf.AttachTCXIngress)
	assert.False(t, in())
	assert.NotEqual(t, receiver, attach())
	assert.True(t, in())

	agent(t, ifindex, ebpf.AttachTCXEgress)
	_, err = c.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{ModeTCX}})
	require.NoError(t, err)
	l, err := netlink.LinkByIndex(ifindex)
	require.NoError(t, err)
	require.NoError(t, netlink.LinkDel(l))
	require.Error(t, c.AttachEgress(ifindex))
	assert.True(t, c.ports[ifindex].pending, "it is tried again")
}

// What a predecessor attached to an interface that nobody serves any more goes,
// and so does what is left of it where no program is wanted at all.
func TestUnusedPinsAreDropped(t *testing.T) {
	dir := pinDir(t)
	requireTCX(t)
	ports := namespace(t, "served", "not")
	attach := func(c *Collection, ifindex int, mode Mode) {
		_, err := c.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{mode}})
		require.NoError(t, err)
		require.NoError(t, c.AttachEgress(ifindex))
	}
	left := func() int {
		found, err := filepath.Glob(dir + "/*-" + strconv.Itoa(ports[1]))
		require.NoError(t, err)
		return len(found)
	}
	dead := loadPinned(t, dir)
	attach(dead, ports[0], ModeGeneric)
	attach(dead, ports[1], ModeGeneric)
	dead.Renew(monotonic() + 1e12)
	require.NoError(t, DropDead(dir, nil))
	require.Equal(t, 2, left(), "it lives")
	require.NoError(t, dead.release())

	c := loadPinned(t, dir)
	attach(c, ports[0], ModeGeneric)
	assert.Equal(t, 2, left())
	require.NoError(t, c.DropUnused(map[int]bool{ports[1]: true}))
	assert.Equal(t, 2, left(), "it may be taken over")
	require.NoError(t, c.DropUnused(nil))
	assert.Zero(t, left())
	l, err := netlink.LinkByIndex(ports[1])
	require.NoError(t, err)
	assert.False(t, l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached, "it is off")
	attached, err := c.Attached(ports[0])
	require.NoError(t, err)
	assert.True(t, attached)
	c.Renew(1)
	require.NoError(t, DropDead(dir, nil))
	assert.DirExists(t, dir, "it lives, even if it hangs")
	require.NoError(t, c.release())
	require.NoError(t, DropDead(dir, map[int]bool{ports[0]: true}))
	assert.DirExists(t, dir, "it may be taken over")
	require.NoError(t, DropDead(dir, map[int]bool{ports[1]: true}))
	assert.NoDirExists(t, dir)
	require.NoError(t, DropDead(dir, nil))
}

// A daemon that starts again has its folder also if another one looks at the same
// moment whether that is to go.
func TestFolderIsLookedAt(t *testing.T) {
	dir := pinDir(t)
	dead := loadPinned(t, dir)
	attachLo(t, dead, ModeGeneric)
	dead.Renew(1)
	require.NoError(t, dead.release())

	looked := false
	require.NoError(t, reclaimFolder(dir, func(p pins) bool {
		looked = true
		lock, err := tryLock(dir)
		require.NoError(t, err, "it is not locked by one that looks")
		require.NoError(t, lock.Close())
		return p.orphaned()
	}))
	assert.True(t, looked)

	was := pause
	defer func() { pause = was }()
	for name, tc := range map[string]struct {
		want   string
		closes int // the pause in which the other one has looked; 0: it does not end
	}{
		"it looks":    {dir, 3},
		"it takes it": {dir + beside + "2", 0},
	} {
		t.Run(name, func(t *testing.T) {
			lock, err := tryLock(dir)
			require.NoError(t, err)
			defer lock.Close()
			pauses := 0
			pause = func() {
				if pauses++; pauses == tc.closes {
					require.NoError(t, lock.Close())
				}
			}
			c, err := Load(Options{Routers: 2, PinDir: dir, Ifindex: loopback})
			require.NoError(t, err)
			assert.Equal(t, tc.want, c.PinDir())
			require.NoError(t, c.release())
		})
	}
}

// A link that is there is continued, also if a mode before its own would work:
// there is no moment without a program.
func TestPinnedModeComesFirst(t *testing.T) {
	dir := pinDir(t)
	ports := namespace(t, "port")
	dead := loadPinned(t, dir)
	want := Port{Ifindex: ports[0], Ifname: "port", Modes: []Mode{ModeGeneric}}
	_, err := dead.Attach(want)
	require.NoError(t, err)
	pin := filepath.Join(dir, linkPin(ModeGeneric, ports[0]))
	id := linkID(t, pin)
	require.NoError(t, dead.release())

	c := loadPinned(t, dir)
	want.Modes = []Mode{ModeNative, ModeGeneric}
	mode, err := c.Attach(want)
	require.NoError(t, err)
	assert.Equal(t, ModeGeneric, mode)
	assert.Equal(t, id, linkID(t, pin))
	mode, err = c.Attach(want)
	require.NoError(t, err)
	assert.Equal(t, ModeNative, mode, "there is none to be continued")
	require.NoError(t, c.Close())
}

// A folder in which a daemon was killed before it pinned anything goes; that of
// one that lives stays.
func TestEmptyFolders(t *testing.T) {
	root := pinDir(t)
	lives, dead := filepath.Join(root, "lives"), filepath.Join(root, "dead")
	c := loadPinned(t, lives)
	require.NoError(t, os.MkdirAll(dead, 0o700))
	require.NoError(t, reclaim(root))
	assert.DirExists(t, lives)
	assert.NoDirExists(t, dead)
	require.NoError(t, c.Close())
	assert.NoDirExists(t, lives)
}

// The version before had a folder for each interface. Its links are taken over
// by the first start after an upgrade, or go with their interface.
func TestPinsOfTheVersionBefore(t *testing.T) {
	for name, own := range map[string]string{"the daemon": "7", "one of several": "7-blue"} {
		t.Run(name, func(t *testing.T) {
			root := pinDir(t)
			requireTCX(t)
			ports := namespace(t, "goes", "stays", "other")
			var former []string
			var ids []link.ID
			for n, ifindex := range ports {
				dir := filepath.Join(root, "7", []string{"goes", "eth0@100", "other"}[n])
				former = append(former, dir)
				require.NoError(t, os.MkdirAll(dir, 0o700))
				dead, err := Load(Options{Routers: 2})
				require.NoError(t, err)
				_, err = dead.Attach(Port{Ifindex: ifindex, Ifname: "port", Modes: []Mode{ModeGeneric}})
				require.NoError(t, err)
				require.NoError(t, dead.AttachEgress(ifindex))
				p := dead.ports[ifindex]
				for name, object := range map[string]interface{ Pin(string) error }{
					"link-generic": p.link, "egress": p.egress, "lease": formerLease(t), "routers": dead.maps["routers"],
				} {
					require.NoError(t, object.Pin(filepath.Join(dir, name)))
				}
				ids = append(ids, linkID(t, filepath.Join(dir, "link-generic")), linkID(t, filepath.Join(dir, "egress")))
				require.NoError(t, dead.release())
			}
			l, err := netlink.LinkByIndex(ports[0])
			require.NoError(t, err)
			require.NoError(t, netlink.LinkDel(l))
			require.NoError(t, reclaim(root))
			assert.NoDirExists(t, former[0])
			assert.DirExists(t, former[1])

			dir := filepath.Join(root, own)
			c := loadPinned(t, dir)
			_, err = c.Attach(Port{Ifindex: ports[1], Ifname: "stays", Modes: []Mode{ModeGeneric}})
			require.NoError(t, err)
			assert.NoDirExists(t, former[1])
			assert.Equal(t, ids[2], linkID(t, filepath.Join(dir, linkPin(ModeGeneric, ports[1]))), "taken over")
			assert.Equal(t, ids[3], linkID(t, filepath.Join(dir, egressPin(ports[1]))))
			attached, err := c.Attached(ports[1])
			require.NoError(t, err)
			assert.True(t, attached)
			require.NoError(t, c.Close())
			assert.DirExists(t, former[2], "of an interface that is not ours")
		})
	}
}

// formerLease is the map of the version before, whose daemon has ended.
func formerLease(t *testing.T) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 40, MaxEntries: 1})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, m.Close()) })
	value := make([]byte, 40)
	value[8] = 1
	require.NoError(t, m.Put(uint32(0), value))
	return m
}

// The fence of a dead daemon stays closed until its successor lifts it, and goes
// to the router with the same identity, whatever its id is.
func TestFenceOutlivesTheDaemon(t *testing.T) {
	dir := pinDir(t)
	namespace(t)
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, netlink.LinkSetUp(lo))
	other := fencedRouter()
	other.VRID++
	other.Addrs = nil
	dead := loadPinned(t, dir)
	// Four of these intervals are enough to load the programs on any machine.
	slow := packettest.Valid(3)
	slow.Advert.Interval = packet.MaxInterval
	router := fencedRouter()
	router.Own = packet.Append(nil, &slow.Advert, reflectorAddr, slow.Dst)
	router.Ifindex, other.Ifindex = loopback, loopback
	require.NoError(t, dead.SetRouter(3, router))
	require.NoError(t, dead.SetRouter(4, other))
	attachLo(t, dead, ModeGeneric)
	dead.SetRole(3, RoleMaster)
	f := &rig{Collection: dead, mode: ModeNative, prog: program(t, dead, ModeNative), ifindex: loopback}
	for range fenceAdverts {
		verdict(t, f, slow.Build())
	}
	require.True(t, dead.Fence(3, monotonic()).Active)
	require.NoError(t, dead.release())

	again := loadPinned(t, dir)
	defer again.Close()
	require.NoError(t, again.SetRouter(0, other))
	require.NoError(t, again.SetRouter(2, router))
	require.NoError(t, again.RemoveRouter(2), "its interface could not be opened, and is tried again")
	require.NoError(t, again.SetRouter(1, router))
	assert.False(t, again.Fence(0, monotonic()).Active)
	fence := again.Fence(1, monotonic())
	assert.True(t, fence.Active)
	assert.Equal(t, packettest.Src, fence.Source)
	// Until ours are attached, the programs of the dead one count.
	counts, err := ebpf.LoadPinnedMap(filepath.Join(dir, "fences"), nil)
	require.NoError(t, err)
	defer counts.Close()
	var counted rxXvrrpFence
	require.NoError(t, counts.Lookup(uint32(3), &counted))
	counted.LastNs += uint64(time.Millisecond)
	require.NoError(t, counts.Put(uint32(3), counted))
	attachLo(t, again, ModeGeneric)
	assert.Equal(t, int64(counted.LastNs), again.Fence(1, monotonic()).LastNs)
	f = &rig{Collection: again, mode: ModeNative, prog: program(t, again, ModeNative), ifindex: loopback}
	_, reason, _ := f.run(t, arp(1, initiatorMAC, packettest.Src, packettest.VIP))
	assert.Equal(t, "fenced_arp drop", reason)
	again.LiftFences()
	assert.False(t, again.Fence(1, monotonic()).Active)
	_, reason, _ = f.run(t, arp(1, initiatorMAC, packettest.Src, packettest.VIP))
	assert.Equal(t, "not_vrrp pass", reason)
}

func TestPinDir(t *testing.T) {
	assert.Equal(t, "/sys/fs/bpf/xvrrp/7", PinDir(7, ""))
	assert.Equal(t, "/sys/fs/bpf/xvrrp/7-a@b", PinDir(7, "a.b"))
	assert.Equal(t, "/sys/fs/bpf/xvrrp/7-@@", PinDir(7, ".."))
}

// With one collection for all, the number of programs does not depend on the
// number of interfaces, and memory is that of what is configured.
func TestManyPorts(t *testing.T) {
	const n = 200
	requireRoot(t)
	c, err := Load(Options{Routers: 2 * n, Ports: 2 * n})
	require.NoError(t, err)
	defer c.Close()
	for i := range n {
		r := ours
		r.Ifindex = 1000 + i
		r.Addrs = []netip.Addr{packettest.VIP}
		require.NoError(t, c.SetRouter(RouterID(i), r))
	}
	assert.LessOrEqual(t, len(c.coll.Programs), 8)
	cpus, err := ebpf.PossibleCPU()
	require.NoError(t, err)
	fixed, perCPU := uint64(0), uint64(0)
	for name, m := range c.maps {
		info, err := m.Info()
		require.NoError(t, err)
		size, ok := info.Memlock()
		if !ok { // a ring on older kernels
			require.Equal(t, ebpf.RingBuf, m.Type(), name)
			size = uint64(m.MaxEntries())
		}
		if m.Type() == ebpf.PerCPUArray {
			perCPU += size
			continue
		}
		t.Log(name, size)
		fixed += size
	}
	t.Logf("%d bytes, and %d for each of %d CPUs", fixed, perCPU/uint64(cpus), cpus)
	assert.Less(t, fixed, uint64(6<<20))
	assert.Less(t, perCPU/uint64(cpus), uint64(512<<10))
}
