// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kinds of failure that a strict include turns into an error.
const (
	strictRead     = "r" // a match cannot be read
	strictMatch    = "m" // a name without wildcards matches nothing
	strictWildcard = "w" // a pattern matches nothing
	strictBrace    = "b" // an alternative of {a,b} matches nothing
)

var includeKinds = map[string]string{
	"include":  "",
	"includer": strictRead,
	"includem": strictRead + strictMatch,
	"includew": strictRead + strictMatch + strictWildcard,
	"includeb": strictRead + strictBrace,
	"includea": strictRead + strictMatch + strictWildcard + strictBrace,
}

func isInclude(word string) bool {
	_, ok := includeKinds[word]
	return ok
}

// include reads the files that match a pattern, relative to the file that
// includes them.
func (l *lexer) include(word, pattern string, pos Pos) {
	pos.Col = 1
	kinds := includeKinds[word]
	if word == "include" {
		kinds = l.strict
	}
	if pattern == "" {
		l.diags.add(Missing, pos, "%s needs a file name", word)
		return
	}
	pattern = strings.Trim(pattern, `"`)
	if !l.spend(combinations(pattern), pattern, pos) {
		return
	}
	alternatives := braces(pattern)
	matched := 0
	for _, p := range alternatives {
		if !filepath.IsAbs(p) {
			p = filepath.Join(filepath.Dir(pos.File), p)
		}
		names, err := l.files.Glob(p)
		if err != nil {
			l.diags.add(Error, pos, "%s %s: %v", word, p, err)
			return
		}
		if len(names) == 0 && len(alternatives) > 1 && strings.Contains(kinds, strictBrace) {
			l.diags.add(Error, pos, "%s: nothing matches %s", word, p)
		}
		for _, name := range names {
			matched++
			l.includeFile(name, kinds, pos)
		}
	}
	if matched > 0 {
		return
	}
	kind := strictMatch
	if strings.ContainsAny(pattern, "*?[") {
		kind = strictWildcard
	}
	severity := Warning
	if strings.Contains(kinds, kind) {
		severity = Error
	}
	l.diags.add(severity, pos, "%s: nothing matches %s", word, pattern)
}

func (l *lexer) includeFile(name, kinds string, pos Pos) {
	before := len(*l.diags)
	strict := l.strict
	l.file(name, pos)
	l.strict = strict // include_check lasts until the end of its file
	// A lenient include does without a file that cannot be read.
	if len(*l.diags) == before+1 && (*l.diags)[before].Pos == pos && !strings.Contains(kinds, strictRead) {
		(*l.diags)[before].Severity = Warning
	}
}

// includeCheck takes the option words that make a plain include strict.
func (l *lexer) includeCheck(line logical) {
	if line[0].text != "include_check" {
		return
	}
	kinds := map[string]string{
		"read": strictRead, "readable": strictRead, "match": strictMatch,
		"wildcard_match": strictWildcard, "brace_match": strictBrace,
	}
	l.strict = ""
	for _, w := range line[1:] {
		l.strict += kinds[w.text]
	}
}

// combinations is an upper bound of what braces returns, before it does.
func combinations(s string) int {
	n := 1
	for _, group := range strings.Split(s, "{")[1:] {
		n = min(n*(strings.Count(group, ",")+1), maxText)
	}
	return n
}

// braces expands {a,b} as csh does; alternatives may nest.
func braces(s string) []string {
	open := strings.IndexByte(s, '{')
	if open < 0 {
		return []string{s}
	}
	depth, start := 0, open+1
	var parts []string
	for i := open; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case ',':
			if depth == 1 {
				parts = append(parts, s[start:i])
				start = i + 1
			}
		case '}':
			depth--
			if depth > 0 {
				continue
			}
			parts = append(parts, s[start:i])
			var out []string
			for _, p := range parts {
				out = append(out, braces(s[:open]+p+s[i+1:])...)
			}
			return out
		}
	}
	return []string{s}
}

// repetition returns where ~SEQ, ~SEQx or ~LST begins, at the start of a line or
// behind a brace; -1: nowhere.
func repetition(s string) int {
	begins := true
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ', '\t':
		case '~':
			if begins {
				return i
			}
		case '"':
			length := strings.IndexByte(s[i+1:], '"')
			if length < 0 {
				return -1
			}
			i += length + 1
			begins = false
		case '$':
			i += max(1, useOf(s[i:]).length) - 1
			begins = false
		default:
			begins = s[i] == '{' || s[i] == '}'
		}
	}
	return -1
}

