// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFrameCosts(t *testing.T) {
	const all = `goos: linux
BenchmarkFrame/empty_program-2         	      30	  18836834 ns/op	        25.00 bpf-ns/frame
BenchmarkFrame/not_VRRP-2              	      30	  19505119 ns/op	        26.00 bpf-ns/frame
BenchmarkFrame/steady_advert           	      30	  23675210 ns/op	       176.0 bpf-ns/frame
BenchmarkDecode-2   	68820968	        19.63 ns/op	       0 B/op	       0 allocs/op
`
	costs := frameCosts(all)
	assert.Equal(t, []frameCost{{"empty program", 25}, {"not VRRP", 26}, {"steady advert", 176}}, costs)
	assert.InDelta(t, 1, aboveEmpty(costs, frameOther), 0)
	assert.InDelta(t, 151, aboveEmpty(costs, frameAdvert), 0)

	for name, text := range map[string]string{
		"nothing ran":          "ok  	github.com/xvrrp/xvrrp/loader	0.01s",
		"no empty program":     "BenchmarkFrame/steady_advert-2 30 23675210 ns/op 76.00 bpf-ns/frame",
		"the other is missing": "BenchmarkFrame/empty_program-2 30 23675210 ns/op 25.00 bpf-ns/frame",
	} {
		t.Run(name, func(t *testing.T) {
			assert.True(t, math.IsNaN(aboveEmpty(frameCosts(text), frameAdvert)))
		})
	}
}

// lineOf is the line of a report that begins with a cell.
func lineOf(t *testing.T, text, cell string) string {
	t.Helper()
	lines := strings.Split(text, "\n")
	i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "| "+cell+" |") })
	require.GreaterOrEqual(t, i, 0, "no line %q in %s", cell, text)
	return lines[i]
}

func TestBar(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name            string
		bound, measured float64
		want            string
	}{
		{"within", 2, 2, "| x | ≤ 2.00 ms | 2.00 ms | yes |"},
		{"above", 2, 2.5, "| x | ≤ 2.00 ms | 2.50 ms | **no** |"},
		{"not measured", 2, nan, "| x | ≤ 2.00 ms | not measured | – |"},
		{"without a bound", nan, 2, "| x | no bound: what it is compared with was not measured | 2.00 ms | – |"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			bars{&b}.bar("x", c.bound, c.measured, "ms")
			assert.Equal(t, c.want+"\n", b.String())
		})
	}
}

func TestReportOfNothing(t *testing.T) {
	text := report(&result{When: time.Unix(0, 0)})
	assert.Equal(t, 2, strings.Count(text, "yes"), "nothing failed, and nothing did not settle")
	assert.NotContains(t, text, "NaN")
	assert.Contains(t, lineOf(t, text, "steady advert: above the empty program"), "not measured")
	assert.Contains(t, lineOf(t, text, "250 instances: cuts without all 250 announced"), "not measured")
}

func TestChecks(t *testing.T) {
	const (
		moved    = "19 of 20 instances, reloaded: transitions of both hosts, as they count"
		restless = "rolling change: " + rollRestless
		owners   = "stop: MACs that answer in the last 200 ms, more or less than one, max"
		nobody   = "stop: " + ownerless
		lost     = "fault-stop: frames that a capture lost"
	)
	checks := func(r *result) string {
		var b strings.Builder
		checkBars(r, bars{&b})
		return b.String()
	}
	text := checks(&result{})
	assert.Equal(t, strings.Count(text, "\n"), strings.Count(text, "not measured | –"))

	none, one := 0, 1
	for _, c := range []struct {
		name string
		r    *result
		row  string
		want string
	}{
		{"nobody counted transitions", &result{Reloads: map[string]map[string]reloaded{"xvrrp": {"reloaded": {}}}}, moved, "not measured | –"},
		{"no transition", &result{Reloads: map[string]map[string]reloaded{"xvrrp": {"reloaded": {Transitions: &none}}}}, moved, "yes"},
		{"a transition", &result{Reloads: map[string]map[string]reloaded{"xvrrp": {"reloaded": {Transitions: &one}}}}, moved, "**no**"},
		{"all pairs settled", &result{Rolling: map[string]map[string][]sample{"xvrrp": {rollTwo: {0}}}}, restless, "yes"},
		{"one did not", &result{Rolling: map[string]map[string][]sample{"xvrrp": {rollRestless: {1}}}}, restless, "**no**"},
		{"one owner", stopped(map[string][]sample{lastOwners: {1, 1}}), owners, "yes"},
		{"no owner", stopped(map[string][]sample{lastOwners: {1, 0}}), owners, "**no**"},
		{"two owners", stopped(map[string][]sample{lastOwners: {1, 2}}), owners, "**no**"},
		{"somebody answered", stopped(map[string][]sample{lastOwners: {1}}), nobody, "yes"},
		{"nobody answered", stopped(map[string][]sample{ownerless: {1}}), nobody, "**no**"},
		{"nothing lost", &result{LostFrames: map[string]int{"fault-stop": 0}}, lost, "yes"},
		{"a frame lost", &result{LostFrames: map[string]int{"fault-stop": 1}}, lost, "**no**"},
	} {
		t.Run(c.name, func(t *testing.T) {
			assert.Contains(t, lineOf(t, checks(c.r), c.row), "| "+c.want+" |")
		})
	}
}

