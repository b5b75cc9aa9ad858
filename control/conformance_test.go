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
	"github.com/xvrrp/xvrrp/control/packet"
)

// TestConformance plays the files of testdata/conformance. A `config` line
// makes a Router; steps follow:
//
//	TIME EVENT [WORD...] => ACTION; ACTION...
//	TIME reconfigure [WORD...] => ACTION; ACTION...    the words of a config line
//	TIME deadline            the Router's deadline is TIME
//	TIME no deadline
//
// An advert is
//
//	advert PRIORITY from ADDRESS [every INTERVAL] [at ARRIVAL] [mac N] [list N,N...]
//
// and it passes Check first: "refused: REASON" is the result if it does not, and
// "overlap" and "duplicate source" stand before the actions. N in a list is the
// last byte of a virtual address, by default that of the config. `-` stands for
// no action.
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
			r = control.New(parseConfig(t, words[1:]))
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
		assert.Equal(t, strings.Join(strings.Fields(want), " "), playStep(t, r, now, words[1:]), at)
	}
	assert.NotZero(t, steps)
}

func playStep(t *testing.T, r *control.Router, now control.Instant, words []string) string {
	switch words[0] {
	case "reconfigure":
		cfg := parseConfig(t, words[1:])
		require.True(t, r.Config().SameIdentity(cfg))
		return render(nil, r.Reconfigure(now, cfg, nil))
	case "advert":
		ev, addrs := parseAdvert(t, r, now, words[1:])
		found, err := r.Check(ev.Source, ev.MAC, &packet.Advert{
			Version: r.Config().Version, Priority: ev.Priority, Interval: ev.Interval, Addrs: addrs,
		})
		if err != nil {
			return "refused: " + strings.TrimPrefix(err.Error(), "advert refused: ")
		}
		var marks []string
		if found.Lists == control.ListsOverlap {
			marks = append(marks, "overlap")
		}
		if found.DuplicateSource {
			marks = append(marks, "duplicate source")
		}
		return render(marks, r.Step(now, ev, nil))
	}
	return render(nil, r.Step(now, parseEvent(t, now, words), nil))
}

func instant(t *testing.T, s string) control.Instant {
	d, err := time.ParseDuration(s)
	require.NoError(t, err)
	return control.Instant(d)
}

func parseConfig(t *testing.T, words []string) control.Config {
	cfg := control.Config{
		VRID: 1, Version: 3, Priority: 100, Interval: time.Second, DownAdverts: 3,
		Source: netip.MustParseAddr("10.0.0.1"), Addrs: parseList(t, "100"),
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
		case "source":
			cfg.Source = netip.MustParseAddr(value)
		case "mac":
			cfg.MAC[5] = uint8(number)
		case "list":
			cfg.Addrs = parseList(t, value)
		case "strict":
			cfg.Strict = true
		case "skip_check":
			cfg.SkipCheckAddrs = true
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

// parseList makes an address list of last bytes.
func parseList(t *testing.T, s string) []byte {
	var list []byte
	for _, n := range strings.Split(s, ",") {
		b, err := strconv.ParseUint(n, 10, 8)
		require.NoError(t, err)
		list = append(list, 10, 1, 0, byte(b))
	}
	return list
}

func parseAdvert(t *testing.T, r *control.Router, now control.Instant, words []string) (control.Event, []byte) {
	p, err := strconv.Atoi(words[0])
	require.NoError(t, err)
	ev := control.Event{
		Kind: control.EventAdvert, At: now, Priority: uint8(p),
		Source: netip.MustParseAddr(words[2]), Interval: r.Config().Interval,
	}
	addrs := r.Config().Addrs
	for i := 3; i+1 < len(words); i += 2 {
		switch words[i] {
		case "every":
			ev.Interval = instant(t, words[i+1]).Sub(0)
		case "at":
			ev.At = instant(t, words[i+1])
		case "mac":
			n, err := strconv.Atoi(words[i+1])
			require.NoError(t, err)
			ev.MAC[5] = uint8(n)
		case "list":
			addrs = parseList(t, words[i+1])
		default:
			t.Fatalf("unknown word %q", words[i])
		}
	}
	return ev, addrs
}

func parseEvent(t *testing.T, now control.Instant, words []string) control.Event {
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
	}
	t.Fatalf("unknown event %q", words[0])
	return control.Event{}
}

func render(out []string, actions []control.Action) string {
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
				control.ActionUnfollow: "unfollow", control.ActionAddresses: "addresses",
			}[a.Kind])
		}
	}
	if len(out) == 0 {
		return "-"
	}
	return strings.Join(out, "; ")
}
