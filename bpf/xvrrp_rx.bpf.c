// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Receive side of xvrrp: finds VRRP adverts, keeps floods away from user space
 * and records the liveness of the current master. It holds no election rule:
 * an advert is steady if it repeats, byte for byte, the one that user space
 * installed as the template; whatever differs is an event that user space
 * judges. Beside that: S-BFD (sbfd.h), lease and fence (fence.h), and ARP in
 * which another host speaks for an address of ours. See README.md in this
 * folder for verdicts and maps.
 */
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "shared.h"
#include "maps.h"
#include "util.h"
#include "parse.h"
#include "rate.h"
#include "delivery.h"
#include "fence.h"
#include "sbfd.h"

#define VRRP_ADVERTISEMENT 1
#define VRRP_TTL 255
#define VRRP_HEADER 8
#define VRRP_V2_AUTH 8

enum verdict {
	DROP,
	PASS,
	REFLECT, /* the frame was turned into an answer */
};

/* Nothing else refers to these types; this keeps them in BTF for the Go
 * bindings. */
const enum xvrrp_reason *const unused_reason __attribute__((unused)) = 0;
const enum xvrrp_router_flag *const unused_router_flag __attribute__((unused)) = 0;
const enum xvrrp_budget *const unused_budget __attribute__((unused)) = 0;
const enum xvrrp_limit *const unused_limit __attribute__((unused)) = 0;
const struct xvrrp_event *const unused_event __attribute__((unused)) = 0;

static __always_inline enum verdict leave(__u32 port, enum xvrrp_reason reason,
					  enum verdict verdict)
{
	struct xvrrp_count *c = bpf_map_lookup_elem(&counters, &port);

	if (c && reason < XVRRP_REASON_MAX) {
		if (verdict == DROP)
			c[reason].drop++;
		else
			c[reason].pass++;
	}
	return verdict;
}

/* Traffic that is not for us, of whatever port. */
static __always_inline enum verdict leave_alone(void)
{
	return leave(0, XVRRP_REASON_not_vrrp, PASS);
}

static __always_inline __u32 log2_bucket(__u64 gap)
{
	__u32 bucket = 0;
	__u64 v = gap >> XVRRP_HIST_SHIFT;

	if (v >> 32)
		return XVRRP_HIST_BUCKETS - 1;
	if (v >> 16) { bucket += 16; v >>= 16; }
	if (v >> 8) { bucket += 8; v >>= 8; }
	if (v >> 4) { bucket += 4; v >>= 4; }
	if (v >> 2) { bucket += 2; v >>= 2; }
	if (v >> 1) { bucket += 1; }
	return bucket;
}

/* The adverts of one master arrive on one CPU, as a rule: the network card
 * chooses it by their addresses. If they do not, the count is still exact, and
 * the statistics, which decide nothing, miss a gap. */
static __always_inline void slot_arrival(struct xvrrp_slot *s, __u64 now)
{
	__s64 gap = now - s->last_ns;
	__s64 delta;

	s->arrivals[__sync_fetch_and_add(&s->count, 1) & (XVRRP_ARRIVALS - 1)] = now;
	if (gap <= 0)
		return; /* another CPU stamped a later one already */
	if (!s->mean_gap_ns)
		s->mean_gap_ns = gap;
	delta = gap - s->mean_gap_ns;
	s->mean_gap_ns += delta >> 4;
	if (delta < 0)
		delta = -delta;
	s->jitter_ns += (delta - (__s64)s->jitter_ns) >> 4;
	if ((__u64)gap > s->largest_gap_ns)
		s->largest_gap_ns = gap;
	s->gap_log2[log2_bucket(gap) & (XVRRP_HIST_BUCKETS - 1)]++;
	s->last_ns = now;
}

/* Copies the message into the event, as far as the frame holds it. From here
 * on nothing reads the packet, and the number of bytes is forgotten between the
 * loops and after them, for the same reason. */
static __always_inline void gather(struct xvrrp_event *e, const __u8 *from, const void *end)
{
	__u64 *to = (void *)e->payload;
	const __u8 *p = from;
	__u32 n = 0, i;

	for (i = 0; i < XVRRP_PAYLOAD_MAX / 8; i++, p += 8, n += 8) {
		if (n + 8 > READ_ONCE(e->payload_len) || (const void *)(p + 8) > end)
			break;
		to[i] = *(const __u64 *)p;
	}
	e->copied = n;
	n = READ_ONCE(e->copied);
	if (n > XVRRP_PAYLOAD_MAX)
		return; /* cannot happen; the verifier wants to read it */
	for (i = 0, p = from + n; i < 8; i++, p++, n++) {
		barrier_var(n); /* as an offset, not as a pointer that moves */
		if (n >= XVRRP_PAYLOAD_MAX || n >= READ_ONCE(e->payload_len) ||
		    (const void *)(p + 1) > end)
			break;
		e->payload[n] = *p;
	}
	e->copied = n;
}

