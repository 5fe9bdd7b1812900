package relink

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// logBook keeps what is logged, with the level before each line.
type logBook struct {
	mu      sync.Mutex
	lines   []string
	limit   int    // 0: none
	reached func() // is called when there are so many lines
	heard   func(line string)
}

func (l *logBook) put(level, format string, args []any) {
	line := level + " " + fmt.Sprintf(format, args...)
	l.mu.Lock()
	l.lines = append(l.lines, line)
	reached := len(l.lines) == l.limit
	l.mu.Unlock()
	if reached {
		l.reached()
	}
	if l.heard != nil {
		l.heard(line)
	}
}

func (l *logBook) Debugf(format string, args ...any) { l.put("debug", format, args) }
func (l *logBook) Infof(format string, args ...any)  { l.put("info", format, args) }
func (l *logBook) Warnf(format string, args ...any)  { l.put("warn", format, args) }
func (l *logBook) Errorf(format string, args ...any) { l.put("error", format, args) }

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// has tells that a line is there.
func (l *logBook) has(line string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.lines, line)
}

// prefixed is a logBook in which lines begin as daemon.Logger's WithPrefix has them begin.
type prefixed struct {
	book   *logBook
	prefix string
}

func (l prefixed) Debugf(format string, args ...any) { l.book.Debugf("%s"+format, l.with(args)...) }
func (l prefixed) Infof(format string, args ...any)  { l.book.Infof("%s"+format, l.with(args)...) }
func (l prefixed) Warnf(format string, args ...any)  { l.book.Warnf("%s"+format, l.with(args)...) }
func (l prefixed) Errorf(format string, args ...any) { l.book.Errorf("%s"+format, l.with(args)...) }

func (l prefixed) with(args []any) []any { return append([]any{l.prefix}, args...) }

