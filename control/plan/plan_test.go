// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/control/plan"
)

var auto = plan.Options{Dataplane: "auto", Hold: time.Second}

// files is a configuration in memory.
type files string

func (f files) ReadFile(string) ([]byte, error) { return []byte(f), nil }
func (files) Glob(string) ([]string, error)     { return nil, nil }

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, diags := config.Parse(files(text), "test.conf", config.Environment{
		Getenv: func(string) string { return "" }, Random: func() uint32 { return 0 },
	})
	require.NotNil(t, cfg, "%v\n%s", diags, text)
	return cfg
}

func instance(name, iface string, vrid, priority int, addresses []string, lines ...string) string {
	return fmt.Sprintf("vrrp_instance %s {\n interface %s\n virtual_router_id %d\n priority %d\n %s\n virtual_ipaddress {\n  %s\n }\n}\n",
		name, iface, vrid, priority, strings.Join(lines, "\n "), strings.Join(addresses, "\n  "))
}

func link(index int, name string, addrs ...string) plan.Link {
	l := plan.Link{Index: index, Name: name, MAC: [6]byte{2, 0, 0, 0, 0, byte(index)}, Ethernet: true, Up: true}
	for _, a := range addrs {
		l.Addrs = append(l.Addrs, plan.Addr{Prefix: netip.MustParsePrefix(a)})
	}
	return l
}

func only(t *testing.T, s *plan.State) (plan.Identity, plan.Router) {
	t.Helper()
	require.Len(t, s.Routers, 1)
	for id, r := range s.Routers {
		return id, r
	}
	panic("unreachable")
}

