// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"testing"

	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/controltest"
	"github.com/xvrrp/xvrrp/control/packet"
)

func TestConformance(t *testing.T) {
	everything := func(actions []string) []string { return actions }
	controltest.Play(t, "testdata/conformance", func(*testing.T) controltest.Driver { return &alone{} }, everything)
}

// alone is a Router with nothing around it.
type alone struct{ r *control.Router }

func (a *alone) Configure(cfg control.Config)      { a.r = control.New(cfg) }
func (a *alone) Deadline() (control.Instant, bool) { return a.r.Deadline() }

func (a *alone) Reconfigure(now control.Instant, cfg control.Config) []string {
	return controltest.Actions(a.r.Reconfigure(now, cfg, nil))
}

func (a *alone) Step(now control.Instant, ev control.Event) []string {
	return controltest.Actions(a.r.Step(now, ev, nil))
}

func (a *alone) Advert(now control.Instant, ev control.Event, advert *packet.Advert) []string {
	found, err := a.r.Check(ev.Source, ev.MAC, advert)
	if err != nil {
		return controltest.Refused(err)
	}
	return append(controltest.Found(found), a.Step(now, ev)...)
}
