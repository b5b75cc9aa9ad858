// SPDX-License-Identifier: Apache-2.0

package control

import "slices"

// configure takes cfg over and computes what follows from it alone.
func (r *Router) configure(cfg Config) {
	cfg.Tracks = slices.Clone(cfg.Tracks)
	r.cfg, r.addrs = cfg, newAddrSet(cfg.Addrs, cfg.addrLen())
	r.weigh()
}
