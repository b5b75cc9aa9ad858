// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/plan"
)

// oldBench is a bench on a kernel that does not keep the mark.
func oldBench(t *testing.T) *bench {
	b := newBench(t)
	b.added.keep()
	return b
}

// facts are what a Watcher sees of interface 1, without marks.
func (b *bench) facts() *plan.Facts {
	l := plan.Link{Index: 1}
	for _, f := range b.kernel.have {
		l.Addrs = append(l.Addrs, plan.Addr{Prefix: f.Prefix, Peer: f.Peer})
	}
	return plan.NewFacts([]plan.Link{l})
}

// ours returns what is marked as ours in facts.
func (b *bench) ours(f *plan.Facts) (out []string) {
	for _, a := range b.Marked(f).Links[0].Addrs {
		if a.Ours {
			out = append(out, a.Prefix.String())
		}
	}
	return out
}

// On a kernel that does not keep the mark, the Host knows what it has added.
func TestMarked(t *testing.T) {
	a, second := on(1, "10.5.0.51/24"), on(1, "10.5.0.52/24")
	both := []string{"10.5.0.51/24", "10.5.0.52/24"}
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, b *bench, s *Set)
		want []string
	}{
		{"owned", func(*testing.T, *bench, *Set) {}, both},
		{"released", func(t *testing.T, b *bench, s *Set) {
			s.Release()
			b.turn()
			b.Marked(b.facts())
			b.kernel.have = []Found{{Address: a}} // the host's
		}, nil},
		{"released, which the facts do not show yet", func(t *testing.T, b *bench, s *Set) {
			s.Release()
			b.turn()
			b.kernel.have = []Found{{Address: a}, {Address: second}}
		}, both},
		{"with another prefix", func(t *testing.T, b *bench, _ *Set) {
			b.kernel.have = []Found{{Address: on(1, "10.5.0.51/32")}, {Address: second}}
		}, both[1:]},
		{"of a retired set", func(t *testing.T, b *bench, s *Set) {
			b.Remove(s)
			b.turn()
			b.Marked(b.facts())
			b.kernel.have = []Found{{Address: a}}
		}, nil},
		{"an address less", func(t *testing.T, b *bench, s *Set) {
			b.Update(Change{s, spec(a)})
			b.turn()
			b.Marked(b.facts())
			b.kernel.have = append(b.kernel.have, Found{Address: second})
		}, both[:1]},
		{"under another label", func(t *testing.T, b *bench, s *Set) {
			labelled := a
			labelled.Label = "eth0:x"
			b.Update(Change{s, spec(labelled, second)})
			b.turn()
		}, both},
		{"removed by others and put back", func(t *testing.T, b *bench, _ *Set) {
			require.NoError(t, b.kernel.del(Found{Address: a}))
			b.Lost(a.Key())
			b.turn()
		}, both},
		{"removed by others, and then it is the host's", func(t *testing.T, b *bench, _ *Set) {
			require.NoError(t, b.kernel.del(Found{Address: second}))
			b.kernel.refuse[second.Prefix.Addr()] = unix.EEXIST
			b.Lost(second.Key())
			b.turn()
			b.kernel.have = append(b.kernel.have, Found{Address: second})
		}, both[:1]},
		{"the kernel does not answer to a removal", func(t *testing.T, b *bench, s *Set) {
			b.kernel.mute = true
			s.Release()
			b.turn()
			b.Marked(b.facts())
			b.kernel.have = []Found{{Address: a}}
		}, both[:1]},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := oldBench(t)
			s := b.Add(spec(a, second))
			s.Takeover()
			b.turn()
			tc.do(t, b, s)
			assert.Equal(t, tc.want, b.ours(b.facts()))
		})
	}
}

// What was there before is not ours; what the kernel refuses neither, should it
// come later. Without an answer it may be.
func TestMarkedIsWhatWasAdded(t *testing.T) {
	b := oldBench(t)
	there, refused, mine := on(1, "10.0.0.1/32"), on(1, "10.0.0.2/32"), on(1, "10.0.0.3/32")
	b.kernel.have = []Found{{Address: there}}
	b.kernel.refuse[refused.Prefix.Addr()] = errTest
	s := b.Add(spec(there, refused, mine))
	s.Takeover()
	b.turn()
	b.kernel.have = append(b.kernel.have, Found{Address: refused})
	assert.Equal(t, []string{"10.0.0.3/32"}, b.ours(b.facts()))

	b.kernel.mute = true
	late := on(1, "10.0.0.4/32")
	u := b.Add(spec(late))
	u.Takeover()
	b.turn()
	assert.Equal(t, []string{"10.0.0.3/32", "10.0.0.4/32"}, b.ours(b.facts()))
	b.kernel.mute = false
	b.until(second)
	assert.Equal(t, []string{"10.0.0.3/32", "10.0.0.4/32"}, b.ours(b.facts()), "its answer is that it is there")
}

// News of an address come before the answer of the kernel.
func TestMarkedBeforeTheAnswer(t *testing.T) {
	b := oldBench(t)
	a := on(1, "10.0.0.1/24")
	var told []string
	b.kernel.added = func() { told = b.ours(b.facts()) }
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	assert.Equal(t, []string{"10.0.0.1/24"}, told)
}

// Where the kernel keeps the mark, it alone counts: an address that others have
// put in the place of ours is theirs.
func TestMarkOfTheKernel(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	s.Takeover()
	b.turn()
	f := b.facts()
	assert.Same(t, f, b.Marked(f))
}

// Facts are shared and stay as they are.
func TestMarkedChangesNoFacts(t *testing.T) {
	b := oldBench(t)
	f := plan.NewFacts([]plan.Link{{Index: 1, Addrs: []plan.Addr{{Prefix: netip.MustParsePrefix("10.0.0.1/24")}}}})
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	b.turn()
	assert.Equal(t, f, b.Marked(f))
	s.Takeover()
	b.turn()
	marked := b.Marked(f)
	assert.False(t, f.Links[0].Addrs[0].Ours)
	assert.Equal(t, &plan.Facts{Links: []plan.Link{{
		Index: 1, Addrs: []plan.Addr{{Prefix: netip.MustParsePrefix("10.0.0.1/24"), Ours: true}},
	}}}, marked)
	assert.Same(t, marked, b.Marked(f), "as long as nothing changes")
}
