// Package recon is the recon cache: the small JSON files in which Swift's daemons leave
// figures for the recon middleware. It does not know what the figures mean.
package recon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ObjectFile is where the object daemons write; DefaultPath is the folder where the conf
// does not name one. Swift: common/recon.py.
const (
	ObjectFile  = "object.recon"
	DefaultPath = "/var/cache/swift"
)

// Entry is a cache: JSON values by key. Numbers are json.Number when read.
type Entry map[string]any

// maxSize bounds a cache file: real ones are a few KiB.
const maxSize = 16 << 20

// Load reads a cache file. One that is missing or holds no JSON object is empty, as for
// Swift (common/utils.py, load_recon_cache).
func Load(path string) (Entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Entry{}, nil
	} else if err != nil {
		return nil, fmt.Errorf("cannot read the recon cache: %w", err)
	}
	defer f.Close()
	return read(f, path)
}

func read(f *os.File, path string) (Entry, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the recon cache %s: %w", path, err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("cannot read the recon cache %s: longer than %d bytes", path, maxSize)
	}
	var e Entry
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if dec.Decode(&e) != nil || e == nil {
		return Entry{}, nil // made anew
	}
	return e, nil
}

// put merges one value: an empty object deletes the key, and inside an object an empty
// object deletes that key (Swift: common/utils.py, put_recon_cache_entry).
func (e Entry) put(key string, value any) {
	item, ok := value.(map[string]any)
	if !ok {
		e[key] = value
		return
	}
	if len(item) == 0 {
		delete(e, key)
		return
	}
	old, ok := e[key].(map[string]any)
	if !ok {
		old = make(map[string]any)
		e[key] = old
	}
	for k, v := range item {
		if inner, ok := v.(map[string]any); ok && len(inner) == 0 {
			delete(old, k)
		} else {
			old[k] = v
		}
	}
}

// Merge puts the update into the cache file under its lock, and renames the new file into
// place. ctx bounds the wait for the lock (Swift waits 2 s: common/utils.py,
// dump_recon_cache).
func Merge(ctx context.Context, path string, update Entry) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot update the recon cache %s: %w", path, err)
		}
	}()
	f, err := lock(ctx, path)
	if err != nil {
		return err
	}
	defer f.Close()
	e, err := read(f, path)
	if err != nil {
		return err
	}
	for k, v := range update {
		e.put(k, v)
	}
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return Replace(path, append(data, '\n'))
}

// Replace writes a file beside path and renames it into place. A reader sees the old file
// or the new one. What is lost with the machine is only figures: nothing is synced.
func Replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(0o600) // as Swift's NamedTemporaryFile
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}

// lock opens and locks the file that path names, also when others replace it meanwhile.
func lock(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o777)
		if err != nil {
			return nil, err
		}
		for {
			if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil || !errors.Is(err, unix.EAGAIN) {
				break
			}
			select {
			case <-ctx.Done():
				f.Close()
				return nil, fmt.Errorf("its lock is held: %w", context.Cause(ctx))
			case <-time.After(10 * time.Millisecond):
			}
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, err
		}
		named, err := os.Stat(path)
		if err == nil && os.SameFile(held, named) {
			return f, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}
