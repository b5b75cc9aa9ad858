// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/loader"
)

// fakeGuard answers as a kernel would that sees, or does not see, a peer.
type fakeGuard struct {
	noGuard
	answer  loader.Answer
	role    loader.Role
	renewed int64
}

func (g *fakeGuard) SetRole(_ loader.Slot, r loader.Role) { g.role = r }
func (g *fakeGuard) Renew(until int64)                    { g.renewed = until }
func (g *fakeGuard) Answer(uint32) loader.Answer          { return g.answer }

// newDetectLoop is a backup that follows a master, with a session that is Up.
func newDetectLoop(tb testing.TB) (*loop, *instance, *fakePlane, *fakeGuard) {
	tb.Helper()
	l, i, plane := newTestLoop(tb, 100)
	guard := &fakeGuard{}
	prober, err := transport.NewProber("lo", 1)
	require.NoError(tb, err)
	tb.Cleanup(func() { assert.NoError(tb, prober.Close()) })
	i.iface.guard, i.iface.detector = guard, newDetector(prober, [6]byte{2, 0, 0, 0, 0, 8})
	i.cfg.Source = ownAddr
	i.cfg.FastDetect = config.FastDetect{Enabled: true, Interval: time.Millisecond, Multiplier: 3}
	plane.events = append(plane.events, advert(200, int64(l.now)))
	l.turnAt(l.now)
	require.NotNil(tb, i.session)
	l.answered(guard, plane, 10)
	state, _, _ := i.session.State()
	require.Equal(tb, bfd.Up, state)
	require.Len(tb, l.detections, 1)
	<-l.detections
	return l, i, plane, guard
}

// answered plays probes that are answered, while adverts come.
func (l *loop) answered(g *fakeGuard, plane *fakePlane, n int) {
	for range n {
		g.answer = loader.Answer{LastNs: int64(l.now) + 50_000, State: uint8(bfd.Up)}
		plane.last = int64(l.now)
		l.turnAt(max(l.now+1, l.planned))
	}
}

// unanswered plays them without answers until the backup moves.
func (l *loop) unanswered(i *instance, limit time.Duration) {
	for end := l.now.Add(limit); l.now < end && i.router.State() == control.Backup; {
		l.turnAt(max(l.now+1, l.planned))
	}
}

func TestSilentPeerIsReplaced(t *testing.T) {
	l, i, _, guard := newDetectLoop(t)
	began := l.now
	l.unanswered(i, 20*time.Millisecond)
	require.Equal(t, control.Master, i.router.State())
	assert.Less(t, l.now.Sub(began), 6*time.Millisecond)
	assert.Equal(t, loader.RoleMaster, guard.role)
	assert.Nil(t, i.session, "a master watches nobody")
	news := <-l.detections
	assert.Equal(t, bfd.VerdictDown, news.verdict)
	assert.Equal(t, 1, news.acted)
	assert.Equal(t, uint64(3), i.shared.sent.Load(), "adverts, as many as a fence asks for")
}

func TestPeerThatLeavesIsReplaced(t *testing.T) {
	l, i, _, guard := newDetectLoop(t)
	guard.answer = loader.Answer{LastNs: int64(l.now) + 50_000, State: uint8(bfd.AdminDown)}
	l.unanswered(i, 3*time.Millisecond)
	require.Equal(t, control.Master, i.router.State())
	assert.Equal(t, uint64(1), i.shared.transitions[control.ReasonPeerLeft].Load())
}

// Adverts that come on prove the peer alive, whatever became of the answers.
func TestLostAnswersAloneMoveNobody(t *testing.T) {
	l, i, plane, _ := newDetectLoop(t)
	for range 40 {
		plane.last = int64(l.now)
		l.turnAt(max(l.now+1, l.planned))
	}
	assert.Equal(t, control.Backup, i.router.State())
	news := <-l.detections
	assert.Equal(t, bfd.VerdictDown, news.verdict)
	assert.Equal(t, 1, news.still)
}

