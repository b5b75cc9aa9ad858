// SPDX-License-Identifier: Apache-2.0

package control

import "slices"

// SameIdentity reports whether a Router with configuration c can be given o by
// Reconfigure. If not, o is another virtual router: the present one is shut
// down and a new one is started.
func (c Config) SameIdentity(o Config) bool {
	return c.VRID == o.VRID && c.Version == o.Version && c.addrLen() == o.addrLen() &&
		c.AuthType == o.AuthType && c.Auth == o.Auth &&
		(c.Priority == PriorityOwner) == (o.Priority == PriorityOwner)
}

// configure takes cfg over and computes what follows from it alone.
func (r *Router) configure(cfg Config) {
	cfg.Tracks = slices.Clone(cfg.Tracks)
	r.cfg, r.addrs = cfg, newAddrSet(cfg.Addrs, cfg.addrLen())
	r.weigh()
}

// Reconfigure gives the Router another configuration of the same identity, with
// the present state of its tracks. EventRefresh comes before it. State and
// timers go on; what differs has this effect:
//
//   - priority, weights and tracks, as with EventTrack: a backup moves its
//     Master_Down_Timer by the difference of Skew_Time and no longer follows a
//     master that no longer counts. A master says so in its next advert; if a
//     rival is now above it, that one has to speak first.
//   - interval: a master's next advert is due an interval from now at the
//     latest. A backup keeps the interval that it learned until the next
//     advert, and a timer that runs.
//   - source and addresses: a master advertises at once. Then ActionAddresses
//     tells the caller to change the addresses.
//   - what Check compares: a backup has to see an advert in full before
//     repetitions count again (ActionUnfollow), but waits for it as long as for
//     any.
//   - the rest counts from the next event on.
//
// It allocates; Step does not.
func (r *Router) Reconfigure(now Instant, cfg Config, out []Action) []Action {
	old, addrs, skew := r.cfg, r.addrs, r.Skew()
	r.configure(cfg)
	if cfg.Source != old.Source {
		r.former = old.Source
	}
	learned := cfg.Version == 3 && (r.master.IsValid() || r.masterInterval != old.Interval)
	if r.state != Backup {
		r.masterInterval = cfg.Interval
	}
	newAddrs := !slices.Equal(addrs, r.addrs)
	out = r.weighed(now, skew, out)
	if r.state == Backup && !learned {
		r.masterInterval = cfg.Interval
	}
	switch {
	case r.state == Master && !r.leaving:
		return r.remaster(now, &old, newAddrs, out)
	case r.master.IsValid() && (newAddrs || cfg.Strict != old.Strict || cfg.SkipCheckAddrs != old.SkipCheckAddrs ||
		cfg.Version == 2 && cfg.Interval != old.Interval):
		return append(out, Action{Kind: ActionUnfollow})
	}
	return out
}

// remaster is what a new configuration makes a master do.
func (r *Router) remaster(now Instant, old *Config, newAddrs bool, out []Action) []Action {
	if r.cfg.Interval != old.Interval {
		r.nextAdvert = min(r.nextAdvert, now.Add(r.cfg.Interval))
		r.reassertAt = min(r.reassertAt, now.Add(r.cfg.Interval))
	}
	if (newAddrs || r.cfg.Source != old.Source) && !r.stalled {
		r.nextAdvert = now.Add(r.cfg.Interval)
		out = append(out, Action{Kind: ActionAdvert, Priority: r.priority})
	}
	if newAddrs {
		out = append(out, Action{Kind: ActionAddresses})
	}
	return out
}
