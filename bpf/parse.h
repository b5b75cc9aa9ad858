/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From a frame to a VRRP message: Ethernet, up to two VLAN tags, IPv4 with
 * options or IPv6. Names end in _be for network byte order. What is not VRRP
 * is left with the place and the type of its third layer. Each function returns
 * XVRRP_OK or a reason. */
#ifndef XVRRP_PARSE_H
#define XVRRP_PARSE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>

#include "shared.h"
#include "util.h"

#define ETHERTYPE_IPV4_BE bpf_htons(0x0800)
#define ETHERTYPE_ARP_BE bpf_htons(0x0806)
#define ETHERTYPE_IPV6_BE bpf_htons(0x86dd)
#define ETHERTYPE_VLAN_BE bpf_htons(0x8100)
#define ETHERTYPE_QINQ_BE bpf_htons(0x88a8)
#define PROTO_UDP 17
#define PROTO_VRRP 112
#define VLAN_ID_MASK 0x0fff
#define IPV4_FRAGMENT_BE bpf_htons(0x3fff) /* more fragments, or an offset */

struct vlan_tag {
	__be16 tci_be;
	__be16 ethertype_be;
};

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

struct advert {
	__u8 src[16];
	__u8 dst[16];
	__u8 mac[6];
	__be16 ethertype_be;
	const void *l3;
	const __u8 *payload;
	__u16 l3_at; /* offset of l3 in the frame */
	__u16 vlan_outer;
	__u16 vlan_inner;
	__u16 payload_len;
	__u8 family;
	__u8 ttl;
};

static __always_inline int parse_ipv4(const void *at, const void *end, struct advert *a)
{
	const struct iphdr *ip = at;
	__u32 header, total;

	if ((const void *)(ip + 1) > end || ip->protocol != PROTO_VRRP)
		return XVRRP_REASON_not_vrrp;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || total < header)
		return XVRRP_REASON_bad_ip_header;
	if (ip->frag_off & IPV4_FRAGMENT_BE)
		return XVRRP_REASON_fragment;
	a->family = 4;
	a->ttl = ip->ttl;
	put_ipv4(a->src, ip->saddr);
	put_ipv4(a->dst, ip->daddr);
	a->payload = at + header;
	a->payload_len = total - header;
	return XVRRP_OK;
}

static __always_inline int parse_ipv6(const void *at, const void *end, struct advert *a)
{
	const struct ipv6hdr *ip = at;

	/* RFC 9568 section 5.1.2: the next header is VRRP itself. */
	if ((const void *)(ip + 1) > end || ip->nexthdr != PROTO_VRRP)
		return XVRRP_REASON_not_vrrp;
	if (ip->version != 6)
		return XVRRP_REASON_bad_ip_header;
	a->family = 6;
	a->ttl = ip->hop_limit;
	__builtin_memcpy(a->src, &ip->saddr, sizeof(ip->saddr));
	__builtin_memcpy(a->dst, &ip->daddr, sizeof(ip->daddr));
	a->payload = (const void *)(ip + 1);
	a->payload_len = bpf_ntohs(ip->payload_len);
	return XVRRP_OK;
}

/* vlan_outer may be set already: the kernel strips the first tag of an skb. */
static __always_inline int parse_frame(const void *data, const void *end, struct advert *a)
{
	const struct ethhdr *eth = data;
	const void *at = eth + 1;
	__be16 ethertype_be;
	int i;

	if (at > end)
		return XVRRP_REASON_not_vrrp;
	__builtin_memcpy(a->mac, eth->h_source, sizeof(a->mac));
	ethertype_be = eth->h_proto;
	for (i = 0; i < 2; i++) {
		const struct vlan_tag *tag = at;

		if (ethertype_be != ETHERTYPE_VLAN_BE && ethertype_be != ETHERTYPE_QINQ_BE)
			break;
		if ((const void *)(tag + 1) > end)
			return XVRRP_REASON_not_vrrp;
		if (a->vlan_outer)
			a->vlan_inner = bpf_ntohs(tag->tci_be) & VLAN_ID_MASK;
		else
			a->vlan_outer = bpf_ntohs(tag->tci_be) & VLAN_ID_MASK;
		ethertype_be = tag->ethertype_be;
		at = tag + 1;
	}
	a->ethertype_be = ethertype_be;
	a->l3 = at;
	a->l3_at = sizeof(*eth) + i * sizeof(struct vlan_tag);
	if (ethertype_be == ETHERTYPE_IPV4_BE)
		return parse_ipv4(at, end, a);
	if (ethertype_be == ETHERTYPE_IPV6_BE)
		return parse_ipv6(at, end, a);
	return XVRRP_REASON_not_vrrp;
}

#endif
