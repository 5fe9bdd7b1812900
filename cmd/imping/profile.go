package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pkg/profile"
)

// profiles are the kinds of profile that a run may write.
var profiles = map[string]func(*profile.Profile){
	"cpu": profile.CPUProfile, "mem": profile.MemProfile, "block": profile.BlockProfile, "trace": profile.TraceProfile,
}

// checkProfile says whether a kind is known; none is.
func checkProfile(kind string) error {
	if _, ok := profiles[kind]; !ok && kind != "" {
		return fmt.Errorf("--profile %s: %s are known", kind, strings.Join(slices.Sorted(maps.Keys(profiles)), ", "))
	}
	return nil
}

// startProfile starts one, which is written into the current folder, as KIND.pprof or trace.out, when stop is called.
func startProfile(kind string) (stop func()) {
	return profile.Start(profiles[kind], profile.ProfilePath("."), profile.NoShutdownHook, profile.Quiet).Stop
}
