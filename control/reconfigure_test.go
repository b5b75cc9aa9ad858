// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control"
)

func TestSameIdentity(t *testing.T) {
	base := control.Config{
		VRID: 1, Version: 2, Priority: 100, Interval: time.Second, DownAdverts: 3,
		Source: netip.MustParseAddr("10.0.0.1"), Addrs: addrs("10.1.0.1"),
	}
	for _, c := range []struct {
		name   string
		change func(*control.Config)
		want   bool
	}{
		{"nothing", func(*control.Config) {}, true},
		{"VRID", func(c *control.Config) { c.VRID = 2 }, false},
		{"version", func(c *control.Config) { c.Version = 3 }, false},
		{"family", func(c *control.Config) { c.Source = netip.MustParseAddr("fe80::1") }, false},
		{"authentication type", func(c *control.Config) { c.AuthType = 1 }, false},
		{"password", func(c *control.Config) { c.Auth[0] = 'x' }, false},
		{"owner", func(c *control.Config) { c.Priority = control.PriorityOwner }, false},
		{"priority", func(c *control.Config) { c.Priority = 254 }, true},
		{"source", func(c *control.Config) { c.Source = netip.MustParseAddr("10.0.0.2") }, true},
		{"no source yet", func(c *control.Config) { c.Source = netip.IPv4Unspecified() }, true},
		{"MAC", func(c *control.Config) { c.MAC[0] = 2 }, true},
		{"addresses", func(c *control.Config) { c.Addrs = addrs("10.1.0.2") }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := base
			c.change(&o)
			assert.Equal(t, c.want, base.SameIdentity(o))
			assert.Equal(t, c.want, o.SameIdentity(base))
		})
	}
}

// A track's state is the Router's own: the caller's configuration stays as it
// was.
func TestTracksAreTheRoutersOwn(t *testing.T) {
	cfg := control.Config{Version: 3, Priority: 100, Source: netip.MustParseAddr("10.0.0.1"), Tracks: []control.Track{{Weight: 5}}}
	r := control.New(cfg)
	r.Step(0, control.Event{Kind: control.EventTrack, Down: true}, nil)
	assert.True(t, r.Config().Tracks[0].Down)
	assert.False(t, cfg.Tracks[0].Down)
}