func TestCompute(t *testing.T) {
	vips := []string{"10.0.0.100/24", "10.0.0.101/24 dev eth1"}
	eth0, eth1 := link(2, "eth0", "10.0.0.1/24"), link(3, "eth1")
	with := func(l plan.Link, change func(*plan.Link)) plan.Link {
		change(&l)
		return l
	}
	for _, tc := range []struct {
		name  string
		conf  string
		links []plan.Link
		fault string
		check func(*testing.T, *plan.State, plan.Identity, plan.Router)
	}{
		{
			name: "everything is there", conf: instance("A", "eth0", 51, 100, vips), links: []plan.Link{eth0, eth1},
			check: func(t *testing.T, s *plan.State, id plan.Identity, r plan.Router) {
				assert.Equal(t, plan.Identity{Port: plan.PortKey{Name: "eth0", Ifindex: 2}, VRID: 51}, id)
				assert.Equal(t, netip.MustParseAddr("10.0.0.1"), r.Config.Source)
				assert.Equal(t, []plan.Watched{{Ifindex: 2}, {Ifindex: 3}, {Ifindex: 2, Addr: r.Config.Source}}, r.Watch)
				assert.Len(t, r.Config.Tracks, 3)
				assert.Equal(t, []byte{10, 0, 0, 100, 10, 0, 0, 101}, r.Advert.Addrs)
				assert.Equal(t, 3, r.Addresses[1].Ifindex)
				p := s.Ports[id.Port]
				assert.Equal(t, []plan.Local{{Prefix: netip.MustParsePrefix("10.0.0.1/24"), Reflect: true}}, p.Locals)
				assert.Equal(t, []plan.Mode{plan.ModeNative, plan.ModeGeneric, plan.ModeTCX, plan.ModeSocket}, p.Modes)
			},
		},
		{
			name: "no interface", conf: instance("A", "eth9", 51, 100, vips[:1]), links: []plan.Link{eth0},
			fault: "there is no interface eth9",
			check: func(t *testing.T, s *plan.State, id plan.Identity, r plan.Router) {
				assert.Equal(t, plan.PortKey{Name: "eth9"}, id.Port)
				assert.Empty(t, s.Ports)
				assert.True(t, r.Config.Tracks[0].Down)
			},
		},
		{
			name: "no interface, and its state is not tracked", conf: instance("A", "eth9", 51, 100, vips[:1], "dont_track_primary"),
			fault: "there is no interface eth9",
		},
		{
			name: "no address", conf: instance("A", "eth1", 51, 100, vips[:1]), links: []plan.Link{eth0, eth1},
			fault: "interface eth1 has no IPv4 address to send adverts from",
		},
		{
			name: "only virtual addresses", conf: instance("A", "eth1", 51, 100, vips[:1]),
			links: []plan.Link{link(3, "eth1", "10.0.0.100/24")}, fault: "interface eth1 has no IPv4 address to send adverts from",
		},
		{
			name: "only an address with our mark", conf: instance("A", "eth1", 51, 100, vips[:1]),
			links: []plan.Link{with(link(3, "eth1", "10.0.0.7/24"), func(l *plan.Link) { l.Addrs[0].Ours = true })},
			fault: "interface eth1 has no IPv4 address to send adverts from",
		},
		{
			name: "only a secondary address", conf: instance("A", "eth1", 51, 100, vips[:1]),
			links: []plan.Link{with(link(3, "eth1", "10.0.0.7/24"), func(l *plan.Link) { l.Addrs[0].Secondary = true })},
			check: func(t *testing.T, _ *plan.State, _ plan.Identity, r plan.Router) {
				assert.Equal(t, netip.MustParseAddr("10.0.0.7"), r.Config.Source)
			},
		},
		{
			name: "down", conf: instance("A", "eth0", 51, 100, vips[:1]),
			links: []plan.Link{with(eth0, func(l *plan.Link) { l.Up = false })}, fault: "interface eth0 is down",
		},
		{
			name: "down, and not tracked", conf: instance("A", "eth0", 51, 100, vips[:1], "dont_track_primary"),
			links: []plan.Link{with(eth0, func(l *plan.Link) { l.Up = false })},
		},
		{
			name: "a tracked interface is missing", conf: instance("A", "eth0", 51, 100, vips[:1], "track_interface {\n  ppp0\n }"),
			links: []plan.Link{eth0}, fault: "there is no interface ppp0",
		},
		{
			name: "its weight counts as down", conf: instance("A", "eth0", 51, 100, vips[:1], "track_interface {\n  ppp0 weight -20\n }"),
			links: []plan.Link{eth0},
			check: func(t *testing.T, _ *plan.State, _ plan.Identity, r plan.Router) {
				assert.Equal(t, -20, r.Config.Tracks[1].Weight)
				assert.True(t, r.Config.Tracks[1].Down)
			},
		},
		{
			name: "the interface of an address is missing", conf: instance("A", "eth0", 51, 100, vips), links: []plan.Link{eth0},
			fault: "there is no interface eth1",
			check: func(t *testing.T, _ *plan.State, _ plan.Identity, r plan.Router) {
				assert.Len(t, r.Addresses, 1, "the other cannot be added")
				assert.Len(t, r.Advert.Addrs, 8, "but it is advertised")
			},
		},
		{
			name: "an alternative name", conf: instance("A", "enp3s0", 51, 100, vips[:1]),
			links: []plan.Link{with(eth0, func(l *plan.Link) { l.AltNames = []string{"enp3s0"} })},
			check: func(t *testing.T, _ *plan.State, id plan.Identity, _ plan.Router) {
				assert.Equal(t, plan.PortKey{Name: "eth0", Ifindex: 2}, id.Port)
			},
		},
		{
			name: "a given source", conf: instance("A", "eth1", 51, 100, vips[:1], "mcast_src_ip 10.0.0.7"), links: []plan.Link{eth1},
			check: func(t *testing.T, _ *plan.State, _ plan.Identity, r plan.Router) {
				assert.Equal(t, []plan.Watched{{Ifindex: 3}}, r.Watch, "it may be set without being there")
			},
		},
		{
			name: "an owner", conf: instance("A", "eth0", 51, 255, []string{"10.0.0.1/24", "10.0.0.2/24"}), links: []plan.Link{eth0},
			check: func(t *testing.T, _ *plan.State, _ plan.Identity, r plan.Router) {
				assert.True(t, r.Addresses[0].Host)
				assert.False(t, r.Addresses[1].Host)
			},
		},
		{
			name: "a veth", conf: instance("A", "eth0", 51, 100, vips[:1]),
			links: []plan.Link{with(eth0, func(l *plan.Link) { l.Kind = "veth" })},
			check: func(t *testing.T, s *plan.State, id plan.Identity, _ plan.Router) {
				assert.Equal(t, plan.ModeGeneric, s.Ports[id.Port].Modes[0])
				assert.NotEmpty(t, s.Ports[id.Port].ModesWhy)
			},
		},
		{
			name: "a veth that answers nobody", conf: instance("A", "eth0", 51, 100, vips[:1], "fast_detect_reflector off"),
			links: []plan.Link{with(eth0, func(l *plan.Link) { l.Kind = "veth" })},
			check: func(t *testing.T, s *plan.State, id plan.Identity, _ plan.Router) {
				assert.Equal(t, plan.ModeNative, s.Ports[id.Port].Modes[0])
			},
		},
		{
			name: "no accept", conf: instance("A", "eth0", 51, 100, vips[:1], "no_accept"), links: []plan.Link{eth0},
			check: func(t *testing.T, s *plan.State, _ plan.Identity, _ plan.Router) {
				assert.Equal(t, map[string][]netip.Addr{"eth0": {netip.MustParseAddr("10.0.0.100")}}, s.Firewall)
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, diags := plan.Compute(parse(t, tc.conf), plan.NewFacts(tc.links), auto)
			id, r := only(t, s)
			assert.Equal(t, tc.fault, r.Fault)
			assert.False(t, diags.Fatal(), "a file is not refused for what the host lacks")
			assert.Equal(t, tc.fault != "", len(diags) > 0)
			assert.Len(t, r.Watch, len(r.Config.Tracks))
			if tc.check != nil {
				tc.check(t, s, id, r)
			}
		})
	}
}

