// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
)

// errUnread means that lines are lost at the end.
var errUnread = errors.New("the log is not read: its last lines are lost")

// queue writes lines to one output from a goroutine of its own. Lines that find
// it full are dropped; once the output is read again, one line tells how many.
type queue struct {
	to      io.Writer
	notice  *slog.Logger // writes to the output directly
	lines   chan []byte
	dropped atomic.Uint64
	told    uint64 // of dropped
	closing chan struct{}
	done    chan struct{}
}

func newQueue(to io.Writer, o Options, size int) *queue {
	q := &queue{
		to: to, notice: slog.New(o.handler(to)), lines: make(chan []byte, size),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	go q.run()
	return q
}

// add copies a line: slog uses its buffer again.
func (q *queue) add(line []byte) {
	select {
	case q.lines <- append([]byte(nil), line...):
	default:
		q.dropped.Add(1)
	}
}

func (q *queue) run() {
	defer close(q.done)
	for {
		select {
		case line := <-q.lines:
			q.write(line)
		case <-q.closing:
			q.flush()
			return
		}
	}
}

func (q *queue) flush() {
	for {
		select {
		case line := <-q.lines:
			q.write(line)
		default:
			return
		}
	}
}

func (q *queue) write(line []byte) {
	_, _ = q.to.Write(line) // there is nowhere to report it
	if len(q.lines) > 0 {
		return
	}
	if n := q.dropped.Load(); n > q.told {
		q.notice.Warn("log lines were dropped because the log was not read", "lines", n-q.told)
		q.told = n
	}
}

// wait waits until every line is written, and closes the output then.
func (q *queue) wait(limit context.Context) error {
	select {
	case <-q.done:
	case <-limit.Done():
		return errUnread
	}
	if c, ok := q.to.(io.Closer); ok && q.to != os.Stderr {
		return c.Close()
	}
	return nil
}
