package relink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rule 39: what an operator has linked by hand is not taken for a second name: whichever of the two places is a symbolic link to the other, or
// holds one, cleanup removes nothing.
func TestAnAliasIsNoSecondName(t *testing.T) {
	s := newStock(t)
	for what, arrange := range map[string]func(h *site, old, new string) (file string, err error){
		"the new object directory": func(h *site, old, new string) (string, error) {
			h.put(t, old, "data")
			return old, errors.Join(os.MkdirAll(filepath.Dir(filepath.Dir(new)), 0o755), os.Symlink(filepath.Dir(old), filepath.Dir(new)))
		},
		"the old object directory": func(h *site, old, new string) (string, error) {
			h.put(t, new, "data")
			return new, errors.Join(os.MkdirAll(filepath.Dir(filepath.Dir(old)), 0o755), os.Symlink(filepath.Dir(new), filepath.Dir(old)))
		},
		"the new suffix": func(h *site, old, new string) (string, error) {
			h.put(t, old, "data")
			up := func(path string) string { return filepath.Dir(filepath.Dir(path)) }
			return old, errors.Join(os.MkdirAll(filepath.Dir(up(new)), 0o755), os.Symlink(up(old), up(new)))
		},
		"the new partition": func(h *site, old, new string) (string, error) {
			h.put(t, old, "data")
			return old, os.Symlink("3", filepath.Join(h.devices, "sda", "objects", "7"))
		},
		"the new file": func(h *site, old, new string) (string, error) {
			h.put(t, old, "data")
			return old, errors.Join(os.MkdirAll(filepath.Dir(new), 0o755), os.Symlink(old, new))
		},
	} {
		h := newSite(t, s)
		old, new := h.path("sda", "objects", 3, low, now+".data"), h.path("sda", "objects", 7, low, now+".data")
		file, err := arrange(h, old, new)
		check(t, err)
		h.step(t, "relink")
		h.run(t, "relink")
		h.step(t, "cleanup")
		status, book := h.run(t, "cleanup")
		if content(file) != "data" || content(new) != "data" || status != Failed {
			t.Errorf("%s: status %d, %s, %s:\n%s", what, status, content(file), content(new), book)
		}
	}
}

// rule 39: states with powers that no ring has neither hide partitions nor end the program.
func TestStatesOfOddPowersHideNothing(t *testing.T) {
	for _, power := range []string{"-1", "1e300", "64", "2.5", "8"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "relink.objects.json")
		for _, text := range []string{
			fmt.Sprintf(`{"part_power": %s, "next_part_power": 7, "state": {"1": true}}`, power),
			fmt.Sprintf(`{"part_power": 7, "next_part_power": 7, "prev_part_power": %s, "state": {"1": true}}`, power),
		} {
			check(t, os.WriteFile(path, []byte(text), 0o644))
			s := openedState(t, dir, 7, 7)
			if todo := s.partitions([]int{1, 3, 40, 100}); !cmp.Equal(todo, []int{100, 40, 3}) && !cmp.Equal(todo, []int{100, 40, 3, 1}) {
				t.Errorf("%s: %v are to be done", text, todo)
			}
		}
	}
	// A partition has one name.
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "relink.objects.json"), []byte(`{"part_power": 6, "next_part_power": 7, "state": {"007": false, "3": true}}`), 0o644))
	s := openedState(t, dir, 6, 7)
	if todo := s.partitions([]int{3, 7}); !cmp.Equal(todo, []int{7, 3}) {
		t.Errorf("%v are to be done", todo)
	}
}

// A pipe in the state's place would be waited for, until somebody writes.
func TestAStateIsAFile(t *testing.T) {
	dir := t.TempDir()
	check(t, syscall.Mkfifo(filepath.Join(dir, "relink.objects.json"), 0o644))
	ended := make(chan error, 1)
	go func() { _, err := openStateIn(dir, 6, 7); ended <- err }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a pipe was read")
		}
	case <-time.After(10 * time.Second):
		t.Error("hangs")
		w, err := os.OpenFile(filepath.Join(dir, "relink.objects.json"), os.O_WRONLY, 0)
		check(t, err)
		w.Close()
		<-ended
	}
}

// rule 39: below the mount point of a device that is gone nothing is written: it would fill the disk of the system, and look like objects.
func TestADeviceThatVanishesIsLeftAlone(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	point := filepath.Join(h.devices, "sda")
	check(t, os.Mkdir(point, 0o755))
	check(t, syscall.Mount("none", point, "tmpfs", 0, ""))
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			check(t, syscall.Unmount(point, syscall.MNT_DETACH))
		}
	}
	t.Cleanup(unmount)
	for i := range 64 {
		hash := fmt.Sprintf("%02x", i<<2|2) + strings.Repeat("0", 27) + "abc"
		h.put(t, h.path("sda", "objects", i, hash, now+".data"), "data")
	}
	h.step(t, "relink")
	book := &logBook{limit: 6}
	book.reached = unmount
	c, err := h.config("relink", book)
	check(t, err)
	c.MountCheck, c.Names = true, []string{"sda"}
	r, err := New(*c)
	check(t, err)
	status, err := r.Run(context.Background())
	check(t, err)
	if mounted || status != Failed || !book.has("warn Skipping sda as it is not mounted") {
		t.Errorf("status %d:\n%s", status, book)
	}
	if left, err := os.ReadDir(point); err != nil || len(left) > 0 {
		t.Errorf("%v is there now, %v\n%s", left, err, book)
	}
}