// An interface that could not be opened is tried again; its router waits and
// starts anew once it is open.
func TestBrokenPort(t *testing.T) {
	conf := parse(t, instance("A", "eth0", 51, 100, []string{"10.0.0.100/24"}))
	facts := plan.NewFacts([]plan.Link{link(2, "eth0", "10.0.0.1/24")})
	key := plan.PortKey{Name: "eth0", Ifindex: 2}
	opts := auto
	opts.Broken = map[plan.PortKey]string{key: "the hook is busy"}
	broken, _ := plan.Compute(conf, facts, opts)
	id, r := only(t, broken)
	assert.Equal(t, "the hook is busy", r.Fault)
	assert.True(t, r.Config.Tracks[0].Down)

	have := plan.NewState()
	have.Apply(plan.StartRouter{ID: id, Router: r})
	steps := plan.Diff(have, broken)
	require.Len(t, steps, 1)
	assert.Equal(t, key, steps[0].(plan.OpenPort).Key, "it is tried again")

	have.Apply(steps[0])
	open, _ := plan.Compute(conf, facts, auto)
	assert.Equal(t, []plan.Step{plan.StopRouter{ID: id}}, plan.Diff(have, open), "it has no port to change on")
}

func TestComputeRefuses(t *testing.T) {
	lo := plan.Link{Index: 1, Name: "lo", Loopback: true, Up: true}
	_, diags := plan.Compute(parse(t, instance("A", "lo", 51, 100, []string{"10.0.0.1"})), plan.NewFacts([]plan.Link{lo}), auto)
	assert.True(t, diags.Fatal())
	// Two names of one interface.
	eth0 := link(2, "eth0", "10.0.0.1/24")
	eth0.AltNames = []string{"lan0"}
	s, diags := plan.Compute(parse(t, instance("A", "eth0", 51, 100, []string{"10.0.0.2"})+instance("B", "lan0", 51, 100, []string{"10.0.0.3"})),
		plan.NewFacts([]plan.Link{eth0}), auto)
	assert.True(t, diags.Fatal())
	_, r := only(t, s)
	assert.Equal(t, "A", r.Name)
}

// world is a random sequence of configurations and facts.
type world struct {
	*rand.Rand
	t *testing.T
}

func (w world) conf() string {
	text := strings.Repeat("# a comment\n", w.IntN(3))
	used := map[string]bool{}
	for n := range w.IntN(4) {
		iface, vrid := fmt.Sprintf("eth%d", w.IntN(3)), 50+w.IntN(3)
		if key := fmt.Sprint(iface, vrid); used[key] {
			continue
		} else {
			used[key] = true
		}
		var lines []string
		for _, line := range []string{
			"dont_track_primary", "no_accept", "fast_detect", "nopreempt", "version 3", "track_interface {\n  eth2 weight 10\n }",
			"authentication {\n  auth_type PASS\n  auth_pass x\n }", "advert_int 2", "mcast_src_ip 10.9.9.9",
		} {
			if w.IntN(4) == 0 && !(line[0] == 'a' && slices.Contains(lines, "version 3")) {
				lines = append(lines, line)
			}
		}
		var addresses []string
		for a := range 1 + w.IntN(3) {
			dev := ""
			if w.IntN(4) == 0 {
				dev = fmt.Sprintf(" dev eth%d", w.IntN(3))
			}
			addresses = append(addresses, fmt.Sprintf("10.%d.%d.%d/24%s", n, w.IntN(2), a+1, dev))
		}
		text += instance(fmt.Sprintf("VI_%d", w.IntN(50)*10+n), iface, vrid, []int{50, 100, 255}[w.IntN(3)], addresses, lines...)
	}
	if text == "" || !strings.Contains(text, "instance") {
		text += instance("VI_only", "eth0", 99, 100, []string{"10.0.0.1"})
	}
	return text
}

