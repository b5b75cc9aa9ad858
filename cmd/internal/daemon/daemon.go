// SPDX-License-Identifier: Apache-2.0

// Package daemon lives and reconciles: it computes what the configuration wants
// on this host, compares that with what there is, and carries the difference
// out. Boot, reload, news of the host and stop are the same operation. It is
// the only package that knows all others.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xvrrp/xvrrp/cmd/internal/alarm"
	"github.com/xvrrp/xvrrp/cmd/internal/api"
	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/dataplane"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/metrics"
	"github.com/xvrrp/xvrrp/cmd/internal/realtime"
	"github.com/xvrrp/xvrrp/cmd/internal/release"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
	"github.com/xvrrp/xvrrp/vip"
)

const (
	// journalSize is the number of entries that are kept for `xvrrpctl events`.
	journalSize = 4096
	// The number of records that may wait for the journal: so many for each
	// instance that the daemon starts with, and enough for those that are added.
	recordsPerInstance, minRecords = 16, 1 << 11
	// lateLoop is how late the event loop may be before it counts as held up: it
	// may have been replaced by then.
	lateLoop = 2 * time.Millisecond
)

// Load reads the configuration file. The Config is nil if it cannot be run.
type Load func() (*config.Config, config.Diagnostics)

// Options of New.
type Options struct {
	// Config and Findings are what Load returned at first; the findings were
	// logged.
	Config   *config.Config
	Findings config.Diagnostics
	Load     Load
	Version  string
	// Dataplane is auto or one mode: native, generic, tcx, socket.
	Dataplane     string
	ControlSocket string // empty: the usual place, if that can be had
	MetricsListen string // TCP address; empty: only the control socket
	Log           *slog.Logger
	LogDropped    func() uint64 // lines of Log that were dropped
}

// Daemon is everything that runs.
type Daemon struct {
	opts     Options
	log      *slog.Logger
	netns    uint64
	engine   *engine.Engine
	host     *vip.Host
	releaser *release.Keeper
	watcher  *vip.Watcher
	journal  *journal.Journal
	writer   *journal.Writer
	reader   *snapshot.Reader
	judge    *alarm.Judge
	counters vip.Counters // for judge
	server   *api.Server
	reloads  chan reloadRequest
	inbox    inbox
	state    *reconciler
	early    *dataplane.Listener // of the start; nil: there was none

	loopDone chan struct{} // closed when the event loop has ended
	seen     uint64        // progress of the loop; the reader of its records has it
}

// New takes hold of what the daemon needs whatever the configuration says. It
// fails if another daemon serves one of the interfaces; it changes nothing on
// the host.
func New(opts Options) (d *Daemon, err error) {
	d = &Daemon{
		opts: opts, log: opts.Log, netns: rundir.NetNS("self"),
		journal: journal.New(journalSize),
		reader:  &snapshot.Reader{Clock: clock.Now, Lease: opts.Config.Process.Lease},
		reloads: make(chan reloadRequest), loopDone: make(chan struct{}),
	}
	d.inbox.signal = make(chan struct{}, 1)
	d.writer = &journal.Writer{Journal: d.journal, Log: d.log, Clock: clock.Now}
	d.judge = &alarm.Judge{Reader: d.reader, Journal: d.journal, Log: d.log, Frames: d.counters.Received}
	d.state = newReconciler(d)
	d.state.inFile = findings{}.tell(opts.Findings, slog.New(slog.DiscardHandler))
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.watcher, err = vip.NewWatcher(d.news, d.lost); err != nil {
		return d, err
	}
	d.state.links = d.watcher
	d.engine, err = engine.New(engine.Options{
		Lease: opts.Config.Process.Lease, Clock: clock.Now, Facts: present{d.watcher},
		Records: max(minRecords, recordsPerInstance*len(opts.Config.Instances)),
	})
	if err != nil {
		return d, err
	}
	d.state.loop = realLoop{d.engine}
	if d.host, err = vip.NewHost(clock.Now, d.state.reported); err != nil {
		return d, err
	}
	d.host.HeldUp = d.heldUp
	process := &opts.Config.Process
	d.releaser = release.NewKeeper(process.Lease, process.RTPriority, process.NoSwap, d.engine.Stats.Wakeups.Load, d.log)
	d.state.addrs = realAddresses{d.host, d.releaser}
	if d.early, err = dataplane.Listen(opts.Config, d.watcher.Facts()); err != nil {
		d.log.Info("routers count from when their interfaces are open", "err", err)
	}
	if d.early != nil {
		d.state.listener = d.early
	}
	for _, l := range d.watcher.Facts().Links {
		d.host.SetMAC(l.Index, hardwareAddr(l.Ethernet, l.MAC))
	}
	for _, i := range opts.Config.Instances {
		if d.watcher.Facts().Link(i.Interface) == nil {
			continue
		}
		if err := d.state.lockAtStart(i.Interface); err != nil {
			return d, err
		}
	}
	socket := opts.ControlSocket
	if socket == "" {
		socket = rundir.Socket(opts.Config.Instance)
	}
	d.server, err = api.New(api.Options{
		Version: opts.Version, Socket: socket, SocketRequired: opts.ControlSocket != "", MetricsListen: opts.MetricsListen,
		Reader: d.reader, Journal: d.journal, Alarms: d.judge, Loop: &d.engine.Stats, Reload: d.Reload, Log: d.log,
		Metrics: &metrics.Collector{
			Version: opts.Version, Reader: d.reader, Alarms: d.judge, Loop: &d.engine.Stats, LogDropped: opts.LogDropped,
			Announcements: func() (sent, dropped uint64) { return d.host.Sent.Load(), d.host.Dropped.Load() },
		},
	})
	return d, err
}

