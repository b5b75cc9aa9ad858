// SPDX-License-Identifier: Apache-2.0

// Package config reads keepalived.conf: the whole grammar as a tree with
// positions, and typed values for what has an effect here.
package config

import (
	"net/netip"
	"time"
)

// Config is a configuration that can be run.
type Config struct {
	NetNamespace string // net_namespace
	Instance     string // instance: several daemons on one host
	Process      Process
	Instances    []*Instance
	// Unfinished is set if the file ends inside a block. keepalived takes such
	// files; of one that is read again it may mean that it is being written.
	Unfinished bool
}

// Process says how the daemon runs. What the user wrote must work; what is a
// default is done where the host allows it.
type Process struct {
	Nice         int  // vrrp_priority, -20 to 19
	RTPriority   int  // vrrp_rt_priority of the event loop, 1 to 99; 0: normal scheduling
	RTConfigured bool // it is not the default
	// RTTime is vrrp_rlimit_rttime, the longest that the event loop may work
	// without a pause before the kernel ends the process; 0: no limit.
	RTTime           time.Duration
	NoSwap           bool // vrrp_no_swap: lock memory as it is used
	NoSwapConfigured bool
	CPUs             []int // vrrp_cpu_affinity of the event loop; empty: any
	// Lease is how long the event loop may be held up before the kernel speaks
	// for it: vrrp_lease.
	Lease time.Duration
}

// Defaults of Process.
const (
	// DefaultRTPriority is above threaded interrupts, which have 50.
	DefaultRTPriority = 60
	DefaultLease      = time.Second
)

// FastDetect is S-BFD (RFC 7880) towards the current master.
type FastDetect struct {
	Enabled    bool
	Interval   time.Duration // between probes, 300 µs to 1 s
	Multiplier int           // 1 to 50
	Echo       bool          // unaffiliated echo instead (RFC 9747)
}

// Instance is one vrrp_instance with every default filled in.
type Instance struct {
	Name string
	Pos  Pos

	// Interface that adverts use, and where its name stands.
	Interface    string
	InterfacePos Pos

	StateMaster bool // `state MASTER`: only a wish, see docs/compatibility.md
	VRID        uint8
	Version     uint8
	Priority    uint8
	Interval    time.Duration // advert_int
	DownAdverts int

	Source netip.Addr // mcast_src_ip; invalid: the interface's primary address
	Group  netip.Addr // where adverts go

	NoPreempt    bool
	PreemptDelay time.Duration

	AuthPass string // up to eight bytes; empty: no authentication

	Addresses []Address // in the order of the file, excluded ones last
	Tracked   []Track
	// DontTrackPrimary keeps the instance out of FAULT while its own interface
	// is down.
	DontTrackPrimary bool

	GARP GARP

	FastDetect FastDetect
	Reflect    bool // fast_detect_reflector: answer the probes of peers
	Fence      bool

	Strict               bool
	Accept               bool
	SkipCheckAddrs       bool
	LowerPrioNoAdvert    bool
	HigherPrioSendAdvert bool
	OwnerIgnoreAdverts   bool
	// ChecksumAsV2 leaves the pseudo-header out of version 3 checksums.
	ChecksumAsV2 bool
}

// GARP says how addresses are announced.
type GARP struct {
	Repeat          int           // announcements of an address in a block
	Delay           time.Duration // until the second block; 0: there is none
	Refresh         time.Duration // period of further announcements; 0: none
	RefreshRepeat   int
	LowerPrioRepeat int           // after a losing advert; 0: none
	LowerPrioDelay  time.Duration // until their second block
	Interval        time.Duration // between two on one interface; 0: none
}

// Address is one line of virtual_ipaddress or virtual_ipaddress_excluded.
type Address struct {
	Pos       Pos
	Prefix    netip.Prefix
	Dev       string // empty: the instance's interface
	DevPos    Pos
	Scope     uint8
	Broadcast netip.Addr // invalid: none
	Label     string
	Peer      netip.Addr // invalid: none
	NoTrack   bool
	Excluded  bool // configured, not in adverts
}

// Track is one line of track_interface.
type Track struct {
	Interface string
	Pos       Pos
	Weight    int // 0: FAULT while it is down
	Reverse   bool
}

// Parse reads a file and what it includes. The Config is nil if a Diagnostic
// is fatal.
func Parse(files Files, name string, env Environment) (*Config, Diagnostics) {
	var diags Diagnostics
	tree := &treeBuilder{diags: &diags}
	l := &lexer{files: files, env: env, diags: &diags, sink: tree.add, definitions: map[string][]string{}}
	l.file(name, Pos{File: name})
	d := &decoder{file: name, diags: &diags, noted: map[string]bool{}}
	cfg := d.config(tree.end())
	cfg.Unfinished = len(tree.open) > 0
	diags.sort()
	if diags.Fatal() {
		return nil, diags
	}
	return cfg, diags
}
