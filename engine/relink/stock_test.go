package relink

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"imping/lab/oracle"
	"imping/swift/policy"
)

//go:embed testdata/stock.py
var stockPython string

// power is the partition power from which the tests' rings come.
const power = 6

const swiftConfText = `[swift-hash]
swift_hash_path_suffix = changeme
[storage-policy:0]
name = gold
default = yes
[storage-policy:1]
name = ec
policy_type = erasure_coding
ec_type = liberasurecode_rs_vand
ec_num_data_fragments = 4
ec_num_parity_fragments = 2
`

// stock is Swift's relinker, in a process that lives as long as the test.
type stock struct {
	t     testing.TB
	conf  string // swift.conf
	rings string // folder of rings, by step
	in    io.Writer
	out   *bufio.Scanner
	log   strings.Builder
}

func newStock(t testing.TB) *stock {
	t.Helper()
	dir := t.TempDir()
	s := &stock{t: t, conf: filepath.Join(dir, "swift.conf"), rings: filepath.Join(dir, "rings")}
	check(t, os.WriteFile(s.conf, []byte(swiftConfText), 0o644))
	check(t, os.Mkdir(s.rings, 0o755))
	cmd := exec.Command(oracle.Python, "-c", stockPython, s.conf, fmt.Sprint(power))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &s.log
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	s.in, s.out = in, bufio.NewScanner(out)
	check(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
		if t.Failed() {
			t.Logf("stock said:\n%s", s.log.String())
		}
	})
	s.ask("rings", s.rings)
	return s
}

func (s *stock) ask(what string, value any) any {
	s.t.Helper()
	line, err := json.Marshal(map[string]any{what: value})
	check(s.t, err)
	if _, err := s.in.Write(append(line, '\n')); err != nil {
		s.t.Fatalf("cannot ask Swift (is python3-swift installed? `make deps`): %v", err)
	}
	if !s.out.Scan() {
		s.t.Fatalf("Swift ended (is python3-swift installed? `make deps`): %v", s.out.Err())
	}
	var answer any
	check(s.t, json.Unmarshal(s.out.Bytes(), &answer))
	return answer
}

// site is a node's disks, and the configuration of its relinkers.
type site struct {
	stock   *stock
	root    string
	devices string
	conf    string
}

func newSite(t testing.TB, s *stock) *site {
	t.Helper()
	root := t.TempDir()
	h := &site{stock: s, root: root, devices: filepath.Join(root, "node"), conf: filepath.Join(root, "relinker.conf")}
	for _, dir := range []string{h.devices, filepath.Join(root, "cache"), filepath.Join(root, "etc")} {
		check(t, os.Mkdir(dir, 0o755))
	}
	check(t, os.WriteFile(h.conf, []byte(fmt.Sprintf("[DEFAULT]\nswift_dir = %s/etc\ndevices = %s\nmount_check = false\n[object-relinker]\nrecon_cache_path = %s/cache\nlog_address = %s/none\nstats_interval = 0\n",
		root, h.devices, root, root)), 0o644))
	h.step(t, "none")
	return h
}

// step puts the rings of a step of an increase in force.
func (h *site) step(t testing.TB, name string) {
	t.Helper()
	for _, index := range []string{"", "-1"} {
		data, err := os.ReadFile(filepath.Join(h.stock.rings, name+index+".ring.gz"))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(h.root, "etc", "object"+index+".ring.gz"), data, 0o644))
	}
}

// words narrow a run: "--partition", "3", "--device", "sda".
func (h *site) runStock(t testing.TB, action string, words ...string) int {
	t.Helper()
	status := h.stock.ask("relinker", append([]string{action, h.conf}, words...))
	n, ok := status.(float64)
	if !ok {
		t.Fatalf("stock's %s ended with %v:\n%s", action, status, h.stock.log.String())
	}
	return int(n)
}

func (h *site) config(action string, log Log) (*Config, error) {
	return siteConfig(h.root, h.stock.conf, action, log)
}

func siteConfig(root, swiftConf, action string, log Log) (*Config, error) {
	swift, err := policy.Load(swiftConf)
	return &Config{
		Swift: swift, SwiftDir: filepath.Join(root, "etc"), Devices: filepath.Join(root, "node"), Cleanup: action == "cleanup", Workers: Auto, PartitionsPerDevice: 3,
		ReconPath: filepath.Join(root, "cache"), ReclaimAge: 7 * 24 * time.Hour, CommitWindow: time.Minute, Log: log,
		Prefixed: func(string) Log { return log }, Verbose: true,
	}, err
}

func (h *site) run(t testing.TB, action string, narrow ...func(*Config)) (int, *logBook) {
	t.Helper()
	book := &logBook{}
	c, err := h.config(action, book)
	check(t, err)
	for _, f := range narrow {
		f(c)
	}
	r, err := New(*c)
	check(t, err)
	status, err := r.Run(context.Background())
	check(t, err)
	return status, book
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
