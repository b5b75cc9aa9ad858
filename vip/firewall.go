// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tablePrefix marks our nftables tables. The name of the interface follows.
const tablePrefix = "xvrrp_"

// FirewallTable returns the name of the nftables table that keeps traffic to
// and from the addresses of an interface's routers that do not accept it
// (Accept_Mode false, RFC 9568 section 6.4.3) out of this host. Interfaces have
// tables of their own, because daemons do, and different interfaces have
// different tables: what nft does not take in a name is written as / and two
// hexadecimal digits.
func FirewallTable(ifname string) string {
	var b strings.Builder
	b.WriteString(tablePrefix)
	for _, c := range []byte(ifname) {
		switch {
		case c == '_' || c == '.' || c == '-', c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "/%02x", c)
		}
	}
	return b.String()
}

// interfaceOf returns the interface that a table belongs to; ours reports whether
// this project made it.
func interfaceOf(table string) (ifname string, ours bool) {
	rest, ours := strings.CutPrefix(table, tablePrefix)
	var b []byte
	for i := 0; i < len(rest); i++ {
		if rest[i] != '/' {
			b = append(b, rest[i])
			continue
		}
		if len(rest) < i+3 {
			return "", false
		}
		c, err := strconv.ParseUint(rest[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(c))
		i += 2
	}
	ifname = string(b)
	return ifname, ours && ifname != "" && !strings.Contains(ifname, "/") && FirewallTable(ifname) == table
}

// Firewall makes the tables hold the wanted addresses, by the name of the
// interface, and removes our tables that are not wanted: those that a crash
// left, too, under whatever name the interface had then. Tables that are as
// they should be are not touched. It returns the interfaces whose table it had
// to write.
//
// Another daemon may serve other interfaces: removable reports whether a table
// that is not wanted may be removed, i.e. whether no other daemon holds the
// interface of that name.
//
// Addresses stay in their table for as long as the daemon runs: on a backup
// they are not local and the rules match nothing, so that a takeover has
// nothing to do here. Forwarded traffic and ARP are not touched.
func Firewall(want map[string][]netip.Addr, removable func(ifname string) bool) (written []string, err error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { _ = c.CloseLasting() }()
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		err = nil // a kernel without nftables has no table of ours
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables tables: %w", err)
	}
	intact := map[string]bool{}
	for _, t := range tables {
		ifname, ours := interfaceOf(t.Name)
		if !ours {
			continue
		}
		if addresses := want[ifname]; len(addresses) > 0 {
			intact[ifname] = holds(c, t, addresses)
		} else if removable(ifname) {
			c.DelTable(t)
		}
	}
	for ifname, addresses := range want {
		if len(addresses) == 0 || intact[ifname] {
			continue
		}
		if err := replaceTable(c, ifname, addresses); err != nil {
			return nil, err
		}
		written = append(written, ifname)
	}
	slices.Sort(written)
	// One transaction: a table that is replaced is never missing.
	if err := c.Flush(); err != nil {
		return nil, fmt.Errorf("change nftables tables: %w", err)
	}
	return written, nil
}

// WatchFirewall calls changed whenever the ruleset of this network namespace
// changes, by this daemon or by others, until ctx ends.
func WatchFirewall(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netfilter netlink socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "netfilter netlink")
	defer f.Close()
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES)
	}
	if err != nil {
		return fmt.Errorf("watch nftables: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
	changed() // what happened before
	for b := make([]byte, 1<<16); ; {
		_, err := f.Read(b)
		if ctx.Err() != nil {
			return nil
		}
		// Messages were lost (ENOBUFS), so something changed.
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("watch nftables: %w", err)
		}
		changed()
	}
}

// firewallSet is the set of a table, which both of its chains look up.
const firewallSet = "vips"

// hooks are the chains of a table and the addresses that they look at.
var hooks = []struct {
	chain  string
	hook   *nftables.ChainHook
	offset uint32
}{
	{"in", nftables.ChainHookInput, ipv4Destination},
	{"out", nftables.ChainHookOutput, ipv4Source},
}

// holds reports whether a table is as replaceTable makes it.
func holds(c *nftables.Conn, table *nftables.Table, addresses []netip.Addr) bool {
	if table.Flags != 0 { // dormant
		return false
	}
	elements, err := c.GetSetElements(&nftables.Set{Table: table, Name: firewallSet})
	if err != nil {
		return false
	}
	var have []netip.Addr
	for _, e := range elements {
		a, _ := netip.AddrFromSlice(e.Key)
		have = append(have, a)
	}
	if !slices.Equal(sorted(have), sorted(addresses)) {
		return false
	}
	for _, h := range hooks {
		chain, err := c.ListChain(table, h.chain)
		if err != nil || chain.Hooknum == nil || *chain.Hooknum != *h.hook || *chain.Priority != firewallPriority {
			return false
		}
		rules, err := c.GetRules(table, chain)
		if err != nil || len(rules) != 1 || !drops(rules[0].Exprs, h.offset) {
			return false
		}
	}
	return true
}

// sorted returns the addresses in order, each once.
func sorted(addresses []netip.Addr) []netip.Addr {
	return slices.Compact(slices.SortedFunc(slices.Values(addresses), netip.Addr.Compare))
}

// drops reports whether a rule is as dropMatching makes it.
func drops(exprs []expr.Any, offset uint32) bool {
	if len(exprs) != 4 {
		return false
	}
	payload, ok1 := exprs[0].(*expr.Payload)
	lookup, ok2 := exprs[1].(*expr.Lookup)
	_, ok3 := exprs[2].(*expr.Counter)
	verdict, ok4 := exprs[3].(*expr.Verdict)
	return ok1 && ok2 && ok3 && ok4 &&
		payload.Base == expr.PayloadBaseNetworkHeader && payload.Offset == offset && payload.Len == 4 &&
		lookup.SetName == firewallSet && !lookup.Invert && verdict.Kind == expr.VerdictDrop
}

// replaceTable adds to the transaction what makes the table of an interface
// hold the addresses.
func replaceTable(c *nftables.Conn, ifname string, addresses []netip.Addr) error {
	// Added so that it can be deleted, whether it was there or not.
	table := &nftables.Table{Name: FirewallTable(ifname), Family: nftables.TableFamilyIPv4}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	set := &nftables.Set{Table: table, Name: firewallSet, KeyType: nftables.TypeIPAddr}
	var elements []nftables.SetElement
	for _, a := range sorted(addresses) {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := c.AddSet(set, elements); err != nil {
		return fmt.Errorf("add nftables set for interface %s: %w", ifname, err)
	}
	for _, h := range hooks {
		dropMatching(c, table, set, h.chain, h.hook, h.offset)
	}
	return nil
}

const (
	ipv4Source      = 12
	ipv4Destination = 16
	// firewallPriority comes before the filter chains of the host, as
	// keepalived's.
	firewallPriority = nftables.ChainPriority(-1)
)

func dropMatching(c *nftables.Conn, table *nftables.Table, set *nftables.Set, name string, hook *nftables.ChainHook, offset uint32) {
	priority := firewallPriority
	chain := c.AddChain(&nftables.Chain{
		Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: &priority,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		// Adverts carry the interface's address: that of an owner, whose
		// address is virtual too, is never in the set.
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
}
