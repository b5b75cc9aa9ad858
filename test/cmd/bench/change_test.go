// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/test/lab"
)

func TestTwoOwners(t *testing.T) {
	type answer struct {
		us   int
		host byte
	}
	for _, c := range []struct {
		name    string
		answers []answer
		want    int
	}{
		{"no answer", nil, 0},
		{"one host", []answer{{0, 1}, {1100, 1}, {2200, 1}}, 0},
		{"one host answers twice", []answer{{0, 1}, {50, 1}}, 0},
		{"one after the other", []answer{{0, 1}, {1100, 1}, {2200, 2}, {3300, 2}}, 0},
		{"both answer one question, and the first goes", []answer{{0, 1}, {1100, 1}, {1150, 2}, {2200, 2}}, 1},
		{"a second host answers once", []answer{{0, 1}, {1100, 2}, {1150, 1}, {2200, 1}}, 1},
		{"both answer all questions", []answer{{0, 1}, {50, 2}, {1100, 2}, {1150, 1}, {2200, 1}, {2250, 2}}, 3},
		{"a late answer of a second host", []answer{{0, 1}, {1040, 2}, {1100, 1}, {2200, 1}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var frames []lab.Frame
			for _, a := range c.answers {
				frames = append(frames, lab.Frame{Time: time.Unix(0, 0).Add(time.Duration(a.us) * time.Microsecond), MAC: net.HardwareAddr{2, 0, 0, 0, 0, a.host}})
			}
			assert.Equal(t, c.want, twoOwners(frames))
		})
	}
}

func TestGapsOf(t *testing.T) {
	from := time.Unix(0, 0)
	at := func(intervals int, vrid uint8) lab.Frame {
		return lab.Frame{Time: from.Add(time.Duration(intervals) * interval), Advert: &packet.Advert{VRID: vrid}}
	}
	for _, c := range []struct {
		name    string
		adverts []lab.Frame
		want    []sample
	}{
		{"no advert of any", nil, []sample{10, 10}},
		{"one of them never", []lab.Frame{at(5, 1)}, []sample{5, 5, 10}},
		{"one of them late, one falls silent", []lab.Frame{at(1, 1), at(2, 1), at(8, 2), at(9, 2)}, []sample{1, 1, 8, 8, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.ElementsMatch(t, c.want, gapsOf(c.adverts, 2, from, from.Add(10*interval)))
		})
	}
}
