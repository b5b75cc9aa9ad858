// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Files is how the reader gets at files: the room has no operating system.
type Files interface {
	// ReadFile returns the contents of a regular file.
	ReadFile(name string) ([]byte, error)
	// Glob returns the names that match a pattern of path/filepath.
	Glob(pattern string) ([]string, error)
}

// Environment is what a file may refer to besides other files.
type Environment struct {
	ConfigID string              // of @ID lines; keepalived's -i
	Instance string              // $_INSTANCE
	Getenv   func(string) string // $_ENV NAME
	Random   func() uint32       // $_RANDOM
}

const (
	// maxLine is keepalived's limit on a physical line, in bytes.
	maxLine = 1023
	// maxInclude bounds the depth of files that include each other, maxExpand
	// the replacements in one line, maxText the bytes of all files and of what
	// definitions and ~SEQ make, with perLine for each line: a mistake must not
	// fill the memory or never end. The 65,024 instances of keepalived's manual
	// take half of it.
	maxInclude = 32
	maxExpand  = 200
	maxText    = 1 << 26
	perLine    = 16
	// readCost is what a byte of a file costs: its lines are split and searched.
	readCost = 8
)

// token is a word, `{` or `}`.
type token struct {
	text   string
	pos    Pos
	quoted bool
}

func (t token) is(brace string) bool { return !t.quoted && t.text == brace }

// logical is a logical line: words, or a brace alone.
type logical []token

// lexer turns files into logical lines: comments, conditions, definitions,
// includes and braces are done with behind it.
type lexer struct {
	files Files
	env   Environment
	diags *Diagnostics
	sink  func(logical) // takes a line, which is used again
	depth int

	definitions map[string][]string // by name, the lines of the value
	strict      string              // include_check
	made        int                 // bytes so far; see maxText
	words       logical             // of a line that is done with
}

var (
	errLineLong = fmt.Errorf("line is longer than %d bytes", maxLine)
	errQuote    = errors.New("quotation mark without its pair")
)

var unescape = strings.NewReplacer(`\#`, "#", `\!`, "!")

func (l *lexer) file(name string, at Pos) {
	if l.depth >= maxInclude {
		l.diags.add(Error, at, "files include each other more than %d deep", maxInclude)
		return
	}
	text, err := l.files.ReadFile(name)
	if err != nil {
		l.diags.add(Error, at, "read %s: %v", name, err)
		return
	}
	if !l.spend(readCost, string(text), at) {
		return
	}
	l.depth++
	defer func() { l.depth-- }()
	whole, mark := strings.CutPrefix(string(text), byteOrderMark)
	if mark {
		l.diags.add(Warning, Pos{name, 1, 1}, "the byte order mark is skipped; keepalived takes it for part of the first word")
	}
	if strings.Contains(whole, "\r") && !strings.Contains(whole, "\n") {
		l.diags.add(Error, Pos{File: name, Line: 1}, "lines end in a carriage return alone; they must end in a line feed")
		return
	}
	l.lines(strings.Split(strings.TrimSuffix(whole, "\n"), "\n"), name)
}

const byteOrderMark = "\ufeff"

