// SPDX-License-Identifier: Apache-2.0

// Package vip changes this host: it adds and removes virtual addresses, puts
// back what others removed, announces the addresses and, where a router does
// not accept their traffic, keeps it out. It does not decide when; see control.
//
// A [Set] is the addresses of one virtual router. The event loop orders its
// [Set.Takeover] and [Set.Release]; a [Host] carries them out on a goroutine of
// its own. The messages and frames of a Set are made when it gets its content,
// so that a takeover is one netlink batch and one batch of frames for each
// interface.
//
// The worker of a Host compares what the sets own with what the host has, as
// far as it knows: an order, another content, a refused address that is tried
// again and an address that vanished are all the same operation.
package vip
