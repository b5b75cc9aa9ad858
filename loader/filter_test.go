// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

const loopback = 1 // ifindex of lo, in every namespace

func requireRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatal("this test needs root, and CI must have it")
	}
	tb.Skip("this test needs root")
}

// open loads a program without attaching it.
func open(tb testing.TB, mode Mode, routers ...Router) *Filter {
	tb.Helper()
	requireRoot(tb)
	f := &Filter{ifindex: loopback, ifname: "lo", mode: mode, roles: map[Slot]Role{}, addrs: map[Slot][]netip.Addr{}}
	if err := f.load(mode); err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			tb.Fatalf("%+v", v)
		}
		tb.Fatal(err)
	}
	require.NoError(tb, f.mapMemory())
	f.SetMAC(portMAC[:])
	for _, r := range routers {
		require.NoError(tb, f.SetRouter(r))
	}
	tb.Cleanup(func() { assert.NoError(tb, f.release()) })
	return f
}

// template is the event of an advert that becomes the template.
func template(s packettest.Spec, message []byte, seen int64) *Event {
	return &Event{RxNs: seen, Src: s.Src, Dst: s.Dst, MAC: packettest.MAC, Payload: message}
}

// verdict runs the program on a frame once.
func verdict(tb testing.TB, f *Filter, frame []byte) string {
	tb.Helper()
	// The kernel wants at least an Ethernet header and pads nothing.
	ret, err := f.prog.Run(&ebpf.RunOptions{Data: frame})
	require.NoError(tb, err)
	return verdictOf(tb, f, ret)
}

func verdictOf(tb testing.TB, f *Filter, ret uint32) string {
	tb.Helper()
	switch {
	case f.mode == ModeTCX && int32(ret) == -1, f.mode != ModeTCX && ret == 2:
		return "pass"
	case f.mode == ModeTCX && ret == 2, f.mode != ModeTCX && ret == 1:
		return "drop"
	case f.mode == ModeTCX && ret == 7, f.mode != ModeTCX && ret == 3:
		return "reflect"
	}
	tb.Fatalf("the program returned %d", ret)
	return ""
}

// left returns the one counter that moved, as "reason verdict".
func left(tb testing.TB, f *Filter, before Counters) string {
	tb.Helper()
	after, err := f.Counters()
	require.NoError(tb, err)
	var moved []string
	for r := range after {
		for range after[r].Pass - before[r].Pass {
			moved = append(moved, Reason(r).String()+" pass")
		}
		for range after[r].Drop - before[r].Drop {
			moved = append(moved, Reason(r).String()+" drop")
		}
	}
	require.Len(tb, moved, 1, "every frame leaves through exactly one counter")
	return moved[0]
}

// requireTCX skips on kernels that are older than tcx, and on no other.
func requireTCX(t *testing.T) {
	t.Helper()
	version, err := features.LinuxVersionCode()
	require.NoError(t, err)
	if version < 6<<16|6<<8 {
		t.Skip("tcx needs Linux 6.6")
	}
}

var ours = Router{
	Slot: SlotOf(packettest.VRID, false), Version: 3, CheckTTL: true, Dst: packettest.Group,
	Broadcast: netip.MustParseAddr("192.168.1.255"),
}

// portMAC is the hardware address of the interface.
var portMAC = [6]byte{0x02, 0, 0, 0, 0, 0x10}

var modes = []Mode{ModeNative, ModeTCX}

