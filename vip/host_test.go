// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const second = int64(time.Second)

func TestTakeoverAndRelease(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24"), on(2, "10.0.0.2/32")))
	b.turn()
	assert.Empty(t, b.kernel.batches, "not owned")
	b.clock = 5
	s.Takeover()
	s.Takeover() // nothing new
	b.clock = 7
	b.turn()
	assert.Equal(t, []string{"+10.0.0.1/24 +10.0.0.2/32 "}, b.kernel.batches)
	assert.Equal(t, []string{"10.0.0.1", "10.0.0.2"}, b.wire.take())
	assert.Equal(t, []Report{{Set: s, Epoch: 1, OrderedNs: 5, AppliedNs: 7, Announced: 7}}, b.take())

	b.clock = 9
	s.Release()
	b.turn()
	assert.Empty(t, b.kernel.have)
	assert.Equal(t, []Report{{Set: s, Epoch: 2, OrderedNs: 9, AppliedNs: 9}}, b.take())
}

// An order that was overtaken is not carried out and not reported.
func TestNewestOrderCounts(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	s.Takeover()
	s.Release()
	b.turn()
	assert.Empty(t, b.kernel.batches, "nothing was added: nothing is removed")
	assert.Equal(t, []Report{{Set: s, Epoch: 2}}, b.take())

	s.Takeover()
	b.turn()
	b.wire.take()
	b.take()
	s.Release()
	s.Takeover()
	b.turn()
	assert.Len(t, b.kernel.batches, 1, "it never left")
	assert.Equal(t, []string{"10.0.0.1"}, b.wire.take(), "a new epoch is announced")
	assert.Equal(t, uint64(5), b.take()[0].Epoch)
}

func TestThereAndGoneAreSuccess(t *testing.T) {
	b := newBench(t)
	a := on(1, "10.0.0.1/24")
	require.NoError(t, b.kernel.add(Found{Address: a}))
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	assert.NoError(t, b.reports[0].Err())
	require.NoError(t, b.kernel.del(Found{Address: a}))
	s.Release()
	b.turn()
	assert.NoError(t, b.reports[1].Err())
}

// A refused address is reported once, tried again later and later, and
// reported when the kernel takes it. The others are not held up.
func TestRefusedAddress(t *testing.T) {
	b := newBench(t)
	bad := on(1, "10.0.0.9/24")
	b.kernel.refuse[bad.Prefix.Addr()] = unix.EINVAL
	s := b.Add(spec(bad, on(1, "10.0.0.1/24")))
	other := b.Add(spec(on(1, "10.0.1.1/24")))
	s.Takeover()
	other.Takeover()
	b.turn()
	byset := map[*Set]Report{}
	for _, r := range b.take() {
		byset[r.Set] = r
	}
	r := byset[s]
	assert.ErrorIs(t, r.Err(), unix.EINVAL)
	assert.ErrorContains(t, r.Err(), "address 10.0.0.9/24: ")
	assert.Equal(t, []AddressError{{bad, unix.EINVAL}}, r.Failed)
	r = byset[other]
	assert.NoError(t, r.Err(), "one router's trouble is not another's")
	assert.NotContains(t, b.wire.take(), "10.0.0.9", "what the host does not have is not announced")

	before := len(b.kernel.batches)
	b.until(20 * second)
	attempts := len(b.kernel.batches) - before
	assert.Equal(t, 8, attempts, "after 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3 and 16.3 s")
	assert.Empty(t, b.take(), "reported once")

	delete(b.kernel.refuse, bad.Prefix.Addr())
	b.until(30 * second)
	assert.True(t, b.kernel.has(1, bad.Prefix))
	assert.Equal(t, []string{"10.0.0.9"}, b.wire.take(), "only what was added")
	reports := b.take()
	require.Len(t, reports, 1)
	assert.Equal(t, uint64(1), reports[0].Epoch)
	assert.Empty(t, reports[0].Failed)
	n := len(b.kernel.batches)
	b.until(100 * second)
	assert.Len(t, b.kernel.batches, n)
}