// rule 37: the lines are Swift 2.30.1's, or those of its master, level for level.
func TestTextsAreOf230OrOfMaster(t *testing.T) {
	s := newStock(t)
	const ts = "1700000000.00000"
	for _, c := range []struct {
		step    string
		master  bool
		workers int // Auto, of one device: no prefix of worker
		want    string
	}{
		{"relink", false, Auto, `
info Starting relinker (cleanup=False) using 1 workers: TIME
info Processing files for policy gold under NODE/sda (cleanup=False)
debug Relinking: tolerating different inodes for tombstone with same timestamp: NODE/sda/objects/40/TOMB.ts to NODE/sda/objects/80/TOMB.ts
debug Relinking created link: NODE/sda/objects/40/HIGH.data to NODE/sda/objects/80/HIGH.data
info Step: relink Device: sda Policy: gold Partitions: 1/3
info Step: relink Device: sda Policy: gold Partitions: 2/3
warn Error relinking: failed to relink NODE/sda/objects/3/LOW.data to NODE/sda/objects/7/LOW.data: [Errno 17] File exists: 'NODE/sda/objects/3/LOW.data' -> 'NODE/sda/objects/7/LOW.data'
info Step: relink Device: sda Policy: gold Partitions: 2/3
info Processing files for policy ec under NODE/sda (cleanup=False)
warn 3 hash dirs processed (cleanup=False) (3 files, 1 linked, 0 removed, 1 errors)
info Finished relinker (cleanup=False): TIME (ELAPSED elapsed)`},
		{"relink", true, Auto, `
info [step=relink] Starting relinker using 1 workers: TIME
info [step=relink] Processing files for policy gold under NODE/sda
debug [step=relink] Relinking: tolerating different inodes for tombstone with same timestamp: NODE/sda/objects/40/TOMB.ts to NODE/sda/objects/80/TOMB.ts
debug [step=relink] Relinking created link: NODE/sda/objects/40/HIGH.data to NODE/sda/objects/80/HIGH.data
info [step=relink] Device: sda Policy: gold Partitions: 1/3
info [step=relink] Device: sda Policy: gold Partitions: 2/3
error [step=relink] Error relinking: hardlink collision: NODE/sda/objects/3/LOW.data to NODE/sda/objects/7/LOW.data (consider enabling clobber_hardlink_collisions)
info [step=relink] Device: sda Policy: gold Partitions: 2/3
info [step=relink] Processing files for policy ec under NODE/sda
warn [step=relink] 3 hash dirs processed (3 files, 1 linked, 0 removed, 1 errors)
info [step=relink] Finished relinker: TIME (ELAPSED elapsed)`},
		{"cleanup", false, 1, `
info Starting relinker (cleanup=True) using 1 workers: TIME
info [pid=PID, devs=sda,sdb] Processing files for policy gold under NODE (cleanup=True)
info [pid=PID, devs=sda,sdb] Step: cleanup Device: sda Policy: gold Partitions: 1/4
debug [pid=PID, devs=sda,sdb] Relinking (cleanup): tolerating different inodes for tombstone with same timestamp: NODE/sda/objects/40/TOMB.ts to NODE/sda/objects/80/TOMB.ts
debug [pid=PID, devs=sda,sdb] Relinking (cleanup) created link: NODE/sda/objects/40/HIGH.data to NODE/sda/objects/80/HIGH.data
debug [pid=PID, devs=sda,sdb] Removed NODE/sda/objects/40/HIGH.data
debug [pid=PID, devs=sda,sdb] Removed NODE/sda/objects/40/TOMB.ts
info [pid=PID, devs=sda,sdb] Step: cleanup Device: sda Policy: gold Partitions: 2/4
info [pid=PID, devs=sda,sdb] Step: cleanup Device: sda Policy: gold Partitions: 3/4
warn [pid=PID, devs=sda,sdb] Error relinking (cleanup): failed to relink NODE/sda/objects/3/LOW.data to NODE/sda/objects/7/LOW.data: [Errno 17] File exists: 'NODE/sda/objects/3/LOW.data' -> 'NODE/sda/objects/7/LOW.data'
info [pid=PID, devs=sda,sdb] Step: cleanup Device: sda Policy: gold Partitions: 3/4
info [pid=PID, devs=sda,sdb] Processing files for policy ec under NODE (cleanup=True)
warn [pid=PID, devs=sda,sdb] 3 hash dirs processed (cleanup=True) (3 files, 1 linked, 2 removed, 1 errors)
warn Worker (pid=PID, devs=sda,sdb) completed in ELAPSED with errors
info Finished relinker (cleanup=True): TIME (ELAPSED elapsed)`},
		{"cleanup", true, 1, `
info [step=cleanup] Starting relinker using 1 workers: TIME
info [step=cleanup, pid=PID, devs=sda,sdb] Processing files for policy gold under NODE
info [step=cleanup, pid=PID, devs=sda,sdb] Device: sda Policy: gold Partitions: 1/4
debug [step=cleanup, pid=PID, devs=sda,sdb] Relinking: tolerating different inodes for tombstone with same timestamp: NODE/sda/objects/40/TOMB.ts to NODE/sda/objects/80/TOMB.ts
debug [step=cleanup, pid=PID, devs=sda,sdb] Relinking created link: NODE/sda/objects/40/HIGH.data to NODE/sda/objects/80/HIGH.data
debug [step=cleanup, pid=PID, devs=sda,sdb] Removed NODE/sda/objects/40/HIGH.data
debug [step=cleanup, pid=PID, devs=sda,sdb] Removed NODE/sda/objects/40/TOMB.ts
info [step=cleanup, pid=PID, devs=sda,sdb] Device: sda Policy: gold Partitions: 2/4
info [step=cleanup, pid=PID, devs=sda,sdb] Device: sda Policy: gold Partitions: 3/4
error [step=cleanup, pid=PID, devs=sda,sdb] Error relinking: hardlink collision: NODE/sda/objects/3/LOW.data to NODE/sda/objects/7/LOW.data (consider enabling clobber_hardlink_collisions)
info [step=cleanup, pid=PID, devs=sda,sdb] Device: sda Policy: gold Partitions: 3/4
info [step=cleanup, pid=PID, devs=sda,sdb] Processing files for policy ec under NODE
warn [step=cleanup, pid=PID, devs=sda,sdb] 3 hash dirs processed (3 files, 1 linked, 2 removed, 1 errors)
warn [step=cleanup] Worker (pid=PID, devs=sda,sdb) completed in ELAPSED with errors
info [step=cleanup] Finished relinker: TIME (ELAPSED elapsed)`},
	} {
		h := newSite(t, s)
		tomb := strings.Replace(high, "0000", "0001", 1)
		for _, f := range []struct {
			part       int
			hash, name string
		}{{40, high, ts + ".data"}, {40, tomb, ts + ".ts"}, {80, tomb, ts + ".ts"}, {3, low, ts + ".data"}, {7, low, ts + ".data"}} {
			h.put(t, h.path("sda", "objects", f.part, f.hash, f.name), "x")
		}
		if c.workers == 1 {
			check(t, os.Mkdir(h.devices+"/sdb", 0o755))
		}
		h.step(t, c.step)
		_, book := h.run(t, c.step, func(r *Config) {
			r.MasterTexts, r.Workers, r.PartitionsPerDevice, r.ReclaimAge = c.master, c.workers, 1, 100*365*24*time.Hour
			r.Prefixed = func(prefix string) Log { return prefixed{r.Log.(*logBook), prefix} }
		})
		lines := slices.DeleteFunc(strings.Split(book.String(), "\n"), func(line string) bool { return strings.Contains(line, "Updating recon") })
		got := strings.NewReplacer(h.devices, "NODE", fmt.Sprintf("pid=%d", os.Getpid()), "pid=PID",
			high[29:]+"/"+high+"/"+ts, "HIGH", tomb[29:]+"/"+tomb+"/"+ts, "TOMB", low[29:]+"/"+low+"/"+ts, "LOW").Replace(strings.Join(lines, "\n"))
		got = regexp.MustCompile(`\d\d:\d\d:\d\d \d\d/\d\d/\d\d GMT`).ReplaceAllString(got, "TIME")
		got = regexp.MustCompile(`\(\d:\d\d:\d\d\.\d+|\d+\.\ds`).ReplaceAllStringFunc(got, func(m string) string { return strings.Repeat("(", strings.Count(m, "(")) + "ELAPSED" })
		if diff := cmp.Diff(debugSorted(strings.TrimPrefix(c.want, "\n")), debugSorted(got)); diff != "" {
			t.Errorf("%s, master's texts %v (-want +got):\n%s", c.step, c.master, diff)
		}
	}
}

// debugSorted sorts debug lines that follow each other: the file system says in which order a partition's objects come.
func debugSorted(text string) string {
	lines := strings.Split(text, "\n")
	for from := 0; from < len(lines); from++ {
		to := from
		for to < len(lines) && strings.HasPrefix(lines[to], "debug ") {
			to++
		}
		slices.Sort(lines[from:to])
		from = max(from, to)
	}
	return strings.Join(lines, "\n")
}
