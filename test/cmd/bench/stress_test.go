// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestHogsThatRan(t *testing.T) {
	n := runtime.NumCPU()
	assert.Equal(t, n, hog(time.Second, n))
	assert.Zero(t, hog(time.Second, n, "false"), "a prefix that does not run them")
	assert.Zero(t, hog(time.Second, n, "there is no such program"))
}
