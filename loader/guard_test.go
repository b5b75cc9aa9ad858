// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/control/packet/packettest"
)

var (
	reflectorAddr = netip.MustParseAddr("192.168.1.8")
	reflectorMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 8}
	initiatorMAC  = net.HardwareAddr{2, 0, 0, 0, 0, 4}
)

const reflectorDiscr = 0xc0a80108 // the address

func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// guarded is a program that serves `fencedRouter` and answers probes at
// reflectorAddr, with a lease of a minute.
func guarded(tb testing.TB, mode Mode) *rig {
	tb.Helper()
	f := open(tb, mode)
	f.guard(tb)
	return f
}

// guard makes a rig anew as guarded does.
func (f *rig) guard(tb testing.TB) {
	tb.Helper()
	f.set(tb, fencedRouter())
	f.SetMAC(loopback, [6]byte(reflectorMAC))
	require.NoError(tb, f.SetLocals(loopback, []Local{{Prefix: netip.PrefixFrom(reflectorAddr, 24), Discriminator: reflectorDiscr}}))
	f.Renew(monotonic() + int64(time.Minute))
	f.SetRole(ourID, RoleMaster)
}

func fencedRouter() Router {
	r := ours
	s := packettest.Valid(3)
	s.Advert.Priority = 1
	r.Own = packet.Append(nil, &s.Advert, reflectorAddr, s.Dst)
	r.Addrs = []netip.Addr{packettest.VIP}
	return r
}

// probe is a good S-BFD probe.
type probe struct {
	frame  packet.BFDFrame
	bfd    packet.BFD
	mutate func([]byte) []byte
}

func goodProbe() probe {
	return probe{
		frame: packet.BFDFrame{
			SrcMAC: [6]byte(initiatorMAC), DstMAC: [6]byte(reflectorMAC), Src: packettest.Src, Dst: reflectorAddr,
			SrcPort: 50000, DstPort: packet.SBFDPort, TTL: packet.BFDTTL,
		},
		bfd: packet.BFD{
			State: 3, Flags: packet.BFDDemand, Multiplier: 3, My: 0x80000041, Your: reflectorDiscr,
			MinTx: time.Millisecond, MinRx: time.Millisecond, MinEchoRx: time.Microsecond,
		},
	}
}

func (p probe) build() []byte {
	b := packet.AppendBFDFrame(nil, &p.frame, &p.bfd)
	if p.mutate != nil {
		b = p.mutate(b)
	}
	return b
}

// run returns the verdict, the one counter that moved and the frame as the
// program left it.
func (f *rig) run(tb testing.TB, frame []byte) (verdict, reason string, out []byte) {
	tb.Helper()
	before := f.counters(tb)
	ret, out := f.through(tb, frame)
	return verdictOf(tb, f, ret), left(tb, f, before), out
}

const udpAt = 14 + 20

// prioritized adds a tag that has a priority, and no VLAN.
func prioritized(b []byte) []byte { return slices.Insert(b, 12, 0x81, 0, 0x60, 0) }

func tagged(b []byte) []byte { return slices.Insert(b, 12, 0x81, 0, 0, 7) }

func set(at int, v ...byte) func([]byte) []byte {
	return func(b []byte) []byte { copy(b[at:], v); return b }
}

