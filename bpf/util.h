/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef XVRRP_UTIL_H
#define XVRRP_UTIL_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "maps.h"

#define NSEC_PER_SEC 1000000000ULL

/* A load that the compiler may not fold into an earlier one. Lengths are read
 * from the event again and again: the verifier then forgets what a loop taught
 * it about them, and does not follow every length on its own. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

/* Tests set it and put the time into meta. The verifier sees a constant and
 * removes the branch. */
const volatile __u8 test_clock = 0;

static __always_inline __u64 now_ns(void)
{
	if (test_clock) {
		__u32 zero = 0;
		struct xvrrp_meta *m = bpf_map_lookup_elem(&meta, &zero);

		return m ? m->test_now_ns : 0;
	}
	return bpf_ktime_get_ns();
}

static __always_inline int same_addr(const __u8 *x, const __u8 *y)
{
	const __u32 *p = (const void *)x, *q = (const void *)y;

	return p[0] == q[0] && p[1] == q[1] && p[2] == q[2] && p[3] == q[3];
}

static __always_inline int same_mac(const __u8 *x, const __u8 *y)
{
	const __u16 *p = (const void *)x, *q = (const void *)y;

	return p[0] == q[0] && p[1] == q[1] && p[2] == q[2];
}

/* Writes an IPv4 address as ::ffff:a.b.c.d. */
static __always_inline void put_ipv4(__u8 *to, __be32 addr)
{
	__u32 *words = (void *)to;

	words[0] = 0;
	words[1] = 0;
	words[2] = bpf_htonl(0xffff);
	words[3] = addr;
}

static __always_inline __be32 load_be32(const __u8 *p)
{
	__be32 v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static __always_inline struct xvrrp_lease *the_lease(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lease, &zero);
}

static __always_inline struct xvrrp_port *the_port(__u32 ifindex)
{
	return bpf_map_lookup_elem(&ports, &ifindex);
}

static __always_inline int lease_held(const struct xvrrp_lease *l, __u64 now)
{
	/* A loop that renews it while its process already exits does not count. */
	return !l->ended_ns && (__s64)(l->until_ns - now) > 0;
}

#endif
