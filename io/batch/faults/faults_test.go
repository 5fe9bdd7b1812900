package faults

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"imping/io/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fill(dir string, sync bool) []batch.Op {
	ops := []batch.Op{{Kind: batch.Open, Then: true, Name: dir, Flags: unix.O_TMPFILE | unix.O_WRONLY, Mode: 0o600}, {Kind: batch.Write, File: batch.Opened, Buf: []byte("content")}}
	if sync {
		ops[1].Then = true
		ops = append(ops, batch.Op{Kind: batch.Sync, File: batch.Opened})
	}
	return ops
}

func each(t *testing.T, f func(t *testing.T, e batch.Engine)) {
	for _, choice := range []string{batch.PlainOnly, batch.URing} {
		t.Run(choice, func(t *testing.T) {
			engines, err := batch.New(choice, t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			defer engines.Close()
			f(t, engines.For("sda"))
		})
	}
}

// Under the layer, too, an operation that fails cuts its chain, whichever it is, and what is behind it is not done.
func TestEachOperationCanFail(t *testing.T) {
	each(t, func(t *testing.T, under batch.Engine) {
		for fail := range 4 {
			dir := t.TempDir()
			met := 0
			e := &Engine{Engine: under, Hook: func(op *batch.Op, do func() error) error {
				if met++; met == fail+1 {
					return unix.EIO
				}
				return do()
			}}
			ops := append(fill(dir, true), batch.Op{Kind: batch.Mkdir, Name: dir + "/other", Mode: 0o755})
			if err := e.Do(context.Background(), ops); err != unix.EIO || ops[fail].Err != unix.EIO {
				t.Errorf("%d fails: %v, %v", fail, err, ops[fail].Err)
			}
			for i := fail + 1; i < 3; i++ {
				if ops[i].Err != batch.ErrCut {
					t.Errorf("%d fails, and %d: %v", fail, i, ops[i].Err)
				}
			}
			if _, err := os.Stat(dir + "/other"); (err == nil) != (fail < 3) {
				t.Errorf("%d fails, and the other chain: %v", fail, err)
			}
			if ops[0].Err == nil {
				_ = unix.Close(ops[0].File)
			}
		}
	})
}

func TestOrderSeesWhatIsTooEarly(t *testing.T) {
	each(t, func(t *testing.T, under batch.Engine) {
		for _, sync := range []bool{true, false} {
			dir := t.TempDir()
			var order Order
			e := &Engine{Engine: under, Hook: order.Hook}
			ops := fill(dir, sync)
			if err := e.Do(t.Context(), ops); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(ops[0].File)
			if err := e.Do(t.Context(), []batch.Op{{Kind: batch.Link, File: ops[0].File, To: dir + "/x"}}); err != nil {
				t.Fatal(err)
			}
			if wrong := order.Wrong(); len(wrong) == 0 != sync || !sync && !strings.Contains(wrong[0], "was not synced after write") {
				t.Errorf("synced %v: %q", sync, wrong)
			}
			if got := order.Unsaved(); !slices.Equal(got, []string{dir}) {
				t.Errorf("not synced: %q", got)
			}
			if err := e.Do(t.Context(), []batch.Op{{Kind: batch.Rename, Name: dir + "/x", To: dir + "/y"}, {Kind: batch.SyncDir, Name: dir}}); err != nil {
				t.Fatal(err)
			}
			if got := order.Unsaved(); len(got) != 0 {
				t.Errorf("not synced: %q", got)
			}
		}
	})
}

func TestShort(t *testing.T) {
	each(t, func(t *testing.T, under batch.Engine) {
		dir := t.TempDir()
		e := &Engine{Engine: under, Hook: Short(3)}
		ops := fill(dir, true)
		if err := e.Do(t.Context(), ops); !errors.Is(err, io.ErrShortWrite) || ops[1].N != 3 || len(ops[1].Buf) != 7 || ops[2].Err != batch.ErrCut {
			t.Errorf("%v: %d bytes of %d, then %v", err, ops[1].N, len(ops[1].Buf), ops[2].Err)
		}
		_ = unix.Close(ops[0].File)
	})
}