func TestReflector(t *testing.T) {
	rigs := openModes(t)
	bfdAt := udpAt + 8
	for _, tc := range []struct {
		name   string
		change func(*probe)
		want   string
	}{
		{"good", func(*probe) {}, "sbfd_reflected pass"},
		{"no UDP checksum", func(p *probe) { p.mutate = set(udpAt+6, 0, 0) }, "sbfd_reflected pass"},
		{"poll", func(p *probe) { p.bfd.Flags |= packettest.BFDPoll }, "sbfd_reflected pass"},
		{"to another host", func(p *probe) { p.frame.Dst = netip.MustParseAddr("192.168.1.9") }, "not_vrrp pass"},
		{"to another port", func(p *probe) { p.frame.DstPort = 3784 }, "not_vrrp pass"},
		{"crossed a router", func(p *probe) { p.frame.TTL = 254 }, "sbfd_bad_ttl drop"},
		{"from another network", func(p *probe) { p.frame.Src = netip.MustParseAddr("10.0.0.1") }, "sbfd_bad_source drop"},
		{"in a broadcast frame", func(p *probe) { p.frame.DstMAC = [6]byte{255, 255, 255, 255, 255, 255} }, "sbfd_bad_source drop"},
		{"from a group", func(p *probe) { p.frame.SrcMAC = [6]byte{3, 0, 0, 0, 0, 4} }, "sbfd_bad_source drop"},
		{"truncated", func(p *probe) { p.mutate = func(b []byte) []byte { return b[:bfdAt+23] } }, "sbfd_bad_length drop"},
		{"UDP length short", func(p *probe) { p.mutate = set(udpAt+4, 0, 31) }, "sbfd_bad_length drop"},
		{"IP length long", func(p *probe) { p.mutate = set(14+2, 0, 53) }, "sbfd_bad_length drop"},
		{"BFD length", func(p *probe) { p.mutate = set(bfdAt+3, 23) }, "sbfd_bad_length drop"},
		{"version 0", func(p *probe) { p.mutate = set(bfdAt, 0) }, "sbfd_bad_version drop"},
		{"version 2", func(p *probe) { p.mutate = set(bfdAt, 2<<5) }, "sbfd_bad_version drop"},
		{"multipoint", func(p *probe) { p.bfd.Flags |= packettest.BFDMultipoint }, "sbfd_bad_flags drop"},
		{"authentication", func(p *probe) { p.bfd.Flags |= packettest.BFDAuth }, "sbfd_bad_flags drop"},
		{"multiplier 0", func(p *probe) { p.bfd.Multiplier = 0 }, "sbfd_bad_multiplier drop"},
		{"my discriminator 0", func(p *probe) { p.bfd.My = 0 }, "sbfd_bad_discriminator drop"},
		{"your discriminator 0", func(p *probe) { p.bfd.Your = 0 }, "sbfd_bad_discriminator drop"},
		{"another's discriminator", func(p *probe) { p.bfd.Your++ }, "sbfd_bad_discriminator drop"},
		{"from a reflector's port", func(p *probe) { p.frame.SrcPort = packet.SBFDPort }, "sbfd_looped drop"},
		{"without demand", func(p *probe) { p.bfd.Flags = 0 }, "sbfd_looped drop"},
		{"from our own address", func(p *probe) { p.frame.Src = reflectorAddr }, "sbfd_looped drop"},
		{"from our own MAC", func(p *probe) { p.frame.SrcMAC = [6]byte(reflectorMAC) }, "sbfd_looped drop"},
		{"IP options", func(p *probe) { p.mutate = set(14, 0x46) }, "not_vrrp pass"},
		{"fragment", func(p *probe) { p.mutate = set(14+6, 0x20) }, "not_vrrp pass"},
		{"with a priority tag", func(p *probe) { p.mutate = prioritized }, "sbfd_reflected pass"},
		{"of another VLAN", func(p *probe) { p.mutate = tagged }, "not_vrrp pass"},
		{"short, from the same port to another service", func(p *probe) {
			p.frame.SrcPort, p.frame.DstPort = packet.SBFDPort, 5353
			p.mutate = func(b []byte) []byte { return b[:bfdAt+11] }
		}, "not_vrrp pass"},
	} {
		for _, mode := range modes {
			t.Run(tc.name+"/"+string(mode), func(t *testing.T) {
				f := rigs[mode]
				f.guard(t)
				p := goodProbe()
				tc.change(&p)
				in := p.build()
				verdict, reason, out := f.run(t, in)
				assert.Equal(t, tc.want, reason)
				if verdict != "reflect" {
					assert.Equal(t, in, out, "what is not answered is not touched")
					return
				}
				assertAnswer(t, p, in, out, 3, 0)
			})
		}
	}
}

