/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Rates. Time is a parameter; each function reports whether a frame is admitted. */
#ifndef XVRRP_RATE_H
#define XVRRP_RATE_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "maps.h"
#include "util.h"

struct xvrrp_rate {
	__u64 cost_ns;  /* credit that one frame uses: 1e9 / rate */
	__u64 burst_ns; /* largest credit: cost_ns * burst */
};

#define RATE(per_second, burst)                                                \
	{ NSEC_PER_SEC / (per_second), NSEC_PER_SEC / (per_second) * (burst) }

/* A router at the smallest interval sends 100 adverts a second. */
const volatile struct xvrrp_rate rate_source = RATE(200, 50);
/* Ten such routers. Forged adverts of many sources share it, so that refusing
 * them costs user space no more than a few percent of a processor; what a true
 * router says gets through sooner or later, and once it is the template it
 * needs no budget. */
const volatile struct xvrrp_rate rate_vrid = RATE(2000, 200);
/* The shortest interval is 0.3 ms; a confirmation burst comes on top. */
const volatile struct xvrrp_rate rate_sbfd = RATE(5000, 100);
/* 250 virtual routers that change hands at once, and then some. */
const volatile struct xvrrp_rate rate_budget[XVRRP_BUDGET_MAX] = {
	[XVRRP_BUDGET_VALID] = RATE(20000, 2000),
	[XVRRP_BUDGET_INVALID] = RATE(100, 100),
	/* Others' virtual routers may cross this host, so the rate is generous:
	 * it is there to keep a flood from the network stack. */
	[XVRRP_BUDGET_UNKNOWN] = RATE(40000, 4000),
	[XVRRP_BUDGET_CONFLICT] = RATE(20, 20),
};

static __always_inline int bucket_take(struct xvrrp_bucket *b, const volatile struct xvrrp_rate *r,
				       __u64 now)
{
	/* Signed: a frame stamped on another CPU may be older than last_ns. */
	__s64 elapsed = now - b->last_ns;
	__u64 credit = b->credit_ns;

	if (elapsed > 0) {
		credit += elapsed;
		b->last_ns = now;
	}
	if (credit > r->burst_ns)
		credit = r->burst_ns;
	if (credit < r->cost_ns) {
		b->credit_ns = credit;
		return 0;
	}
	b->credit_ns = credit - r->cost_ns;
	return 1;
}

static __always_inline int budget_take(__u32 port, __u32 budget, __u64 now)
{
	struct xvrrp_budgets *b = bpf_map_lookup_elem(&budgets, &port);

	if (!b || budget >= XVRRP_BUDGET_MAX)
		return 0;
	return bucket_take(&b->bucket[budget], &rate_budget[budget], now);
}

static __always_inline int vrid_take(__u32 router, __u64 now)
{
	struct xvrrp_bucket *b = bpf_map_lookup_elem(&vrid_budgets, &router);

	return b && bucket_take(b, &rate_vrid, now);
}

static __always_inline int source_take(const struct xvrrp_source *key,
				       const volatile struct xvrrp_rate *r, __u64 now)
{
	struct xvrrp_bucket *b = bpf_map_lookup_elem(&sources, key);
	struct xvrrp_bucket fresh = {};

	if (b)
		return bucket_take(b, r, now);
	fresh.last_ns = now;
	fresh.credit_ns = r->burst_ns - r->cost_ns;
	bpf_map_update_elem(&sources, key, &fresh, BPF_ANY);
	return 1;
}

#endif