func (l *lexer) lines(lines []string, file string) {
	for n := 0; n < len(lines) && !l.ended(); n++ {
		pos := Pos{File: file, Line: n + 1}
		raw := strings.TrimSuffix(lines[n], "\r")
		if strings.IndexByte(raw, 0) >= 0 {
			l.diags.add(Warning, pos, "line has a NUL byte and is ignored")
			continue
		}
		text := stripComment(raw)
		if len(text) > maxLine {
			l.diags.add(Error, pos, "%v", errLineLong)
			continue
		}
		if len(raw) > maxLine {
			l.diags.add(Warning, pos, "%v with its comment; keepalived reads what is behind that as another line", errLineLong)
		}
		if strings.Count(text, `"`)%2 != 0 {
			pos.Col = strings.IndexByte(text, '"') + 1
			l.diags.add(Error, pos, "%v", errQuote)
			continue
		}
		if name, value, ok := definition(text); ok {
			values := []string{value}
			for goesOn(lines[n]) && n+1 < len(lines) {
				n++
				values = append(values, strings.TrimSpace(stripComment(lines[n])))
			}
			for i, v := range values {
				values[i] = strings.TrimSuffix(v, `\`)
			}
			l.definitions[name] = values
			continue
		}
		l.line(text, pos, text, 0)
	}
}

// goesOn reports whether a definition goes on behind a line. A comment does not
// hide the backslash.
func goesOn(line string) bool { return strings.HasSuffix(strings.TrimRight(line, " \t\r"), `\`) }

// stripComment cuts at `!` or `#`, which start a comment even inside a word,
// unless they are quoted or behind a backslash.
func stripComment(s string) string {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			quoted = !quoted
		case '!', '#':
			if !quoted && (i == 0 || s[i-1] != '\\') {
				return s[:i]
			}
		}
	}
	return s
}

// definition recognises $NAME=VALUE.
func definition(s string) (name, value string, ok bool) {
	s = strings.TrimSpace(s)
	if !strings.HasPrefix(s, "$") {
		return "", "", false
	}
	end := nameEnd(s[1:]) + 1
	if end == 1 || end >= len(s) || s[end] != '=' {
		return "", "", false
	}
	return s[1:end], strings.TrimSpace(s[end+1:]), true
}

func nameEnd(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}

// line handles a line that may still hold a condition, definitions in use and
// repetitions. original is the physical line, for columns.
func (l *lexer) line(text string, pos Pos, original string, expansions int) {
	made := text
	if expansions == 0 {
		made = "" // booked with its file
	}
	if !l.spend(1, made, pos) {
		return
	}
	if expansions > maxExpand {
		l.spend(maxText, text, pos)
		return
	}
	trimmed := strings.TrimSpace(text)
	if strings.HasPrefix(trimmed, "@") {
		rest, keep := l.condition(trimmed)
		if keep {
			l.line(rest, pos, original, expansions+1)
		}
		return
	}
	if name, value, ok := definition(trimmed); ok {
		l.definitions[name] = []string{value}
		return
	}
	if word, rest := cutWord(trimmed); isInclude(word) {
		if original == text || strings.Contains(original, trimmed) {
			l.include(word, strings.TrimSpace(rest), pos)
			return
		}
	}
	if at := repetition(text); at >= 0 {
		if strings.TrimSpace(text[:at]) != "" {
			l.line(text[:at], pos, original, expansions+1)
		}
		if err := l.repeat(text[at:], pos, original, expansions+1); err != nil {
			pos.Col = strings.IndexByte(original, '~') + 1
			l.diags.add(Error, pos, "%v", err)
		}
		return
	}
	lines, changed := l.expand(text, pos.File)
	if changed {
		for _, s := range lines {
			l.line(s, pos, original, expansions+1)
		}
		return
	}
	l.split(text, pos, original)
}

// ended reports whether it is of no use to read on.
func (l *lexer) ended() bool { return l.made > maxText || l.diags.full() }

// spend books n lines like text and reports whether they may be made. Running out
// is reported once and ends all expansion.
func (l *lexer) spend(n int, text string, pos Pos) bool {
	if l.ended() {
		return false
	}
	if left := maxText - l.made; n > left/(len(text)+perLine) {
		l.made = maxText + 1
		l.diags.add(Error, pos, "the file is too large, with what it includes and what its definitions make")
		return false
	}
	l.made += n * (len(text) + perLine)
	return true
}

// cutWord splits off the first word.
func cutWord(s string) (word, rest string) {
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// condition evaluates @ID and @^ID.
func (l *lexer) condition(s string) (rest string, keep bool) {
	word, rest := cutWord(s)
	id := strings.TrimPrefix(word, "@")
	if not, ok := strings.CutPrefix(id, "^"); ok {
		return rest, not != l.env.ConfigID
	}
	return rest, id == l.env.ConfigID
}

// expand replaces the definitions that a line uses. A value of several lines
// replaces the whole line.
func (l *lexer) expand(s, file string) (lines []string, changed bool) {
	var out strings.Builder
	done := 0
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			continue
		}
		u := useOf(s[i:])
		value, ok := l.value(u, file)
		if !ok {
			continue
		}
		if len(value) > 1 {
			return value, true
		}
		out.WriteString(s[done:i])
		out.WriteString(value[0])
		done = i + u.length
		i = done - 1
	}
	if done == 0 {
		return nil, false
	}
	out.WriteString(s[done:])
	return []string{out.String()}, true
}

// use is $NAME, ${NAME} or, of what is built in, ${NAME words}.
type use struct {
	name   string // empty: it is none
	words  []string
	length int // of the whole
}

func useOf(s string) use {
	if !strings.HasPrefix(s, "${") {
		end := nameEnd(s[1:]) + 1
		if end == len(s) || strings.IndexByte(" \t,)", s[end]) >= 0 {
			return use{name: s[1:end], length: end}
		}
		return use{}
	}
	inside, _, ok := strings.Cut(s[2:], "}")
	name, words := cutWord(inside)
	if !ok || name == "" || nameEnd(name) != len(name) {
		return use{}
	}
	return use{name, strings.Fields(words), len("${}") + len(inside)}
}

func (l *lexer) value(u use, file string) (value []string, ok bool) {
	if v, ok := l.definitions[u.name]; ok {
		return v, true
	}
	if len(u.words) > 0 && u.name != "_ENV" && u.name != "_RANDOM" {
		return nil, false
	}
	switch u.name {
	case "_PWD":
		return []string{filepath.Dir(file)}, true
	case "_INSTANCE":
		return []string{l.env.Instance}, true
	case "_HASH":
		return []string{"#"}, true
	case "_BANG":
		return []string{"!"}, true
	case "_ENV":
		if len(u.words) != 1 || l.env.Getenv == nil {
			return nil, false
		}
		return []string{l.env.Getenv(u.words[0])}, true
	case "_RANDOM":
		return l.random(u.words)
	}
	return nil, false
}

// random takes the smallest number, and the largest, if they are given.
func (l *lexer) random(words []string) ([]string, bool) {
	bounds := []uint64{0, 32767}
	if l.env.Random == nil || len(words) > len(bounds) {
		return nil, false
	}
	for i, w := range words {
		n, err := strconv.ParseUint(w, 10, 30)
		if err != nil {
			return nil, false
		}
		bounds[i] = n
	}
	if bounds[1] < bounds[0] {
		return nil, false
	}
	return []string{fmt.Sprint(bounds[0] + uint64(l.env.Random())%(bounds[1]-bounds[0]+1))}, true
}

// split cuts at unquoted braces, even inside a word, and then into words.
func (l *lexer) split(text string, pos Pos, original string) {
	// Columns are those of the physical line as long as nothing was replaced.
	shift := strings.Index(original, text)
	words := l.words[:0]
	flush := func() {
		if len(words) > 0 {
			l.includeCheck(words)
			l.sink(words)
			words = words[:0]
		}
	}
	for i := 0; i < len(text); {
		at := pos
		if shift >= 0 {
			at.Col = shift + i + 1
		} else {
			at.Col = len(original) - len(strings.TrimLeft(original, " \t")) + 1
		}
		switch c := text[i]; {
		case c == ' ' || c == '\t':
			i++
		case c == '{' || c == '}':
			flush()
			l.sink(append(words, token{text: string(c), pos: at}))
			i++
		case c == '"':
			length := strings.IndexByte(text[i+1:], '"')
			if length < 0 { // a definition of several lines tore it apart
				l.diags.add(Error, at, "%v", errQuote)
				return
			}
			words = append(words, token{text[i+1 : i+1+length], at, true})
			i += length + 2
		default:
			end := i
			for end < len(text) && strings.IndexByte(" \t\"{}", text[end]) < 0 {
				end++
			}
			word := text[i:end]
			if strings.IndexByte(word, '\\') >= 0 { // Replace copies whatever it is given
				word = unescape.Replace(word)
			}
			words = append(words, token{word, at, false})
			i = end
		}
	}
	flush()
	l.words = words
}
