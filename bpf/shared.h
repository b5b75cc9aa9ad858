/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layouts that the kernel side and Go share. bpf2go turns the structs into Go
 * types through BTF; TestLayout of loader/ checks sizes and names.
 *
 * Times are CLOCK_MONOTONIC nanoseconds. Addresses are 16 bytes in network byte
 * order, IPv4 as ::ffff:a.b.c.d. Other fields are in host order. A value that
 * several CPUs write is changed atomically, or a comment tells why it need not
 * be. Arrays of words rather than bytes are what the program compares by words.
 */
#ifndef XVRRP_SHARED_H
#define XVRRP_SHARED_H

#include <linux/types.h>

/* Number of these layouts: raised with every change of one of them. */
#define XVRRP_LAYOUT 1

#define XVRRP_IFNAME 16
#define XVRRP_NAME 32

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
	X(other_vlan)     /* the same, in a frame with a VLAN tag */           \
	X(bad_dst_mac)    /* frame to another host */                          \
	X(bad_ip_checksum) /* of the IPv4 header */                            \
	X(bad_destination) /* not where adverts of this router go */           \
	X(bad_source)     /* no host may send from this address */             \
	X(bad_ttl)        /* TTL or hop limit is not 255 */                    \
	X(steady)         /* byte-equal to the template: liveness only */      \
	X(bad_version)    /* version differs from the configured one */       \
	X(bad_type)       /* not an advertisement */                           \
	X(bad_count)      /* no address */                                     \
	X(bad_length)     /* shorter than its address count needs */           \
	X(rate_source)    /* over the rate of one source for one VRID */       \
	X(rate_vrid)      /* over the rate of one VRID, all sources */         \
	X(rate_interface) /* over the rate of the interface */                 \
	X(ring_full)      /* user space did not keep up */                     \
	X(event)          /* delivered to user space */                        \
	X(vip_conflict)   /* ARP: another MAC speaks for our address */        \
	X(fenced_arp)     /* fence: ARP for the address */                     \
	X(fenced_data)    /* fence: packet to the address */                   \
	X(fenced_arp_out) /* fence, on the way out: ARP from the address */    \
	X(fenced_data_out) /* fence, on the way out: packet from the address */ \
	X(sbfd_reflected) /* S-BFD probe, answered Up */                       \
	X(sbfd_refused)   /* S-BFD probe, answered AdminDown */                \
	X(sbfd_reply)     /* answer to a probe of ours */                      \
	X(sbfd_bad_ttl)   /* S-BFD: TTL says that it crossed a router */       \
	X(sbfd_bad_length) /* S-BFD: lengths contradict, or authentication */  \
	X(sbfd_bad_version) /* S-BFD: not BFD version 1 */                     \
	X(sbfd_bad_flags) /* S-BFD: multipoint or authentication bit */        \
	X(sbfd_bad_multiplier) /* S-BFD: Detect Mult is 0 */                   \
	X(sbfd_bad_discriminator) /* S-BFD: 0, or not ours */                  \
	X(sbfd_bad_source) /* S-BFD: off-link, or no unicast frame */          \
	X(sbfd_looped)    /* S-BFD: a reflector's or our own frame came back */ \
	X(sbfd_rate)      /* S-BFD: over the rate of one source */

enum xvrrp_reason {
#define XVRRP_ENUM(name) XVRRP_REASON_##name,
	XVRRP_REASONS(XVRRP_ENUM)
#undef XVRRP_ENUM
	XVRRP_REASON_MAX,
};

/* What a check returns that found no reason. */
#define XVRRP_OK (-1)

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

struct xvrrp_meta {
	__u32 layout;     /* XVRRP_LAYOUT */
	__u32 generation; /* one more than that of the daemon before */
	char version[XVRRP_NAME];
	__u64 test_now_ns; /* see now_ns */
};

struct xvrrp_port {
	__u32 id; /* in counters, budgets and serving; not 0 */
	__u8 mac[6];
	__u8 pad[2];
	char name[XVRRP_IFNAME];
};

struct xvrrp_serving {
	__u32 masters; /* virtual routers that are served from a port */
	__u32 pad;
};

struct xvrrp_id {
	__u32 ifindex;
	__u16 vlan;  /* tag that adverts carry on the interface, 0 for none */
	__u8 family; /* 4 or 6 */
	__u8 vrid;
};

struct xvrrp_address {
	__u32 ifindex;
	__u16 vlan;
	__u16 pad;
	__u8 addr[16];
};

enum xvrrp_router_flag {
	XVRRP_ROUTER_CHECK_TTL = 1,
	XVRRP_ROUTER_FENCE = 2, /* own is known; see fence.h */
};

/* The steady advert of the current master, installed by user space after it
 * judged that advert. len 0 means that there is none. */
struct xvrrp_template {
	__u32 len;
	__u8 src[16];
	__u8 dst[16];
	__u8 mac[6]; /* source of the frame */
	__u8 pad[6];
	__u64 payload[XVRRP_PAYLOAD_MAX / 8];
};

/* What another master of a virtual router has to advertise to be one: digest of
 * an advert of our own. Addresses may come in another order, so there is a sum
 * over all of them, and one of their squares. The number that is added for an
 * address is its only 32-bit word (IPv4), or the sum of its four, multiplied by
 * 1 and three odd numbers. */
