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
	every := []int{0, 1000, 2000, 3000}
	for _, c := range []struct {
		name    string
		asked   []int
		answers []answer
		want    int
	}{
		{"no answer", every, nil, 0},
		{"no question", nil, []answer{{50, 1}, {60, 2}}, 0},
		{"one host", every, []answer{{50, 1}, {1050, 1}, {2050, 1}}, 0},
		{"one host answers twice", every, []answer{{50, 1}, {90, 1}}, 0},
		{"one after the other", every, []answer{{50, 1}, {1050, 1}, {2050, 2}, {3050, 2}}, 0},
		{"one after the other, with two questions soon after another", []int{0, 1000, 1100}, []answer{{50, 1}, {1050, 1}, {1150, 2}}, 0},
		{"an answer before the first question", []int{1000}, []answer{{950, 1}, {1050, 2}}, 0},
		{"both answer one question, and the first goes", every, []answer{{50, 1}, {1050, 1}, {1150, 2}, {2050, 2}}, 1},
		{"a second host answers once", every, []answer{{50, 1}, {1050, 2}, {1150, 1}, {2050, 1}}, 1},
		{"a second host answers between two answers of the first", every, []answer{{50, 1}, {60, 2}, {70, 1}}, 1},
		{"both answer all questions", every, []answer{{50, 1}, {60, 2}, {1050, 2}, {1060, 1}, {2050, 1}, {2060, 2}}, 3},
		{"a late answer of a second host", every, []answer{{50, 1}, {990, 2}, {1050, 1}, {2050, 1}}, 1},
		{"after the last question", every, []answer{{3050, 1}, {3900, 2}}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			at := func(us int) time.Time { return time.Unix(0, 0).Add(time.Duration(us) * time.Microsecond) }
			var asked []time.Time
			for _, us := range c.asked {
				asked = append(asked, at(us))
			}
			var frames []lab.Frame
			for _, a := range c.answers {
				frames = append(frames, lab.Frame{Time: at(a.us), MAC: net.HardwareAddr{2, 0, 0, 0, 0, a.host}})
			}
			assert.Equal(t, c.want, twoOwners(asked, frames))
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
			assert.ElementsMatch(t, c.want, gapsOf(c.adverts, 2, interval, from, from.Add(10*interval)))
		})
	}
}
