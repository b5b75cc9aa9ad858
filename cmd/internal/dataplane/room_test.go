// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/loader"
)

// instances are n virtual routers on some interfaces, with some addresses each.
func instances(n, interfaces, addresses int) *config.Config {
	cfg := &config.Config{}
	for i := range n {
		cfg.Instances = append(cfg.Instances, &config.Instance{
			Interface: fmt.Sprintf("eth%d", i%interfaces), Addresses: make([]config.Address, addresses),
		})
	}
	return cfg
}

func TestRoomFor(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  *config.Config
		want Room
	}{
		"an empty file":         {&config.Config{}, Room{256, 64, 1024}},
		"one instance":          {instances(1, 1, 2), Room{256, 64, 1024}},
		"one with many":         {instances(1, 1, 800), Room{256, 64, 1600}},
		"200 on their own":      {instances(200, 200, 1), Room{400, 400, 1024}},
		"200 on one":            {instances(200, 1, 1), Room{400, 64, 1024}},
		"1,000 without address": {instances(1000, 40, 0), Room{2000, 80, 2000}},
		"300 with three each":   {instances(300, 300, 3), Room{600, 600, 1800}},
	} {
		assert.Equal(t, tc.want, RoomFor(tc.cfg), name)
	}
}

// What finds no room is refused, with words that say what to do; the rest is
// served.
func TestFullMaps(t *testing.T) {
	s := newSite(t)
	d := s.plane()
	d.Room = Room{Routers: 2, Ports: 2, Addresses: 2}
	defer func() { assert.NoError(t, d.Close()) }()
	port := &plan.Port{Modes: []plan.Mode{plan.ModeGeneric}}
	more := s.router(2)
	more.At.VRID++
	p, err := d.Open(s.key, port, []Router{s.router(0), more})
	require.NoError(t, err)
	assert.True(t, p.Knows(0))
	assert.False(t, p.Knows(2))
	const advice = "there is room for 2 virtual routers, 2 interfaces and 2 addresses since the start; " +
		"a restart makes room for the file as it is now"
	err = p.SetRouter(2, more.At, more.Plan)
	require.ErrorIs(t, err, loader.ErrFull)
	assert.EqualError(t, err, "router 2 of VI_1: no room in the BPF maps: "+advice)

	many := s.router(1)
	many.At.VRID += 2
	for i := range byte(3) {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 24)
		many.Plan.Addresses = append(many.Plan.Addresses, plan.Address{Ifindex: s.key.Ifindex, Prefix: prefix})
	}
	err = p.SetRouter(1, many.At, many.Plan)
	require.ErrorIs(t, err, loader.ErrFull)
	assert.ErrorContains(t, err, advice)
	assert.False(t, p.Knows(1))

	port.Locals = []plan.Local{
		{Prefix: netip.MustParsePrefix("10.0.0.1/8")}, {Prefix: netip.MustParsePrefix("10.0.0.2/8")},
		{Prefix: netip.MustParsePrefix("10.0.0.3/8")},
	}
	assert.ErrorContains(t, d.Change(p, port), advice)
	for ifindex := range 2 {
		_, err = d.Open(plan.PortKey{Name: "lo", Ifindex: 1 + 1000*ifindex}, &plan.Port{Modes: port.Modes}, nil)
	}
	assert.ErrorContains(t, err, advice)
	assert.True(t, p.InPath())
	assert.True(t, p.Knows(0))
	require.NoError(t, p.SetRouter(0, s.router(0).At, s.router(0).Plan))
	require.NoError(t, p.Close())
}
