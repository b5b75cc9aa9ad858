// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFirewallTable(t *testing.T) {
	names := []string{"eth0", "eth0.1", "eth0_1", "eth0-1", "eth0:1", "eth03a1", "br-lan", "vlan+1", "é0", "a b"}
	seen := map[string]string{}
	for _, name := range names {
		table := FirewallTable(name)
		assert.Regexp(t, `^xvrrp_[A-Za-z0-9_./-]+$`, table, "what nft takes as a name")
		assert.NotContains(t, seen, table, "%s and %s", name, seen[table])
		seen[table] = name
		back, ours := interfaceOf(table)
		assert.True(t, ours)
		assert.Equal(t, name, back)
	}
	for _, other := range []string{"filter", "xvrrp_", "xvrrp", "xvrrp_a/", "xvrrp_a/3", "xvrrp_a/zz", "xvrrp_/2f", "xvrrp_/61"} {
		_, ours := interfaceOf(other)
		assert.False(t, ours, other)
	}
}

func addrs(text ...string) (out []netip.Addr) {
	for _, a := range text {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func tables(t *testing.T) (names []string) {
	c, err := nftables.New()
	require.NoError(t, err)
	list, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	require.NoError(t, err)
	for _, table := range list {
		names = append(names, table.Name)
	}
	return names
}

func TestFirewall(t *testing.T) {
	inNetns(t)
	all := func(string) bool { return true }
	apply := func(want map[string][]netip.Addr, removable func(string) bool) []string {
		written, err := Firewall(want, removable)
		require.NoError(t, err)
		return written
	}
	want := map[string][]netip.Addr{
		"eth0.1": addrs("10.0.0.2", "10.0.0.1", "10.0.0.2"), "eth0_1": addrs("10.0.0.3"), "none": nil,
	}
	assert.Equal(t, []string{"eth0.1", "eth0_1"}, apply(want, all))
	assert.ElementsMatch(t, []string{"xvrrp_eth0.1", "xvrrp_eth0_1"}, tables(t))
	assert.Empty(t, apply(want, all), "the same again")

	// Each way to take it apart.
	c, err := nftables.New()
	require.NoError(t, err)
	table := &nftables.Table{Name: FirewallTable("eth0.1"), Family: nftables.TableFamilyIPv4}
	set := &nftables.Set{Table: table, Name: firewallSet, KeyType: nftables.TypeIPAddr}
	for what, harm := range map[string]func(){
		"flush ruleset":  func() { c.FlushRuleset() },
		"delete table":   func() { c.DelTable(table) },
		"flush table":    func() { c.FlushTable(table) },
		"flush chain":    func() { c.FlushChain(&nftables.Chain{Table: table, Name: "out"}) },
		"delete element": func() { _ = c.SetDeleteElements(set, []nftables.SetElement{{Key: []byte{10, 0, 0, 1}}}) },
		"add element":    func() { _ = c.SetAddElements(set, []nftables.SetElement{{Key: []byte{10, 0, 0, 9}}}) },
		"another rule": func() {
			c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Table: table, Name: "in"}})
		},
	} {
		harm()
		require.NoError(t, c.Flush(), what)
		assert.Contains(t, apply(want, all), "eth0.1", what)
		assert.Empty(t, apply(want, all), what)
	}

	// What others have stays; leftovers of ours go, unless another daemon
	// holds the interface.
	c.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	require.NoError(t, c.Flush())
	apply(map[string][]netip.Addr{"lan0": addrs("10.0.0.4")}, func(ifname string) bool { return ifname == "eth0_1" })
	assert.ElementsMatch(t, []string{"filter", "xvrrp_eth0.1", "xvrrp_lan0"}, tables(t))
	want = map[string][]netip.Addr{"lan0": addrs("10.0.0.5")}
	assert.Equal(t, []string{"lan0"}, apply(want, all), "other addresses")
	assert.Empty(t, apply(nil, all))
	assert.Equal(t, []string{"filter"}, tables(t))
}

func TestWatchFirewall(t *testing.T) {
	inNetns(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c, err := nftables.New()
	require.NoError(t, err)
	changes := 0
	err = WatchFirewall(ctx, func() {
		switch changes++; changes {
		case 1:
			c.AddTable(&nftables.Table{Name: "t", Family: nftables.TableFamilyIPv4})
			require.NoError(t, c.Flush())
		case 2:
			cancel()
		}
	})
	require.NoError(t, err)
	assert.GreaterOrEqual(t, changes, 2)
}

func TestWatchFirewallEnds(t *testing.T) {
	requireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	require.NoError(t, WatchFirewall(ctx, func() {}))
}
