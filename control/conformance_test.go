// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control"
)

// TestConformance plays the files of testdata/conformance. A file has one
// `config` line and then steps:
//
//	TIME EVENT [WORD...] => ACTION; ACTION...
//	TIME deadline            the Router's deadline is TIME
//	TIME no deadline
//
// An advert is `advert PRIORITY from ADDRESS [every INTERVAL] [at ARRIVAL]`.
// `-` stands for no action.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob("testdata/conformance/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			play(t, file)
		})
	}
}

func play(t *testing.T, file string) {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	var r *control.Router
	var interval time.Duration
	steps := 0
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		at := fmt.Sprintf("%s:%d: %s", file, n, line)
		step, want, hasWant := strings.Cut(line, "=>")
		words := strings.Fields(step)
		if words[0] == "config" {
			cfg := parseConfig(t, words[1:])
			r, interval = control.New(cfg), cfg.Interval
			continue
		}
		now := instant(t, words[0])
		if words[len(words)-1] == "deadline" {
			deadline, ok := r.Deadline()
			assert.Equal(t, len(words) == 2, ok, at)
			if ok {
				assert.Equal(t, now.Sub(0), deadline.Sub(0), at)
			}
			continue
		}
		require.True(t, hasWant, at)
		steps++
		ev := parseEvent(t, now, interval, words[1:])
		got := render(r.Step(now, ev, nil))
		assert.Equal(t, strings.Join(strings.Fields(want), " "), got, at)
	}
	assert.NotZero(t, steps)
}

func instant(t *testing.T, s string) control.Instant {
	d, err := time.ParseDuration(s)
	require.NoError(t, err)
	return control.Instant(d)
}

func parseConfig(t *testing.T, words []string) control.Config {
	cfg := control.Config{
		VRID: 1, Version: 3, Priority: 100, Interval: time.Second, DownAdverts: 3,
		Source: netip.MustParseAddr("10.0.0.1"),
	}
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		number, _ := strconv.Atoi(value)
		switch key {
		case "version":
			cfg.Version = uint8(number)
		case "priority":
			cfg.Priority = uint8(number)
		case "down_adverts":
			cfg.DownAdverts = number
		case "interval":
			cfg.Interval = instant(t, value).Sub(0)
		case "preempt_delay":
			cfg.PreemptDelay = instant(t, value).Sub(0)
		case "hold":
			cfg.HoldLimit = instant(t, value).Sub(0)
		case "nopreempt":
			cfg.NoPreempt = true
		case "silent":
			cfg.LowerPrioNoAdvert = true
		case "last_word":
			cfg.HigherPrioSendAdvert = true
		case "owner_ignore":
			cfg.OwnerIgnoreAdverts = true
		case "track":
			cfg.Tracks = append(cfg.Tracks, control.Track{Weight: number})
		case "track_down":
			cfg.Tracks = append(cfg.Tracks, control.Track{Weight: number, Down: true})
		case "track_reverse":
			cfg.Tracks = append(cfg.Tracks, control.Track{Weight: number, Reverse: true})
		default:
			t.Fatalf("unknown word %q", w)
		}
	}
	return cfg
}

func parseEvent(t *testing.T, now control.Instant, interval time.Duration, words []string) control.Event {
	switch words[0] {
	case "startup":
		return control.Event{Kind: control.EventStartup}
	case "shutdown":
		return control.Event{Kind: control.EventShutdown}
	case "expire":
		return control.Event{Kind: control.EventExpire}
	case "refresh":
		return control.Event{Kind: control.EventRefresh, At: instant(t, words[1])}
	case "peer_down":
		return control.Event{Kind: control.EventPeerDown, Source: netip.MustParseAddr(words[1])}
	case "peer_left":
		return control.Event{Kind: control.EventPeerLeft, Source: netip.MustParseAddr(words[1])}
	case "peer_up":
		return control.Event{Kind: control.EventPeerUp, Source: netip.MustParseAddr(words[1]), At: now}
	case "stall":
		return control.Event{Kind: control.EventStall, At: now.Add(-instant(t, words[1]).Sub(0))}
	case "track":
		n, err := strconv.Atoi(words[1])
		require.NoError(t, err)
		return control.Event{Kind: control.EventTrack, Track: n, Down: words[2] == "down"}
	case "advert":
		p, err := strconv.Atoi(words[1])
		require.NoError(t, err)
		ev := control.Event{
			Kind: control.EventAdvert, At: now, Priority: uint8(p),
			Source: netip.MustParseAddr(words[3]), Interval: interval,
		}
		for i := 4; i+1 < len(words); i += 2 {
			switch words[i] {
			case "every":
				ev.Interval = instant(t, words[i+1]).Sub(0)
			case "at":
				ev.At = instant(t, words[i+1])
			}
		}
		return ev
	}
	t.Fatalf("unknown event %q", words[0])
	return control.Event{}
}

func render(actions []control.Action) string {
	if len(actions) == 0 {
		return "-"
	}
	var out []string
	for _, a := range actions {
		switch a.Kind {
		case control.ActionAdvert:
			out = append(out, fmt.Sprintf("advert %d", a.Priority))
		case control.ActionTransition:
			out = append(out, fmt.Sprintf("%s->%s %s", a.From, a.To, a.Reason))
		default:
			out = append(out, [...]string{
				control.ActionTakeover: "takeover", control.ActionRelease: "release",
				control.ActionAnnounce: "announce", control.ActionFollow: "follow",
				control.ActionUnfollow: "unfollow",
			}[a.Kind])
		}
	}
	return strings.Join(out, "; ")
}
