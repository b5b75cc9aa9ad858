// SPDX-License-Identifier: Apache-2.0

package daemon

import "sync"

// inbox is what the reconciler has to know of. Whoever puts something in never
// waits for it.
type inbox struct {
	mu       sync.Mutex
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
func (b *inbox) take() (firewall bool, gone map[int]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	firewall, gone = b.firewall, b.gone
	b.firewall, b.gone = false, nil
	return firewall, gone
}