/* Lengths of adverts are multiples of four; anything else is never steady. */
static __always_inline int is_template(const struct xvrrp_event *e, const struct xvrrp_template *t)
{
	const __u32 *p = (const void *)e->payload;
	const __u32 *q = (const void *)t->payload;
	__u32 i;

	if (READ_ONCE(e->payload_len) != READ_ONCE(t->len) || READ_ONCE(e->payload_len) & 3)
		return 0;
	if (!same_addr(e->src, t->src) || !same_addr(e->dst, t->dst) || !same_mac(e->mac, t->mac))
		return 0;
	for (i = 0; i < XVRRP_PAYLOAD_MAX / 4; i++) {
		if (i * 4 >= READ_ONCE(e->payload_len))
			break;
		if (p[i] != q[i])
			return 0;
	}
	return 1;
}

/* What can be told without authority over the election: XVRRP_OK, `steady`, or
 * what is wrong. */
static __always_inline int check(const struct xvrrp_event *e, const struct xvrrp_router *r,
				 const struct xvrrp_template *t)
{
	const __u8 *m = e->payload;
	__u32 need = VRRP_HEADER + m[3] * (e->family == 4 ? 4 : 16);

	if (READ_ONCE(e->payload_len) > XVRRP_PAYLOAD_MAX)
		return XVRRP_REASON_bad_length;
	if (READ_ONCE(e->copied) < READ_ONCE(e->payload_len) || READ_ONCE(e->copied) < VRRP_HEADER)
		return XVRRP_REASON_truncated;
	if (bad_source(e, r))
		return XVRRP_REASON_bad_source;
	if (r->flags & XVRRP_ROUTER_CHECK_TTL && e->ttl != VRRP_TTL)
		return XVRRP_REASON_bad_ttl;
	if (is_template(e, t))
		return XVRRP_REASON_steady;
	if (m[0] >> 4 != r->version)
		return XVRRP_REASON_bad_version;
	if ((m[0] & 0x0f) != VRRP_ADVERTISEMENT)
		return XVRRP_REASON_bad_type;
	if (m[3] == 0)
		return XVRRP_REASON_bad_count;
	if (r->version == 2)
		need += VRRP_V2_AUTH;
	if (READ_ONCE(e->payload_len) < need)
		return XVRRP_REASON_bad_length;
	return XVRRP_OK;
}

/* Judges an advert that was gathered. Not inlined, and apart from what reads the
 * packet: the verifier follows it once, and not for each number of bytes that
 * may have been copied. */
__attribute__((noinline)) int judge_advert(struct xvrrp_event *e, const struct xvrrp_router *r,
					   const struct xvrrp_template *t)
{
	struct xvrrp_source source = {};
	__u32 router, port, size;
	__u64 now;
	long failed;
	int reason;

	if (!e || !r || !t)
		return PASS; /* cannot happen; the verifier wants to read it */
	router = e->router;
	port = r->port;
	now = e->rx_ns;
	reason = check(e, r, t);
	if (reason == XVRRP_REASON_steady) {
		struct xvrrp_slot *s = bpf_map_lookup_elem(&slots, &router);

		if (s)
			slot_arrival(s, now);
		return leave(port, reason, PASS);
	}
	if (reason == XVRRP_OK) {
		reason = XVRRP_REASON_event;
		source.ifindex = e->ifindex;
		source.router = router;
		__builtin_memcpy(source.addr, e->src, sizeof(source.addr));
		if (r->master && r->flags & XVRRP_ROUTER_FENCE)
			fence_note(e, r, router);
		if (!source_take(&source, &rate_source, now))
			return leave(port, XVRRP_REASON_rate_source, DROP);
		if (!vrid_take(router, now))
			return leave(port, XVRRP_REASON_rate_vrid, DROP);
		if (!budget_take(port, XVRRP_BUDGET_VALID, now))
			return leave(port, XVRRP_REASON_rate_interface, DROP);
	} else if (!budget_take(port, XVRRP_BUDGET_INVALID, now)) {
		/* Within the budget user space hears of an invalid advert, for its
		 * log, and tcpdump sees it; over it, nobody does. */
		return leave(port, reason, DROP);
	}
	e->reason = reason;
	size = offsetof(struct xvrrp_event, payload) + READ_ONCE(e->copied);
	if (size > sizeof(*e))
		return PASS; /* cannot happen; the verifier wants to read it */
	if (reason == XVRRP_REASON_event)
		failed = bpf_ringbuf_output(&events, e, size, 0);
	else
		failed = bpf_ringbuf_output(&noise, e, size, BPF_RB_NO_WAKEUP);
	if (failed && reason == XVRRP_REASON_event)
		reason = XVRRP_REASON_ring_full;
	return leave(port, reason, PASS);
}

