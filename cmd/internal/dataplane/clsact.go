// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const clsactFilter = "xvrrp_egress"

// attachClsact attaches a program to tc egress where the kernel has no tcx
// (before 6.6). A filter belongs to the interface and outlives the daemon; one
// that a predecessor left is replaced. With a nil program it is removed.
func attachClsact(ifindex int, prog *ebpf.Program) error {
	attrs := netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 0x78767272, Protocol: unix.ETH_P_ALL, Priority: 1,
	}
	if prog == nil {
		return netlink.FilterDel(&netlink.BpfFilter{FilterAttrs: attrs})
	}
	qdisc := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact: %w", err)
	}
	filter := &netlink.BpfFilter{FilterAttrs: attrs, Fd: prog.FD(), Name: clsactFilter, DirectAction: true}
	if err := netlink.FilterReplace(filter); err != nil {
		return fmt.Errorf("add filter to tc egress: %w", err)
	}
	return nil
}