func (w world) facts() *plan.Facts {
	var links []plan.Link
	names := []int{0, 1, 2}
	if w.IntN(4) == 0 { // they are renamed
		names = w.Perm(len(names))
	}
	for n, name := range names {
		if w.IntN(5) == 0 {
			continue
		}
		l := link(10*(1+w.IntN(2))+n, fmt.Sprintf("eth%d", name))
		l.Up = w.IntN(5) > 0
		if w.IntN(3) == 0 {
			l.Kind = "veth"
		}
		for a := range w.IntN(3) {
			l.Addrs = append(l.Addrs, plan.Addr{
				Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(a), byte(n), byte(1 + w.IntN(2))}), 24-w.IntN(2)),
				Ours:   w.IntN(6) == 0, Secondary: w.IntN(6) == 0,
			})
		}
		links = append(links, l)
	}
	return plan.NewFacts(links)
}

// converge applies what Diff says, and lets some steps fail, until nothing is
// left to do.
func (w world) converge(have, want *plan.State, failures int) *plan.State {
	for round := 0; ; round++ {
		require.Less(w.t, round, 100, "it does not end: %#v", plan.Diff(have, want))
		for id := range have.Leaving {
			if w.IntN(2) == 0 { // some serve a little longer
				have.Retired(id)
			}
		}
		steps := plan.Diff(have, want)
		if len(steps) == 0 && len(have.Leaving) == 0 {
			return have
		}
		for _, s := range steps {
			if failures > 0 && w.IntN(3) == 0 {
				failures--
				continue
			}
			if start, ok := s.(plan.StartRouter); ok {
				require.False(w.t, have.Leaving[start.ID], "it starts beside the one that leaves")
			}
			if open, ok := s.(plan.OpenPort); ok {
				for key := range have.Ports {
					require.NotEqual(w.t, open.Key.Ifindex, key.Ifindex, "it is open under another name")
				}
			}
			have.Apply(s)
		}
	}
}

// After any sequence of configurations and facts the state is that of a fresh
// start, whatever failed on the way; the same input again gives no step.
func TestAnySequenceEndsLikeAFreshStart(t *testing.T) {
	seeds := uint64(500)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		w := world{rand.New(rand.NewPCG(seed, 1)), t}
		var have *plan.State
		for range 6 {
			text, facts := w.conf(), w.facts()
			want, _ := plan.Compute(parse(t, text), facts, auto)
			if have == nil {
				have = plan.Observed(facts, want)
			}
			have = w.converge(have, want, w.IntN(5))
			fresh := w.converge(plan.Observed(facts, want), want, 0)
			require.Equal(t, fresh, have, "seed %d:\n%s", seed, text)

			again, _ := plan.Compute(parse(t, "# moved down\n\n"+text), facts, auto)
			require.Empty(t, plan.Diff(have, again), "seed %d: a comment is not a change", seed)
		}
		have = w.converge(have, plan.NewState(), 0)
		require.Equal(t, plan.NewState(), have, "seed %d: stop leaves nothing", seed)
	}
}

