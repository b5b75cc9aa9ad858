// SPDX-License-Identifier: Apache-2.0

package config_test

import (
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/config"
)

// files is a file system in memory.
type files map[string]string

func (f files) ReadFile(name string) ([]byte, error) {
	if s, ok := f[name]; ok {
		return []byte(s), nil
	}
	return nil, fs.ErrNotExist
}

func (f files) Glob(pattern string) ([]string, error) {
	var out []string
	for name := range f {
		if ok, err := filepath.Match(pattern, name); err != nil {
			return nil, err
		} else if ok {
			out = append(out, name)
		}
	}
	return out, nil
}

func parse(text string) (*config.Config, config.Diagnostics) {
	return config.Parse(files{"/etc/k.conf": text}, "/etc/k.conf", config.Environment{
		ConfigID: "ka1", Instance: "inst",
		Getenv: func(s string) string { return "env-" + s },
		Random: func() uint32 { return 7 },
	})
}

func load(t *testing.T, name string) (*config.Config, config.Diagnostics) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return parse(string(text))
}

func TestArticle(t *testing.T) {
	for name, want := range map[string]struct {
		master   bool
		priority uint8
	}{"master.conf": {true, 100}, "backup.conf": {false, 90}} {
		cfg, diags := load(t, name)
		require.NotNil(t, cfg, diags)
		assert.Equal(t, config.Note, diags.Worst(), diags)
		require.Len(t, cfg.Instances, 1)
		i := cfg.Instances[0]
		assert.Equal(t, "VI_1", i.Name)
		assert.Equal(t, want.master, i.StateMaster)
		assert.Equal(t, want.priority, i.Priority)
		assert.Equal(t, "ens33", i.Interface)
		assert.Equal(t, uint8(88), i.VRID)
		assert.Equal(t, uint8(2), i.Version)
		assert.Equal(t, time.Second, i.Interval)
		assert.Equal(t, "123456", i.AuthPass)
		assert.Equal(t, netip.MustParseAddr("224.100.100.100"), i.Group)
		require.Len(t, i.Addresses, 1)
		assert.Equal(t, netip.MustParsePrefix("192.168.1.100/24"), i.Addresses[0].Prefix)
		assert.Equal(t, "ens33:1", i.Addresses[0].Label)
		assert.True(t, i.Accept)
		assert.Equal(t, config.GARP{
			Repeat: 5, Delay: 5 * time.Second, RefreshRepeat: 1,
			LowerPrioRepeat: 5, LowerPrioDelay: 5 * time.Second,
		}, i.GARP)
	}
}

func TestStockIsStrict(t *testing.T) {
	cfg, diags := load(t, "stock.conf")
	require.NotNil(t, cfg, diags)
	assert.Equal(t, config.Warning, diags.Worst())
	text := fmt.Sprint(diags)
	assert.Contains(t, text, "/etc/k.conf:13:23: warning: vrrp_garp_interval")
	assert.Contains(t, text, "authentication is not part of VRRP any more")
	i := cfg.Instances[0]
	assert.False(t, i.StateMaster, "priority 100 is not the owner's")
	assert.Empty(t, i.AuthPass)
	assert.False(t, i.Accept)
	assert.True(t, i.SkipCheckAddrs)
	assert.True(t, i.LowerPrioNoAdvert)
	assert.Zero(t, i.GARP.LowerPrioRepeat)
	assert.Len(t, i.Addresses, 3)
	assert.Equal(t, 32, i.Addresses[0].Prefix.Bits())
}

// minimal is a valid file around some lines of the instance.
func minimal(lines string) string {
	return "vrrp_instance A {\n" + lines + "\n}\n"
}

const required = "virtual_router_id 1\nvirtual_ipaddress { 10.0.0.1 }\n"

