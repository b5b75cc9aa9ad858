// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xvrrp/xvrrp/vip"
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

// follow hands the updates of a subscription to each until it ends, or until
// the kernel could not deliver everything, which is said in lost.
func follow[T any](ctx context.Context, subscribe func(chan<- T, <-chan struct{}, func(error)) error,
	each func(T), lost func(error)) error {
	updates, done, broken := make(chan T, 256), make(chan struct{}), make(chan error, 1)
	defer close(done)
	err := subscribe(updates, done, func(err error) {
		select {
		case broken <- err:
		default:
		}
	})
	if err != nil {
		return err
	}
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				return nil
			}
			each(u)
		case err := <-broken:
			lost(err)
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *Daemon) followLinks(ctx context.Context) error {
	return follow(ctx, func(updates chan<- netlink.LinkUpdate, done <-chan struct{}, broken func(error)) error {
		err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{ListExisting: true, ErrorCallback: broken})
		if err != nil {
			return fmt.Errorf("watch interfaces: %w", err)
		}
		return nil
	}, func(u netlink.LinkUpdate) {
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
	}, func(err error) {
		d.log.Warn("news of interfaces were lost; listing them again", "err", err)
	})
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
	return follow(ctx, func(updates chan<- netlink.AddrUpdate, done <-chan struct{}, broken func(error)) error {
		err := netlink.AddrSubscribeWithOptions(updates, done, netlink.AddrSubscribeOptions{ListExisting: true, ErrorCallback: broken})
		if err != nil {
			return fmt.Errorf("watch addresses: %w", err)
		}
		return nil
	}, func(u netlink.AddrUpdate) {
		if ip, ok := netip.AddrFromSlice(u.LinkAddress.IP); ok && !u.NewAddr {
			d.host.Lost(vip.Key{Ifindex: u.LinkIndex, Addr: ip.Unmap()})
		}
		s := source{u.LinkIndex, u.LinkAddress.IP.String()}
		if !sources[s] {
			return
		}
		if !u.NewAddr {
			d.log.Warn("the address that adverts are sent from is gone", "address", s.addr, "ifindex", s.ifindex)
		}
		d.loop.link(ctx, linkEvent{ifindex: sourceOf(s.ifindex), down: !u.NewAddr})
	}, func(err error) {
		d.log.Warn("news of addresses were lost; listing them again", "err", err)
		d.host.Verify()
	})
}