// One valid frame, one mutation each.
func TestVerdicts(t *testing.T) {
	set := func(at int, v byte) func([]byte, int, int) []byte {
		return func(b []byte, ip, _ int) []byte { b[ip+at] = v; return b }
	}
	setDstMAC := func(mac [6]byte) func([]byte, int, int) []byte {
		return func(b []byte, _, _ int) []byte { copy(b, mac[:]); return b }
	}
	to := func(a string) func(*packettest.Spec) {
		return func(s *packettest.Spec) { s.Dst = netip.MustParseAddr(a) }
	}
	from := func(a string) func(*packettest.Spec) {
		return func(s *packettest.Spec) { s.Src = netip.MustParseAddr(a) }
	}
	setVRRP := func(at int, v byte) func([]byte, int, int) []byte {
		return func(b []byte, _, p int) []byte { b[p+at] = v; return b }
	}
	ours6 := []Router{{Slot: SlotOf(packettest.VRID, true), Version: 3, CheckTTL: true, Dst: packettest.Group6}}
	v6 := func(change func(b []byte, ip int)) func(*packettest.Spec) {
		return func(s *packettest.Spec) {
			s.IPv6 = true
			s.Advert.Addrs = make([]byte, 16) // one IPv6 address
			s.Mutate = func(b []byte, ip, p int) []byte { b[p+3] = 1; change(b, ip); return b }
		}
	}
	for _, tc := range []struct {
		name    string
		routers []Router
		change  func(*packettest.Spec)
		want    string
		event   bool
	}{
		{"valid", nil, func(*packettest.Spec) {}, "event pass", true},
		{"another protocol", nil, func(s *packettest.Spec) { s.Mutate = set(9, 17) }, "not_vrrp pass", false},
		{"another ethertype", nil, func(s *packettest.Spec) {
			s.Mutate = func(b []byte, _, _ int) []byte { b[12] = 0x88; return b }
		}, "not_vrrp pass", false},
		{"IHL 4", nil, func(s *packettest.Spec) { s.Mutate = set(0, 0x44) }, "bad_ip_header pass", false},
		{"IP version 5", nil, func(s *packettest.Spec) { s.Mutate = set(0, 0x55) }, "bad_ip_header pass", false},
		{"total length below the header", nil, func(s *packettest.Spec) { s.Mutate = set(3, 10) }, "bad_ip_header pass", false},
		{"first fragment", nil, func(s *packettest.Spec) { s.Mutate = set(6, 0x20) }, "fragment pass", false},
		{"later fragment", nil, func(s *packettest.Spec) { s.Mutate = set(7, 3) }, "fragment pass", false},
		{"to the MAC of the interface", nil, func(s *packettest.Spec) { s.Mutate = setDstMAC(portMAC) }, "event pass", true},
		{"to the group in a broadcast frame", nil, func(s *packettest.Spec) {
			s.Mutate = setDstMAC([6]byte{255, 255, 255, 255, 255, 255})
		}, "event pass", true},
		{"to another group's MAC", nil, func(s *packettest.Spec) {
			s.Mutate = setDstMAC([6]byte{1, 0, 0x5e, 0, 0, 19})
		}, "event pass", true},
		{"to another MAC", nil, func(s *packettest.Spec) {
			s.Mutate = setDstMAC([6]byte{0x02, 0, 0, 0, 0, 0x11})
		}, "bad_dst_mac pass", false},
		{"IP header checksum", nil, func(s *packettest.Spec) { s.Mutate = set(10, 0x55) }, "bad_ip_checksum pass", false},
		{"IP header checksum 0", nil, func(s *packettest.Spec) {
			s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+10], b[ip+11] = 0, 0; return b }
		}, "bad_ip_checksum pass", false},
		{"to another group", nil, to("224.0.0.19"), "bad_destination pass", false},
		{"to all hosts", nil, to("224.0.0.1"), "bad_destination pass", false},
		{"to a broadcast address", nil, to("255.255.255.255"), "bad_destination pass", false},
		{"to the directed broadcast address", nil, to("192.168.1.255"), "bad_destination pass", false},
		{"to a unicast address", nil, to("192.168.1.8"), "bad_destination pass", false},
		{"from a group", nil, from("224.0.0.18"), "bad_source pass", true},
		{"from the highest group", nil, from("239.255.255.255"), "bad_source pass", true},
		{"from class E", nil, from("240.0.0.1"), "event pass", true},
		{"from the broadcast address", nil, from("255.255.255.255"), "bad_source pass", true},
		{"from the directed broadcast address", nil, from("192.168.1.255"), "bad_source pass", true},
		{"from loopback", nil, from("127.1.2.3"), "bad_source pass", true},
		{"from nowhere", nil, from("0.0.0.0"), "bad_source pass", true},
		{"from network 0", nil, from("0.1.2.3"), "bad_source pass", true},
		{"TTL 64", nil, func(s *packettest.Spec) { s.TTL = 64 }, "bad_ttl pass", true},
		{"TTL 64, not checked", []Router{{Slot: ours.Slot, Version: 3, Dst: packettest.Group}}, func(s *packettest.Spec) { s.TTL = 64 }, "event pass", true},
		{"version 2 on a version 3 router", nil, func(s *packettest.Spec) { *s = packettest.Valid(2) }, "bad_version pass", true},
		{"version 2", []Router{{Slot: ours.Slot, Version: 2, CheckTTL: true, Dst: packettest.Group}}, func(s *packettest.Spec) { *s = packettest.Valid(2) }, "event pass", true},
		{"version 2 without authentication data", []Router{{Slot: ours.Slot, Version: 2, CheckTTL: true, Dst: packettest.Group}}, func(s *packettest.Spec) {
			*s = packettest.Valid(2)
			s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+3] -= 8; return b[:len(b)-8] }
		}, "bad_length pass", true},
		{"type 2", nil, func(s *packettest.Spec) { s.Mutate = setVRRP(0, 0x32) }, "bad_type pass", true},
		{"count 0", nil, func(s *packettest.Spec) { s.Mutate = setVRRP(3, 0) }, "bad_count pass", true},
		{"count lies", nil, func(s *packettest.Spec) { s.Mutate = setVRRP(3, 9) }, "bad_length pass", true},
		{"message above the largest", nil, func(s *packettest.Spec) {
			s.Mutate = func(b []byte, ip, _ int) []byte {
				b = append(b, make([]byte, 1100)...)
				binary.BigEndian.PutUint16(b[ip+2:], uint16(len(b)-ip))
				return b
			}
		}, "bad_length pass", true},
		{"frame ends in the message", nil, func(s *packettest.Spec) {
			s.Mutate = func(b []byte, _, _ int) []byte { return b[:len(b)-4] }
		}, "truncated pass", true},
		{"frame ends before the VRID", nil, func(s *packettest.Spec) {
			s.Mutate = func(b []byte, _, p int) []byte { return b[:p+1] }
		}, "truncated pass", false},
		{"unknown VRID", nil, func(s *packettest.Spec) { s.Advert.VRID = 89 }, "unknown_vrid pass", false},
		{"same VRID over IPv6", nil, func(s *packettest.Spec) { s.IPv6 = true }, "unknown_vrid pass", false},
		{"on a VLAN", nil, func(s *packettest.Spec) { s.VLANs = []uint16{7} }, "other_vlan pass", false},
		{"on our VLAN", []Router{{Slot: ours.Slot, Version: 3, VLAN: 7, Dst: packettest.Group}}, func(s *packettest.Spec) { s.VLANs = []uint16{7} }, "event pass", true},
		{"in a second tag", []Router{{Slot: ours.Slot, Version: 3, VLAN: 7, Dst: packettest.Group}}, func(s *packettest.Spec) { s.VLANs = []uint16{7, 8} }, "other_vlan pass", false},
		{"three tags", nil, func(s *packettest.Spec) { s.VLANs = []uint16{1, 2, 3} }, "not_vrrp pass", false},
		{"priority tag", nil, func(s *packettest.Spec) { s.VLANs = []uint16{0} }, "event pass", true},
		{"IPv6 to another group", ours6, v6(func(b []byte, ip int) { b[ip+39] = 0x13 }), "bad_destination pass", false},
		{"IPv6 from a group", ours6, v6(func(b []byte, ip int) { b[ip+8] = 0xff }), "bad_source pass", true},
		{"IPv6 from nowhere", ours6, v6(func(b []byte, ip int) { clear(b[ip+8 : ip+24]) }), "bad_source pass", true},
		{"IPv6 from loopback", ours6, v6(func(b []byte, ip int) { clear(b[ip+8 : ip+23]); b[ip+23] = 1 }), "bad_source pass", true},
		{"IPv6", ours6, v6(func([]byte, int) {}), "event pass", true},
	} {
		for _, mode := range modes {
			t.Run(tc.name+"/"+string(mode), func(t *testing.T) {
				routers := tc.routers
				if routers == nil {
					routers = []Router{ours}
				}
				f := open(t, mode, routers...)
				s := packettest.Valid(3)
				tc.change(&s)
				v := verdict(t, f, s.Build())
				assert.Equal(t, tc.want, left(t, f, Counters{}))
				assert.True(t, strings.HasSuffix(tc.want, v), v)
				n := f.Drain(func(e *Event) {
					assert.Equal(t, strings.Fields(tc.want)[0], e.Reason.String())
				})
				assert.Equal(t, tc.event, n == 1)
			})
		}
	}
}

