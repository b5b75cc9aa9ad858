// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/loader"
)

// newDetectBench is a backup that follows a master, with a session that is Up.
func newDetectBench(tb testing.TB) (*bench, *Router) {
	tb.Helper()
	b := newBench(tb)
	s := spec("A", 7, 100)
	s.FastDetect = FastDetect{Enabled: true, Interval: time.Millisecond, Multiplier: 3}
	r := b.add(s)
	b.arrive(200, b.now)
	b.at(b.now)
	require.NotNil(tb, r.session)
	b.takeRecords(RecordRetired)
	b.answered(10)
	state, _, _ := r.session.State()
	require.Equal(tb, bfd.Up, state)
	require.Len(tb, b.takeRecords(RecordSession), 1)
	return b, r
}

func (b *bench) answer(state bfd.State) {
	b.kernel.answer = loader.Answer{LastNs: int64(b.now) + 50_000, State: uint8(state)}
}

// answered plays probes that are answered, while adverts come.
func (b *bench) answered(n int) {
	for range n {
		b.answer(bfd.Up)
		b.kernel.last[0] = int64(b.now)
		b.at(max(b.now+1, b.planned))
	}
}

// unanswered plays them without answers until the backup moves.
func (b *bench) unanswered(r *Router, limit time.Duration) {
	for end := b.now.Add(limit); b.now < end && r.router.State() == control.Backup; {
		b.at(max(b.now+1, b.planned))
	}
}

func TestSilentPeerIsReplaced(t *testing.T) {
	b, r := newDetectBench(t)
	began := b.now
	b.unanswered(r, 20*time.Millisecond)
	require.Equal(t, control.Master, r.router.State())
	assert.Less(t, b.now.Sub(began), 6*time.Millisecond)
	assert.Equal(t, loader.RoleMaster, b.kernel.role[0])
	assert.Nil(t, r.session, "a master watches nobody")
	assert.Equal(t, 1, b.kernel.closed)
	news := b.takeRecords(RecordSession)
	require.Len(t, news, 1)
	assert.Equal(t, bfd.VerdictDown, news[0].Verdict)
	assert.Equal(t, 1, news[0].Acted)
	assert.Equal(t, uint64(3), r.Published.Sent.Load(), "adverts, as many as a fence asks for")
}

func TestPeerThatLeavesIsReplaced(t *testing.T) {
	b, r := newDetectBench(t)
	b.answer(bfd.AdminDown)
	b.unanswered(r, 3*time.Millisecond)
	require.Equal(t, control.Master, r.router.State())
	assert.Equal(t, uint64(1), r.Published.Transitions[control.ReasonPeerLeft].Load())
}

// Adverts that come on prove the peer alive, whatever became of the answers.
func TestLostAnswersAloneMoveNobody(t *testing.T) {
	b, r := newDetectBench(t)
	for range 40 {
		b.kernel.last[0] = int64(b.now)
		b.at(max(b.now+1, b.planned))
	}
	assert.Equal(t, control.Backup, r.router.State())
	news := b.takeRecords(RecordSession)
	require.NotEmpty(t, news)
	assert.Equal(t, bfd.VerdictDown, news[0].Verdict)
	assert.Equal(t, 1, news[0].Unmoved)
}

// A master whose adverts stay out is not replaced while its reflector answers,
// however late the loop itself was; once the answers end it is.
func TestLateMasterIsNotReplaced(t *testing.T) {
	for _, tc := range []struct {
		name      string
		overslept time.Duration
	}{{"the master is late", 0}, {"so are we", 40 * time.Millisecond}} {
		t.Run(tc.name, func(t *testing.T) {
			b, r := newDetectBench(t)
			silent := control.Instant(b.kernel.last[0])
			b.at(b.planned.Add(tc.overslept))
			for range 60 {
				b.answer(bfd.Up)
				b.at(max(b.now+1, b.planned))
			}
			require.Greater(t, b.now, silent.Add(r.router.MasterDownInterval()))
			assert.Equal(t, control.Backup, r.router.State())
			assert.Equal(t, uint64(1), r.Published.Held.Load())
			b.unanswered(r, 20*time.Millisecond)
			assert.Equal(t, control.Master, r.router.State())
			assert.Equal(t, uint64(1), r.Published.Transitions[control.ReasonFastDetect].Load())
		})
	}
}

// An echo tells nothing of the daemon: the RFC's timer is not held back.
func TestEchoHoldsNothingBack(t *testing.T) {
	b, r := newDetectBench(t)
	r.session.spec.Echo = true
	silent := control.Instant(b.kernel.last[0])
	for b.now < silent.Add(r.router.MasterDownInterval()) {
		b.answer(bfd.Up)
		b.at(max(b.now+1, b.planned))
	}
	assert.Equal(t, control.Master, r.router.State())
	assert.Equal(t, uint64(1), r.Published.Transitions[control.ReasonMasterDown].Load())
}

// The lease is renewed in each iteration, and there is one often enough.
func TestLeaseIsRenewed(t *testing.T) {
	b, _ := newDetectBench(t)
	b.at(b.now.Add(time.Millisecond))
	assert.Equal(t, int64(b.now.Add(b.lease)), b.kernel.renewed)
	assert.LessOrEqual(t, b.planned, b.now.Add(b.lease/4))
}

// Two routers that follow one peer share its session.
func TestSessionIsShared(t *testing.T) {
	b, r := newDetectBench(t)
	s := spec("B", 8, 100)
	s.FastDetect = FastDetect{Enabled: true, Interval: 500 * time.Microsecond, Multiplier: 3}
	other := b.add(s)
	b.kernel.events = append(b.kernel.events, advert(1, 8, 200, b.now))
	b.at(b.now)
	require.Same(t, r.session, other.session)
	state := r.session.Current()
	assert.Equal(t, int32(2), state.Users)
	assert.Equal(t, 500*time.Microsecond, state.Interval, "the fastest of its users is right for all")
}

func TestProbingAllocatesNothing(t *testing.T) {
	b, _ := newDetectBench(t)
	assert.Zero(t, testing.AllocsPerRun(100, func() { b.answered(1) }))
}

// Nor does waiting for a master that is late.
func TestHoldingAllocatesNothing(t *testing.T) {
	b, r := newDetectBench(t)
	silent := control.Instant(b.kernel.last[0])
	for b.now < silent.Add(r.router.MasterDownInterval()) {
		b.answer(bfd.Up)
		b.at(max(b.now+1, b.planned))
	}
	require.Equal(t, control.Backup, r.router.State())
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		b.answer(bfd.Up)
		b.at(max(b.now+1, b.planned))
	}))
	require.Equal(t, control.Backup, r.router.State())
	assert.Equal(t, uint64(1), r.Published.Held.Load())
}

func BenchmarkIterationProbes(b *testing.B) {
	x, _ := newDetectBench(b)
	b.ReportAllocs()
	for b.Loop() {
		x.answered(1)
	}
}
