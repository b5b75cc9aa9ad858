// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// feedWatchdog tells systemd that the daemon lives for as long as the event
// loop goes round. The loop itself never waits for systemd.
func (d *Daemon) feedWatchdog(ctx context.Context) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return nil // a malformed variable is no watchdog
	}
	tick := time.NewTicker(limit / 4)
	defer tick.Stop()
	seen := uint64(0)
	for {
		select {
		case <-tick.C:
			// Even an idle loop wakes to renew its lease.
			if n := d.engine.Stats.Wakeups.Load(); n != seen {
				seen = n
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