func TestFatal(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"no VRID":              {minimal("virtual_ipaddress { 10.0.0.1 }"), "1:1: error: vrrp_instance A has no virtual_router_id"},
		"VRID 256":             {minimal("virtual_router_id 256\nvirtual_ipaddress { 10.0.0.1 }"), "2:19: error: virtual_router_id: 256 is not in the range 1 to 255"},
		"VRID a word":          {minimal("virtual_router_id x\nvirtual_ipaddress { 10.0.0.1 }"), "2:19: error: virtual_router_id: \"x\" is not a whole number"},
		"VRID twice":           {minimal(required) + "vrrp_instance B {\n" + required + "}", "6:1: error: virtual_router_id 1 is used twice on eth0; the other is A at /etc/k.conf:1:1"},
		"name twice":           {minimal(required) + minimal("virtual_router_id 2\nvirtual_ipaddress { 10.0.0.2 }"), "6:1: error: vrrp_instance \"A\" is defined twice"},
		"priority 0":           {minimal(required + "  priority 0"), "4:12: error: priority: 0 is not in the range 1 to 255"},
		"priority 256":         {minimal(required + "priority 256"), "4:10: error: priority: 256"},
		"IPv6 address":         {minimal("virtual_router_id 1\nvirtual_ipaddress {\n10.0.0.1\n  fe80::1\n}"), "5:3: error: fe80::1 is an IPv6 address"},
		"not an address":       {minimal("virtual_router_id 1\nvirtual_ipaddress { 10.0.0 }"), "3:21: error: \"10.0.0\" is not an IP address"},
		"no address":           {minimal("virtual_router_id 1"), "1:1: error: vrrp_instance A has no virtual_ipaddress"},
		"brace missing inside": {minimal(required + "authentication {\nauth_type PASS\nauth_pass x\npriority 1"), "1:17: error: { of vrrp_instance is never closed"},
		"block in a block":     {"virtual_server 10.0.0.1 80 {\nreal_server 10.0.0.2 80 {\n}\n" + minimal(required), "1:28: error: { of virtual_server is never closed"},
		"brace too many":       {"vrrp_instance A {\n}\n" + required + "}\n" + minimal(required), "5:1: error: } closes nothing"},
		"lines of CR":          {"vrrp_instance A {\r}\r", "1: error: lines end in a carriage return alone"},
		"brace alone":          {"{\n}\n" + minimal(required), "1:1: error: { without a keyword before it"},
		"argument missing":     {minimal(required + "priority"), "4:1: error: priority needs a number"},
		"quotes torn apart":    {"$A=A\\\n\"\n$A\n" + minimal(required), "3:1: error: quotation mark without its pair"},
		"odd quotes":           {minimal(required + "state \"MASTER"), "4:7: error: quotation mark without its pair"},
		"auth type AH":         {minimal(required + "authentication {\nauth_type AH\nauth_pass x\n}"), "5:11: error: auth_type AH is not supported"},
		"auth without pass":    {minimal(required + "authentication {\nauth_type PASS\n}"), "4:1: error: authentication without auth_pass"},
		"unicast":              {minimal(required + "unicast_peer { 10.0.0.9 }"), "4:1: error: unicast_peer is not supported yet"},
		"auth_hmac":            {minimal(required + "auth_hmac { key 1 x }"), "4:1: error: auth_hmac is not supported yet"},
		"group not mcast":      {"global_defs {\nvrrp_mcast_group4 10.0.0.1\n}\n" + minimal(required), "2:19: error: vrrp_mcast_group4: 10.0.0.1 is not a multicast address"},
		"advert_int 0":         {minimal(required + "advert_int 0"), "4:12: error: advert_int: \"0\" is not in the range 10ms to 4m15s"},
		"label too long":       {minimal("virtual_router_id 1\nvirtual_ipaddress { 10.0.0.1 label 0123456789abcdef }"), "3:36: error: label"},
		"no instance":          {"global_defs {\n}\n", "/etc/k.conf: error: there is no vrrp_instance"},
		"endless definition":   {"$A=$A x\n$A\n", "2: error: the file is too large, with what it includes and what its definitions make"},
		"numbers that wrap":    {"~SEQ(i,9223372036854775806,1,9223372036854775807) x\n", "1:1: error: ~SEQ: \"9223372036854775806\" is not a number"},
		"endless include":      {"include k.conf\n", "files include each other"},
		"braces by billions":   {"include " + strings.Repeat("{a,b}", 40) + "\n", "the file is too large, with what it includes and what its definitions make"},
		"endless mistakes":     {strings.Repeat("bogus x\n", 3000), "there is more; only the first 1000 are shown"},
		"strict include":       {"includea /nowhere\n" + minimal(required), "1:1: error: includea: nothing matches /nowhere"},
		"line too long":        {strings.Repeat("x", 1030) + "\n" + minimal(required), "1: error: line is longer than 1023 bytes"},
		"without its block":    {"vrrp_instance A\n", "1:1: error: vrrp_instance needs a block"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, diags := parse(tc.text)
			assert.Nil(t, cfg)
			assert.True(t, diags.Fatal())
			assert.Contains(t, fmt.Sprint(diags), tc.want)
		})
	}
}

