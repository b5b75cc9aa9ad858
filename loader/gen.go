// SPDX-License-Identifier: Apache-2.0

package loader

// The compiler and its flags come from the Makefile, which pins them.
//go:generate go tool bpf2go -target bpfel -no-global-types -type xvrrp_reason -type xvrrp_counters -type xvrrp_router -type xvrrp_router_flag -type xvrrp_template -type xvrrp_slot -type xvrrp_event -type xvrrp_limit -type xvrrp_lease -type xvrrp_fence -type xvrrp_local -type xvrrp_session -type xvrrp_meta -type xvrrp_port -type xvrrp_serving -type xvrrp_id -type xvrrp_address -type xvrrp_digest rx ../bpf/xvrrp_rx.bpf.c
