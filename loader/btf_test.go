// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
)

// counterFields returns the names that bpftool prints for the counters.
func counterFields(t *testing.T, spec *ebpf.CollectionSpec) []string {
	t.Helper()
	s, ok := btf.UnderlyingType(spec.Maps["counters"].Value).(*btf.Struct)
	require.True(t, ok)
	var names []string
	for _, m := range s.Members {
		names = append(names, m.Name)
	}
	return names
}
