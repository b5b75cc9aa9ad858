// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// watchLinks tells the loop of interfaces that go up or down. When the kernel
// could not deliver everything the subscription starts anew with a full list.
func (d *Daemon) watchLinks(ctx context.Context) error {
	return again(ctx, d.followLinks)
}

// again repeats a subscription that ended, not faster than once a second.
func again(ctx context.Context, follow func(context.Context) error) error {
	for {
		if err := follow(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
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
			if f := d.ifaceNamed(u.Attrs().Name); f != nil && !gone && f.ifindex != int(u.Index) {
				d.log.Error("the interface was made anew; restart xvrrpd to use it", "iface", f.name)
			}
			if !gone {
				d.host.SetMAC(int(u.Index), u.Attrs().HardwareAddr)
			}
			ev := linkEvent{ifindex: int(u.Index), down: gone || !up(u.Link)}
			copy(ev.mac[:], u.Attrs().HardwareAddr)
			d.loop.link(ctx, ev)
		case err := <-broken:
			d.log.Warn("news of interfaces were lost; listing them again", "err", err)
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *Daemon) ifaceNamed(name string) *iface {
	for _, f := range d.ifaces {
		if f.name == name {
			return f
		}
	}
	return nil
}

// sourceOf stands, among the links of a router, for the address that adverts
// of an interface are sent from.
func sourceOf(ifindex int) int { return -ifindex }

// watchSources tells the loop when the address that adverts are sent from goes
// or comes back.
func (d *Daemon) watchSources(ctx context.Context) error { return again(ctx, d.followSources) }

func (d *Daemon) followSources(ctx context.Context) error {
	type source struct {
		ifindex int
		addr    string
	}
	sources := map[source]bool{}
	for _, i := range d.insts {
		if !i.cfg.SourceConfigured {
			sources[source{i.iface.ifindex, i.cfg.Source.String()}] = true
		}
	}
	updates := make(chan netlink.AddrUpdate, 256)
	done := make(chan struct{})
	defer close(done)
	broken := make(chan error, 1)
	err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{
		ListExisting: true,
		ErrorCallback: func(err error) {
			select {
			case broken <- err:
			default:
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch addresses: %w", err)
	}
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return nil
			}
			s := source{u.LinkIndex, u.LinkAddress.IP.String()}
			if !sources[s] {
				continue
			}
			if !u.NewAddr {
				d.log.Warn("the address that adverts are sent from is gone", "address", s.addr, "ifindex", s.ifindex)
			}
			d.loop.link(ctx, linkEvent{ifindex: sourceOf(s.ifindex), down: !u.NewAddr})
		case err := <-broken:
			d.log.Warn("news of addresses were lost; listing them again", "err", err)
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}
