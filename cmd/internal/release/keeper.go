// SPDX-License-Identifier: Apache-2.0

package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// A releaser that ended is started again after firstPause, later and later
	// if it does not stay.
	firstPause   = time.Second
	longestPause = time.Minute
	// endTime is how long one may take to end.
	endTime = 2 * time.Second
)

// Keeper is the daemon's side: it keeps a releaser running while there are
// addresses for it, and tells it what it has to know.
type Keeper struct {
	lease    time.Duration
	progress func() uint64
	log      *slog.Logger
	start    func() (*process, error)

	mu      sync.Mutex
	list    []Address
	changed chan struct{} // of capacity 1
}

// process is a releaser that runs.
type process struct {
	pipe interface {
		io.WriteCloser
		SetWriteDeadline(time.Time) error
	}
	kill  func()
	ended chan error // of capacity 1
}

// NewKeeper returns a Keeper. progress grows while the event loop goes round; a
// releaser has a real-time priority and locked memory where they can be had.
func NewKeeper(lease time.Duration, priority int, lockMemory bool, progress func() uint64, log *slog.Logger) *Keeper {
	return &Keeper{
		lease: lease, progress: progress, log: log, changed: make(chan struct{}, 1),
		start: func() (*process, error) { return execute(settings{lease, priority, lockMemory}) },
	}
}

// Set replaces the addresses that a releaser has to remove when the daemon hangs
// or is killed. It never waits.
func (k *Keeper) Set(list []Address) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.Equal(k.list, list) {
		return
	}
	k.list = list
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

func (k *Keeper) addresses() []Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.list
}

// Run works until ctx ends. Addresses that are still set then are removed.
func (k *Keeper) Run(ctx context.Context) error {
	for len(k.addresses()) == 0 {
		select {
		case <-k.changed:
		case <-ctx.Done():
			return nil
		}
	}
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := k.keep(ctx)
		if err == nil {
			return nil
		}
		if time.Since(began) > longestPause {
			pause = firstPause
		}
		k.log.Warn("the releaser is not running and will be restarted; until then a hung daemon keeps its addresses", "in", pause, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
	return nil
}

// keep has one releaser from its start to its end, which is an error before ctx
// ends.
func (k *Keeper) keep(ctx context.Context) error {
	p, err := k.start()
	if err != nil {
		return err
	}
	tick := time.NewTicker(k.lease / beats)
	defer tick.Stop()
	err = k.tell(p, formatAddresses(k.addresses()))
	seen := uint64(0)
	for err == nil {
		select {
		case <-tick.C:
			// Even an idle loop wakes to renew its lease.
			if n := k.progress(); n != seen {
				seen = n
				err = k.tell(p, alive)
			}
		case <-k.changed:
			err = k.tell(p, formatAddresses(k.addresses()))
		case err := <-p.ended:
			_ = p.pipe.Close()
			return fmt.Errorf("the releaser ended: %w", cause(err))
		case <-ctx.Done():
			_ = k.tell(p, formatAddresses(k.addresses()))
			p.end()
			return nil
		}
	}
	p.kill()
	p.end()
	return fmt.Errorf("tell the releaser: %w", err)
}

func cause(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

// tell writes a line. It does not wait for a releaser that does not read.
func (k *Keeper) tell(p *process, line string) error {
	if err := p.pipe.SetWriteDeadline(time.Now().Add(k.lease)); err != nil {
		return err
	}
	_, err := io.WriteString(p.pipe, line+"\n")
	return err
}

// end closes the pipe and waits for the end of the releaser.
func (p *process) end() {
	_ = p.pipe.Close()
	select {
	case <-p.ended:
	case <-time.After(endTime):
		p.kill()
		<-p.ended
	}
}
