package syslog

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, dir string) *Log {
	t.Helper()
	l, err := Start(filepath.Join(dir, "log.sock"), filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// say sends datagrams as daemons do.
func say(t *testing.T, dir string, lines ...string) {
	t.Helper()
	c, err := net.Dial("unixgram", filepath.Join(dir, "log.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, line := range lines {
		if _, err := c.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
}

func lines(t *testing.T, l *Log, from int64) []string {
	t.Helper()
	got, err := l.Lines(from)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What was said before a question is in its answer, without priorities and final zeros.
func TestLinesAreThoseThatWereSent(t *testing.T) {
	dir := t.TempDir()
	l := start(t, dir)
	if got := lines(t, l, 0); got != nil {
		t.Errorf("%q before anything was said", got)
	}
	say(t, dir, "<30>one\n", "two", "<150>three\x00", "<is no priority>")
	if got, want := lines(t, l, 0), []string{"one", "two", "three", "<is no priority>"}; !slices.Equal(got, want) {
		t.Errorf("%q, not %q", got, want)
	}
	mark, err := l.Size()
	if err != nil {
		t.Fatal(err)
	}
	say(t, dir, "four")
	if got := lines(t, l, mark); !slices.Equal(got, []string{"four"}) {
		t.Errorf("since the mark: %q", got)
	}
	l.Close()
	if _, err := l.Lines(0); err == nil {
		t.Error("a closed log answers")
	}

	// The next one goes on where this has ended, though its socket is still there.
	l = start(t, dir)
	defer l.Close()
	say(t, dir, "five")
	if got := lines(t, l, mark); !slices.Equal(got, []string{"four", "five"}) {
		t.Errorf("after a second start: %q", got)
	}
}

func TestWhatCanNotStartSaysWhy(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	for want, paths := range map[string][2]string{
		"too long a path":      {filepath.Join(dir, strings.Repeat("x", 108)), filepath.Join(dir, "log")},
		"cannot open the log":  {filepath.Join(dir, "none", "log.sock"), filepath.Join(dir, "log")},
		"cannot open the lab'": {filepath.Join(dir, "log.sock"), filepath.Join(dir, "folder")},
	} {
		l, err := Start(paths[0], paths[1])
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %q", err, want)
		}
	}
}
