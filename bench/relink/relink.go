// Package relink measures an increase of the partition power: Swift's relinker, imping's and a bare loop of the calls that neither can
// do without work on equal disks, one after the other. It measures; what relinks is a command line to it.
package relink

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"imping/swift/objhash"
)

//go:embed stock.py
var stockPython string

// Options of a run.
type Options struct {
	Root    string   // an empty folder, on the file system that is measured
	Imping  string   // the program, to be called under its own name
	Files   int      // per device
	Devices int      // with a worker each
	Rounds  int      // medians are shown
	Only    []string // engines; nil: all
	Cold    bool     // the kernel's caches are emptied before each step (of the whole machine)
	Out     io.Writer
}

// Engines are compared in this order.
var Engines = []string{"stock", "imping", "bare loop"}

// filesPerPartition is what a partition holds: some hundreds, as on disks of a cluster that is due for an increase.
const filesPerPartition = 400

// Sample is one step of one engine.
type Sample struct {
	Wall, User, System time.Duration
	PeakRSS            int64 // bytes
}

// Row is what the engines took for a step.
type Row struct {
	Step    string
	Files   int                 // in all
	Samples map[string][]Sample // by engine
}

type run struct {
	Options
	power int
	rings string
}

// Run makes disks for each engine in turn, relinks and cleans up, and looks whether all is where it should be.
func Run(ctx context.Context, o Options) ([]*Row, error) {
	r := &run{Options: o, power: max(bits.Len(uint(o.Files/filesPerPartition)), 2), rings: filepath.Join(o.Root, "rings")}
	if err := os.Mkdir(r.rings, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.rings, "swift.conf"), []byte("[swift-hash]\nswift_hash_path_suffix = bench\n"), 0o644); err != nil {
		return nil, err
	}
	if out, err := r.python(ctx, "rings", strconv.Itoa(r.power), r.rings).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot make rings: %w\n%s", err, out)
	}
	rows := []*Row{}
	for _, step := range []string{"relink", "cleanup"} {
		rows = append(rows, &Row{Step: step, Files: o.Files * o.Devices, Samples: map[string][]Sample{}})
	}
	for round := range o.Rounds {
		for _, engine := range Engines {
			if len(o.Only) > 0 && !slices.Contains(o.Only, engine) {
				continue
			}
			samples, err := r.engine(ctx, engine, uint64(round))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", engine, err)
			}
			for i, s := range samples {
				fmt.Fprintf(o.Out, "%s %s: %.2f s, %.2f s user, %.2f s system, %d MiB\n", engine, rows[i].Step, s.Wall.Seconds(), s.User.Seconds(), s.System.Seconds(), s.PeakRSS>>20)
				rows[i].Samples[engine] = append(rows[i].Samples[engine], s)
			}
		}
	}
	return rows, nil
}

func (r *run) python(ctx context.Context, words ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "/usr/bin/python3", append([]string{"-c", stockPython, filepath.Join(r.rings, "swift.conf")}, words...)...)
}

// engine has one engine do both steps on disks of its own.
func (r *run) engine(ctx context.Context, engine string, seed uint64) ([]Sample, error) {
	root := filepath.Join(r.Root, "site")
	defer os.RemoveAll(root)
	devices := filepath.Join(root, "node")
	for _, dir := range []string{devices, filepath.Join(root, "etc"), filepath.Join(root, "cache")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	conf := filepath.Join(root, "relinker.conf")
	if err := os.WriteFile(conf, []byte(fmt.Sprintf("[object-relinker]\nswift_dir = %s/etc\ndevices = %s\nmount_check = false\nrecon_cache_path = %s/cache\nlog_address = %s/none\n",
		root, devices, root, root)), 0o644); err != nil {
		return nil, err
	}
	var dirs []string
	for d := range r.Devices {
		dirs = append(dirs, filepath.Join(devices, fmt.Sprintf("sd%d", d), "objects"))
		if err := fill(dirs[d], r.Files, r.power, seed*100+uint64(d)); err != nil {
			return nil, err
		}
	}
	var samples []Sample
	for _, step := range []string{"relink", "cleanup"} {
		ring, err := os.ReadFile(filepath.Join(r.rings, step+".ring.gz"))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(root, "etc", "object.ring.gz"), ring, 0o644); err != nil {
			return nil, err
		}
		var cmd *exec.Cmd
		switch engine {
		case "stock":
			cmd = r.python(ctx, step, conf)
		case "imping":
			cmd = exec.CommandContext(ctx, r.Imping, "relink", step, conf, "--swift-conf", filepath.Join(r.rings, "swift.conf"))
		default:
			cmd = exec.CommandContext(ctx, r.Imping, append([]string{"bench", "relink", "--bare", step, "--power", strconv.Itoa(r.power)}, dirs...)...)
		}
		s, err := r.measure(cmd)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", step, err)
		}
		samples = append(samples, s)
		if err := r.check(dirs, step); err != nil {
			return nil, fmt.Errorf("%s: %w", step, err)
		}
	}
	return samples, nil
}

