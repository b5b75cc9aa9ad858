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

func TestAllNews(t *testing.T) {
	link := func(ms int, there bool) piece { return piece{at(ms), newsLink, there} }
	addr := func(ms int, there bool) piece { return piece{at(ms), masterAddr, there} }
	for _, c := range []struct {
		name string
		told []piece
		want int // 0: not all
	}{
		{"nothing", nil, 0},
		{"one of two", []piece{link(20, true)}, 0},
		{"both, the link last", []piece{addr(15, true), link(20, true)}, 20},
		{"both, the address last", []piece{link(20, true), addr(25, true)}, 25},
		{"one before the moment", []piece{addr(5, true), link(20, true)}, 0},
		{"one is gone", []piece{addr(15, false), link(20, true)}, 0},
		{"the first of each counts", []piece{addr(15, true), link(20, true), link(30, true), addr(40, true)}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			last, err := allOf(c.told, at(10), newsLink, masterAddr)
			assert.Equal(t, c.want != 0, err == nil)
			if err == nil {
				assert.Equal(t, at(c.want), last)
			}
		})
	}
}

func TestOutOfFault(t *testing.T) {
	change := func(ms int, from, to string) event { return event{at(ms), "transition", from, to} }
	for _, c := range []struct {
		name   string
		events []event
		want   int // 0: never
	}{
		{"no event", nil, 0},
		{"still in it", []event{change(5, "MASTER", "FAULT")}, 0},
		{"before the moment", []event{change(5, "FAULT", "BACKUP")}, 0},
		{"back, and master", []event{change(5, "MASTER", "FAULT"), change(20, "FAULT", "BACKUP"), change(50, "BACKUP", "MASTER")}, 20},
		{"back twice", []event{change(20, "FAULT", "BACKUP"), change(21, "BACKUP", "FAULT"), change(25, "FAULT", "BACKUP")}, 25},
		{"no transition", []event{{at(20), "alarm", "FAULT", "BACKUP"}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, ok := outOfFault(c.events, at(10))
			assert.Equal(t, c.want != 0, ok)
			if ok {
				assert.Equal(t, at(c.want), got)
			}
		})
	}
}

func TestHostBars(t *testing.T) {
	const vipRow, linkRow, backRow = "vip: address deleted to there again, ms, max",
		"link: link up again to the first advert, above Master_Down_Interval, ms, max", "link: " + hostBackup + ", max"
	of := func(change, number string, v ...sample) *result {
		return &result{Faults: map[string]map[string]map[string][]sample{change: {"xvrrp": {number: v}}}}
	}
	for _, c := range []struct {
		name, row string
		r         *result
		want      string
	}{
		{"mended", vipRow, of("vip", "", 0.5, 50), "yes"},
		{"mended late once", vipRow, of("vip", "", 0.5, 50.5), "**no**"},
		{"never mended", vipRow, of("vip", "", 0.5, ms(hostWatched)), "**no**"},
		{"not measured", vipRow, &result{}, "–"},
		{"back", linkRow, of("link", "", 99), "yes"},
		{"back late", linkRow, of("link", "", 101), "**no**"},
		{"out of FAULT", backRow, of("link", hostBackup, -0.1, 99), "yes"},
		{"out of FAULT late", backRow, of("link", hostBackup, 1, 101), "**no**"},
		{"advert alone", backRow, of("link", "", 1), "–"},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Contains(t, lineOf(t, report(c.r), c.row), "| "+c.want+" |")
		})
	}
}

func TestHostChangesAreComparedWithTheRevisionBefore(t *testing.T) {
	r := &result{Wakeup: []sample{0.1}, Faults: map[string]map[string]map[string][]sample{
		"source": {"xvrrp": {"": {40, 40}, hostBackup: {40, 40}}, "before": {"": {20, 20}, hostBackup: {40, 40}}},
	}}
	text := report(r)
	assert.Contains(t, lineOf(t, text, "source: source address there again to the first advert, above Master_Down_Interval"), "**no**")
	assert.Contains(t, lineOf(t, text, "source: the same news to the state BACKUP"), "yes")
}
