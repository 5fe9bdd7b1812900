package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/engine/pass"
	"imping/swift/conf"
)

func TestOptionsOfRevertAndQuarantine(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]struct {
		flag, problem string
		warnings      []string
		want          func(c *pass.Config) bool
	}{
		"": {want: func(c *pass.Config) bool {
			return !c.HandoffsOnly && c.MaxRevert == 0 && c.QuarantineMax == 0 && c.QuarantineAge == 7*24*time.Hour && c.RequestNodes(6) == 12 && c.Only == "" && c.SyncDelay == 0
		}},
		"reclaim_age = 60": {want: func(c *pass.Config) bool { return c.QuarantineAge == time.Minute }},
		"max_objects_per_revert = 5\nquarantine_threshold = 1\nquarantine_age = 7\nrequest_node_count = 9": {want: func(c *pass.Config) bool {
			return c.MaxRevert == 5 && c.QuarantineMax == 1 && c.QuarantineAge == 7*time.Second && c.RequestNodes(6) == 9
		}},
		"handoffs_only = yes":                                          {warnings: []string{"Handoff only mode is not intended"}, want: func(c *pass.Config) bool { return c.HandoffsOnly }},
		"handoffs_first = yes":                                         {warnings: []string{"The handoffs_first option is deprecated", "Handoff only mode is not intended"}, want: func(c *pass.Config) bool { return c.HandoffsOnly }},
		"handoffs_first = yes\nhandoffs_only = no":                     {warnings: []string{"The handoffs_first option is deprecated", "Ignored handoffs_first option in favor of handoffs_only."}, want: func(c *pass.Config) bool { return !c.HandoffsOnly }},
		"handoffs_first = no":                                          {warnings: []string{"The handoffs_first option is deprecated"}, want: func(c *pass.Config) bool { return !c.HandoffsOnly }},
		"imping_only = revert\nimping_sync_delay_after_part_move = 60": {want: func(c *pass.Config) bool { return c.Only == pass.OnlyRevert && c.SyncDelay == time.Minute }},
		"imping_only = sync":                                           {flag: "revert", want: func(c *pass.Config) bool { return c.Only == pass.OnlyRevert }},
		"imping_only = both":                                           {problem: "sync and revert are known"},
		"imping_only = sync\nhandoffs_only = yes":                      {problem: "nothing to do"},
		"max_objects_per_revert = -1":                                  {problem: "max_objects_per_revert"},
		"quarantine_threshold = x":                                     {problem: "quarantine_threshold"},
		"quarantine_age = -1":                                          {problem: "quarantine_age"},
		"request_node_count = 2 * nodes":                               {problem: "request_node_count"},
		"imping_sync_delay_after_part_move = -1":                       {problem: "imping_sync_delay_after_part_move"},
	} {
		path := filepath.Join(t.TempDir(), "x.conf")
		if err := os.WriteFile(path, []byte("[object-reconstructor]\n"+text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		sec, err := conf.Read(path, "object-reconstructor")
		if err != nil {
			t.Fatal(err)
		}
		o := &reconstructOptions{only: c.flag}
		cfg, err := passConfig(sec, o)
		if c.problem != "" {
			if err == nil || !strings.Contains(err.Error(), c.problem) {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if err != nil || !c.want(cfg) {
			t.Errorf("%q: %v, %+v", text, err, cfg)
		}
		if !slices.EqualFunc(o.warnings, c.warnings, strings.HasPrefix) {
			t.Errorf("%q: warned %q", text, o.warnings)
		}
	}
}
