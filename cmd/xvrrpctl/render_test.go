// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
)

func TestRender(t *testing.T) {
	var out strings.Builder
	require.NoError(t, render(&out, ctlapi.Status{
		Instances: []ctlapi.InstanceStatus{{
			Name: "VI_1", Interface: "eth0", VRID: 51, State: "BACKUP", SinceSeconds: 61.4, Why: "startup",
			Priority: 90, Addresses: []string{"10.0.0.9/24"}, Master: "10.0.0.1", MasterPriority: 200,
			Peers:    []ctlapi.Peer{{Address: "10.0.0.1", Priority: 200, LastSeenSeconds: 0.25}},
			Arrival:  ctlapi.Liveness{MeanGapNs: 1e9, JitterNs: 12345},
			Counters: ctlapi.Counters{AdvertsReceived: 7, Rejected: map[string]uint64{"bad_ttl": 2, "bad_auth": 1}},
		}},
		Interfaces: []ctlapi.InterfaceStatus{{
			Name: "eth0", Dataplane: "native",
			Frames: map[string]ctlapi.Count{"steady": {Pass: 6}, "event": {Pass: 1}, "bad_ttl": {Pass: 1, Drop: 1}, "fragment": {}},
		}},
	}))
	lines := strings.Split(out.String(), "\n")
	words := func(i int) string { return strings.Join(strings.Fields(lines[i]), " ") }
	assert.Equal(t, "VI_1 eth0 51 BACKUP 1m1s startup 90 10.0.0.1 (200) 10.0.0.9/24", words(1))
	assert.Equal(t, "VI_1 0 7 1s 12µs 0s bad_auth 1, bad_ttl 2 10.0.0.1 (200, 250ms ago)", words(4))
	assert.Equal(t, "eth0 native bad_ttl 1/1, event 1/0, steady 6/0", words(7))
}

// In FAULT the text shows what the host lacks.
func TestRenderFault(t *testing.T) {
	i := ctlapi.InstanceStatus{State: "FAULT", Why: "link_down", Fault: "there is no interface eth0"}
	assert.Equal(t, "link_down (there is no interface eth0)", why(i))
	i.State = "INIT"
	assert.Equal(t, "link_down", why(i))
}

func TestRenderEvent(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for want, e := range map[string]ctlapi.Event{
		"03:04:05.000006 A BACKUP -> MASTER (master_down), priority 100, peer 10.0.0.1": {
			Kind: "transition", Instance: "A", From: "BACKUP", To: "MASTER", Why: "master_down", Priority: 100, Peer: "10.0.0.1",
		},
		"03:04:05.000006 A refuses adverts of 10.0.0.1: bad_auth": {Kind: "reject", Instance: "A", Why: "bad_auth", Peer: "10.0.0.1"},
		"03:04:05.000006 A recovered: valid adverts (10.0.0.1)":   {Kind: "recovered", Instance: "A", Why: "valid adverts", Peer: "10.0.0.1"},
	} {
		e.Time = at
		assert.Equal(t, want, renderEvent(e))
	}
}

func TestNobodyListens(t *testing.T) {
	cmd := command()
	cmd.SetArgs([]string{"status", "--control-socket", t.TempDir() + "/none"})
	assert.ErrorContains(t, cmd.Execute(), "ask the daemon at ")
}