// A master whose adverts stay out is not replaced while its reflector answers,
// however late the loop itself was; once the answers end it is.
func TestLateMasterIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		name      string
		overslept time.Duration
	}{{"the master is late", 0}, {"so are we", 40 * time.Millisecond}} {
		t.Run(tc.name, func(t *testing.T) {
			l, i, plane, guard := newDetectLoop(t)
			silent := plane.last
			l.turnAt(l.planned.Add(tc.overslept))
			for range 60 {
				guard.answer = loader.Answer{LastNs: int64(l.now) + 50_000, State: uint8(bfd.Up)}
				l.turnAt(max(l.now+1, l.planned))
			}
			require.Greater(t, l.now, control.Instant(silent).Add(i.router.MasterDownInterval()))
			assert.Equal(t, control.Backup, i.router.State())
			assert.Equal(t, uint64(1), i.shared.held.Load())
			l.unanswered(i, 20*time.Millisecond)
			assert.Equal(t, control.Master, i.router.State())
			assert.Equal(t, uint64(1), i.shared.transitions[control.ReasonFastDetect].Load())
		})
	}
}

// An echo says nothing of the daemon: the RFC's timer is not held back.
func TestEchoHoldsNothingBack(t *testing.T) {
	l, i, plane, guard := newDetectLoop(t)
	i.session.spec.Echo = true
	silent := plane.last
	for l.now < control.Instant(silent).Add(i.router.MasterDownInterval()) {
		guard.answer = loader.Answer{LastNs: int64(l.now) + 50_000, State: uint8(bfd.Up)}
		l.turnAt(max(l.now+1, l.planned))
	}
	assert.Equal(t, control.Master, i.router.State())
	assert.Equal(t, uint64(1), i.shared.transitions[control.ReasonMasterDown].Load())
}

// The lease is renewed at each round, and there is a round often enough.
func TestLeaseIsRenewed(t *testing.T) {
	l, _, _, guard := newDetectLoop(t)
	l.turnAt(l.now.Add(time.Millisecond))
	assert.Equal(t, int64(l.now.Add(l.lease)), guard.renewed)
	assert.LessOrEqual(t, l.planned, l.now.Add(l.lease/4))
}

// A master that slept says nothing before it has seen what arrived.
func TestStalledMasterLooksFirst(t *testing.T) {
	l, i, plane := newTestLoop(t, 100)
	l.turnAt(i.deadline)
	require.Equal(t, control.Master, i.router.State())
	sent := i.shared.sent.Load()
	l.turnAt(l.now.Add(5 * time.Second))
	assert.Equal(t, sent, i.shared.sent.Load())
	assert.Equal(t, uint64(1), l.stats.stalls.Load())
	l.turnAt(l.planned + 1)
	assert.Equal(t, uint64(1), l.stats.stalls.Load(), "waking a little late is no stall")
	l.turnAt(l.now.Add(5 * time.Second))
	sent = i.shared.sent.Load()
	plane.events = append(plane.events, advert(200, int64(l.now)))
	l.turnAt(l.now.Add(200 * time.Microsecond))
	assert.Equal(t, control.Backup, i.router.State())
	assert.Equal(t, sent, i.shared.sent.Load(), "it yields without a word")
}

func TestProbingAllocatesNothing(t *testing.T) {
	l, _, plane, guard := newDetectLoop(t)
	assert.Zero(t, testing.AllocsPerRun(100, func() { l.answered(guard, plane, 1) }))
}

// Nor does waiting for a master that is late.
func TestHoldingAllocatesNothing(t *testing.T) {
	l, i, plane, guard := newDetectLoop(t)
	silent := control.Instant(plane.last)
	turn := func() {
		guard.answer = loader.Answer{LastNs: int64(l.now) + 50_000, State: uint8(bfd.Up)}
		l.turnAt(max(l.now+1, l.planned))
	}
	for l.now < silent.Add(i.router.MasterDownInterval()) {
		turn()
	}
	assert.Zero(t, testing.AllocsPerRun(100, turn))
	require.Equal(t, uint64(1), i.shared.held.Load())
	assert.Equal(t, control.Backup, i.router.State(), "it was held all the time")
}

func BenchmarkTurnProbes(b *testing.B) {
	l, _, plane, guard := newDetectLoop(b)
	b.ReportAllocs()
	for b.Loop() {
		l.answered(guard, plane, 1)
	}
}

// A flood that fills the ring does not keep our own adverts waiting.
func TestAdvertsLeaveWhileTheRingIsDrained(t *testing.T) {
	l, i, plane := newTestLoop(t, 255)
	for range 4 * drainSlice { // of a kind that nothing answers
		plane.events = append(plane.events, loader.Event{Reason: loader.ReasonVIPConflict, Src: peerAddr, Router: 7})
	}
	sent := i.shared.sent.Load()
	for clock.Now() < int64(i.deadline) { // the slice looks at the true clock
		runtime.Gosched()
	}
	l.drain()
	assert.Equal(t, sent+1, i.shared.sent.Load())
}