// assertAnswer checks a reflected frame field by field.
func assertAnswer(t *testing.T, p probe, in, out []byte, state, diag uint8) {
	t.Helper()
	require.Len(t, out, len(in), "an answer is as long as its question")
	want := probe{frame: packet.BFDFrame{
		SrcMAC: p.frame.DstMAC, DstMAC: p.frame.SrcMAC, Src: p.frame.Dst, Dst: p.frame.Src,
		SrcPort: p.frame.DstPort, DstPort: p.frame.SrcPort, TTL: 255,
	}, bfd: packet.BFD{
		State: state, Diag: diag, Multiplier: p.bfd.Multiplier, My: p.bfd.Your, Your: p.bfd.My,
		MinTx: p.bfd.MinTx, MinRx: 300 * time.Microsecond,
	}}
	if p.bfd.Flags&packettest.BFDPoll != 0 {
		want.bfd.Flags = packettest.BFDFinal
	}
	switch {
	case in[12] == 0x81:
		want.mutate = prioritized
	case in[udpAt+6] == 0 && in[udpAt+7] == 0:
		want.mutate = set(udpAt+6, 0, 0)
	}
	assert.Equal(t, want.build(), out, "with checksums as if it had been made anew")
}

func TestReflectorSpeaksForTheDaemon(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			f := guarded(t, mode)
			p := goodProbe()
			refused := func(why string) {
				t.Helper()
				_, reason, out := f.run(t, p.build())
				assert.Equal(t, "sbfd_refused pass", reason, why)
				assertAnswer(t, p, p.build(), out, 0, 7)
			}
			f.SetRole(ourID, RoleLeaving)
			refused("it leaves")
			f.SetRole(ourID, RoleBackup)
			refused("it serves nobody")
			f.SetRole(ourID, RoleMaster)
			_, reason, _ := f.run(t, p.build())
			assert.Equal(t, "sbfd_reflected pass", reason)
			f.Renew(monotonic() - 1)
			refused("the lease has run out")

			require.NoError(t, f.SetLocals(loopback, []Local{{Prefix: netip.PrefixFrom(reflectorAddr, 24)}}))
			_, reason, _ = f.run(t, p.build())
			assert.Equal(t, "not_vrrp pass", reason, "fast_detect_reflector off leaves probes to the host")
		})
	}
}

func TestReflectorIsLimited(t *testing.T) {
	f := guarded(t, ModeNative)
	frame := goodProbe().build()
	for range 2000 { // one by one: the program changes the frame
		_, err := f.prog.Run(&ebpf.RunOptions{Data: frame})
		require.NoError(t, err)
	}
	c := f.counters(t)
	assert.Positive(t, c[ReasonSBFDReflected].Pass)
	assert.Positive(t, c[ReasonSBFDRate].Drop)
	p := goodProbe()
	p.frame.SrcMAC = [6]byte{2, 0, 0, 0, 0, 5}
	_, reason, _ := f.run(t, p.build())
	assert.Equal(t, "sbfd_reflected pass", reason, "a stranger with the peer's address did not use up its budget")
}

// Whatever a reflector answers, another reflector does not.
func TestReflectorsDoNotPingPong(t *testing.T) {
	for _, mode := range modes {
		f, g := guarded(t, mode), guarded(t, mode)
		// g answers at the initiator's address, with its discriminator.
		require.NoError(t, g.SetLocals(loopback, []Local{{Prefix: netip.PrefixFrom(packettest.Src, 24), Discriminator: 0xc0a80104}}))
		g.SetMAC(loopback, [6]byte(initiatorMAC))
		rng := rand.New(rand.NewPCG(1, 1))
		answered := 0
		for range 3000 {
			p := goodProbe()
			p.bfd.My = 0xc0a80104
			p.frame.SrcPort = []uint16{packet.SBFDPort, packet.BFDEchoPort, 50000}[rng.IntN(3)]
			in := p.build()
			if rng.IntN(2) == 0 {
				in[rng.IntN(len(in))] ^= 1 << rng.IntN(8)
			}
			f.forgetSources(t)
			verdict, _, out := f.run(t, in)
			if verdict != "reflect" {
				continue
			}
			answered++
			verdict, reason, _ := g.run(t, out)
			assert.NotEqual(t, "reflect", verdict, "%x answered with %x: %s", in, out, reason)
		}
		assert.Greater(t, answered, 100)
	}
}

// forgetSources gives every source its full budget.
func (f *rig) forgetSources(tb testing.TB) {
	tb.Helper()
	var key rxXvrrpSourceKey
	for {
		if err := f.maps["sources"].NextKey(nil, &key); errors.Is(err, ebpf.ErrKeyNotExist) {
			return
		}
		require.NoError(tb, f.maps["sources"].Delete(&key))
	}
}

