/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of one daemon, for all its interfaces. They are pinned below
 * /sys/fs/bpf/xvrrp/<netns inode>[-<instance>]/ under the names used here. User
 * space sets the number of entries that follow what is configured; the numbers
 * here are the smallest. */
#ifndef XVRRP_MAPS_H
#define XVRRP_MAPS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#include "shared.h"

#define XVRRP_MIN_ENTRIES 2

/* What made these maps. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvrrp_meta);
} meta SEC(".maps");

/* Whether the daemon lives. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_lease);
} lease SEC(".maps");

/* The interfaces, by index. An entry is replaced as a whole. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct xvrrp_port);
} ports SEC(".maps");

/* What is served on an interface, by port id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_serving);
} serving SEC(".maps");

/* The router id of a virtual router. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct xvrrp_id);
	__type(value, __u32);
} ids SEC(".maps");

/* Our virtual routers, by router id. Written by user space through mmap, read
 * by the program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_router);
} routers SEC(".maps");

/* The template of each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_template);
} templates SEC(".maps");

/* The liveness of the master of each. Written by the program on a template
 * match; user space reads it through mmap and resets it while no template is
 * installed. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_slot);
} slots SEC(".maps");

/* Another master of each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct xvrrp_fence);
} fences SEC(".maps");

/* The router id of a virtual address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct xvrrp_address);
	__type(value, __u32);
} vips SEC(".maps");

/* The addresses that adverts are sent from. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct xvrrp_address);
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

/* Adverts to judge. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* Invalid adverts, for the log. They wake nobody and cannot fill the ring of
 * the valid ones. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} noise SEC(".maps");

/* By port id, summed over CPUs by the reader; no atomics needed. Port 0 has the
 * traffic of all interfaces that is not for us: looking its port up would cost
 * more than all else that is done for it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__type(key, __u32);
	__type(value, struct xvrrp_counters);
} counters SEC(".maps");

/* Budgets of an interface, by port id. Per CPU: the limit holds on each CPU,
 * and no atomics are needed. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__type(key, __u32);
	__type(value, struct xvrrp_budgets);
} budgets SEC(".maps");

/* Budget of a virtual router, for all sources; by router id, for each CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XVRRP_MIN_ENTRIES);
	__type(key, __u32);
	__type(value, struct xvrrp_bucket);
} vrid_budgets SEC(".maps");

/* Budget of one source for one virtual router, or for S-BFD. Updates from two
 * CPUs may race and then admit a little more, which the interface's budget
 * bounds. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct xvrrp_source);
	__type(value, struct xvrrp_bucket);
} sources SEC(".maps");

/* Where an event is put together: it does not fit on the stack. Per CPU, and a
 * program is not interrupted by another one that uses it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvrrp_event);
} scratch SEC(".maps");

#endif
