// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fakeKernel holds addresses as the kernel does without promote_secondaries:
// the primary address of a subnet takes the others along.
type fakeKernel struct {
	have    []Found
	refuse  map[netip.Addr]error // answers to additions
	keep    int                  // removals that are refused
	mute    bool                 // no answers, after messages were carried out
	noDump  error
	batches []string // what each batch did
	dumps   int
	added   func() // called after each addition, before it is answered
}

func (k *fakeKernel) do(messages [][]byte, answer func(int, error)) error {
	batch := ""
	for i, m := range messages {
		kind := binary.NativeEndian.Uint16(m[4:])
		f, err := parseAddress(m[unix.NLMSG_HDRLEN:])
		if err != nil {
			return err
		}
		if kind == unix.RTM_NEWADDR {
			batch += "+" + f.Prefix.String() + " "
			err = k.add(f)
		} else {
			batch += "-" + f.Prefix.String() + " "
			err = k.del(f)
		}
		if !k.mute {
			answer(i, err)
		}
	}
	k.batches = append(k.batches, batch)
	if k.mute {
		return unix.EAGAIN
	}
	return nil
}

func (k *fakeKernel) add(f Found) error {
	if err := k.refuse[f.Prefix.Addr()]; err != nil {
		return err
	}
	if k.has(f.Ifindex, f.Prefix) {
		return unix.EEXIST
	}
	k.have = append(k.have, f)
	if k.added != nil {
		k.added()
	}
	return nil
}

func (k *fakeKernel) del(f Found) error {
	if k.keep > 0 {
		k.keep--
		return unix.ENOBUFS
	}
	i := slices.IndexFunc(k.have, func(g Found) bool { return g.Ifindex == f.Ifindex && g.Prefix == f.Prefix })
	if i < 0 {
		return unix.EADDRNOTAVAIL
	}
	same := func(g Found) bool { return g.Ifindex == f.Ifindex && g.Prefix.Masked() == f.Prefix.Masked() }
	if slices.IndexFunc(k.have, same) == i {
		k.have = slices.DeleteFunc(k.have, same)
	} else {
		k.have = slices.Delete(k.have, i, i+1)
	}
	return nil
}

func (k *fakeKernel) has(ifindex int, p netip.Prefix) bool {
	return slices.ContainsFunc(k.have, func(g Found) bool { return g.Ifindex == ifindex && g.Prefix == p })
}

func (k *fakeKernel) addresses(ifindex int) ([]Found, error) {
	k.dumps++
	var out []Found
	for _, f := range k.have {
		if f.Ifindex == ifindex {
			out = append(out, f)
		}
	}
	return out, k.noDump
}

func (k *fakeKernel) close() error { return nil }

// fakeWire is what was sent on all interfaces.
type fakeWire struct {
	frames []sentFrame
	room   map[int]int // by interface: frames that it takes until it drains; missing: any number
	down   map[int]error
	open   int
}

type sentFrame struct {
	ifindex int
	ip      netip.Addr // announced or probed
	probe   bool
	mac     string
}

func (w *fakeWire) socket(ifindex int) (frameSocket, error) {
	w.open++
	return fakeSocket{w, ifindex}, nil
}

type fakeSocket struct {
	wire    *fakeWire
	ifindex int
}

func (s fakeSocket) send(frames [][]byte) (int, error) {
	for i, f := range frames {
		if err := s.wire.down[s.ifindex]; err != nil {
			return i, err
		}
		if room, limited := s.wire.room[s.ifindex]; limited {
			if room == 0 {
				return i, unix.ENOBUFS
			}
			s.wire.room[s.ifindex]--
		}
		ip, _ := netip.AddrFromSlice(f[38:42])
		s.wire.frames = append(s.wire.frames, sentFrame{
			ifindex: s.ifindex, ip: ip, mac: net.HardwareAddr(f[6:12]).String(),
			probe: [4]byte(f[28:32]) == [4]byte{},
		})
	}
	return len(frames), nil
}

func (s fakeSocket) close() error {
	s.wire.open--
	return nil
}

// take returns what was sent since it was last asked, as "ip" or "ip?".
func (w *fakeWire) take() (out []string) {
	for _, f := range w.frames {
		name := f.ip.String()
		if f.probe {
			name += "?"
		}
		out = append(out, name)
	}
	w.frames = nil
	return out
}

// bench is a Host without a kernel, on a clock of its own. The test is the
// event loop, the other callers and the worker.
type bench struct {
	*Host
	clock   int64
	kernel  *fakeKernel
	wire    *fakeWire
	reports []Report
}

var testMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func newBench(t testing.TB) *bench {
	b := &bench{kernel: &fakeKernel{refuse: map[netip.Addr]error{}}, wire: &fakeWire{room: map[int]int{}, down: map[int]error{}}}
	h, err := newHost(func() int64 { return b.clock }, func(r Report) { b.reports = append(b.reports, r) }, b.kernel, b.wire.socket)
	require.NoError(t, err)
	b.Host = h
	t.Cleanup(func() { require.NoError(t, h.Close()) })
	for ifindex := 1; ifindex <= 3; ifindex++ {
		h.SetMAC(ifindex, testMAC)
	}
	return b
}

// until runs the worker until a time: at each moment for which it planned.
func (b *bench) until(at int64) {
	b.turn()
	for len(b.plan) > 0 && b.plan[0].at <= at {
		b.clock = max(b.clock, b.plan[0].at)
		b.turn()
	}
	b.clock = at
	b.turn()
}

// take returns the reports since it was last asked.
func (b *bench) take() []Report {
	out := b.reports
	b.reports = nil
	return out
}

// on returns an address on an interface.
func on(ifindex int, prefix string) Address {
	return Address{Ifindex: ifindex, Prefix: netip.MustParsePrefix(prefix)}
}

func spec(addresses ...Address) Spec { return Spec{addresses, Announcement{Repeat: 1}} }

// many returns n addresses of an interface.
func many(ifindex, n int) (out []Address) {
	for i := range n {
		out = append(out, on(ifindex, fmt.Sprintf("10.%d.%d.%d/32", ifindex, i/250, 1+i%250)))
	}
	return out
}

var errTest = errors.New("test")
