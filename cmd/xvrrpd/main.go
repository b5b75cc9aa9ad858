// SPDX-License-Identifier: Apache-2.0

// Command xvrrpd keeps virtual addresses alive with VRRP. It reads the
// keepalived.conf that it is given and takes keepalived's options.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/build"
	"github.com/xvrrp/xvrrp/cmd/internal/daemon"
	"github.com/xvrrp/xvrrp/cmd/internal/logging"
	"github.com/xvrrp/xvrrp/cmd/internal/release"
	"github.com/xvrrp/xvrrp/control/config"
)

// Exit codes; those of keepalived where it has one.
const (
	exitOK      = 0
	exitRuntime = 1
	exitMissing = 2 // a keyword lacks its argument
	exitConfig  = 4 // the configuration cannot be run
	exitWarning = 5 // with -t: it can, but a line is ignored
	exitUsage   = 64
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	opts, err := parseOptions(args, stderr)
	if errors.Is(err, pflag.ErrHelp) {
		return exitOK
	}
	if err != nil {
		fmt.Fprintf(stderr, "xvrrpd: %v\n", err)
		return exitUsage
	}
	switch {
	case opts.version:
		fmt.Fprintf(stdout, "xvrrpd %s\n", build.Version())
		return exitOK
	case opts.signum != "":
		return printSignal(opts.signum, stdout, stderr)
	}
	if settings, ok := os.LookupEnv(release.Environment); ok {
		return runReleaser(settings, opts, stderr)
	}
	env, seed := environment(opts), rand.Uint64()
	load := func() (*config.Config, config.Diagnostics) {
		env.Random = rand.New(rand.NewPCG(seed, 0)).Uint32 // the same numbers at every reload
		return config.Parse(osFiles{}, opts.config, env)
	}
	cfg, diags := load()
	inFile := diags
	if cfg != nil {
		if err := enterNamespace(opts, cfg); err != nil {
			fmt.Fprintf(stderr, "xvrrpd: %v\n", err)
			return exitRuntime
		}
		more, err := daemon.Findings(cfg)
		if err != nil {
			fmt.Fprintf(stderr, "xvrrpd: %v\n", err)
			return exitRuntime
		}
		diags = append(diags, more...)
	}
	if opts.test || diags.Fatal() {
		if err := printFindings(opts, diags, stderr); err != nil {
			fmt.Fprintf(stderr, "xvrrpd: %v\n", err)
			return exitRuntime
		}
		return exitCode(diags)
	}
	if code, done := detach(opts, stderr); done {
		return code
	}
	log, out, err := logging.New(opts.logging)
	if err != nil {
		fmt.Fprintf(stderr, "xvrrpd: %v\n", err)
		return exitRuntime
	}
	defer out.Close()
	for _, d := range inFile { // the rest is the daemon's to log
		level := slog.LevelWarn
		if d.Severity == config.Note {
			level = slog.LevelInfo
		}
		log.Log(context.Background(), level, d.Message, "at", d.Pos.String())
	}
	for _, flag := range opts.ignored {
		log.Warn("option has no effect", "option", flag)
	}
	err = serve(opts, daemon.Options{Config: cfg, Findings: inFile, Load: load, Log: log, LogDropped: out.Dropped})
	if err != nil {
		log.Error("xvrrpd ends", "err", err)
		reportReady(err)
		return exitRuntime
	}
	return exitOK
}

// runReleaser is the second process of a daemon on a host without a fence.
func runReleaser(settings string, opts *options, stderr io.Writer) int {
	log, out, err := logging.New(opts.logging)
	if err != nil {
		fmt.Fprintf(stderr, "xvrrpd: releaser: %v\n", err)
		return exitRuntime
	}
	defer out.Close()
	if err := release.Main(settings, log); err != nil {
		log.Error("the releaser ends", "err", err)
		return exitRuntime
	}
	return exitOK
}

func serve(opts *options, run daemon.Options) error {
	cfg, log := run.Config, run.Log
	// Threads in system calls hold on to their P for a moment. With spare ones
	// the loop's thread never waits for a P when it wakes up.
	runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	ctx, stop := untilSignal()
	defer stop()
	// A log pipe without a reader must not end the daemon.
	signal.Ignore(unix.SIGPIPE)
	pid, err := claimPID(opts, cfg.Instance, log)
	if err != nil {
		return err
	}
	defer pid.remove()
	// A request to reload is not lost behind another signal during a reload.
	reloads, refused := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(reloads, unix.SIGHUP)
	signal.Notify(refused, refusedSignals...) // left alone they would end the daemon
	run.Version, run.Dataplane = build.Version(), opts.dataplane
	run.ControlSocket, run.MetricsListen = opts.controlSocket, opts.metricsListen
	d, err := daemon.New(run)
	if err != nil {
		return err
	}
	go handleSignals(ctx, reloads, refused, d, log)
	err = d.Run(ctx, func() {
		log.Info("xvrrpd starts", "version", build.Version(), "config", opts.config, "instances", len(cfg.Instances))
		reportReady(nil)
		_, _ = systemd.SdNotify(false, systemd.SdNotifyReady)
	})
	log.Info("xvrrpd stops")
	return err
}

// printFindings writes to the file of -t, if it names one.
func printFindings(opts *options, diags config.Diagnostics, stderr io.Writer) error {
	if opts.test && opts.findings != onStderr {
		f, err := os.OpenFile(opts.findings, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return fmt.Errorf("open the file for findings: %w", err)
		}
		defer f.Close()
		stderr = f
	}
	for _, d := range diags {
		if _, err := fmt.Fprintln(stderr, d); err != nil {
			return fmt.Errorf("write findings: %w", err)
		}
	}
	return nil
}

// exitCode is that of -t: a lesser problem never hides a fatal one.
func exitCode(diags config.Diagnostics) int {
	code := exitOK
	for _, d := range diags {
		switch {
		case d.Severity == config.Error:
			return exitConfig
		case d.Severity == config.Missing:
			code = exitMissing
		case d.Severity == config.Warning && code == exitOK:
			code = exitWarning
		}
	}
	return code
}
