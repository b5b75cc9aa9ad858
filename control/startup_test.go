// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control"
)

// A router waits for Master_Down_Interval from when its host began to listen, and
// for an interval and the skew from now.
func TestStartupCountsFromWhenTheHostListens(t *testing.T) {
	const now = control.Instant(10 * time.Second)
	for name, tc := range map[string]struct {
		since, from control.Instant
	}{
		"since now":         {0, now},
		"for a while":       {now.Add(-time.Second), now.Add(-time.Second)},
		"for two intervals": {now.Add(-2 * time.Second), now.Add(-2 * time.Second)},
		"for longer":        {now.Add(-4 * time.Second), now.Add(-2 * time.Second)},
	} {
		r := control.New(control.Config{
			VRID: 1, Version: 3, Priority: 100, Interval: time.Second, DownAdverts: 3,
			Source: netip.MustParseAddr("10.0.0.1"),
		})
		r.Step(now, control.Event{Kind: control.EventStartup, At: tc.since}, nil)
		assert.Equal(t, control.Backup, r.State(), name)
		down, ok := r.Deadline()
		assert.True(t, ok, name)
		assert.Equal(t, tc.from.Add(r.MasterDownInterval()), down, name)
	}
}
