package daemon

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"imping/swift/conf"
)

// SetUp makes of this process what Swift makes of a daemon before its first pass: limits
// are raised, nice_priority and ionice_class set, the process becomes user (default
// DefaultUser) and leaves its terminal. It is to be called early, while there are few
// threads. Only the user can fail; what else fails is logged. A program that stays in the
// foreground calls the parts instead, without Detach. Swift: common/daemon.py, run_daemon
// and DaemonStrategy.setup.
func SetUp(sec *conf.Section, log *Logger) error {
	RaiseLimits()
	SetPriority(sec, log)
	if err := DropPrivileges(sec.Get("user", DefaultUser)); err != nil {
		return fmt.Errorf("%s [%s] user: %w", sec.Path, sec.Name, err)
	}
	return Detach()
}

// Detach makes the process the leader of a session unless it leads a group already, goes
// to the root of the file system, and lets new files be readable by all and writable by
// the user only. Swift: common/utils.py, clean_up_daemon_hygiene.
func Detach() error {
	_, _ = syscall.Setsid() // fails in the leader of a group, as it does in Swift
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("cannot leave the folder that the daemon was started in: %w", err)
	}
	syscall.Umask(0o022)
	return nil
}

// DetachOutput points standard input, output and error to /dev/null, but for the files in
// keep: a daemon with a console log keeps os.Stderr. swift-init reads the output of what it
// starts until that closes it. Swift: common/utils.py, capture_stdio.
func DetachOutput(keep ...*os.File) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot close the output: %w", err)
	}
	defer null.Close()
	kept := map[uintptr]bool{}
	for _, file := range keep {
		kept[file.Fd()] = true
	}
	for fd := range 3 {
		if kept[uintptr(fd)] {
			continue
		}
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return fmt.Errorf("cannot close file descriptor %d: %w", fd, err)
		}
	}
	return nil
}
