// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Pos is a place in a configuration file. Line and column count from 1, the
// column in bytes; 0 means unknown.
type Pos struct {
	File string
	Line int
	Col  int
}

func (p Pos) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// Severity says what a Diagnostic means for the daemon.
type Severity uint8

const (
	// Note: a keyword of keepalived that has no effect here yet.
	Note Severity = iota
	// Warning: the line, or the part named, is ignored; the daemon runs.
	Warning
	// Missing: an argument that a keyword needs is not there; the daemon does
	// not run.
	Missing
	// Error: the daemon does not run with this file.
	Error
)

func (s Severity) String() string {
	return [...]string{"note", "warning", "error", "error"}[s]
}

// Diagnostic is one thing to say about a configuration file.
type Diagnostic struct {
	Pos      Pos
	Severity Severity
	Message  string
}

func (d Diagnostic) String() string {
	if d.Pos == (Pos{}) {
		return fmt.Sprintf("%s: %s", d.Severity, d.Message)
	}
	return fmt.Sprintf("%s: %s: %s", d.Pos, d.Severity, d.Message)
}

// Diagnostics is everything there is to say, in the order of the files.
type Diagnostics []Diagnostic

// Fatal reports whether the daemon must not run with the file.
func (ds Diagnostics) Fatal() bool { return ds.Worst() >= Missing }

// Worst returns the highest severity.
func (ds Diagnostics) Worst() Severity {
	worst := Note
	for _, d := range ds {
		worst = max(worst, d.Severity)
	}
	return worst
}

// maxDiagnostics keeps a file that is wrong everywhere from filling the log.
const maxDiagnostics = 1000

func (ds *Diagnostics) add(s Severity, at Pos, format string, args ...any) {
	switch {
	case ds.full():
		return
	case len(*ds) == maxDiagnostics:
		s, format, args = Error, "there is more; only the first %d are shown", []any{maxDiagnostics}
	}
	*ds = append(*ds, Diagnostic{at, s, fmt.Sprintf(format, args...)})
}

// full reports whether nothing more is taken, so that there is no need to look
// for more.
func (ds *Diagnostics) full() bool { return len(*ds) > maxDiagnostics }

func (ds Diagnostics) sort() {
	slices.SortStableFunc(ds, func(a, b Diagnostic) int {
		return cmp.Or(strings.Compare(a.Pos.File, b.Pos.File), a.Pos.Line-b.Pos.Line, a.Pos.Col-b.Pos.Col)
	})
}

// suggestion is the end of a sentence about an unknown word. It is looked for
// when the sentence is made: of many sentences few are.
type suggestion struct {
	word       string
	candidates []iter.Seq[string]
}

func suggest(word string, candidates ...iter.Seq[string]) suggestion {
	return suggestion{word, candidates}
}

// String returns the candidate nearest to the word, or nothing if none is near.
func (s suggestion) String() string {
	best, bestDistance := "", max(2, len(s.word)/4)+1
	for _, candidates := range s.candidates {
		for c := range candidates {
			// The distance is no less than the difference of the lengths, and
			// a word may be very long.
			if max(len(s.word)-len(c), len(c)-len(s.word)) > bestDistance {
				continue
			}
			if d := distance(s.word, c); d < bestDistance || d == bestDistance && c < best {
				best, bestDistance = c, d
			}
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is the edit distance of two words (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := previous
			if a[i] != b[j] {
				change++
			}
			previous = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