type rxXvrrpSourceKey [32]byte

func TestAnswersAreRecorded(t *testing.T) {
	rigs := openModes(t)
	const local, remote = 0x80000041, 0xc0a80104
	peer := packettest.Src
	answer := func() probe {
		p := goodProbe()
		p.frame.SrcPort, p.frame.DstPort = packet.SBFDPort, 50000
		p.bfd.Flags, p.bfd.My, p.bfd.Your = 0, remote, local
		return p
	}
	for _, tc := range []struct {
		name   string
		change func(*probe)
		want   string
	}{
		{"good", func(*probe) {}, "sbfd_reply drop"},
		{"admin down", func(p *probe) { p.bfd.State, p.bfd.Diag = 0, 7 }, "sbfd_reply drop"},
		{"for nobody", func(p *probe) { p.bfd.Your = 0x80000042 }, "not_vrrp pass"},
		{"for an old session", func(p *probe) { p.bfd.Your = 0x81000041 }, "not_vrrp pass"},
		{"from another", func(p *probe) { p.frame.Src = netip.MustParseAddr("192.168.1.5") }, "sbfd_bad_source drop"},
		{"another reflector", func(p *probe) { p.bfd.My++ }, "sbfd_bad_discriminator drop"},
		{"crossed a router", func(p *probe) { p.frame.TTL = 254 }, "sbfd_bad_ttl drop"},
		{"our probe came back", func(p *probe) { p.bfd.Flags = packet.BFDDemand }, "sbfd_looped drop"},
		{"multiplier 0", func(p *probe) { p.bfd.Multiplier = 0 }, "sbfd_bad_multiplier drop"},
		{"echo", func(p *probe) { p.frame.DstPort = packet.BFDEchoPort; p.frame.SrcPort = 50000 }, "not_vrrp pass"},
	} {
		for _, mode := range modes {
			t.Run(tc.name+"/"+string(mode), func(t *testing.T) {
				f := rigs[mode]
				f.guard(t)
				f.OpenSession(Session{Local: local, Remote: remote, Ifindex: loopback, Peer: peer})
				p := answer()
				tc.change(&p)
				began := monotonic()
				_, reason, _ := f.run(t, p.build())
				assert.Equal(t, tc.want, reason)
				a := f.Answer(local)
				if reason != "sbfd_reply drop" {
					assert.Zero(t, a)
					return
				}
				assert.GreaterOrEqual(t, a.LastNs, began)
				assert.Equal(t, Answer{LastNs: a.LastNs, Replies: 1, State: p.bfd.State, Diag: p.bfd.Diag}, a)
				f.CloseSession(local)
				_, reason, _ = f.run(t, p.build())
				assert.Equal(t, "not_vrrp pass", reason)
			})
		}
	}
}

func TestEchoesAreRecorded(t *testing.T) {
	const local = 0x80000041
	f := guarded(t, ModeNative)
	f.OpenSession(Session{Local: local, Remote: local, Ifindex: loopback, Peer: packettest.Src, Echo: true})
	p := goodProbe()
	p.frame.Src, p.frame.Dst = reflectorAddr, reflectorAddr
	p.frame.DstPort, p.frame.TTL = packet.BFDEchoPort, packettest.BFDEchoTTL
	p.bfd.My, p.bfd.Your = local, local
	_, reason, _ := f.run(t, p.build())
	assert.Equal(t, "sbfd_reply drop", reason)
	assert.Equal(t, uint64(1), f.Answer(local).Replies)
	p.frame.TTL = 255
	_, reason, _ = f.run(t, p.build())
	assert.Equal(t, "sbfd_bad_ttl drop", reason, "nobody forwarded it")
	p.frame.TTL, p.frame.Src = packettest.BFDEchoTTL, packettest.Src
	_, reason, _ = f.run(t, p.build())
	assert.Equal(t, "sbfd_bad_source drop", reason)
}

// arp is a question or answer about an address.
func arp(op byte, sender net.HardwareAddr, from, to netip.Addr) []byte {
	b := append([]byte{255, 255, 255, 255, 255, 255}, sender...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, op)
	b = append(append(b, sender...), from.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), to.AsSlice()...)
}

