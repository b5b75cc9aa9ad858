// SPDX-License-Identifier: Apache-2.0

package release

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/xvrrp/xvrrp/vip"
)

// What crosses the pipe is lines:
//
//	alive
//	addresses[ IFINDEX,PREFIX,TAKEOVER[,PEER]]...
//
// TAKEOVER is that of [Address].
//
// A line without its end, as a daemon that is killed leaves it, does not count.
const (
	alive     = "alive"
	addresses = "addresses"
	// longestLine has room for every address that a daemon can serve.
	longestLine = 16 << 20
)

// Address is one that a releaser has to remove.
type Address struct {
	vip.Address
	// Takeover is how long a daemon may hang, at least, before a peer may have
	// taken over: until then nobody else serves the address.
	Takeover time.Duration
}

// Never is the Takeover of an address that a fence silences while the daemon
// hangs. It is removed when the daemon, and the fence with it, is gone.
const Never time.Duration = math.MaxInt64

// formatAddresses returns the line that replaces the addresses.
func formatAddresses(list []Address) string {
	var b strings.Builder
	b.WriteString(addresses)
	for _, a := range list {
		fmt.Fprintf(&b, " %d,%s,%s", a.Ifindex, a.Prefix, a.Takeover)
		if a.Peer.IsValid() {
			fmt.Fprintf(&b, ",%s", a.Peer)
		}
	}
	return b.String()
}

// parseLine reads a line. list is nil, and isAlive true, for a sign of life.
func parseLine(line string) (list []Address, isAlive bool, err error) {
	if line == alive {
		return nil, true, nil
	}
	words := strings.Split(line, " ")
	if words[0] != addresses {
		return nil, false, fmt.Errorf("unknown message %.40q", line)
	}
	list = []Address{}
	for _, w := range words[1:] {
		a, err := parseAddress(w)
		if err != nil {
			return nil, false, fmt.Errorf("address %.80q: %w", w, err)
		}
		list = append(list, a)
	}
	if formatAddresses(list) != line {
		return nil, false, fmt.Errorf("message %.40q is not written as usual", line)
	}
	return list, false, nil
}

func parseAddress(word string) (a Address, err error) {
	ifindex, rest, _ := strings.Cut(word, ",")
	prefix, rest, _ := strings.Cut(rest, ",")
	takeover, peer, _ := strings.Cut(rest, ",")
	if a.Ifindex, err = strconv.Atoi(ifindex); err != nil {
		return a, err
	}
	if a.Ifindex <= 0 {
		return a, fmt.Errorf("interface %d", a.Ifindex)
	}
	if a.Prefix, err = netip.ParsePrefix(prefix); err != nil {
		return a, err
	}
	if a.Takeover, err = time.ParseDuration(takeover); err != nil {
		return a, err
	}
	if a.Takeover < 0 {
		return a, fmt.Errorf("takeover after %v", a.Takeover)
	}
	if peer != "" {
		a.Peer, err = netip.ParseAddr(peer)
	}
	return a, err
}
