/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Lease and fence.
 *
 * A daemon that dies or hangs leaves its addresses on the host. Nothing is
 * wrong with that as long as nobody else serves them; once another master is
 * heard, two MACs would answer. The fence then stops this host from answering:
 * ARP for the address, and packets to and from it, are dropped.
 *
 * No Go is left to judge that other master, so it has to repeat itself: several
 * adverts in a row from one source that say what our own would say. They are
 * counted while we are MASTER, lease or not, so that the fence closes with the
 * end of the lease. It opens by itself when the other master falls silent.
 */
#ifndef XVRRP_FENCE_H
#define XVRRP_FENCE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "util.h"

/* Reports whether any fence may hold now. Without one, a packet costs a look at
 * the lease and no more. */
static __always_inline int fence_may_hold(struct xvrrp_lease *l)
{
	__u64 until = READ_ONCE(l->fence_until_ns);

	if (!until)
		return 0;
	if ((__s64)(until - now_ns()) >= 0)
		return 1;
	/* What another CPU raised meanwhile stays. */
	__sync_val_compare_and_swap(&l->fence_until_ns, until, 0);
	return 0;
}

/* The virtual router for whose address this host must not speak, or NULL. Also
 * while the daemon lives but has just yielded: the address goes a moment later. */
static __always_inline struct xvrrp_router *fenced(const struct xvrrp_lease *l, __u32 ifindex,
						   __u16 vlan, __be32 addr)
{
	struct xvrrp_address key = { .ifindex = ifindex, .vlan = vlan };
	struct xvrrp_router *r;
	struct xvrrp_fence *f;
	__u32 *id;
	__u64 now;

	put_ipv4(key.addr, addr);
	id = bpf_map_lookup_elem(&vips, &key);
	if (!id)
		return 0;
	r = bpf_map_lookup_elem(&routers, id);
	f = bpf_map_lookup_elem(&fences, id);
	if (!r || !f || !(r->flags & XVRRP_ROUTER_FENCE) || f->seen < XVRRP_FENCE_ADVERTS)
		return 0;
	now = now_ns();
	if ((__s64)(now - f->last_ns) > (__s64)f->hold_ns)
		return 0;
	return r->master != XVRRP_MASTER || !lease_held(l, now) ? r : 0;
}

/* Reports whether an advert says what our own does. Bytes that may differ: the
 * priority, the checksum, and the interval of version 3. Not inlined: the
 * verifier follows it once. */
__attribute__((noinline)) int consistent(const struct xvrrp_event *e, const struct xvrrp_router *r)
{
	__u64 sum = 0, squares = 0, v;
	const struct xvrrp_digest *own;
	const __u32 *p;
	__u32 i, words;

	if (!e || !r)
		return 0;
	own = &r->own;
	p = (const void *)e->payload;
	if (READ_ONCE(e->payload_len) != own->len || e->payload[2] == 0)
		return 0;
	if ((p[0] ^ own->header[0]) & bpf_htonl(0xffff00ff))
		return 0;
	if (r->version == 2 && (p[1] ^ own->header[1]) & bpf_htonl(0xffff0000))
		return 0;
	words = READ_ONCE(e->payload[3]);
	if (e->family == 4) {
		for (i = 0; i < 255; i++) {
			if (i >= words)
				break;
			v = p[2 + i];
			sum += v;
			squares += v * v;
		}
	} else {
		for (i = 0; i < (XVRRP_PAYLOAD_MAX - 8) / 16; i++) {
			const __u32 *q = p + 2 + 4 * i;

			if (i >= words)
				break;
			v = q[0] + (__u64)q[1] * XVRRP_MIX_1 + (__u64)q[2] * XVRRP_MIX_2 +
			    (__u64)q[3] * XVRRP_MIX_3;
			sum += v;
			squares += v * v;
		}
		words *= 4;
	}
	if (sum != own->sum || squares != own->squares)
		return 0;
	if (r->version != 2)
		return 1;
	words += 2;
	if (words + 2 > XVRRP_PAYLOAD_MAX / 4)
		return 0;
	return p[words] == own->auth[0] && p[words + 1] == own->auth[1];
}

/* Interval of an advert of version 3 in nanoseconds, from its fifth byte. */
static __always_inline __u64 interval_v3(const __u8 *p)
{
	return ((p[0] & 0x0f) << 8 | p[1]) * (NSEC_PER_SEC / 100);
}

/* Remembers an advert of another master. The adverts of one sender arrive on one
 * CPU; those of two that count at once are no reason to trust either, so only
 * the number is exact. */
static __always_inline void fence_note(const struct xvrrp_event *e, const struct xvrrp_router *r,
				       __u32 id)
{
	struct xvrrp_address key = { .ifindex = r->id.ifindex, .vlan = r->id.vlan };
	struct xvrrp_fence *f = bpf_map_lookup_elem(&fences, &id);
	struct xvrrp_port *port = the_port(key.ifindex);
	struct xvrrp_lease *l = the_lease();
	__u64 interval_ns, longest_ns, until, hold;

	__builtin_memcpy(key.addr, e->src, sizeof(key.addr));
	/* What we sent ourselves may come back. */
	if (!f || !l || !port || same_mac(e->mac, port->mac) ||
	    bpf_map_lookup_elem(&locals, &key) || !consistent(e, r))
		return;
	if (r->version == 2) {
		interval_ns = e->payload[5] * NSEC_PER_SEC; /* as our own */
	} else {
		/* It says itself when it may be missed, but not for how long a
		 * stranger could silence us. */
		interval_ns = interval_v3(e->payload + 4);
		longest_ns = interval_v3((const void *)&r->own.header[1]);
		if (longest_ns < NSEC_PER_SEC)
			longest_ns = NSEC_PER_SEC;
		if (interval_ns > longest_ns)
			interval_ns = longest_ns;
	}
	if ((__s64)(e->rx_ns - f->last_ns) > (__s64)f->hold_ns ||
	    (!same_addr(f->src, e->src) && f->seen < XVRRP_FENCE_ADVERTS)) {
		f->seen = 0;
		f->first_ns = e->rx_ns;
	}
	__builtin_memcpy(f->src, e->src, sizeof(f->src));
	__builtin_memcpy(f->mac, e->mac, sizeof(f->mac));
	/* Master_Down_Interval: three intervals and less than one of skew. */
	f->hold_ns = 4 * interval_ns;
	f->last_ns = e->rx_ns;
	__sync_fetch_and_add(&f->seen, 1);
	if (f->seen < XVRRP_FENCE_ADVERTS)
		return;
	hold = f->last_ns + f->hold_ns;
	until = READ_ONCE(l->fence_until_ns);
	/* If another CPU is faster, the next advert raises it. */
	if ((__s64)(hold - until) > 0)
		__sync_val_compare_and_swap(&l->fence_until_ns, until, hold);
}

#endif