// IHL 6 to 15: options of any length are passed over.
func TestOptions(t *testing.T) {
	f := open(t, ModeNative, ours)
	for words := range 11 {
		s := packettest.Valid(3)
		s.Options = words
		before, _ := f.Counters()
		verdict(t, f, s.Build())
		assert.Equal(t, "event pass", left(t, f, before), words)
	}
}

func TestEventCarriesTheFrame(t *testing.T) {
	f := open(t, ModeNative, Router{Slot: ours.Slot, Version: 3, VLAN: 7, Dst: packettest.Group})
	s := packettest.Valid(3)
	s.VLANs, s.TTL = []uint16{7}, 254
	verdict(t, f, s.Build())
	want := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	require.Equal(t, 1, f.Drain(func(e *Event) {
		assert.Equal(t, s.Src, e.Src)
		assert.Equal(t, s.Dst, e.Dst)
		assert.Equal(t, [2]uint16{7, 0}, e.VLAN)
		assert.Equal(t, uint8(254), e.TTL)
		assert.Equal(t, len(want), e.PayloadLen)
		assert.Equal(t, want, e.Payload)
		assert.Positive(t, e.RxNs)
		assert.Positive(t, e.Ifindex)
	}))
	assert.Zero(t, f.Drain(func(*Event) {}), "an event is read once")
}