// What did not change gets no step.
func TestDiffTouchesOnlyWhatChanged(t *testing.T) {
	facts := plan.NewFacts([]plan.Link{link(2, "eth0", "10.0.0.1/24"), link(3, "eth1", "10.1.0.1/24")})
	a, b := instance("A", "eth0", 51, 100, []string{"10.0.0.9"}), instance("B", "eth1", 52, 100, []string{"10.1.0.9"})
	have := fresh(t, a+b, facts)
	id := func(ifname string, index int, vrid uint8) plan.Identity {
		return plan.Identity{Port: plan.PortKey{Name: ifname, Ifindex: index}, VRID: vrid}
	}
	for _, tc := range []struct {
		name  string
		conf  string
		facts *plan.Facts
		want  []string
	}{
		{"nothing", a + b, facts, nil},
		{"another order", b + a, facts, nil},
		{"priority", a + strings.Replace(b, "priority 100", "priority 90", 1), facts, []string{"plan.ChangeRouter " + fmt.Sprint(id("eth1", 3, 52))}},
		{"renamed", a + strings.Replace(b, "instance B", "instance C", 1), facts, []string{"plan.ChangeRouter " + fmt.Sprint(id("eth1", 3, 52))}},
		{"removed", a, facts, []string{"plan.StopRouter " + fmt.Sprint(id("eth1", 3, 52))}},
		{"another VRID", a + strings.Replace(b, "52", "53", 1), facts, []string{
			"plan.StopRouter " + fmt.Sprint(id("eth1", 3, 52)), "plan.StartRouter " + fmt.Sprint(id("eth1", 3, 53))}},
		{"version", a + strings.Replace(b, "priority", "version 3\n priority", 1), facts, []string{"plan.StopRouter " + fmt.Sprint(id("eth1", 3, 52))}},
		{
			"no_accept", a + instance("B", "eth1", 52, 100, []string{"10.1.0.9"}, "no_accept"), facts, []string{"plan.SetFirewall"},
		},
		{
			"an interface that nobody names", a + b,
			plan.NewFacts(append([]plan.Link{link(9, "dummy0", "10.7.0.1/24")}, facts.Links...)), nil,
		},
		{
			"an address that nobody needs", a + b,
			plan.NewFacts([]plan.Link{link(2, "eth0", "10.0.0.1/24", "10.0.0.7/24"), facts.Links[1]}), nil,
		},
		{
			"an interface was made anew", a + b,
			plan.NewFacts([]plan.Link{facts.Links[0], link(7, "eth1", "10.1.0.1/24")}), []string{
				"plan.StopRouter " + fmt.Sprint(id("eth1", 3, 52)), "plan.OpenPort {eth1 7}",
				"plan.StartRouter " + fmt.Sprint(id("eth1", 7, 52))},
		},
		{
			"an interface was renamed", a + strings.Replace(b, "interface eth1", "interface eth2", 1),
			plan.NewFacts([]plan.Link{facts.Links[0], link(3, "eth2", "10.1.0.1/24")}),
			[]string{"plan.StopRouter " + fmt.Sprint(id("eth1", 3, 52))},
		},
		{
			"interfaces swapped their names", a + b,
			plan.NewFacts([]plan.Link{link(3, "eth0", "10.0.0.1/24"), link(2, "eth1", "10.1.0.1/24")}), []string{
				"plan.StopRouter " + fmt.Sprint(id("eth0", 2, 51)), "plan.StopRouter " + fmt.Sprint(id("eth1", 3, 52))},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want, _ := plan.Compute(parse(t, tc.conf), tc.facts, auto)
			var got []string
			for _, s := range plan.Diff(have, want) {
				switch s := s.(type) {
				case plan.StopRouter:
					got = append(got, fmt.Sprintf("%T %v", s, s.ID))
				case plan.StartRouter:
					got = append(got, fmt.Sprintf("%T %v", s, s.ID))
				case plan.ChangeRouter:
					got = append(got, fmt.Sprintf("%T %v", s, s.ID))
				case plan.OpenPort:
					got = append(got, fmt.Sprintf("%T %v", s, s.Key))
				default:
					got = append(got, fmt.Sprintf("%T", s))
				}
			}
			assert.Equal(t, tc.want, got)
		})
	}
}

func fresh(t *testing.T, conf string, facts *plan.Facts) *plan.State {
	want, _ := plan.Compute(parse(t, conf), facts, auto)
	return world{rand.New(rand.NewPCG(0, 0)), t}.converge(plan.Observed(facts, want), want, 0)
}

