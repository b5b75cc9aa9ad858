// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
)

// Adverts that are refused are a stranger's to send: there are at most
// rejectLines log lines about them in a rejectPeriod. The counters have them
// all.
const (
	rejectLines  = 20
	rejectPeriod = 10 * time.Second
)

// Report is what became of a change of ownership. Times are CLOCK_MONOTONIC
// nanoseconds.
type Report struct {
	Epoch     uint64 // of the ownership that was carried out
	OrderedNs int64
	AppliedNs int64 // when the kernel had every address added or removed
	Announced int64 // when the first announcement of each was handed over, or 0
	Err       error // what the kernel refused
}

// Writer turns records of the event loop and reports about addresses into
// entries and log lines. There is one line for each transition; that of a
// takeover or a release waits for the addresses, so that it can tell how long
// they took.
type Writer struct {
	Journal *Journal
	Log     *slog.Logger
	Clock   func() int64

	mu      sync.Mutex
	seq     uint64 // of the last record
	waiting map[*engine.Router][]engine.Record
	// early are reports that overtook the record of their transition: the
	// address worker does not wait for the reader of records.
	early map[*engine.Router]Report
	done  map[*engine.Router]uint64 // epoch of the last report that was logged
	// retired are routers that are gone, but for the report of their release.
	retired map[*engine.Router]bool

	rejects    int // lines about refused adverts since quiet
	quiet      time.Time
	suppressed int
}

// wall converts a time of CLOCK_MONOTONIC, as near as two clocks allow.
func (w *Writer) wall(ns int64) time.Time {
	return time.Now().Add(time.Duration(ns - w.Clock()))
}

// Record takes a record of the event loop.
func (w *Writer) Record(r *engine.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if missed := r.Seq - w.seq - 1; missed > 0 {
		w.Log.Error("event loop records were lost: the log and the events are incomplete", "records", missed)
		w.Journal.Append(Entry{Time: time.Now(), Kind: Missed, Why: "records of the event loop were lost"})
	}
	w.seq = r.Seq
	switch r.Kind {
	case engine.RecordTransition:
		w.transition(r)
	case engine.RecordRejected, engine.RecordAccepted:
		w.reject(r)
	case engine.RecordSession:
		w.session(r)
	case engine.RecordSendFailed, engine.RecordSendRecovered:
		w.send(r)
	case engine.RecordRetired:
		if len(w.waiting[r.Router]) == 0 {
			w.forget(r.Router)
			return
		}
		if w.retired == nil {
			w.retired = map[*engine.Router]bool{}
		}
		w.retired[r.Router] = true
	}
}

func (w *Writer) transition(r *engine.Record) {
	w.Journal.Append(Entry{
		Time: w.wall(r.At), Kind: Transition, Instance: r.Router.Name(), Interface: r.Router.Port.Name,
		From: r.From.String(), To: r.To.String(), Why: r.Reason.String(), Priority: r.Priority, Peer: name(r.Peer),
	})
	if r.Router.Set == nil || r.To != control.Master && r.From != control.Master {
		w.log(r, nil)
		return
	}
	if w.waiting == nil {
		w.waiting = map[*engine.Router][]engine.Record{}
	}
	w.waiting[r.Router] = append(w.waiting[r.Router], *r)
	if rep, ok := w.early[r.Router]; ok && rep.Epoch == r.Epoch {
		delete(w.early, r.Router)
		w.complete(r.Router, rep)
	}
}

// Report completes the transition of a router. Only the newest order is carried
// out; transitions that it passed over are logged without a report.
func (w *Writer) Report(router *engine.Router, rep Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rep.Err != nil {
		w.Journal.Append(Entry{
			Time: time.Now(), Kind: AddressFailed, Instance: router.Name(), Interface: router.Port.Name, Why: rep.Err.Error(),
		})
	}
	w.complete(router, rep)
}

// complete logs the transitions that a report covers.
func (w *Writer) complete(router *engine.Router, rep Report) {
	records := w.waiting[router]
	covered := 0
	for covered < len(records) && records[covered].Epoch <= rep.Epoch {
		covered++
	}
	if covered == 0 {
		switch {
		case w.done[router] >= rep.Epoch && rep.Err != nil: // a later attempt
			w.Log.Error("the kernel refused addresses; retrying", "instance", router.Name(), "err", rep.Err)
		case w.done[router] < rep.Epoch:
			if w.early == nil {
				w.early = map[*engine.Router]Report{}
			}
			w.early[router] = rep
		}
		return
	}
	if w.done == nil {
		w.done = map[*engine.Router]uint64{}
	}
	w.done[router] = rep.Epoch
	for i := range records[:covered-1] {
		w.log(&records[i], nil)
	}
	w.log(&records[covered-1], &rep)
	if w.waiting[router] = append(records[:0], records[covered:]...); len(w.waiting[router]) == 0 {
		delete(w.waiting, router)
		if w.retired[router] {
			w.forget(router)
		}
	}
}

