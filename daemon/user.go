package daemon

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// DefaultUser is whom a daemon becomes when its conf does not say. Swift:
// common/daemon.py, DaemonStrategy.setup.
const DefaultUser = "swift"

// DropPrivileges makes the whole process, all its threads, that user's: groups (root
// only), group, user, and HOME. A user that does not exist is an error, and so is a user
// that a process without root's rights can not become; being that user already is none.
// After an error the process may be half way and should end. Swift: common/utils.py,
// drop_privileges.
func DropPrivileges(name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("cannot become user %q: %w", name, err)
	}
	uid, gid, err := ids(u)
	if err != nil {
		return fmt.Errorf("cannot become user %q: %w", name, err)
	}
	if os.Geteuid() == 0 {
		groups, err := memberships(u, gid)
		if err != nil {
			return fmt.Errorf("cannot find the groups of user %q: %w", name, err)
		}
		if err := syscall.Setgroups(groups); err != nil {
			return fmt.Errorf("cannot become user %q: setgroups %v: %w", name, groups, err)
		}
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("cannot become user %q: setgid %d as user %d: %w", name, gid, os.Geteuid(), err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("cannot become user %q: setuid %d as user %d: %w", name, uid, os.Geteuid(), err)
	}
	if err := os.Setenv("HOME", u.HomeDir); err != nil {
		return fmt.Errorf("cannot become user %q: %w", name, err)
	}
	return nil
}

func ids(u *user.User) (uid, gid int, err error) {
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// memberships are the groups that name the user as a member; his own group is set apart.
func memberships(u *user.User, own int) ([]int, error) {
	names, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []int
	for _, name := range names {
		gid, err := strconv.Atoi(name)
		if err != nil {
			return nil, err
		}
		if gid != own {
			groups = append(groups, gid)
		}
	}
	return groups, nil
}
