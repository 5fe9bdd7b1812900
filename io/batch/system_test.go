package batch

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	forbiddenEnv = "IMPING_TEST_NO_URING" // the process forbids itself io_uring
	smallEnv     = "IMPING_TEST_SMALL"    // TMPDIR is a file system of 1 MiB
	aloneEnv     = "IMPING_TEST_ALONE"    // the kernel may make no thread for this user
)

func TestMain(m *testing.M) {
	if os.Getenv(forbiddenEnv) != "" {
		if err := forbidRings(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// forbidRings installs a seccomp filter that answers io_uring_setup as containers' do.
func forbidRings() error {
	const setup = unix.SYS_IO_URING_SETUP
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: setup, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	const setModeFilter, allThreads = 1, 1
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

func TestChoice(t *testing.T) {
	if _, err := New("fast", t.Logf); err == nil || !strings.Contains(err.Error(), `"fast" is no io_engine`) {
		t.Errorf("a wrong choice: %v", err)
	}
	for _, choice := range []string{"", Auto, PlainOnly, URing} {
		e, err := New(choice, t.Logf)
		must(t, err)
		want := "plain"
		if choice == URing && os.Getenv(forbiddenEnv) == "" {
			want = "uring"
		}
		a, b := e.For("sda"), e.For("sdb")
		if a.Name() != want || b.Name() != want || e.For("sda") != a || want == "uring" && a == b {
			t.Errorf("%q: %s, and not %s, or not one a device", choice, a.Name(), want)
		}
		e.Close()
	}
}

// The refusal is told once, and plain calls are made.
func TestARefusalIsToldOnce(t *testing.T) {
	if os.Getenv(forbiddenEnv) == "" {
		t.SkipNow() // TestOnEveryFileSystem sets it
	}
	var told []string
	e, err := New(URing, func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) })
	must(t, err)
	for _, dev := range []string{"sda", "sdb", "sda"} {
		if e.For(dev) != Plain() {
			t.Error("the engine is not the plain one")
		}
	}
	if want := "io_uring is not to be had, plain system calls are made: io_uring_setup: operation not permitted"; len(told) != 1 || told[0] != want {
		t.Errorf("told: %q", told)
	}
	e.Close()
}

// The contract holds on the file systems that Swift is used on, for root and for a user who may lock 8 MiB, and without io_uring.
func TestOnEveryFileSystem(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it mounts file systems")
	}
	for _, fs := range []struct {
		name, env string
		mount     func(t *testing.T, dir string)
	}{
		{"tmpfs", "", tmpfs("64m")},
		{"tmpfs, small", smallEnv + "=1", tmpfs("1m")},
		{"ext4", "", image("mkfs.ext4", "-q", "-F")},
		{"xfs", "", image("mkfs.xfs", "-q")},
	} {
		t.Run(fs.name, func(t *testing.T) {
			dir := t.TempDir()
			fs.mount(t, dir)
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			must(t, os.Chmod(dir, 0o777))
			must(t, os.Chmod(filepath.Dir(dir), 0o755)) // for the user
			run := "^Test(A|Chains|Nonsense|Nothing|Many|Choice)"
			if fs.env != "" {
				run = "^TestAShortWrite"
			}
			again(t, dir, run, nil, fs.env)
			if fs.name == "ext4" {
				again(t, dir, run, &syscall.Credential{Uid: 65534, Gid: 65534}, "")
				again(t, dir, "^TestWhatTheKernelHasNoThreadFor", &syscall.Credential{Uid: 65534, Gid: 65534}, aloneEnv+"=1")
				again(t, dir, run, nil, forbiddenEnv+"=1")
			}
		})
	}
}

// again runs tests of this program in a process of its own.
func again(t *testing.T, dir, run string, user *syscall.Credential, env string) {
	t.Helper()
	self := filepath.Join(dir, "test")
	if os.Getenv(smallEnv) == "" && !strings.HasPrefix(env, smallEnv) {
		copyFile(t, self) // where a user may read it
	} else {
		self = os.Args[0]
	}
	cmd := exec.Command("prlimit", "--memlock=8388608:8388608", self, "-test.run", run, "-test.count=1")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as %v, %s: %v\n%s", user, env, err, out)
	}
}

func copyFile(t *testing.T, to string) {
	t.Helper()
	from, err := os.Open("/proc/self/exe")
	must(t, err)
	defer from.Close()
	_ = os.Remove(to)
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(f, from)
	must(t, err)
	must(t, f.Close())
}

func tmpfs(size string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size))
	}
}

// image mounts a new file system that lies in a file.
func image(mkfs string, args ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if _, err := exec.LookPath(mkfs); err != nil {
			t.Fatalf("%v: make deps installs it", err)
		}
		path := filepath.Join(t.TempDir(), "image")
		f, err := os.Create(path)
		must(t, err)
		must(t, f.Truncate(512<<20))
		must(t, f.Close())
		for _, argv := range [][]string{append(append([]string{mkfs}, args...), path), {"mount", "-o", "loop", path, dir}} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%q: %v\n%s", argv, err, out)
			}
		}
	}
}

// The kernel cancels what it can make no worker for: nothing was done, and that is no success.
func TestWhatTheKernelHasNoThreadFor(t *testing.T) {
	if os.Getenv(aloneEnv) == "" {
		t.SkipNow() // TestOnEveryFileSystem sets it
	}
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	must(t, err)
	defer unix.Close(fd)
	u := ringOf(t, false)
	defer u.Close()
	var before unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NPROC, &before))
	must(t, unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1, Max: before.Max}))
	defer unix.Setrlimit(unix.RLIMIT_NPROC, &before)
	for _, ops := range [][]Op{
		{{Kind: Open, Then: true, Name: dir, Flags: unix.O_TMPFILE | unix.O_WRONLY, Mode: 0o600}, {Kind: Sync, File: Opened}},
		{{Kind: Mkdir, Then: true, Name: dir + "/made", Mode: 0o755}, {Kind: SyncDir, Name: dir}},
		{{Kind: Sync, Then: true, File: fd}, {Kind: DropCache, File: fd}},
		{{Kind: SyncDir, Then: true, Name: dir}, {Kind: SyncDir, Name: dir}},
	} {
		if err := u.Do(t.Context(), ops); err != unix.ECANCELED || ops[0].Err != unix.ECANCELED || ops[1].Err != ErrCut {
			t.Errorf("%v: %v, of %v and %v", ops[0].Kind, err, ops[0].Err, ops[1].Err)
		}
	}
	if _, err := os.Stat(dir + "/made"); err == nil {
		t.Error("what was told to have failed was done")
	}
}
