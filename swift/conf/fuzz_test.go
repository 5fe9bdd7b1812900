package conf

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// FuzzValues reads an option's value as everything that it might be.
func FuzzValues(f *testing.F) {
	for _, seed := range []string{"1_0", " +7 ", "-0", "1e400", "nan", "infinity", "0x10", "64MiB", "9223372036854775807TiB", "8 KiB", "2 * replicas", "yes", "%(x)s", "a,,b ,"} {
		f.Add(seed)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "object-server.conf")
	f.Fuzz(func(t *testing.T, value string) {
		if n, ok := ParseInt(value); ok {
			if m, ok := ParseInt(strconv.Itoa(n)); !ok || m != n {
				t.Fatalf("%q is %d, read back as %d", value, n, m)
			}
		}
		if x, ok := ParseFloat(value); ok {
			if y, ok := ParseFloat(strconv.FormatFloat(x, 'g', -1, 64)); !ok || y != x && !math.IsNaN(x) {
				t.Fatalf("%q is %v, read back as %v", value, x, y)
			}
		}
		for _, part := range List(value) {
			if part == "" || strings.Contains(part, ",") {
				t.Fatalf("%q has the part %q", value, part)
			}
		}
		if err := os.WriteFile(path, []byte("[object-reconstructor]\nkey = "+value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Read(path, "object-reconstructor")
		if err != nil {
			if !strings.Contains(err.Error(), dir) {
				t.Fatalf("error without the file: %v", err)
			}
			return
		}
		if d, err := s.Seconds("key", 0); err == nil && d < 0 {
			t.Fatalf("%q lasts %v", value, d)
		}
		if n, err := s.Size("key", 0); err == nil && n < 0 {
			t.Fatalf("%q has %d bytes", value, n)
		}
		s.Int("key", 0)
		s.Bool("key", false)
		s.NodeCount("key", "6")
		s.List("key")
	})
}
