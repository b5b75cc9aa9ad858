// SPDX-License-Identifier: Apache-2.0

// Package ctlapi is the control API: HTTP and JSON on a Unix socket. The types
// are shared by the daemon and its client.
package ctlapi

import "time"

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
	// FramesNotVRRP are the frames that are not VRRP, of all interfaces with a
	// program together.
	FramesNotVRRP uint64     `json:"frames_not_vrrp"`
	Loop          LoopStatus `json:"loop"`
}

// InstanceStatus is one virtual router.
type InstanceStatus struct {
	Name         string  `json:"name"`
	Interface    string  `json:"interface"`
	VRID         uint8   `json:"vrid"`
	Version      uint8   `json:"version"`
	State        string  `json:"state"`
	Since        string  `json:"since"` // RFC 3339
	SinceSeconds float64 `json:"since_seconds"`
	Why          string  `json:"why"` // reason of the last transition
	// Fault is what the host lacks, while that keeps the instance in FAULT.
	Fault        string   `json:"fault,omitempty"`
	Priority     uint8    `json:"priority"`
	BasePriority uint8    `json:"base_priority"`
	AdvertMs     float64  `json:"advert_interval_ms"`
	Addresses    []string `json:"addresses"`
	// Master is whose adverts a backup accepts.
	Master         string   `json:"master,omitempty"`
	MasterPriority uint8    `json:"master_priority,omitempty"`
	Peers          []Peer   `json:"peers"`
	Arrival        Liveness `json:"arrival"`
	Counters       Counters `json:"counters"`
	Fence          Fence    `json:"fence"`
	Alarms         []Alarm  `json:"alarms"`
}

// Liveness is what the kernel recorded of the current master's steady adverts;
// Count alone counts the repetitions of every master since the start. Times are
// in nanoseconds; Arrivals holds up to 32 stamps of the kernel's CLOCK_MONOTONIC
// (without the offset of a time namespace), oldest first.
type Liveness struct {
	LastNs       int64  `json:"last_ns"`
	Count        uint64 `json:"count"`
	MeanGapNs    int64  `json:"mean_gap_ns"`
	JitterNs     int64  `json:"jitter_ns"`
	LargestGapNs int64  `json:"largest_gap_ns"`
	// GapLog2 counts gaps: element i those from 2^(10+i) ns up to twice that. The
	// first has no lower bound, the last no upper one.
	GapLog2  []int64 `json:"gap_log2"`
	Arrivals []int64 `json:"arrivals"`
}

// Count is the number of frames that left the receive program for one reason,
// by verdict.
type Count struct {
	Pass uint64 `json:"pass"`
	Drop uint64 `json:"drop"`
}

// Fence is what the kernel does while this host must not speak for the
// addresses of a virtual router.
type Fence struct {
	Enabled bool `json:"enabled"`
	Active  bool `json:"active"`
	// Address and MAC of another master heard while we were one, and the
	// number of its consistent adverts in a row.
	Address string `json:"address,omitempty"`
	MAC     string `json:"mac,omitempty"`
	Seen    uint32 `json:"seen,omitempty"`
}

// Alarm is a condition that needs an operator: two hosts serve, or might serve, the
// same address; fast detection or the addresses do not work.
type Alarm struct {
	// Kind is one of the alarms of docs/fast-detection.md.
	Kind    string    `json:"kind"`
	Address string    `json:"address,omitempty"` // of the other router; for vip_conflict the contested one
	MAC     string    `json:"mac,omitempty"`
	Since   time.Time `json:"since"`
}

// Session is the initiator of S-BFD, RFC 7880, towards one peer.
type Session struct {
	Peer         string            `json:"peer"`
	Mode         string            `json:"mode"`  // sbfd or echo
	State        string            `json:"state"` // AdminDown, Down or Up
	Diag         string            `json:"diag"`
	SinceSeconds float64           `json:"since_seconds"`
	Instances    int               `json:"instances"` // that follow the peer; 0: closed
	IntervalMs   float64           `json:"interval_ms"`
	Multiplier   int               `json:"multiplier"`
	LocalDiscr   uint32            `json:"local_discriminator"`
	RemoteDiscr  uint32            `json:"remote_discriminator"`
	Sent         uint64            `json:"probes_sent"`
	Unsent       uint64            `json:"probes_unsent"` // that the kernel refused
	Replies      uint64            `json:"replies"`
	Verdicts     map[string]uint64 `json:"verdicts"` // up, down, admin_down
}

// Lease is the promise of the event loop to the kernel.
type Lease struct {
	Held        bool    `json:"held"`
	RemainingMs float64 `json:"remaining_ms"`
	DurationMs  float64 `json:"duration_ms"`
	ExitHook    bool    `json:"exit_hook"` // the end of the process ends it at once
	// Reflector is the state that it reports to peers: Up, AdminDown or off.
	Reflector string `json:"reflector"`
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
	AdvertsSent          uint64 `json:"adverts_sent"`
	AdvertsReceived      uint64 `json:"adverts_received"`
	PriorityZeroSent     uint64 `json:"priority_zero_sent"`
	PriorityZeroReceived uint64 `json:"priority_zero_received"`
	// MasterDownHeld counts the times that Master_Down_Interval had passed and
	// the takeover was held back, because the master answered fast detection.
	MasterDownHeld uint64            `json:"master_down_held"`
	Transitions    map[string]uint64 `json:"transitions"`
	Rejected       map[string]uint64 `json:"rejected"`
	ChecksumForms  map[string]uint64 `json:"checksum_forms,omitempty"`
}

// InterfaceStatus is the data plane of one interface.
type InterfaceStatus struct {
	Name      string `json:"name"`
	Dataplane string `json:"dataplane"`
	// DataplaneWhy is why no earlier mode is used; empty for the first one.
	DataplaneWhy string           `json:"dataplane_why,omitempty"`
	Pins         string           `json:"pins,omitempty"`
	Frames       map[string]Count `json:"frames"`
	SendErrors   uint64           `json:"send_errors"`
	Lease        *Lease           `json:"lease,omitempty"` // nil without BPF
	Sessions     []Session        `json:"sessions"`
	Err          string           `json:"error,omitempty"`
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
	WakeLateMaxMs     float64 `json:"wake_late_max_ms"`
	WakeLateP99Ms     float64 `json:"wake_late_p99_below_ms"`
	Stalls            uint64  `json:"stalls"`
}

// Event is one line of EventsPath: a transition, an advert refused for a new
// reason, a change of fast detection (Instance is then the interface), an
// alarm, adverts or addresses that the kernel refuses, or a reload.
type Event struct {
	// Seq counts from 1. A gap, or an event of kind missed, means that some are
	// not kept any more.
	Seq      uint64    `json:"seq"`
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"` // transition, reject, recovered, fast_detect, alarm, alarm_over, send_failed, …
	Instance string    `json:"instance"`
	From     string    `json:"from,omitempty"`
	To       string    `json:"to,omitempty"`
	Why      string    `json:"why"`
	Priority uint8     `json:"priority,omitempty"`
	Peer     string    `json:"peer,omitempty"`
	MAC      string    `json:"mac,omitempty"`
}
