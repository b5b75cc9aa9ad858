/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of one interface. They are pinned below
 * /sys/fs/bpf/xvrrp/<netns inode>/<ifname>/ under the names used here. */
#ifndef XVRRP_MAPS_H
#define XVRRP_MAPS_H

/* Which virtual routers are ours, and the template of each. Written by user
 * space through mmap, read by the program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_router);
} routers SEC(".maps");

/* Liveness. Written by the program on a template match; user space reads it
 * through mmap and resets it while no template is installed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_slot);
} slots SEC(".maps");

/* Whether the daemon lives. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_lease);
} lease SEC(".maps");

/* Other masters of our virtual routers; by slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_SLOTS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_fence);
} fences SEC(".maps");

/* Slot of a virtual address on this interface; IPv4, network order. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64); /* raised by user space */
	__type(key, __be32);
	__type(value, __u32);
} vips SEC(".maps");

/* The addresses that adverts are sent from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XVRRP_SLOTS);
	__type(key, __be32);
	__type(value, struct xvrrp_local);
} locals SEC(".maps");

/* S-BFD sessions whose initiator we are. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_SESSIONS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_session);
} sessions SEC(".maps");

/* One value, summed over CPUs by the reader; no atomics needed. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvrrp_counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* Budgets of the interface. Per CPU: the limit holds on each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XVRRP_BUDGET_MAX);
	__type(key, __u32);
	__type(value, struct xvrrp_bucket);
} budgets SEC(".maps");

/* Budget of a virtual router, for all sources; by slot, for each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XVRRP_SLOTS);
	__type(key, __u32);
	__type(value, struct xvrrp_bucket);
} vrid_budgets SEC(".maps");

/* Budget of one source for one virtual router, or for S-BFD. Updates from two CPUs may race
 * and then admit a little more, which the interface's budget bounds. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct xvrrp_source);
	__type(value, struct xvrrp_bucket);
} sources SEC(".maps");

/* Where an event is put together: it does not fit on the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvrrp_event);
} scratch SEC(".maps");

#endif