// counted counts the bytes that a parse asks for.
type counted struct {
	files
	read int
}

func (c *counted) ReadFile(name string) ([]byte, error) {
	text, err := c.files.ReadFile(name)
	c.read += len(text)
	return text, err
}

// A file that is wrong, by mistake or on purpose, must not hold up the daemon.
// Allocations and bytes stand for time.
func TestWorkIsBounded(t *testing.T) {
	const lines, seq = 20000, "~SEQ(i,1,20000) "
	for name, tc := range map[string]struct {
		files         files
		allocs, bytes int
	}{
		"unknown keywords":    {files{"/k": "vrrp_instance A {\n" + seq + "x$i\n}\n"}, 25 * lines, 100},
		"unknown blocks":      {files{"/k": "$V=\\\nx$i { \\\n}\n" + seq + "$V\n"}, 45 * lines, 100},
		"unknown flags":       {files{"/k": minimal("virtual_ipaddress {\n" + seq + "10.0.0.1 x$i\n}")}, 25 * lines, 100},
		"instances":           {files{"/k": "$V=\\\nvrrp_instance a$i { \\\n}\n" + seq + "$V\n"}, 45 * lines, 100},
		"long words":          {files{"/k": strings.Repeat(strings.Repeat("x", 1000)+"\n", 1000)}, 35 * 1000, 1<<20 + 1},
		"includes that fork":  {files{"/k": "include k\ninclude k\n"}, 30 * 1000, 1 << 16},
		"definitions by size": {files{"/k": strings.Repeat("include d\n", 1000), "/d": strings.Repeat("$x=1\n", 100000)}, 1 << 21, 1 << 24},
	} {
		t.Run(name, func(t *testing.T) {
			f := &counted{files: tc.files}
			allocs := testing.AllocsPerRun(1, func() {
				f.read = 0
				config.Parse(f, "/k", config.Environment{})
			})
			assert.LessOrEqual(t, int(allocs), tc.allocs, "allocations")
			assert.LessOrEqual(t, f.read, tc.bytes, "bytes read")
		})
	}
}

func TestUnreadable(t *testing.T) {
	cfg, diags := config.Parse(files{}, "/etc/none.conf", config.Environment{})
	assert.Nil(t, cfg)
	assert.Contains(t, fmt.Sprint(diags), "/etc/none.conf: error: read /etc/none.conf: file does not exist")
}