func TestForeignARPIsNews(t *testing.T) {
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 66}
	for _, mode := range modes {
		f := guarded(t, mode)
		_, reason, _ := f.run(t, arp(2, stranger, packettest.VIP, packettest.Src))
		assert.Equal(t, "vip_conflict pass", reason)
		var got []Event
		f.Drain(func(e *Event) { got = append(got, *e) })
		require.Len(t, got, 1)
		assert.Equal(t, ReasonVIPConflict, got[0].Reason)
		assert.Equal(t, packettest.VIP, got[0].Src)
		assert.Equal(t, stranger, net.HardwareAddr(got[0].MAC[:]))
		assert.Equal(t, ourID, got[0].Router)
		assert.Empty(t, got[0].Payload)

		_, reason, _ = f.run(t, arp(2, reflectorMAC, packettest.VIP, packettest.Src))
		assert.Equal(t, "not_vrrp pass", reason, "our own")
		_, reason, _ = f.run(t, arp(1, stranger, packettest.Src, packettest.VIP))
		assert.Equal(t, "not_vrrp pass", reason, "a question for us")
		f.SetRole(ourID, RoleBackup)
		_, reason, _ = f.run(t, arp(2, stranger, packettest.VIP, packettest.Src))
		assert.Equal(t, "not_vrrp pass", reason, "the master's right")
	}
}

func TestFence(t *testing.T) {
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 66}
	advert := packettest.Valid(3)
	toVIP := func() []byte {
		s := packettest.Valid(3)
		s.Dst = packettest.VIP
		s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+9] = 6; return b }
		return s.Build()
	}
	question := arp(1, stranger, packettest.Src, packettest.VIP)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			f := guarded(t, mode)
			state := func() string {
				_, a, _ := f.run(t, question)
				_, d, _ := f.run(t, toVIP())
				assert.Equal(t, f.Fence(ourID, monotonic()).Active, a != "not_vrrp pass")
				return a + ", " + d
			}
			const open, closed = "not_vrrp pass, not_vrrp pass", "fenced_arp drop, fenced_data drop"
			hear := func(n int) {
				for range n {
					verdict(t, f, advert.Build())
				}
			}
			assert.Equal(t, open, state())
			f.Renew(0)
			assert.Equal(t, open, state(), "a dead daemon without a peer serves")
			hear(2)
			assert.Equal(t, open, state(), "two adverts are not several")
			hear(1)
			assert.Equal(t, closed, state())

			assert.Equal(t, "drop", egress(t, f, arp(2, reflectorMAC, packettest.VIP, packettest.Src)), "and in the other direction")
			assert.Equal(t, "pass", egress(t, f, arp(2, reflectorMAC, reflectorAddr, packettest.Src)), "for the address only")

			f.Renew(monotonic() + int64(time.Minute))
			assert.Equal(t, open, state(), "the daemon is back")
			f.SetRole(ourID, RoleBackup)
			assert.Equal(t, closed, state(), "it yielded: the address is about to go")
			f.fences[ourID].LastNs -= uint64(5 * time.Second)
			assert.Equal(t, open, state(), "the other master fell silent")
		})
	}
}

