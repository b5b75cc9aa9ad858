// SPDX-License-Identifier: Apache-2.0

// Package controltest plays the files of control/testdata/conformance against
// whatever drives a virtual router: the Router alone, and the event loop.
//
// A `config` line makes a router; steps follow:
//
//	TIME EVENT [WORD...] => ACTION; ACTION...
//	TIME reconfigure [WORD...] => ACTION; ACTION...    the words of a config line
//	TIME deadline            the router's deadline is TIME
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
package controltest

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

// Driver moves one virtual router. Actions are in the words of the files.
type Driver interface {
	// Configure makes a new router, which is in INIT.
	Configure(control.Config)
	Reconfigure(control.Instant, control.Config) (actions []string)
	// Advert hands over an advert that arrived at ev.At; ev has the rest of what
	// a says.
	Advert(now control.Instant, ev control.Event, a *packet.Advert) (actions []string)
	Step(control.Instant, control.Event) (actions []string)
	Deadline() (control.Instant, bool)
}

// Play plays every file of a folder, each with a Driver of its own. seen
// returns what the Driver can see of the actions that a file expects.
func Play(t *testing.T, folder string, driver func(*testing.T) Driver, seen func(actions []string) []string) {
	files, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			p := player{t: t, driver: driver(t), seen: seen}
			p.play(file)
		})
	}
}

type player struct {
	t      *testing.T
	driver Driver
	cfg    control.Config // the last that the Driver was given
	seen   func([]string) []string
}

func (p *player) play(file string) {
	f, err := os.Open(file)
	require.NoError(p.t, err)
	defer f.Close()
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
			p.cfg = parseConfig(p.t, words[1:])
			p.driver.Configure(p.cfg)
			continue
		}
		now := instant(p.t, words[0])
		if words[len(words)-1] == "deadline" {
			deadline, ok := p.driver.Deadline()
			assert.Equal(p.t, len(words) == 2, ok, at)
			if ok {
				assert.Equal(p.t, now.Sub(0), deadline.Sub(0), at)
			}
			continue
		}
		require.True(p.t, hasWant, at)
		steps++
		assert.Equal(p.t, strings.Join(p.seen(parseActions(want)), "; "), strings.Join(p.step(now, words[1:]), "; "), at)
	}
	assert.NotZero(p.t, steps)
}

func parseActions(s string) []string {
	if s = strings.TrimSpace(s); s == "-" {
		return nil
	}
	var out []string
	for _, a := range strings.Split(s, ";") {
		out = append(out, strings.Join(strings.Fields(a), " "))
	}
	return out
}

func (p *player) step(now control.Instant, words []string) []string {
	switch words[0] {
	case "reconfigure":
		cfg := parseConfig(p.t, words[1:])
		require.True(p.t, p.cfg.SameIdentity(cfg))
		p.cfg = cfg
		return p.driver.Reconfigure(now, cfg)
	case "advert":
		ev, a := parseAdvert(p.t, &p.cfg, now, words[1:])
		return p.driver.Advert(now, ev, a)
	}
	return p.driver.Step(now, parseEvent(p.t, now, words))
}

// Refused returns what stands in a file for an advert that Check refused.
func Refused(err error) []string {
	return []string{"refused: " + strings.TrimPrefix(err.Error(), "advert refused: ")}
}

// Found returns what stands in a file for what Check found.
func Found(found control.Findings) []string {
	var out []string
	if found.Lists == control.ListsOverlap {
		out = append(out, "overlap")
	}
	if found.DuplicateSource {
		out = append(out, "duplicate source")
	}
	return out
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

func parseAdvert(t *testing.T, cfg *control.Config, now control.Instant, words []string) (control.Event, *packet.Advert) {
	p, err := strconv.Atoi(words[0])
	require.NoError(t, err)
	ev := control.Event{
		Kind: control.EventAdvert, At: now, Priority: uint8(p),
		Source: netip.MustParseAddr(words[2]), Interval: cfg.Interval,
	}
	addrs := cfg.Addrs
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
	return ev, &packet.Advert{
		Version: cfg.Version, VRID: cfg.VRID, Priority: ev.Priority, Interval: ev.Interval, Addrs: addrs,
	}
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

// Actions returns actions in the words of the files.
func Actions(actions []control.Action) []string {
	var out []string
	for _, a := range actions {
		switch a.Kind {
		case control.ActionAdvert:
			out = append(out, fmt.Sprintf("advert %d", a.Priority))
		case control.ActionTransition:
			out = append(out, Transition(a.From, a.To, a.Reason))
		default:
			out = append(out, [...]string{
				control.ActionTakeover: "takeover", control.ActionRelease: "release",
				control.ActionAnnounce: "announce", control.ActionFollow: "follow",
				control.ActionUnfollow: "unfollow", control.ActionAddresses: "addresses",
			}[a.Kind])
		}
	}
	return out
}

// Transition returns what stands in a file for a transition.
func Transition(from, to control.State, why control.Reason) string {
	return fmt.Sprintf("%s->%s %s", from, to, why)
}
