// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
)

// RecordKind is the kind of a Record.
type RecordKind uint8

const (
	// RecordTransition: a router changed its state. From, To, Reason,
	// Priority, Peer, LastSeen, Late, and Epoch if addresses follow.
	RecordTransition RecordKind = iota
	// RecordRejected: an advert was refused for a reason that was not reported
	// yet. Peer, Reject.
	RecordRejected
	// RecordAccepted: adverts of a peer that were refused are valid again. Peer.
	RecordAccepted
	// RecordSession: a session of fast detection changed. Port, Peer, Verdict,
	// Diag, Acted, Unmoved, Unanswered.
	RecordSession
	// RecordSendFailed: the kernel refuses adverts of a port. Port, Errno.
	RecordSendFailed
	// RecordSendRecovered: it takes them again. Port.
	RecordSendRecovered
	// RecordRetired: a router that was stopped is INIT; see Router.Retired.
	RecordRetired
)

// Record is one thing that happened in the loop. Kind says which fields count;
// times are CLOCK_MONOTONIC nanoseconds.
type Record struct {
	Seq    uint64 // without gaps, unless the reader was too slow
	At     int64
	Kind   RecordKind
	Router *Router
	Port   *Port

	From, To control.State
	Reason   control.Reason
	Priority uint8
	Peer     netip.Addr // the master that was followed, or is now; or the sender
	LastSeen int64      // the master's last advert; 0: none
	Late     time.Duration
	Epoch    uint64 // of the ownership that the transition ordered

	Reject packet.Reject

	Verdict bfd.Verdict
	Diag    bfd.Diag
	// Acted and Unmoved count the routers that followed a verdict, and those
	// that did not because adverts came on.
	Acted, Unmoved int
	Unanswered     time.Duration

	Errno syscall.Errno
}

// emit hands a record to the reader. It never waits: a record that finds no
// room is lost, and its number is missing.
func (e *Engine) emit(r *Record) {
	e.seq++
	r.Seq = e.seq
	if !e.records.push(r) {
		e.Stats.Lost.Add(1)
	}
	e.told = false
}

// announceRecords wakes the reader, once an iteration.
func (e *Engine) announceRecords() {
	if e.told {
		return
	}
	e.told = true
	kick(e.recordsFD)
}

// ReadRecords calls fn with every record, in order, until StopRecords is called
// and none is left; and drained after each time that it has emptied the ring,
// also if there was only progress. There is one reader.
func (e *Engine) ReadRecords(fn func(*Record), drained func()) error {
	var counter [8]byte
	var r Record
	for {
		_, err := e.recordsFile.Read(counter[:])
		for e.records.pop(&r) {
			fn(&r)
		}
		drained()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		default:
			return fmt.Errorf("wait for records of the event loop: %w", err)
		}
	}
}

// StopRecords ends ReadRecords once it has read what there is.
func (e *Engine) StopRecords() error { return e.recordsFile.SetReadDeadline(time.Unix(1, 0)) }

// kick makes an eventfd readable.
func kick(fd int) {
	one := [8]byte{1}
	_, _ = unix.Write(fd, one[:])
}
