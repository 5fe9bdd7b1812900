// Package batch does file system calls in batches: an Engine does lists of operations for many callers at once, by io_uring or by plain
// system calls, with the same results. It does not know what the files are, and tries nothing twice.
package batch

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is what an Op does.
type Kind uint8

const (
	Open      Kind = iota + 1 // opens Name with Flags and Mode; File is the descriptor afterwards, close-on-exec
	Allocate                  // makes room for Size bytes at Off, as Flags say (FALLOC_FL_*)
	Write                     // writes Buf at Off; if not all of it, N says how much and Err is io.ErrShortWrite
	Truncate                  // makes the file Size bytes long
	SetXattr                  // gives the attribute Name the value Buf
	Sync                      // puts bytes and attributes on the disk
	SyncData                  // puts bytes on the disk, and of the attributes what is needed to read them
	WriteOut                  // has the disk begin with what was written, and waits for nothing
	DropCache                 // asks the kernel to forget Size bytes at Off, once they are on the disk; 0 is all from Off on
	Close                     // closes File
	Link                      // gives File, opened with O_TMPFILE, the name To
	Rename                    // gives what has the name Name the name To, as Flags say (RENAME_*)
	HardLink                  // gives what has the name Name the name To, too
	Unlink                    // removes the name Name of a file
	Mkdir                     // makes a directory, with Mode
	Rmdir                     // removes an empty directory
	Stat                      // tells about Name in Stat; a symbolic link is not followed
	SyncDir                   // puts the names in the directory Name on the disk
)

var kinds = [...]string{Open: "open", Allocate: "allocate", Write: "write", Truncate: "truncate", SetXattr: "setxattr", Sync: "fsync",
	SyncData: "fdatasync", WriteOut: "write out", DropCache: "drop cache", Close: "close", Link: "link", Rename: "rename", HardLink: "hard link", Unlink: "unlink", Mkdir: "mkdir",
	Rmdir: "rmdir", Stat: "stat", SyncDir: "fsync dir"}

func (k Kind) String() string {
	if k == 0 || int(k) >= len(kinds) {
		return fmt.Sprintf("operation %d", uint8(k))
	}
	return kinds[k]
}

// nameSize is more than the longest name that the kernel takes.
const nameSize = unix.PathMax

// Opened, as the File of an Op, is what the Open at the head of its chain has opened.
const Opened = -1

// Op is one operation. Those joined by Then are a chain: each begins when the one before it has succeeded. Chains of one call are done
// in any order, side by side.
type Op struct {
	Kind  Kind
	Then  bool // the next Op of the list belongs to the chain
	File  int
	Name  string
	To    string
	Buf   []byte
	Off   int64
	Size  int64
	Flags int
	Mode  uint32
	Stat  *unix.Statx_t

	N   int   // bytes written
	Err error // a bare unix.Errno, io.ErrShortWrite, ErrCut or what ended the context; nil is success
}

// ErrCut is the error of an Op that was not done because an earlier one of its chain was not. A descriptor is still open after it, and no
// name has changed; what a chain does to one file (Allocate, Write, Truncate, SetXattr, Sync, SyncData, WriteOut, DropCache) may have been done for all that,
// since the kernel goes on behind some failures.
var ErrCut = errors.New("not done, as what comes before it was not")

// Engine does operations. It is safe for use by several goroutines.
type Engine interface {
	// Do does all chains of ops, and returns when each Op has its Err; its own error is the first of those, if any. Buffers and
	// ops must not be touched meanwhile. When ctx ends, what has begun is waited for and nothing more is begun. A list that makes
	// no sense is refused as a whole, before anything is done; one in which a file would get a name (Link, Rename, HardLink) in
	// the chain that fills it makes no sense: whether it is on the disk must have been seen before.
	Do(ctx context.Context, ops []Op) error

	// Name is "uring" or "plain".
	Name() string

	// Close waits for what has begun. What is asked for later is done by plain calls.
	Close()
}

// publishes tells that a file gets a name.
func (k Kind) publishes() bool { return k == Link || k == Rename || k == HardLink }

// fills tells that the kind works on one open file, which nobody sees yet if it is a temporary one.
func (k Kind) fills() bool {
	return k == Allocate || k == Write || k == Truncate || k == SetXattr || k == Sync || k == SyncData || k == WriteOut || k == DropCache
}

func (k Kind) usesFile() bool { return k.fills() || k == Close || k == Link }

// check refuses lists that make no sense.
func check(ops []Op) error {
	opened := false // the chain began with an Open
	for i := range ops {
		op := &ops[i]
		head := i == 0 || !ops[i-1].Then
		if head {
			opened = op.Kind == Open
		}
		var why string
		switch {
		case op.Kind == 0 || int(op.Kind) >= len(kinds):
			why = "is none"
		case op.Kind.publishes() && !head:
			why = "gives a name and is not the first of its chain"
		case op.Kind == Open && !head:
			why = "is not the first of its chain"
		case op.Kind.usesFile() && op.File < 0 && (op.File != Opened || !opened):
			why = fmt.Sprintf("has the descriptor %d", op.File)
		case op.Kind.usesFile() && op.Kind != SetXattr && op.Name != "", !op.Kind.usesFile() && op.Name == "", op.Kind == SetXattr && op.Name == "":
			why = fmt.Sprintf("has the name %q", op.Name)
		case op.Kind.publishes() != (op.To != ""):
			why = fmt.Sprintf("has the new name %q", op.To)
		case strings.IndexByte(op.Name, 0) >= 0 || strings.IndexByte(op.To, 0) >= 0:
			why = "has a name with a NUL"
		case op.Off < 0 || op.Size < 0:
			why = fmt.Sprintf("is of %d bytes at offset %d", op.Size, op.Off)
		case op.Kind == Stat && op.Stat == nil:
			why = "has nowhere to tell"
		case op.Then && i == len(ops)-1:
			why = "is the last and is not the end of its chain"
		}
		if len(op.Name) >= nameSize || len(op.To) >= nameSize {
			return fmt.Errorf("operation %d of %d (%v): %w", i+1, len(ops), op.Kind, unix.ENAMETOOLONG)
		}
		if why != "" {
			return fmt.Errorf("operation %d of %d (%v) %s", i+1, len(ops), op.Kind, why)
		}
	}
	return nil
}

// chainEnd is the index behind the chain that begins at from.
func chainEnd(ops []Op, from int) int {
	for i := from; ; i++ {
		if !ops[i].Then {
			return i + 1
		}
	}
}

// cut marks what was not done.
func cut(ops []Op, err error) {
	for i := range ops {
		ops[i].Err = err
		err = ErrCut
	}
}

// first is the first failure of a list.
func first(ops []Op) error {
	for i := range ops {
		if ops[i].Err != nil && ops[i].Err != ErrCut {
			return ops[i].Err
		}
	}
	return nil
}
