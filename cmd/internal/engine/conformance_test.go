// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/controltest"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// What the Router does alone it does in the loop: adverts come as events of the
// kernel, startup, shutdown and reconfiguration as batches.
func TestConformance(t *testing.T) {
	controltest.Play(t, "../../../control/testdata/conformance", func(t *testing.T) controltest.Driver {
		return &player{t: t}
	}, func(actions []string) []string {
		// ActionAddresses is not the loop's: whoever changes a Spec changes the
		// Set. Everything else is told in the Router's order, but for the orders
		// about addresses: the loop keeps them back until the adverts are sent.
		out := slices.DeleteFunc(slices.Clone(actions), func(a string) bool { return a == "addresses" })
		slices.SortStableFunc(out, func(a, b string) int { return place(a) - place(b) })
		return out
	})
}

func place(action string) int {
	if action == "takeover" || action == "release" || action == "announce" {
		return 1
	}
	return 0
}

// player is an engine with one router and fakes that note what they were told.
// Time 0 of a file is testStart.
type player struct {
	t *testing.T
	*bench
	router *Router
	notes  []string
	queued int // adverts that are not sent
}

// note notes what was told, after the transitions until then.
func (p *player) note(what ...string) {
	for _, r := range p.takeRecords(RecordTransition) {
		p.notes = append(p.notes, controltest.Transition(r.From, r.To, r.Reason))
	}
	p.notes = append(p.notes, what...)
}

type notingKernel struct {
	*fakeKernel
	p *player
}

func (k notingKernel) Install(id loader.RouterID, e *loader.Event) bool {
	k.p.note("follow")
	return k.fakeKernel.Install(id, e)
}

func (k notingKernel) Clear(id loader.RouterID) {
	k.p.note("unfollow")
	k.fakeKernel.Clear(id)
}

type notingSender struct{ p *player }

func (s notingSender) Queue(_ *transport.Frame, priority uint8) bool {
	s.p.note(controltest.Actions([]control.Action{{Priority: priority}})...)
	s.p.queued++
	return true
}

func (s notingSender) Flush() (sent, refused int, err error) {
	sent, s.p.queued = s.p.queued, 0
	return sent, 0, nil
}

type notingSet struct{ p *player }

func (s notingSet) Takeover() { s.p.order("takeover") }
func (s notingSet) Release()  { s.p.order("release") }
func (s notingSet) Announce() { s.p.order("announce") }
func (notingSet) Hold(bool)   {}

// order notes an order about addresses.
func (p *player) order(what string) {
	assert.Zero(p.t, p.queued, "%s goes before an advert", what)
	p.note(what)
}

func (p *player) Configure(cfg control.Config) {
	p.bench = newBench(p.t)
	p.port.Kernel, p.port.Sender = notingKernel{p.kernel, p}, notingSender{p}
	p.port.MAC = cfg.MAC
	p.router = NewRouter(0, p.port, notingSet{p}, Spec{Config: cfg})
	p.routers = []*Router{p.router}
	p.apply(&Batch{Table: p.newTable()})
	p.seen(0)
}

// seen ends what the loop does at a time, and returns what was told.
func (p *player) seen(before int) []string {
	p.finish()
	p.note()
	out := p.notes[before:]
	p.notes = nil
	return out
}

// batch applies a batch and nothing else: deadlines are the file's to judge.
func (p *player) batch(now control.Instant, b *Batch) {
	p.now = testStart + now
	require.True(p.t, p.Apply(b))
	p.takeBatch()
}

func (p *player) Reconfigure(now control.Instant, cfg control.Config) []string {
	own := 0
	if cfg.Source != p.router.spec.Config.Source {
		own = 1 // the loop ends the template by itself: sessions have a source, too
	}
	p.port.MAC = cfg.MAC
	p.batch(now, &Batch{Change: []Change{{p.router, Spec{Config: cfg}}}})
	return p.seen(own)
}

func (p *player) Step(now control.Instant, ev control.Event) []string {
	ev.At += testStart
	switch {
	case ev.Kind == control.EventStartup:
		p.batch(now, &Batch{Start: p.routers})
	case ev.Kind == control.EventShutdown && !p.router.retiring:
		p.batch(now, &Batch{Stop: p.routers})
	case ev.Kind == control.EventRefresh:
		p.now = testStart + now
		p.kernel.last[0] = int64(ev.At)
		p.refresh(p.router)
	default:
		p.now = testStart + now
		p.step(p.router, ev)
	}
	return p.seen(0)
}

func (p *player) Advert(now control.Instant, ev control.Event, a *packet.Advert) []string {
	p.now = testStart + now
	p.router.state.Seen = [sightings]Sighting{}
	refused := p.refusals()
	p.handle(&loader.Event{
		RxNs: int64(testStart + ev.At), Src: ev.Source, Dst: group, MAC: ev.MAC, Reason: loader.ReasonEvent,
		Payload: packet.Append(nil, a, ev.Source, group),
	})
	for why, n := range p.refusals() {
		if n > refused[why] {
			return controltest.Refused(packet.Reject(why))
		}
	}
	found := control.Findings{DuplicateSource: p.router.state.Seen[SeenDuplicate].Last != 0}
	if p.router.state.Seen[SeenLists].Last != 0 {
		found.Lists = control.ListsOverlap
	}
	p.notes = append(controltest.Found(found), p.notes...)
	return p.seen(0)
}

func (p *player) refusals() (out [packet.RejectMax]uint64) {
	for why := range out {
		out[why] = p.router.Published.Rejected[why].Load()
	}
	return out
}

func (p *player) Deadline() (control.Instant, bool) {
	return p.router.deadline - testStart, p.router.armed
}
