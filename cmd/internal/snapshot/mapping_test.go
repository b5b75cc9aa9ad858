// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/cmd/internal/clock"
	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/cmd/internal/transport"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/control/bfd"
	"github.com/xvrrp/xvrrp/control/packet"
	"github.com/xvrrp/xvrrp/loader"
)

// kernel is what the loop has of one: events of the test, and no answers.
type kernel struct {
	mu     sync.Mutex
	fd     int
	events []loader.Event
}

func (k *kernel) FD() int { return k.fd }

func (k *kernel) Drain(fn func(*loader.Event)) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.events)
	for i := range k.events {
		fn(&k.events[i])
	}
	k.events = nil
	return n
}

func (k *kernel) Install(loader.RouterID, *loader.Event) bool { return true }
func (k *kernel) Clear(loader.RouterID)                       {}
func (k *kernel) LastArrival(loader.RouterID) int64           { return 0 }
func (k *kernel) SetRole(loader.RouterID, loader.Role)        {}
func (k *kernel) Renew(int64)                                 {}
func (k *kernel) SetMAC(int, [6]byte)                         {}
func (k *kernel) OpenSession(loader.Session)                  {}
func (k *kernel) CloseSession(uint32)                         {}
func (k *kernel) Answer(uint32) loader.Answer                 { return loader.Answer{} }

type wire struct{}

func (wire) Queue(*transport.Frame, uint8) bool              { return true }
func (wire) Flush() (sent, refused int, err error)           { return 0, 0, nil }
func (wire) Frames(*[bfd.Ports][]byte, *transport.ProbeSpec) {}
func (wire) Send(int, []byte) bool                           { return true }

func (wire) Down(engine.Watched) bool { return false }
func (wire) MAC(int) [6]byte          { return [6]byte{} }

// running is an event loop that runs, with what it works on.
type running struct {
	*engine.Engine
	t       testing.TB
	kernel  *kernel
	batches uint64
}

func newRunning(t testing.TB) *running {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	require.NoError(t, err)
	e, err := engine.New(engine.Options{Lease: time.Second, Clock: clock.Now, Records: 1024, Facts: wire{}})
	require.NoError(t, err)
	r := &running{Engine: e, t: t, kernel: &kernel{fd: fd}}
	ended := make(chan error, 1)
	go func() { ended <- e.Run(func() error { return nil }) }()
	t.Cleanup(func() {
		e.Apply(&engine.Batch{Quit: true})
		assert.NoError(t, <-ended)
		assert.NoError(t, e.Close())
		assert.NoError(t, unix.Close(fd))
	})
	return r
}

// apply waits until a batch is in place.
func (r *running) apply(b *engine.Batch) {
	r.t.Helper()
	r.batches++
	b.Number = r.batches
	require.True(r.t, r.Apply(b))
	require.Eventually(r.t, func() bool { return r.Applied() == b.Number }, 10*time.Second, time.Millisecond)
}

// advert lets one arrive, and waits until it is judged.
func (r *running) advert(to *engine.Router, src netip.Addr, priority uint8, addrs []byte) {
	r.t.Helper()
	r.arrive(to, src, priority, addrs)
	r.apply(&engine.Batch{})
}

// arrive hands an advert to the loop, which judges it when it wakes next.
func (r *running) arrive(to *engine.Router, src netip.Addr, priority uint8, addrs []byte) {
	group := netip.MustParseAddr("224.0.0.18")
	if src.Is6() {
		group = netip.MustParseAddr("ff02::12")
	}
	a := packet.Advert{Version: 3, VRID: to.VRID, Priority: priority, Interval: 10 * time.Second, Addrs: addrs}
	r.kernel.mu.Lock()
	defer r.kernel.mu.Unlock()
	r.kernel.events = append(r.kernel.events, loader.Event{
		Router: to.ID, RxNs: clock.Now(), Src: src, Dst: group, MAC: [6]byte{2, 0, 0, 0, 0, 9}, Reason: loader.ReasonEvent,
		Payload: packet.Append(nil, &a, src, group),
	})
}

// recorded is what the kernel recorded of one port.
type recorded struct{ last int64 }

func (k recorded) Arrived(id loader.RouterID) uint64 { return k.Liveness(id).Count }

