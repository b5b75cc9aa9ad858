// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
)

func render(w io.Writer, s ctlapi.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INSTANCE\tIFACE\tVRID\tSTATE\tFOR\tWHY\tPRIO\tMASTER\tADDRESSES")
	for _, i := range s.Instances {
		master := i.Master
		switch {
		case i.State == "MASTER":
			master = "this host"
		case master == "":
			master = "-"
		default:
			master = fmt.Sprintf("%s (%d)", i.Master, i.MasterPriority)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s\t%s\n", i.Name, i.Interface, i.VRID, i.State,
			round(i.SinceSeconds), why(i), i.Priority, master, strings.Join(i.Addresses, ","))
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "INSTANCE\tSENT\tRECEIVED\tGAP\tJITTER\tLARGEST GAP\tREFUSED\tPEERS")
	for _, i := range s.Instances {
		a := i.Arrival
		fmt.Fprintf(t, "%s\t%d\t%d\t%v\t%v\t%v\t%s\t%s\n", i.Name, i.Counters.AdvertsSent, i.Counters.AdvertsReceived,
			time.Duration(a.MeanGapNs).Round(time.Microsecond), time.Duration(a.JitterNs).Round(time.Microsecond),
			time.Duration(a.LargestGapNs).Round(time.Microsecond), counts(i.Counters.Rejected), peers(i.Peers))
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "IFACE\tDATA PLANE\tFRAMES (pass/drop)")
	for _, f := range s.Interfaces {
		var words []string
		for _, r := range slices.Sorted(maps.Keys(f.Frames)) {
			if n := f.Frames[r]; n.Pass+n.Drop > 0 {
				words = append(words, fmt.Sprintf("%s %d/%d", r, n.Pass, n.Drop))
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, f.Dataplane, strings.Join(words, ", "))
	}
	renderGuard(t, s)
	fmt.Fprintln(t)
	fmt.Fprintf(t, "LOOP\t%d wake-ups, deadlines judged late by at most %.3f ms, events handled within %.3f ms\n",
		s.Loop.Wakeups, s.Loop.JudgedLateMaxMs, s.Loop.HandledMaxMs)
	return t.Flush()
}

// why is the reason of the last transition and, in FAULT, what the host lacks.
func why(i ctlapi.InstanceStatus) string {
	if i.State == "FAULT" && i.Fault != "" {
		return i.Why + " (" + i.Fault + ")"
	}
	return i.Why
}

// renderGuard shows what is more than plain VRRP: fast detection, the lease,
// fences and alarms.
func renderGuard(t io.Writer, s ctlapi.Status) {
	fmt.Fprintln(t)
	fmt.Fprintln(t, "IFACE\tLEASE\tREFLECTOR\tPEER\tMODE\tSESSION\tFOR\tDIAG\tPROBES\tREPLIES\tVERDICTS")
	for _, f := range s.Interfaces {
		if f.Lease == nil {
			continue
		}
		lease := "ended"
		if f.Lease.Held {
			lease = fmt.Sprintf("held (%v)", time.Duration(f.Lease.DurationMs*float64(time.Millisecond)))
		}
		head := fmt.Sprintf("%s\t%s\t%s", f.Name, lease, f.Lease.Reflector)
		if len(f.Sessions) == 0 {
			fmt.Fprintf(t, "%s\t-\n", head)
		}
		for _, x := range f.Sessions {
			state := x.State
			if x.Instances == 0 {
				state = "closed"
			}
			fmt.Fprintf(t, "%s\t%s\t%s %gx%d\t%s\t%s\t%s\t%d\t%d\t%s\n", head, x.Peer, x.Mode, x.IntervalMs, x.Multiplier,
				state, round(x.SinceSeconds), x.Diag, x.Sent, x.Replies, counts(x.Verdicts))
		}
	}
	for _, i := range s.Instances {
		if i.Fence.Active {
			fmt.Fprintf(t, "FENCE\t%s is silent for its addresses: %s (%s) is master\n", i.Name, i.Fence.Address, i.Fence.MAC)
		}
		for _, a := range i.Alarms {
			fmt.Fprintf(t, "ALARM\t%s: %s %s %s since %s\n", i.Name, a.Kind, a.Address, a.MAC, a.Since.Format(time.RFC3339))
		}
	}
}

// peers lists the peers heard, with their priority and how long ago.
func peers(list []ctlapi.Peer) string {
	if len(list) == 0 {
		return "-"
	}
	var words []string
	for _, p := range list {
		words = append(words, fmt.Sprintf("%s (%d, %v ago)", p.Address, p.Priority, round(p.LastSeenSeconds)))
	}
	return strings.Join(words, ", ")
}

func counts(m map[string]uint64) string {
	if len(m) == 0 {
		return "-"
	}
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		words = append(words, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(words, ", ")
}

func round(seconds float64) time.Duration {
	d := time.Duration(seconds * float64(time.Second))
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
}

func renderEvent(e ctlapi.Event) string {
	at := e.Time.Format("15:04:05.000000")
	switch e.Kind {
	case "transition":
		s := fmt.Sprintf("%s %s %s -> %s (%s), priority %d", at, e.Instance, e.From, e.To, e.Why, e.Priority)
		if e.Peer != "" {
			s += ", peer " + e.Peer
		}
		return s
	case "fast_detect":
		return fmt.Sprintf("%s %s fast detection of %s: %s", at, e.Instance, e.Peer, e.Why)
	case "alarm":
		return fmt.Sprintf("%s %s ALARM %s: %s %s", at, e.Instance, e.Why, e.Peer, e.MAC)
	case "reject":
		return fmt.Sprintf("%s %s refuses adverts of %s: %s", at, e.Instance, e.Peer, e.Why)
	}
	return fmt.Sprintf("%s %s %s: %s (%s)", at, e.Instance, e.Kind, e.Why, e.Peer)
}