func TestWarnsAndRuns(t *testing.T) {
	for name, tc := range map[string]struct{ lines, want string }{
		"unknown keyword":     {"advert_itn 1", "4:1: warning: unknown keyword \"advert_itn\" is skipped; did you mean \"advert_int\"?"},
		"unknown block":       {"virtual_ipadress {\n10.0.0.9\n}\nnopreempt", "4:1: warning: unknown block \"virtual_ipadress\" is skipped; did you mean \"virtual_ipaddress\"?"},
		"not yet":             {"notify /x\nnotify /y", "4:1: note: notify has no effect yet"},
		"v2 rounds":           {"advert_int 1.4", "4:12: warning: advert_int: version 2 cannot say 1.4s; 1s is used"},
		"state unknown":       {"state MASTR", "4:7: warning: state: \"MASTR\" is neither MASTER nor BACKUP; BACKUP is used; did you mean \"MASTER\"?"},
		"boolean":             {"strict_mode maybe", "4:13: warning: strict_mode: \"maybe\""},
		"long password":       {"authentication {\nauth_type PASS\nauth_pass 123456789\n}", "6:11: warning: auth_pass is cut to eight bytes"},
		"prefix length":       {"virtual_ipaddress { 10.0.0.7/33 }", "4:21: warning: prefix length \"33\""},
		"own interface":       {"track_interface { eth0 }", "4:19: warning: eth0 is the instance's own interface"},
		"duplicate address":   {"virtual_ipaddress { 10.0.0.1 }", "4:21: warning: address 10.0.0.1 is there already"},
		"master nopreempt":    {"state MASTER\nnopreempt", "4:7: warning: nopreempt and preempt_delay need state BACKUP"},
		"pass without type":   {"authentication {\nauth_pass abc\n}", "4:1: warning: authentication without auth_type: adverts are not authenticated"},
		"owner no_accept":     {"priority 255\nno_accept", "1:1: warning: the owner of the addresses (priority 255) accepts packets"},
		"tab behind @ID":      {"@ka1\tadvert_itn", "4:6: warning: unknown keyword"},
		"long comment":        {"# " + strings.Repeat("x", 1030), "4: warning: line is longer than 1023 bytes with its comment"},
		"brace at the end":    {"}", "5:1: warning: } closes nothing"},
		"no brace at the end": {"virtual_ipaddress {\n10.0.0.2", "1:17: warning: { of vrrp_instance is never closed"},
		"empty unicast peer":  {"unicast_peer {\n}", "4:1: warning: unicast_peer is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, diags := parse(minimal(required + tc.lines))
			require.NotNil(t, cfg, diags)
			assert.Contains(t, fmt.Sprint(diags), tc.want)
		})
	}
}

// One mistake is one finding.
func TestNoFindingsThatFollow(t *testing.T) {
	for _, lines := range []string{
		"virtual_router_id 1\nvirtual_ipaddress {\n10.0.0\n}",
		"virtual_router_id x\nvirtual_ipaddress {\n10.0.0.1\n}",
		"virtual_router_id 1\nvirtual_ipaddress {\nfe80::1\n}",
	} {
		_, diags := parse(minimal(lines))
		assert.Len(t, diags, 1, lines)
	}
}

func TestNotesOnce(t *testing.T) {
	_, diags := parse("virtual_server 1.1.1.1 80 {\nreal_server 1.1.1.2 80 {\n}\n}\nvirtual_server 2.2.2.2 80 {\n}\n" + minimal(required))
	require.Len(t, diags, 1)
	assert.Equal(t, "/etc/k.conf:1:1: note: virtual_server belongs to keepalived's load balancer; xvrrp does VRRP only and skips it", diags[0].String())
}

