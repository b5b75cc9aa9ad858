// SPDX-License-Identifier: Apache-2.0

package vip

import (
	"errors"

	"github.com/xvrrp/xvrrp/control/plan"
)

// Facts lists the interfaces and addresses of the network namespace of the
// calling thread.
func Facts() (*plan.Facts, error) {
	l, err := openLister()
	if err != nil {
		return nil, err
	}
	facts, err := l.facts()
	return facts, errors.Join(err, l.close())
}
