// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
)

// server is the control API.
type server struct {
	d        *Daemon
	unix     net.Listener // nil: there is no control socket
	tcp      net.Listener
	events   broadcaster
	registry *prometheus.Registry
}

// newServer listens. A control socket that nobody asked for may be missing,
// unless another daemon has it.
func newServer(d *Daemon) (*server, error) {
	s := &server{d: d, registry: prometheus.NewRegistry()}
	s.registry.MustRegister(&collector{d})
	path, required := d.opts.ControlSocket, true
	if path == "" {
		path, required = rundir.Socket(d.opts.Config.Instance), false
	}
	var err error
	if s.unix, err = listen(path); err != nil {
		if required || errors.Is(err, rundir.ErrInUse) {
			return nil, err
		}
		d.log.Warn("no control socket: xvrrpctl cannot reach this daemon", "err", err)
	}
	if d.opts.MetricsListen != "" {
		if s.tcp, err = net.Listen("tcp", d.opts.MetricsListen); err != nil {
			return nil, errors.Join(fmt.Errorf("listen for metrics: %w", err), s.close())
		}
	}
	return s, nil
}

// listen opens the control socket; one that nobody answers on is a leftover and
// replaced.
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

func (s *server) serve(ctx context.Context) error {
	metrics := promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+ctlapi.StatusPath, s.status)
	mux.HandleFunc("GET "+ctlapi.EventsPath, s.follow)
	mux.Handle("GET "+ctlapi.MetricsPath, metrics)
	public := http.NewServeMux()
	public.Handle("GET "+ctlapi.MetricsPath, metrics)

	var group errgroup.Group
	run := func(l net.Listener, h http.Handler) {
		srv := &http.Server{
			Handler: h, ReadHeaderTimeout: 5 * time.Second,
			BaseContext: func(net.Listener) context.Context { return ctx },
		}
		group.Go(func() error {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve control API: %w", err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			// Handlers read maps that are about to be unmapped: wait for them.
			limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return errors.Join(srv.Shutdown(limit), srv.Close())
		})
	}
	if s.unix != nil {
		run(s.unix, mux)
	}
	if s.tcp != nil {
		run(s.tcp, public)
	}
	return group.Wait()
}

func (s *server) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.d.status())
}

// follow writes events as they happen, one JSON object a line.
func (s *server) follow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	ch, leave := s.events.join()
	defer leave()
	flusher := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	_ = flusher.Flush()
	out := json.NewEncoder(w)
	for {
		select {
		case e := <-ch:
			if out.Encode(e) != nil || flusher.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func (s *server) close() error {
	var errs []error
	for _, l := range []net.Listener{s.unix, s.tcp} {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) { // else serve did it
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// broadcaster hands events to every follower. One that does not read misses
// some, which the numbers tell it; nobody waits for it.
type broadcaster struct {
	mu        sync.Mutex
	last      uint64 // number of the newest event
	followers map[chan ctlapi.Event]struct{}
}

func (b *broadcaster) join() (<-chan ctlapi.Event, func()) {
	ch := make(chan ctlapi.Event, 256)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.followers == nil {
		b.followers = map[chan ctlapi.Event]struct{}{}
	}
	b.followers[ch] = struct{}{}
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.followers, ch)
	}
}

func (b *broadcaster) send(e ctlapi.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	e.Seq = b.last
	for ch := range b.followers {
		select {
		case ch <- e:
		default:
		}
	}
}
