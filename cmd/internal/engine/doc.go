// SPDX-License-Identifier: Apache-2.0

// Package engine is the event loop: one thread that takes events, steps the
// virtual routers and sends their adverts. It knows neither files, nor HTTP,
// nor logs, nor netlink; what it needs of the host it declares as interfaces
// ([Receiver], [Kernel], [Sender], [Prober], [Set], [Facts]), so that it runs on
// a fake clock in tests.
//
// # The loop
//
// It sleeps in epoll on the event rings, one timerfd and one eventfd. An
// iteration takes everything that arrived, then acts on what is due, then sends
// and arms the timer. In steady state it allocates nothing. It never touches
// files, logs, DNS, exec, Go channels, locks that others hold, or the runtime's
// network poller.
//
// # The splice
//
// Everything that allocates or calls the system is made outside: [Batch] brings
// a complete new [Table], with the same *Router where nothing changed. A removed
// router stays in the table until it is INIT; the engine then reports it
// retired, and only then is what it held freed.
//
// Batches and news of the host come by different ways, and a batch is computed
// from facts that are older than news that the loop may have taken already. So a
// batch says what is watched, and [Facts] says, when it is put in place, what is
// the case.
//
// # What leaves
//
// What is the case now is published for each router and read whole
// ([Published]). What happened leaves as numbered [Record]s through a ring with
// one writer and one reader; a reader that is too slow sees a gap in the
// numbers.
package engine
