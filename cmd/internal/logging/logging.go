// SPDX-License-Identifier: Apache-2.0

// Package logging chooses where log lines go.
package logging

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
)

// Options as the command line gives them.
type Options struct {
	Console  bool   // -l
	NoSyslog bool   // -G
	Facility int    // -S: LOG_LOCAL0 to 7, or -1 for LOG_DAEMON
	File     string // -g
	JSON     bool
	Detail   bool // -D
}

// New returns a logger and what has to be closed at the end. Without anything
// to log to, as on a host without syslog, it logs to standard error.
func New(o Options) (*slog.Logger, io.Closer, error) {
	var outs []io.Writer
	var closers closers
	if !o.NoSyslog && !o.Console && o.File == "" {
		facility := syslog.LOG_DAEMON
		if o.Facility >= 0 {
			facility = syslog.LOG_LOCAL0 + syslog.Priority(o.Facility)<<3
		}
		if w, err := syslog.New(facility|syslog.LOG_INFO, "xvrrpd"); err == nil {
			outs, closers = append(outs, w), append(closers, w)
		}
	}
	if o.File != "" {
		f, err := os.OpenFile(o.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, nil, fmt.Errorf("open log file: %w", err)
		}
		outs, closers = append(outs, f), append(closers, f)
	}
	if o.Console || len(outs) == 0 && !o.NoSyslog {
		outs = append(outs, os.Stderr)
	}
	level := slog.LevelInfo
	if o.Detail {
		level = slog.LevelDebug
	}
	h := &slog.HandlerOptions{Level: level}
	out := io.MultiWriter(outs...)
	if o.JSON {
		return slog.New(slog.NewJSONHandler(out, h)), closers, nil
	}
	return slog.New(slog.NewTextHandler(out, h)), closers, nil
}

type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, one := range c {
		errs = append(errs, one.Close())
	}
	return errors.Join(errs...)
}
