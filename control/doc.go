// SPDX-License-Identifier: Apache-2.0

// Package control is the protocol without the world around it: one [Router]
// for each virtual router, moved by [Router.Step] from event to event, and
// given another configuration by [Router.Reconfigure]. It has no clock, socket,
// goroutine or logger; time is an argument and every effect is an [Action] that
// the caller carries out, in order.
//
// The rules are those of RFC 3768 (version 2) and RFC 9568 (version 3), and
// keepalived's where they differ; each such place is marked "compat:".
//
// # Deadlines
//
// A Router has at most one deadline, [Router.Deadline]: the next advert of a
// master, or the end of a backup's patience. When it has passed the caller
// must first deliver everything that arrived before (events, and
// [EventRefresh] with the arrival time of the last steady advert) and only
// then, if the deadline still stands, step the Router with [EventExpire]. A
// stalled backup is therefore late, never wrong.
//
// EventRefresh also comes before whatever may end the following of a master
// other than an advert: [EventTrack] and [Router.Reconfigure]. What remains of
// the master's time counts from its last advert.
package control
