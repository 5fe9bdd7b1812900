package main

import (
	"strings"
	"testing"

	"imping/engine/pass"
)

func TestSummarySaysWhatWasLeft(t *testing.T) {
	s := summary{Devices: 2, Partitions: 9, PartitionsDone: 8, Left: pass.Left{Objects: 1, Partitions: 8}, Unrepaired: []*pass.Unrepaired{
		{Object: "/a/c/o", Hash: "aa", Policy: 1, Partition: 3, Target: "10.0.0.2:6200/sdb", Index: 4, Device: "sda", Have: 3, Need: 4, Reason: "too few"},
		{Policy: 1, Partition: 4, Target: "10.0.0.3:6200/sdc", Device: "sda", Reason: "cannot connect"},
		{Policy: 2, Partition: -1, Device: "sdd", Reason: "not mounted"},
	}}
	const want = `8/9 partitions on 2 devices in 0.00 s: 0 fragment archives (0 B), 0 metadata files and 0 tombstones rebuilt
left: 1 objects, 8 partitions, 0 devices, 0 policies, 0 partitions to revert
  /a/c/o (policy 1, partition 3 on sda), for 10.0.0.2:6200/sdb, 3 of 4 survivors: too few
  policy 1, partition 4 on sda, for 10.0.0.3:6200/sdc: cannot connect
  policy 2, device sdd: not mounted
`
	var out strings.Builder
	if s.print(&out, false); out.String() != want {
		t.Errorf("%s, want\n%s", out.String(), want)
	}
	for len(s.Unrepaired) < 8 {
		s.Unrepaired = append(s.Unrepaired, s.Unrepaired[2])
	}
	out.Reset()
	if s.print(&out, false); strings.Count(out.String(), "\n  ") != 6 || !strings.HasSuffix(out.String(), "\n  and 3 more: --json lists them\n") {
		t.Error(out.String())
	}
}
