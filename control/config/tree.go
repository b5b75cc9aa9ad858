// SPDX-License-Identifier: Apache-2.0

package config

// Word is an argument of a keyword.
type Word struct {
	Text string
	Pos  Pos
}

// Node is a keyword with its arguments and, if one follows, its block. In
// blocks that list values (addresses, interfaces) the value stands where the
// keyword would.
type Node struct {
	Keyword string
	Pos     Pos
	Args    []Word
	// Block holds what stands between the braces; HasBlock tells an empty
	// block from none.
	Block    []*Node
	HasBlock bool
}

// parseTree joins logical lines into blocks. Braces that do not pair are
// errors; what can be made sense of is kept.
func parseTree(lines []logical, diags *Diagnostics) []*Node {
	p := &treeParser{lines: lines, diags: diags}
	for {
		nodes, closed := p.block()
		p.top = append(p.top, nodes...)
		if !closed {
			return p.top
		}
		diags.add(Error, p.last, "} closes nothing")
	}
}

type treeParser struct {
	lines []logical
	at    int
	last  Pos // of the brace that ended the last block
	top   []*Node
	diags *Diagnostics
}

// block reads until the brace that closes it, or to the end.
func (p *treeParser) block() (nodes []*Node, closed bool) {
	for p.at < len(p.lines) {
		line := p.lines[p.at]
		p.at++
		switch {
		case line[0].is("}"):
			p.last = line[0].pos
			return nodes, true
		case line[0].is("{"):
			p.diags.add(Error, line[0].pos, "{ without a keyword before it")
			_, _ = p.block()
			continue
		}
		n := &Node{Keyword: line[0].text, Pos: line[0].pos}
		for _, t := range line[1:] {
			n.Args = append(n.Args, Word{t.text, t.pos})
		}
		if p.at < len(p.lines) && p.lines[p.at][0].is("{") {
			open := p.lines[p.at][0].pos
			p.at++
			var ok bool
			n.HasBlock = true
			n.Block, ok = p.block()
			if !ok {
				p.diags.add(Error, open, "{ of %s is never closed", n.Keyword)
			}
		}
		nodes = append(nodes, n)
	}
	return nodes, false
}
