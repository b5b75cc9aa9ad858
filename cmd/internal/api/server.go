// SPDX-License-Identifier: Apache-2.0

// Package api serves the control API: HTTP and JSON on a Unix socket, and the
// metrics on TCP if that is wanted. Snapshots and the journal go out, commands
// come in.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/alarm"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
)

const (
	// A connection that says nothing is closed, so that idle clients do not
	// use up the descriptors.
	headerTimeout = 5 * time.Second
	idleTimeout   = 30 * time.Second
	// writeTimeout ends an answer that the client does not read.
	writeTimeout = 10 * time.Second
	// connections is the number of clients of a listener at a time.
	connections = 64
	// followers of the events may stay for ever; the other connections are left
	// for everybody else.
	followers = connections / 2
	// stopTimeout is how long answers under way may take at the stop.
	stopTimeout = 2 * time.Second
)

// Reload reads the configuration again. With plan it only reports what would
// change. It is called from one request at a time.
type Reload func(ctx context.Context, plan bool) (ctlapi.Reload, error)

// Options of New.
type Options struct {
	Version string
	Socket  string
	// SocketRequired makes New fail without the control socket.
	SocketRequired bool
	MetricsListen  string // TCP address; empty: only the control socket
	Reader         *snapshot.Reader
	Journal        *journal.Journal
	Alarms         *alarm.Judge
	Loop           *engine.Stats
	Metrics        prometheus.Collector
	Reload         Reload
	Log            *slog.Logger
}

// Server is the control API.
type Server struct {
	opts    Options
	started time.Time
	unix    net.Listener // nil: there is no control socket
	tcp     net.Listener
	metrics http.Handler
	follow  chan struct{} // has the followers
}

// New listens. A socket without a listener is a leftover and replaced.
func New(opts Options) (*Server, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(opts.Metrics)
	s := &Server{opts: opts, started: time.Now(), follow: make(chan struct{}, followers), metrics: promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError,
	})}
	if opts.Socket != "" {
		l, err := listen(opts.Socket)
		switch {
		case err == nil:
			s.unix = netutil.LimitListener(userListener{l}, connections)
		case opts.SocketRequired || errors.Is(err, rundir.ErrInUse):
			return nil, err
		default:
			opts.Log.Warn("no control socket: xvrrpctl cannot reach this daemon", "err", err)
		}
	}
	if opts.MetricsListen != "" {
		l, err := net.Listen("tcp", opts.MetricsListen)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen for metrics: %w", err), s.Close())
		}
		s.tcp = netutil.LimitListener(l, connections)
	}
	return s, nil
}

func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of the control socket: %w", err)
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("control socket %s: %w", path, rundir.ErrInUse)
	}
	if err := removeSocket(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect control socket: %w", err), l.Close())
	}
	return l, nil
}

// removeSocket removes a leftover socket, and nothing else.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at control socket: %w", err)
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("control socket %s: there is a file of this name that is not a socket", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("replace stale control socket: %w", err)
	}
	return nil
}

// Close closes the listeners.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.unix, s.tcp} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Run serves until ctx ends. A client that does not read holds nothing up.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ctlapi.StatusPath, s.status)
	mux.HandleFunc("GET "+ctlapi.EventsPath, s.events)
	mux.HandleFunc("POST "+ctlapi.ReloadPath, s.reload)
	mux.Handle("GET "+ctlapi.MetricsPath, s.metrics)
	public := http.NewServeMux()
	public.Handle("GET "+ctlapi.MetricsPath, s.metrics)

	var group errgroup.Group
	serve := func(l net.Listener, h http.Handler) {
		if l == nil {
			return
		}
		srv := &http.Server{
			Handler: h, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, WriteTimeout: writeTimeout,
			BaseContext: func(net.Listener) context.Context { return ctx },
			ErrorLog:    slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
		}
		group.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve control API: %w", err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			_ = srv.Shutdown(limit) // what is not done by then is cut off
			return srv.Close()
		})
	}
	serve(s.unix, mux)
	serve(s.tcp, public)
	return group.Wait()
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, s.statusNow())
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

// events writes the journal, one JSON object a line: what is kept after the
// number in `since`, by default nothing, and then what happens.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	since := s.opts.Journal.Last()
	if v := r.URL.Query().Get("since"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			http.Error(w, fmt.Sprintf("since: %q is not a number", v), http.StatusBadRequest)
			return
		}
		since = n
	}
	follow := r.URL.Query().Get("follow") != "false"
	if follow {
		select {
		case s.follow <- struct{}{}:
			defer func() { <-s.follow }()
		default:
			http.Error(w, fmt.Sprintf("%d clients follow the events already; end one of them", followers), http.StatusServiceUnavailable)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Time{})
	w.WriteHeader(http.StatusOK)
	_ = control.Flush()
	out := json.NewEncoder(w)
	write := func(e journal.Entry) error {
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := out.Encode(event(e)); err != nil {
			return err
		}
		return control.Flush()
	}
	if !follow {
		for _, e := range s.opts.Journal.After(since) {
			if write(e) != nil {
				return
			}
		}
		return
	}
	_ = s.opts.Journal.Follow(r.Context(), since, write)
}

func event(e journal.Entry) ctlapi.Event {
	out := ctlapi.Event{
		Seq: e.Seq, Time: e.Time, Kind: string(e.Kind), Instance: e.Instance, From: e.From, To: e.To,
		Why: e.Why, Priority: e.Priority, Peer: e.Peer, MAC: e.MAC,
	}
	if out.Instance == "" {
		out.Instance = e.Interface
	}
	return out
}

// reload is for root and for the user that the daemon runs as.
func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	if uid, err := strconv.Atoi(r.RemoteAddr); err != nil || uid != 0 && uid != os.Geteuid() {
		s.opts.Log.Warn("reload refused: the client is neither root nor the user of the daemon", "uid", r.RemoteAddr)
		answer(w, http.StatusForbidden, ctlapi.Error{Error: "a reload is for root and for the user of the daemon"})
		return
	}
	report, err := s.opts.Reload(r.Context(), r.URL.Query().Get("plan") == "true")
	if err != nil {
		answer(w, http.StatusUnprocessableEntity, ctlapi.Error{Error: err.Error(), Findings: report.Findings})
		return
	}
	answer(w, http.StatusOK, report)
}

// userListener makes the user at the other end of a Unix socket the remote
// address of the connection.
type userListener struct{ net.Listener }

func (l userListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	addr := userAddr("unknown")
	if raw, err := c.(*net.UnixConn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				addr = userAddr(strconv.Itoa(int(cred.Uid)))
			}
		})
	}
	return userConn{c, addr}, nil
}

type userConn struct {
	net.Conn
	user userAddr
}

func (c userConn) RemoteAddr() net.Addr { return c.user }

// userAddr is a user's number.
type userAddr string

func (userAddr) Network() string  { return "unix" }
func (u userAddr) String() string { return string(u) }