// The template: only a repetition, byte for byte, is steady.
func TestTemplate(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			f := open(t, mode, ours)
			s := packettest.Valid(3)
			s.Advert.Addrs = bytes.Repeat([]byte{10, 0, 0, 1}, 3) // 20 bytes: a tail of four
			message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
			require.True(t, f.Install(ours.Slot, template(s, message, 1000)))
			assert.Equal(t, int64(1000), f.LastArrival(ours.Slot))

			verdict(t, f, s.Build())
			assert.Equal(t, "steady pass", left(t, f, Counters{}))
			assert.Zero(t, f.Drain(func(*Event) {}))
			assert.Greater(t, f.LastArrival(ours.Slot), int64(1000))

			for i := range message {
				changed := s
				changed.Mutate = func(b []byte, _, p int) []byte { b[p+i] ^= 0x80; return b }
				at := f.LastArrival(ours.Slot)
				before, _ := f.Counters()
				verdict(t, f, changed.Build())
				assert.NotContains(t, left(t, f, before), "steady", "byte %d", i)
				assert.Equal(t, at, f.LastArrival(ours.Slot), "byte %d moved the liveness", i)
			}
			for name, change := range map[string]func(*packettest.Spec){
				"source":      func(s *packettest.Spec) { s.Src = netip.MustParseAddr("192.168.1.5") },
				"destination": func(s *packettest.Spec) { s.Dst = netip.MustParseAddr("224.0.0.19") },
				"TTL":         func(s *packettest.Spec) { s.TTL = 254 },
				"frame to another host": func(s *packettest.Spec) {
					s.Mutate = func(b []byte, _, _ int) []byte { copy(b, []byte{2, 9}); return b }
				},
				"IP header checksum": func(s *packettest.Spec) {
					s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+10] ^= 1; return b }
				},
				"length": func(s *packettest.Spec) {
					s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+3] += 4; return append(b, 0, 0, 0, 0) }
				},
			} {
				changed := s
				change(&changed)
				before, _ := f.Counters()
				verdict(t, f, changed.Build())
				assert.NotContains(t, left(t, f, before), "steady", name)
			}
			f.Clear(ours.Slot)
			before, _ := f.Counters()
			verdict(t, f, s.Build())
			assert.NotContains(t, left(t, f, before), "steady")
			assert.Zero(t, f.LastArrival(ours.Slot))
			assert.False(t, f.Install(ours.Slot, template(s, make([]byte, PayloadMax+1), 1)))
		})
	}
}

func TestLargestTemplate(t *testing.T) {
	f := open(t, ModeNative, Router{Slot: ours.Slot, Version: 2, CheckTTL: true, Dst: packettest.Group})
	s := packettest.Valid(2)
	s.Advert.Addrs = make([]byte, 4*255)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	require.True(t, f.Install(ours.Slot, template(s, message, 1)))
	verdict(t, f, s.Build())
	assert.Equal(t, "steady pass", left(t, f, Counters{}))
	s.Mutate = func(b []byte, _, _ int) []byte { b[len(b)-1] ^= 1; return b }
	before, _ := f.Counters()
	verdict(t, f, s.Build())
	assert.Equal(t, "event pass", left(t, f, before))
}