func (k recorded) Liveness(id loader.RouterID) loader.Liveness {
	return loader.Liveness{LastNs: k.last, Count: uint64(id) + 1}
}
func (recorded) Fence(loader.RouterID, int64) loader.Fence { return loader.Fence{} }
func (recorded) Lease() loader.Lease                       { return loader.Lease{} }
func (recorded) Counters(int) (loader.Counters, error)     { return loader.Counters{}, nil }
func (recorded) Answer(local uint32) loader.Answer         { return loader.Answer{Replies: uint64(local) * 10} }

// Each interface shows the sessions on it and no others, each instance the peers
// that it has heard, with the address that they have.
func TestWhoIsShownWhere(t *testing.T) {
	r := newRunning(t)
	port := func(name string, ifindex int) *engine.Port {
		return &engine.Port{Name: name, Ifindex: ifindex, Kernel: r.kernel, Sender: wire{}, MAC: [6]byte{2, 0, 0, 0, 0, byte(ifindex)}}
	}
	eth0, eth1 := port("eth0", 7), port("eth1", 8)
	router := func(id loader.RouterID, p *engine.Port, source string, addrs []byte, fast bool) *engine.Router {
		src := netip.MustParseAddr(source)
		return engine.NewRouter(id, p, nil, engine.Spec{
			Name: "R", FastDetect: engine.FastDetect{Enabled: fast, Interval: time.Second, Multiplier: 3},
			Config: control.Config{
				VRID: uint8(id) + 1, Version: 3, Priority: 100, Interval: 10 * time.Second, DownAdverts: 3, Source: src, Addrs: addrs,
			},
		})
	}
	v4, v6 := []byte{10, 0, 0, 1}, netip.MustParseAddr("fe80::100").AsSlice()
	a, b, c, six, two := router(0, eth0, "192.0.2.1", v4, true), router(1, eth1, "192.0.2.1", v4, true),
		router(2, eth1, "192.0.2.1", v4, true), router(3, eth0, "fe80::1", v6, false), router(4, eth0, "192.0.2.1", v4, false)
	routers := []*engine.Router{a, b, c, six, two}
	var sessions []*engine.Session
	for local := uint32(1); local <= 4; local++ {
		sessions = append(sessions, engine.NewSession(local))
	}
	r.apply(&engine.Batch{Start: routers, Table: &engine.Table{
		Kernels: []engine.Kernel{r.kernel}, Rings: []engine.Receiver{r.kernel}, Ports: []*engine.Port{eth0, eth1},
		Routers: routers, Sessions: sessions, Prober: wire{},
	}})
	peer, other := netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.8")
	r.advert(a, peer, 200, v4)
	r.advert(b, peer, 200, v4) // the same address, on another interface
	r.advert(c, peer, 200, v4) // shares its session
	r.advert(six, netip.MustParseAddr("fe80::9"), 200, v6)
	r.advert(two, other, 90, v4)
	r.advert(two, peer, 200, v4)

	for n, x := range sessions {
		x.Unsent.Store(1000 * uint64(n+1)) // the loop adds nothing: it sends what it has
		x.Verdicts[bfd.VerdictDown].Store(uint64(n + 1))
	}
	last := clock.Now() + int64(time.Hour)
	reader := &Reader{Clock: clock.Now}
	src := &Sources{Sessions: sessions, Ports: []Port{
		{Port: eth0, Records: recorded{}}, {Port: eth1, Records: recorded{}}, {Port: &engine.Port{Name: "eth2"}, Records: recorded{}},
	}}
	for _, x := range routers {
		src.Routers = append(src.Routers, Router{Router: x, Records: recorded{last}})
	}
	reader.Set(src)
	s := reader.Take()

	type shown struct {
		peer            string
		ifindex         int32
		local, remote   uint32
		replies         uint64
		users, multiple int32
	}
	got := map[string][]shown{}
	for _, f := range s.Interfaces {
		for _, x := range f.Sessions {
			got[f.Name] = append(got[f.Name], shown{x.Peer.String(), x.Ifindex, x.Local, x.Remote, x.Replies, x.Users, x.Multiplier})
			assert.Equal(t, bfd.Down, x.State)
			assert.Equal(t, "sbfd", x.Mode())
			assert.Equal(t, time.Second, x.Interval)
			assert.Equal(t, 1000*uint64(x.Local), x.Unsent)
			assert.Less(t, x.Sent, x.Unsent)
			assert.Equal(t, [4]uint64{0, 0, uint64(x.Local), 0}, x.Verdicts)
		}
	}
	const discriminator = 192<<24 | 2<<8 | 9 // of 192.0.2.9
	assert.Equal(t, map[string][]shown{
		"eth0": {{"192.0.2.9", 7, 1, discriminator, 10, 1, 3}},
		"eth1": {{"192.0.2.9", 8, 2, discriminator, 20, 2, 3}},
	}, got, "unused sessions are not shown")

	for n, want := range []struct {
		master string
		peers  map[string]uint8
	}{
		{"192.0.2.9", map[string]uint8{"192.0.2.9": 200}},
		{"192.0.2.9", map[string]uint8{"192.0.2.9": 200}},
		{"192.0.2.9", map[string]uint8{"192.0.2.9": 200}},
		{"fe80::9", map[string]uint8{"fe80::9": 200}},
		{"192.0.2.9", map[string]uint8{"192.0.2.9": 200, "192.0.2.8": 90}},
	} {
		i := &s.Instances[n]
		assert.Equal(t, control.Backup, i.State.State)
		assert.Equal(t, want.master, i.State.Master.String())
		peers := map[string]uint8{}
		for _, p := range i.Peers {
			peers[p.Addr.String()] = p.Priority
			assert.Equal(t, uint64(1), p.Count)
			if p.Addr == i.State.Master {
				assert.Equal(t, last, p.Last, "the kernel keeps its repetitions")
			} else {
				assert.Less(t, p.Last, last)
			}
		}
		assert.Equal(t, want.peers, peers)
		assert.Equal(t, uint64(n)+1, i.Liveness.Count, "of its own id")
	}
	assert.Equal(t, uint64(2+5), s.Instances[4].Received(), "two, and what the kernel kept")
}

