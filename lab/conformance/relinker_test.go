package conformance_test

import (
	"testing"
	"time"
)

// relinkerTests is how many tests of its relinker Swift has.
const relinkerTests = 104

// relinkerInsiders are those that replace parts of the relinker in their own process.
var relinkerInsiders = reasons(map[string][]string{
	"replaces the relinker's class": {
		"test_conf_file",
		"test_relinker_drop_privileges",
		"test_relinker_utils_get_hub",
		"test_workers_children",
		"test_workers_parent",
		"test_workers_parent_bubbles_up_errors",
	},
	"replaces a method of the relinker": {
		"test_cleanup_all_policies",
		"test_cleanup_files_per_second",
		"test_cleanup_first_quartile_does_rehash",
		"test_relink_all_policies",
		"test_relink_files_per_second",
	},
	"replaces the function that makes links": {
		"test_cleanup_missing_data_and_meta_file_both_relinks_fails",
		"test_cleanup_missing_data_and_meta_file_one_relink_fails",
		"test_cleanup_missing_data_file_relink_fails",
		"test_cleanup_missing_meta_file_relink_fails",
		"test_cleanup_new_does_not_exist_and_relink_fails",
		"test_relink_link_already_exists",
		"test_relink_link_target_disappears",
	},
	"replaces listdir or remove": {
		"test_cleanup_listdir_error",
		"test_cleanup_remove_fails",
		"test_relink_listdir_error",
	},
	"replaces a method of DiskFileManager": {
		"test_cleanup_old_part_lock_taken_between_get_hashes_and_rm",
		"test_cleanup_old_part_partition_lock_taken_during_get_hashes",
		"test_cleanup_old_part_robust",
		"test_cleanup_second_quartile_no_rehash",
		"test_rehashing",
		"test_relink_second_quartile_does_rehash",
	},
	"replaces the clock or the pid": {
		"test_cleanup_reapable",
		"test_relink_cleanup",
	},
})

// byLuck are those of them that pass now and then. This one draws a name at random whose partition it pretends to be the right one: once in
// 256 times it is the partition 0, which is.
var byLuck = map[string]bool{"test_cleanup_first_quartile_does_rehash": true}

// reasons turns round what tests a reason is for.
func reasons(by map[string][]string) map[string]string {
	reasons := map[string]string{}
	for why, tests := range by {
		for _, name := range tests {
			reasons[name] = why
		}
	}
	return reasons
}

// Swift's tests of its relinker, with our program in place of its main function.
func TestRelinker(t *testing.T) {
	work, ours := our(t, "relinker", "swift-object-relinker")
	start := time.Now()
	passed, all := unit(t, work, ours, "python/relinker.py", relinkerTests, relinkerInsiders)
	t.Logf("%d of %d pass in %.1f s; the others replace a part of Swift's program in their own process", passed, all, time.Since(start).Seconds())
}