static __always_inline enum verdict receive_advert(const struct ethhdr *eth, const struct advert *a,
						   const void *end, __u32 ifindex)
{
	struct xvrrp_id key = { .ifindex = ifindex, .vlan = a->vlan_outer, .family = a->family };
	const struct xvrrp_template *t;
	const struct xvrrp_port *p;
	struct xvrrp_router *r;
	struct xvrrp_event *e;
	__u32 *known, router, port, zero = 0;
	__u64 now = now_ns();
	int reason;

	if (a->payload_len < 2 || (const void *)(a->payload + 2) > end) {
		p = the_port(ifindex);
		return leave(p ? p->id : 0, XVRRP_REASON_truncated, PASS);
	}
	key.vrid = a->payload[1];
	known = a->vlan_inner ? 0 : bpf_map_lookup_elem(&ids, &key);
	if (!known) {
		p = the_port(ifindex);
		port = p ? p->id : 0;
		return leave(port,
			     a->vlan_outer ? XVRRP_REASON_other_vlan : XVRRP_REASON_unknown_vrid,
			     budget_take(port, XVRRP_BUDGET_UNKNOWN, now) ? PASS : DROP);
	}
	router = *known;
	r = bpf_map_lookup_elem(&routers, &router);
	t = bpf_map_lookup_elem(&templates, &router);
	e = bpf_map_lookup_elem(&scratch, &zero);
	if (!r || !t || !e)
		return PASS; /* cannot happen: all indexes are in range */
	port = r->port;
	reason = not_for_us(eth, a, end, r, ifindex);
	if (reason != XVRRP_OK)
		return leave(port, reason, budget_take(port, XVRRP_BUDGET_UNKNOWN, now) ? PASS : DROP);

	e->rx_ns = now;
	e->router = router;
	e->ifindex = ifindex;
	e->family = a->family;
	e->ttl = a->ttl;
	e->payload_len = a->payload_len;
	__builtin_memcpy(e->src, a->src, sizeof(e->src));
	__builtin_memcpy(e->dst, a->dst, sizeof(e->dst));
	__builtin_memcpy(e->mac, a->mac, sizeof(e->mac));
	gather(e, a->payload, end);

	return judge_advert(e, r, t);
}

/* ARP in which a host speaks for an address of ours: a question or an answer
 * of another MAC while we are MASTER is news. */
static __always_inline enum verdict receive_arp(const struct advert *a, const void *end,
						__u32 ifindex, struct xvrrp_lease *l)
{
	struct xvrrp_address key = { .ifindex = ifindex, .vlan = a->vlan_outer };
	const struct arp_ipv4 *arp = a->l3;
	const struct xvrrp_port *p;
	struct xvrrp_router *r;
	struct xvrrp_event *e;
	__u32 *router, zero = 0;
	__u64 now;

	if ((const void *)(arp + 1) > end || arp->protocol != ETHERTYPE_IPV4_BE ||
	    arp->hardware_len != 6 || arp->protocol_len != 4)
		return leave_alone();
	if (fence_may_hold(l)) {
		r = fenced(l, ifindex, a->vlan_outer, load_be32(arp->target));
		if (r)
			return leave(r->port, XVRRP_REASON_fenced_arp, DROP);
	}
	put_ipv4(key.addr, load_be32(arp->sender));
	router = bpf_map_lookup_elem(&vips, &key);
	if (!router)
		return leave_alone();
	p = the_port(ifindex);
	r = bpf_map_lookup_elem(&routers, router);
	e = bpf_map_lookup_elem(&scratch, &zero);
	if (!p || !r || !e || !r->master || same_mac(arp->sender_mac, p->mac))
		return leave_alone(); /* the master's, as it should be, or our own */
	now = now_ns();
	if (!budget_take(p->id, XVRRP_BUDGET_CONFLICT, now))
		return leave(p->id, XVRRP_REASON_vip_conflict, PASS);
	__builtin_memset(e, 0, offsetof(struct xvrrp_event, payload));
	e->rx_ns = now;
	e->router = *router;
	e->ifindex = ifindex;
	e->family = 4;
	e->reason = XVRRP_REASON_vip_conflict;
	__builtin_memcpy(e->src, key.addr, sizeof(e->src));
	__builtin_memcpy(e->mac, arp->sender_mac, sizeof(e->mac));
	bpf_ringbuf_output(&events, e, offsetof(struct xvrrp_event, payload), 0);
	return leave(p->id, XVRRP_REASON_vip_conflict, PASS);
}

