// SPDX-License-Identifier: Apache-2.0

// Package release has the releaser: a second process of xvrrpd that removes the
// virtual addresses from this host when the daemon hangs or is killed.
//
// It stands in for the fence where that cannot be had, on interfaces without a
// BPF program. The daemon tells it by a pipe which addresses those are, and
// that its event loop goes round. Silence means that it hangs, the end of the
// pipe that it is gone; one that stops in order has no address any more.
package release

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/xvrrp/xvrrp/vip"
)

const (
	// beats is how often in a lease the daemon gives a sign of life.
	beats = 4
	// attempts is how often a releaser tries to release before it ends.
	attempts = 10
)

// pause is how long a releaser that is about to remove addresses listens once
// more: what the daemon has said may not have been read yet.
func pause(lease time.Duration) time.Duration { return lease / (2 * beats) }

// silence is how long a daemon may be silent before an address is removed. One
// that hangs for less than its lease never is for that long: its last sign of
// life may be two beats older than the hang, as its loop wakes that often, too.
// And it may be a beat younger: so the address is gone before a peer that waits
// longer takes over, and not long before, as nobody would serve it.
func silence(lease, takeover time.Duration) time.Duration {
	return max(lease+2*lease/beats, takeover-lease/beats)
}

// Releaser is the work of the second process.
type Releaser struct {
	Lease time.Duration
	// Remove removes addresses from this host and returns those that it had.
	Remove func([]vip.Address) ([]vip.Address, error)
	Log    *slog.Logger

	now   func() time.Time
	list  []Address
	heard time.Time     // the last sign of life
	done  time.Duration // what had this long a silence, or a shorter one, was removed in this one
}

type message struct {
	list  []Address
	alive bool
	err   error
}

// Run serves until the pipe ends. It fails if addresses that should go remain.
func (r *Releaser) Run(pipe io.Reader) error {
	if r.now == nil {
		r.now = time.Now
	}
	messages := make(chan message, 1)
	done := make(chan struct{})
	defer close(done)
	go read(pipe, messages, done)

	var due time.Time
	suspicious := false // the timer is set for the last time
	timer := time.NewTimer(time.Hour)
	wait := func(d time.Duration) {
		due = r.now().Add(d)
		timer.Reset(d)
	}
	watch := func() {
		suspicious = false
		timer.Stop()
		if limit, ok := r.next(); ok {
			wait(limit - pause(r.Lease) - r.now().Sub(r.heard))
		}
	}
	take := func(m message) {
		if m.alive {
			r.heard, r.done = r.now(), 0
		} else {
			r.list = m.list
		}
		if m.alive || !suspicious {
			watch()
		}
	}
	r.heard = r.now()
	watch()
	for {
		select {
		case m, ok := <-messages:
			switch {
			case !ok:
				return r.end()
			case m.err != nil:
				return fmt.Errorf("read from xvrrpd: %w", m.err)
			}
			take(m)
		case <-timer.C:
			switch {
			case r.now().Sub(due) > r.Lease/beats:
				// This process was held up, too: what the daemon has said
				// meanwhile comes first.
				suspicious = true
				wait(2 * r.Lease / beats)
			case len(messages) > 0:
				wait(0) // they come first
			case !suspicious:
				suspicious = true
				wait(pause(r.Lease))
			case r.releaseSilent() != nil:
				wait(r.Lease / beats)
			default:
				watch()
			}
		}
	}
}

// next returns the shortest silence after which there is something to remove,
// and false if there is none.
func (r *Releaser) next() (shortest time.Duration, ok bool) {
	for _, a := range r.list {
		limit := silence(r.Lease, a.Takeover)
		if limit > r.done && (!ok || limit < shortest) {
			shortest, ok = limit, true
		}
	}
	return shortest, ok
}

// releaseSilent removes the addresses that a silence as long as this one is too
// long for.
func (r *Releaser) releaseSilent() error {
	silent := r.now().Sub(r.heard)
	var list []vip.Address
	for _, a := range r.list {
		if limit := silence(r.Lease, a.Takeover); limit > r.done && limit <= silent {
			list = append(list, a.Address)
		}
	}
	err := r.release("xvrrpd hung", list)
	if err == nil {
		r.done = silent
	}
	return err
}

// read hands out what the pipe brings, until it ends.
func read(pipe io.Reader, out chan<- message, done <-chan struct{}) {
	defer close(out)
	b := bufio.NewReader(pipe)
	for {
		line, err := readLine(b)
		var m message
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			m.err = err
		default:
			m.list, m.alive, m.err = parseLine(line)
		}
		select {
		case out <- m:
		case <-done:
			return
		}
		if m.err != nil {
			return
		}
	}
}

// readLine returns a line without its end. What comes after the last end of a
// line is no line.
func readLine(b *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := b.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return string(line[:len(line)-1]), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		case len(line) > longestLine:
			return "", errors.New("the line has no end")
		}
	}
}

// end releases what a daemon left that is gone.
func (r *Releaser) end() (err error) {
	var list []vip.Address
	for _, a := range r.list {
		list = append(list, a.Address)
	}
	for range attempts {
		if err = r.release("xvrrpd is gone", list); err == nil {
			return nil
		}
		time.Sleep(r.Lease / beats)
	}
	return err
}

// release removes the addresses, and says so if this host had any.
func (r *Releaser) release(why string, list []vip.Address) error {
	if len(list) == 0 {
		return nil
	}
	removed, err := r.Remove(list)
	var names []string
	for _, a := range removed {
		names = append(names, a.Prefix.String())
	}
	if len(names) > 0 {
		r.Log.Warn(why+": removed its addresses from this host, so that only a new master answers for them", "addresses", names)
	}
	if err != nil {
		r.Log.Error(why+", and its addresses cannot be removed from this host", "err", err)
	}
	return err
}