func TestLiveness(t *testing.T) {
	f := open(t, ModeNative, ours)
	s := packettest.Valid(3)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	f.Install(ours.Slot, template(s, message, 1))
	for range 40 {
		verdict(t, f, s.Build())
	}
	l := f.Liveness(ours.Slot)
	assert.Equal(t, uint64(40), l.Count)
	require.Len(t, l.Arrivals, 32)
	assert.IsNonDecreasing(t, l.Arrivals)
	assert.Equal(t, l.LastNs, l.Arrivals[31])
	sum := int64(0)
	for _, n := range l.GapLog2 {
		sum += n
	}
	assert.Equal(t, int64(40), sum)
	assert.Positive(t, l.MeanGapNs)
	assert.Positive(t, l.LargestGapNs)
	// A new master starts afresh, but for the count.
	f.Install(ours.Slot, template(s, message, 77))
	l = f.Liveness(ours.Slot)
	assert.Equal(t, int64(77), l.LastNs)
	assert.Equal(t, uint64(40), l.Count)
	assert.Empty(t, l.Arrivals)
	assert.Zero(t, l.LargestGapNs)
}

// flood runs the program many times on one frame and returns the counters.
func flood(t *testing.T, f *Filter, frame []byte, n uint32) Counters {
	t.Helper()
	_, err := f.prog.Run(&ebpf.RunOptions{Data: frame, Repeat: n})
	require.NoError(t, err)
	c, err := f.Counters()
	require.NoError(t, err)
	return c
}

func TestRates(t *testing.T) {
	const n = 100000
	for name, tc := range map[string]struct {
		change func(*packettest.Spec)
		over   Reason
	}{
		"one source":   {func(*packettest.Spec) {}, ReasonRateSource},
		"invalid":      {func(s *packettest.Spec) { s.TTL = 64 }, ReasonBadTTL},
		"unknown VRID": {func(s *packettest.Spec) { s.Advert.VRID = 1 }, ReasonUnknownVRID},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t, ModeNative, ours)
			s := packettest.Valid(3)
			tc.change(&s)
			c := flood(t, f, s.Build(), n)
			assert.Positive(t, c[tc.over].Drop, c)
			total := uint64(0)
			for _, count := range c {
				total += count.Pass + count.Drop
			}
			assert.Equal(t, uint64(n), total)
		})
	}
}

// Many sources share the budget of a VRID.
func TestRateOfVRID(t *testing.T) {
	f := open(t, ModeNative, ours)
	s := packettest.Valid(3)
	for i := range 6000 { // every one from another source
		s.Src = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		verdict(t, f, s.Build())
	}
	c, err := f.Counters()
	require.NoError(t, err)
	assert.Positive(t, c[ReasonEvent].Pass)
	assert.Positive(t, c[ReasonRateVRID].Drop)
	assert.Zero(t, c[ReasonRingFull].Pass+c[ReasonRateSource].Drop)
}

func TestRateOfInterfaceAndFullRing(t *testing.T) {
	routers := []Router{ours}
	for vrid := range uint8(200) {
		if vrid != packettest.VRID {
			routers = append(routers, Router{Slot: SlotOf(vrid, false), Version: 3, CheckTTL: true, Dst: packettest.Group})
		}
	}
	f := open(t, ModeNative, routers...)
	s := packettest.Valid(3)
	for i := range 6000 { // every one from another source
		s.Src = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		s.Advert.VRID = uint8(i % 200)
		verdict(t, f, s.Build())
	}
	c, err := f.Counters()
	require.NoError(t, err)
	assert.Positive(t, c[ReasonRingFull].Pass+c[ReasonRateInterface].Drop, "%v", c)
	assert.Positive(t, c[ReasonEvent].Pass)
	// The current master's template has nothing to do with any budget.
	s = packettest.Valid(3)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	f.Install(ours.Slot, template(s, message, 1))
	before := c[ReasonSteady].Pass
	c = flood(t, f, s.Build(), 50000)
	assert.Equal(t, before+50000, c[ReasonSteady].Pass)
}

