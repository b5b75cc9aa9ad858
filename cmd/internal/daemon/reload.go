// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
)

// ErrRefused says that a configuration cannot be run. Nothing has changed.
var ErrRefused = errors.New("the configuration is refused and nothing has changed")

type reloadRequest struct {
	plan   bool
	answer chan reloadAnswer
}

type reloadAnswer struct {
	report ctlapi.Reload
	err    error
}

// Reload reads the configuration again and makes the difference, or with plan
// only tells it. A file that cannot be run changes nothing: the error matches
// ErrRefused and the report has the findings.
func (d *Daemon) Reload(ctx context.Context, plan bool) (ctlapi.Reload, error) {
	q := reloadRequest{plan, make(chan reloadAnswer, 1)}
	select {
	case d.reloads <- q:
	case <-ctx.Done():
		return ctlapi.Reload{}, errors.New("the daemon stops")
	}
	a := <-q.answer
	return a.report, a.err
}

func (r *reconciler) reload(q reloadRequest) reloadAnswer {
	report := ctlapi.Reload{Plan: q.plan, Changes: []ctlapi.Change{}, Findings: []string{}}
	cfg, diags := r.opts.Load()
	var want *plan.State
	var host config.Diagnostics
	if cfg != nil {
		diags = append(diags, immutable(r.cfg, cfg)...)
		cfg.Process = r.cfg.Process
		want, host = plan.Compute(cfg, r.facts(), r.planOptions())
	}
	inFile := diags
	diags = append(slices.Clone(diags), host...)
	for _, g := range diags {
		report.Findings = append(report.Findings, g.String())
	}
	if cfg == nil || diags.Fatal() {
		if !q.plan {
			for _, g := range diags {
				r.log.Error(g.Message, "at", g.Pos.String())
			}
			r.log.Error(ErrRefused.Error())
			r.journal.Append(journal.Entry{Time: time.Now(), Kind: journal.ReloadRefused, Why: firstFatal(diags)})
		}
		return reloadAnswer{report, ErrRefused}
	}
	for _, c := range plan.Describe(r.have, want) {
		report.Changes = append(report.Changes, ctlapi.Change(c))
	}
	if q.plan {
		return reloadAnswer{report, nil}
	}
	r.cfg = cfg
	for _, c := range report.Changes {
		r.log.Info("reload", "what", c.Instance+" "+c.What, "wire", c.Wire)
	}
	r.log.Info("configuration reloaded", "instances", len(cfg.Instances), "changes", len(report.Changes))
	r.journal.Append(journal.Entry{Time: time.Now(), Kind: journal.Reloaded, Why: fmt.Sprintf("%d changes", len(report.Changes))})
	r.inFile = r.inFile.tell(inFile, r.log)
	r.tell(host)
	_ = r.reconcile(want) // what failed was logged, and is tried again
	r.publish()
	return reloadAnswer{report, nil}
}

func firstFatal(diags config.Diagnostics) string {
	for _, g := range diags {
		if g.Severity >= config.Missing {
			return g.String()
		}
	}
	return ""
}

// immutable returns findings about what cannot change while the daemon runs.
func immutable(was, is *config.Config) config.Diagnostics {
	var out config.Diagnostics
	say := func(s config.Severity, format string, args ...any) {
		out = append(out, config.Diagnostic{Severity: s, Message: fmt.Sprintf(format, args...)})
	}
	if was.NetNamespace != is.NetNamespace {
		say(config.Error, "net_namespace cannot change from %q to %q while xvrrpd runs; restart it", was.NetNamespace, is.NetNamespace)
	}
	if is.Unfinished {
		say(config.Error, "the file ends inside a block; it may still be being written, so it is not taken by a reload")
	}
	if was.Instance != is.Instance {
		say(config.Error, "instance cannot change from %q to %q while xvrrpd runs; restart it", was.Instance, is.Instance)
	}
	if !reflect.DeepEqual(was.Process, is.Process) {
		say(config.Warning, "settings of the process (vrrp_rt_priority, vrrp_lease, …) take effect with the next start")
	}
	return out
}
