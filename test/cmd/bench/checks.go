// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// checkBars are the bars on what a figure is worth nothing without: that what
// was to change did, that there was an owner, that nothing was lost on the way
// to whoever measures.
func checkBars(r *result, t bars) {
	for _, how := range []string{"left alone", "reloaded"} {
		transitions, idle := math.NaN(), math.NaN()
		if x, ok := r.Reloads["xvrrp"][how]; ok {
			idle = float64(x.Idle)
			if x.Transitions != nil {
				transitions = float64(*x.Transitions)
			}
		}
		t.bar("19 of 20 instances, "+how+": transitions of both hosts, as they count", 0, transitions, "")
		t.bar("19 of 20 instances, "+how+": busy loops that ended before the end", 0, idle, "")
	}
	// trials counts those in which something was noted, if there were any.
	trials := func(numbers map[string][]sample, name string) float64 {
		if len(numbers) == 0 {
			return math.NaN()
		}
		return float64(len(numbers[name]))
	}
	rolling := r.Rolling["xvrrp"]
	t.bar("rolling change: "+rollRestless, 0, trials(rolling, rollRestless), "")
	for _, name := range []string{rollTaken, rollUnsettled, rollRefused} {
		t.bar("rolling change: "+name+", max", 0, summarize(rolling[name]).max, "")
	}
	for _, f := range []string{"stop", freeze.name} {
		numbers := r.Faults[f]["xvrrp"]
		s := summarize(numbers[lastOwners])
		t.bar(f+": MACs that answer in the last 200 ms, more or less than one, max", 0, max(s.max-1, 1-s.min), "")
		t.bar(f+": "+ownerless, 0, trials(numbers, ownerless), "")
	}
	captured := []string{"cut", "mass", "reload", "rolling"}
	for _, f := range slices.Concat(faults, hostChanges) {
		captured = append(captured, f.part())
	}
	for _, part := range append(captured, freeze.part(), "floods") {
		lost := math.NaN()
		if n, ok := r.LostFrames[part]; ok {
			lost = float64(n)
		}
		t.bar(part+": frames that a capture lost", 0, lost, "")
	}
}
