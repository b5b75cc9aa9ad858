/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Seamless BFD, RFC 7880 and 7881, on one link.
 *
 * The reflector answers in place and keeps no state. It says Up while the
 * daemon's lease holds and it serves a virtual router, AdminDown otherwise. An
 * answer is as long as its question and goes to the MAC that the question came
 * from, so there is nothing to amplify and nobody else to hit. An answer comes
 * from port 7784 with the Demand bit clear; a reflector takes neither, so two
 * of them cannot keep a packet in the air.
 *
 * Answers to our own probes are recorded for the initiator in user space, with
 * their time of arrival: a late initiator is not misled.
 */
#ifndef XVRRP_SBFD_H
#define XVRRP_SBFD_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "maps.h"
#include "rate.h"
#include "util.h"

#define SBFD_PORT_BE bpf_htons(7784)
#define BFD_ECHO_PORT_BE bpf_htons(3785)
#define BFD_TTL 255
#define BFD_ECHO_TTL 254 /* the peer forwarded it once */

#define BFD_VERSION 1
#define BFD_STATE_ADMIN_DOWN 0
#define BFD_STATE_UP 3
#define BFD_DIAG_ADMIN_DOWN 7
#define BFD_POLL 0x20
#define BFD_FINAL 0x10
#define BFD_AUTH 0x04
#define BFD_DEMAND 0x02
#define BFD_MULTIPOINT 0x01
/* What the reflector can take, in microseconds. */
#define BFD_MIN_RX_BE bpf_htonl(300)

struct bfd {
	__u8 version_diag;
	__u8 state_flags;
	__u8 multiplier;
	__u8 length;
	__be32 mine;
	__be32 yours;
	__be32 min_tx;
	__be32 min_rx;
	__be32 min_echo_rx;
};

struct bfd_frame {
	struct iphdr ip;
	struct udphdr udp;
	struct bfd bfd;
};

/* Checks that hold for probes, answers and echoes: XVRRP_OK, or a reason. */
static __always_inline int bfd_check(const struct bfd_frame *f, __u8 ttl)
{
	if (f->ip.ttl != ttl)
		return XVRRP_REASON_sbfd_bad_ttl;
	if (f->ip.tot_len != bpf_htons(sizeof(*f)) ||
	    f->udp.len != bpf_htons(sizeof(f->udp) + sizeof(f->bfd)))
		return XVRRP_REASON_sbfd_bad_length;
	if (f->bfd.version_diag >> 5 != BFD_VERSION)
		return XVRRP_REASON_sbfd_bad_version;
	if (f->bfd.state_flags & (BFD_AUTH | BFD_MULTIPOINT))
		return XVRRP_REASON_sbfd_bad_flags;
	if (f->bfd.length != sizeof(f->bfd))
		return XVRRP_REASON_sbfd_bad_length;
	if (!f->bfd.multiplier)
		return XVRRP_REASON_sbfd_bad_multiplier;
	if (!f->bfd.mine || !f->bfd.yours)
		return XVRRP_REASON_sbfd_bad_discriminator;
	return XVRRP_OK;
}

static __always_inline void csum_replace2(__sum16 *check, __be16 from, __be16 to)
{
	__u32 sum = (__u16)~*check + (__u16)~from + (__u32)to;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*check = ~sum;
}

static __always_inline void csum_replace4(__sum16 *check, __be32 from, __be32 to)
{
	csum_replace2(check, from & 0xffff, to & 0xffff);
	csum_replace2(check, from >> 16, to >> 16);
}

/* Turns a probe into its answer. What is swapped leaves the checksums as they
 * are. */
static __always_inline void bfd_answer(struct ethhdr *eth, struct bfd_frame *f, int up)
{
	__be16 *first = (void *)&f->bfd, old = *first, port;
	__be32 addr;
	__u8 mac[6];

	__builtin_memcpy(mac, eth->h_source, sizeof(mac));
	__builtin_memcpy(eth->h_source, eth->h_dest, sizeof(mac));
	__builtin_memcpy(eth->h_dest, mac, sizeof(mac));
	addr = f->ip.saddr;
	f->ip.saddr = f->ip.daddr;
	f->ip.daddr = addr;
	port = f->udp.source;
	f->udp.source = f->udp.dest;
	f->udp.dest = port;
	addr = f->bfd.mine;
	f->bfd.mine = f->bfd.yours;
	f->bfd.yours = addr;

	f->bfd.version_diag = BFD_VERSION << 5 | (up ? 0 : BFD_DIAG_ADMIN_DOWN);
	f->bfd.state_flags = (up ? BFD_STATE_UP : BFD_STATE_ADMIN_DOWN) << 6 |
			     (f->bfd.state_flags & BFD_POLL ? BFD_FINAL : 0);
	if (f->udp.check) {
		csum_replace2(&f->udp.check, old, *first);
		csum_replace4(&f->udp.check, f->bfd.min_rx, BFD_MIN_RX_BE);
		csum_replace4(&f->udp.check, f->bfd.min_echo_rx, 0);
		if (!f->udp.check)
			f->udp.check = 0xffff;
	}
	f->bfd.min_rx = BFD_MIN_RX_BE;
	f->bfd.min_echo_rx = 0;
}

