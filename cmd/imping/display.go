package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"imping/engine/pass"
)

// gauge is what a display shows. Its functions may be called at any time, from another
// goroutine.
type gauge struct {
	what    string                // is counted: "partitions"
	count   func() (n, all int64) // all is 0 as long as it is not known
	amounts func() string         // what came of it, with the rate
	elapsed func() time.Duration
	every   time.Duration // between plain lines
}

// display shows how work gets on: a bar on a terminal, a line now and then elsewhere.
type display struct {
	gauge
	stop chan struct{}
	wg   sync.WaitGroup
}

// lineEvery is the pace of plain progress lines: seldom enough for a log file.
const lineEvery = 10 * time.Second

// showProgress starts a display of g on f (standard error).
func showProgress(f *os.File, g *pass.Progress) *display {
	return show(f, gauge{
		what: "partitions",
		count: func() (n, all int64) {
			if !g.Collected() {
				return 0, 0
			}
			return g.PartitionsDone.Load(), g.Partitions.Load()
		},
		amounts: func() string { return amounts(g) },
		elapsed: g.Elapsed,
		every:   lineEvery,
	})
}

// show starts a display.
func show(f *os.File, g gauge) *display {
	d := &display{gauge: g, stop: make(chan struct{})}
	d.wg.Add(1)
	if term.IsTerminal(int(f.Fd())) {
		go d.bar(f)
	} else {
		go d.lines(f)
	}
	return d
}

// Stop ends the display; what it drew is complete when Stop returns.
func (d *display) Stop() {
	close(d.stop)
	d.wg.Wait()
}

func (d *display) lines(w io.Writer) {
	defer d.wg.Done()
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-tick.C:
			fmt.Fprintln(w, d.line())
		}
	}
}

func (d *display) line() string {
	n, all := d.count()
	return fmt.Sprintf("%s %d/%d, %s", d.what, n, all, d.amounts())
}

func amounts(g *pass.Progress) string {
	b := g.BytesSent.Load()
	rate := float64(b) / max(g.Elapsed().Seconds(), 0.001)
	s := fmt.Sprintf("%d archives rebuilt, %s, %s/s", g.Sent.Load(), size(float64(b)), size(rate))
	if left := g.ObjectsLeft.Load(); left > 0 {
		s += fmt.Sprintf(", %d left", left)
	}
	return s
}

func (d *display) bar(w io.Writer) {
	defer d.wg.Done()
	progress := mpb.New(mpb.WithOutput(w), mpb.WithWidth(64), mpb.WithAutoRefresh())
	bar := progress.AddBar(0,
		mpb.PrependDecorators(decor.CountersNoUnit(d.what+" %d/%d ")),
		mpb.AppendDecorators(
			decor.Percentage(),
			decor.Any(func(decor.Statistics) string { return "  " + d.amounts() + "  ETA " + d.remaining() }),
		),
	)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-d.stop:
			running = false
		case <-tick.C:
		}
		if n, all := d.count(); all > 0 {
			bar.SetTotal(all, false)
			bar.SetCurrent(n)
		}
	}
	bar.SetTotal(-1, true)
	progress.Wait()
}

// remaining is the time that what is still to come will take at the pace so far.
func (d *display) remaining() string {
	n, all := d.count()
	if n == 0 || all == 0 {
		return "-"
	}
	left := time.Duration(float64(d.elapsed()) * float64(max(all-n, 0)) / float64(n))
	return left.Round(time.Second).String()
}

func size(b float64) string {
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if b < 1024 {
			return fmt.Sprintf("%.4g %s", b, unit)
		}
		b /= 1024
	}
	return fmt.Sprintf("%.4g TiB", b)
}

// summary is what a pass did, for a machine to read.
type summary struct {
	Seconds        float64   `json:"seconds"`
	Devices        int64     `json:"devices"`
	Partitions     int64     `json:"partitions"`
	PartitionsDone int64     `json:"partitions_done"`
	Suffixes       int64     `json:"suffixes_checked"`
	Synced         int64     `json:"suffixes_synced"`
	Wanted         int64     `json:"objects_wanted"`
	Rebuilt        int64     `json:"archives_rebuilt"`
	BytesRebuilt   int64     `json:"bytes_rebuilt"`
	BytesRead      int64     `json:"survivor_bytes_read"`
	Reverted       int64     `json:"archives_reverted"`
	Removed        int64     `json:"reverted_files_removed"`
	Metadata       int64     `json:"metadata_sent"`
	Tombstones     int64     `json:"tombstones_sent"`
	Sessions       int64     `json:"sessions"`
	Retries        int64     `json:"tries_repeated"`
	Quarantined    int64     `json:"local_archives_quarantined"`
	Left           pass.Left `json:"left"`

	Unrepaired []*pass.Unrepaired `json:"unrepaired"`
}

func summarise(g *pass.Progress, left pass.Left) *summary {
	return &summary{
		Seconds: g.Elapsed().Seconds(), Devices: g.Devices.Load(),
		Partitions: g.Partitions.Load(), PartitionsDone: g.PartitionsDone.Load(),
		Suffixes: g.Suffixes.Load(), Synced: g.SuffixesSynced.Load(), Wanted: g.ObjectsWanted.Load(),
		Rebuilt: g.Rebuilt.Load(), BytesRebuilt: g.BytesRebuilt.Load(), BytesRead: g.BytesRead.Load(),
		Reverted: g.Reverted.Load(), Removed: g.Purged.Load(), Metadata: g.Metadata.Load(), Tombstones: g.Tombstones.Load(),
		Sessions: g.Sessions.Load(), Retries: g.SessionsRetried.Load(), Quarantined: g.Corrupt.Load(), Left: left,
	}
}

func (s *summary) print(w io.Writer, asJSON bool) {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.Encode(s)
		return
	}
	fmt.Fprintf(w, "%d/%d partitions on %d devices in %.2f s: %d fragment archives (%s), %d metadata files and %d tombstones rebuilt\n",
		s.PartitionsDone, s.Partitions, s.Devices, s.Seconds, s.Rebuilt, size(float64(s.BytesRebuilt)), s.Metadata, s.Tombstones)
	if s.Reverted+s.Removed > 0 {
		fmt.Fprintf(w, "%d fragment archives were brought where they belong; %d files that are safe there were removed here\n", s.Reverted, s.Removed)
	}
	if s.Quarantined > 0 {
		fmt.Fprintf(w, "%d local archives were corrupt or alone and were quarantined\n", s.Quarantined)
	}
	if s.Left.Any() {
		fmt.Fprintf(w, "left: %s\n", s.Left)
	}
	for i, u := range s.Unrepaired {
		if i == shownUnrepaired {
			fmt.Fprintf(w, "  and %d more: --json lists them\n", len(s.Unrepaired)-i)
			break
		}
		fmt.Fprintf(w, "  %s\n", unrepairedLine(u))
	}
}

// shownUnrepaired is how many entries of the list a summary shows that a person reads.
const shownUnrepaired = 5

func unrepairedLine(u *pass.Unrepaired) string {
	what := fmt.Sprintf("policy %d, device %s", u.Policy, u.Device)
	if u.Partition >= 0 {
		what = fmt.Sprintf("policy %d, partition %d on %s", u.Policy, u.Partition, u.Device)
	}
	if name := cmp.Or(u.Object, u.Hash); name != "" {
		what = name + " (" + what + ")"
	}
	if u.Target != "" {
		what += ", for " + u.Target
	}
	if u.Need > 0 {
		what += fmt.Sprintf(", %d of %d survivors", u.Have, u.Need)
	}
	return what + ": " + u.Reason
}
