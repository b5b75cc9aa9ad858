// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
)

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

// treeBuilder joins logical lines into blocks as they come. As in keepalived, a
// brace that closes nothing is skipped and the end of the file closes what is
// open, with a warning: nothing is lost by a mistake at the end. It is an error
// if something has come into a block, or out of one, where it does not belong.
type treeBuilder struct {
	diags    *Diagnostics
	top      Node
	open     []openBlock // from the outermost on
	last     *Node       // the keyword of the line before; nil: that was a brace
	unpaired []unpaired
}

// openBlock is a block that is being read. Without a keyword it is skipped.
type openBlock struct {
	*Node
	at Pos // of its brace
}

// unpaired is a brace without its pair.
type unpaired struct {
	pos  Pos
	what string
}

// add takes a logical line, which the caller may use again.
func (b *treeBuilder) add(line logical) {
	at := line[0].pos
	switch {
	case line[0].is("}"):
		b.last = nil
		if len(b.open) == 0 {
			b.unpaired = append(b.unpaired, unpaired{at, "} closes nothing"})
			return
		}
		b.open = b.open[:len(b.open)-1]
	case line[0].is("{"):
		n := b.last
		if n == nil {
			b.diags.add(Error, at, "{ without a keyword before it")
			n = &Node{}
		}
		n.HasBlock, b.last = true, nil
		b.open = append(b.open, openBlock{n, at})
	default:
		n := &Node{Keyword: line[0].text, Pos: at}
		if len(line) > 1 {
			n.Args = make([]Word, len(line)-1)
		}
		for i, t := range line[1:] {
			n.Args[i] = Word{t.text, t.pos}
		}
		block := &b.top
		if len(b.open) > 0 {
			block = b.open[len(b.open)-1].Node
		}
		block.Block, b.last = append(block.Block, n), n
	}
}

// end returns what stands outside of all blocks.
func (b *treeBuilder) end() []*Node {
	for _, n := range b.open {
		if n.Keyword != "" {
			b.unpaired = append(b.unpaired, unpaired{n.at, fmt.Sprintf("{ of %s is never closed", n.Keyword)})
		}
	}
	severity := Warning
	if len(b.unpaired) > 0 && misplaced("", b.top.Block) {
		severity = Error
	}
	for _, u := range b.unpaired {
		b.diags.add(severity, u.pos, "%s", u.what)
	}
	return b.top.Block
}

// misplaced reports whether a keyword stands where it does not belong, in a
// block whose keywords are known, or outside of all (""). In others there is
// none of the top level.
func misplaced(block string, nodes []*Node) bool {
	known := blockKeywords[block]
	return slices.ContainsFunc(nodes, func(n *Node) bool {
		switch {
		case known != nil && !known(n.Keyword):
			return true
		case block != "" && n.HasBlock && blockKeywords[""](n.Keyword):
			return true
		}
		return misplaced(n.Keyword, n.Block)
	})
}
