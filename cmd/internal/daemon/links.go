// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchLinks tells the loop of interfaces that go up or down. When the kernel
// could not deliver everything the subscription starts anew with a full list.
func (d *Daemon) watchLinks(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := d.followLinks(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (d *Daemon) followLinks(ctx context.Context) error {
	updates := make(chan netlink.LinkUpdate, 256)
	broken := make(chan error, 1)
	done := make(chan struct{})
	defer close(done)
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ListExisting: true,
		ErrorCallback: func(err error) {
			select {
			case broken <- err:
			default:
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch interfaces: %w", err)
	}
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return nil
			}
			gone := u.Header.Type == unix.RTM_DELLINK
			if !gone {
				d.host.SetMAC(int(u.Index), u.Attrs().HardwareAddr)
			}
			d.loop.link(ctx, linkEvent{ifindex: int(u.Index), down: gone || !up(u.Link)})
		case err := <-broken:
			d.log.Warn("news of interfaces were lost; listing them again", "err", err)
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