func (r *run) measure(cmd *exec.Cmd) (Sample, error) {
	// What was written before is not to be written while we measure.
	syscall.Sync()
	if r.Cold {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
			return Sample{}, fmt.Errorf("cannot empty the caches: %w", err)
		}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Start()
	if err != nil {
		return Sample{}, err
	}
	ended, peak := make(chan struct{}), make(chan int64)
	go func() { peak <- watchMemory(cmd.Process.Pid, ended) }()
	err = cmd.Wait()
	close(ended)
	s := Sample{PeakRSS: <-peak, Wall: time.Since(begin)}
	if err != nil {
		return Sample{}, fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	s.User, s.System = cmd.ProcessState.UserTime(), cmd.ProcessState.SystemTime()
	return s, nil
}

// watchMemory gives a process's peak of resident memory. (What wait tells has the parent's in it, from before exec.)
func watchMemory(pid int, ended chan struct{}) (peak int64) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				peak = kib << 10
			}
		}
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
	}
}

// fill makes a device's objects: each is one file.
func fill(dir string, files, power int, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 2))
	for range files {
		var h [16]byte
		for i := range h {
			h[i] = byte(rnd.Uint32())
		}
		hash := objhash.Hex(h)
		at := filepath.Join(dir, strconv.Itoa(objhash.Partition(h, uint(power))), objhash.Suffix(hash), hash)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(at, "1760000000.00000.data"), []byte("data"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// check counts the files, which all have two names after relinking and the new one after cleanup.
func (r *run) check(dirs []string, step string) error {
	for _, dir := range dirs {
		names, err := filepath.Glob(filepath.Join(dir, "*", "[0-9a-f][0-9a-f][0-9a-f]", "*", "*.data"))
		if err != nil {
			return err
		}
		want := 0
		for _, name := range names {
			words := strings.Split(strings.TrimPrefix(name, dir+"/"), "/")
			h, err := objhash.Parse(words[2])
			if err != nil {
				return err
			}
			part, _ := strconv.Atoi(words[0])
			switch part {
			case objhash.Partition(h, uint(r.power)+1):
				want++
			case objhash.Partition(h, uint(r.power)):
				if step == "cleanup" {
					return fmt.Errorf("%s is still there", name)
				}
			default:
				return fmt.Errorf("%s does not belong there", name)
			}
		}
		if want != r.Files {
			return fmt.Errorf("%d of %d files are where they should be", want, r.Files)
		}
	}
	return nil
}

func median(samples []Sample, of func(Sample) float64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// Table is what Run found, in Markdown.
func Table(rows []*Row) string {
	var b strings.Builder
	b.WriteString("| step, files | engine | wall s | user s | system s | CPU, bare loop = 1 | user, stock = 1 | peak MiB |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range rows {
		cpu := func(s Sample) float64 { return (s.User + s.System).Seconds() }
		user := func(s Sample) float64 { return s.User.Seconds() }
		ratio := func(engine, to string, of func(Sample) float64) string {
			if len(row.Samples[to]) == 0 {
				return "-"
			}
			return fmt.Sprintf("%.2f", median(row.Samples[engine], of)/max(median(row.Samples[to], of), 1e-9))
		}
		for _, engine := range Engines {
			s := row.Samples[engine]
			if len(s) == 0 {
				continue
			}
			fmt.Fprintf(&b, "| %s, %d | %s | %.2f | %.2f | %.2f | %s | %s | %.0f |\n", row.Step, row.Files, engine,
				median(s, func(s Sample) float64 { return s.Wall.Seconds() }), median(s, user), median(s, func(s Sample) float64 { return s.System.Seconds() }),
				ratio(engine, "bare loop", cpu), ratio(engine, "stock", user), median(s, func(s Sample) float64 { return float64(s.PeakRSS) / (1 << 20) }))
		}
	}
	return b.String()
}

// JSON is what Run found.
func JSON(w io.Writer, rows []*Row) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}
