// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"slices"
	"sync"

	"github.com/xvrrp/xvrrp/control/plan"
)

// record holds the addresses that this daemon has added, or may have: what the
// mark says where the kernel keeps it. The worker writes it; unless keep was
// called before, it stays empty.
type record struct {
	// of is true for an address that is there, and false for one that is gone
	// and that facts may still show. nil: not kept.
	of map[identity]bool

	mu     sync.Mutex
	facts  *plan.Facts // that were marked last, until the record changes
	marked *plan.Facts
}

func (r *record) keep() { r.of = map[identity]bool{} }

// note adds an address, and reports whether it was not there.
func (r *record) note(a Address) (added bool) {
	r.change(func() {
		added = !r.of[a.identity()]
		r.of[a.identity()] = true
	})
	return added
}

// gone is for an address that was removed.
func (r *record) gone(a Address) {
	r.change(func() {
		if _, ok := r.of[a.identity()]; ok {
			r.of[a.identity()] = false
		}
	})
}

// forget is for an address that was not added after all.
func (r *record) forget(a Address) {
	r.change(func() { delete(r.of, a.identity()) })
}

func (r *record) change(f func()) {
	if r.of == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.facts, r.marked = nil, nil
}

// mark returns the facts, which are the newest, with the mark on what the
// record has.
func (r *record) mark(f *plan.Facts) *plan.Facts {
	if r.of == nil {
		return f
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.facts == f {
		return r.marked
	}
	shown := map[identity]bool{}
	links := slices.Clone(f.Links)
	for i := range links {
		l := &links[i]
		l.Addrs = slices.Clone(l.Addrs)
		for j := range l.Addrs {
			a := &l.Addrs[j]
			id := Address{Ifindex: l.Index, Prefix: a.Prefix, Peer: a.Peer}.identity()
			if _, ok := r.of[id]; ok {
				shown[id], a.Ours = true, true
			}
		}
	}
	for id, there := range r.of {
		if !there && !shown[id] {
			delete(r.of, id)
		}
	}
	r.facts, r.marked = f, plan.NewFacts(links)
	return r.marked
}
