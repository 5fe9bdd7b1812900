package write

import (
	"context"
	"crypto/md5"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imping/io/batch"
	"imping/io/diskfile"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// swiftScript does the same as Child with Swift's own DiskFile, under eventlet as in the object server.
//
//go:embed swift.py
var swiftScript string

// metadataKey is where Swift keeps metadata, and metadataSize about how much there is of it.
const (
	metadataKey  = "user.swift.metadata"
	metadataSize = 300
)

// Child writes the files of a task, of which out gets the Cost.
func Child(text string, out io.Writer) error {
	var t Task
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	choice := batch.PlainOnly
	if strings.Contains(t.Engine, "uring") {
		choice = batch.URing
	}
	var refused error
	engines, err := batch.New(choice, func(format string, args ...any) { refused = fmt.Errorf(format, args...) })
	if err != nil {
		return err
	}
	defer engines.Close()
	engine := engines.For("sda")
	if refused != nil {
		return refused
	}
	content := aligned(t.Load.Size)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	write := map[string]func(i int) error{
		"uring":           func(i int) error { return byEngine(engine, t.path(i), 0, content) },
		"plain":           func(i int) error { return byEngine(engine, t.path(i), 0, content) },
		"uring, O_DIRECT": func(i int) error { return byEngine(engine, t.path(i), unix.O_DIRECT, content) },
		"plain, O_DIRECT": func(i int) error { return byEngine(engine, t.path(i), unix.O_DIRECT, content) },
		"Go's os":         func(i int) error { return byOS(t.path(i), content) },
		"imping, plain":   nil, "imping, uring": nil,
	}
	do, known := write[t.Engine]
	if !known {
		return fmt.Errorf("%q is none of %q", t.Engine, Engines)
	}
	if do == nil {
		m := diskfile.NewManager(diskfile.Config{
			Devices: t.Dir, Policy: &policy.Policy{Name: "zero", Type: policy.Replication}, Hasher: objhash.Hasher{Suffix: []byte("bench")},
			ReclaimAge: diskfile.DefaultReclaimAge, CommitWindow: diskfile.DefaultCommitWindow, Engine: engines.For,
		})
		do = func(i int) error { return byWriter(m, i, content) }
	}
	start, used := time.Now(), cpuTime()
	var next atomic.Int64
	var writers errgroup.Group
	for range depth {
		writers.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= t.Load.Files {
					return nil
				}
				if err := do(i); err != nil {
					return err
				}
			}
		})
	}
	if err := writers.Wait(); err != nil {
		return err
	}
	c := Cost{Wall: time.Since(start).Seconds(), CPU: (cpuTime() - used).Seconds()}
	if counts, ok := engine.(interface{ Enters() int64 }); ok {
		c.Enters = counts.Enters()
	}
	return json.NewEncoder(out).Encode(c)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// aligned is n bytes at the start of a page, as O_DIRECT wants them.
func aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	start := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	return b[start : start+n]
}

// path is where the i-th file comes, each in a directory of its own.
func (t *Task) path(i int) string { return filepath.Join(t.Dir, strconv.Itoa(i), "file.data") }

// byEngine fills a file in one submission and names it in a second, when all of the first was seen to be good.
func byEngine(e batch.Engine, path string, flags int, content []byte) error {
	dir := filepath.Dir(path)
	fill := []batch.Op{
		{Kind: batch.Open, Then: true, Name: dir, Flags: unix.O_TMPFILE | unix.O_WRONLY | flags, Mode: 0o644},
		{Kind: batch.Allocate, Then: true, File: batch.Opened, Flags: unix.FALLOC_FL_KEEP_SIZE, Size: int64(len(content))},
		{Kind: batch.Write, Then: true, File: batch.Opened, Buf: content},
		{Kind: batch.SetXattr, Then: true, File: batch.Opened, Name: metadataKey, Buf: content[:metadataSize]},
		{Kind: batch.Sync, Then: true, File: batch.Opened},
		{Kind: batch.DropCache, File: batch.Opened},
	}
	err := e.Do(context.Background(), fill)
	if fill[0].Err != nil {
		return err
	}
	defer unix.Close(fill[0].File)
	if err != nil {
		return err
	}
	return e.Do(context.Background(), []batch.Op{{Kind: batch.Link, Then: true, File: fill[0].File, To: path}, {Kind: batch.SyncDir, Name: dir}})
}

// byOS is how one would do it without thinking of system calls.
func byOS(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "tmp")
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := unix.Fsetxattr(int(f.Fd()), metadataKey, content[:metadataSize], 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// byWriter stores an object, in pieces as they come from the network.
func byWriter(m *diskfile.Manager, i int, content []byte) error {
	w, err := m.Create(diskfile.Place{Device: "sda", Partition: i % 64, Name: fmt.Sprintf("/a/c/%d", i), FragIndex: -1}, int64(len(content)))
	if err != nil {
		return err
	}
	defer w.Abort()
	sum := md5.New()
	for rest := content; len(rest) > 0; {
		piece := rest[:min(len(rest), 64<<10)]
		rest = rest[len(piece):]
		sum.Write(piece)
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	var meta diskfile.Metadata
	meta.Set("X-Timestamp", timestamp.FromTime(time.Now()).Internal())
	meta.Set("Content-Type", "application/octet-stream")
	meta.Set("Content-Length", strconv.Itoa(len(content)))
	meta.Set("ETag", fmt.Sprintf("%x", sum.Sum(nil)))
	return w.PublishDurable(&meta)
}
