// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFrameCosts(t *testing.T) {
	const all = `goos: linux
BenchmarkFrame/empty_program-2         	      30	  18836834 ns/op	        25.00 bpf-ns/frame
BenchmarkFrame/not_VRRP-2              	      30	  19505119 ns/op	        26.00 bpf-ns/frame
BenchmarkFrame/steady_advert           	      30	  23675210 ns/op	       176.0 bpf-ns/frame
BenchmarkDecode-2   	68820968	        19.63 ns/op	       0 B/op	       0 allocs/op
`
	costs := frameCosts(all)
	assert.Equal(t, []frameCost{{"empty program", 25}, {"not VRRP", 26}, {"steady advert", 176}}, costs)
	assert.InDelta(t, 1, aboveEmpty(costs, frameOther), 0)
	assert.InDelta(t, 151, aboveEmpty(costs, frameAdvert), 0)

	for name, text := range map[string]string{
		"nothing ran":          "ok  	github.com/xvrrp/xvrrp/loader	0.01s",
		"no empty program":     "BenchmarkFrame/steady_advert-2 30 23675210 ns/op 76.00 bpf-ns/frame",
		"the other is missing": "BenchmarkFrame/empty_program-2 30 23675210 ns/op 25.00 bpf-ns/frame",
	} {
		t.Run(name, func(t *testing.T) {
			assert.True(t, math.IsNaN(aboveEmpty(frameCosts(text), frameAdvert)))
		})
	}
}
