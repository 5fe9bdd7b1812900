package main

import (
	"fmt"

	"imping/engine/pass"
	"imping/swift/conf"
)

// imping's own options of what a pass moves (rule 40).
const (
	optOnly      = "imping_only"
	optSyncDelay = "imping_sync_delay_after_part_move"
)

// revertConfig takes the options of which jobs a pass has, of REVERT and of quarantine, and
// Swift's warnings of those that are not for every day.
func revertConfig(sec *conf.Section, o *reconstructOptions, cfg *pass.Config) error {
	r := reader{sec: sec}
	first := r.bool("handoffs_first", false)
	cfg.HandoffsOnly = r.bool("handoffs_only", first)
	o.warnings = nil
	if sec.Has("handoffs_first") {
		o.warnings = append(o.warnings, "The handoffs_first option is deprecated in favor of handoffs_only. This option may be ignored in a future release.")
	}
	switch {
	case cfg.HandoffsOnly:
		o.warnings = append(o.warnings, "Handoff only mode is not intended for normal operation, use handoffs_only with care.")
	case first:
		o.warnings = append(o.warnings, "Ignored handoffs_first option in favor of handoffs_only.")
	}
	for key, to := range map[string]*int{"max_objects_per_revert": &cfg.MaxRevert, "quarantine_threshold": &cfg.QuarantineMax} {
		n, err := sec.NonNegativeInt(key, 0)
		r.keep(err)
		*to = n
	}
	cfg.QuarantineAge = r.seconds("quarantine_age", cfg.ReclaimAge)
	count, err := sec.NodeCount("request_node_count", "2 * replicas")
	r.keep(err)
	cfg.RequestNodes = count.Of
	cfg.SyncDelay = r.seconds(optSyncDelay, 0)
	only, from := o.only, "--only"
	if only == "" {
		only, from = sec.Get(optOnly, ""), sec.Path+": "+optOnly
	}
	switch cfg.Only = pass.Only(only); cfg.Only {
	case "", pass.OnlySync, pass.OnlyRevert:
	default:
		return fmt.Errorf("%s = %q: sync and revert are known", from, only)
	}
	if cfg.SyncDelay < 0 || cfg.QuarantineAge < 0 {
		return fmt.Errorf("%s: %s and quarantine_age must not be below 0", sec.Path, optSyncDelay)
	}
	if cfg.HandoffsOnly && cfg.Only == pass.OnlySync {
		return fmt.Errorf("%s: handoffs_only leaves nothing to do for %s = sync", sec.Path, optOnly)
	}
	return r.err
}
