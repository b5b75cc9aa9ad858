// SPDX-License-Identifier: Apache-2.0

// Package logging chooses where log lines go. A log without a reader holds
// nothing up.
package logging

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"time"
)

// Options as the command line gives them.
type Options struct {
	Console  bool            // -l
	NoSyslog bool            // -G
	Facility syslog.Priority // -S
	File     string          // -g
	JSON     bool
	Detail   bool // -D
}

const (
	// queueLines is the number of lines that may wait to be written.
	queueLines = 1024
	// flushLimit is how long Close waits for them.
	flushLimit = time.Second
)

// Output is what the lines are written to.
type Output struct{ queues []*queue }

// New returns a logger and its Output. Without anything to log to, as on a host
// without syslog, it logs to standard error.
func New(o Options) (*slog.Logger, *Output, error) {
	out := &Output{}
	add := func(to io.Writer) { out.queues = append(out.queues, newQueue(to, o, queueLines)) }
	if o.File != "" {
		f, err := os.OpenFile(o.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("open log file: %w", err)
		}
		add(f)
	}
	if !o.NoSyslog && !o.Console && o.File == "" {
		if w, err := syslog.New(o.Facility|syslog.LOG_INFO, "xvrrpd"); err == nil {
			add(w)
		}
	}
	if o.Console || len(out.queues) == 0 && !o.NoSyslog {
		add(os.Stderr)
	}
	return slog.New(o.handler(out)), out, nil
}

func (o Options) handler(w io.Writer) slog.Handler {
	level := slog.LevelInfo
	if o.Detail {
		level = slog.LevelDebug
	}
	if o.JSON {
		return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	}
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
}

// Write hands a line to every output. It never waits.
func (o *Output) Write(line []byte) (int, error) {
	for _, q := range o.queues {
		q.add(line)
	}
	return len(line), nil
}

// Dropped returns the number of lines that were not written because the outputs
// were not read.
func (o *Output) Dropped() uint64 {
	total := uint64(0)
	for _, q := range o.queues {
		total += q.dropped.Load()
	}
	return total
}

// Close writes what waits. It gives up after a second: a reader that does not read
// the log must not keep the daemon from ending.
func (o *Output) Close() error {
	var errs []error
	limit, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	for _, q := range o.queues {
		close(q.closing)
	}
	for _, q := range o.queues {
		errs = append(errs, q.wait(limit))
	}
	return errors.Join(errs...)
}