// The kernel's parser against the one in Go, on the same bytes.
func FuzzDifferential(f *testing.F) {
	for _, v := range []uint8{2, 3} {
		s := packettest.Valid(v)
		f.Add(s.Build())
		s.VLANs = []uint16{7, 8}
		f.Add(s.Build())
		s.VLANs, s.Options = nil, 3
		f.Add(s.Build())
		s.IPv6 = true
		f.Add(s.Build())
		s = packettest.Valid(v)
		s.Src = ours.Broadcast
		f.Add(s.Build())
		s.Mutate = func(b []byte, _, _ int) []byte { copy(b, portMAC[:]); return b }
		f.Add(s.Build())
		s.Mutate = func(b []byte, _, _ int) []byte { copy(b, []byte{2, 9}); return b }
		f.Add(s.Build())
		s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+10] ^= 1; return b }
		f.Add(s.Build())
		s.Mutate, s.Dst = nil, netip.MustParseAddr("224.0.0.19")
		f.Add(s.Build())
	}
	routers := map[Slot]Router{
		ours.Slot:                     ours,
		SlotOf(1, false):              {Slot: SlotOf(1, false), Version: 2, VLAN: 7, Dst: packettest.Group},
		SlotOf(packettest.VRID, true): {Slot: SlotOf(packettest.VRID, true), Version: 3, CheckTTL: true, Dst: packettest.Group6},
	}
	filter := open(f, ModeNative)
	for _, r := range routers {
		require.NoError(f, filter.SetRouter(r))
	}
	compare := func(t *testing.T, b []byte) {
		before, err := filter.Counters()
		require.NoError(t, err)
		verdict(t, filter, b)
		got := strings.Fields(left(t, filter, before))[0]
		filter.Drain(func(*Event) {})
		if strings.HasPrefix(got, "rate_") || got == "ring_full" {
			got = "event" // judged before the budgets
		}
		assert.Equal(t, classify(b, routers), got)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 14 || len(b) > 3000 {
			return // the kernel does not run the program on these
		}
		compare(t, b)
		// A checksum is not found by chance: what is behind it is reached so.
		packettest.RepairChecksum(b[14:])
		compare(t, b)
	})
}

// classify is what the packet socket does with the same parts of
// control/packet; the loader's room may not import it.
func classify(b []byte, routers map[Slot]Router) string {
	var f packet.Frame
	err := packet.ParseFrame(b, 0, &f)
	if err == nil {
		vrid, short := f.VRID()
		if short != nil {
			return "truncated"
		}
		r, ok := routers[SlotOf(vrid, f.Src.Is6())]
		switch {
		case !ok:
			return "unknown_vrid"
		case f.VLAN != [2]uint16{r.VLAN, 0}:
			return "other_vlan"
		}
		err = f.Check(&packet.Expect{
			Version: r.Version, CheckTTL: r.CheckTTL, MaxLen: PayloadMax,
			MAC: portMAC, Dst: r.Dst, Broadcast: r.Broadcast,
		})
	}
	if err != nil {
		return err.(packet.Reject).String()
	}
	return "event"
}

func TestLayout(t *testing.T) {
	assert.Equal(t, uintptr(PayloadMax), unsafe.Sizeof(rxXvrrpEvent{}.Payload))
	assert.Equal(t, uintptr(PayloadMax), unsafe.Sizeof(rxXvrrpRouter{}.Template.Payload))
	assert.Equal(t, unsafe.Sizeof(Counters{}), unsafe.Sizeof(rxXvrrpCounters{}))
	assert.Zero(t, unsafe.Sizeof(rxXvrrpRouter{})%8)
	assert.Zero(t, unsafe.Sizeof(rxXvrrpSlot{})%8)
	// The dump's field names are the names of the reasons.
	spec, err := loadRx()
	require.NoError(t, err)
	members := counterFields(t, spec)
	assert.Equal(t, reasonNames[:], members)
}

func TestInstructionCount(t *testing.T) {
	golden, err := os.ReadFile("testdata/insns.golden")
	require.NoError(t, err)
	spec, err := loadRx()
	require.NoError(t, err)
	var lines []string
	for name, p := range spec.Programs {
		lines = append(lines, name+" "+strconv.Itoa(len(p.Instructions)))
	}
	slices.Sort(lines)
	assert.Equal(t, strings.TrimSpace(string(golden)), strings.Join(lines, "\n"), "growth is reviewed: update the file if it is wanted")
}

func TestDrainAllocatesNothing(t *testing.T) {
	f := open(t, ModeNative, ours)
	frame := packettest.Valid(3).Build()
	verdict(t, f, frame)
	fn := func(*Event) {}
	assert.Zero(t, testing.AllocsPerRun(10, func() {
		f.Drain(fn)
		f.LastArrival(ours.Slot)
	}))
	s := packettest.Valid(3)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	assert.Zero(t, testing.AllocsPerRun(10, func() { f.Install(ours.Slot, template(s, message, 1)) }))
}