/* Probes, answers and echoes. not_vrrp means that a packet is none of them. */
static __always_inline int receive_bfd(void *data, struct bfd_frame *f, const void *end,
				       const struct xvrrp_address *at,
				       const struct xvrrp_port *port, const struct xvrrp_lease *l)
{
	struct xvrrp_local *local;
	int whole = (const void *)(f + 1) <= end;

	if (f->udp.dest == SBFD_PORT_BE) {
		local = bpf_map_lookup_elem(&locals, at);
		if (!local || !local->discriminator)
			return XVRRP_REASON_not_vrrp;
		return whole ? bfd_reflect(data, f, at, local, port, l) :
			       XVRRP_REASON_sbfd_bad_length;
	}
	if (!whole)
		return XVRRP_REASON_not_vrrp;
	return bfd_reply(f, at, f->udp.dest == BFD_ECHO_PORT_BE);
}

/* Reports whether a UDP packet may be S-BFD or an echo of ours. */
static __always_inline int may_be_bfd(const struct bfd_frame *f, const void *end)
{
	if ((const void *)(&f->udp + 1) > end)
		return 0;
	return f->ip.protocol == PROTO_UDP && f->ip.ihl == sizeof(f->ip) / 4 &&
	       !(f->ip.frag_off & IPV4_FRAGMENT_BE) &&
	       (f->udp.dest == SBFD_PORT_BE || f->udp.source == SBFD_PORT_BE ||
		f->udp.dest == BFD_ECHO_PORT_BE);
}

/* Everything that is not VRRP. Behind a second tag nothing is ours. */
static __always_inline enum verdict receive_other(void *data, const struct advert *a,
						  const void *end, __u32 ifindex)
{
	struct xvrrp_lease *l = the_lease();
	struct bfd_frame *f = (void *)a->l3;
	const struct xvrrp_port *port;
	const struct xvrrp_router *r;
	int reason;

	if (!l || !f || a->vlan_inner)
		return leave_alone();
	if (a->ethertype_be == ETHERTYPE_ARP_BE)
		return receive_arp(a, end, ifindex, l);
	if (a->ethertype_be != ETHERTYPE_IPV4_BE || (const void *)(&f->ip + 1) > end)
		return leave_alone();
	if (may_be_bfd(f, end)) {
		struct xvrrp_address at = { .ifindex = ifindex, .vlan = a->vlan_outer };

		port = the_port(ifindex);
		if (!port)
			return leave_alone();
		put_ipv4(at.addr, f->ip.daddr);
		reason = receive_bfd(data, f, end, &at, port, l);
		if (reason == XVRRP_REASON_sbfd_reflected || reason == XVRRP_REASON_sbfd_refused)
			return leave(port->id, reason, REFLECT);
		if (reason != XVRRP_REASON_not_vrrp)
			/* An answer has been recorded: nobody above waits for it, and a
			 * firewall would see a packet that it did not ask for. */
			return leave(port->id, reason, DROP);
	}
	if (fence_may_hold(l)) {
		r = fenced(l, ifindex, a->vlan_outer, f->ip.daddr);
		if (r)
			return leave(r->port, XVRRP_REASON_fenced_data, DROP);
	}
	return leave_alone();
}

static __always_inline enum verdict receive(void *data, const void *end, const struct advert *a,
					    int reason, __u32 ifindex)
{
	const struct xvrrp_port *port;

	if (reason == XVRRP_OK)
		return receive_advert(data, a, end, ifindex);
	if (reason == XVRRP_REASON_not_vrrp)
		return receive_other(data, a, end, ifindex);
	port = the_port(ifindex);
	return leave(port ? port->id : 0, reason, PASS);
}

SEC("xdp.frags")
int xvrrp_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	const void *end = (void *)(long)ctx->data_end;
	struct advert a = {};
	int reason = parse_frame(data, end, &a);
	enum verdict verdict = receive(data, end, &a, reason, ctx->ingress_ifindex);

	return verdict == PASS ? XDP_PASS : verdict == DROP ? XDP_DROP : XDP_TX;
}

