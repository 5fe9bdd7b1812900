// Package faults is a layer over an engine, for tests of what becomes of operations that fail, are done in part, are slow, or at which the
// process ends. It does no operation by itself.
package faults

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"

	"imping/io/batch"
)

// Hook has an operation done, or not, and gives its result: nil, or an error that the operation did not meet. It may wait, and end the
// process before or after. It is called by many goroutines at once.
type Hook func(op *batch.Op, do func() error) error

// Engine gives every operation of another engine to a hook.
type Engine struct {
	batch.Engine
	Hook Hook
}

// Do does the operations of each chain one after the other, and chain after chain, so that there is a point before and after each.
func (e *Engine) Do(ctx context.Context, ops []batch.Op) (first error) {
	chain := struct {
		fd  int
		err error
	}{fd: batch.Opened}
	for i := range ops {
		op := &ops[i]
		if i == 0 || !ops[i-1].Then {
			chain.fd, chain.err = batch.Opened, nil
		}
		if chain.err != nil {
			op.Err = batch.ErrCut
			continue
		}
		if op.File == batch.Opened && op.Name == "" || op.Kind == batch.SetXattr && op.File == batch.Opened {
			op.File = chain.fd
		}
		op.Err = e.Hook(op, func() error {
			one := []batch.Op{*op}
			one[0].Then = false
			err := e.Engine.Do(ctx, one)
			op.File, op.N = one[0].File, one[0].N
			return err
		})
		if op.Kind == batch.Open && op.Err == nil {
			chain.fd = op.File
		}
		if chain.err = op.Err; first == nil {
			first = op.Err
		}
	}
	return first
}

// Short is a hook that writes only n bytes of each Write, and says so.
func Short(n int) Hook {
	return func(op *batch.Op, do func() error) error {
		if op.Kind != batch.Write || len(op.Buf) <= n {
			return do()
		}
		whole := op.Buf
		op.Buf = whole[:n]
		err := do()
		op.Buf = whole
		if err == nil {
			err = io.ErrShortWrite
		}
		return err
	}
}

// Order sees to it that a file gets a name only when all that was done to it is on the disk, as a Sync behind it has said, and
// remembers which directories have names that are not.
type Order struct {
	mu      sync.Mutex
	open    map[int]*file    // by descriptor
	named   map[string]*file // temporary files and published ones
	unsaved []string         // directories
	wrong   []string
}

type file struct {
	dirty bool
	last  batch.Kind
}

// Hook is the layer's hook.
func (o *Order) Hook(op *batch.Op, do func() error) error {
	err := do()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.open == nil {
		o.open, o.named = map[int]*file{}, map[string]*file{}
	}
	if err != nil && err != io.ErrShortWrite {
		return err
	}
	f := o.open[op.File]
	switch op.Kind {
	case batch.Open:
		f = &file{dirty: true, last: batch.Open}
		o.open[op.File] = f
		o.named[op.Name] = f // of a temporary one it is the directory's, which does no harm
	case batch.Write, batch.SetXattr, batch.Allocate, batch.Truncate:
		f.dirty, f.last = true, op.Kind
	case batch.Sync:
		f.dirty = false
	case batch.Link:
		o.publish(op, f)
	case batch.Rename, batch.HardLink:
		o.publish(op, o.named[op.Name])
	case batch.SyncDir:
		o.unsaved = slices.DeleteFunc(o.unsaved, func(dir string) bool { return dir == op.Name })
	}
	return err
}

func (o *Order) publish(op *batch.Op, f *file) {
	if f == nil { // it was there before
		f = &file{}
	}
	if f.dirty {
		o.wrong = append(o.wrong, fmt.Sprintf("%v to %s of a file that was not synced after %v", op.Kind, op.To, f.last))
	}
	if op.Kind == batch.Rename { // what becomes of the old name is no matter
		if i := slices.Index(o.unsaved, filepath.Dir(op.Name)); i >= 0 {
			o.unsaved = slices.Delete(o.unsaved, i, i+1)
		}
		delete(o.named, op.Name)
	}
	o.named[op.To] = f
	o.unsaved = append(o.unsaved, filepath.Dir(op.To))
}

// Wrong is what got its name too early.
func (o *Order) Wrong() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wrong
}

// Unsaved is the directories in which names were given that are not on the disk.
func (o *Order) Unsaved() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.unsaved)
}