// What the kernel did not answer may have been done: a release undoes it.
func TestNoAnswer(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	b.kernel.mute = true
	s.Takeover()
	b.turn()
	require.Len(t, b.reports, 1)
	assert.ErrorIs(t, b.reports[0].Err(), errNoAnswer)
	assert.Empty(t, b.wire.take())
	require.Len(t, b.kernel.have, 1)
	b.kernel.mute = false
	s.Release()
	b.turn()
	assert.Empty(t, b.kernel.have)

	s.Takeover()
	b.turn()
	b.kernel.mute = true
	s.Release()
	b.turn()
	b.kernel.mute = false
	b.wire.take()
	b.until(second)
	assert.NoError(t, b.reports[len(b.reports)-1].Err(), "tried again")
	assert.Empty(t, s.objects[0].err)
	assert.Equal(t, absent, s.objects[0].state)
}

func TestUpdate(t *testing.T) {
	b := newBench(t)
	a1, a2, a3 := on(1, "10.0.0.1/32"), on(1, "10.0.0.2/32"), on(2, "10.0.0.3/32")
	s := b.Add(spec(a1, a2))
	b.Update(Change{s, spec(a2)})
	b.turn()
	assert.Empty(t, b.kernel.batches)
	s.Takeover()
	b.turn()
	b.wire.take()
	b.kernel.batches = nil
	b.take()

	b.Update(Change{s, spec(a3, a2)})
	b.turn()
	assert.Equal(t, []string{"+10.0.0.3/32 "}, b.kernel.batches)
	assert.Equal(t, []string{"10.0.0.3"}, b.wire.take(), "only what was added")
	assert.Equal(t, 2, b.wire.open)
	b.Update(Change{s, spec(a2, a3)})
	b.turn()
	assert.Len(t, b.kernel.batches, 1, "the same content")
	b.Update(Change{s, spec(a3)})
	b.turn()
	assert.Equal(t, []string{"+10.0.0.3/32 ", "-10.0.0.2/32 "}, b.kernel.batches)
	assert.Equal(t, 1, b.wire.open, "the socket of an interface without addresses is closed")

	labelled := a3
	labelled.Label = "eth:1"
	b.kernel.batches = nil
	b.Update(Change{s, spec(labelled)})
	b.turn()
	assert.Equal(t, []string{"-10.0.0.3/32 ", "+10.0.0.3/32 "}, b.kernel.batches, "another label is another object")
	assert.Empty(t, b.take(), "nothing was refused")

	b.Remove(s)
	b.turn()
	assert.Empty(t, b.kernel.have)
	assert.Empty(t, b.sets)
	assert.Empty(t, b.links)
	s.Takeover()
	s.Announce()
	b.until(second)
	assert.Empty(t, b.kernel.have, "it is removed for good")
}

// An address that moves between owned sets never leaves the host.
func TestAddressMoves(t *testing.T) {
	b := newBench(t)
	x, y := on(1, "10.0.0.1/32"), on(1, "10.0.0.2/32")
	s, u := b.Add(spec(x)), b.Add(spec(y))
	s.Takeover()
	u.Takeover()
	b.turn()
	b.kernel.batches = nil
	b.Update(Change{s, spec(y)}, Change{u, spec(x)})
	b.turn()
	assert.Equal(t, []string{"+10.0.0.2/32 +10.0.0.1/32 "}, b.kernel.batches)
	// And with ownership: the release of one and the takeover of the other.
	v := b.Add(spec(x))
	v.Takeover()
	u.Release()
	b.kernel.batches = nil
	b.turn()
	assert.Equal(t, []string{"+10.0.0.1/32 "}, b.kernel.batches)
	assert.Len(t, b.kernel.have, 2)
}

func TestReleasesGoFirst(t *testing.T) {
	b := newBench(t)
	s, u := b.Add(spec(on(1, "10.0.0.1/24"))), b.Add(spec(on(1, "10.0.0.2/24")))
	s.Takeover()
	b.turn()
	b.kernel.batches = nil
	u.Takeover()
	s.Release()
	b.turn()
	assert.Equal(t, []string{"-10.0.0.1/24 ", "+10.0.0.2/24 "}, b.kernel.batches)
}