func TestGrammar(t *testing.T) {
	for name, tc := range map[string]struct {
		text  string
		check func(*testing.T, *config.Instance)
	}{
		"comment inside a word": {
			minimal(required + "authentication {\nauth_type PASS\nauth_pass k@l!ve1\n}"),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, "k@l", i.AuthPass) },
		},
		"quotes and escapes protect": {
			minimal(required + "authentication {\nauth_type PASS\nauth_pass \"a!#b\" # comment\n}"),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, "a!#b", i.AuthPass) },
		},
		"everything on one line": {
			"vrrp_instance A { virtual_router_id 1 }\nvrrp_instance B{virtual_router_id 2\nvirtual_ipaddress{10.0.0.2}}",
			nil,
		},
		"condition": {
			minimal(required + "@ka1 priority 150\n@ka2 priority 50\n@^ka1 priority 20"),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, uint8(150), i.Priority) },
		},
		"definition": {
			"$PRIO=77\n$IF=bond0\n" + minimal(required+"priority ${PRIO}\ninterface $IF"),
			func(t *testing.T, i *config.Instance) {
				assert.Equal(t, uint8(77), i.Priority)
				assert.Equal(t, "bond0", i.Interface)
			},
		},
		"definition of several lines": {
			"$BODY=priority 33 \\\nnopreempt \\\nadvert_int 3\n" + minimal(required+"$BODY"),
			func(t *testing.T, i *config.Instance) {
				assert.Equal(t, uint8(33), i.Priority)
				assert.True(t, i.NoPreempt)
				assert.Equal(t, 3*time.Second, i.Interval)
			},
		},
		"built-in definitions": {
			minimal(required + "interface x${_INSTANCE}${_ENV IF}\nvirtual_ipaddress { 10.0.0.${_RANDOM 3 3} }"),
			func(t *testing.T, i *config.Instance) {
				assert.Equal(t, "xinstenv-IF", i.Interface)
				assert.Equal(t, "10.0.0.3/32", i.Addresses[1].Prefix.String())
			},
		},
		"sequence": {
			minimal("virtual_router_id 1\nvirtual_ipaddress {\n~SEQ(n, 2, 2, 6) 10.0.0.$n\n}"),
			func(t *testing.T, i *config.Instance) {
				require.Len(t, i.Addresses, 3)
				assert.Equal(t, "10.0.0.6/32", i.Addresses[2].Prefix.String())
			},
		},
		"comments in a definition of several lines": {
			"$BODY=\\\n# nopreempt \\\npriority 33 # low \\\nadvert_int 3\n" + minimal(required+"$BODY"),
			func(t *testing.T, i *config.Instance) {
				assert.Equal(t, uint8(33), i.Priority)
				assert.Equal(t, 3*time.Second, i.Interval)
				assert.False(t, i.NoPreempt)
			},
		},
		"sequence of a definition of several lines": {
			"$V=\\\n10.0.${M}.${N} dev e$M \\\n10.1.${M}.${N}\n" +
				minimal("virtual_router_id 1\nvirtual_ipaddress {\n~SEQ(M, 1, 2) ~SEQ(N, 5, 6) $V\n}"),
			func(t *testing.T, i *config.Instance) {
				require.Len(t, i.Addresses, 8)
				assert.Equal(t, "10.1.2.6/32", i.Addresses[7].Prefix.String())
				assert.Equal(t, "e2", i.Addresses[6].Dev)
			},
		},
		"sequence behind a brace, with a variable bound": {
			"$END=102\n" + minimal("virtual_router_id 1\nvirtual_ipaddress { ~SEQ(N, 101, ${END}) 10.0.0.${N} }"),
			func(t *testing.T, i *config.Instance) { require.Len(t, i.Addresses, 2) },
		},
		"source with a prefix length": {
			minimal(required + "mcast_src_ip 10.0.0.7/24"),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, netip.MustParseAddr("10.0.0.7"), i.Source) },
		},
		"byte order mark": {
			"\ufeff" + minimal(required),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, "A", i.Name) },
		},
		"list": {
			minimal("virtual_router_id 1\nvirtual_ipaddress {\n~LST({a,d}, {1,x}, {2,y}) 10.0.0.$a dev $d\n}"),
			func(t *testing.T, i *config.Instance) {
				require.Len(t, i.Addresses, 2)
				assert.Equal(t, "y", i.Addresses[1].Dev)
			},
		},
		"global_defs behind the instance": {
			minimal(required) + "global_defs {\nvrrp_version 3\nvrrp_garp_master_repeat 2\n}",
			func(t *testing.T, i *config.Instance) {
				assert.Equal(t, uint8(3), i.Version)
				assert.Equal(t, 2, i.GARP.Repeat)
			},
		},
		"version 3 at 10 ms": {
			minimal(required + "version 3\nadvert_int 0.01"),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, 10*time.Millisecond, i.Interval) },
		},
		"address words": {
			minimal("virtual_router_id 1\nvirtual_ipaddress { 10.0.0.5/24 brd + dev eth1 scope link label eth1:v no_track }"),
			func(t *testing.T, i *config.Instance) {
				a := i.Addresses[0]
				assert.Equal(t, "10.0.0.255", a.Broadcast.String())
				assert.Equal(t, uint8(253), a.Scope)
				assert.Equal(t, "eth1:v", a.Label)
				assert.Equal(t, "eth1", a.Dev)
				assert.True(t, a.NoTrack)
			},
		},
		"state MASTER without a priority is the owner": {
			minimal(required + "state MASTER"),
			func(t *testing.T, i *config.Instance) { assert.Equal(t, uint8(255), i.Priority) },
		},
		"tracked interfaces": {
			minimal(required + "track_interface {\neth1\neth2 weight -20 reverse\n}"),
			func(t *testing.T, i *config.Instance) {
				require.Len(t, i.Tracked, 2)
				assert.Equal(t, -20, i.Tracked[1].Weight)
				assert.True(t, i.Tracked[1].Reverse)
			},
		},
		"vrrp_min_garp": {
			"global_defs {\nvrrp_min_garp\n}\n" + minimal(required),
			func(t *testing.T, i *config.Instance) {
				assert.Equal(t, config.GARP{Repeat: 1, RefreshRepeat: 1, LowerPrioRepeat: 1}, i.GARP)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, diags := parse(tc.text)
			if tc.check == nil {
				assert.Contains(t, fmt.Sprint(diags), "vrrp_instance A has no virtual_ipaddress")
				return
			}
			require.NotNil(t, cfg, diags)
			tc.check(t, cfg.Instances[0])
		})
	}
}

