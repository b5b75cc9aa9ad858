// SPDX-License-Identifier: Apache-2.0

package ctlapi

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

// The JSON of the API is an interface: scripts are written against it.
func TestWire(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	status := Status{
		Version: "1.2.3", PID: 42, StartedAt: at,
		Instances: []InstanceStatus{{
			Name: "VI_1", Interface: "eth0", VRID: 51, Version: 3, State: "BACKUP", Since: at.Format(time.RFC3339Nano),
			SinceSeconds: 1.5, Why: "startup", Fault: "no address", Priority: 90, BasePriority: 100, AdvertMs: 100,
			Addresses: []string{"10.0.0.9/24"}, Master: "10.0.0.1", MasterPriority: 200,
			Peers: []Peer{{Address: "10.0.0.1", Priority: 200, LastSeenSeconds: 0.25}},
			Arrival: Liveness{
				LastNs: 9, Count: 8, MeanGapNs: 7, JitterNs: 6, LargestGapNs: 5, GapLog2: []int64{1, 0}, Arrivals: []int64{3},
			},
			Counters: Counters{
				AdvertsSent: 1, AdvertsReceived: 2, PriorityZeroSent: 3, PriorityZeroReceived: 4, MasterDownHeld: 5,
				Transitions: map[string]uint64{"startup": 1}, Rejected: map[string]uint64{"bad_ttl": 2},
				ChecksumForms: map[string]uint64{"message": 1},
			},
			Fence:  Fence{Enabled: true, Active: true, Address: "10.0.0.2", MAC: "02:00:00:00:00:01", Seen: 3},
			Alarms: []Alarm{{Kind: "deaf", Address: "10.0.0.2", MAC: "02:00:00:00:00:01", Since: at}},
		}, {}},
		Interfaces: []InterfaceStatus{{
			Name: "eth0", Dataplane: "generic", DataplaneWhy: "no native XDP", Pins: "/sys/fs/bpf/xvrrp",
			Frames: map[string]Count{"steady": {Pass: 6, Drop: 7}}, SendErrors: 1, Err: "no counters",
			Lease: &Lease{Held: true, RemainingMs: 1, DurationMs: 2, ExitHook: true, Reflector: "Up"},
			Sessions: []Session{{
				Peer: "10.0.0.1", Mode: "sbfd", State: "Up", Diag: "none", SinceSeconds: 1, Instances: 1, IntervalMs: 10,
				Multiplier: 3, LocalDiscr: 1, RemoteDiscr: 2, Sent: 3, Unsent: 4, Replies: 5,
				Verdicts: map[string]uint64{"up": 1},
			}},
		}, {}},
		Loop: LoopStatus{
			Wakeups: 1, Graces: 2, LostReports: 3, HandledMaxMs: 4, JudgedLateMaxMs: 5, HandledP99UpperMs: 6,
			JudgedP99UpperMs: 7, WakeLateMaxMs: 8, WakeLateP99Ms: 9, Stalls: 10,
		},
	}
	golden(t, "status", status)
	golden(t, "event", []Event{{
		Seq: 7, Time: at, Kind: "transition", Instance: "VI_1", From: "BACKUP", To: "MASTER", Why: "master_down",
		Priority: 90, Peer: "10.0.0.1", MAC: "02:00:00:00:00:01",
	}, {}})
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	require.NoError(t, err)
	file := "testdata/" + name + ".golden"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, append(got, '\n'), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(got)+"\n")
}