func TestOwnAddressesStay(t *testing.T) {
	b := newBench(t)
	own := on(1, "10.0.0.1/24")
	own.Own = true
	s := b.Add(spec(own, on(1, "10.0.0.2/24")))
	s.Takeover()
	b.turn()
	s.Release()
	b.turn()
	assert.Equal(t, []string{"+10.0.0.2/24 ", "-10.0.0.2/24 "}, b.kernel.batches)
	assert.Equal(t, []string{"10.0.0.1", "10.0.0.2"}, b.wire.take())
}

// The kernel removes the secondary addresses of a subnet along with its
// primary one: those of other sets are put back in the same turn.
func TestReleaseTakesOthersAlong(t *testing.T) {
	b := newBench(t)
	s, u := b.Add(spec(on(1, "10.5.0.51/24"))), b.Add(spec(on(1, "10.5.0.52/24")))
	elsewhere := b.Add(spec(on(2, "10.5.0.53/24")))
	for _, set := range []*Set{s, u, elsewhere} {
		set.Takeover()
	}
	b.turn()
	b.take()
	b.wire.take()
	s.Release()
	b.turn()
	assert.True(t, b.kernel.has(1, netip.MustParsePrefix("10.5.0.52/24")))
	assert.Equal(t, 1, b.kernel.dumps, "only the interface of the release")
	assert.Equal(t, []string{"10.5.0.52"}, b.wire.take())
	b.Lost(Key{1, netip.MustParseAddr("10.5.0.52")}) // the news come later
	b.turn()
	reports := b.take()
	require.Len(t, reports, 1, "nobody else removed it")
	assert.Equal(t, s, reports[0].Set)
}

// An address that something else removes is put back at once a few times, then
// later and later; the report lists it until it has stayed.
func TestRemovedByOthers(t *testing.T) {
	b := newBench(t)
	a := on(1, "10.0.0.1/24")
	s := b.Add(spec(a, on(1, "10.0.1.1/24")))
	s.Takeover()
	b.turn()
	b.take()
	b.wire.take()
	lose := func() {
		require.NoError(t, b.kernel.del(Found{Address: a}))
		b.Lost(a.Key())
		b.turn()
	}
	for range freeRepairs {
		lose()
		require.True(t, b.kernel.has(1, a.Prefix))
	}
	assert.Equal(t, []string{"10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1", "10.0.0.1"}, b.wire.take())
	reports := b.take()
	require.Len(t, reports, 1, "once for each change")
	assert.Equal(t, []Address{a}, reports[0].Removed)
	assert.NoError(t, reports[0].Err())

	var delays []int64
	for range 8 {
		lose()
		start := b.clock
		for !b.kernel.has(1, a.Prefix) {
			b.until(b.plan[0].at)
		}
		delays = append(delays, (b.clock-start)/int64(time.Millisecond))
	}
	assert.Equal(t, []int64{100, 200, 400, 800, 1600, 3200, 5000, 5000}, delays)
	assert.Empty(t, b.take())
	b.until(b.clock + int64(Stay) + second)
	reports = b.take()
	require.Len(t, reports, 1)
	assert.Empty(t, reports[0].Removed, "it has stayed")
	lose()
	assert.True(t, b.kernel.has(1, a.Prefix), "undisturbed for a while: at once again")

	require.NoError(t, b.kernel.del(Found{Address: a}))
	b.Verify()
	b.turn()
	assert.True(t, b.kernel.has(1, a.Prefix), "without news")
	b.take()
	s.Release()
	b.turn()
	assert.Empty(t, b.take()[0].Removed)
}

func TestStaleNewsOfALoss(t *testing.T) {
	b := newBench(t)
	a := on(1, "10.0.0.1/24")
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	b.take()
	n := len(b.kernel.batches)
	b.Lost(a.Key())
	b.Lost(on(1, "10.0.0.77/24").Key())
	b.turn()
	assert.Len(t, b.kernel.batches, n)
	assert.Empty(t, b.take())
	assert.Equal(t, 1, b.kernel.dumps)
	s.Release()
	b.turn()
	b.Lost(a.Key()) // the news of our own removal
	b.turn()
	assert.Equal(t, 1, b.kernel.dumps)
}

