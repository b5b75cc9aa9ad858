// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/config"
)

const global = "global_defs {\n%s\n}\n"

func TestFastDetect(t *testing.T) {
	for name, tc := range map[string]struct {
		global, lines string
		want          config.FastDetect
	}{
		"off":                  {"", "", config.FastDetect{Interval: 3300 * time.Microsecond, Multiplier: 3}},
		"defaults":             {"", "fast_detect", config.FastDetect{Enabled: true, Interval: 3300 * time.Microsecond, Multiplier: 3}},
		"issue's":              {"", "fast_detect interval 1 multiplier 3", config.FastDetect{Enabled: true, Interval: time.Millisecond, Multiplier: 3}},
		"shortest":             {"", "fast_detect interval 0.3", config.FastDetect{Enabled: true, Interval: 300 * time.Microsecond, Multiplier: 3}},
		"global":               {"fast_detect interval 5", "", config.FastDetect{Enabled: true, Interval: 5 * time.Millisecond, Multiplier: 3}},
		"global, not here":     {"fast_detect interval 5", "fast_detect off", config.FastDetect{Interval: 5 * time.Millisecond, Multiplier: 3}},
		"global, changed here": {"fast_detect interval 5", "fast_detect multiplier 5", config.FastDetect{Enabled: true, Interval: 5 * time.Millisecond, Multiplier: 5}},
		"echo":                 {"", "fast_detect mode echo", config.FastDetect{Enabled: true, Interval: 3300 * time.Microsecond, Multiplier: 3, Echo: true}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, diags := parse(fmt.Sprintf(global, tc.global) + minimal(required+tc.lines))
			require.NotNil(t, cfg, diags)
			assert.Empty(t, diags)
			assert.Equal(t, tc.want, cfg.Instances[0].FastDetect)
			assert.True(t, cfg.Instances[0].Reflect)
			assert.True(t, cfg.Instances[0].Fence)
		})
	}
}

func TestBadFastDetect(t *testing.T) {
	for line, want := range map[string]string{
		"fast_detect interval":                 "4:13: error: fast_detect: interval needs a value",
		"fast_detect interval x":               `4:22: error: fast_detect: interval: "x" is not a number of milliseconds`,
		"fast_detect interval 0.2":             `4:22: error: fast_detect: interval: "0.2" is not in the range 0.3 to 1000`,
		"fast_detect interval 1001":            `4:22: error: fast_detect: interval: "1001" is not in the range 0.3 to 1000`,
		"fast_detect interval 1 multiplier 0":  "4:35: error: fast_detect: multiplier: 0 is not in the range 1 to 50",
		"fast_detect interval 1 multiplier 51": "4:35: error: fast_detect: multiplier: 51 is not in the range 1 to 50",
		"fast_detect intervall 1":              `4:13: error: fast_detect: "intervall" is not one of interval, multiplier, mode, on, off; did you mean "interval"?`,
		"fast_detect mode ecko":                `4:18: error: fast_detect: mode: "ecko" is neither sbfd nor echo; did you mean "echo"?`,
	} {
		t.Run(line, func(t *testing.T) {
			cfg, diags := parse(minimal(required + line))
			assert.Nil(t, cfg)
			assert.Contains(t, fmt.Sprint(diags), want)
		})
	}
	_, diags := parse(minimal(required + "fast_detect interval 1000 multiplier 3"))
	assert.Contains(t, fmt.Sprint(diags), "1:1: warning: fast_detect takes 3s, which is no faster than advert_int 1s")
	_, diags = parse(minimal(required + "fast_detect interval 3.33333"))
	assert.Contains(t, fmt.Sprint(diags), `4:22: warning: fast_detect: interval "3.33333" is rounded to 3.333ms`)
}

func TestFenceAndReflector(t *testing.T) {
	cfg, diags := parse(fmt.Sprintf(global, "fence off\nfast_detect_reflector off") + minimal(required+"fence on"))
	require.NotNil(t, cfg, diags)
	assert.Empty(t, diags)
	assert.True(t, cfg.Instances[0].Fence)
	assert.False(t, cfg.Instances[0].Reflect)
}

func TestProcess(t *testing.T) {
	cfg, _ := parse(minimal(required))
	assert.Equal(t, config.Process{RTPriority: 60, NoSwap: true, Lease: time.Second}, cfg.Process)
	cfg, diags := parse(fmt.Sprintf(global, "vrrp_priority -5\nvrrp_rt_priority 120\nvrrp_rlimit_rttime 20000\nvrrp_no_swap\nvrrp_cpu_affinity 1 2\nvrrp_lease 0.25") + minimal(required))
	assert.Empty(t, diags)
	assert.Equal(t, config.Process{
		Nice: -5, RTPriority: 99, RTConfigured: true, RTTime: 20 * time.Millisecond, NoSwap: true, NoSwapConfigured: true,
		CPUs: []int{1, 2}, Lease: 250 * time.Millisecond,
	}, cfg.Process)
	cfg, _ = parse(fmt.Sprintf(global, "vrrp_rt_priority 0\nvrrp_no_swap off") + minimal(required))
	assert.Equal(t, config.Process{RTConfigured: true, NoSwapConfigured: true, Lease: time.Second}, cfg.Process)
	_, diags = parse(fmt.Sprintf(global, "vrrp_priority 20\nvrrp_cpu_affinity 1 x") + minimal(required))
	assert.Contains(t, fmt.Sprint(diags), "2:15: warning: vrrp_priority: 20 is not in the range -20 to 19")
	assert.Contains(t, fmt.Sprint(diags), `3:21: warning: vrrp_cpu_affinity: "x" is not a whole number`)
	cfg, diags = parse(fmt.Sprintf(global, "vrrp_lease 0.01") + minimal(required))
	assert.Nil(t, cfg)
	assert.Contains(t, fmt.Sprint(diags), "2:12: error: vrrp_lease: \"0.01\" is not in the range 50ms to 1m0s")
}
