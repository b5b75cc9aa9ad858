// SPDX-License-Identifier: Apache-2.0

// Package ctlapi is the control API: HTTP and JSON on a Unix socket. The types
// are shared by the daemon and its client.
package ctlapi

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/xvrrp/xvrrp/loader"
)

// RunDir holds sockets, pid files and locks.
const RunDir = "/run/xvrrp"

// Paths of the API.
const (
	StatusPath  = "/v1/status"
	EventsPath  = "/v1/events"
	MetricsPath = "/metrics"
)

// Status is the answer to StatusPath.
type Status struct {
	Version    string            `json:"version"`
	PID        int               `json:"pid"`
	StartedAt  time.Time         `json:"started_at"`
	Instances  []InstanceStatus  `json:"instances"`
	Interfaces []InterfaceStatus `json:"interfaces"`
	Loop       LoopStatus        `json:"loop"`
}

// InstanceStatus is one virtual router.
type InstanceStatus struct {
	Name         string   `json:"name"`
	Interface    string   `json:"interface"`
	VRID         uint8    `json:"vrid"`
	Version      uint8    `json:"version"`
	State        string   `json:"state"`
	Since        string   `json:"since"` // RFC 3339
	SinceSeconds float64  `json:"since_seconds"`
	Why          string   `json:"why"` // reason of the last transition
	Priority     uint8    `json:"priority"`
	BasePriority uint8    `json:"base_priority"`
	AdvertMs     float64  `json:"advert_interval_ms"`
	Addresses    []string `json:"addresses"`
	// Master is whose adverts a backup accepts.
	Master         string          `json:"master,omitempty"`
	MasterPriority uint8           `json:"master_priority,omitempty"`
	Peers          []Peer          `json:"peers"`
	Arrival        loader.Liveness `json:"arrival"`
	Counters       Counters        `json:"counters"`
}

// Peer is a source of valid adverts.
type Peer struct {
	Address         string  `json:"address"`
	Priority        uint8   `json:"priority"`
	LastSeenSeconds float64 `json:"last_seen_seconds"`
}

// Counters of a virtual router. Adverts received count the events that user
// space judged and the repetitions that the kernel kept to itself.
type Counters struct {
	AdvertsSent          uint64            `json:"adverts_sent"`
	AdvertsReceived      uint64            `json:"adverts_received"`
	PriorityZeroSent     uint64            `json:"priority_zero_sent"`
	PriorityZeroReceived uint64            `json:"priority_zero_received"`
	Transitions          map[string]uint64 `json:"transitions"`
	Rejected             map[string]uint64 `json:"rejected"`
	ChecksumForms        map[string]uint64 `json:"checksum_forms,omitempty"`
}

// InterfaceStatus is the data plane of one interface.
type InterfaceStatus struct {
	Name       string                  `json:"name"`
	Dataplane  string                  `json:"dataplane"`
	Pins       string                  `json:"pins,omitempty"`
	Frames     map[string]loader.Count `json:"frames"`
	SendErrors uint64                  `json:"send_errors"`
	Err        string                  `json:"error,omitempty"`
}

// LoopStatus is what the event loop measures of itself.
type LoopStatus struct {
	Wakeups           uint64  `json:"wakeups"`
	Graces            uint64  `json:"graces"`
	LostReports       uint64  `json:"lost_reports"`
	HandledMaxMs      float64 `json:"event_handled_max_ms"`
	JudgedLateMaxMs   float64 `json:"deadline_late_max_ms"`
	HandledP99UpperMs float64 `json:"event_handled_p99_below_ms"`
	JudgedP99UpperMs  float64 `json:"deadline_late_p99_below_ms"`
}

// Event is one line of EventsPath: a transition, or an advert refused for a
// new reason.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // transition, reject, recovered
	Instance string    `json:"instance"`
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	Why      string    `json:"why"`
	Priority uint8     `json:"priority,omitempty"`
	Peer     string    `json:"peer,omitempty"`
}

// DefaultSocket returns where the daemon of this network namespace listens. A
// daemon outside the first namespace, or one with an instance name, has a
// folder of its own, so that two never share a path by accident.
func DefaultSocket(instance string) string { return filepath.Join(Dir(instance), "xvrrpd.sock") }

// Dir returns the folder for the files of the daemon of this namespace. Where
// it cannot be told whether this is the first one (that takes CAP_SYS_PTRACE,
// or all the capabilities of process 1) it is taken for another.
func Dir(instance string) string {
	dir := RunDir
	if own := NetNS("self"); own != NetNS("1") {
		dir = filepath.Join(dir, "netns-"+strconv.FormatUint(own, 10))
	}
	if instance != "" {
		dir = filepath.Join(dir, "instance-"+instance)
	}
	return dir
}

// NetNS returns the inode of a process's network namespace, 0 if it cannot be
// read.
func NetNS(pid string) uint64 {
	info, err := os.Stat(fmt.Sprintf("/proc/%s/ns/net", pid))
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}
