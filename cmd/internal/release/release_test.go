// SPDX-License-Identifier: Apache-2.0

package release

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/vip"
)

const lease = time.Second

func on(ifindex int, prefix string) Address {
	return Address{Address: vip.Address{Ifindex: ifindex, Prefix: netip.MustParsePrefix(prefix)}}
}

// late is an address that peers take over later.
func late(a Address, takeover time.Duration) Address {
	a.Takeover = takeover
	return a
}

func TestLines(t *testing.T) {
	peer := on(3, "10.0.0.1/32")
	peer.Peer = netip.MustParseAddr("10.0.0.9")
	for _, list := range [][]Address{{}, {on(1, "192.168.1.100/24")}, {late(peer, Never), late(on(2, "2001:db8::1/64"), 2*time.Second), on(2, "fe80::1/128")}} {
		got, isAlive, err := parseLine(formatAddresses(list))
		require.NoError(t, err)
		assert.False(t, isAlive)
		assert.Equal(t, list, got)
	}
	_, isAlive, err := parseLine(alive)
	require.NoError(t, err)
	assert.True(t, isAlive)
	for _, bad := range []string{
		"", "alive ", "Alive", "addresses ", "address 1,10.0.0.1/24,0s", "addresses 0,10.0.0.1/24,0s", "addresses -1,10.0.0.1/24,0s",
		"addresses +1,10.0.0.1/24,0s", "addresses 01,10.0.0.1/24,0s", "addresses x,10.0.0.1/24,0s", "addresses 1", "addresses 1,",
		"addresses 1,10.0.0.1,0s", "addresses 1,10.0.0.1/33,0s", "addresses 1,10.0.0.1/24,0s,", "addresses 1,10.0.0.1/24,0s,x",
		"addresses 1,10.0.0.1/24,0s  1,10.0.0.2/24,0s", "addresses 1,10.0.0.1/24,0s ", "addresses 1,2001:DB8::1/64,0s",
		"addresses 1,10.0.0.1/24,0s,10.0.0.2,3", "addresses 99999999999999999999,10.0.0.1/24,0s",
		"addresses 1,10.0.0.1/24", "addresses 1,10.0.0.1/24,", "addresses 1,10.0.0.1/24,2", "addresses 1,10.0.0.1/24,-2s",
		"addresses 1,10.0.0.1/24,2000ms", "addresses 1,10.0.0.1/24,10.0.0.2",
	} {
		list, isAlive, err := parseLine(bad)
		assert.Error(t, err, bad)
		assert.False(t, isAlive, bad)
		assert.Nil(t, list, bad)
	}
}

func TestSettings(t *testing.T) {
	for _, s := range []settings{{1500 * time.Millisecond, 60, true}, {time.Minute, 0, false}} {
		got, err := parseSettings(s.String())
		require.NoError(t, err)
		assert.Equal(t, s, got)
	}
	for _, bad := range []string{
		"", "1s", "1s,", "1s,60", "1s,60,", "x,60,true", "0s,60,true", "-1s,60,true", "1s,60,x", "1s,,true", "1s,60,true,",
	} {
		_, err := parseSettings(bad)
		assert.Error(t, err, bad)
	}
}

// Somebody may have set the environment variable that marks the releaser.
func TestMainNeedsThePipe(t *testing.T) {
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	stdin := os.Stdin
	defer func() {
		os.Stdin = stdin
		require.NoError(t, null.Close())
	}()
	os.Stdin = null
	err = Main("1s,60,true", slog.New(slog.DiscardHandler))
	assert.ErrorContains(t, err, "the environment has XVRRPD_RELEASER")
}

// bench is a releaser with a fake host, on the clock of a synctest bubble.
type bench struct {
	t     *testing.T
	pipe  *io.PipeWriter
	log   lines
	ended chan error

	mu     sync.Mutex
	host   map[vip.Address]bool
	calls  int
	slow   time.Duration // how long a removal takes
	refuse error
	skew   time.Duration // of the releaser's clock
}

// lines is what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lazy is a pipe of which a read takes its time.
type lazy struct {
	io.Reader
	delay time.Duration
}

func (l lazy) Read(b []byte) (int, error) {
	n, err := l.Reader.Read(b)
	time.Sleep(l.delay)
	return n, err
}

