// SPDX-License-Identifier: Apache-2.0

package packet

import "errors"

// One sentinel for each reason to refuse bytes as an advert. They are returned
// bare, so that refusing costs no allocation; compare with errors.Is.
var (
	ErrNotVRRP     = errors.New("not VRRP")
	ErrBadIPHeader = errors.New("bad IP header")
	ErrFragment    = errors.New("fragmented")
	ErrTruncated   = errors.New("truncated")
	ErrDstMAC      = errors.New("frame to another host")
	ErrIPChecksum  = errors.New("wrong IP header checksum")
	ErrDestination = errors.New("sent to another address")
	ErrSource      = errors.New("no host may send from this address")
	ErrTTL         = errors.New("TTL or hop limit is not 255")
	ErrVersion     = errors.New("wrong version")
	ErrType        = errors.New("not an advertisement")
	ErrCount       = errors.New("no address")
	ErrLength      = errors.New("length does not fit the address count")
	ErrChecksum    = errors.New("wrong checksum")
	ErrInterval    = errors.New("interval 0")
)
