// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/alarm"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/journal"
	"github.com/xvrrp/xvrrp/cmd/internal/snapshot"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Names, labels and help of metrics are an interface: dashboards and alerts
// are written against them.
func TestMetricNames(t *testing.T) {
	ch := make(chan *prometheus.Desc, 100)
	(&Collector{}).Describe(ch)
	close(ch)
	var lines []string
	for d := range ch {
		lines = append(lines, d.String())
	}
	got := strings.Join(lines, "\n") + "\n"
	const file = "testdata/metrics.golden"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

// records are those of a kernel.
type records struct{ err error }

func (r records) Arrived(id loader.RouterID) uint64 { return r.Liveness(id).Count }

func (records) Liveness(loader.RouterID) loader.Liveness {
	return loader.Liveness{Count: 40, JitterNs: 2_000_000, LargestGapNs: 3_000_000}
}
func (records) Fence(loader.RouterID, int64) loader.Fence { return loader.Fence{Active: true} }
func (records) Lease() loader.Lease                       { return loader.Lease{UntilNs: 1e12, Masters: 1} }
func (records) Answer(uint32) loader.Answer               { return loader.Answer{} }
func (k records) Counters(int) (loader.Counters, error) {
	var c loader.Counters
	c[loader.ReasonEvent].Pass, c[loader.ReasonEvent].Drop = 5, 6
	return c, k.err
}

// scrape returns the lines of a scrape of one instance with this name.
func scrape(t *testing.T, name string, kernel snapshot.Kernel) string {
	t.Helper()
	port := &engine.Port{Name: "eth0", Ifindex: 7}
	port.SendErrors.Store(3)
	r := engine.NewRouter(0, port, nil, engine.Spec{Name: name, Config: control.Config{
		VRID: 51, Version: 3, Priority: 100, Interval: time.Second, DownAdverts: 3,
	}})
	p := &r.Published
	p.Sent.Store(10)
	p.Received.Store(2)
	p.ZeroSent.Store(11)
	p.ZeroReceived.Store(12)
	p.Held.Store(13)
	p.Transitions[control.ReasonStartup].Store(14)
	p.Rejected[packet.RejectChecksum].Store(15)
	p.Forms[packet.ChecksumMessage].Store(16)
	reader := &snapshot.Reader{Clock: func() int64 { return 2e9 }}
	reader.Set(&snapshot.Sources{
		Routers: []snapshot.Router{{Router: r, Records: kernel, Name: name, Interface: "eth0", VRID: 51, Version: 3}},
		Ports:   []snapshot.Port{{Port: port, Records: kernel, Mode: "tcx", Reflects: true}},
	})
	stats := &engine.Stats{}
	stats.Wakeups.Store(20)
	stats.Lost.Store(21)
	stats.Suspensions.Store(22)
	stats.SessionsFull.Store(23)
	log := slog.New(slog.DiscardHandler)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(&Collector{
		Version: "1.2", Reader: reader, Loop: stats, LogDropped: func() uint64 { return 24 },
		Alarms:        &alarm.Judge{Reader: reader, Journal: journal.New(1), Log: log},
		Announcements: func() (sent, dropped uint64) { return 25, 26 },
	}))
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 200, w.Code, w.Body)
	return w.Body.String()
}

func TestValues(t *testing.T) {
	got := strings.Split(scrape(t, "VI_1", records{}), "\n")
	const of = `instance="VI_1",interface="eth0",`
	for _, want := range []string{
		`xvrrp_build_info{version="1.2"} 1`,
		`xvrrp_state{` + of + `state="INIT",vrid="51"} 1`,
		`xvrrp_state{` + of + `state="MASTER",vrid="51"} 0`,
		`xvrrp_state_seconds{` + of + `vrid="51"} 2`,
		`xvrrp_priority{` + of + `vrid="51"} 100`,
		`xvrrp_adverts_sent_total{` + of + `vrid="51"} 10`,
		`xvrrp_adverts_received_total{` + of + `vrid="51"} 42`, // 40 of them in the kernel
		`xvrrp_priority_zero_sent_total{` + of + `vrid="51"} 11`,
		`xvrrp_priority_zero_received_total{` + of + `vrid="51"} 12`,
		`xvrrp_master_down_held_total{` + of + `vrid="51"} 13`,
		`xvrrp_transitions_total{` + of + `reason="startup",vrid="51"} 14`,
		`xvrrp_adverts_rejected_total{` + of + `reason="bad_checksum",vrid="51"} 15`,
		`xvrrp_adverts_checksum_total{form="message",` + of + `vrid="51"} 16`,
		`xvrrp_advert_jitter_seconds{` + of + `vrid="51"} 0.002`,
		`xvrrp_advert_largest_gap_seconds{` + of + `vrid="51"} 0.003`,
		`xvrrp_fence_active{` + of + `vrid="51"} 1`,
		`xvrrp_alarm{alarm="deaf",` + of + `vrid="51"} 0`,
		`xvrrp_lease_held{interface="eth0"} 1`,
		`xvrrp_fast_detect_reflector{interface="eth0",state="Up"} 1`,
		`xvrrp_dataplane{interface="eth0",mode="tcx"} 1`,
		`xvrrp_advert_send_errors_total{interface="eth0"} 3`,
		`xvrrp_frames_total{interface="eth0",reason="` + loader.ReasonEvent.String() + `",verdict="pass"} 5`,
		`xvrrp_frames_total{interface="eth0",reason="` + loader.ReasonEvent.String() + `",verdict="drop"} 6`,
		`xvrrp_loop_wakeups_total 20`, `xvrrp_loop_reports_lost_total 21`, `xvrrp_loop_stalls_total 22`,
		`xvrrp_fast_detect_sessions_full_total 23`, `xvrrp_log_lines_dropped_total 24`,
		`xvrrp_announcements_sent_total 25`, `xvrrp_announcements_dropped_total 26`,
	} {
		assert.Contains(t, got, want)
	}
}