// Entries of the firewall stay for as long as a router that was stopped may own
// its addresses; new ones do not wait.
func TestFirewallStaysUntilTheRouterHasLeft(t *testing.T) {
	facts := plan.NewFacts([]plan.Link{link(2, "eth0", "10.0.0.1/24"), link(3, "eth1", "10.1.0.1/24")})
	a := instance("A", "eth0", 51, 100, []string{"10.0.0.9"}, "no_accept")
	b := instance("B", "eth1", 52, 100, []string{"10.1.0.9"}, "no_accept")
	c := instance("C", "eth0", 53, 100, []string{"10.0.0.8"}, "no_accept")
	addrs := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	want := func(conf string) *plan.State {
		s, _ := plan.Compute(parse(t, conf), facts, auto)
		return s
	}
	for _, tc := range []struct {
		name     string
		to       *plan.State
		at, then []plan.Step // SetFirewall at once, and once it has left
	}{
		{"removed", want(b), nil, []plan.Step{plan.SetFirewall{Interface: "eth0"}}},
		{"stop", plan.NewState(), nil, []plan.Step{plan.SetFirewall{Interface: "eth0"}, plan.SetFirewall{Interface: "eth1"}}},
		{
			"another in its place", want(b + c),
			[]plan.Step{plan.SetFirewall{Interface: "eth0", Addresses: addrs("10.0.0.9", "10.0.0.8")}},
			[]plan.Step{plan.SetFirewall{Interface: "eth0", Addresses: addrs("10.0.0.8")}},
		},
		{"it stays and accepts", want(strings.Replace(a, "no_accept", "", 1) + b), []plan.Step{plan.SetFirewall{Interface: "eth0"}}, nil},
		{
			"of another interface", want(strings.Replace(a, "no_accept", "", 1)),
			[]plan.Step{plan.SetFirewall{Interface: "eth0"}}, []plan.Step{plan.SetFirewall{Interface: "eth1"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have := fresh(t, a+b, facts)
			apply := func() (firewall []plan.Step) {
				for _, s := range plan.Diff(have, tc.to) {
					if _, ok := s.(plan.SetFirewall); ok {
						firewall = append(firewall, s)
					}
					have.Apply(s)
				}
				return firewall
			}
			assert.Equal(t, tc.at, apply())
			assert.Empty(t, apply(), "it leaves")
			for id := range have.Leaving {
				have.Retired(id)
			}
			assert.Equal(t, tc.then, apply())
		})
	}
}

func TestDescribe(t *testing.T) {
	facts := plan.NewFacts([]plan.Link{link(2, "eth0", "10.0.0.1/24")})
	a := instance("A", "eth0", 51, 100, []string{"10.0.0.9"})
	have := fresh(t, a, facts)
	for _, tc := range []struct {
		conf string
		want []plan.Change
	}{
		{a, nil},
		{
			instance("A", "eth0", 51, 100, []string{"10.0.0.9", "10.0.0.20"}),
			[]plan.Change{{"A", "adds 10.0.0.20", "peers without it raise an alarm until they are reloaded"}},
		},
		{
			instance("A", "eth0", 51, 100, []string{"10.0.0.8"}),
			[]plan.Change{
				{"A", "adds 10.0.0.8", "no address stays: peers take it for another group and refuse its adverts until they are reloaded"},
				{"A", "removes 10.0.0.9", "no address stays: peers take it for another group and refuse its adverts until they are reloaded"},
			},
		},
		{
			instance("A", "eth0", 51, 100, []string{"10.0.0.9"}, "advert_int 2"),
			[]plan.Change{{"A", "changes advert_int", "peers refuse adverts until they are reloaded, too: two masters until then"}},
		},
		{
			instance("B", "eth0", 51, 100, []string{"10.0.0.9"}),
			[]plan.Change{{"B", "is the new name of A", ""}},
		},
		{
			instance("A", "eth0", 51, 100, []string{"10.0.0.9"}, "version 3"),
			[]plan.Change{{"A", "stops and starts again as A (version)", "a master resigns with priority 0"}},
		},
	} {
		want, _ := plan.Compute(parse(t, tc.conf), facts, auto)
		assert.Equal(t, tc.want, plan.Describe(have, want), tc.conf)
	}
}

// What a reload changes on this host alone is told as well.
func TestDescribeHost(t *testing.T) {
	facts := plan.NewFacts([]plan.Link{link(2, "eth0", "10.0.0.1/24")})
	accepts := instance("A", "eth0", 51, 100, []string{"10.0.0.9"})
	drops := instance("A", "eth0", 51, 100, []string{"10.0.0.9"}, "no_accept")
	want := fresh(t, drops, facts)
	assert.Equal(t, []plan.Change{
		{"eth0", "drops packets to and from 10.0.0.9", "it answers no ping and no connection"},
	}, plan.Describe(fresh(t, accepts, facts), want))
	assert.Equal(t, []plan.Change{
		{"eth0", "no longer drops packets to and from 10.0.0.9", ""},
	}, plan.Describe(want, fresh(t, accepts, facts)))

	have := want.Clone()
	left := plan.Address{Ifindex: 2, Prefix: netip.MustParsePrefix("10.0.0.8/24")}
	have.Leftovers[left.Key()] = left
	assert.Equal(t, []plan.Change{{"10.0.0.8", "is removed: no instance has it any more", ""}}, plan.Describe(have, want))
}