func stopped(numbers map[string][]sample) *result {
	return &result{Faults: map[string]map[string]map[string][]sample{"stop": {"xvrrp": numbers}}}
}

func TestOneOwnerAfterAKill(t *testing.T) {
	const owners = "SIGKILL: MACs that answer from the takeover on, more or less than one, max"
	for _, c := range []struct {
		name   string
		owners []sample
		want   string
	}{
		{"not measured", nil, "not measured | –"},
		{"one", []sample{1, 1}, "yes"},
		{"none", []sample{1, 0}, "**no**"},
		{"two", []sample{2, 1}, "**no**"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &result{Faults: map[string]map[string]map[string][]sample{"kill": {"xvrrp": {"MACs that answer after it": c.owners}}}}
			assert.Contains(t, lineOf(t, report(r), owners), "| "+c.want+" |")
		})
	}
}

func TestNoInstanceIsBackTooEarly(t *testing.T) {
	const early = "link: too early, max: 3 ms + noise floor (timer p99)"
	for want, took := range map[string]sample{"yes": -3, "**no**": -4} {
		r := &result{
			Wakeup: []sample{0.5},
			Faults: map[string]map[string]map[string][]sample{"link": {"xvrrp": {"": {1, took}}}},
		}
		assert.Contains(t, lineOf(t, report(r), early), "| "+want+" |")
	}
}

func TestRestIsBoundByARestingPeer(t *testing.T) {
	const what = "1,000 interfaces: processor at rest, master, median: keepalived's"
	for _, c := range []struct {
		name  string
		owned [2]int
		want  string
	}{
		{"at rest", [2]int{1000, 0}, "| ≤ 2.00 % | 1.00 % | yes |"},
		{"fighting", [2]int{1000, 357}, "| no bound: keepalived was not at rest | 1.00 % | – |"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &result{Scale: map[string]map[string]*grown{shape{1000, 1}.String(): {
				"xvrrp":      {Owned: [2]int{1000, 0}, RestMaster: []sample{1}, RestBackup: []sample{1}},
				"keepalived": {Owned: c.owned, RestMaster: []sample{2}, RestBackup: []sample{2}},
			}}}
			assert.Contains(t, lineOf(t, report(r), what), c.want)
		})
	}
}

func TestNoWorseThanBefore(t *testing.T) {
	const stop, cut = "stop: SIGSTOP to the last answer of the hung host", "cut: client dark"
	fault := func(x, before sample) map[string]map[string][]sample {
		return map[string]map[string][]sample{"xvrrp": {"": {x, x}}, "before": {"": {before, before}}}
	}
	r := &result{
		Wakeup: []sample{0.1},
		Faults: map[string]map[string]map[string][]sample{"stop": fault(1030, 998), "cut": fault(4.2, 4)},
		Load: map[string]*loads{
			"xvrrp":  {Master: []sample{30}, MasterMiB: []sample{20, 30}},
			"before": {Master: []sample{30}, MasterMiB: []sample{20, 20}},
		},
	}
	text := report(r)
	assert.Equal(t, 2, strings.Count(lineOf(t, text, stop), "**no**"), "what the lease takes gives no slack")
	assert.Equal(t, 2, strings.Count(lineOf(t, text, cut), "yes"))
	memory := lineOf(t, text, "250 instances: memory of the master's process")
	assert.Contains(t, memory, "yes | 20.00 MiB", "the median")
	assert.Contains(t, memory, "30.00 MiB | **no**", "the largest")

	delete(r.Faults["cut"], "xvrrp")
	assert.Equal(t, 2, strings.Count(lineOf(t, report(r), cut), "not measured | –"))
	r.Faults, r.Load = nil, nil
	assert.NotContains(t, report(r), "no worse than the revision before", "there was none")
}

func TestSize(t *testing.T) {
	for want, sh := range map[string]shape{
		"1 interface, 1 instance":         {1, 1},
		"1 interface, 250 instances":      {1, 250},
		"200 interfaces, 1 instance each": {200, 1},
	} {
		assert.Equal(t, want, size(sh))
	}
}
