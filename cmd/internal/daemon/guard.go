// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"net/netip"

	"github.com/xvrrp/xvrrp/loader"
)

// guard is what the kernel does for this host beside receiving adverts:
// answering probes and recording answers, the lease and the fence.
// loader.Filter does it; without BPF nobody does.
type guard interface {
	SetRole(loader.Slot, loader.Role)
	Renew(until int64)
	Lease() loader.Lease
	Fence(slot loader.Slot, now int64) loader.Fence
	LiftFences()
	OpenSession(local, remote uint32, peer netip.Addr, echo bool)
	CloseSession(local uint32)
	Answer(local uint32) loader.Answer
}

// noGuard stands in where adverts come through a packet socket.
type noGuard struct{}

func (noGuard) SetRole(loader.Slot, loader.Role)              {}
func (noGuard) Renew(int64)                                   {}
func (noGuard) Lease() loader.Lease                           { return loader.Lease{} }
func (noGuard) Fence(loader.Slot, int64) loader.Fence         { return loader.Fence{} }
func (noGuard) LiftFences()                                   {}
func (noGuard) OpenSession(_, _ uint32, _ netip.Addr, _ bool) {}
func (noGuard) CloseSession(uint32)                           {}
func (noGuard) Answer(uint32) loader.Answer                   { return loader.Answer{} }
