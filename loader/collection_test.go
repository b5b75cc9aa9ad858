// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

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

// rig is a Collection and the program that frames go through.
type rig struct {
	*Collection
	mode Mode
	prog *ebpf.Program
	// frames go through a program by way of this interface.
	ifindex int
}

// open loads the programs without attaching them; the routers get the ids from
// 0 on. Unless it says otherwise, each is on loopback.
func open(tb testing.TB, mode Mode, routers ...Router) *rig {
	tb.Helper()
	return openWith(tb, mode, Options{Ports: 4}, false, routers...)
}

// openAt is open with a clock that stands until setClock.
func openAt(tb testing.TB, mode Mode, now int64, routers ...Router) *rig {
	tb.Helper()
	f := openWith(tb, mode, Options{Ports: 4}, true, routers...)
	f.setClock(tb, now)
	return f
}

func program(tb testing.TB, c *Collection, mode Mode) *ebpf.Program {
	tb.Helper()
	prog, err := c.program(mode)
	var v *ebpf.VerifierError
	if errors.As(err, &v) {
		tb.Fatalf("%+v", v)
	}
	require.NoError(tb, err)
	return prog
}

func openWith(tb testing.TB, mode Mode, opts Options, testClock bool, routers ...Router) *rig {
	tb.Helper()
	requireRoot(tb)
	c, err := load(opts, func(spec *ebpf.CollectionSpec) {
		if testClock { // the programs read the time from the meta map
			require.NoError(tb, spec.Variables["test_clock"].Set(uint8(1)))
		}
	})
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			tb.Fatalf("%+v", v)
		}
		tb.Fatal(err)
	}
	tb.Cleanup(func() { assert.NoError(tb, c.Close()) })
	f := &rig{Collection: c, mode: mode, prog: program(tb, c, mode), ifindex: loopback}
	f.addPort(tb, loopback, portMAC)
	f.set(tb, routers...)
	return f
}

// openModes opens a rig for each mode, for tests of many rows: a program takes
// a while to load.
func openModes(tb testing.TB) map[Mode]*rig {
	tb.Helper()
	rigs := map[Mode]*rig{}
	for _, mode := range modes {
		rigs[mode] = open(tb, mode)
	}
	return rigs
}

// set replaces all routers, and gives every source its full budget.
func (f *rig) set(tb testing.TB, routers ...Router) {
	tb.Helper()
	for id := range f.live {
		require.NoError(tb, f.RemoveRouter(RouterID(id)))
	}
	for id, r := range routers {
		if r.Ifindex == 0 {
			r.Ifindex = loopback
		}
		require.NoError(tb, f.SetRouter(RouterID(id), r))
	}
	f.forgetSources(tb)
}

// addPort makes an interface known, as Attach does.
func (f *rig) addPort(tb testing.TB, ifindex int, mac [6]byte) {
	tb.Helper()
	p, err := f.hold(ifindex)
	require.NoError(tb, err)
	p.attached = true
	f.SetMAC(ifindex, mac)
}

func (f *rig) setClock(tb testing.TB, now int64) {
	tb.Helper()
	var m rxXvrrpMeta
	require.NoError(tb, f.maps["meta"].Lookup(uint32(0), &m))
	m.TestNowNs = uint64(now)
	require.NoError(tb, f.maps["meta"].Put(uint32(0), m))
}

// counters are those of all interfaces.
func (f *rig) counters(tb testing.TB) Counters {
	tb.Helper()
	sum, err := f.Counters(0)
	require.NoError(tb, err)
	for ifindex := range f.ports {
		c, err := f.Counters(ifindex)
		require.NoError(tb, err)
		assert.Zero(tb, c[ReasonNotVRRP], "counted for all together")
		for r := range c {
			sum[r].Pass += c[r].Pass
			sum[r].Drop += c[r].Drop
		}
	}
	return sum
}

// through runs the program on a frame; out is the frame afterwards.
func (f *rig) through(tb testing.TB, frame []byte) (ret uint32, out []byte) {
	tb.Helper()
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256)}
	if f.ifindex != loopback {
		opts.Context = f.context(frame)
	}
	ret, err := f.prog.Run(opts)
	require.NoError(tb, err)
	return ret, opts.DataOut
}