func TestOpenInEveryMode(t *testing.T) {
	requireRoot(t)
	require.NoError(t, MountBPFFS())
	for _, mode := range []Mode{ModeGeneric, ModeTCX} { // lo has no native XDP
		t.Run(string(mode), func(t *testing.T) {
			if mode == ModeTCX {
				requireTCX(t)
			}
			dir := BPFFS + "/xvrrp-test-" + strconv.Itoa(os.Getpid())
			opts := Options{Ifindex: loopback, Ifname: "lo", Modes: []Mode{mode}, PinDir: dir, Log: slog.New(slog.DiscardHandler)}
			f, err := Open(opts)
			require.NoError(t, err)
			// A crash: the process lets go without Close. The pin keeps it.
			require.NoError(t, f.release())
			assert.FileExists(t, dir+"/link-"+string(mode))

			again, err := Open(opts)
			require.NoError(t, err)
			defer func() {
				require.NoError(t, again.Close())
				assert.NoDirExists(t, dir)
			}()
			assert.Equal(t, mode, again.Mode())
			dump, err := exec.Command("bpftool", "map", "dump", "pinned", dir+"/counters").CombinedOutput()
			if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
				t.Skip("no bpftool")
			}
			require.NoError(t, err, string(dump))
			for _, name := range reasonNames {
				assert.Contains(t, string(dump), `"`+name+`"`)
			}
		})
	}
}

// Most network agents' programs end the chain with TC_ACT_OK. Ours comes before
// them, whoever was there first, and also after a crash.
func TestTCXComesFirst(t *testing.T) {
	requireRoot(t)
	requireTCX(t)
	require.NoError(t, MountBPFFS())
	agent := func(hook ebpf.AttachType) {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "agent", Type: ebpf.SchedCLS, License: "MIT",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0 /* TC_ACT_OK */), asm.Return()},
		})
		require.NoError(t, err)
		t.Cleanup(func() { _ = prog.Close() })
		l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: prog, Attach: hook, Anchor: link.Head()})
		require.NoError(t, err)
		t.Cleanup(func() { _ = l.Close() })
	}
	hooks := []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress}
	opts := Options{
		Ifindex: loopback, Ifname: "lo", Modes: []Mode{ModeTCX}, Log: slog.New(slog.DiscardHandler),
		PinDir: BPFFS + "/xvrrp-test-" + strconv.Itoa(os.Getpid()),
	}
	for range 2 { // the second time a link is there to be adopted, but not first
		for _, hook := range hooks {
			agent(hook)
		}
		f, err := Open(opts)
		require.NoError(t, err)
		assert.True(t, first(f.link, loopback, hooks[0]))
		assert.True(t, first(f.egressLink, loopback, hooks[1]))
		require.NoError(t, f.release())
	}
	f, err := Open(opts)
	require.NoError(t, err)
	for _, hook := range hooks {
		chain, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: hook})
		require.NoError(t, err)
		assert.Len(t, chain.Programs, 3, "two agents and one of ours")
	}
	require.NoError(t, f.Close())
}

func TestBusyHookIsExplained(t *testing.T) {
	requireRoot(t)
	opts := Options{Ifindex: loopback, Ifname: "lo", Modes: []Mode{ModeGeneric}, Log: slog.New(slog.DiscardHandler)}
	first, err := Open(opts)
	require.NoError(t, err)
	defer first.Close()
	info, err := first.prog.Info()
	require.NoError(t, err)
	id, _ := info.ID()
	opts.Holder = func(int) uint32 { return uint32(id) }
	_, err = Open(opts)
	require.ErrorIs(t, err, ErrBusy)
	assert.ErrorContains(t, err, "XDP is held by program xvrrp_xdp (id "+strconv.Itoa(int(id))+") on lo")
	requireTCX(t)
	var said bytes.Buffer
	opts.Modes, opts.Log = []Mode{ModeGeneric, ModeTCX}, slog.New(slog.NewTextHandler(&said, nil))
	second, err := Open(opts)
	require.NoError(t, err)
	assert.Equal(t, ModeTCX, second.Mode())
	assert.Contains(t, said.String(), "XDP is held by program xvrrp_xdp")
	assert.Contains(t, said.String(), "; using tcx")
	require.NoError(t, second.Close())
}
