package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"imping/swift/conf"
)

// From linux/ioprio.h.
const (
	ioprioWhoProcess = 1 // one thread, in fact
	ioprioClassShift = 13
)

var ioClasses = map[string]int{
	"IOPRIO_CLASS_RT":   1,
	"IOPRIO_CLASS_BE":   2,
	"IOPRIO_CLASS_IDLE": 3,
}

// SetPriority sets nice_priority, ionice_class and ionice_priority where the conf has them,
// for every thread of the process and all that come after. What fails is logged, and
// printed as a warning, and changes nothing. Swift: common/utils.py, modify_priority.
func SetPriority(sec *conf.Section, log *Logger) {
	if sec.Has("nice_priority") {
		if nice, err := setNice(sec); err != nil {
			fmt.Println("WARNING: Unable to modify scheduling priority of process. Keeping unchanged! Check logs for more info. ")
			log.Errorf("Unable to modify nice priority: %v", err)
		} else {
			log.Debugf("set nice priority to %d", nice)
		}
	}
	if sec.Has("ionice_class") {
		if class, priority, err := setIOPriority(sec); err != nil {
			fmt.Println("WARNING: Unable to modify I/O scheduling class and priority of process. Keeping unchanged! Check logs for more info.")
			log.Errorf("Unable to modify ionice priority: %v", err)
		} else {
			log.Debugf("set ionice class %d priority %d", class, priority)
		}
	}
}

func setNice(sec *conf.Section) (nice int, err error) {
	if nice, err = sec.Int("nice_priority", 0); err != nil {
		return 0, err
	}
	return nice, eachThread(func(tid int) error {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil {
			return fmt.Errorf("setpriority %d of thread %d: %w", nice, tid, err)
		}
		return nil
	})
}

func setIOPriority(sec *conf.Section) (class, priority int, err error) {
	class, ok := ioClasses[sec.Get("ionice_class", "")]
	if !ok {
		return 0, 0, sec.Errorf("ionice_class", "IOPRIO_CLASS_RT, IOPRIO_CLASS_BE or IOPRIO_CLASS_IDLE")
	}
	if priority, err = sec.Int("ionice_priority", 0); err != nil {
		return 0, 0, err
	}
	value := class<<ioprioClassShift | priority
	return class, priority, eachThread(func(tid int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(value)); errno != 0 {
			return fmt.Errorf("ioprio_set class %d priority %d of thread %d: %w", class, priority, tid, errno)
		}
		return nil
	})
}

// eachThread calls do for every thread of the process, until no thread is left that was
// not there before: Linux keeps these priorities by thread, and a new thread has those of
// the one that made it. A thread that ended meanwhile is passed over.
func eachThread(do func(tid int) error) error {
	done := map[int]bool{}
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("cannot list the threads of this process: %w", err)
		}
		fresh := false
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil || done[tid] {
				continue
			}
			done[tid], fresh = true, true
			if err := do(tid); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
}