// context makes a frame arrive on another interface than loopback.
func (f *rig) context(frame []byte) any {
	if f.mode == ModeTCX {
		skb := make([]uint32, 48) // struct __sk_buff
		skb[10] = uint32(f.ifindex)
		return skb
	}
	// struct xdp_md: data, data_end, data_meta, ingress_ifindex, …
	return []uint32{0, uint32(len(frame)), 0, uint32(f.ifindex), 0, 0}
}

// template is the event of an advert that becomes the template.
func template(s packettest.Spec, message []byte, seen int64) *Event {
	return &Event{RxNs: seen, Src: s.Src, Dst: s.Dst, MAC: packettest.MAC, Payload: message}
}

// verdict runs the program on a frame once.
func verdict(tb testing.TB, f *rig, frame []byte) string {
	tb.Helper()
	ret, _ := f.through(tb, frame)
	return verdictOf(tb, f, ret)
}

func verdictOf(tb testing.TB, f *rig, ret uint32) string {
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
func left(tb testing.TB, f *rig, before Counters) string {
	tb.Helper()
	after := f.counters(tb)
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

// ourID is the id of the first router.
const ourID RouterID = 0

var ours = Router{
	VRID: packettest.VRID, Version: 3, CheckTTL: true, Group: packettest.Group,
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
	ours6 := []Router{{VRID: packettest.VRID, IPv6: true, Version: 3, CheckTTL: true, Group: packettest.Group6}}
	v6 := func(change func(b []byte, ip int)) func(*packettest.Spec) {
		return func(s *packettest.Spec) {
			s.IPv6 = true
			s.Advert.Addrs = make([]byte, 16) // one IPv6 address
			s.Mutate = func(b []byte, ip, p int) []byte { b[p+3] = 1; change(b, ip); return b }
		}
	}
	rigs := openModes(t)
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
		{"TTL 64, not checked", []Router{{VRID: packettest.VRID, Version: 3, Group: packettest.Group}}, func(s *packettest.Spec) { s.TTL = 64 }, "event pass", true},
		{"version 2 on a version 3 router", nil, func(s *packettest.Spec) { *s = packettest.Valid(2) }, "bad_version pass", true},
		{"version 2", []Router{{VRID: packettest.VRID, Version: 2, CheckTTL: true, Group: packettest.Group}}, func(s *packettest.Spec) { *s = packettest.Valid(2) }, "event pass", true},
		{"version 2 without authentication data", []Router{{VRID: packettest.VRID, Version: 2, CheckTTL: true, Group: packettest.Group}}, func(s *packettest.Spec) {
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
		{"on our VLAN", []Router{{VRID: packettest.VRID, Version: 3, VLAN: 7, Group: packettest.Group}}, func(s *packettest.Spec) { s.VLANs = []uint16{7} }, "event pass", true},
		{"in a second tag", []Router{{VRID: packettest.VRID, Version: 3, VLAN: 7, Group: packettest.Group}}, func(s *packettest.Spec) { s.VLANs = []uint16{7, 8} }, "other_vlan pass", false},
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
				f := rigs[mode]
				f.set(t, routers...)
				s := packettest.Valid(3)
				tc.change(&s)
				before := f.counters(t)
				v := verdict(t, f, s.Build())
				assert.Equal(t, tc.want, left(t, f, before))
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
		before := f.counters(t)
		verdict(t, f, s.Build())
		assert.Equal(t, "event pass", left(t, f, before), words)
	}
}

func TestEventCarriesTheFrame(t *testing.T) {
	f := open(t, ModeNative, Router{VRID: 1, Version: 3}, Router{VRID: packettest.VRID, Version: 3, VLAN: 7, Group: packettest.Group})
	s := packettest.Valid(3)
	s.VLANs = []uint16{7}
	verdict(t, f, s.Build())
	require.Equal(t, 1, f.Drain(func(e *Event) {
		assert.Equal(t, RouterID(1), e.Router)
		assert.Equal(t, s.Src, e.Src)
		assert.Equal(t, s.Dst, e.Dst)
		assert.Equal(t, packettest.MAC, e.MAC)
		assert.Equal(t, packet.Append(nil, &s.Advert, s.Src, s.Dst), e.Payload)
		assert.Positive(t, e.RxNs)
		assert.Equal(t, loopback, e.Ifindex)
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
			require.True(t, f.Install(ourID, template(s, message, 1000)))
			assert.Equal(t, int64(1000), f.LastArrival(ourID))

			verdict(t, f, s.Build())
			assert.Equal(t, "steady pass", left(t, f, Counters{}))
			assert.Zero(t, f.Drain(func(*Event) {}))
			assert.Greater(t, f.LastArrival(ourID), int64(1000))

			for i := range message {
				changed := s
				changed.Mutate = func(b []byte, _, p int) []byte { b[p+i] ^= 0x80; return b }
				at := f.LastArrival(ourID)
				before := f.counters(t)
				verdict(t, f, changed.Build())
				assert.NotContains(t, left(t, f, before), "steady", "byte %d", i)
				assert.Equal(t, at, f.LastArrival(ourID), "byte %d moved the liveness", i)
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
				before := f.counters(t)
				verdict(t, f, changed.Build())
				assert.NotContains(t, left(t, f, before), "steady", name)
			}
			f.Clear(ourID)
			before := f.counters(t)
			verdict(t, f, s.Build())
			assert.NotContains(t, left(t, f, before), "steady")
			assert.Zero(t, f.LastArrival(ourID))
			assert.False(t, f.Install(ourID, template(s, make([]byte, PayloadMax+1), 1)))
		})
	}
}

func TestLargestTemplate(t *testing.T) {
	f := open(t, ModeNative, Router{VRID: packettest.VRID, Version: 2, CheckTTL: true, Group: packettest.Group})
	s := packettest.Valid(2)
	s.Advert.Addrs = make([]byte, 4*255)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	require.True(t, f.Install(ourID, template(s, message, 1)))
	verdict(t, f, s.Build())
	assert.Equal(t, "steady pass", left(t, f, Counters{}))
	s.Mutate = func(b []byte, _, _ int) []byte { b[len(b)-1] ^= 1; return b }
	before := f.counters(t)
	verdict(t, f, s.Build())
	assert.Equal(t, "event pass", left(t, f, before))
}

func TestLiveness(t *testing.T) {
	f := open(t, ModeNative, ours)
	s := packettest.Valid(3)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	f.Install(ourID, template(s, message, 1))
	for range 40 {
		verdict(t, f, s.Build())
	}
	l := f.Liveness(ourID)
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
	f.Install(ourID, template(s, message, 77))
	l = f.Liveness(ourID)
	assert.Equal(t, int64(77), l.LastNs)
	assert.Equal(t, uint64(40), l.Count)
	assert.Empty(t, l.Arrivals)
	assert.Zero(t, l.LargestGapNs)
}

// flood runs the program many times on one frame and returns the counters.
func flood(t *testing.T, f *rig, frame []byte, n uint32) Counters {
	t.Helper()
	_, err := f.prog.Run(&ebpf.RunOptions{Data: frame, Repeat: n})
	require.NoError(t, err)
	return f.counters(t)
}

// Each limit, exactly: the burst at once, and a second's worth after a second,
// in steps that are a multiple of the time of a token.
func TestRates(t *testing.T) {
	const start = int64(1e12)
	for _, tc := range []struct {
		name   string
		change func(*packettest.Spec)
		in     Reason
		over   Reason
		burst  int
		rate   int
	}{
		{"one source", func(*packettest.Spec) {}, ReasonEvent, ReasonRateSource, 50, 200},
		{"invalid", func(s *packettest.Spec) { s.TTL = 64 }, ReasonBadTTL, ReasonBadTTL, 100, 100},
		{"unknown VRID", func(s *packettest.Spec) { s.Advert.VRID = 1 }, ReasonUnknownVRID, ReasonUnknownVRID, 4000, 40000},
		{"of another VLAN", func(s *packettest.Spec) { s.VLANs = []uint16{9} }, ReasonOtherVLAN, ReasonOtherVLAN, 4000, 40000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onOneCPU(t)
			f := openAt(t, ModeNative, start, ours)
			s := packettest.Valid(3)
			tc.change(&s)
			frame := s.Build()
			c := flood(t, f, frame, 10000)
			assert.Equal(t, uint64(tc.burst), c[tc.in].Pass, "at once")
			assert.Equal(t, uint64(10000-tc.burst), c[tc.over].Drop)
			// Half the time of the burst, so that the bucket never overflows.
			steps := 2 * tc.rate / tc.burst
			for i := range steps {
				f.setClock(t, start+int64(i+1)*int64(time.Second)/int64(steps))
				flood(t, f, frame, uint32(tc.burst))
				f.Drain(func(*Event) {})
			}
			after := f.counters(t)
			assert.Equal(t, uint64(tc.rate), after[tc.in].Pass-c[tc.in].Pass, "in a second")
			// A pause is worth the burst, and no more.
			f.setClock(t, start+int64(time.Hour))
			last := flood(t, f, frame, 10000)
			assert.Equal(t, uint64(tc.burst), last[tc.in].Pass-after[tc.in].Pass, "after an hour")
		})
	}
}

// onOneCPU keeps the test on one CPU: budgets are per CPU.
func onOneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var was, one unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &was))
	for cpu := range 1024 {
		if was.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	require.NoError(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		assert.NoError(t, unix.SchedSetaffinity(0, &was))
		runtime.UnlockOSThread()
	})
}

