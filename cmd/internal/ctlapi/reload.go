// SPDX-License-Identifier: Apache-2.0

package ctlapi

// ReloadPath takes a POST: the daemon reads its configuration again. With
// ?plan=true it only answers what would change.
const ReloadPath = "/v1/reload"

// Reload is the answer to ReloadPath.
type Reload struct {
	// Plan is true if nothing was changed.
	Plan bool `json:"plan"`
	// Changes are what changes, in the order in which it is done.
	Changes []Change `json:"changes"`
	// Findings are notes and warnings about the file, as the daemon prints
	// them at its start.
	Findings []string `json:"findings"`
}

// Change is one thing that a reload does.
type Change struct {
	Instance string `json:"instance,omitempty"` // or what else it is about
	What     string `json:"what"`
	// Wire is what other hosts notice of it; empty: nothing.
	Wire string `json:"wire,omitempty"`
}

// Error is the answer to a request that failed. Nothing has changed then.
type Error struct {
	Error    string   `json:"error"`
	Findings []string `json:"findings,omitempty"`
}
