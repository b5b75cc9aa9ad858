// SPDX-License-Identifier: Apache-2.0

// Package bfd is the initiator of Seamless BFD (RFC 7880, RFC 7881) and of
// unaffiliated echo (RFC 9747) without sockets and clocks: a [Session] decides
// when to probe, and judges what the kernel recorded of the answers.
package bfd
