// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/alarm"
	"github.com/xvrrp/xvrrp/cmd/internal/ctlapi"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/rundir"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
)

// bench is a server on a socket of its own.
type bench struct {
	*Server
	path   string
	client http.Client
	stop   context.CancelFunc
	ended  chan error
}

func newBench(t *testing.T, reload Reload) *bench {
	b := &bench{path: filepath.Join(t.TempDir(), "s"), ended: make(chan error, 1)}
	log := slog.New(slog.DiscardHandler)
	reader, events := &snapshot.Reader{Clock: func() int64 { return 0 }}, journal.New(100)
	var err error
	b.Server, err = New(Options{
		Version: "v", Socket: b.path, SocketRequired: true, Reader: reader, Journal: events,
		Alarms: &alarm.Judge{Reader: reader, Journal: events, Log: log}, Loop: &engine.Stats{},
		Metrics: prometheus.NewGauge(prometheus.GaugeOpts{Name: "xvrrp_test"}), Reload: reload, Log: log,
	})
	require.NoError(t, err)
	b.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", b.path)
	}}
	ctx, cancel := context.WithCancel(context.Background())
	b.stop = cancel
	go func() { b.ended <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		b.client.CloseIdleConnections()
	})
	return b
}

func (b *bench) do(t *testing.T, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://xvrrpd"+path, nil)
	require.NoError(t, err)
	resp, err := b.client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func TestStatusAndMetrics(t *testing.T) {
	b := newBench(t, nil)
	code, body := b.do(t, http.MethodGet, ctlapi.StatusPath)
	assert.Equal(t, http.StatusOK, code)
	var s ctlapi.Status
	require.NoError(t, json.Unmarshal([]byte(body), &s))
	assert.Equal(t, "v", s.Version)
	_, body = b.do(t, http.MethodGet, ctlapi.MetricsPath)
	assert.Contains(t, body, "xvrrp_test 0")
	code, _ = b.do(t, http.MethodPost, ctlapi.StatusPath)
	assert.Equal(t, http.StatusMethodNotAllowed, code)
}

func TestEvents(t *testing.T) {
	b := newBench(t, nil)
	b.opts.Journal.Append(journal.Entry{Kind: journal.Alarm, Interface: "eth0", Why: "first"})
	b.opts.Journal.Append(journal.Entry{Kind: journal.Transition, Instance: "A", Why: "second"})
	_, body := b.do(t, http.MethodGet, ctlapi.EventsPath+"?since=1&follow=false")
	var e ctlapi.Event
	require.NoError(t, json.Unmarshal([]byte(body), &e))
	assert.Equal(t, []any{uint64(2), "A", "second"}, []any{e.Seq, e.Instance, e.Why})
	code, body := b.do(t, http.MethodGet, ctlapi.EventsPath+"?since=yesterday")
	assert.Equal(t, http.StatusBadRequest, code)
	assert.Contains(t, body, `"yesterday" is not a number`)

	// A follower gets what happens from now on.
	resp, err := b.client.Get("http://xvrrpd" + ctlapi.EventsPath)
	require.NoError(t, err)
	defer resp.Body.Close()
	b.opts.Journal.Append(journal.Entry{Why: "third"})
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	require.NoError(t, err)
	assert.Contains(t, line, `"third"`)
}

// A follower that does not read holds nothing up.
func TestStuckFollower(t *testing.T) {
	b := newBench(t, nil)
	resp, err := b.client.Get("http://xvrrpd" + ctlapi.EventsPath)
	require.NoError(t, err)
	defer resp.Body.Close()
	for range 100 {
		b.opts.Journal.Append(journal.Entry{Why: strings.Repeat("x", 1<<16)})
	}
	b.stop()
	assert.NoError(t, <-b.ended)
}

// Followers leave room for others, and a client that says nothing does not keep
// its connection.
func TestRoomForOthers(t *testing.T) {
	b := newBench(t, nil)
	var open []io.Closer
	for range followers {
		resp, err := b.client.Get("http://xvrrpd" + ctlapi.EventsPath)
		require.NoError(t, err)
		open = append(open, resp.Body)
	}
	code, body := b.do(t, http.MethodGet, ctlapi.EventsPath)
	assert.Equal(t, http.StatusServiceUnavailable, code)
	assert.Contains(t, body, "32 clients follow the events already")
	code, _ = b.do(t, http.MethodGet, ctlapi.EventsPath+"?follow=false")
	assert.Equal(t, http.StatusOK, code)
	for range connections - followers {
		c, err := net.Dial("unix", b.path)
		require.NoError(t, err)
		open = append(open, c)
	}
	b.client.CloseIdleConnections()
	code, _ = b.do(t, http.MethodGet, ctlapi.StatusPath)
	assert.Equal(t, http.StatusOK, code)

	require.NoError(t, open[0].Close())
	require.Eventually(t, func() bool { return len(b.follow) < followers }, 10*time.Second, time.Millisecond)
	for _, c := range open {
		_ = c.Close()
	}
	require.Eventually(t, func() bool { return len(b.follow) == 0 }, 10*time.Second, time.Millisecond)
}

func TestReload(t *testing.T) {
	var plans []bool
	b := newBench(t, func(_ context.Context, plan bool) (ctlapi.Reload, error) {
		plans = append(plans, plan)
		if len(plans) > 2 {
			return ctlapi.Reload{Findings: []string{"a.conf:1:1: error: no"}}, errors.New("refused")
		}
		return ctlapi.Reload{Plan: plan}, nil
	})
	for _, path := range []string{ctlapi.ReloadPath, ctlapi.ReloadPath + "?plan=true"} {
		code, _ := b.do(t, http.MethodPost, path)
		assert.Equal(t, http.StatusOK, code)
	}
	assert.Equal(t, []bool{false, true}, plans)
	code, body := b.do(t, http.MethodPost, ctlapi.ReloadPath)
	assert.Equal(t, http.StatusUnprocessableEntity, code)
	assert.JSONEq(t, `{"error": "refused", "findings": ["a.conf:1:1: error: no"]}`, body)

	// It is for root and for the user of the daemon.
	for _, user := range []string{strconv.Itoa(os.Geteuid() + 1), "unknown", ""} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodPost, ctlapi.ReloadPath, nil)
		r.RemoteAddr = user
		b.reload(w, r)
		assert.Equal(t, http.StatusForbidden, w.Code, user)
	}
	assert.Len(t, plans, 3)
}

func TestSocketInUse(t *testing.T) {
	b := newBench(t, nil)
	_, err := listen(b.path)
	assert.ErrorIs(t, err, rundir.ErrInUse)
}