// What does not say what our own advert says does not close the fence.
func TestFenceAsksForConsistentAdverts(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(n int, s *packettest.Spec)
		closed bool
	}{
		{"consistent", func(int, *packettest.Spec) {}, true},
		{"another interval", func(_ int, s *packettest.Spec) { s.Advert.Interval = 5 * time.Second }, true},
		{"our own, looped", func(_ int, s *packettest.Spec) { s.Src = reflectorAddr }, false},
		{"other addresses", func(_ int, s *packettest.Spec) { s.Advert.Addrs = []byte{10, 0, 0, 1} }, false},
		{"more addresses", func(_ int, s *packettest.Spec) { s.Advert.Addrs = append(s.Advert.Addrs, 10, 0, 0, 1) }, false},
		{"priority 0", func(_ int, s *packettest.Spec) { s.Advert.Priority = 0 }, false},
		{"bad TTL", func(_ int, s *packettest.Spec) { s.TTL = 64 }, false},
		{"in turns", func(n int, s *packettest.Spec) { s.Src = netip.AddrFrom4([4]byte{192, 168, 1, byte(10 + n%2)}) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := guarded(t, ModeNative)
			f.Renew(0)
			for n := range 6 {
				s := packettest.Valid(3)
				tc.change(n, &s)
				verdict(t, f, s.Build())
			}
			assert.Equal(t, tc.closed, f.Fence(ourID, monotonic()).Active)
		})
	}
	t.Run("addresses in another order", func(t *testing.T) {
		s := packettest.Valid(3)
		s.Advert.Addrs = []byte{10, 0, 0, 1, 10, 0, 0, 2, 10, 0, 0, 9}
		r := fencedRouter()
		r.Own = packet.Append(nil, &s.Advert, reflectorAddr, s.Dst)
		f := open(t, ModeNative, r)
		f.SetRole(ourID, RoleMaster)
		for _, addrs := range [][]byte{{10, 0, 0, 2, 10, 0, 0, 9, 10, 0, 0, 2}, {10, 0, 0, 9, 10, 0, 0, 1, 10, 0, 0, 2}} {
			s.Advert.Addrs = addrs
			for range 3 {
				verdict(t, f, s.Build())
			}
			assert.Equal(t, addrs[3] == 9, f.Fence(ourID, monotonic()).Active)
		}
	})
	t.Run("IPv6 addresses", func(t *testing.T) {
		addrs := func(list ...string) (b []byte) {
			for _, a := range list {
				b = append(b, netip.MustParseAddr(a).AsSlice()...)
			}
			return b
		}
		s := packettest.Valid(3)
		s.IPv6 = true
		s.Mutate = func(b []byte, _, p int) []byte { b[p+3] = 2; return b }
		s.Advert.Addrs = addrs("fe80::1", "2001:db8::2")
		frame := s.Build()
		r := Router{
			VRID: packettest.VRID, IPv6: true, Version: 3, CheckTTL: true, Group: packettest.Group6,
			Own: frame[14+40:],
		}
		f := open(t, ModeNative, r)
		f.SetRole(ourID, RoleMaster)
		for _, tc := range []struct {
			addrs []string
			same  bool
		}{
			{[]string{"fe80::2", "2001:db8::1"}, false},
			{[]string{"2001:db8::2", "fe80::1"}, true},
		} {
			s.Advert.Addrs = addrs(tc.addrs...)
			for range fenceAdverts {
				verdict(t, f, s.Build())
			}
			fence := f.Fence(ourID, monotonic())
			assert.Equal(t, tc.same, fence.Active, tc.addrs)
			if tc.same {
				assert.Equal(t, netip.MustParseAddr("fe80::4"), fence.Source)
			}
		}
	})
	t.Run("a stranger's interval", func(t *testing.T) {
		f := guarded(t, ModeNative)
		f.Renew(0)
		s := packettest.Valid(3)
		s.Advert.Interval = 40 * time.Second
		for range 3 {
			verdict(t, f, s.Build())
		}
		assert.True(t, f.Fence(ourID, monotonic()).Active)
		assert.False(t, f.Fence(ourID, monotonic()+int64(5*time.Second)).Active)
	})
	t.Run("a second successor", func(t *testing.T) {
		f := guarded(t, ModeNative)
		f.Renew(0)
		s := packettest.Valid(3)
		for range 3 {
			verdict(t, f, s.Build())
		}
		s.Src = netip.MustParseAddr("192.168.1.77")
		verdict(t, f, s.Build())
		assert.True(t, f.Fence(ourID, monotonic()).Active)
	})
	t.Run("password", func(t *testing.T) {
		s := packettest.Valid(2)
		r := fencedRouter()
		r.Version, r.Own = 2, packet.Append(nil, &s.Advert, reflectorAddr, s.Dst)
		f := open(t, ModeNative, r)
		f.SetRole(ourID, RoleMaster)
		copy(s.Advert.Auth[:], "guessed!")
		for range 6 {
			verdict(t, f, s.Build())
		}
		assert.False(t, f.Fence(ourID, monotonic()).Active)
		s = packettest.Valid(2)
		for range 3 {
			verdict(t, f, s.Build())
		}
		assert.True(t, f.Fence(ourID, monotonic()).Active)
	})
	t.Run("fence off", func(t *testing.T) {
		r := fencedRouter()
		r.Own = nil
		f := open(t, ModeNative, r)
		f.SetRole(ourID, RoleMaster)
		for range 6 {
			verdict(t, f, packettest.Valid(3).Build())
		}
		assert.False(t, f.Fence(ourID, monotonic()).Active)
	})
}

