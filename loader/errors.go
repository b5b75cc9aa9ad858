// SPDX-License-Identifier: Apache-2.0

package loader

import "errors"

var (
	// ErrUnsupported says that the kernel lacks something the full path needs
	// (ring buffer, BPF links: Linux 5.15 has all), or that the daemon lacks
	// the capability to use it (CAP_BPF and CAP_NET_ADMIN).
	ErrUnsupported = errors.New("not supported here")

	// ErrBusy says that another program holds the hook.
	ErrBusy = errors.New("hook is held by another program")

	// ErrFull says that a collection has no room: it was loaded for fewer
	// routers, addresses or interfaces. A larger one has to be loaded.
	ErrFull = errors.New("no room in the BPF maps")
)
