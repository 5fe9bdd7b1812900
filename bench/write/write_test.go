package write

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		if err := Child(os.Args[2], os.Stdout); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// Every engine writes all files of every load, and is a row of the table.
func TestEveryEngineWritesAllFiles(t *testing.T) {
	rows, err := Run(t.Context(), Options{Dir: t.TempDir(), Self: []string{os.Args[0], "child"}, Rounds: 1, Scale: 0.03, Out: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2*len(Engines) {
		t.Fatalf("%d rows for %d engines", len(rows), len(Engines))
	}
	lines := strings.Split(strings.TrimSpace(Table(rows)), "\n")
	if len(lines) != 2+len(rows) {
		t.Errorf("the table has %d lines for %d rows", len(lines), len(rows))
	}
	for i, r := range rows {
		if r.Costs[0].Wall <= 0 || r.Costs[0].CPU <= 0 || (r.Costs[0].Enters > 0) != strings.Contains(r.Engine, "uring") {
			t.Errorf("%s, %s: %+v", r.Engine, r.Load.Name, r.Costs)
		}
		if !strings.Contains(lines[2+i], r.Engine) {
			t.Errorf("row %d is %q, and not %s", i, lines[2+i], r.Engine)
		}
	}
}

// Short files and missing ones are seen.
func TestWhole(t *testing.T) {
	l := Load{Size: 10, Files: 2}
	dir := t.TempDir()
	for i, size := range []int{10, 9, 10} {
		want := []string{"1 files of 2", "has 9 bytes of 10", ""}[i]
		path := filepath.Join(dir, strconv.Itoa(min(i, 1))+".data")
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := whole(dir, l); err == nil != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("with %d bytes: %v", size, err)
		}
	}
	if task, err := json.Marshal(Task{Engine: "none"}); err != nil || Child(string(task), os.Stdout) == nil || slices.Contains(Engines, "none") {
		t.Error("an engine that there is not is taken")
	}
}
