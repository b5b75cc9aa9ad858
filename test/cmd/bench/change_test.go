// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

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