// Many sources share the budget of a VRID, and the routers of a port its own.
func TestRatesAreShared(t *testing.T) {
	pinned := func(t *testing.T, routers ...Router) (*rig, func(vrid uint8, n int)) {
		onOneCPU(t)
		f := openAt(t, ModeNative, 1e12, routers...)
		s, at := packettest.Valid(3), 0
		return f, func(vrid uint8, n int) {
			for range n { // every one from another source
				at++
				s.Src = netip.AddrFrom4([4]byte{10, byte(at >> 16), byte(at >> 8), byte(at)})
				s.Advert.VRID = vrid
				_, err := f.prog.Run(&ebpf.RunOptions{Data: s.Build()})
				require.NoError(t, err)
				f.Drain(func(*Event) {})
			}
		}
	}
	t.Run("a VRID", func(t *testing.T) {
		f, send := pinned(t, ours)
		send(packettest.VRID, 300)
		c := f.counters(t)
		assert.Equal(t, Count{Pass: 200}, c[ReasonEvent])
		assert.Equal(t, Count{Drop: 100}, c[ReasonRateVRID])
	})
	t.Run("an interface", func(t *testing.T) {
		var routers []Router
		for vrid := range uint8(12) {
			r := ours
			r.VRID = vrid + 1
			routers = append(routers, r)
		}
		f, send := pinned(t, routers...)
		for _, r := range routers {
			send(r.VRID, 200)
		}
		c := f.counters(t)
		assert.Equal(t, Count{Pass: 2000}, c[ReasonEvent])
		assert.Equal(t, Count{Drop: 400}, c[ReasonRateInterface])
		// The current master's template has nothing to do with any budget.
		s := packettest.Valid(3)
		s.Advert.VRID = 1
		require.True(t, f.Install(ourID, template(s, packet.Append(nil, &s.Advert, s.Src, s.Dst), 1)))
		assert.Equal(t, Count{Pass: 50000}, flood(t, f, s.Build(), 50000)[ReasonSteady])
	})
}

