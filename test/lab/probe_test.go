// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestRepliesTo(t *testing.T) {
	var beyond []uint16 // one answer to each of 1<<16 + 10 requests
	for i := range 1<<16 + 10 {
		beyond = append(beyond, uint16(i))
	}
	for _, c := range []struct {
		name    string
		answers []uint16
		sent    int
		want    int
	}{
		{"no answer", nil, 3, 0},
		{"one is missing", []uint16{0, 2}, 3, 2},
		{"two hosts answer", []uint16{0, 0, 1, 1, 2, 2}, 3, 3},
		{"two hosts answer all but one", []uint16{0, 0, 2, 2}, 3, 2},
		{"an answer to a later one", []uint16{0, 1, 2, 3}, 3, 3},
		{"more requests than numbers", beyond, 1<<16 + 10, 1<<16 + 10},
		{"a second answer after the numbers began again", append(beyond[:1<<16+1:1<<16+1], 1<<16-1), 1<<16 + 10, 1<<16 + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Prober{}
			for _, n := range c.answers {
				p.record(n, time.Time{})
			}
			assert.Equal(t, c.want, p.RepliesTo(c.sent))
		})
	}
}

func TestFollowing(t *testing.T) {
	for _, c := range []struct {
		name      string
		last, now int64
		want      int64
	}{
		{"at once", 100, 100, 110},
		{"in time", 100, 103, 110},
		{"late", 100, 109, 110},
		{"one missed", 100, 110, 120},
		{"many missed", 100, 155, 160},
	} {
		t.Run(c.name, func(t *testing.T) { assert.Equal(t, c.want, following(c.last, c.now, 10)) })
	}
}
