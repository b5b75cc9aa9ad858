// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/xvrrp/xvrrp/test/lab"
)

// at is a moment of these tests, in milliseconds.
func at(ms int) time.Time { return time.Unix(100, 0).Add(time.Duration(ms) * time.Millisecond) }

func TestAgainOf(t *testing.T) {
	for _, c := range []struct {
		name string
		told []piece
		want sample // negative: the trial is void
	}{
		{"nothing heard", nil, -1},
		{"deletion not heard", []piece{{at(20), vip, true}}, -1},
		{"an earlier deletion", []piece{{at(-10), vip, false}, {at(20), vip, true}}, -1},
		{"of something else", []piece{{at(1), newsTable, false}, {at(20), vip, true}}, -1},
		{"never back", []piece{{at(1), vip, false}}, ms(hostWatched)},
		{"back before it went", []piece{{at(1), vip, true}, {at(2), vip, false}}, ms(hostWatched)},
		{"back", []piece{{at(1), vip, false}, {at(20), vip, true}}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := againOf(c.told, vip, at(0))
			assert.Equal(t, c.want < 0, err != nil)
			assert.Equal(t, max(c.want, 0), got)
		})
	}
}

func TestAdvertsAgainOf(t *testing.T) {
	both := []piece{{at(5), newsLink, true}, {at(9), masterAddr, true}}
	mdi := int(ownMasterDown.Milliseconds())
	early := ms(ownMasterDown.Truncate(time.Millisecond) - ownMasterDown)
	for _, c := range []struct {
		name    string
		told    []piece
		adverts []int
		want    sample
		void    bool
	}{
		{"no news", nil, []int{100}, 0, true},
		{"half of the news", both[:1], []int{100}, 0, true},
		{"news from before", []piece{{at(-5), newsLink, true}, {at(9), masterAddr, true}}, []int{100}, 0, true},
		{"never silent", both, []int{-20, -10, 0, 10, 20}, 0, true},
		{"silent too late", both, []int{-300, -149}, 0, true},
		{"advert before the news", both, []int{-300, 7, 100}, 0, true},
		{"advert with the news", both, []int{-300, 9, 100}, 0, true},
		{"silent in time", both, []int{-300, -151, 9 + mdi, 9 + mdi + 10}, early, false},
		{"later", both, []int{9 + mdi + 40}, early + 40, false},
		{"never again", both, []int{-300}, ms(hostWatched), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var adverts []lab.Frame
			for _, ms := range c.adverts {
				adverts = append(adverts, lab.Frame{Time: at(ms)})
			}
			got, err := advertsAgainOf(c.told, adverts, at(0), newsLink, masterAddr)
			assert.Equal(t, c.void, err != nil)
			assert.InDelta(t, c.want, got, 1e-9)
		})
	}
}
