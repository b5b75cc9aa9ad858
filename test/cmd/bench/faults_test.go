// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/test/lab"
)

func TestOwnersOf(t *testing.T) {
	const (
		yields, follows, third = 1, 2, 3
		watched                = time.Second
	)
	type span struct{ host, from, to int } // ms after the moment, an answer in each
	mac := func(host int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(host)} }
	for _, c := range []struct {
		name        string
		answers     []span
		last, first sample
		owners      sample
	}{
		{"nobody answers", nil, 0, 1000, 0},
		{"nobody follows", []span{{yields, -50, 300}}, 300, 1000, 0},
		{"one after the other", []span{{yields, -50, 300}, {follows, 310, 1000}}, 300, 310, 1},
		{"one follows at once", []span{{yields, -50, -1}, {follows, 3, 1000}}, 0, 3, 1},
		{"one goes on", []span{{yields, -50, 999}}, 1000, 1000, 1},
		{"both go on", []span{{yields, -50, 999}, {follows, 30, 999}}, 1000, 30, 2},
		{"the follower falls silent", []span{{yields, -50, 300}, {follows, 310, 700}}, 300, 310, 0},
		{"a third in the end", []span{{yields, -50, 300}, {third, 900, 910}, {follows, 310, 1000}}, 300, 310, 2},
		{"the other answered before, and later than watched", []span{{follows, -50, -1}, {follows, 1001, 1100}}, 0, 1000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := time.Unix(100, 0)
			var answers []lab.Frame
			for _, s := range c.answers {
				for ms := s.from; ms <= s.to; ms++ {
					answers = append(answers, lab.Frame{Time: at.Add(time.Duration(ms) * time.Millisecond), MAC: mac(s.host)})
				}
			}
			assert.Equal(t, map[string]sample{"": c.last, otherAnswers: c.first, lastOwners: c.owners},
				ownersOf(answers, mac(yields).String(), mac(follows).String(), at, watched))
		})
	}
}

func TestFigure(t *testing.T) {
	assert.Equal(t, "> 1300", figure("stop", "", 1300))
	assert.Equal(t, "> 400", figure(freeze.name, otherAnswers, 400))
	assert.Equal(t, "> 5000", figure("vip", "", 5000))
	assert.Equal(t, "> 5000", figure("link", hostBackup, 5000))
	assert.Equal(t, "999.50", figure("stop", "", 999.5))
	assert.Equal(t, "4999.00", figure("cut", probeRate, 4999))
	assert.Equal(t, "1000.00", figure(freeze.name, askRate, 1000))
}
