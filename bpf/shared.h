/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layouts that the kernel side and Go share. bpf2go turns the structs into Go
 * types through BTF; TestLayout of loader/ checks sizes and names.
 *
 * Times are CLOCK_MONOTONIC nanoseconds. Addresses are in network byte order;
 * an IPv4 address uses the first four bytes. Other fields are in host order.
 */
#ifndef XVRRP_SHARED_H
#define XVRRP_SHARED_H

/* One slot for each virtual router: VRID in bits 0-7, bit 8 set for IPv6. */
#define XVRRP_SLOTS 512
#define XVRRP_SLOT_IPV6 0x100

/* Largest VRRP message that can be a template or travel in an event. VRRPv2
 * with 255 addresses and authentication data needs 8 + 4 * 255 + 8 = 1036. */
#define XVRRP_PAYLOAD_MAX 1056

#define XVRRP_ARRIVALS 32
#define XVRRP_HIST_BUCKETS 32
/* Bucket i counts gaps of [2^(i+10), 2^(i+11)) ns: about 1 us, 2 us, 4 us ... */
#define XVRRP_HIST_SHIFT 10

/* Every way out of the program. The order is the order of the checks. */
#define XVRRP_REASONS(X)                                                       \
	X(not_vrrp)       /* any other traffic */                              \
	X(truncated)      /* headers or message end before they should */     \
	X(bad_ip_header)  /* IPv4 IHL below 5, lengths that contradict */      \
	X(fragment)       /* an advert is never fragmented */                  \
	X(unknown_vrid)   /* no virtual router of ours */                      \
	X(other_vlan)     /* our VRID on another VLAN */                       \
	X(bad_ttl)        /* TTL or hop limit is not 255 */                    \
	X(steady)         /* byte-equal to the template: liveness only */      \
	X(bad_version)    /* version differs from the configured one */       \
	X(bad_type)       /* not an advertisement */                           \
	X(bad_count)      /* no address */                                     \
	X(bad_length)     /* shorter than its address count needs */           \
	X(rate_source)    /* over the rate of one source for one VRID */       \
	X(rate_interface) /* over the rate of the interface */                 \
	X(ring_full)      /* user space did not keep up */                     \
	X(event)          /* delivered to user space */

enum xvrrp_reason {
#define XVRRP_ENUM(name) XVRRP_REASON_##name,
	XVRRP_REASONS(XVRRP_ENUM)
#undef XVRRP_ENUM
	XVRRP_REASON_MAX,
};

struct xvrrp_count {
	__u64 pass;
	__u64 drop;
};

/* One field for each reason, in the order of the enum, so that a dump shows
 * names. */
struct xvrrp_counters {
#define XVRRP_FIELD(name) struct xvrrp_count name;
	XVRRP_REASONS(XVRRP_FIELD)
#undef XVRRP_FIELD
};

enum xvrrp_router_flag {
	XVRRP_ROUTER_CHECK_TTL = 1,
};

/* The steady advert of the current master, installed by user space after it
 * judged that advert. len 0 means that there is none. */
struct xvrrp_template {
	__u32 len;
	__u8 src[16];
	__u8 dst[16];
	__u32 pad;
	__u64 payload[XVRRP_PAYLOAD_MAX / 8];
};

struct xvrrp_router {
	__u8 version; /* 2 or 3; 0: not ours */
	__u8 flags;   /* enum xvrrp_router_flag */
	__u16 vlan;   /* VLAN that adverts carry here, 0 for none */
	struct xvrrp_template template;
};

/* Liveness of the current master, written only on a template match. */
struct xvrrp_slot {
	__u64 last_ns;
	__u64 count;
	__u64 mean_gap_ns;   /* EWMA, weight 1/16 */
	__u64 jitter_ns;     /* EWMA of |gap - mean|, weight 1/16 */
	__u64 largest_gap_ns;
	__u64 gap_log2[XVRRP_HIST_BUCKETS];
	__u64 arrivals[XVRRP_ARRIVALS]; /* ring: newest at (count - 1) % 32 */
};

struct xvrrp_event {
	__u64 rx_ns;
	__u32 ifindex;
	__u16 vlan_outer;
	__u16 vlan_inner;
	__u8 family; /* 4 or 6 */
	__u8 ttl;
	__u8 reason; /* event, or the check that failed */
	__u8 pad;
	__u16 payload_len; /* by the IP header */
	__u16 copied;      /* bytes of payload that follow */
	__u8 src[16];
	__u8 dst[16];
	__u8 payload[XVRRP_PAYLOAD_MAX];
};

/* Token bucket that holds its credit in nanoseconds: a token costs
 * 1e9 / rate, and time itself is the refill. */
struct xvrrp_bucket {
	__u64 last_ns;
	__u64 credit_ns;
};

struct xvrrp_source {
	__u8 addr[16];
	__u16 slot;
	__u8 pad[6];
};

enum xvrrp_budget {
	XVRRP_BUDGET_VALID,
	XVRRP_BUDGET_INVALID,
	XVRRP_BUDGET_UNKNOWN,
	XVRRP_BUDGET_MAX,
};

#endif
