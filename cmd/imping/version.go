package main

import (
	"fmt"
	"runtime"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"
)

// version is set by the linker: the commit that was built.
var version = "unknown"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version, and what this machine's CPU offers the codec",
		Args:  cobra.NoArgs,
		Run:   func(*cobra.Command, []string) { fmt.Print(versionText()) },
	}
}

func versionText() string {
	var have []string
	for _, f := range []cpuid.FeatureID{cpuid.SSSE3, cpuid.AVX2, cpuid.AVX512BW, cpuid.GFNI} {
		if cpuid.CPU.Supports(f) {
			have = append(have, f.String())
		}
	}
	return fmt.Sprintf("imping %s %s %s/%s\ncpu: %s %v\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH, cpuid.CPU.BrandName, have)
}