// Findings returns what is to be said about a configuration on this host, as
// it is now. It changes nothing.
func Findings(cfg *config.Config) (config.Diagnostics, error) {
	facts, err := vip.Facts()
	if err != nil {
		return nil, err
	}
	_, diags := plan.Compute(cfg, facts, plan.Options{Dataplane: "auto"})
	return diags, nil
}

// news takes what happened on this host to the event loop and to the
// addresses, at once. The plan follows.
func (d *Daemon) news(n vip.News) {
	if !n.Addr.IsValid() && d.early != nil {
		d.early.Interrupted(n.Ifindex)
	}
	at := engine.Watched{Ifindex: n.Ifindex, Addr: n.Addr}
	if n.Down == down(d.host.Marked(d.watcher.Facts()), at) {
		d.engine.Link(engine.Link{Watched: at, Down: n.Down, MAC: n.MAC})
	} // else it is an address that is not missed
	switch {
	case n.Addr.IsValid() && n.Down:
		d.host.Lost(vip.Key{Ifindex: n.Ifindex, Addr: n.Addr})
	case !n.Addr.IsValid() && n.Gone:
		d.host.SetMAC(n.Ifindex, nil)
		d.inbox.interfaceGone(n.Ifindex)
	case !n.Addr.IsValid():
		d.host.SetMAC(n.Ifindex, hardwareAddr(n.MAC != [6]byte{}, n.MAC))
	}
}

// heldUp reports whether the event loop is held up, or was and has not judged
// yet what arrived meanwhile.
func (d *Daemon) heldUp() bool {
	return clock.Now() > d.engine.Stats.Planned.Load()+int64(lateLoop)
}

// hardwareAddr returns a MAC as the announcer wants it: nil without Ethernet
// framing.
func hardwareAddr(ethernet bool, mac [6]byte) net.HardwareAddr {
	if !ethernet {
		return nil
	}
	return mac[:]
}

func (d *Daemon) lost(err error) {
	d.log.Warn("missed interface notifications; resynchronizing", "err", err)
	d.host.Verify()
}

