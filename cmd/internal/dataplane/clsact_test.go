// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"os"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/plan"
)

// clsactBench returns the program of a filter, and lists filters at tc egress.
func clsactBench(t *testing.T) (prog *ebpf.Program, filters func(netlink.Link) []string) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs root, and CI must have it")
		}
		t.Skip("this test needs root")
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, prog.Close()) })
	return prog, func(l netlink.Link) (names []string) {
		list, err := netlink.FilterList(l, netlink.HANDLE_MIN_EGRESS)
		require.NoError(t, err)
		for _, f := range list {
			names = append(names, f.(*netlink.BpfFilter).Name)
		}
		return names
	}
}

// What kernels without tcx have instead.
func TestClsact(t *testing.T) {
	prog, filters := clsactBench(t)
	s := newSite(t)
	l, err := netlink.LinkByName(s.key.Name)
	require.NoError(t, err)
	require.NoError(t, attachClsact(s.key.Ifindex, prog))
	require.NoError(t, attachClsact(s.key.Ifindex, prog), "a successor replaces it")
	assert.Equal(t, []string{clsactFilter}, filters(l))
	require.NoError(t, attachClsact(s.key.Ifindex, nil))
	assert.Empty(t, filters(l))
}

// What a predecessor left goes from interfaces that nobody serves; filters of
// other programs stay.
func TestUnusedFiltersAreDropped(t *testing.T) {
	prog, filters := clsactBench(t)
	runtime.LockOSThread() // the namespace ends with the thread
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	var links []netlink.Link
	for _, name := range []string{"left0", "used0", "lan0", "none0"} {
		require.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}))
		l, err := netlink.LinkByName(name)
		require.NoError(t, err)
		links = append(links, l)
		if name != "none0" {
			require.NoError(t, attachClsact(l.Attrs().Index, prog))
		}
	}
	left, used, lan := links[0], links[1], links[2]
	for _, other := range []netlink.BpfFilter{
		{FilterAttrs: netlink.FilterAttrs{Priority: 1, Handle: 1}, Name: clsactFilter},
		{FilterAttrs: netlink.FilterAttrs{Priority: 2, Handle: clsactHandle}, Name: "other"},
	} {
		other.LinkIndex, other.Parent, other.Protocol = left.Attrs().Index, netlink.HANDLE_MIN_EGRESS, unix.ETH_P_ALL
		other.Fd, other.DirectAction = prog.FD(), true
		require.NoError(t, netlink.FilterAdd(&other))
	}
	require.Len(t, filters(left), 3)
	var asked []string
	require.NoError(t, dropClsact(func(ifindex int, ifname string) bool {
		asked = append(asked, ifname)
		return ifindex != used.Attrs().Index && ifname != "lan0"
	}))
	assert.ElementsMatch(t, []string{"left0", "used0", "lan0"}, asked)
	assert.ElementsMatch(t, []string{clsactFilter, "other"}, filters(left), "those of others")
	assert.Len(t, filters(used), 1)
	assert.Len(t, filters(lan), 1)
}

// The filter of an interface that this daemon has a program on stays.
func TestFiltersInUseStay(t *testing.T) {
	prog, filters := clsactBench(t)
	s := newSite(t)
	l, err := netlink.LinkByName(s.key.Name)
	require.NoError(t, err)
	require.NoError(t, attachClsact(s.key.Ifindex, prog))
	drop := func(d *Plane, keep ...int) {
		kept := map[int]bool{}
		for _, ifindex := range keep {
			kept[ifindex] = true
		}
		d.DropUnused(kept, func(string) bool { return true })
	}
	d := s.plane()
	p, err := d.Open(s.key, &plan.Port{MAC: s.mac, Modes: []plan.Mode{plan.ModeGeneric}}, nil)
	require.NoError(t, err)
	drop(d)
	assert.Equal(t, []string{clsactFilter}, filters(l))
	require.NoError(t, p.Close())
	drop(d, s.key.Ifindex)
	assert.Equal(t, []string{clsactFilter}, filters(l), "it may be taken over")
	drop(d)
	assert.Empty(t, filters(l))
	require.NoError(t, d.Close())

	require.NoError(t, attachClsact(s.key.Ifindex, prog))
	drop(s.plane())
	assert.Empty(t, filters(l), "also for a daemon that needs no program")
}

// Whoever deletes the filter tells nobody: it is looked for.
func TestClsactIsMissed(t *testing.T) {
	prog, _ := clsactBench(t)
	s := newSite(t)
	there := func() bool {
		is, err := clsactThere(s.key.Ifindex)
		require.NoError(t, err)
		return is
	}
	assert.False(t, there())
	require.NoError(t, attachClsact(s.key.Ifindex, prog))
	assert.True(t, there())
	require.NoError(t, attachClsact(s.key.Ifindex, nil))
	assert.False(t, there())
}
