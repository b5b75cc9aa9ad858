// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
	"github.com/xvrrp/xvrrp/control"
	"github.com/xvrrp/xvrrp/loader"
)

// records are those of a kernel that may be closed.
type records struct {
	t      *testing.T
	mu     sync.Mutex
	closed bool
	quiet  bool  // no interface has other traffic
	asked  []int // interfaces whose counters were read
}

func (k *records) read() {
	k.mu.Lock()
	defer k.mu.Unlock()
	assert.False(k.t, k.closed, "it was replaced")
}

func (k *records) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
}

func (k *records) Arrived(id loader.RouterID) uint64 { return k.Liveness(id).Count }

func (k *records) Liveness(loader.RouterID) loader.Liveness {
	k.read()
	return loader.Liveness{Count: 3}
}

func (k *records) Fence(_ loader.RouterID, now int64) loader.Fence {
	return loader.Fence{Active: now == 100}
}
func (k *records) Lease() loader.Lease         { return loader.Lease{UntilNs: 101, Masters: 1} }
func (k *records) Answer(uint32) loader.Answer { return loader.Answer{} }
func (k *records) Counters(at int) (loader.Counters, error) {
	k.read()
	var c loader.Counters
	if !k.quiet {
		c[loader.ReasonNotVRRP].Pass = uint64(9 - at)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, at)
	return c, nil
}

func sources(k Kernel) *Sources {
	port := &engine.Port{Name: "eth0", Ifindex: 7}
	r := engine.NewRouter(0, port, nil, engine.Spec{Config: control.Config{Version: 3, Priority: 100, DownAdverts: 3}})
	return &Sources{
		Routers: []Router{{Router: r, Records: k, Name: "VI_1", Fence: true}},
		Ports:   []Port{{Port: port, Records: k, Reflects: true}},
	}
}

func TestTake(t *testing.T) {
	r := Reader{Clock: func() int64 { return 100 }}
	assert.Equal(t, Snapshot{Now: 100}, r.Take(), "there is nothing yet")
	k := &records{t: t}
	src := sources(k)
	src.Routers[0].Published.Received.Store(2)
	r.Set(src)

	s := r.Take()
	require.Len(t, s.Instances, 1)
	i := &s.Instances[0]
	assert.Equal(t, control.Init, i.State.State)
	assert.Equal(t, uint8(100), i.State.Priority)
	assert.Equal(t, uint64(5), i.Received(), "those that the kernel kept to itself count, too")
	assert.True(t, i.KernelFence.Active)
	assert.True(t, i.FenceOn)
	assert.Empty(t, i.Peers)
	require.Len(t, s.Interfaces, 1)
	f := &s.Interfaces[0]
	assert.True(t, f.HasKernel)
	assert.True(t, f.LeaseHeld)
	assert.Equal(t, "Up", f.Reflector())
	assert.Equal(t, uint64(2), f.Frames[loader.ReasonNotVRRP].Pass)
	assert.Equal(t, uint64(9), s.Other)
	f.LeaseHeld = false
	assert.Equal(t, "AdminDown", f.Reflector())
	f.Reflects = false
	assert.Equal(t, "off", f.Reflector())

	k.asked = nil
	r.Brief(&s)
	assert.Empty(t, k.asked, "alarms need no counters")
	require.Len(t, s.Instances, 1)
	require.Len(t, s.Interfaces, 1)
	assert.Equal(t, uint64(5), s.Instances[0].Received())
	assert.True(t, s.Interfaces[0].HasKernel)

	src.Ports = append(src.Ports, src.Ports[0])
	k.asked, k.quiet = nil, true
	s = r.Take()
	assert.Equal(t, []int{7, 7, 0}, k.asked, "those of all together once, also if there were none")
	assert.Zero(t, s.Other)

	r.Set(sources(nil))
	s = r.Take()
	assert.False(t, s.Interfaces[0].HasKernel)
	assert.False(t, s.Instances[0].FenceOn, "nothing holds it")
	assert.Zero(t, s.Other)
}

// Once Set returns, what was there before may be freed.
func TestSetWaitsForReaders(t *testing.T) {
	r := Reader{Clock: func() int64 { return 0 }}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					r.Take()
				}
			}
		})
	}
	var old *records
	for range 500 {
		k := &records{t: t}
		r.Set(sources(k))
		if old != nil {
			old.close()
		}
		old = k
	}
	close(stop)
	readers.Wait()
}
