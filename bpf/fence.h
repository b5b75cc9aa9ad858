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

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_len;
	__u8 protocol_len;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender[4]; /* not aligned */
	__u8 target_mac[6];
	__u8 target[4];
};

static __always_inline __be32 load_be32(const __u8 *p)
{
	__be32 v;

	__builtin_memcpy(&v, p, sizeof(v));
	return v;
}

static __always_inline int same_mac(const __u8 *x, const __u8 *y)
{
	const __u16 *p = (const void *)x, *q = (const void *)y;

	return p[0] == q[0] && p[1] == q[1] && p[2] == q[2];
}

static __always_inline struct xvrrp_lease *the_lease(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lease, &zero);
}

static __always_inline int lease_held(const struct xvrrp_lease *l, __u64 now)
{
	/* A loop that renews it while its process already exits does not count. */
	return !l->ended_ns && (__s64)(l->until_ns - now) > 0;
}

/* Says whether this host must not speak for an address. Also while the daemon
 * lives but has just yielded: the address goes a moment later. */
static __always_inline int fenced(const struct xvrrp_lease *l, __be32 addr)
{
	__u32 *slot = bpf_map_lookup_elem(&vips, &addr);
	struct xvrrp_router *r;
	struct xvrrp_fence *f;
	__u64 now;

	if (!slot)
		return 0;
	r = bpf_map_lookup_elem(&routers, slot);
	f = bpf_map_lookup_elem(&fences, slot);
	if (!r || !f || !(r->flags & XVRRP_ROUTER_FENCE) || f->seen < XVRRP_FENCE_ADVERTS)
		return 0;
	now = bpf_ktime_get_ns();
	if ((__s64)(now - f->last_ns) > (__s64)f->hold_ns)
		return 0;
	return !r->master || !lease_held(l, now);
}

/* Says whether an advert says what our own does. Bytes that may differ: the
 * priority, the checksum, and the interval of version 3. The order of addresses
 * means nothing, so their sum and the sum of their squares are compared. */
static __always_inline int consistent(const struct xvrrp_event *e, const struct xvrrp_router *r)
{
	const __u32 *p = (const void *)e->payload;
	const __u32 *q = (const void *)r->own;
	__u64 sum = 0, squares = 0;
	__u32 i;

	if (READ_ONCE(e->payload_len) != READ_ONCE(r->own_len) || e->payload[2] == 0)
		return 0;
	if ((p[0] ^ q[0]) & bpf_htonl(0xffff00ff))
		return 0;
	if (r->version == 2 && (p[1] ^ q[1]) & bpf_htonl(0xffff0000))
		return 0;
	for (i = 2; i < XVRRP_PAYLOAD_MAX / 4; i++) {
		if (i * 4 >= READ_ONCE(e->payload_len))
			break;
		if (i < 2U + READ_ONCE(e->payload[3])) {
			sum += p[i] - (__u64)q[i];
			squares += (__u64)p[i] * p[i] - (__u64)q[i] * q[i];
		} else if (p[i] != q[i]) {
			return 0; /* authentication */
		}
	}
	return !sum && !squares;
}

/* Interval of an advert of version 3 in nanoseconds, from its fifth byte. */
static __always_inline __u64 interval_v3(const __u8 *p)
{
	return ((p[0] & 0x0f) << 8 | p[1]) * (NSEC_PER_SEC / 100);
}

/* Remembers an advert of another master. */
static __always_inline void fence_note(const struct xvrrp_event *e, const struct xvrrp_router *r,
				       __u32 slot)
{
	struct xvrrp_fence *f = bpf_map_lookup_elem(&fences, &slot);
	struct xvrrp_lease *l = the_lease();
	const __u8 *own = (const void *)r->own;
	__u64 interval_ns, longest_ns;
	__be32 src;

	__builtin_memcpy(&src, e->src, sizeof(src));
	/* What we sent ourselves may come back. */
	if (!f || !l || same_mac(e->mac, l->mac) || bpf_map_lookup_elem(&locals, &src) ||
	    !consistent(e, r))
		return;
	if (r->version == 2) {
		interval_ns = e->payload[5] * NSEC_PER_SEC; /* as our own */
	} else {
		/* It says itself when it may be missed, but not for how long a
		 * stranger could silence us. */
		interval_ns = interval_v3(e->payload + 4);
		longest_ns = interval_v3(own + 4);
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
	f->seen++;
	if (f->seen >= XVRRP_FENCE_ADVERTS && l->fence_until_ns < f->last_ns + f->hold_ns)
		l->fence_until_ns = f->last_ns + f->hold_ns;
}

#endif
