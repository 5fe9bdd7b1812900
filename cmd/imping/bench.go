package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"
)

func benchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure passes, servers and codes: what BENCHMARKS.md shows",
	}
	cmd.AddCommand(benchRebuildCommand(), benchLimitCommand(), benchCodecCommand(), benchServeCommand(), benchObjectCommand(), benchWriteCommand(), benchRelinkCommand())
	return cmd
}

// checkBench finds out what is wrong with a benchmark's flags before anything is measured.
func checkBench(rounds int, write, name string) error {
	if rounds < 1 || rounds > 25 {
		return fmt.Errorf("--rounds %d: from 1 to 25", rounds)
	}
	return checkTable(write, name)
}

// made is the head of a table: what was measured, when, where and how, with more that counts.
func made(rounds int, more ...string) string {
	parts := append([]string{"imping " + version, time.Now().UTC().Format(time.DateOnly), cpuid.CPU.BrandName}, more...)
	return strings.Join(append(parts, mediansOf(rounds)), ", ") + "\n\n"
}

// congestionControl tells by what algorithm TCP sends: BBR paces what it sends by timers, on loopback too, where that can be most of the cost.
func congestionControl() string {
	name, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return "TCP's algorithm unknown"
	}
	return "TCP " + strings.TrimSpace(string(name))
}

func mediansOf(rounds int) string {
	if rounds == 1 {
		return "one round"
	}
	return fmt.Sprintf("medians of %d rounds", rounds)
}

// checkTable says whether writeTable would find its marks; without a path there is nothing to find.
func checkTable(path, name string) error {
	if path == "" {
		return nil
	}
	_, _, err := aroundTable(path, name)
	return err
}

// benchFolder makes an empty folder for a lab, which its user may enter, and in it a link by which this program has a daemon's name. The
// folder is to be removed, after an error too.
func benchFolder(name string) (root, program string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", err
	}
	if root, err = os.MkdirTemp("", "imping-bench-"); err != nil {
		return "", "", err
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return root, "", err
	}
	program = filepath.Join(root, name)
	return root, program, os.Symlink(self, program)
}

// writeTable puts text between the marks of that name in a file of Markdown.
func writeTable(path, name, text string) error {
	head, tail, err := aroundTable(path, name)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(head+"\n"+text+tail), 0o644)
}

// aroundTable is what stands before and behind a table, with its marks.
func aroundTable(path, name string) (head, tail string, err error) {
	begin, end := "<!-- "+name+": begin -->", "<!-- "+name+": end -->"
	b, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return "", "", fmt.Errorf("%s has no line %s followed by %s", path, begin, end)
	}
	return head + begin, end + tail, nil
}
