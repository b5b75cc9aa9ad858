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

// take empties the inbox.
func (b *inbox) take() (retired []*engine.Router, applied uint64, firewall bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	retired, applied, firewall = b.retired, b.applied, b.firewall
	b.retired, b.firewall = nil, false
	return retired, applied, firewall
}