// Invalid adverts, of which user space hears within their budget, do not fill
// the ring of the valid ones, and wake nobody.
func TestNoiseHasItsOwnRing(t *testing.T) {
	f := open(t, ModeNative, ours)
	readable := func() bool {
		fds := []unix.PollFd{{Fd: int32(f.FD()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 0)
		require.NoError(t, err)
		return n == 1
	}
	invalid := packettest.Valid(3)
	invalid.TTL = 1
	verdict(t, f, invalid.Build())
	assert.False(t, readable())
	verdict(t, f, packettest.Valid(3).Build())
	assert.True(t, readable())
	var got []Reason
	assert.Equal(t, 2, f.Drain(func(e *Event) { got = append(got, e.Reason) }))
	assert.Equal(t, []Reason{ReasonEvent, ReasonBadTTL}, got)
}

func TestFullRing(t *testing.T) {
	onOneCPU(t)
	f := openAt(t, ModeNative, 1e12, ours)
	s := packettest.Valid(3)
	s.Advert.Addrs = make([]byte, 4*255)
	frame := s.Build()
	for i := range 400 { // over a kilobyte each, of 256
		f.setClock(t, 1e12+int64(i)*1e9)
		verdict(t, f, frame)
	}
	c := f.counters(t)
	assert.Positive(t, c[ReasonRingFull].Pass)
	assert.Equal(t, uint64(400), c[ReasonRingFull].Pass+c[ReasonEvent].Pass)
	assert.Equal(t, int(c[ReasonEvent].Pass), f.Drain(func(*Event) {}))
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
	routers := []Router{
		ours, {VRID: 1, Version: 2, VLAN: 7, Group: packettest.Group},
		{VRID: packettest.VRID, IPv6: true, Version: 3, CheckTTL: true, Group: packettest.Group6},
	}
	filter := open(f, ModeNative, routers...)
	compare := func(t *testing.T, b []byte) {
		before := filter.counters(t)
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
func classify(b []byte, routers []Router) string {
	var f packet.Frame
	err := packet.ParseFrame(b, 0, &f)
	if err == nil {
		vrid, short := f.VRID()
		if short != nil {
			return "truncated"
		}
		i := slices.IndexFunc(routers, func(r Router) bool {
			return r.VRID == vrid && r.IPv6 == f.Src.Is6() && f.VLAN == [2]uint16{r.VLAN, 0}
		})
		switch {
		case i < 0 && f.VLAN[0] != 0:
			return "other_vlan"
		case i < 0:
			return "unknown_vrid"
		}
		r := routers[i]
		err = f.Check(&packet.Expect{
			Version: r.Version, CheckTTL: r.CheckTTL, MaxLen: PayloadMax,
			MAC: portMAC, Dst: r.Group, Broadcast: r.Broadcast,
		})
	}
	if err != nil {
		return err.(packet.Reject).String()
	}
	return "event"
}

func TestLayout(t *testing.T) {
	assert.Equal(t, uintptr(PayloadMax), unsafe.Sizeof(rxXvrrpEvent{}.Payload))
	assert.Equal(t, uintptr(PayloadMax), unsafe.Sizeof(rxXvrrpTemplate{}.Payload))
	assert.Equal(t, unsafe.Sizeof(Counters{}), unsafe.Sizeof(rxXvrrpCounters{}))
	// Elements of an mmapped array begin at multiples of eight bytes.
	for name, size := range map[string]uintptr{
		"router": unsafe.Sizeof(rxXvrrpRouter{}), "template": unsafe.Sizeof(rxXvrrpTemplate{}),
		"slot": unsafe.Sizeof(rxXvrrpSlot{}), "fence": unsafe.Sizeof(rxXvrrpFence{}),
		"serving": unsafe.Sizeof(rxXvrrpServing{}), "session": unsafe.Sizeof(rxXvrrpSession{}),
	} {
		assert.Zero(t, size%8, name)
	}
	assert.Zero(t, SessionMax&(SessionMax-1), "a power of two")
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

// The verifier gives up after a million. How many it needs differs between
// kernels; this is the headroom on each.
func TestVerifiedInstructions(t *testing.T) {
	f := open(t, ModeNative)
	programs := maps.Clone(f.coll.Programs)
	programs["xvrrp_xdp"], programs["xvrrp_tcx"] = program(t, f.Collection, ModeNative), program(t, f.Collection, ModeTCX)
	for name, p := range programs {
		info, err := p.Info()
		require.NoError(t, err)
		n, ok := info.VerifiedInstructions() // from Linux 5.16 on
		t.Log(name, n, ok)
		assert.Less(t, n, uint32(200_000), name)
	}
}

func TestDrainAllocatesNothing(t *testing.T) {
	f := open(t, ModeNative, ours)
	frame := packettest.Valid(3).Build()
	verdict(t, f, frame)
	fn := func(*Event) {}
	assert.Zero(t, testing.AllocsPerRun(10, func() {
		f.Drain(fn)
		f.LastArrival(ourID)
	}))
	s := packettest.Valid(3)
	message := packet.Append(nil, &s.Advert, s.Src, s.Dst)
	assert.Zero(t, testing.AllocsPerRun(10, func() { f.Install(ourID, template(s, message, 1)) }))
}
