// SPDX-License-Identifier: Apache-2.0

package loader

// Reason is why a frame left the program. The words are the same in the C
// source, in bpftool's dump, in metrics and in the documentation.
type Reason uint8

const (
	ReasonNotVRRP              Reason = Reason(rxXvrrpReasonXVRRP_REASON_notVrrp)
	ReasonTruncated            Reason = Reason(rxXvrrpReasonXVRRP_REASON_truncated)
	ReasonBadIPHeader          Reason = Reason(rxXvrrpReasonXVRRP_REASON_badIpHeader)
	ReasonFragment             Reason = Reason(rxXvrrpReasonXVRRP_REASON_fragment)
	ReasonUnknownVRID          Reason = Reason(rxXvrrpReasonXVRRP_REASON_unknownVrid)
	ReasonOtherVLAN            Reason = Reason(rxXvrrpReasonXVRRP_REASON_otherVlan)
	ReasonBadDstMAC            Reason = Reason(rxXvrrpReasonXVRRP_REASON_badDstMac)
	ReasonBadIPChecksum        Reason = Reason(rxXvrrpReasonXVRRP_REASON_badIpChecksum)
	ReasonBadDestination       Reason = Reason(rxXvrrpReasonXVRRP_REASON_badDestination)
	ReasonBadSource            Reason = Reason(rxXvrrpReasonXVRRP_REASON_badSource)
	ReasonBadTTL               Reason = Reason(rxXvrrpReasonXVRRP_REASON_badTtl)
	ReasonSteady               Reason = Reason(rxXvrrpReasonXVRRP_REASON_steady)
	ReasonBadVersion           Reason = Reason(rxXvrrpReasonXVRRP_REASON_badVersion)
	ReasonBadType              Reason = Reason(rxXvrrpReasonXVRRP_REASON_badType)
	ReasonBadCount             Reason = Reason(rxXvrrpReasonXVRRP_REASON_badCount)
	ReasonBadLength            Reason = Reason(rxXvrrpReasonXVRRP_REASON_badLength)
	ReasonRateSource           Reason = Reason(rxXvrrpReasonXVRRP_REASON_rateSource)
	ReasonRateVRID             Reason = Reason(rxXvrrpReasonXVRRP_REASON_rateVrid)
	ReasonRateInterface        Reason = Reason(rxXvrrpReasonXVRRP_REASON_rateInterface)
	ReasonRingFull             Reason = Reason(rxXvrrpReasonXVRRP_REASON_ringFull)
	ReasonEvent                Reason = Reason(rxXvrrpReasonXVRRP_REASON_event)
	ReasonVIPConflict          Reason = Reason(rxXvrrpReasonXVRRP_REASON_vipConflict)
	ReasonFencedARP            Reason = Reason(rxXvrrpReasonXVRRP_REASON_fencedArp)
	ReasonFencedData           Reason = Reason(rxXvrrpReasonXVRRP_REASON_fencedData)
	ReasonFencedARPOut         Reason = Reason(rxXvrrpReasonXVRRP_REASON_fencedArpOut)
	ReasonFencedDataOut        Reason = Reason(rxXvrrpReasonXVRRP_REASON_fencedDataOut)
	ReasonSBFDReflected        Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdReflected)
	ReasonSBFDRefused          Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdRefused)
	ReasonSBFDReply            Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdReply)
	ReasonSBFDBadTTL           Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadTtl)
	ReasonSBFDBadLength        Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadLength)
	ReasonSBFDBadVersion       Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadVersion)
	ReasonSBFDBadFlags         Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadFlags)
	ReasonSBFDBadMultiplier    Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadMultiplier)
	ReasonSBFDBadDiscriminator Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadDiscriminator)
	ReasonSBFDBadSource        Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdBadSource)
	ReasonSBFDLooped           Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdLooped)
	ReasonSBFDRate             Reason = Reason(rxXvrrpReasonXVRRP_REASON_sbfdRate)
	ReasonMax                  Reason = Reason(rxXvrrpReasonXVRRP_REASON_MAX)
)

var reasonNames = [rxXvrrpReasonXVRRP_REASON_MAX]string{
	ReasonNotVRRP:              "not_vrrp",
	ReasonTruncated:            "truncated",
	ReasonBadIPHeader:          "bad_ip_header",
	ReasonFragment:             "fragment",
	ReasonUnknownVRID:          "unknown_vrid",
	ReasonOtherVLAN:            "other_vlan",
	ReasonBadDstMAC:            "bad_dst_mac",
	ReasonBadIPChecksum:        "bad_ip_checksum",
	ReasonBadDestination:       "bad_destination",
	ReasonBadSource:            "bad_source",
	ReasonBadTTL:               "bad_ttl",
	ReasonSteady:               "steady",
	ReasonBadVersion:           "bad_version",
	ReasonBadType:              "bad_type",
	ReasonBadCount:             "bad_count",
	ReasonBadLength:            "bad_length",
	ReasonRateSource:           "rate_source",
	ReasonRateVRID:             "rate_vrid",
	ReasonRateInterface:        "rate_interface",
	ReasonRingFull:             "ring_full",
	ReasonEvent:                "event",
	ReasonVIPConflict:          "vip_conflict",
	ReasonFencedARP:            "fenced_arp",
	ReasonFencedData:           "fenced_data",
	ReasonFencedARPOut:         "fenced_arp_out",
	ReasonFencedDataOut:        "fenced_data_out",
	ReasonSBFDReflected:        "sbfd_reflected",
	ReasonSBFDRefused:          "sbfd_refused",
	ReasonSBFDReply:            "sbfd_reply",
	ReasonSBFDBadTTL:           "sbfd_bad_ttl",
	ReasonSBFDBadLength:        "sbfd_bad_length",
	ReasonSBFDBadVersion:       "sbfd_bad_version",
	ReasonSBFDBadFlags:         "sbfd_bad_flags",
	ReasonSBFDBadMultiplier:    "sbfd_bad_multiplier",
	ReasonSBFDBadDiscriminator: "sbfd_bad_discriminator",
	ReasonSBFDBadSource:        "sbfd_bad_source",
	ReasonSBFDLooped:           "sbfd_looped",
	ReasonSBFDRate:             "sbfd_rate",
}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return "unknown_reason"
}

// Count is the number of frames that left for one reason, by verdict.
type Count struct {
	Pass uint64
	Drop uint64
}

// Counters has a Count for every Reason.
type Counters [rxXvrrpReasonXVRRP_REASON_MAX]Count
