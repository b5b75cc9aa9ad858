// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChoose(t *testing.T) {
	all := []part{{name: "frames"}, {name: "fault-cut"}, {name: "fault-kill"}, {name: "fault-vip"}, {name: "soak"}}
	for _, c := range []struct {
		only string
		want []string
	}{
		{"", []string{"frames", "fault-cut", "fault-kill", "fault-vip", "soak"}},
		{"soak", []string{"soak"}},
		{"soak,fault-kill", []string{"fault-kill", "soak"}},
		{"faults", []string{"fault-cut", "fault-kill", "fault-vip"}},
		{"host", []string{"fault-vip"}},
		{"faults,fault-cut,soak", []string{"fault-cut", "fault-kill", "fault-vip", "soak"}},
		{"sock", nil},
		{"soak,", nil},
		{"soak,fault", nil},
	} {
		t.Run(c.only, func(t *testing.T) {
			got, err := choose(all, c.only)
			assert.Equal(t, c.want == nil, err != nil)
			var names []string
			for _, p := range got {
				names = append(names, p.name)
			}
			assert.Equal(t, c.want, names)
		})
	}
	assert.Len(t, all, 5)
}

func TestFailureEndsOnlyWhatIsAttempted(t *testing.T) {
	b, cleaned, after := &bench{r: &result{Unsettled: map[string]map[string]int{}}}, 0, false
	why := b.attempt(func() {
		b.Cleanup(func() { cleaned++ })
		b.trial("cut", "keepalived", func() {
			b.Cleanup(func() { cleaned++ })
			b.Fatalf("it did not come true that %s", "it is the only master")
		})
		after = true
	})
	assert.Empty(t, why)
	assert.True(t, after, "what is around a trial goes on")
	assert.Equal(t, 2, cleaned)
	assert.Equal(t, map[string]map[string]int{"cut": {"keepalived": 1}}, b.r.Unsettled)

	after = false
	why = b.attempt(func() {
		b.Fatalf("no %d", 1)
		after = true
	})
	assert.Equal(t, "no 1", why)
	assert.False(t, after)
	assert.Empty(t, b.attempt(func() {}), "the next is another one")

	cleaned = 0
	why = b.attempt(func() {
		b.Cleanup(func() { cleaned++ })
		b.Cleanup(func() { b.Fatalf("the namespace stays") })
	})
	assert.Equal(t, "the namespace stays", why)
	assert.Empty(t, b.attempt(func() {}))
	assert.Equal(t, 1, cleaned)
}

func TestPartOfARun(t *testing.T) {
	assert.True(t, (&result{}).whole())
	assert.False(t, (&result{Only: "soak"}).whole())
	assert.False(t, (&result{Broken: map[string]string{"soak": "why"}}).whole())
}

func TestSaveKeepsTheLastFile(t *testing.T) {
	t.Chdir(t.TempDir())
	r := &result{When: time.Unix(0, 0), Floor: []sample{1}}
	save(r)
	r.Floor = []sample{math.NaN()} // no JSON
	save(r)
	files, err := filepath.Glob("bench-results/*/*")
	require.NoError(t, err)
	require.Equal(t, []string{"bench-results/19700101-000000/samples.json"}, files)
	got, err := replay(files[0])
	require.NoError(t, err)
	assert.Equal(t, []sample{1}, got.Floor)
}
