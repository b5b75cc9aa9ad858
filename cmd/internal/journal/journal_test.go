// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/packet"
)

func TestEntriesAreNumberedAndKept(t *testing.T) {
	j := New(3)
	assert.Empty(t, j.After(0))
	for _, why := range []string{"a", "b", "c", "d", "e"} {
		j.Append(Entry{Why: why})
	}
	assert.Equal(t, uint64(5), j.Last())
	got := j.After(3)
	require.Len(t, got, 2)
	assert.Equal(t, []uint64{4, 5}, []uint64{got[0].Seq, got[1].Seq})
	got = j.After(0)
	require.Len(t, got, 4)
	assert.Equal(t, Missed, got[0].Kind, "two entries are gone, and that is said")
	assert.Equal(t, uint64(2), got[0].Seq)
	assert.Equal(t, "c", got[1].Why)
}

func TestFollowersWait(t *testing.T) {
	j := New(10)
	j.Append(Entry{Why: "before"})
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan Entry)
	ended := make(chan error, 1)
	go func() {
		ended <- j.Follow(ctx, 0, func(e Entry) error {
			got <- e
			return nil
		})
	}()
	assert.Equal(t, "before", (<-got).Why)
	j.Append(Entry{Why: "after"})
	assert.Equal(t, "after", (<-got).Why)
	cancel()
	assert.NoError(t, <-ended)

	broken := errors.New("broken pipe")
	assert.ErrorIs(t, j.Follow(context.Background(), 0, func(Entry) error { return broken }), broken)
}

type set struct{}

func (set) Takeover() {}
func (set) Release()  {}
func (set) Announce() {}
func (set) Hold(bool) {}

// bench is a Writer whose log can be read.
type bench struct {
	Writer
	out bytes.Buffer
	seq uint64
}

func newBench() *bench {
	b := &bench{}
	b.Writer = Writer{Journal: New(100), Log: slog.New(slog.NewTextHandler(&b.out, nil)), Clock: func() int64 { return 0 }}
	return b
}

func (b *bench) record(r engine.Record) {
	b.seq++
	r.Seq = b.seq
	b.Record(&r)
}

// lines takes what was logged, from each line what follows the message.
func (b *bench) lines() []string {
	defer b.out.Reset()
	return strings.FieldsFunc(b.out.String(), func(c rune) bool { return c == '\n' })
}

func router(name string) *engine.Router {
	return engine.NewRouter(0, &engine.Port{Name: "eth0"}, set{}, engine.Spec{
		Name: name, Config: control.Config{VRID: 7, Version: 3, Priority: 100, Source: netip.MustParseAddr("192.0.2.1")},
	})
}

func moved(r *engine.Router, from, to control.State, epoch uint64) engine.Record {
	return engine.Record{Kind: engine.RecordTransition, Router: r, From: from, To: to, Epoch: epoch}
}

// The line of a takeover waits for the addresses; what follows MASTER without
// addresses does not.
func TestTransitionsWaitForTheirReport(t *testing.T) {
	b, r := newBench(), router("A")
	b.record(moved(r, control.Init, control.Backup, 0))
	assert.Len(t, b.lines(), 1)
	b.record(moved(r, control.Backup, control.Master, 1))
	assert.Empty(t, b.lines())
	assert.Len(t, b.Journal.After(0), 2, "followers learn of it at once")
	b.Report(r, Report{Epoch: 1, OrderedNs: 10, AppliedNs: 1010})
	lines := b.lines()
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "addresses_after=1µs")
}

// Only the newest order is carried out.
func TestOrdersThatWerePassedOver(t *testing.T) {
	b, r := newBench(), router("A")
	b.record(moved(r, control.Backup, control.Master, 1))
	b.record(moved(r, control.Master, control.Backup, 2))
	b.record(moved(r, control.Backup, control.Master, 3))
	b.Report(r, Report{Epoch: 2})
	lines := b.lines()
	require.Len(t, lines, 2)
	assert.NotContains(t, lines[0], "addresses_after")
	assert.Contains(t, lines[1], "addresses_after")
	b.Close()
	assert.Len(t, b.lines(), 1, "the report of the last one never came")
}

// A report may overtake the record of its transition.
func TestEarlyReport(t *testing.T) {
	b, r := newBench(), router("A")
	b.Report(r, Report{Epoch: 1, AppliedNs: 5})
	assert.Empty(t, b.lines())
	b.record(moved(r, control.Backup, control.Master, 1))
	lines := b.lines()
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "addresses_after=5ns")

	// A further report of the same epoch is about a later attempt.
	b.Report(r, Report{Epoch: 1, Err: errors.New("no buffer space")})
	lines = b.lines()
	require.Len(t, lines, 1)
	assert.Contains(t, lines[0], "no buffer space")
	entries := b.Journal.After(1)
	require.Len(t, entries, 1)
	assert.Equal(t, AddressFailed, entries[0].Kind)
}

func TestLostRecordsAreTold(t *testing.T) {
	b, r := newBench(), router("A")
	b.record(moved(r, control.Init, control.Backup, 0))
	b.seq += 3
	b.record(moved(r, control.Backup, control.Fault, 0))
	lines := b.lines()
	require.Len(t, lines, 3)
	assert.Contains(t, lines[1], "records=3")
	assert.Equal(t, Missed, b.Journal.After(1)[0].Kind)
}

// A stranger cannot fill the log.
func TestRejectsAreLimited(t *testing.T) {
	b, r := newBench(), router("A")
	for n := range 50 {
		src := netip.AddrFrom4([4]byte{10, 0, 0, byte(n)})
		b.record(engine.Record{Kind: engine.RecordRejected, Router: r, Peer: src, Reject: packet.RejectChecksum})
	}
	assert.Len(t, b.lines(), rejectLines)
	b.quiet = time.Now().Add(-2 * rejectPeriod)
	b.record(engine.Record{Kind: engine.RecordAccepted, Router: r, Peer: netip.MustParseAddr("10.0.0.1")})
	lines := b.lines()
	require.Len(t, lines, 2)
	assert.Contains(t, lines[0], "kinds=30")
}

// A report may overtake more than one: the last one is its transition.
func TestReportOvertakesTwoTransitions(t *testing.T) {
	b, r := newBench(), router("A")
	b.Report(r, Report{Epoch: 2, AppliedNs: 5})
	b.record(moved(r, control.Backup, control.Master, 1))
	b.record(moved(r, control.Master, control.Backup, 2))
	lines := b.lines()
	require.Len(t, lines, 2)
	assert.NotContains(t, lines[0], "addresses_after")
	assert.Contains(t, lines[1], "addresses_after=5ns")
}

// Nothing is kept of a router that is gone, whichever comes last: the news that
// it is, or the report of its release.
func TestRouterThatIsGone(t *testing.T) {
	for name, reportsLast := range map[string]bool{"the report is last": true, "the report is first": false} {
		t.Run(name, func(t *testing.T) {
			b, r := newBench(), router("A")
			b.record(moved(r, control.Backup, control.Master, 1))
			b.Report(r, Report{Epoch: 1})
			b.record(moved(r, control.Master, control.Init, 2))
			if !reportsLast {
				b.Report(r, Report{Epoch: 2})
			}
			b.record(engine.Record{Kind: engine.RecordRetired, Router: r})
			if reportsLast {
				b.Report(r, Report{Epoch: 2})
			}
			assert.Len(t, b.lines(), 2)
			assert.Empty(t, b.waiting)
			assert.Empty(t, b.early)
			assert.Empty(t, b.done)
			assert.Empty(t, b.retired)
		})
	}
}
