// SPDX-License-Identifier: Apache-2.0

package packet

// Reject is the reason to refuse a frame or the advert in it. As an error it is
// returned bare: refusing costs no allocation, and == compares. Its words are
// those of bpf/shared.h, of metrics and of the status.
type Reject uint8

// Reasons to refuse, in the order of the checks. Up to RejectDestination the
// frame belongs to no virtual router here; the others are counted for the virtual
// router that the advert names. 0 is no reason.
const (
	RejectNotVRRP     Reject = iota + 1 // other traffic
	RejectIPHeader                      // IPv4 IHL below 5, lengths that contradict
	RejectFragment                      // an advert is never fragmented
	RejectDstMAC                        // frame to another host
	RejectIPChecksum                    // of the IPv4 header
	RejectDestination                   // not where adverts of this router go
	RejectTruncated                     // headers or message end before they should
	RejectSource                        // no host, or no router like this, sends from it
	RejectTTL                           // TTL or hop limit is not 255
	RejectVersion                       // differs from the configured one
	RejectType                          // not an advertisement
	RejectCount                         // no address
	RejectLength                        // does not fit the address count
	RejectChecksum                      // of the message
	RejectInterval                      // 0, or in version 2 not the configured one
	RejectOwn                           // our own advert came back
	RejectAuthType                      // differs from the configured one
	RejectAuth                          // wrong password
	RejectAddressList                   // differs from the configured one
	RejectCollision                     // no address in common: another group on this VRID
	RejectMax                           // their number
)

var rejectNames = [RejectMax]string{
	RejectNotVRRP:     "not_vrrp",
	RejectIPHeader:    "bad_ip_header",
	RejectFragment:    "fragment",
	RejectDstMAC:      "bad_dst_mac",
	RejectIPChecksum:  "bad_ip_checksum",
	RejectDestination: "bad_destination",
	RejectTruncated:   "truncated",
	RejectSource:      "bad_source",
	RejectTTL:         "bad_ttl",
	RejectVersion:     "bad_version",
	RejectType:        "bad_type",
	RejectCount:       "bad_count",
	RejectLength:      "bad_length",
	RejectChecksum:    "bad_checksum",
	RejectInterval:    "bad_interval",
	RejectOwn:         "own",
	RejectAuthType:    "bad_auth_type",
	RejectAuth:        "bad_auth",
	RejectAddressList: "bad_address_list",
	RejectCollision:   "vrid_collision",
}

func (r Reject) String() string {
	if r < RejectMax {
		return rejectNames[r]
	}
	return "unknown_reject"
}

func (r Reject) Error() string { return "advert refused: " + r.String() }
