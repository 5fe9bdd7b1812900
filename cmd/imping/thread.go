package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// setThread makes the calling thread alone use files as that user. Go's own calls would do so
// for all threads.
func setThread(uid, gid int, groups []uint32) bool {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); errno != 0 {
		return false
	}
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
	now, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0) // changes nothing, and tells whose it is
	return int(now) == uid
}