/* A probe to an address that adverts are sent from, and `at` where that is. */
static __always_inline int bfd_reflect(struct ethhdr *eth, struct bfd_frame *f,
				       const struct xvrrp_address *at,
				       const struct xvrrp_local *local,
				       const struct xvrrp_port *port, const struct xvrrp_lease *l)
{
	struct xvrrp_source source = { .ifindex = at->ifindex, .router = XVRRP_SOURCE_SBFD };
	struct xvrrp_address from = { .ifindex = at->ifindex, .vlan = at->vlan };
	const __u32 *mask = (const void *)local->mask;
	const struct xvrrp_serving *s;
	__u32 id = port->id;
	int reason, up;
	__u64 now;

	put_ipv4(from.addr, f->ip.saddr);
	if (f->udp.source == SBFD_PORT_BE || f->ip.saddr == f->ip.daddr ||
	    bpf_map_lookup_elem(&locals, &from) || same_mac(eth->h_source, port->mac))
		return XVRRP_REASON_sbfd_looped;
	reason = bfd_check(f, BFD_TTL);
	if (reason != XVRRP_OK)
		return reason;
	if ((f->ip.saddr ^ f->ip.daddr) & mask[3] || (eth->h_source[0] | eth->h_dest[0]) & 1)
		return XVRRP_REASON_sbfd_bad_source;
	if (!(f->bfd.state_flags & BFD_DEMAND))
		return XVRRP_REASON_sbfd_looped; /* RFC 7880: reflectors clear it */
	if (f->bfd.yours != bpf_htonl(local->discriminator))
		return XVRRP_REASON_sbfd_bad_discriminator;
	now = now_ns();
	__builtin_memcpy(source.addr, from.addr, sizeof(source.addr));
	__builtin_memcpy(source.mac, eth->h_source, sizeof(source.mac));
	if (!source_take(&source, &rate_sbfd, now))
		return XVRRP_REASON_sbfd_rate;
	s = bpf_map_lookup_elem(&serving, &id);
	up = s && s->masters && lease_held(l, now);
	bfd_answer(eth, f, up);
	return up ? XVRRP_REASON_sbfd_reflected : XVRRP_REASON_sbfd_refused;
}

/* An answer to a probe of ours, or an echo that came back. not_vrrp means that
 * it is none of ours. */
static __always_inline int bfd_reply(const struct bfd_frame *f, const struct xvrrp_address *at,
				     int echo)
{
	__u32 local = bpf_ntohl(f->bfd.yours);
	__u32 index = local & (XVRRP_SESSIONS - 1);
	struct xvrrp_session *s = bpf_map_lookup_elem(&sessions, &index);
	__u8 from[16] __attribute__((aligned(8)));
	__u64 now;
	int reason;

	if (!s || !local || s->local != local || !s->echo != !echo ||
	    s->ifindex != at->ifindex || s->vlan != at->vlan)
		return XVRRP_REASON_not_vrrp;
	reason = bfd_check(f, echo ? BFD_ECHO_TTL : BFD_TTL);
	if (reason != XVRRP_OK)
		return reason;
	put_ipv4(from, f->ip.saddr);
	if (echo ? f->ip.saddr != f->ip.daddr : !same_addr(from, s->peer))
		return XVRRP_REASON_sbfd_bad_source;
	if (f->bfd.mine != bpf_htonl(s->remote))
		return XVRRP_REASON_sbfd_bad_discriminator;
	if (!echo && f->bfd.state_flags & BFD_DEMAND)
		return XVRRP_REASON_sbfd_looped;
	now = now_ns();
	s->state = f->bfd.state_flags >> 6;
	s->diag = f->bfd.version_diag & 0x1f;
	__sync_fetch_and_add(&s->replies, 1);
	/* Last: who sees this time sees the state, or a newer one. */
	if ((__s64)(now - s->last_ns) > 0)
		*(volatile __u64 *)&s->last_ns = now;
	return XVRRP_REASON_sbfd_reply;
}

#endif
