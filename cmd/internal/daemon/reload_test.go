// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
)

// kinds returns what the journal has of reloads.
func (b *bench) kinds() (out []journal.Kind) {
	for _, e := range b.r.journal.After(0) {
		out = append(out, e.Kind)
	}
	return out
}

// A plan tells what a reload would do, and does nothing.
func TestPlan(t *testing.T) {
	lower := strings.Replace(confA, "priority 100", "priority 90", 1)
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		before, cfg, lines := b.kept(), b.r.cfg, b.log.Len()
		b.take()
		for _, tc := range []struct {
			file string
			want []ctlapi.Change
		}{
			{confA, []ctlapi.Change{}},
			{"# a comment\n" + confA, []ctlapi.Change{}},
			{lower, []ctlapi.Change{{
				Instance: "A", What: "changes its priority", Wire: "the next advert carries it; another router may take over",
			}}},
			{confA + confB, []ctlapi.Change{{Instance: "eth1", What: "is opened"}, {Instance: "B", What: "is added"}}},
			{confB, []ctlapi.Change{
				{Instance: "A", What: "is removed", Wire: "a master resigns with priority 0"},
				{Instance: "eth1", What: "is opened"}, {Instance: "B", What: "is added"},
			}},
			{confA + instance("C", "eth9", 53, 100, "10.9.0.100/24"), []ctlapi.Change{
				{Instance: "C", What: "is added, in FAULT: there is no interface eth9"},
			}},
		} {
			b.file = tc.file
			got, err := b.r.Reload(t.Context(), true)
			require.NoError(t, err)
			assert.True(t, got.Plan)
			assert.Equal(t, tc.want, got.Changes, tc.file)
			assert.Equal(t, strings.Contains(tc.file, "eth9"), len(got.Findings) > 0, "%v", got.Findings)
		}
		synctest.Wait()
		same(t, before, b.kept())
		assert.Same(t, cfg, b.r.cfg)
		assert.Equal(t, lines, b.log.Len(), "nothing is logged")
		assert.Empty(t, b.kinds())
		assert.Empty(t, b.take())
		require.NoError(t, b.leaves())
	})
}

// A file that cannot be run changes nothing, and is explained.
func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct{ file, why string }{
		"a bad address":     {strings.Replace(confA, "10.0.0.100", "10.0.0.300", 1), "10.0.0.300"},
		"no text":           {"", ""},
		"one VRID twice":    {confA + instance("B", "eth0", 51, 90, "10.0.0.101/24"), "used twice"},
		"a loopback":        {strings.Replace(confA, "eth0", "lo", 1), "loopback"},
		"another namespace": {"net_namespace other\n" + confA, "net_namespace cannot change"},
		"half of a file":    {strings.TrimSuffix(confA, "}\n"), "the file ends inside a block"},
		"another instance":  {"instance other\n" + confA, "instance cannot change"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				lo := link(1, "lo", "127.0.0.1/8")
				lo.Loopback = true
				b := newBench(t, confA+confB, lo, eth0, eth1).start()
				before, cfg := b.kept(), b.r.cfg
				b.take()
				b.file = tc.file
				for _, plan := range []bool{true, false} {
					got, err := b.r.Reload(t.Context(), plan)
					require.ErrorIs(t, err, ErrRefused)
					assert.Contains(t, strings.Join(got.Findings, "\n"), tc.why)
					assert.Empty(t, got.Changes)
					synctest.Wait()
					if plan {
						assert.Zero(t, b.logged("level=ERROR"), "only who asked is told")
						assert.Empty(t, b.kinds())
					}
				}
				assert.Equal(t, 1, b.logged(ErrRefused.Error()))
				assert.Equal(t, []journal.Kind{journal.ReloadRefused}, b.kinds())
				assert.Contains(t, b.r.journal.After(0)[0].Why, "error:")
				assert.Same(t, cfg, b.r.cfg)
				same(t, before, b.kept())
				assert.Empty(t, b.take())
				require.NoError(t, b.leaves())
			})
		})
	}
}

// Settings of the process stay, with a word about it, told once.
func TestSettingsOfTheProcessStay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0).start()
		process := b.r.cfg.Process
		for range 3 {
			b.changes("global_defs {\n vrrp_lease 0.7\n}\n" + confA)
			assert.Equal(t, process, b.r.cfg.Process)
		}
		assert.Equal(t, 1, b.logged("take effect with the next start"))
		require.NoError(t, b.leaves())
	})
}

// Two at once are done one after the other, each whole.
func TestReloadsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		b.held = true
		one, two := make(chan ctlapi.Reload, 1), make(chan ctlapi.Reload, 1)
		reload := func(answer chan ctlapi.Reload) {
			got, err := b.r.Reload(t.Context(), false)
			assert.NoError(t, err)
			answer <- got
		}
		b.file = confA + confB
		go reload(one)
		synctest.Wait()
		require.NotNil(t, b.pending)
		b.file = confB // the first has read its file
		go reload(two)
		synctest.Wait()
		assert.Empty(t, one)
		assert.Empty(t, two)
		assert.Empty(t, b.pending.Stop, "the second has not begun")
		b.release()
		first, second := <-one, <-two
		require.Len(t, first.Changes, 2)
		assert.Equal(t, "B", first.Changes[1].Instance)
		assert.Equal(t, []ctlapi.Change{
			{Instance: "A", What: "is removed", Wire: "a master resigns with priority 0"},
		}, second.Changes)
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}

// A reload that comes during the stop changes nothing, and whoever asked for it
// is told.
func TestReloadDuringTheStop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		b.slow = func(*engine.Router) bool { return true }
		b.stop()
		synctest.Wait()
		b.file = confA + confB
		ctx, cancel := context.WithCancel(t.Context()) // of the server, or of the signals
		answer := make(chan error, 1)
		go func() {
			_, err := b.r.Reload(ctx, false)
			answer <- err
		}()
		synctest.Wait()
		assert.Empty(t, answer)
		b.retire()
		require.NoError(t, <-b.end)
		cancel()
		require.ErrorContains(t, <-answer, "the daemon stops")
		assert.Empty(t, b.at["open eth1"])
		assert.Empty(t, b.kinds())
	})
}

// What a reload could not do at once is done later: it is answered all the
// same.
func TestReloadWithAStepThatFails(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t, confA, eth0, eth1).start()
		b.fail = fails(errTest, "open eth1")
		b.changes(confA + confB)
		assert.Equal(t, []journal.Kind{journal.Reloaded}, b.kinds())
		assert.Equal(t, "open eth1: test", b.status()["B"].Fault)
		b.fail = fails(nil)
		b.after(longestRetry)
		b.sameAsFresh()
		require.NoError(t, b.leaves())
	})
}