#define XVRRP_MIX_1 2654435761u
#define XVRRP_MIX_2 2246822519u
#define XVRRP_MIX_3 3266489917u
struct xvrrp_digest {
	__u64 sum;
	__u64 squares;
	__u32 header[2]; /* first 8 bytes of the message, in network order */
	__u32 auth[2];   /* authentication data of version 2, likewise */
	__u32 len;       /* of the message */
	__u32 pad;
};

struct xvrrp_router {
	__u32 flags;  /* enum xvrrp_router_flag */
	__u32 master; /* XVRRP_MASTER, XVRRP_MASTER_BEFORE, or 0: not */
	__u32 port;   /* port id */
	__u8 version; /* 2 or 3; 0: unused */
	__u8 pad[3];
	struct xvrrp_id id;
	__u8 dst[16];       /* where adverts go */
	__u8 broadcast[16]; /* directed broadcast of its network, 0: none */
	char name[XVRRP_NAME];
	struct xvrrp_digest own;
};

/* The lease of the daemon. It holds for as long as the event loop renews it,
 * and ends with the process. */
struct xvrrp_lease {
	__u64 until_ns; /* 0: ended */
	__u64 ended_ns; /* when the process exited */
	__u64 fence_until_ns; /* no fence holds longer; 0: none does */
	__u32 tgid;     /* whose exit ends the lease */
	__u32 masters;  /* virtual routers that are served from here */
};

/* What was heard of another master while we were one ourselves. */
struct xvrrp_fence {
	__u64 first_ns;
	__u64 last_ns;
	__u64 hold_ns; /* silence after which that master does not count */
	__u32 seen;    /* consistent adverts in a row */
	__u8 src[16];
	__u8 mac[6];
	__u8 pad[6];
};

#define XVRRP_FENCE_ADVERTS 3

#define XVRRP_MASTER 1 /* user space is in MASTER */
/* User space before us was. Our lease is not one for its addresses: adverts keep
 * its fence closed until they are gone. */
#define XVRRP_MASTER_BEFORE 2

/* An address that adverts are sent from. */
struct xvrrp_local {
	__u8 mask[16]; /* of its network */
	__u32 discriminator; /* of the reflector at this address; 0: there is none */
};

/* A session of the initiator. User space writes the fields up to peer, the
 * program the others. The index is the low bits of local. */
#define XVRRP_SESSIONS 1024
struct xvrrp_session {
	__u32 local;   /* our discriminator; 0: unused */
	__u32 remote;  /* the reflector's */
	__u32 ifindex;
	__u16 vlan;
	__u16 echo;    /* unaffiliated echo, RFC 9747 */
	__u8 peer[16];
	__u64 last_ns; /* arrival of the last answer */
	__u64 replies;
	__u32 state;   /* RFC 5880 section 4.1, of the last answer */
	__u32 diag;
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
	__u32 router; /* router id */
	__u32 ifindex;
	__u16 payload_len; /* by the IP header */
	__u16 copied;      /* bytes of payload that follow */
	__u8 family; /* 4 or 6 */
	__u8 ttl;
	__u8 reason; /* event, vip_conflict, or the check that failed */
	__u8 pad;
	__u8 src[16]; /* for vip_conflict the address that is spoken for */
	__u8 dst[16];
	__u8 mac[6]; /* source of the frame, or sender of the ARP packet */
	__u8 pad2[2];
	__u8 payload[XVRRP_PAYLOAD_MAX];
};

/* Token bucket that holds its credit in nanoseconds: a token costs
 * 1e9 / rate, and time itself is the refill. */
struct xvrrp_bucket {
	__u64 last_ns;
	__u64 credit_ns;
};

struct xvrrp_source {
	__u32 ifindex;
	__u32 router; /* router id, or XVRRP_SOURCE_SBFD */
	__u8 addr[16];
	__u8 mac[6]; /* of S-BFD: a stranger must not use up a peer's budget */
	__u8 pad[2];
};

#define XVRRP_SOURCE_SBFD 0xffffffff

enum xvrrp_budget {
	XVRRP_BUDGET_VALID,
	XVRRP_BUDGET_INVALID,
	XVRRP_BUDGET_UNKNOWN,
	XVRRP_BUDGET_CONFLICT,
	XVRRP_BUDGET_MAX,
};

struct xvrrp_budgets {
	struct xvrrp_bucket bucket[XVRRP_BUDGET_MAX];
};

/* Numbers that Go has to agree on. */
enum xvrrp_limit {
	XVRRP_LIMIT_LAYOUT = XVRRP_LAYOUT,
	XVRRP_LIMIT_FENCE_ADVERTS = XVRRP_FENCE_ADVERTS,
	XVRRP_LIMIT_MASTER = XVRRP_MASTER,
	XVRRP_LIMIT_MASTER_BEFORE = XVRRP_MASTER_BEFORE,
	XVRRP_LIMIT_SESSIONS = XVRRP_SESSIONS,
	XVRRP_LIMIT_PAYLOAD = XVRRP_PAYLOAD_MAX,
	XVRRP_LIMIT_MIX_1 = XVRRP_MIX_1,
	XVRRP_LIMIT_MIX_2 = XVRRP_MIX_2,
	XVRRP_LIMIT_MIX_3 = XVRRP_MIX_3,
};

#endif