// forget drops what is known of a router that is gone.
func (w *Writer) forget(router *engine.Router) {
	delete(w.early, router)
	delete(w.done, router)
	delete(w.retired, router)
}

// Close logs the transitions whose report never came.
func (w *Writer) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, records := range w.waiting {
		for i := range records {
			w.log(&records[i], nil)
		}
	}
	w.waiting = nil
}

func (w *Writer) log(r *engine.Record, rep *Report) {
	attrs := []any{
		"instance", r.Router.Name(), "iface", r.Router.Port.Name, "vrid", r.Router.VRID,
		"from", r.From, "to", r.To, "reason", r.Reason, "priority", r.Priority,
	}
	if r.Peer.IsValid() {
		attrs = append(attrs, "peer", r.Peer)
	}
	if r.Reason == control.ReasonMasterDown {
		if r.LastSeen > 0 {
			attrs = append(attrs, "silent_for", time.Duration(r.At-r.LastSeen))
		}
		attrs = append(attrs, "judged_late", r.Late)
	}
	level := slog.LevelInfo
	if rep != nil {
		attrs = append(attrs, "addresses_after", time.Duration(rep.AppliedNs-rep.OrderedNs))
		if rep.Announced > 0 {
			attrs = append(attrs, "announced_after", time.Duration(rep.Announced-rep.OrderedNs))
		}
		if rep.Err != nil {
			level = slog.LevelError
			attrs = append(attrs, "err", rep.Err)
		}
	}
	w.Log.Log(context.Background(), level, "transition", attrs...)
}

func (w *Writer) reject(r *engine.Record) {
	if now := time.Now(); now.Sub(w.quiet) > rejectPeriod {
		if w.suppressed > 0 {
			w.Log.Warn("more kinds of refused adverts were counted, but not logged", "kinds", w.suppressed)
		}
		w.quiet, w.rejects, w.suppressed = now, 0, 0
	}
	if w.rejects++; w.rejects > rejectLines {
		w.suppressed++
		return
	}
	e := Entry{
		Time: w.wall(r.At), Kind: Reject, Instance: r.Router.Name(), Interface: r.Router.Port.Name,
		Why: r.Reject.String(), Peer: name(r.Peer),
	}
	if r.Kind == engine.RecordAccepted {
		e.Kind, e.Why = Recovered, "valid adverts"
		w.Log.Info("adverts are valid again", "instance", e.Instance, "peer", e.Peer)
	} else {
		w.Log.Warn("advert refused; further ones of this kind are counted, but not logged",
			"instance", e.Instance, "iface", e.Interface, "vrid", r.Router.VRID, "peer", e.Peer, "reason", e.Why)
	}
	w.Journal.Append(e)
}

// session reports that fast detection began to count, or that the RFC's timer
// is on its own again.
func (w *Writer) session(r *engine.Record) {
	e := Entry{
		Time: w.wall(r.At), Kind: FastDetect, Instance: r.Port.Name, Interface: r.Port.Name,
		Peer: name(r.Peer), Why: r.Verdict.String(),
	}
	attrs := []any{"iface", r.Port.Name, "peer", e.Peer}
	switch r.Verdict {
	case bfd.VerdictUp:
		w.Log.Info("fast detection is up", attrs...)
	case bfd.VerdictAdminDown:
		w.Log.Warn("the peer no longer serves; fast detection waits", append(attrs, "diag", r.Diag, "instances", r.Acted)...)
	default:
		attrs = append(attrs, "diag", r.Diag, "unanswered_for", r.Unanswered, "instances", r.Acted)
		text := "the peer does not answer; fast detection waits"
		if r.Unmoved > 0 {
			text = "probes are not answered, but adverts arrive: the RFC's timer decides until probes are answered again"
			attrs = append(attrs, "instances_unmoved", r.Unmoved)
		}
		w.Log.Warn(text, attrs...)
	}
	w.Journal.Append(e)
}

// send reports that the kernel refuses adverts, or takes them again.
func (w *Writer) send(r *engine.Record) {
	e := Entry{Time: w.wall(r.At), Kind: SendFailed, Interface: r.Port.Name, Why: r.Errno.Error()}
	if r.Kind == engine.RecordSendRecovered {
		e.Kind, e.Why = SendRecovered, "adverts are being sent again"
		w.Log.Info("adverts are being sent again", "iface", r.Port.Name)
	} else {
		w.Log.Error("advert not sent: the kernel refused it; check the firewall's output chain, the MTU and the route",
			"iface", r.Port.Name, "err", r.Errno)
	}
	w.Journal.Append(e)
}

func name(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
