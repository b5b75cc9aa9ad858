// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// What kernels without tcx have instead.
func TestClsact(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test needs root, and CI must have it")
		}
		t.Skip("this test needs root")
	}
	lo, err := netlink.LinkByName("lo")
	require.NoError(t, err)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	require.NoError(t, err)
	defer prog.Close()
	filters := func() (n int) {
		list, err := netlink.FilterList(lo, netlink.HANDLE_MIN_EGRESS)
		require.NoError(t, err)
		for _, f := range list {
			if b, ok := f.(*netlink.BpfFilter); ok && b.Name == clsactFilter {
				n++
			}
		}
		return n
	}
	require.NoError(t, attachClsact(lo.Attrs().Index, prog))
	require.NoError(t, attachClsact(lo.Attrs().Index, prog), "a successor replaces it")
	assert.Equal(t, 1, filters())
	require.NoError(t, attachClsact(lo.Attrs().Index, nil))
	assert.Zero(t, filters())
}
