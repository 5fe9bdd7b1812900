package conf

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "1.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rule 32
func TestMissingFilesAndSectionsAreFatalInSwiftsWords(t *testing.T) {
	path := write(t, "[object-replicator]\n")
	_, err := Read(path, "object-reconstructor")
	if want := "Unable to find object-reconstructor config section in " + path; err == nil || err.Error() != want {
		t.Errorf("missing section: %v", err)
	}
	_, err = Read("/no/such.conf", "a")
	if want := "Unable to read config from /no/such.conf"; err == nil || err.Error() != want {
		t.Errorf("missing file: %v", err)
	}
	if _, err = App(path, "object-server"); err == nil || !strings.Contains(err.Error(), "[app:object-server]") || !strings.Contains(err.Error(), path) {
		t.Errorf("missing app: %v", err)
	}
	if _, err = App("/no/such.conf", "object-server"); err == nil || !strings.Contains(err.Error(), "/no/such.conf") {
		t.Errorf("missing file of an app: %v", err)
	}
}

func TestBrokenFilesAreNamedWithTheirLine(t *testing.T) {
	path := write(t, "[a]\nx = 1\nbroken\n")
	if _, err := Read(path, "a"); err == nil || !strings.Contains(err.Error(), path+", line 3:") {
		t.Errorf("the error is %v", err)
	}
}

func TestKeysKeepTheOrderOfTheFileWithDefaultFirst(t *testing.T) {
	path := write(t, "[a]\nz = 1\nb = 2\nlog_name = x\n[DEFAULT]\nuser = swift\nb = 3\n")
	s, err := Read(path, "a")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.Keys(), " "); got != "user b z log_name" {
		t.Errorf("Keys() = %s", got)
	}
	if s.Get("b", "") != "2" {
		t.Errorf("b = %s", s.Get("b", ""))
	}
}

func TestHostileFilesEndInAnErrorSoon(t *testing.T) {
	bomb := "[a]\nx0 = 0123456789\n"
	for i := range 10 {
		next := string(rune('0' + i))
		bomb += "x" + string(rune('1'+i)) + " = " + strings.Repeat("%(x"+next+")s", 50) + "\n"
	}
	empty := strings.Replace(bomb, "0123456789", "%%", 1)
	twins := "[app:s0]\nuse = egg:x#y\n[filter:s0]\nuse = egg:x#y\n"
	for i := range 60 {
		name, next := "s"+string(rune('1'+i)), "s"+string(rune('0'+i))
		twins += "[filter:" + name + "]\nuse = " + next + "\nfilter-with = " + next + "\n"
	}
	twins += "[pipeline:a]\npipeline = sl s0\n"
	done := make(chan error, 4)
	for _, text := range []string{bomb, empty, twins, "[a]\nx = " + strings.Repeat("1", maxFile)} {
		path := write(t, text)
		go func() {
			_, err := Read(path, "a")
			if strings.Contains(text, "[app:") {
				_, err = App(path, "a")
			}
			done <- err
		}()
	}
	for range 4 {
		select {
		case err := <-done:
			if err == nil {
				t.Error("a hostile file was read")
			}
		case <-time.After(time.Minute):
			t.Fatal("reading a hostile file does not end")
		}
	}
}