static __always_inline int parse_skb(struct __sk_buff *skb, struct advert *a)
{
	if (skb->vlan_present)
		a->vlan_outer = skb->vlan_tci & VLAN_ID_MASK;
	return parse_frame((void *)(long)skb->data, (void *)(long)skb->data_end, a);
}

/* How much of a frame the program reads, in bytes; 0: its head is enough. */
static __always_inline __u32 wanted(const struct advert *a, const void *end, int reason)
{
	if (reason == XVRRP_OK) {
		/* The message may still sit in a fragment. One that is too long is
		 * refused for that. */
		__u32 header = a->family == 4 ? 60 : sizeof(struct ipv6hdr);

		return a->l3_at + header +
		       (a->payload_len < XVRRP_PAYLOAD_MAX ? a->payload_len : XVRRP_PAYLOAD_MAX);
	}
	if (reason != XVRRP_REASON_not_vrrp || !a->l3)
		return 0;
	if (a->ethertype_be == ETHERTYPE_ARP_BE)
		return a->l3_at + sizeof(struct arp_ipv4);
	if (a->ethertype_be == ETHERTYPE_IPV4_BE && may_be_bfd(a->l3, end))
		return a->l3_at + sizeof(struct bfd_frame);
	return 0;
}

/* The same for interfaces without XDP. TC_ACT_UNSPEC lets later programs run. */
SEC("tcx/ingress")
int xvrrp_tcx(struct __sk_buff *skb)
{
	struct advert a = {};
	__u32 ifindex = skb->ifindex;
	int reason = parse_skb(skb, &a);
	__u32 want = wanted(&a, (void *)(long)skb->data_end, reason);
	enum verdict verdict;

	if (want > skb->len)
		want = skb->len;
	if ((void *)(long)skb->data + want > (void *)(long)skb->data_end) {
		/* If it fails, what there is has to do. */
		bpf_skb_pull_data(skb, want);
		__builtin_memset(&a, 0, sizeof(a));
		reason = parse_skb(skb, &a);
	}
	verdict = receive((void *)(long)skb->data, (void *)(long)skb->data_end, &a, reason,
			  ifindex);
	if (verdict == REFLECT)
		return bpf_redirect(ifindex, 0);
	return verdict == PASS ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

/* The fence in the other direction. One stray frame would teach the switch and
 * the clients the wrong way again. */
SEC("tcx/egress")
int xvrrp_egress(struct __sk_buff *skb)
{
	struct xvrrp_lease *l = the_lease();
	const struct xvrrp_router *r;
	const struct arp_ipv4 *arp;
	const struct iphdr *ip;
	struct advert a = {};
	const void *end;

	if (!l || !fence_may_hold(l))
		return TC_ACT_UNSPEC;
	parse_skb(skb, &a);
	end = (void *)(long)skb->data_end;
	arp = a.l3;
	ip = a.l3;
	if (!a.l3 || a.vlan_inner)
		return TC_ACT_UNSPEC;
	if (a.ethertype_be == ETHERTYPE_ARP_BE && (const void *)(arp + 1) <= end) {
		r = fenced(l, skb->ifindex, a.vlan_outer, load_be32(arp->sender));
		if (r) {
			leave(r->port, XVRRP_REASON_fenced_arp_out, DROP);
			return TC_ACT_SHOT;
		}
	}
	if (a.ethertype_be == ETHERTYPE_IPV4_BE && (const void *)(ip + 1) <= end) {
		r = fenced(l, skb->ifindex, a.vlan_outer, ip->saddr);
		if (r) {
			leave(r->port, XVRRP_REASON_fenced_data_out, DROP);
			return TC_ACT_SHOT;
		}
	}
	return TC_ACT_UNSPEC;
}

/* Ends the lease with the process. The loader runs this once from inside the
 * daemon, before it is attached, to learn the daemon's number as the kernel
 * knows it: in a container it has another one. The leader of a Go process does
 * not exit before the process does. */
SEC("raw_tp/sched_process_exit")
int xvrrp_exit(void *ctx __attribute__((unused)))
{
	__u64 id = bpf_get_current_pid_tgid();
	struct xvrrp_lease *l = the_lease();
	__u32 tgid = id >> 32;

	if (!l)
		return 0;
	if (!l->tgid) {
		l->tgid = tgid;
	} else if (l->tgid == tgid && (__u32)id == tgid) {
		l->until_ns = 0;
		l->ended_ns = now_ns();
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
