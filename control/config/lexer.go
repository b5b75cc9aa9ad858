// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"path/filepath"
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
	// fill the memory or never end.
	maxInclude = 32
	maxExpand  = 200
	maxText    = 1 << 23
	perLine    = 16
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
	out   []logical
	depth int

	definitions map[string][]string // by name, the lines of the value
	strict      string              // include_check
	made        int                 // bytes so far; see maxText
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
	if !l.spend(1, string(text), at) {
		return
	}
	l.depth++
	defer func() { l.depth-- }()
	l.lines(strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), name)
}

func (l *lexer) lines(lines []string, file string) {
	for n := 0; n < len(lines) && !l.ended(); n++ {
		pos := Pos{File: file, Line: n + 1}
		raw := strings.TrimSuffix(lines[n], "\r")
		if strings.IndexByte(raw, 0) >= 0 {
			l.diags.add(Warning, pos, "line has a NUL byte and is ignored")
			continue
		}
		if len(raw) > maxLine {
			l.diags.add(Error, pos, "%v", errLineLong)
			continue
		}
		text := stripComment(raw)
		if strings.Count(text, `"`)%2 != 0 {
			pos.Col = strings.IndexByte(text, '"') + 1
			l.diags.add(Error, pos, "%v", errQuote)
			continue
		}
		if name, value, ok := definition(text); ok {
			values := []string{value}
			for strings.HasSuffix(values[len(values)-1], `\`) && n+1 < len(lines) {
				last := len(values) - 1
				values[last] = strings.TrimSuffix(values[last], `\`)
				n++
				values = append(values, strings.TrimSpace(stripComment(strings.TrimSuffix(lines[n], "\r"))))
			}
			l.definitions[name] = values
			continue
		}
		l.line(text, pos, text, 0)
	}
}

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
	if strings.HasPrefix(trimmed, "~") {
		lines, err := l.repeat(trimmed, pos)
		if err != nil {
			pos.Col = strings.IndexByte(original, '~') + 1
			l.diags.add(Error, pos, "%v", err)
			return
		}
		for _, s := range lines {
			l.line(s, pos, original, expansions+1)
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

// expand replaces the first use of a definition. A value of several lines
// replaces the whole line.
func (l *lexer) expand(s, file string) (lines []string, changed bool) {
	for i := 0; i < len(s); i++ {
		if s[i] != '$' {
			continue
		}
		name, end := useOf(s[i:])
		if name == "" {
			continue
		}
		value, length, ok := l.value(name, s[i+end:], file)
		if !ok {
			continue
		}
		end += length
		if len(value) > 1 {
			return value, true
		}
		return []string{s[:i] + value[0] + s[i+end:]}, true
	}
	return nil, false
}

// useOf returns the name in $NAME or ${NAME} and the length of the whole.
func useOf(s string) (string, int) {
	if strings.HasPrefix(s, "${") {
		end := nameEnd(s[2:]) + 2
		if end < len(s) && s[end] == '}' {
			return s[2:end], end + 1
		}
		return "", 0
	}
	end := nameEnd(s[1:]) + 1
	if end == len(s) || strings.IndexByte(" \t,)", s[end]) >= 0 {
		return s[1:end], end
	}
	return "", 0
}

// value resolves a name; the built-in ones may take words from behind it and
// return the length of those.
func (l *lexer) value(name, behind, file string) (value []string, length int, ok bool) {
	if v, ok := l.definitions[name]; ok {
		return v, 0, true
	}
	switch name {
	case "_PWD":
		return []string{filepath.Dir(file)}, 0, true
	case "_INSTANCE":
		return []string{l.env.Instance}, 0, true
	case "_HASH":
		return []string{"#"}, 0, true
	case "_BANG":
		return []string{"!"}, 0, true
	case "_ENV":
		word, n := nextWord(behind)
		if word == "" || l.env.Getenv == nil {
			return nil, 0, false
		}
		return []string{l.env.Getenv(word)}, n, true
	case "_RANDOM":
		return l.random(behind)
	}
	return nil, 0, false
}

func (l *lexer) random(behind string) ([]string, int, bool) {
	if l.env.Random == nil {
		return nil, 0, false
	}
	low, high, length := uint64(0), uint64(32767), 0
	if n, end, ok := nextNumber(behind); ok {
		low, length = n, end
		if n, end, ok := nextNumber(behind[length:]); ok {
			high = n
			length += end
		}
	}
	if high < low {
		return nil, 0, false
	}
	return []string{fmt.Sprint(low + uint64(l.env.Random())%(high-low+1))}, length, true
}

func nextWord(s string) (string, int) {
	start := len(s) - len(strings.TrimLeft(s, " \t"))
	word := s[start:]
	if i := strings.IndexAny(word, " \t"); i >= 0 {
		word = word[:i]
	}
	return word, start + len(word)
}

func nextNumber(s string) (uint64, int, bool) {
	word, end := nextWord(s)
	var n uint64
	if word == "" || len(word) > 9 {
		return 0, 0, false
	}
	for _, c := range word {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, end, true
}

// split cuts at unquoted braces, even inside a word, and then into words.
func (l *lexer) split(text string, pos Pos, original string) {
	// Columns are those of the physical line as long as nothing was replaced.
	shift := strings.Index(original, text)
	var words logical
	flush := func() {
		if len(words) > 0 {
			l.includeCheck(words)
			l.out = append(l.out, words)
			words = nil
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
			l.out = append(l.out, logical{{text: string(c), pos: at}})
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
			words = append(words, token{unescape.Replace(text[i:end]), at, false})
			i = end
		}
	}
	flush()
}