// rule 39: a fragment that becomes durable while cleanup is at its object has its old name removed, too, or its partition is not done.
func TestWhatComesToAnOldPlaceIsSeen(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	another := "0e000000000000000000000000001abc"
	file := func(part int, hash, name string) string { return h.path("sda", "objects-1", part, hash, now+name) }
	for _, hash := range []string{low, another} {
		h.put(t, file(3, hash, "#2.data"), "data")
	}
	h.step(t, "relink")
	h.run(t, "relink")
	h.step(t, "cleanup")
	commit := func(hash string) {
		for _, part := range []int{3, 7} {
			check(t, os.Rename(file(part, hash, "#2.data"), file(part, hash, "#2#d.data")))
		}
	}
	// When the first is removed, the second has been looked at.
	book := &logBook{}
	once := false
	book.heard = func(line string) {
		if strings.HasPrefix(line, "debug Removed ") && !once {
			once = true
			if strings.Contains(line, low) {
				commit(another)
			} else {
				commit(low)
			}
		}
	}
	c, err := h.config("cleanup", book)
	check(t, err)
	r, err := New(*c)
	check(t, err)
	status, err := r.Run(context.Background())
	check(t, err)
	if !once || status != Success {
		t.Errorf("status %d:\n%s", status, book)
	}
	if left, err := filepath.Glob(filepath.Join(h.devices, "sda", "objects-1", "3", "*", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("%v stay, and the state is %s", left, content(filepath.Join(h.devices, "sda", "relink.objects-1.json")))
	}
}

// A disk without room makes errors, and loses nothing; with room the next run ends well.
func TestAFullDiskLosesNothing(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	point := filepath.Join(h.devices, "sda")
	check(t, os.Mkdir(point, 0o755))
	check(t, syscall.Mount("none", point, "tmpfs", 0, "nr_inodes=400"))
	t.Cleanup(func() { check(t, syscall.Unmount(point, syscall.MNT_DETACH)) })
	var olds, news []string
	for i := range 64 {
		hash := fmt.Sprintf("%02x", i<<2|2) + strings.Repeat("0", 27) + "abc"
		olds = append(olds, h.path("sda", "objects", i, hash, now+".data"))
		news = append(news, h.path("sda", "objects", 2*i+1, hash, now+".data"))
		h.put(t, olds[i], "data")
	}
	h.step(t, "relink")
	status, book := h.run(t, "relink")
	if status != Failed || !strings.Contains(book.String(), "[Errno 28] No space left on device") {
		t.Errorf("status %d:\n%s", status, book)
	}
	h.step(t, "cleanup") // the operator did not look
	status, book = h.run(t, "cleanup")
	lost := func() (n int) {
		for i := range olds {
			if content(olds[i]) != "data" && content(news[i]) != "data" {
				n++
			}
		}
		return n
	}
	if n := lost(); status != Failed || n > 0 {
		t.Errorf("status %d, %d files are lost:\n%s", status, n, book)
	}
	check(t, syscall.Mount("none", point, "tmpfs", syscall.MS_REMOUNT, "nr_inodes=4000"))
	status, book = h.run(t, "cleanup")
	for i := range news {
		if status != Success || content(news[i]) != "data" || content(olds[i]) == "data" {
			t.Fatalf("status %d, %s, %s:\n%s", status, content(olds[i]), content(news[i]), book)
		}
	}
}

// A new place on another file system takes no links: that is an error, and what is there stays.
func TestLinksAcrossFileSystemsAreErrors(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	old := h.path("sda", "objects", 3, low, now+".data")
	h.put(t, old, "data")
	point := filepath.Join(h.devices, "sda", "objects", "7")
	check(t, os.Mkdir(point, 0o755))
	check(t, syscall.Mount("none", point, "tmpfs", 0, ""))
	t.Cleanup(func() { check(t, syscall.Unmount(point, syscall.MNT_DETACH)) })
	for _, step := range []string{"relink", "cleanup"} {
		h.step(t, step)
		if status, book := h.run(t, step); status != Failed || content(old) != "data" || !strings.Contains(book.String(), "[Errno 18] Invalid cross-device link") {
			t.Errorf("%s: status %d, %s\n%s", step, status, content(old), book)
		}
	}
}

// With clobbering a dry run tells what would be clobbered, and that it is no error.
func TestADryRunTellsWhatIsClobbered(t *testing.T) {
	s := newStock(t)
	h := newSite(t, s)
	h.put(t, h.path("sda", "objects", 3, low, now+".data"), "one")
	h.put(t, h.path("sda", "objects", 7, low, now+".data"), "another")
	for action, want := range map[string]string{"relink": "links 1, removals 0, collisions 1, errors 0", "cleanup": "links 0, removals 1, collisions 1, errors 0"} {
		h.step(t, action)
		c, err := h.config(action, &logBook{})
		check(t, err)
		c.DryRun, c.Clobber = true, true
		r, err := New(*c)
		check(t, err)
		status, err := r.Run(context.Background())
		check(t, err)
		p := r.Plans()[0]
		if got := fmt.Sprintf("links %d, removals %d, collisions %d, errors %d", p.Linked, p.Removed, p.Collisions, p.Errors); got != want || status != Success {
			t.Errorf("%s: %s, status %d", action, got, status)
		}
	}
}

func openStateIn(dir string, power, next int) (*state, error) {
	device, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return openState(device, "objects", power, next)
}

func openedState(t *testing.T, dir string, power, next int) *state {
	t.Helper()
	s, err := openStateIn(dir, power, next)
	check(t, err)
	return s
}