// Without a fence that holds, packets cost no look-up: the time until which one
// may hold is forgotten once it is over.
func TestFenceIsForgotten(t *testing.T) {
	const start = int64(1e12)
	for _, mode := range modes {
		f := openAt(t, mode, start, fencedRouter())
		f.SetRole(ourID, RoleMaster)
		packet := func() string {
			s := packettest.Valid(3)
			s.Dst = packettest.VIP
			s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+9] = 6; return b }
			_, reason, _ := f.run(t, s.Build())
			return reason
		}
		for round := range int64(2) {
			now := start + round*int64(time.Hour)
			f.setClock(t, now)
			for range fenceAdverts {
				verdict(t, f, packettest.Valid(3).Build())
			}
			assert.Equal(t, "fenced_data drop", packet())
			f.setClock(t, now+int64(4*time.Second)) // four intervals
			assert.Equal(t, "fenced_data drop", packet())
			assert.Equal(t, uint64(now)+4e9, f.lease.FenceUntilNs)
			f.setClock(t, now+int64(4*time.Second)+1)
			assert.Equal(t, "not_vrrp pass", packet())
			assert.Zero(t, f.lease.FenceUntilNs)
		}
	}
}

// What leaves is counted apart from what arrives, also on a VLAN.
func TestFenceCountsDirections(t *testing.T) {
	r := fencedRouter()
	r.VLAN = 7
	f := open(t, ModeTCX, r)
	f.SetRole(ourID, RoleMaster)
	s := packettest.Valid(3)
	s.VLANs = []uint16{7}
	for range fenceAdverts {
		verdict(t, f, s.Build())
	}
	question := func() []byte { return arp(1, initiatorMAC, packettest.VIP, packettest.VIP) }
	_, reason, _ := f.run(t, tagged(question()))
	assert.Equal(t, "fenced_arp drop", reason)
	before := f.counters(t)
	assert.Equal(t, "drop", egress(t, f, tagged(question())))
	assert.Equal(t, "fenced_arp_out drop", left(t, f, before))
	assert.Equal(t, "pass", egress(t, f, question()), "of another VLAN")
	s.Src = packettest.VIP
	s.Mutate = func(b []byte, ip, _ int) []byte { b[ip+9] = 6; return b }
	before = f.counters(t)
	assert.Equal(t, "drop", egress(t, f, s.Build()))
	assert.Equal(t, "fenced_data_out drop", left(t, f, before))
}

// egress runs the program of the other direction.
func egress(tb testing.TB, f *rig, frame []byte) string {
	tb.Helper()
	ret, err := f.egress.Run(&ebpf.RunOptions{Data: frame})
	require.NoError(tb, err)
	switch int32(ret) {
	case -1:
		return "pass"
	case 2:
		return "drop"
	}
	tb.Fatalf("the program returned %d", ret)
	return ""
}

// process starts this program again, to wait until it is killed.
func process(t *testing.T) *os.Process {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { _ = errors.Join(r.Close(), w.Close()) })
	p, err := os.StartProcess("/proc/self/exe", []string{"wait", "-test.run=^TestWaitToBeKilled$"},
		&os.ProcAttr{Env: []string{"XVRRP_TEST_WAIT=1"}, Files: []*os.File{r}})
	require.NoError(t, err)
	return p
}

// TestWaitToBeKilled is what process runs.
func TestWaitToBeKilled(*testing.T) {
	if os.Getenv("XVRRP_TEST_WAIT") != "" {
		_, _ = os.Stdin.Read(make([]byte, 1))
	}
}

