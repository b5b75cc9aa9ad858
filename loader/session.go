// SPDX-License-Identifier: Apache-2.0

package loader

import "net/netip"

// Session is an S-BFD session whose answers the program records.
type Session struct {
	// Local is our discriminator, Remote the reflector's; for unaffiliated echo
	// both are ours.
	Local, Remote uint32
	Ifindex       int
	Peer          netip.Addr
	Echo          bool // RFC 9747
}
