// SPDX-License-Identifier: Apache-2.0

// Package test holds everything that needs more than one process: the
// network-namespace lab, the end-to-end and interop tests and the benchmarks.
package test
