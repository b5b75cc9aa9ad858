// SPDX-License-Identifier: Apache-2.0

package bfd_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
)

const ms = control.Instant(time.Millisecond)

// link is a session with its peer: answers arrive after a delay and are
// recorded by a kernel that may be held up together with the initiator.
type link struct {
	s        bfd.Session
	now      control.Instant
	dead     bool // the peer answers nothing
	says     bfd.State
	delay    func() time.Duration
	inFlight []control.Instant // arrivals to come, in order
	recorded control.Instant
	sent     int
	ports    map[int]int
}

func newLink(interval time.Duration, multiplier int) *link {
	l := &link{says: bfd.Up, ports: map[int]int{}, delay: func() time.Duration { return 50 * time.Microsecond }}
	l.s.Open(0, bfd.Config{Interval: interval, Multiplier: multiplier})
	return l
}

// kernel records what has arrived by now.
func (l *link) kernel() {
	for len(l.inFlight) > 0 && l.inFlight[0] <= l.now {
		l.recorded = max(l.recorded, l.inFlight[0])
		l.inFlight = l.inFlight[1:]
	}
}

// turn is one round of the event loop.
func (l *link) turn() bfd.Verdict {
	v := l.s.Observe(l.now, l.recorded, l.says)
	if port, due := l.s.Probe(l.now); due {
		l.sent++
		l.ports[port]++
		if !l.dead {
			l.inFlight = append(l.inFlight, l.now.Add(l.delay()))
		}
		l.s.Sent(l.now, true)
	}
	return v
}

// run plays until something is found or the time is over.
func (l *link) run(until control.Instant) bfd.Verdict {
	for l.now < until {
		l.now = max(l.now, l.s.Deadline())
		if l.now >= until {
			l.now = until
			break
		}
		l.kernel()
		if v := l.turn(); v != bfd.VerdictNone {
			return v
		}
	}
	return bfd.VerdictNone
}

func up(t *testing.T, interval time.Duration, multiplier int) *link {
	l := newLink(interval, multiplier)
	require.Equal(t, bfd.VerdictUp, l.run(3000*ms))
	return l
}

func TestSessionComesUpAndGoesDown(t *testing.T) {
	l := newLink(time.Millisecond, 3)
	l.dead = true
	assert.Equal(t, bfd.VerdictNone, l.run(10000*ms), "a session that was never Up says nothing")
	assert.Equal(t, 10, l.sent, "once a second while there is nobody")
	l.dead = false
	require.Equal(t, bfd.VerdictUp, l.run(11100*ms))
	state, _, diag := l.s.State()
	assert.Equal(t, "Up", state.String())
	assert.Equal(t, "none", diag.String())
	require.Equal(t, bfd.VerdictNone, l.run(12000*ms))
	assert.Zero(t, l.ports[1], "no confirmation was needed")

	l.dead = true
	began := l.now
	require.Equal(t, bfd.VerdictDown, l.run(13000*ms))
	took := l.now.Sub(began)
	assert.GreaterOrEqual(t, took, 3*time.Millisecond)
	assert.Less(t, took, 5*time.Millisecond)
	for port := range bfd.Ports {
		assert.Positive(t, l.ports[port], "the confirmation uses ports of its own")
	}
	_, _, diag = l.s.State()
	assert.Equal(t, bfd.DiagDetectionTime, diag)
}

func TestSessionAdminDown(t *testing.T) {
	l := up(t, time.Millisecond, 3)
	l.says = bfd.AdminDown
	began := l.now
	require.Equal(t, bfd.VerdictAdminDown, l.run(began+10*ms))
	assert.Less(t, l.now.Sub(began), 3*time.Millisecond, "with the next probe")
	assert.Equal(t, bfd.VerdictNone, l.run(l.now+5000*ms), "it is said once")
	l.says = bfd.Up
	assert.Equal(t, bfd.VerdictUp, l.run(l.now+2000*ms), "at once when the peer serves again")
}

// After a false alarm the session is not believed at once again.
func TestSessionThatFlapsIsHeld(t *testing.T) {
	l := up(t, time.Millisecond, 3)
	held := time.Duration(0)
	for range 4 {
		l.dead = true
		require.Equal(t, bfd.VerdictDown, l.run(l.now+100*ms))
		l.dead = false
		down := l.now
		require.Equal(t, bfd.VerdictUp, l.run(l.now+100_000*ms))
		assert.GreaterOrEqual(t, l.now.Sub(down), held)
		held = l.now.Sub(down)
	}
	assert.GreaterOrEqual(t, held, 8*time.Second)
}

// One answer ends a suspicion.
func TestSessionConfirmation(t *testing.T) {
	l := up(t, time.Millisecond, 3)
	l.dead = true
	for l.ports[1] == 0 {
		l.now = l.s.Deadline()
		require.Equal(t, bfd.VerdictNone, l.turn())
	}
	l.dead = false
	assert.Equal(t, bfd.VerdictNone, l.run(l.now+1000*ms))
	n, _ := l.s.Unanswered()
	assert.LessOrEqual(t, n, 1)
}

// A probe that the kernel did not take does not count.
func TestSessionCountsWhatWasSent(t *testing.T) {
	l := up(t, time.Millisecond, 3)
	for range 1000 {
		l.now = max(l.now, l.s.Deadline())
		require.Equal(t, bfd.VerdictNone, l.s.Observe(l.now, l.recorded, bfd.Up))
		if _, due := l.s.Probe(l.now); due {
			l.s.Sent(l.now, false)
		}
	}
}

// The initiator, and the kernel below it, are held up at random and for any
// time: as long as the peer answers, it is not declared dead.
func TestStalledSessionIsNeverWrong(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		interval := []time.Duration{300 * time.Microsecond, time.Millisecond, 3300 * time.Microsecond}[rng.IntN(3)]
		l := up(t, interval, 1+rng.IntN(4))
		l.delay = func() time.Duration { return time.Duration(rng.Int64N(int64(250 * time.Microsecond))) }
		deaf := control.Instant(0) // the kernel hands nothing over before
		for range 3000 {
			l.now = max(l.now, l.s.Deadline())
			switch rng.IntN(40) {
			case 0: // the loop sleeps, the kernel works
				l.now = l.now.Add(time.Duration(rng.Int64N(int64(50 * time.Millisecond))))
			case 1: // the host sleeps, and the loop wakes first
				l.now = l.now.Add(time.Duration(rng.Int64N(int64(50 * time.Millisecond))))
				deaf = l.now.Add(time.Duration(rng.Int64N(int64(300 * time.Microsecond))))
			}
			if l.now >= deaf {
				l.kernel()
			}
			require.Equal(t, bfd.VerdictNone, l.turn(), "seed %d at %v", seed, l.now.Sub(0))
		}
		// And it is still able to see a death.
		l.dead = true
		l.kernel()
		require.Equal(t, bfd.VerdictDown, l.run(l.now+1000*ms), "seed %d", seed)
	}
}

func TestSessionAllocatesNothing(t *testing.T) {
	l := up(t, time.Millisecond, 3)
	l.dead = true
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		l.now = max(l.now, l.s.Deadline())
		l.recorded = l.now
		l.turn()
	}))
}