func newBench(t *testing.T, has ...Address) *bench { return newLazyBench(t, 0, has...) }

func newLazyBench(t *testing.T, delay time.Duration, has ...Address) *bench {
	r, w := io.Pipe()
	b := &bench{t: t, pipe: w, host: map[vip.Address]bool{}, ended: make(chan error, 1)}
	for _, a := range has {
		b.host[a.Address] = true
	}
	x := Releaser{
		Lease: lease, Remove: b.remove, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
		now: b.now,
	}
	go func() { b.ended <- x.Run(lazy{r, delay}) }()
	return b
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Now().Add(b.skew)
}

// set changes the host.
func (b *bench) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// has returns the addresses of the host.
func (b *bench) has() map[vip.Address]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.host)
}

func (b *bench) remove(list []vip.Address) (removed []vip.Address, err error) {
	time.Sleep(b.slow)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.refuse != nil {
		return nil, b.refuse
	}
	for _, a := range list {
		if b.host[a] {
			delete(b.host, a)
			removed = append(removed, a)
		}
	}
	return removed, nil
}

func (b *bench) say(line string) {
	_, err := io.WriteString(b.pipe, line+"\n")
	require.NoError(b.t, err)
	synctest.Wait()
}

// live lets time pass with signs of life.
func (b *bench) live(d time.Duration) {
	for ; d > 0; d -= lease / beats {
		b.say(alive)
		b.pass(lease / beats)
	}
}

func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) end() error {
	_ = b.pipe.Close()
	synctest.Wait()
	return <-b.ended
}

var a1, a2 = on(1, "10.0.0.1/24"), on(2, "10.0.0.2/32")

func TestSilenceReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, a1, a2)
		b.say(formatAddresses([]Address{a1, a2}))
		b.live(20 * lease)
		b.pass(silence(lease, 0) - lease/beats - 1)
		assert.Len(t, b.has(), 2, "a hang shorter than the lease")
		b.say(alive)
		b.pass(silence(lease, 0) - 1)
		assert.Len(t, b.has(), 2)
		b.pass(1)
		assert.Empty(t, b.has())
		assert.Contains(t, b.log.String(), "xvrrpd hung")
		assert.Contains(t, b.log.String(), "[10.0.0.1/24 10.0.0.2/32]")

		// What is put back later is left alone while it is silent, and is watched
		// again when it is not.
		b.set(func() { b.host[a1.Address] = true })
		b.pass(20 * lease)
		assert.Len(t, b.has(), 1)
		b.live(2 * lease)
		b.pass(2 * lease)
		assert.Empty(t, b.has())
		require.NoError(t, b.end())
	})
}

// Each address goes shortly before a peer may take it over, and no sooner.
func TestSilenceReleasesEachInTime(t *testing.T) {
	for _, tc := range []struct{ takeover, silence time.Duration }{
		{0, 3 * lease / 2},
		{20 * time.Millisecond, 3 * lease / 2},
		{7 * lease / 4, 3 * lease / 2},
		{2 * lease, 7 * lease / 4},
		{80 * lease, 80*lease - lease/4},
	} {
		assert.Equal(t, tc.silence, silence(lease, tc.takeover), tc.takeover)
		synctest.Test(t, func(t *testing.T) {
			first, second := late(a1, 10*time.Millisecond), late(a2, tc.takeover)
			b := newBench(t, first, second)
			b.say(formatAddresses([]Address{second, first}))
			b.live(20 * lease)
			b.say(alive)
			b.pass(3*lease/2 - 1)
			assert.Len(t, b.has(), 2)
			if b.pass(1); tc.silence > 3*lease/2 {
				assert.Equal(t, map[vip.Address]bool{a2.Address: true}, b.has())
				// A list does not put the end off.
				b.say(formatAddresses([]Address{first, second}))
				b.pass(tc.silence - 3*lease/2 - 1)
				assert.Equal(t, map[vip.Address]bool{a2.Address: true}, b.has())
				b.pass(1)
			}
			assert.Empty(t, b.has())
			require.NoError(t, b.end())
		})
	}
}

func TestFencedIsReleasedAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fenced := late(a2, Never)
		b := newBench(t, a1, fenced)
		b.say(formatAddresses([]Address{a1, fenced}))
		b.pass(10000 * lease)
		assert.Equal(t, map[vip.Address]bool{a2.Address: true}, b.has())
		require.NoError(t, b.end())
		assert.Empty(t, b.has())
	})
}

// A list is no sign of life: others than the event loop make it.
func TestListIsNoLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, a1)
		for range 10 {
			b.say(formatAddresses([]Address{a1}))
			b.pass(lease / 2)
		}
		assert.Empty(t, b.has())
		require.NoError(t, b.end())
	})
}

func TestChangedAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, a1, a2)
		b.say(formatAddresses([]Address{a1}))
		b.live(lease)
		b.say(formatAddresses([]Address{a2}))
		b.pass(2 * lease)
		assert.Equal(t, map[vip.Address]bool{a1.Address: true}, b.has(), "only what it served last")
		require.NoError(t, b.end())
	})
}

func TestEndReleasesAtOnce(t *testing.T) {
	for _, rest := range []string{"", "alive", "addresses", "addresses 1,10.0.0.1/2"} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, a1)
			b.say(formatAddresses([]Address{a1}))
			b.live(3 * lease)
			_, err := io.WriteString(b.pipe, rest) // it was killed while it wrote
			require.NoError(t, err)
			killed := time.Now()
			require.NoError(t, b.end())
			assert.Empty(t, b.has())
			assert.Equal(t, killed, time.Now())
			assert.Contains(t, b.log.String(), "xvrrpd is gone")
		})
	}
}

// A daemon that stops in order has released its addresses.
func TestOrderlyStopIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, a1)
		b.say(formatAddresses([]Address{a1}))
		b.live(lease)
		b.say(formatAddresses(nil))
		require.NoError(t, b.end())
		assert.Len(t, b.has(), 1)
		assert.Zero(t, b.calls)
		assert.Empty(t, b.log.String())
	})
}

// A backup has nothing to release, and nothing is said.
func TestBackupIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.say(formatAddresses([]Address{a1}))
		b.pass(3 * lease)
		require.NoError(t, b.end())
		assert.Equal(t, 2, b.calls)
		assert.Empty(t, b.log.String())
	})
}

func TestRefusedRemovalIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, a1)
		b.say(formatAddresses([]Address{a1}))
		b.set(func() { b.refuse = unix.ENOBUFS })
		b.pass(2 * lease)
		assert.Contains(t, b.log.String(), "cannot be removed")
		b.set(func() { b.refuse = nil })
		b.pass(lease)
		assert.Empty(t, b.has())

		b.set(func() { b.host[a1.Address] = true })
		b.set(func() { b.refuse = unix.EPERM })
		require.ErrorIs(t, b.end(), unix.EPERM)
	})
}

// A releaser that was held up along with the daemon hears it first.
func TestHeldUpReleaserListensFirst(t *testing.T) {
	for _, comesBack := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, a1)
			b.say(formatAddresses([]Address{a1}))
			b.live(lease)
			b.set(func() { b.skew = time.Hour })
			b.pass(silence(lease, 0))
			assert.Len(t, b.has(), 1)
			if comesBack {
				b.live(4 * lease)
				assert.Len(t, b.has(), 1)
			} else {
				b.pass(lease)
				assert.Empty(t, b.has())
			}
			require.NoError(t, b.end())
		})
	}
}

// What the daemon has said before the end of its time counts, whether it waits in
// the releaser or still in the pipe.
func TestWaitingSignOfLifeComesFirst(t *testing.T) {
	for range 20 { // one of two that are ready is picked at random
		for _, delay := range []time.Duration{0, lease / 16} {
			synctest.Test(t, func(t *testing.T) {
				second := late(a2, 7*lease/4+lease/10)
				b := newLazyBench(t, delay, a1, second)
				b.slow = lease / 5 // longer than the second has
				b.say(formatAddresses([]Address{a1, second}))
				b.pass(delay)
				b.say(alive)
				b.pass(delay)
				b.pass(silence(lease, 0) + b.slow - lease/32)
				assert.Len(t, b.has(), 2, "the first is being removed")
				b.say(alive)
				b.pass(lease)
				assert.Equal(t, map[vip.Address]bool{a2.Address: true}, b.has())
				require.NoError(t, b.end())
			})
		}
	}
}

