package main

import (
	"slices"
	"strings"

	"imping/daemon"
)

// The options that each part of an object-server.conf may have, Swift 2.30 to 2.38 and ours.
// docs/operators-guide.md says of those of the reconstructor and of the server what becomes of
// them; a test compares the two, and both with the installed Swift.
var (
	// processOptions are of all of Swift's daemons.
	processOptions = words(`log_name log_level log_facility log_address log_udp_host log_udp_port log_max_line_length log_custom_handlers
		log_statsd_host log_statsd_port log_statsd_default_sample_rate log_statsd_sample_rate_factor log_statsd_metric_prefix
		user swift_dir devices mount_check nice_priority ionice_class ionice_priority eventlet_debug
		bind_ip bind_port ring_ip servers_per_port reclaim_age commit_window node_timeout conn_timeout
		disable_fallocate fallocate_reserve disk_chunk_size network_chunk_size keep_cache_size mb_per_sync splice
		replication_concurrency_per_device replication_one_per_device replication_lock_timeout ` + daemon.OptLogTexts)

	reconstructorOptions = append(words(`daemonize interval run_pause concurrency reconstructor_workers stats_interval http_timeout
		lockup_timeout ring_check_interval recon_cache_path handoffs_only handoffs_first rebuild_handoff_node_count max_objects_per_revert
		quarantine_threshold quarantine_age request_node_count write_legacy_ec_crc `+strings.Join([]string{optVerify, optBudget, optOnly, optSyncDelay}, " ")), processOptions...)

	serverOptions = append(words(`bind_timeout backlog keep_idle workers ring_check_interval max_clients client_timeout keepalive_timeout stale_worker_timeout
		container_update_timeout expiring_objects_container_divisor expiring_objects_account_name auto_create_account_prefix
		log_requests log_format log_anonymization_method log_anonymization_salt keep_cache_private keep_cache_slo_manifest etag_validate_pct
		max_upload_time slow allowed_headers slow_delete_log_threshold_seconds cooperative_period eventlet_tpool_num_threads
		replication_server replication_concurrency replication_failure_threshold replication_failure_ratio imping_io_engine
		cert_file key_file require_proxy_protocol`), processOptions...)

	filterOptions = words(`disable_path recon_cache_path recon_lock_path swift_dir devices backend_ratelimit_conf_path config_reload_interval
		requests_per_device_rate_buffer requests_per_device_per_second delete_requests_per_device_per_second get_requests_per_device_per_second
		head_requests_per_device_per_second post_requests_per_device_per_second put_requests_per_device_per_second
		replicate_requests_per_device_per_second update_requests_per_device_per_second`)

	relinkerOptions = append(words(`files_per_second stats_interval workers recon_cache_path clobber_hardlink_collisions policies device partitions `+optAtOnce), processOptions...)

	// otherOptions are of daemons that stay stock, and may stand in [DEFAULT] for them.
	otherOptions = words(`handoff_delete log_rsync_transfers replicator_workers rsync_bwlimit rsync_compress rsync_error_log_line_length
		rsync_io_timeout rsync_module rsync_timeout rsync_batch_periods sync_method concurrency_gets action bytes_per_second entry_points grace_age log_time
		object_size_stats rsync_tempfile_timeout watchers zero_byte_files_per_second max_deferred_updates max_objects_per_container_per_second
		objects_per_second per_container_ratelimit_buckets report_interval slowdown updater_workers async_tracker_max_entries async_tracker_dump_interval
		dequeue_from_legacy internal_client_conf_path process processes request_tries tasks_per_second round_robin_task_cache_size`)
)

func words(s string) []string { return strings.Fields(s) }

// ownOption says whether one of imping's programs has the option: in [DEFAULT] all find those of the others.
func ownOption(key string) bool {
	return slices.Contains(reconstructorOptions, key) || slices.Contains(serverOptions, key) || slices.Contains(relinkerOptions, key)
}

// nearest is the known option that a name was probably meant to be; "" if none is near.
func nearest(name string, known []string) string {
	best, limit := "", max(2, len(name)/4)+1
	for _, k := range known {
		if d := distance(name, k); d < limit {
			best, limit = k, d
		}
	}
	return best
}

// distance is how many letters must be changed, put in or taken out (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
