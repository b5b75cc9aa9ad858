// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// Keywords of keepalived that have no effect here yet, by the block that they
// stand in. Each is named once in a note; blocks are skipped whole.
var laterTop = words(`
	net_namespace_ipvs namespace_with_ipsets use_pid_dir child_wait_time linkbeat_use_polling
	linkbeat_interfaces interface_up_down_delays track_group static_ipaddress static_routes
	static_rules vrrp_sync_group garp_group vrrp_script vrrp_track_process track_file
	vrrp_track_file bfd_instance`)

var laterGlobal = words(`
	router_id process_names process_name vrrp_process_name bfd_process_name checker_process_name
	lvs_process_name notification_email notification_email_from smtp_server smtp_helo_name
	smtp_connect_timeout smtp_alert smtp_alert_vrrp no_email_faults startup_script shutdown_script
	startup_script_timeout shutdown_script_timeout script_user enable_script_security
	use_symlink_paths set_supplementary_groups notify_fifo notify_fifo_script vrrp_notify_fifo
	vrrp_notify_fifo_script vrrp_notify_priority_changes fifo_write_vrrp_states_on_reload
	vrrp_mcast_group6 dynamic_interfaces disable_local_igmp vrrp_gna_interval vrrp_garp_extra_if
	vrrp_vmac_garp_intvl vrrp_check_unicast_src vrrp_startup_delay vrrp_delay_after_boot
	log_unknown_vrids vrrp_rx_bufs_policy vrrp_rx_bufs_multiplier vmac_prefix vmac_addr_prefix
	vrrp_iptables vrrp_ipsets nftables nftables_priority nftables_counters nftables_ifindex
	max_auto_priority min_auto_priority_delay bfd_priority
	bfd_rt_priority bfd_rlimit_rttime vrrp_rlimit_rtime bfd_rlimit_rtime
	bfd_no_swap bfd_cpu_affinity vrrp_netlink_cmd_rcv_bufs
	vrrp_netlink_cmd_rcv_bufs_force vrrp_netlink_monitor_rcv_bufs
	vrrp_netlink_monitor_rcv_bufs_force process_monitor_rcv_bufs process_monitor_rcv_bufs_force
	lvs_sync_daemon snmp_socket enable_traps enable_snmp_vrrp enable_snmp_keepalived enable_snmp_rfc
	enable_snmp_rfcv2 enable_snmp_rfcv3 enable_dbus dbus_service_name dbus_no_interface_name umask
	random_seed reload_check_config reload_time_file reload_repeat reload_file config_save_dir
	tmp_config_directory data_use_instance json_version state_dump_file stats_dump_file
	json_dump_file iproute_usr_dir iproute_etc_dir`)

// laterInstance does not hold what would change who is trusted or where
// adverts go: those are refused instead, see refusedInstance.
var laterInstance = words(`
	track_src_ip use_vmac use_vmac_addr vmac_xmit_base use_ipvlan virtual_routes virtual_rules
	promote_secondaries track_script track_file track_process track_bfd garp_extra_if
	vmac_garp_intvl timer_expired_backup thread_timer_expired notify_master notify_backup
	notify_fault notify_stop notify notify_deleted notify_master_rx_lower_pri
	notify_priority_changes smtp_alert lvs_sync_daemon_interface linkbeat_use_polling
	kernel_rx_buf_size debug unicast_ttl check_unicast_src old_unicast_checksum
	unicast_fault_no_peer`)

var refusedInstance = map[string]string{
	"auth_hmac":            "the instance would run unauthenticated",
	"vrf":                  "adverts would leave elsewhere",
	"native_ipv6":          "IPv6 virtual routers are not supported yet",
	"no_virtual_ipaddress": "a virtual router without addresses is not supported yet",
}

// The half of keepalived that is not VRRP: recognised, skipped, never needed.
var lvsTop = words(`virtual_server virtual_server_group SSL`)

var lvsGlobal = words(`
	smtp_alert_checker no_checker_emails checker_log_all_failures rs_init_notifies lvs_notify_fifo
	lvs_notify_fifo_script nftables_ipvs nftables_ipvs_priority nftables_ipvs_start_fwmark
	checker_priority checker_rt_priority checker_rlimit_rttime checker_rlimit_rtime checker_no_swap
	checker_cpu_affinity lvs_netlink_cmd_rcv_bufs lvs_netlink_cmd_rcv_bufs_force
	lvs_netlink_monitor_rcv_bufs lvs_netlink_monitor_rcv_bufs_force lvs_timeouts lvs_flush
	lvs_flush_on_stop lvs_flush_onstop enable_snmp_checker snmp_vs_stats_update_interval
	snmp_rs_stats_update_interval`)

// blockKeywords report whether a word is a keyword of a block; "" is outside of
// all.
var blockKeywords map[string]func(string) bool

func init() {
	blockKeywords = map[string]func(string) bool{
		"": func(w string) bool { return topKeywords[w] || laterTop[w] || lvsTop[w] },
		"global_defs": func(w string) bool {
			return globalKeywords[w] != nil || laterGlobal[w] || lvsGlobal[w]
		},
		"vrrp_instance": func(w string) bool {
			return instanceKeywords[w] != nil || laterInstance[w] || refusedInstance[w] != ""
		},
		"authentication": func(w string) bool { return authKeywords[w] != nil },
	}
}

var topKeywords = words("global_defs vrrp_instance net_namespace instance")

func words(s string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(s) {
		set[w] = true
	}
	return set
}
