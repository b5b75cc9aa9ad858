// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// Counters asks the kernel what interfaces count. The zero value asks in the
// network namespace of the thread that asks first. It is for one goroutine.
type Counters struct{ rt *rtnetlink }

// statsLink64 is IFLA_STATS_LINK_64, and its bit in a request.
const statsLink64 = 1

// Received returns how many frames an interface has received since it was
// made, of whatever kind. The statistics of one interface are a short answer:
// nothing else of it is read.
func (c *Counters) Received(ifindex int) (frames uint64, err error) {
	if c.rt == nil {
		if c.rt, err = openRtnetlink(); err != nil {
			return 0, err
		}
	}
	if frames, err = c.rt.received(ifindex); err != nil {
		return 0, fmt.Errorf("read what interface %d has received: %w", ifindex, err)
	}
	return frames, nil
}

// Close closes the socket, if there is one.
func (c *Counters) Close() error {
	if c.rt == nil {
		return nil
	}
	return c.rt.close()
}

func (r *rtnetlink) received(ifindex int) (frames uint64, err error) {
	if err := r.ready(); err != nil {
		return 0, err
	}
	const ifStats = 12 // struct if_stats_msg: family and padding, index, mask
	var req [unix.NLMSG_HDRLEN + ifStats]byte
	r.seq++
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], unix.RTM_GETSTATS)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(req[8:], r.seq)
	binary.NativeEndian.PutUint32(req[20:], uint32(ifindex))
	binary.NativeEndian.PutUint32(req[24:], 1<<(statsLink64-1))
	r.out = append(r.out[:0], req[:]...)
	if err := r.send(); err != nil {
		return 0, err
	}
	refused := errMalformed // until the answer has what was asked for
	err = r.read(func(kind, _ uint16, seq uint32, body []byte) bool {
		switch {
		case seq != r.seq:
			return true
		case kind == unix.NLMSG_ERROR:
			refused = errorOf(body)
		case kind == unix.RTM_NEWSTATS && len(body) >= ifStats && int(u32(body[4:])) == ifindex:
			_ = attributes(body[ifStats:], func(kind uint16, value []byte) error {
				if kind == statsLink64 && len(value) >= 8 {
					frames, refused = binary.NativeEndian.Uint64(value), nil // rx_packets is first
				}
				return nil
			})
		}
		return false
	})
	if err == nil {
		err = refused
	}
	return frames, err
}