// keepalived's manual makes so many instances with a few lines.
func TestManyInstances(t *testing.T) {
	cfg, diags := parse("$V=\\\nvrrp_instance VI_${IF}_${ID} { \\\ninterface eth${IF} \\\nvirtual_router_id ${ID} \\\n" +
		"priority 100 \\\nadvert_int 1 \\\nvirtual_ipaddress { \\\n10.${IF}.${ID}.1/24 \\\n} \\\n}\n" +
		"~SEQ(IF, 0, 255) ~SEQ(ID, 1, 254) $V\n")
	require.NotNil(t, cfg, diags)
	require.Len(t, cfg.Instances, 256*254)
	last := cfg.Instances[len(cfg.Instances)-1]
	assert.Equal(t, "eth255", last.Interface)
	assert.Equal(t, uint8(254), last.VRID)
}

func TestInclude(t *testing.T) {
	f := files{
		"/etc/k.conf":        "include conf.d/*.conf\ninclude\t{x,y}.inc\ninclude none\n" + minimal(required),
		"/etc/conf.d/a.conf": "vrrp_instance I {\ninclude ids\nvirtual_ipaddress { 10.0.0.2 }\n}",
		"/etc/conf.d/ids":    "virtual_router_id 9\nbogus",
		"/etc/x.inc":         "global_defs {\nvrrp_version 3\n}\n",
	}
	cfg, diags := config.Parse(f, "/etc/k.conf", config.Environment{})
	require.NotNil(t, cfg, diags)
	require.Len(t, cfg.Instances, 2)
	assert.Equal(t, uint8(9), cfg.Instances[0].VRID)
	assert.Equal(t, uint8(3), cfg.Instances[1].Version)
	assert.Contains(t, fmt.Sprint(diags), "/etc/conf.d/ids:2:1: warning: unknown keyword \"bogus\"")
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"master.conf", "stock.conf"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(f, err)
		f.Add(string(text))
	}
	f.Add("$A=A\\\n\"\n00000000$A 0")
	f.Add("$A=x\\\n{\n~SEQ(i,1,3) ~LST({a,b},{1,2}) $A ${i} \"q\" @x\ninclude {a,{b,c}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, diags := parse(text)
		assert.Equal(t, diags.Fatal(), cfg == nil)
		for _, d := range diags {
			assert.NotEmpty(t, d.Pos.File)
		}
	})
}