// An interface that is gone took its addresses along: that is no interference,
// and they are added when it is back.
func TestInterfaceGone(t *testing.T) {
	b := newBench(t)
	a := on(1, "10.0.0.1/24")
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	b.take()
	b.kernel.have, b.kernel.noDump, b.kernel.refuse[a.Prefix.Addr()] = nil, unix.ENODEV, unix.ENODEV
	b.Lost(a.Key())
	b.turn()
	assert.Empty(t, b.take())
	b.until(second)
	reports := b.take()
	require.Len(t, reports, 1)
	assert.Empty(t, reports[0].Removed)
	assert.ErrorIs(t, reports[0].Err(), unix.ENODEV)
	clear(b.kernel.refuse)
	b.kernel.noDump = nil
	b.until(10 * second)
	assert.True(t, b.kernel.has(1, a.Prefix))
	assert.NoError(t, b.take()[0].Err())
}

func TestDumpFails(t *testing.T) {
	b := newBench(t)
	a := on(1, "10.0.0.1/24")
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	b.kernel.have, b.kernel.noDump = nil, unix.EINTR
	b.Lost(a.Key())
	b.turn()
	assert.Empty(t, b.kernel.have)
	b.kernel.noDump = nil
	b.until(second)
	assert.True(t, b.kernel.has(1, a.Prefix))
}

// A demoted router never announces, whatever was planned for it.
func TestEpoch(t *testing.T) {
	b := newBench(t)
	s := b.Add(Spec{[]Address{on(1, "10.0.0.1/24")}, Announcement{
		Repeat: 2, Delay: time.Second, Refresh: 10 * time.Second, RefreshRepeat: 3,
	}})
	s.Takeover()
	b.turn()
	assert.Len(t, b.wire.take(), 2, "the first block")
	b.until(second)
	assert.Len(t, b.wire.take(), 2, "the second block")
	b.until(11 * second)
	assert.Len(t, b.wire.take(), 3, "refresh")
	b.until(21 * second)
	assert.Len(t, b.wire.take(), 3, "and again")

	s.Release() // not yet carried out by the worker
	b.clock = 31 * second
	b.due()
	b.flush()
	assert.Empty(t, b.wire.take(), "an order is enough to silence it")
	b.until(100 * second)
	assert.Empty(t, b.wire.take())
	assert.Empty(t, b.plan)
}

func TestRefreshFollowsUpdate(t *testing.T) {
	b := newBench(t)
	addresses := []Address{on(1, "10.0.0.1/24")}
	s := b.Add(Spec{addresses, Announcement{Repeat: 1}})
	s.Takeover()
	b.until(second)
	b.wire.take()
	b.Update(Change{s, Spec{addresses, Announcement{Repeat: 1, Refresh: 2 * time.Second, RefreshRepeat: 1}}})
	b.until(6 * second)
	assert.Len(t, b.wire.take(), 2)
	b.Update(Change{s, Spec{addresses, Announcement{Repeat: 1}}})
	b.until(60 * second)
	assert.Empty(t, b.wire.take())
}

// A second block that waits does so whatever changes about others.
func TestOthersDoNotMoveABlock(t *testing.T) {
	b := newBench(t)
	how := Announcement{Repeat: 1, Delay: 5 * time.Second}
	s := b.Add(Spec{[]Address{on(1, "10.0.0.1/24")}, how})
	other := b.Add(Spec{[]Address{on(1, "10.0.0.2/24")}, how})
	s.Takeover()
	b.until(second)
	assert.Equal(t, []string{"10.0.0.1"}, b.wire.take())
	b.clock = 2 * second
	other.Takeover()
	b.Update(Change{other, Spec{[]Address{on(1, "10.0.0.3/24")}, Announcement{Repeat: 3}}})
	b.until(4 * second)
	assert.NotContains(t, b.wire.take(), "10.0.0.1")
	b.Remove(other)
	b.until(6 * second)
	assert.Equal(t, []string{"10.0.0.1"}, b.wire.take())
	b.until(60 * second)
	assert.Empty(t, b.wire.take())
}

