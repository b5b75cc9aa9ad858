// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	clsactFilter = "xvrrp_egress"
	clsactHandle = 0x78767272
)

// attachClsact attaches a program to tc egress where the kernel has no tcx
// (before 6.6). A filter belongs to the interface and outlives the daemon; one
// that a predecessor left is replaced. With a nil program it is removed.
func attachClsact(ifindex int, prog *ebpf.Program) error {
	attrs := netlink.FilterAttrs{
		LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_EGRESS, Handle: clsactHandle, Protocol: unix.ETH_P_ALL, Priority: 1,
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

// clsactThere reports whether the filter is on an interface. Whoever deletes it
// tells nobody.
func clsactThere(ifindex int) (bool, error) {
	list, err := netlink.FilterList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, netlink.HANDLE_MIN_EGRESS)
	return slices.ContainsFunc(list, isClsact), err
}

func isClsact(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == clsactFilter && b.Handle == clsactHandle
}

// dropClsact removes the filters of predecessors from the interfaces of this
// network namespace that goes names.
func dropClsact(goes func(ifindex int, ifname string) bool) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		if err := dropClsactOf(l, goes); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove a filter from tc egress of %s: %w", l.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

func dropClsactOf(l netlink.Link, goes func(ifindex int, ifname string) bool) error {
	filters, err := netlink.FilterList(l, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return err
	}
	for _, f := range filters {
		if !isClsact(f) || !goes(l.Attrs().Index, l.Attrs().Name) {
			continue
		}
		if err := attachClsact(l.Attrs().Index, nil); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