// A name from a file in another encoding does not end the scrape.
func TestNameThatIsNotUTF8(t *testing.T) {
	assert.Contains(t, scrape(t, "B\xfcro", records{}), `xvrrp_priority{instance="B�ro"`)
}

// Counters that cannot be read are left out; the rest is there.
func TestCountersThatCannotBeRead(t *testing.T) {
	got := scrape(t, "VI_1", records{errors.New("no map")})
	assert.NotContains(t, got, "xvrrp_frames_total{")
	assert.Contains(t, got, "xvrrp_dataplane{")
}

// ports collects what is told of interfaces.
type ports []snapshot.Interface

func (ports) Describe(ch chan<- *prometheus.Desc) { (&Collector{}).Describe(ch) }

func (p ports) Collect(ch chan<- prometheus.Metric) {
	for i := range p {
		port(emitter(ch), &p[i])
	}
}

// addr returns an address as it is published.
func addr(s string) engine.Addr { return netip.MustParseAddr(s).As16() }

// Every value of a session is its own, under the name of the interface that has
// it and the peer's address as it is written.
func TestSessionValues(t *testing.T) {
	up := snapshot.Session{
		SessionState: engine.SessionState{Peer: addr("192.0.2.9"), Local: 11, Remote: 12, State: bfd.Up},
		Sent:         13, Unsent: 99, Replies: 14,
	}
	up.Verdicts[bfd.VerdictUp], up.Verdicts[bfd.VerdictDown], up.Verdicts[bfd.VerdictAdminDown] = 15, 16, 17
	left := snapshot.Session{SessionState: engine.SessionState{
		Peer: addr("192.0.2.8"), Local: 21, Remote: 22, State: bfd.AdminDown, Diag: bfd.DiagNeighborDown,
	}}
	echo := snapshot.Session{SessionState: engine.SessionState{
		Peer: addr("192.0.2.9"), Local: 31, Remote: 31, State: bfd.Down, Diag: bfd.DiagEchoFailed, Echo: true,
	}}
	six := snapshot.Session{SessionState: engine.SessionState{Peer: addr("2001:db8::9"), Local: 41, State: bfd.Up}}
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(ports{
		{Port: snapshot.Port{Port: &engine.Port{Name: "eth0"}, Mode: "tcx"}, Sessions: []snapshot.Session{up, left}},
		{Port: snapshot.Port{Port: &engine.Port{Name: "eth1"}, Mode: "tcx"}, Sessions: []snapshot.Session{echo, six}},
	}))
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	require.Equal(t, 200, w.Code, w.Body)
	var got []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "xvrrp_fast_detect_") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	var want []string
	for _, tc := range []struct {
		iface, mode, peer string
		state             bfd.State
		diag              bfd.Diag
		local, remote     int
		sent, replies     int
		verdicts          [3]int // up, down, admin down
	}{
		{iface: "eth0", mode: "sbfd", peer: "192.0.2.9", state: bfd.Up, diag: bfd.DiagNone, local: 11, remote: 12, sent: 13, replies: 14, verdicts: [3]int{15, 16, 17}},
		{iface: "eth0", mode: "sbfd", peer: "192.0.2.8", state: bfd.AdminDown, diag: bfd.DiagNeighborDown, local: 21, remote: 22},
		{iface: "eth1", mode: "echo", peer: "192.0.2.9", state: bfd.Down, diag: bfd.DiagEchoFailed, local: 31, remote: 31},
		{iface: "eth1", mode: "sbfd", peer: "2001:db8::9", state: bfd.Up, diag: bfd.DiagNone, local: 41, remote: 0},
	} {
		of := fmt.Sprintf("interface=%q,", tc.iface)
		last := fmt.Sprintf("mode=%q,peer=%q", tc.mode, tc.peer)
		for _, state := range []bfd.State{bfd.AdminDown, bfd.Down, bfd.Up} {
			is := 0
			if state == tc.state {
				is = 1
			}
			want = append(want, fmt.Sprintf("xvrrp_fast_detect_session{%s%s,state=%q} %d", of, last, state, is))
		}
		want = append(want,
			fmt.Sprintf("xvrrp_fast_detect_session_info{diag=%q,%slocal_discriminator=\"%d\",%s,remote_discriminator=\"%d\"} 1",
				tc.diag, of, tc.local, last, tc.remote),
			fmt.Sprintf("xvrrp_fast_detect_probes_total{%s%s} %d", of, last, tc.sent),
			fmt.Sprintf("xvrrp_fast_detect_replies{%s%s} %d", of, last, tc.replies),
		)
		for n, v := range []bfd.Verdict{bfd.VerdictUp, bfd.VerdictDown, bfd.VerdictAdminDown} {
			want = append(want, fmt.Sprintf("xvrrp_fast_detect_verdicts_total{%s%s,verdict=%q} %d", of, last, v, tc.verdicts[n]))
		}
	}
	assert.ElementsMatch(t, want, got)
}
