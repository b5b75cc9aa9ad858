/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the network stack checks before a socket receives a packet. Nobody has
 * done so for a frame that the program sees, and an advert that a socket would
 * not have received must not move a virtual router.
 */
#ifndef XVRRP_DELIVERY_H
#define XVRRP_DELIVERY_H

#include <linux/if_ether.h>
#include <linux/ip.h>

#include "parse.h"
#include "shared.h"
#include "util.h"

/* The stack takes any multicast or broadcast frame (the hardware may filter
 * them) and those to the interface itself; another MAC is PACKET_OTHERHOST. */
static __always_inline int to_this_host(const struct ethhdr *eth, __u32 ifindex)
{
	const struct xvrrp_port *port;

	if (eth->h_dest[0] & 1)
		return 1;
	port = the_port(ifindex);
	return port && same_mac(eth->h_dest, port->mac);
}

static __always_inline int ipv4_checksum_holds(const struct iphdr *ip, const void *end)
{
	const __u32 *words = (const void *)ip;
	__u64 sum = 0;
	__u32 i;

	for (i = 0; i < 15; i++) {
		if (i >= ip->ihl)
			break;
		if ((const void *)(words + i + 1) > end)
			return 0;
		sum += words[i];
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

/* The reason why an advert was not sent to this virtual router, or XVRRP_OK.
 * Its own address is no destination either: it is reached by multicast only. */
static __always_inline int not_for_us(const struct ethhdr *eth, const struct advert *a,
				      const void *end, const struct xvrrp_router *r, __u32 ifindex)
{
	const struct iphdr *ip = a->l3;

	if ((const void *)(eth + 1) > end || !to_this_host(eth, ifindex))
		return XVRRP_REASON_bad_dst_mac;
	if (a->family == 4 && ((const void *)(ip + 1) > end || !ipv4_checksum_holds(ip, end)))
		return XVRRP_REASON_bad_ip_checksum;
	if (!same_addr(a->dst, r->dst))
		return XVRRP_REASON_bad_destination;
	return XVRRP_OK;
}

/* Reports whether no host may send from the address of an advert. */
static __always_inline int bad_source(const struct xvrrp_event *e, const struct xvrrp_router *r)
{
	const __u32 *words = (const void *)e->src;

	if (e->family == 4)
		return e->src[12] == 0 || e->src[12] == 127 || (e->src[12] & 0xf0) == 0xe0 ||
		       words[3] == 0xffffffff || same_addr(e->src, r->broadcast);
	return e->src[0] == 0xff ||
	       (!words[0] && !words[1] && !words[2] && !(words[3] & bpf_htonl(0xfffffffe)));
}

#endif