func TestMalformedMessageEndsTheReleaser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, a1)
		b.say(formatAddresses([]Address{a1}))
		b.say("what is this")
		require.ErrorContains(t, <-b.ended, "unknown message")
		assert.Len(t, b.has(), 1, "the daemon lives")
	})
}

// keeperBench is a Keeper whose releasers are the test.
type keeperBench struct {
	*Keeper
	progress atomic.Uint64
	log      lines
	started  chan *fakeReleaser
	refuse   atomic.Bool
	stop     context.CancelFunc
	ended    chan error
}

type fakeReleaser struct {
	net.Conn
	end    chan error
	killed atomic.Bool
}

func newKeeperBench(t *testing.T) *keeperBench {
	b := &keeperBench{started: make(chan *fakeReleaser, 1), ended: make(chan error, 1)}
	b.Keeper = NewKeeper(lease, 60, true, b.progress.Load, slog.New(slog.NewTextHandler(&b.log, nil)))
	b.start = func() (*process, error) {
		if b.refuse.Load() {
			return nil, unix.EAGAIN
		}
		ours, theirs := net.Pipe()
		f := &fakeReleaser{Conn: theirs, end: make(chan error, 1)}
		b.started <- f
		return &process{pipe: ours, ended: f.end, kill: func() {
			f.killed.Store(true)
			f.end <- errors.New("killed")
		}}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	go func() { b.ended <- b.Run(ctx) }()
	return b
}

// hear returns what was said within a time.
func (f *fakeReleaser) hear(d time.Duration) string {
	_ = f.SetReadDeadline(time.Now().Add(d))
	said, _ := io.ReadAll(f)
	synctest.Wait()
	return string(said)
}

// hearLast returns the last line that was said within a time.
func (f *fakeReleaser) hearLast(d time.Duration) string {
	said := strings.Split(strings.TrimSpace(f.hear(d)), "\n")
	return said[len(said)-1]
}

func TestKeeperTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newKeeperBench(t)
		b.Set(nil)
		synctest.Wait()
		assert.Empty(t, b.started, "there is nothing to release")

		b.progress.Store(1)
		b.Set([]Address{a1})
		f := <-b.started
		assert.Equal(t, "alive", f.hearLast(lease/2))
		b.progress.Add(1)
		assert.Equal(t, "alive\n", f.hear(lease/2))
		assert.Empty(t, f.hear(10*lease), "the event loop hangs")
		b.progress.Add(1)
		assert.Equal(t, "alive\n", f.hear(lease/2))
		b.Set([]Address{a1})
		assert.Empty(t, f.hear(lease/2), "the same list")
		b.Set([]Address{a1, a2})
		assert.Equal(t, "addresses 1,10.0.0.1/24,0s 2,10.0.0.2/32,0s\n", f.hear(lease/2))

		b.Set(nil)
		b.stop()
		said := f.hear(lease)
		assert.True(t, strings.HasSuffix(said, "addresses\n"), said)
		f.end <- nil
		require.NoError(t, <-b.ended)
		assert.False(t, f.killed.Load())
		assert.Empty(t, b.log.String())
	})
}

func TestKeeperStartsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newKeeperBench(t)
		b.refuse.Store(true)
		b.Set([]Address{a1})
		synctest.Wait()
		assert.Contains(t, b.log.String(), "the releaser is not running")
		b.refuse.Store(false)
		first := <-b.started
		assert.Equal(t, "addresses 1,10.0.0.1/24,0s", first.hearLast(lease))
		first.end <- errors.New("signal: killed")
		second := <-b.started
		synctest.Wait()
		assert.Contains(t, b.log.String(), "signal: killed")
		assert.Equal(t, "addresses 1,10.0.0.1/24,0s", second.hearLast(lease))

		// One that does not read is replaced, too.
		b.Set([]Address{a2})
		third := <-b.started
		synctest.Wait()
		assert.True(t, second.killed.Load())
		assert.Equal(t, "addresses 2,10.0.0.2/32,0s", third.hearLast(lease))

		b.stop()
		assert.Equal(t, "addresses 2,10.0.0.2/32,0s", third.hearLast(lease), "what is left is for the releaser")
		require.NoError(t, <-b.ended)
		assert.True(t, third.killed.Load(), "it did not end")
	})
}