// Every address is announced once before any is repeated.
func TestPacing(t *testing.T) {
	b := newBench(t)
	addresses := []Address{on(1, "10.0.0.1/32"), on(1, "10.0.0.2/32"), on(1, "10.0.0.3/32")}
	how := Announcement{Repeat: 2, Interval: time.Second}
	s, u := b.Add(Spec{addresses[:2], how}), b.Add(Spec{addresses[2:], how})
	s.Takeover()
	u.Takeover()
	var sent []string
	for range 6 {
		b.until(b.clock)
		now := b.wire.take()
		require.Len(t, now, 1)
		sent = append(sent, now...)
		b.clock += second
	}
	assert.ElementsMatch(t, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, sent[:3])
	assert.ElementsMatch(t, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, sent[3:])
	b.until(b.clock + 10*second)
	assert.Empty(t, b.wire.take())
	for _, r := range b.take() {
		assert.Zero(t, r.Announced, "not all were when it was reported")
	}
}

func TestLosingAdvertsQueueOneBlock(t *testing.T) {
	b := newBench(t)
	s := b.Add(Spec{[]Address{on(1, "10.0.0.1/24")}, Announcement{LowerPrioRepeat: 2, LowerPrioDelay: time.Second}})
	s.Announce()
	b.turn()
	assert.Empty(t, b.wire.take(), "not owned")
	s.Takeover()
	b.turn()
	b.wire.take()
	for range 10 {
		s.Announce()
		b.turn()
		assert.Len(t, b.wire.take(), 2)
	}
	b.until(5 * second)
	assert.Len(t, b.wire.take(), 2)
	s.Announce()
	b.until(10 * second)
	assert.Len(t, b.wire.take(), 4, "and the next time again")
}

func TestChangedMAC(t *testing.T) {
	b := newBench(t)
	s := b.Add(Spec{[]Address{on(1, "10.0.0.1/24"), on(9, "10.0.0.9/24")}, Announcement{Repeat: 2}})
	other := net.HardwareAddr{2, 0, 0, 0, 0, 2}
	b.SetMAC(1, other)
	b.turn()
	assert.Empty(t, b.wire.take(), "not owned: nothing to say")
	s.Takeover()
	b.turn()
	require.Len(t, b.wire.frames, 2, "nothing where the address is unknown")
	assert.Equal(t, other.String(), b.wire.frames[0].mac)
	b.wire.take()
	b.SetMAC(1, other)
	b.turn()
	assert.Empty(t, b.wire.take(), "no news")
	b.SetMAC(9, testMAC)
	b.turn()
	assert.Equal(t, []string{"10.0.0.9", "10.0.0.9"}, b.wire.take())
	for _, none := range []net.HardwareAddr{nil, make(net.HardwareAddr, 6), make(net.HardwareAddr, 20)} {
		b.SetMAC(9, none)
		s.Announce()
		b.turn()
		assert.Equal(t, []string{"10.0.0.1"}, b.wire.take())
		assert.NotContains(t, b.macs, 9)
		b.SetMAC(9, testMAC)
		b.turn()
		b.wire.take()
	}
}

// An interface that does not drain: each address is announced, and no other
// interface waits for it.
func TestAnnouncementsThatTheKernelRefuses(t *testing.T) {
	b := newBench(t)
	const n, room = 800, 277
	s := b.Add(Spec{many(1, n), Announcement{Repeat: 5, Delay: time.Second, Refresh: 50 * time.Millisecond, RefreshRepeat: 1}})
	u := b.Add(Spec{many(2, 3), Announcement{Repeat: 2}})
	b.wire.room[1] = room
	b.clock = second
	s.Takeover()
	u.Takeover()
	b.turn()
	first := map[netip.Addr]bool{}
	elsewhere := 0
	count := func() {
		for _, f := range b.wire.frames {
			if f.ifindex == 1 {
				first[f.ip] = true
			} else {
				elsewhere++
			}
		}
		b.wire.frames = nil
	}
	count()
	assert.Len(t, first, room)
	assert.Equal(t, 6, elsewhere)
	for _, r := range b.take() {
		assert.Equal(t, r.Set == u, r.Announced != 0)
	}
	assert.Positive(t, b.Retried.Load())
	for turns := 1; len(first) < n; turns++ {
		require.Less(t, turns, 4, "three send buffers hold them")
		b.wire.room[1] = room
		b.until(b.clock + int64(retryFull))
		count()
	}
	// It never drains again: what waits has a bound, and an order ends it.
	b.until(b.clock + 100*second)
	due := 0
	for _, o := range b.links[1].waiting {
		due += o.due
	}
	assert.LessOrEqual(t, due, 2*5*n)
	s.Release() // not yet carried out by the worker
	b.wire.room[1] = 1 << 20
	b.clock += second
	b.due()
	b.flush()
	assert.Empty(t, b.wire.take(), "an order is enough to silence it")
	b.until(b.clock + second)
	assert.Empty(t, b.wire.take())
	assert.Empty(t, b.plan)
	assert.Positive(t, b.Dropped.Load())
}

