// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// FirewallTable returns the name of the nftables table that keeps traffic to
// and from the addresses of an interface's routers that do not accept it
// (Accept_Mode false, RFC 9568 section 6.4.3) out of this host. Interfaces
// have tables of their own, because daemons do.
func FirewallTable(ifname string) string {
	return "xvrrp_" + strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, ifname)
}

// InstallFirewall replaces the table by one for these addresses, in one
// transaction. They stay in it for as long as the daemon runs: on a backup they are not local and the
// rules match nothing, so that a takeover has nothing to do here. Forwarded
// traffic and ARP are not touched.
func InstallFirewall(ifname string, addresses []netip.Addr) error {
	if len(addresses) == 0 {
		return RemoveFirewall(ifname)
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	// Added so that it can be deleted, whether it was there or not.
	table := &nftables.Table{Name: FirewallTable(ifname), Family: nftables.TableFamilyIPv4}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	set := &nftables.Set{Table: table, Name: "vips", KeyType: nftables.TypeIPAddr}
	var elements []nftables.SetElement
	for _, a := range addresses {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := c.AddSet(set, elements); err != nil {
		return fmt.Errorf("add nftables set: %w", err)
	}
	dropMatching(c, table, set, "in", nftables.ChainHookInput, ipv4Destination)
	dropMatching(c, table, set, "out", nftables.ChainHookOutput, ipv4Source)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("install nftables table %s: %w", FirewallTable(ifname), err)
	}
	return nil
}

const (
	ipv4Source      = 12
	ipv4Destination = 16
)

func dropMatching(c *nftables.Conn, table *nftables.Table, set *nftables.Set, name string, hook *nftables.ChainHook, offset uint32) {
	// Before the filter chains of the host, as keepalived's.
	priority := nftables.ChainPriority(-1)
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

// RemoveFirewall removes the table, also one that a crash left.
func RemoveFirewall(ifname string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // a kernel without nftables has no table of ours
	}
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == FirewallTable(ifname) {
			c.DelTable(t)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove nftables table %s: %w", FirewallTable(ifname), err)
	}
	return nil
}
