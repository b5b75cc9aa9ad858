// SPDX-License-Identifier: Apache-2.0

// Package loader puts the programs of bpf/ on interfaces and joins them to user
// space: attach modes, pins, the template and liveness maps, the event rings
// and the counters. It is the only room that knows cilium/ebpf.
//
// # Lifetime
//
// A [Collection] is the programs and maps of one daemon. They are loaded once,
// and the programs are attached to any number of interfaces. Maps and links are
// pinned below /sys/fs/bpf/xvrrp/<netns inode>[-<instance>]/, so that they
// outlive a crashed daemon; the next one takes each pinned link over by link
// update, without a moment in which the interface has no program and without
// the link flap that detaching causes on real drivers. [Collection.Close] is
// the clean stop: it detaches and removes the pins. A daemon locks its folder;
// another one with the same name has the folder with ~2 behind it, and so on.
//
// # Identity
//
// A virtual router is {interface, VLAN, address family, VRID}; the caller gives
// each a [RouterID], a small number that all arrays are indexed by. Addresses
// stand in the maps as 16 bytes, IPv4 as ::ffff:a.b.c.d.
//
// # Who may call what
//
// Drain, Install, Clear, LastArrival, SetRole, Renew, OpenSession, CloseSession,
// Answer and SetMAC belong to the event loop's thread; all but SetMAC make no
// system call, take no lock and do not allocate. The others may be called from
// anywhere, also while frames arrive, with one rule: the loop does not use a
// RouterID before [Collection.SetRouter] or after [Collection.RemoveRouter].
// Nothing may be called once Close has begun.
package loader