func TestInterfaceThatIsDown(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	b.wire.down[1] = unix.ENETDOWN
	s.Takeover()
	b.until(10 * second)
	assert.Empty(t, b.wire.take())
	assert.LessOrEqual(t, b.Retried.Load(), uint64(12), "once a second")
	delete(b.wire.down, 1)
	b.until(12 * second)
	assert.Equal(t, []string{"10.0.0.1"}, b.wire.take())
}

// Every owned address is probed in turn, and no other.
func TestOwnedAddressesAreProbed(t *testing.T) {
	b := newBench(t)
	var want []string
	for i, owns := range []bool{true, false, true} {
		s := b.Add(Spec{Addresses: many(i+1, 7)})
		if owns {
			s.Takeover()
			for _, a := range many(i+1, 7) {
				want = append(want, a.Prefix.Addr().String()+"?")
			}
		}
	}
	own := on(3, "10.9.0.1/24")
	own.Own = true
	b.Add(spec(own)) // another router owns it now
	b.turn()
	for range 2 {
		for range want {
			assert.Equal(t, probeEvery, b.probeNext())
		}
		assert.Equal(t, want, b.wire.take())
	}
	assert.Zero(t, b.Sent.Load(), "a probe is no announcement")
}

func TestFewAddressesAreProbedOnceASecond(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(many(1, 3)...))
	s.Takeover()
	b.turn()
	b.wire.take()
	for range 9 {
		assert.Equal(t, time.Second/3, b.probeNext())
	}
	assert.Len(t, b.wire.take(), 9)
	s.Release()
	b.turn()
	b.wire.take()
	assert.Equal(t, time.Second, b.probeNext(), "nothing is owned")
	assert.Empty(t, b.wire.take())
}

// The event loop orders without allocating.
func TestOrdersAllocateNothing(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		s.Takeover()
		s.Announce()
		s.Release()
		s.queued.Store(false) // each order signals, as if the worker had taken the list
		b.ordered.Store(nil)
	}))
}

// After any sequence of orders, updates, refusals and interference, this host
// has what the owned sets hold and nothing else, and knows that it added that.
func TestAnySequence(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := oldBench(t)
		b.wire.room[2] = 10
		pool := append(many(1, 5), on(1, "10.7.0.1/24"), on(1, "10.7.0.2/24"), on(1, "10.7.0.3/24"), on(2, "10.7.0.4/24"))
		some := func() (out Spec) {
			for _, a := range pool {
				if r.IntN(3) == 0 {
					out.Addresses = append(out.Addresses, a)
				}
			}
			out.Announce = Announcement{Repeat: r.IntN(3), Refresh: time.Duration(r.IntN(2)) * time.Second, RefreshRepeat: 1}
			return out
		}
		var sets []*Set
		want := map[*Set]Spec{}
		for range 60 {
			switch n := r.IntN(10); {
			case n == 0 || len(sets) == 0:
				sp := some()
				s := b.Add(sp)
				sets, want[s] = append(sets, s), sp
			case n <= 2:
				sets[r.IntN(len(sets))].Takeover()
			case n <= 4:
				sets[r.IntN(len(sets))].Release()
			case n == 5:
				s, sp := sets[r.IntN(len(sets))], some()
				b.Update(Change{s, sp})
				want[s] = sp
			case n == 6 && r.IntN(3) == 0:
				i := r.IntN(len(sets))
				b.Remove(sets[i])
				delete(want, sets[i])
				sets = slices.Delete(sets, i, i+1)
			case n == 7 && len(b.kernel.have) > 0:
				f := b.kernel.have[r.IntN(len(b.kernel.have))]
				_ = b.kernel.del(f)
				b.Verify()
			case n == 8:
				clear(b.kernel.refuse)
				b.kernel.mute = r.IntN(4) == 0
				if r.IntN(2) == 0 {
					b.kernel.refuse[pool[r.IntN(len(pool))].Prefix.Addr()] = errTest
				}
			default:
				b.until(b.clock + r.Int64N(second))
			}
		}
		clear(b.kernel.refuse)
		b.kernel.mute = false
		b.Verify()
		b.until(b.clock + 30*second)
		var have, expected []string
		for _, f := range b.kernel.have {
			have = append(have, fmt.Sprint(f.Ifindex, " ", f.Prefix))
		}
		for s, sp := range want {
			if owned(s.epoch.Load()) {
				for _, a := range sp.Addresses {
					expected = append(expected, fmt.Sprint(a.Ifindex, " ", a.Prefix))
				}
			}
		}
		slices.Sort(expected)
		slices.Sort(have)
		require.Equal(t, slices.Compact(expected), have, "seed %d", seed)
		require.Len(t, b.sets, len(sets), "seed %d", seed)
		b.Marked(b.facts())
		require.Len(t, b.added.of, len(have), "seed %d", seed)
		for _, f := range b.kernel.have {
			require.True(t, b.added.of[f.identity()], "seed %d: %v", seed, f)
		}
		for _, s := range sets {
			require.Empty(t, s.failed)
			require.Empty(t, s.removed)
			require.Equal(t, s.epoch.Load(), s.applied)
		}
	}
}

