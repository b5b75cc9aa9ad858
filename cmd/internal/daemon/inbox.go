// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"sync"

	"github.com/xvrrp/xvrrp/cmd/internal/engine"
)

// inbox is what the reconciler has to know of. Whoever puts something in never
// waits for it.
type inbox struct {
	mu       sync.Mutex
	retired  []*engine.Router
	applied  uint64
	firewall bool
	gone     map[int]bool  // interfaces that vanished, also if they are back
	signal   chan struct{} // of capacity 1
}

func (b *inbox) wake() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

func (b *inbox) put(r *engine.Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.Kind == engine.RecordRetired {
		b.retired = append(b.retired, r.Router)
	} else {
		b.applied = max(b.applied, r.Batch)
	}
	b.wake()
}

func (b *inbox) firewallChanged() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.firewall = true
	b.wake()
}

func (b *inbox) interfaceGone(ifindex int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gone == nil {
		b.gone = map[int]bool{}
	}
	b.gone[ifindex] = true
	b.wake()
}

// take empties the inbox.
func (b *inbox) take() (retired []*engine.Router, firewall bool, gone map[int]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	retired, firewall, gone = b.retired, b.firewall, b.gone
	b.retired, b.firewall, b.gone = nil, false, nil
	return retired, firewall, gone
}