// repeat reads what is behind ~SEQ(var, start, step, end), ~SEQx or ~LST(var,
// values) once for each value, up to a brace. The variable is a definition
// meanwhile, so that it is known in what others stand for, too.
func (l *lexer) repeat(s string, pos Pos, original string, expansions int) error {
	word, rest, ok := strings.Cut(s, "(")
	args, body, closed := cutParenthesis(rest)
	if !ok || !closed {
		return fmt.Errorf("%s needs its arguments in parentheses", word)
	}
	for range maxExpand {
		lines, changed := l.expand(args, pos.File)
		if !changed || len(lines) > 1 {
			break
		}
		args = lines[0]
	}
	r, err := repetitionOf(word, args)
	if err != nil {
		return err
	}
	end := braceIn(body)
	if !l.spend(r.count, body[:end], pos) {
		return nil
	}
	was := map[string][]string{}
	for _, name := range r.names {
		was[name] = l.definitions[name]
	}
	for values := range r.values {
		for i, name := range r.names {
			l.definitions[name] = values[i : i+1]
		}
		l.line(body[:end], pos, original, expansions)
	}
	for name, value := range was {
		l.definitions[name] = value
		if value == nil {
			delete(l.definitions, name)
		}
	}
	if end < len(body) {
		l.line(body[end:], pos, original, expansions)
	}
	return nil
}

// braceIn returns where the first brace is that ends a logical line.
func braceIn(s string) int {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted:
		case s[i] == '$':
			i += max(1, useOf(s[i:]).length) - 1
		case s[i] == '~': // what is inside its parentheses is its own
			if _, rest, ok := strings.Cut(s[i:], "("); ok {
				if _, behind, closed := cutParenthesis(rest); closed {
					i = len(s) - len(behind) - 1
				}
			}
		case s[i] == '{' || s[i] == '}':
			return i
		}
	}
	return len(s)
}

// repeated is what a repetition goes through: values for names.
type repeated struct {
	names  []string
	count  int
	values iter.Seq[[]string]
}

func repetitionOf(word, args string) (repeated, error) {
	switch word {
	case "~SEQ":
		return sequence(args, 10)
	case "~SEQx":
		return sequence(args, 16)
	case "~LST":
		return list(args)
	}
	return repeated{}, fmt.Errorf("unknown repetition %s%s", word, suggest(word, slices.Values([]string{"~SEQ", "~SEQx", "~LST"})))
}

func cutParenthesis(s string) (args, rest string, ok bool) {
	depth := 1
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
			if depth == 0 {
				return s[:i], strings.TrimSpace(s[i+1:]), true
			}
		}
	}
	return "", "", false
}

func sequence(args string, base int) (repeated, error) {
	words := strings.Split(args, ",")
	if len(words) < 2 || len(words) > 4 {
		return repeated{}, fmt.Errorf("~SEQ takes a name and one to three numbers")
	}
	var numbers []int64
	for _, w := range words[1:] {
		n, err := strconv.ParseInt(strings.TrimSpace(w), 0, 62) // no sum of two overflows
		if err != nil {
			return repeated{}, fmt.Errorf("~SEQ: %q is not a number", strings.TrimSpace(w))
		}
		numbers = append(numbers, n)
	}
	start, step, end := int64(1), int64(1), numbers[len(numbers)-1]
	if len(numbers) > 1 {
		start = numbers[0]
	}
	switch {
	case len(numbers) == 3:
		step = numbers[1]
	case start > end:
		step = -1
	}
	if step == 0 || (end-start)/step < 0 || (end-start)/step > maxText {
		return repeated{}, fmt.Errorf("~SEQ from %d to %d by %d does not end", start, end, step)
	}
	values := func(yield func([]string) bool) {
		for n := start; (step > 0 && n <= end) || (step < 0 && n >= end); n += step {
			if !yield([]string{strconv.FormatInt(n, base)}) {
				return
			}
		}
	}
	return repeated{[]string{strings.TrimSpace(words[0])}, int((end-start)/step) + 1, values}, nil
}

func list(args string) (repeated, error) {
	words := topLevel(args)
	if len(words) < 2 {
		return repeated{}, fmt.Errorf("~LST takes a name and values")
	}
	names := tuple(words[0])
	var values [][]string
	for _, w := range words[1:] {
		v := tuple(w)
		if len(v) != len(names) {
			return repeated{}, fmt.Errorf("~LST: %s has %d values for %d names", w, len(v), len(names))
		}
		values = append(values, v)
	}
	return repeated{names, len(values), slices.Values(values)}, nil
}

// topLevel splits at commas outside braces.
func topLevel(s string) []string {
	var out []string
	depth, start := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '{':
			depth++
		case '}':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, strings.TrimSpace(s[start:i]))
				start = i + 1
			}
		}
	}
	return append(out, strings.TrimSpace(s[start:]))
}

func tuple(s string) []string {
	inner, ok := strings.CutPrefix(s, "{")
	if !ok {
		return []string{s}
	}
	parts := strings.Split(strings.TrimSuffix(inner, "}"), ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