// The loop, the reconciler and the worker at the same time, for the race
// detector.
func TestConcurrentCallers(t *testing.T) {
	k := &fakeKernel{refuse: map[netip.Addr]error{}}
	w := &fakeWire{}
	reports := make(chan Report, 1<<16)
	start := time.Now()
	h, err := newHost(func() int64 { return int64(time.Since(start)) }, func(r Report) { reports <- r }, k, w.socket)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error)
	go func() { ran <- h.Run(ctx) }()
	stay := h.Add(spec(many(1, 3)...))
	var callers sync.WaitGroup
	callers.Go(func() { // the event loop
		for range 1000 {
			stay.Takeover()
			stay.Announce()
			stay.Release()
		}
		stay.Takeover()
	})
	callers.Go(func() { // the reconciler
		for i := range 300 {
			s := h.Add(spec(many(2, 3)...))
			s.Takeover()
			h.SetMAC(1+i%2, net.HardwareAddr{2, 0, 0, 0, 0, byte(i)})
			h.Update(Change{s, spec(many(2, 2)...)})
			h.Lost(Key{2, many(2, 1)[0].Prefix.Addr()})
			h.Remove(s)
		}
	})
	callers.Wait()
	for r := range reports {
		if r.Set == stay && r.Epoch == 2001 {
			break
		}
	}
	cancel()
	require.NoError(t, <-ran)
	assert.Len(t, k.have, 3)
	assert.Len(t, h.sets, 1)
	require.NoError(t, h.Close())
	assert.Zero(t, w.open)
}

// What is ordered before the end is carried out.
func TestLastOrders(t *testing.T) {
	b := newBench(t)
	s := b.Add(spec(on(1, "10.0.0.1/24")))
	s.Takeover()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, b.Run(ctx))
	assert.Len(t, b.kernel.have, 1)
}

// A removal that the kernel refuses is tried again before the end, also while
// the event loop, which has ended, looks as if it were held up. What stays is
// told.
func TestLastRemovals(t *testing.T) {
	for _, tc := range []struct {
		name    string
		refused int // removals
		remove  bool
	}{
		{name: "released", refused: 3},
		{name: "removed", refused: 3, remove: true},
		{name: "refused for good", refused: 100},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			b.HeldUp = func() bool { return true }
			s, other := b.Add(spec(on(1, "10.0.0.1/24"))), b.Add(spec(on(2, "10.0.1.1/24")))
			s.Takeover()
			other.Takeover()
			b.turn()
			b.kernel.keep = tc.refused
			if tc.remove {
				b.Remove(s)
			} else {
				s.Release()
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			err := b.Run(ctx)
			assert.True(t, b.kernel.has(2, netip.MustParsePrefix("10.0.1.1/24")), "it is owned")
			if tc.refused < lastTries {
				require.NoError(t, err)
				assert.Len(t, b.kernel.have, 1)
				return
			}
			require.ErrorIs(t, err, unix.ENOBUFS)
			assert.ErrorContains(t, err, "address 10.0.0.1/24: ")
			assert.Len(t, b.kernel.have, 2)
		})
	}
}

