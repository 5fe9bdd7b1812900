package main

import (
	"encoding/json"
	"strconv"
	"testing"

	"imping/bench/rebuild"
)

// All engines repair the same archives, with the requests and the bytes that they should need, whatever the number of losses, and within the
// memory that a reconstructor may have. The benchmark itself compares what they left.
func TestBenchRebuild(t *testing.T) {
	const k, maxRSS = 4, 128 << 20
	for _, c := range []struct {
		size    string
		objects int
	}{{"64KiB", 8}, {"40MiB", 2}} {
		status, out, problems := runImping(t, "bench", "rebuild", "--scheme", "isa_l_rs_vand 4+2", "--size", c.size, "--objects", strconv.Itoa(c.objects),
			"--losses", "2", "--rounds", "1", "--partitions", "2", "--engines", "limit,off,md5,md5-single", "--count", "--json")
		var rows []*rebuild.Row
		if err := json.Unmarshal([]byte(out), &rows); status != exitDone || err != nil || len(rows) != 4 {
			t.Fatalf("status %d, %v, %d rows:\n%s", status, err, len(rows), problems)
		}
		for _, r := range rows {
			times := 1 // that survivors are read
			if r.Engine.Single {
				times = 2
			}
			if r.Archives != 2*c.objects || r.Read != k*r.Bytes/2 {
				t.Errorf("%s: %d archives, %d bytes, survivors' %d", r.Engine, r.Archives, r.Bytes, r.Read)
			}
			if r.Requests["GET"] != times*(k-1)*c.objects || r.Requests["PUT"] != 2*c.objects {
				t.Errorf("%s: requests %v for %d objects", r.Engine, r.Requests, c.objects)
			}
			for _, s := range r.Samples {
				if s.PeakRSS > maxRSS || s.PeakRSS == 0 || !(s.CPU > 0) || !(s.ServerCPU > 0) || !(s.Wall > 0) {
					t.Errorf("%s: %+v", r.Engine, s)
				}
				if r.Engine.Name != rebuild.EngineLimit && s.BytesRead != int64(times)*r.Read {
					t.Errorf("%s: %d bytes of survivors were read, not %d times %d", r.Engine, s.BytesRead, times, r.Read)
				}
			}
		}
	}
}