// watching returns a reader of n interfaces with an open session each.
func watching(t testing.TB, n int) *Reader {
	t.Helper()
	r := newRunning(t)
	own, peer, addrs := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9"), []byte{10, 0, 0, 1}
	src := &Sources{}
	table := &engine.Table{Kernels: []engine.Kernel{r.kernel}, Rings: []engine.Receiver{r.kernel}, Prober: wire{}}
	for i := range n {
		p := &engine.Port{Name: "eth" + strconv.Itoa(i), Ifindex: 10 + i, Kernel: r.kernel, Sender: wire{}, MAC: [6]byte{2}}
		x := engine.NewRouter(loader.RouterID(i), p, nil, engine.Spec{
			Name: "R", FastDetect: engine.FastDetect{Enabled: true, Interval: time.Hour, Multiplier: 3},
			Config: control.Config{
				VRID: 1, Version: 3, Priority: 100, Interval: 10 * time.Second, DownAdverts: 3, Source: own, Addrs: addrs,
			},
		})
		table.Ports, table.Routers = append(table.Ports, p), append(table.Routers, x)
		table.Sessions = append(table.Sessions, engine.NewSession(uint32(i)+1))
		src.Ports = append(src.Ports, Port{Port: p, Records: recorded{}})
		src.Routers = append(src.Routers, Router{Router: x, Records: recorded{}})
	}
	src.Sessions = table.Sessions
	r.apply(&engine.Batch{Start: table.Routers, Table: table})
	for _, x := range table.Routers {
		r.arrive(x, peer, 200, addrs)
	}
	r.apply(&engine.Batch{})
	reader := &Reader{Clock: clock.Now}
	reader.Set(src)
	return reader
}

// What is read five times a second is read into memory that is there.
func TestBriefAllocatesNothing(t *testing.T) {
	r := watching(t, 2)
	var s Snapshot
	assert.Zero(t, testing.AllocsPerRun(100, func() { r.Brief(&s) }))
	require.Len(t, s.Interfaces, 2)
	for i := range s.Interfaces {
		f := &s.Interfaces[i]
		require.Len(t, f.Sessions, 1, "not those of looks before")
		assert.Equal(t, uint32(i)+1, f.Sessions[0].Local)
	}
}

func BenchmarkBrief(b *testing.B) {
	r := watching(b, 1000)
	var s Snapshot
	b.ReportAllocs()
	for b.Loop() {
		r.Brief(&s)
	}
	require.Len(b, s.Interfaces[999].Sessions, 1)
}