// An address that is removed right after it was put back may be there and gone
// between two snapshots of whoever tells of losses: it is looked at again.
func TestRemovedAgainWithoutNews(t *testing.T) {
	b := newBench(t)
	a := on(1, "10.0.0.1/24")
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	remove := func() { require.NoError(t, b.kernel.del(Found{Address: a})) }
	remove()
	b.Lost(a.Key())
	b.turn()
	require.True(t, b.kernel.has(1, a.Prefix))
	for range 3 {
		remove()
		b.until(b.clock + int64(lookAgain) + int64(firstDelay))
		require.True(t, b.kernel.has(1, a.Prefix))
	}
}

// While the event loop is held up it does not know who serves: what somebody
// removed stays away, and nothing is announced again. Orders are carried out.
func TestHeldUp(t *testing.T) {
	b := newBench(t)
	held := false
	b.HeldUp = func() bool { return held }
	a1, a2 := on(1, "10.0.0.1/32"), on(1, "10.0.0.2/32")
	refreshed := spec(a1)
	refreshed.Announce.Refresh = time.Duration(second)
	refreshed.Announce.RefreshRepeat = 1
	s, u := b.Add(refreshed), b.Add(spec(a2))
	s.Takeover()
	u.Takeover()
	b.turn()
	require.Len(t, b.kernel.have, 2)
	b.wire.take()

	held = true
	for _, a := range []Address{a1, a2} {
		require.NoError(t, b.kernel.del(Found{Address: a}))
		b.Lost(a.Key())
	}
	b.clock += 5 * second
	b.turn()
	assert.Empty(t, b.kernel.have)
	u.Release() // also looks for what it may have taken along
	b.turn()
	assert.Empty(t, b.kernel.have)
	assert.Empty(t, b.wire.take())

	held = false
	b.turn()
	assert.True(t, b.kernel.has(1, a1.Prefix))
	assert.False(t, b.kernel.has(1, a2.Prefix), "released meanwhile")
	assert.Contains(t, b.wire.take(), "10.0.0.1")
}

// A set whose router slept and listens stays as it is, and the others are put
// back and announced.
func TestHeldSet(t *testing.T) {
	b := newBench(t)
	a1, a2 := on(1, "10.0.0.1/32"), on(1, "10.0.0.2/32")
	var sets []*Set
	for _, a := range []Address{a1, a2} {
		how := spec(a)
		how.Announce.Refresh = time.Duration(second)
		how.Announce.RefreshRepeat = 1
		s := b.Add(how)
		s.Takeover()
		sets = append(sets, s)
	}
	b.turn()
	require.Len(t, b.kernel.have, 2)
	b.wire.take()

	sets[0].Hold(true)
	for _, a := range []Address{a1, a2} {
		require.NoError(t, b.kernel.del(Found{Address: a}))
		b.Lost(a.Key())
	}
	b.until(b.clock + 2*second)
	assert.False(t, b.kernel.has(1, a1.Prefix))
	assert.True(t, b.kernel.has(1, a2.Prefix))
	assert.NotContains(t, b.wire.take(), "10.0.0.1")

	sets[0].Hold(false)
	b.until(b.clock + int64(lookHeld))
	assert.True(t, b.kernel.has(1, a1.Prefix))
	b.until(b.clock + second)
	assert.Contains(t, b.wire.take(), "10.0.0.1")
}

// What was ordered after a losing advert waits for a loop that is not done: by
// then the address is back.
func TestLosingAdvertWhileHeldUp(t *testing.T) {
	b := newBench(t)
	held := false
	b.HeldUp = func() bool { return held }
	a := on(1, "10.0.0.1/32")
	s := b.Add(spec(a))
	s.Takeover()
	b.turn()
	b.wire.take()
	held = true
	require.NoError(t, b.kernel.del(Found{Address: a}))
	b.Lost(a.Key())
	s.Announce()
	b.turn()
	assert.Empty(t, b.wire.take())
	held = false
	b.turn()
	assert.True(t, b.kernel.has(1, a.Prefix))
	assert.Contains(t, b.wire.take(), "10.0.0.1")
}