// The lease ends with the process, and with no other.
func TestLeaseEndsWithTheProcess(t *testing.T) {
	f := guarded(t, ModeNative)
	require.NoError(t, f.exitLink.Close()) // older kernels refuse a second one
	require.NoError(t, f.watchExit())
	assert.Equal(t, uint32(os.Getpid()), f.Lease().Tgid)
	child := process(t)
	require.NoError(t, child.Kill())
	_, err := child.Wait()
	require.NoError(t, err)
	assert.NotZero(t, f.Lease().UntilNs, "another process ended")
	// The same for the process that the lease names.
	child = process(t)
	f.lease.Tgid = uint32(child.Pid)
	require.NoError(t, child.Kill())
	_, err = child.Wait()
	require.NoError(t, err)
	assert.Zero(t, f.Lease().UntilNs)
	assert.NotZero(t, f.lease.EndedNs)
}

// The reflector against a model of it in Go, on the same bytes.
func FuzzReflector(f *testing.F) {
	p := goodProbe()
	f.Add(p.build())
	p.frame.SrcPort = packet.SBFDPort
	f.Add(p.build())
	p = goodProbe()
	p.mutate = tagged
	f.Add(p.build())
	p.mutate = prioritized
	f.Add(p.build())
	filter := guarded(f, ModeNative)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 14 || len(b) > 3000 {
			return // the kernel does not run the program on these
		}
		filter.forgetSources(t)
		verdict, reason, out := filter.run(t, b)
		filter.Drain(func(*Event) {})
		want := modelReflector(b)
		if want == "" {
			assert.NotContains(t, reason, "sbfd_")
			return
		}
		assert.Equal(t, want, reason)
		assert.Equal(t, verdict == "reflect", want == "sbfd_reflected pass")
		if verdict == "reflect" {
			assert.Len(t, out, len(b))
		}
	})
}

// modelReflector returns what the program has to make of a frame, and nothing
// if it is not for the reflector.
func modelReflector(b []byte) string {
	at, ethertype := 14, 12
	for range 2 { // a tag with VLAN 0 is a priority on an untagged frame
		tag := string(b[ethertype : ethertype+2])
		if tag != "\x81\x00" && tag != "\x88\xa8" || len(b) < at+4 {
			break
		}
		if b[at]&0x0f != 0 || b[at+1] != 0 {
			return ""
		}
		ethertype, at = at+2, at+4
	}
	if len(b) < at+28 || b[ethertype] != 8 || b[ethertype+1] != 0 {
		return ""
	}
	ip, udp := b[at:], b[at+20:]
	port := func(n int) uint16 { return uint16(udp[n])<<8 | uint16(udp[n+1]) }
	src, dst := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
	if ip[9] != 17 || ip[0]&0xf != 5 || ip[6]&0x3f != 0 || ip[7] != 0 || dst != reflectorAddr {
		return ""
	}
	switch {
	case port(2) != packet.SBFDPort:
		return "" // an answer or an echo, for which there is no session
	case len(udp) < 8+packet.BFDLen:
		return "sbfd_bad_length drop"
	case port(0) == packet.SBFDPort, src == dst, string(b[6:12]) == string(reflectorMAC):
		return "sbfd_looped drop"
	case ip[8] != 255:
		return "sbfd_bad_ttl drop"
	case ip[2] != 0 || ip[3] != 52 || udp[4] != 0 || udp[5] != 32:
		return "sbfd_bad_length drop"
	}
	var m packet.BFD
	if err := packettest.DecodeBFD(udp[8:8+packet.BFDLen], &m); err != nil {
		return map[error]string{
			packettest.ErrBFDLength: "sbfd_bad_length drop", packettest.ErrBFDVersion: "sbfd_bad_version drop",
			packettest.ErrBFDFlags: "sbfd_bad_flags drop", packettest.ErrBFDMultiplier: "sbfd_bad_multiplier drop",
			packettest.ErrBFDDiscriminator: "sbfd_bad_discriminator drop",
		}[err]
	}
	switch {
	case !netip.PrefixFrom(reflectorAddr, 24).Masked().Contains(src), (b[0]|b[6])&1 != 0:
		return "sbfd_bad_source drop"
	case m.Flags&packet.BFDDemand == 0:
		return "sbfd_looped drop"
	case m.Your != reflectorDiscr:
		return "sbfd_bad_discriminator drop"
	}
	return "sbfd_reflected pass"
}
