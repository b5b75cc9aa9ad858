// SPDX-License-Identifier: Apache-2.0

package transport

import (
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// reasons are those of the checks that the kernel's program makes, too.
var reasons = [packet.RejectMax]loader.Reason{
	packet.RejectNotVRRP:     loader.ReasonNotVRRP,
	packet.RejectIPHeader:    loader.ReasonBadIPHeader,
	packet.RejectFragment:    loader.ReasonFragment,
	packet.RejectDstMAC:      loader.ReasonBadDstMAC,
	packet.RejectIPChecksum:  loader.ReasonBadIPChecksum,
	packet.RejectDestination: loader.ReasonBadDestination,
	packet.RejectTruncated:   loader.ReasonTruncated,
	packet.RejectSource:      loader.ReasonBadSource,
	packet.RejectTTL:         loader.ReasonBadTTL,
	packet.RejectVersion:     loader.ReasonBadVersion,
	packet.RejectType:        loader.ReasonBadType,
	packet.RejectCount:       loader.ReasonBadCount,
	packet.RejectLength:      loader.ReasonBadLength,
}

var rejects = func() (out [loader.ReasonMax]packet.Reject) {
	for r := packet.RejectNotVRRP; r <= packet.RejectLength; r++ {
		out[reasons[r]] = r
	}
	return out
}()

// reasonOf returns the kernel's reason for an error of packet.ParseFrame,
// Frame.VRID or Frame.Check.
func reasonOf(err error) loader.Reason {
	r, _ := err.(packet.Reject)
	return reasons[r]
}

// RejectOf returns why the kernel's program refused an advert, or 0 if r is no
// reason to refuse one.
func RejectOf(r loader.Reason) packet.Reject { return rejects[r] }
