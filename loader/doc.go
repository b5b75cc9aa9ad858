// SPDX-License-Identifier: Apache-2.0

// Package loader puts the receive program of bpf/ on an interface and joins it
// to user space: attach modes, pins, the template and liveness maps, the event
// ring and the counters. It is the only room that knows cilium/ebpf.
//
// # Lifetime
//
// A [Filter] is one interface's program, link and maps. All of them are pinned
// below /sys/fs/bpf/xvrrp/<netns inode>/<ifname>/, so that they outlive a
// crashed daemon; the next [Open] takes the pinned link over by link update,
// without a moment in which the interface has no program and without the link
// flap that detaching causes on real drivers. [Filter.Close] is the clean stop:
// it detaches and removes the pins.
//
// # Who may call what
//
// [Filter.Drain], [Filter.Install], [Filter.Clear] and [Filter.LastArrival]
// belong to the event loop's thread; they make no system call and do not
// allocate. Everything else may be called from anywhere.
package loader