// Run works until ctx ends and then leaves in order: priority 0, service until
// a successor is there, addresses removed, programs detached. ready is called
// once the routers run.
func (d *Daemon) Run(ctx context.Context, ready func()) error {
	schedule, err := realtime.Prepare(realtimeOptions(&d.opts.Config.Process), d.log)
	if err != nil {
		return errors.Join(err, d.close())
	}
	background := context.WithoutCancel(ctx)
	work, stopWork := context.WithCancel(background)
	defer stopWork()
	helpers, failing := errgroup.WithContext(work)
	helpers.Go(func() error { return d.watcher.Run(work) })
	// A client that comes early waits, and sees what there is.
	started := make(chan struct{})
	onceStarted := func(run func(context.Context) error) {
		helpers.Go(func() error {
			select {
			case <-started:
				return run(work)
			case <-work.Done():
				return nil
			}
		})
	}
	onceStarted(d.server.Run)
	onceStarted(d.feedWatchdog)
	// The small reservation of the other threads is for what they do beside the
	// loop: it would stretch the start to several times its length.
	onceStarted(func(ctx context.Context) error { return schedule.Keep(ctx, d.log) })
	helpers.Go(func() error { return d.judge.Run(work) })
	helpers.Go(func() error { return d.watchFirewall(work, vip.WatchFirewall) })
	helpers.Go(func() error { return d.releaser.Run(work) })

	owning, stopOwning := context.WithCancel(background)
	defer stopOwning()
	owner := make(chan error, 1)
	go func() { owner <- d.host.Run(owning) }()
	var loopErr error
	go func() {
		defer close(d.loopDone)
		loopErr = d.engine.Run(schedule.Apply)
	}()
	records := make(chan error, 1)
	go func() { records <- d.engine.ReadRecords(d.writer.Record, d.progress) }()

	stopping, stop := context.WithCancel(ctx)
	defer stop()
	reconciled := make(chan error, 1)
	go func() {
		reconciled <- d.state.run(stopping, func() {
			ready()
			close(started)
		})
	}()
	select {
	case err = <-reconciled: // asked to stop, or it could not start
	case <-d.loopDone: // it failed: nothing can leave in order, see removeSets
		err = <-reconciled
	case <-failing.Done():
		// Without news of interfaces, say, the daemon would be wrong and not
		// know it.
		stop()
		err = <-reconciled
	}
	d.endLoop()
	d.state.removeSets()
	stopOwning()
	err = errors.Join(err, loopErr, <-owner, d.state.closePorts())
	stopWork()
	err = errors.Join(err, helpers.Wait(), d.engine.StopRecords(), <-records)
	d.writer.Close()
	return errors.Join(err, d.close())
}

// endLoop ends the event loop, whose routers have left.
func (d *Daemon) endLoop() {
	d.engine.Apply(&engine.Batch{Quit: true}) // not taken: the loop has failed
	<-d.loopDone
}

// progress wakes the reconciler when the event loop has put a batch in place or
// retired a router.
func (d *Daemon) progress() {
	if n := d.engine.Progress(); n != d.seen {
		d.seen = n
		d.inbox.wake()
	}
}

func realtimeOptions(p *config.Process) realtime.Options {
	return realtime.Options{
		Nice: p.Nice, Priority: p.RTPriority, PriorityRequired: p.RTConfigured, RTTime: p.RTTime,
		LockMemory: p.NoSwap, LockMemoryRequired: p.NoSwapConfigured, CPUs: p.CPUs,
	}
}

// watchFirewall has the firewall looked at when somebody changes the ruleset, and
// at each start of watch: until then, changes went unnoticed. What ended watch
// may pass, and nobody tells when.
func (d *Daemon) watchFirewall(ctx context.Context, watch func(context.Context, func()) error) error {
	told := ""
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		began := time.Now()
		err := watch(ctx, d.inbox.firewallChanged)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > longestRetry { // it worked
			pause, told = firstRetry, ""
		}
		if text := fmt.Sprint(err); text != told {
			d.log.Warn("cannot watch the firewall: changes by other programs go unnoticed until that works", "err", err)
			told = text
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// close gives back what New took.
func (d *Daemon) close() error {
	var errs []error
	if d.server != nil {
		errs = append(errs, d.server.Close())
	}
	if d.watcher != nil {
		errs = append(errs, d.watcher.Close())
	}
	errs = append(errs, d.counters.Close())
	if d.host != nil {
		errs = append(errs, d.host.Close())
	}
	if d.engine != nil {
		errs = append(errs, d.engine.Close())
	}
	d.state.deafen()
	errs = append(errs, d.state.unlock())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
