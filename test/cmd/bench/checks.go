// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"slices"
)

// checkBars are the bars on what a figure is worth nothing without: that what
// was to change did, that there was an owner, that nothing was lost on the way
// to whoever measures.
func checkBars(r *result, bar func(what string, bound, measured float64, unit string)) {
	for _, how := range slices.Sorted(maps.Keys(r.Reloads["xvrrp"])) {
		x := r.Reloads["xvrrp"][how]
		if x.Transitions != nil {
			bar("19 of 20 instances, "+how+": transitions of both hosts, as they count", 0, float64(*x.Transitions), "")
		}
		bar("19 of 20 instances, "+how+": busy loops that ended before the end", 0, float64(x.Idle), "")
	}
	if x := r.Rolling["xvrrp"]; x != nil {
		bar("rolling change: "+rollRestless, 0, float64(len(x[rollRestless])), "")
		for _, name := range []string{rollTaken, rollUnsettled, rollRefused} {
			if s := summarize(x[name]); s.n > 0 { // an older run lacks some
				bar("rolling change: "+name+", max", 0, s.max, "")
			}
		}
	}
	for _, f := range []string{"stop", freeze.name} {
		numbers := r.Faults[f]["xvrrp"]
		if s := summarize(numbers[lastOwners]); s.n > 0 {
			bar(f+": MACs that answer in the last 200 ms, more or less than one, max", 0, max(s.max-1, 1-s.min), "")
		}
		if len(numbers) > 0 {
			bar(f+": "+ownerless, 0, float64(len(numbers[ownerless])), "")
		}
	}
	for _, part := range slices.Sorted(maps.Keys(r.LostFrames)) {
		bar(part+": frames that a capture lost", 0, float64(r.LostFrames[part]), "")
	}
}
