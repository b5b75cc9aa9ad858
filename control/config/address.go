// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// maxAddresses is what the count field of an advert can say.
const maxAddresses = 255

// maxLabel is the kernel's IFNAMSIZ without the terminating NUL.
const maxLabel = 15

var scopes = map[string]uint8{"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}

// IPv6 flags of an address line: known, and without meaning for IPv4.
var addressFlags = words("home -nodad mngtmpaddr noprefixroute autojoin use_vmac")

func (d *decoder) addresses(n *Node, excluded bool) []Address {
	if !d.needsBlock(n) {
		return nil
	}
	var out []Address
	for _, line := range n.Block {
		if a, ok := d.address(line); ok {
			a.Excluded = excluded
			out = append(out, a)
		}
	}
	return out
}

// address reads IP[/PLEN] and the words behind it, in any order. What would
// make it another address than the one written is an error.
func (d *decoder) address(n *Node) (Address, bool) {
	a := Address{Pos: n.Pos}
	text, length, hasLength := strings.Cut(n.Keyword, "/")
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		d.diags.add(Error, n.Pos, "%q is not an IP address", n.Keyword)
		return a, false
	case !ip.Is4():
		d.diags.add(Error, n.Pos, "%s is an IPv6 address; IPv6 virtual routers are not supported yet", ip)
		return a, false
	}
	bits := 32
	if hasLength {
		if v, err := strconv.Atoi(length); err == nil && v >= 0 && v <= 32 {
			bits = v
		} else {
			d.diags.add(Warning, n.Pos, "prefix length %q is not in the range 0 to 32; 32 is used", length)
		}
	}
	a.Prefix = netip.PrefixFrom(ip, bits)
	for args := n.Args; len(args) > 0; {
		used, ok := d.addressWord(&a, args)
		if !ok {
			return a, false
		}
		args = args[used:]
	}
	return a, true
}

func (d *decoder) addressWord(a *Address, args []Word) (used int, ok bool) {
	word := args[0]
	value := func() (Word, bool) {
		if len(args) < 2 {
			d.diags.add(Missing, word.Pos, "%s needs a value", word.Text)
			return Word{}, false
		}
		return args[1], true
	}
	switch word.Text {
	case "no_track":
		a.NoTrack = true
		return 1, true
	case "dev", "label", "scope", "brd", "broadcast", "peer", "preferred_lft", "track_group":
	default:
		if addressFlags[word.Text] {
			d.diags.add(Warning, word.Pos, "%s has no effect on an IPv4 address here", word.Text)
		} else {
			d.diags.add(Warning, word.Pos, "unknown word %q is skipped%s", word.Text,
				suggest(word.Text, slices.Values([]string{"dev", "label", "scope", "brd", "broadcast", "peer", "no_track"})))
		}
		return 1, true
	}
	v, ok := value()
	if !ok {
		return 0, false
	}
	switch word.Text {
	case "dev":
		a.Dev, a.DevPos = v.Text, v.Pos
	case "label":
		if len(v.Text) > maxLabel {
			d.diags.add(Error, v.Pos, "label %q is longer than %d bytes", v.Text, maxLabel)
			return 0, false
		}
		a.Label = v.Text
	case "scope":
		return 2, d.scope(a, v)
	case "brd", "broadcast":
		return 2, d.broadcast(a, v)
	case "peer":
		peer, err := netip.ParseAddr(v.Text)
		if err != nil || !peer.Is4() {
			d.diags.add(Error, v.Pos, "peer: %q is not an IPv4 address", v.Text)
			return 0, false
		}
		a.Peer = peer
	}
	return 2, true
}

func (d *decoder) scope(a *Address, v Word) bool {
	if s, ok := scopes[v.Text]; ok {
		a.Scope = s
		return true
	}
	n, ok := d.inRange(v, "scope", 0, 255, Error)
	a.Scope = uint8(n)
	return ok
}

func (d *decoder) broadcast(a *Address, v Word) bool {
	if v.Text != "+" && v.Text != "-" {
		ip, err := netip.ParseAddr(v.Text)
		if err != nil || !ip.Is4() {
			d.diags.add(Error, v.Pos, "broadcast: %q is not an IPv4 address", v.Text)
			return false
		}
		a.Broadcast = ip
		return true
	}
	if a.Prefix.Bits() > 30 {
		d.diags.add(Error, v.Pos, "broadcast %s needs a prefix of at most 30 bits", v.Text)
		return false
	}
	raw := a.Prefix.Addr().As4()
	host := uint32(1)<<(32-a.Prefix.Bits()) - 1
	bits := binary.BigEndian.Uint32(raw[:]) &^ host
	if v.Text == "+" {
		bits |= host
	}
	binary.BigEndian.PutUint32(raw[:], bits)
	a.Broadcast = netip.AddrFrom4(raw)
	return true
}

// addressesOf checks the addresses of an instance together.
func (d *decoder) addressesOf(i *draft) {
	if i.lines == 0 {
		d.diags.add(Error, i.Pos, "vrrp_instance %s has no virtual_ipaddress", i.Name)
	}
	if len(i.Addresses) > maxAddresses {
		d.diags.add(Warning, i.Addresses[maxAddresses].Pos,
			"an advert holds %d addresses; the others are not advertised", maxAddresses)
		for k := maxAddresses; k < len(i.Addresses); k++ {
			i.Addresses[k].Excluded = true
		}
	}
	i.Addresses = append(i.Addresses, i.excluded...)
	seen := map[netip.Addr]Pos{}
	kept := i.Addresses[:0]
	for _, a := range i.Addresses {
		if first, ok := seen[a.Prefix.Addr()]; ok {
			d.diags.add(Warning, a.Pos, "address %s is there already, at %v", a.Prefix.Addr(), first)
			continue
		}
		seen[a.Prefix.Addr()] = a.Pos
		kept = append(kept, a)
	}
	i.Addresses = kept
}

func (d *decoder) trackInterface(n *Node) []Track {
	if !d.needsBlock(n) {
		return nil
	}
	var out []Track
	for _, line := range n.Block {
		t := Track{Interface: line.Keyword, Pos: line.Pos}
		for args := line.Args; len(args) > 0; {
			switch {
			case args[0].Text == "weight" && len(args) > 1:
				if w, ok := d.inRange(args[1], "weight", -254, 254, Warning); ok {
					t.Weight = max(-253, min(253, w))
				}
				args = args[2:]
			case args[0].Text == "reverse":
				t.Reverse = true
				args = args[1:]
			default:
				d.diags.add(Warning, args[0].Pos, "unknown word %q is skipped%s", args[0].Text,
					suggest(args[0].Text, slices.Values([]string{"weight", "reverse"})))
				args = args[1:]
			}
		}
		out = append(out, t)
	}
	return out
}

// tracksOf drops the instance's own interface, which is tracked anyway.
func (d *decoder) tracksOf(i *draft) {
	kept := i.Tracked[:0]
	for _, t := range i.Tracked {
		if t.Interface == i.Interface && !i.DontTrackPrimary {
			d.diags.add(Warning, t.Pos, "%s is the instance's own interface and tracked already", t.Interface)
			continue
		}
		kept = append(kept, t)
	}
	i.Tracked = kept
}
