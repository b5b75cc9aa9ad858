// SPDX-License-Identifier: Apache-2.0

// Package vip changes this host: it adds and removes virtual addresses,
// announces them and, where a router does not accept their traffic, keeps it
// out. It does not decide when; see control.
//
// The messages and frames of a [Set] are built when the configuration is read,
// so that a takeover is one netlink batch and one batch of frames.
package vip
