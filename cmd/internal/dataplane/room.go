// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"

	"github.com/xvrrp/xvrrp/control/config"
	"github.com/xvrrp/xvrrp/loader"
)

// Room is what the maps of the programs hold; it is fixed for as long as the
// daemon runs.
type Room struct {
	Routers   int
	Ports     int // interfaces that adverts use
	Addresses int // virtual ones; and again those that adverts are sent from
}

// A small file leaves room for this. Twice what a file wants lets a reload
// replace everything at once, when the old routers leave and the new ones are
// there.
const (
	leastRouters   = 256
	leastPorts     = 64
	leastAddresses = 1024
	growth         = 2
)

// RoomFor returns the room for a configuration and for what reloads add to it.
func RoomFor(cfg *config.Config) Room {
	interfaces := map[string]bool{}
	addresses := 0
	for _, i := range cfg.Instances {
		interfaces[i.Interface] = true
		addresses += max(1, len(i.Addresses)) // it has a source, too
	}
	return Room{
		Routers:   max(leastRouters, growth*len(cfg.Instances)),
		Ports:     max(leastPorts, growth*len(interfaces)),
		Addresses: max(leastAddresses, growth*addresses),
	}
}

// explain says what to do about maps that are full.
func (r Room) explain(err error) error {
	if !errors.Is(err, loader.ErrFull) {
		return err
	}
	return fmt.Errorf("%w: there is room for %d virtual routers, %d interfaces and %d addresses since the start; "+
		"a restart makes room for the file as it is now", err, r.Routers, r.Ports, r.Addresses)
}
