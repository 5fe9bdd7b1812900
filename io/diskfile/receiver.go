package diskfile

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"imping/swift/timestamp"
)

// LockReplication takes what a session of SSYNC holds on the receiving side: the lock
// .lock-replication of the partition, then, unless perDevice is 0, any one of so many lock files of
// the device; timeout is for both. Errors are those of LockPartition.
// Swift: BaseDiskFileManager.replication_lock.
func (m *Manager) LockReplication(ctx context.Context, dev string, part int, timeout time.Duration, perDevice int) (release func(), err error) {
	start := time.Now()
	partition, err := m.LockPartition(ctx, dev, part, "replication", timeout)
	if err != nil {
		return nil, err
	}
	if perDevice <= 0 {
		return partition.Unlock, nil
	}
	device, err := m.lockAny(ctx, dev, perDevice, timeout-time.Since(start))
	if err != nil {
		partition.Unlock()
		return nil, err
	}
	return func() { device.Unlock(); partition.Unlock() }, nil
}

// lockAny takes one of the device's locks .lock, .lock-1, ... Swift: common/utils, lock_path.
func (m *Manager) lockAny(ctx context.Context, dev string, limit int, timeout time.Duration) (*Lock, error) {
	m.watch.Begin()
	defer m.watch.End()
	dir, err := m.DevicePath(dev)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	for {
		for i := range limit {
			name := ""
			if i > 0 {
				name = strconv.Itoa(i)
			}
			l, err := m.lockDir(ctx, "", dir, name, 0)
			if err == nil {
				return l, nil
			}
			if busy := (*LockTimeoutError)(nil); !errors.As(err, &busy) {
				return nil, err
			}
		}
		waited := time.Since(start)
		if waited >= timeout {
			return nil, &LockTimeoutError{filepath.Join(dir, ".lock"), max(timeout, 0)}
		}
		pause := lockPoll
		if waited > timeout/100 {
			pause = max(timeout/100, lockPoll)
		}
		if err := sleep(ctx, min(pause, timeout-waited)); err != nil {
			return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
		}
	}
}

// Held is what a receiver of SSYNC has of an object. Times that are zero are none.
type Held struct {
	Data, Meta, ContentType timestamp.Timestamp // of the object that can be opened; a tombstone has Data only
	Durable                 timestamp.Timestamp // of the newest durable fragments
	sets                    []FragmentSet
}

// HasFragment tells a fragment, durable or not, that is not older than the newest durable ones.
func (h *Held) HasFragment(at timestamp.Timestamp, index int) bool {
	return slices.ContainsFunc(h.sets, func(s FragmentSet) bool { return s.Timestamp == at && slices.Contains(s.Indexes, index) })
}

// Held looks at an object by its hash, cleaning up as Open does; what is damaged is
// quarantined, and not held. Errors: *NotMountedError, those of the file system.
// Swift: ssync_receiver.py, Receiver._check_local.
func (m *Manager) Held(dev string, part int, hash string, fragIndex int) (*Held, error) {
	o, names, err := m.openHash(dev, part, hash, fragIndex, false)
	h := &Held{}
	deleted, corrupt := (*DeletedError)(nil), (*CorruptError)(nil)
	switch {
	case err == nil:
		defer o.Close()
		h.Data, h.Meta, h.ContentType = o.Data, o.Newest(), o.Data
		if !o.ContentType.IsZero() {
			h.ContentType = o.ContentType
		}
	case errors.As(err, &deleted):
		h.Data = deleted.Timestamp
	case errors.As(err, &corrupt):
		if corrupt.Quarantine {
			device, err := m.DevicePath(dev)
			if err != nil {
				return nil, err
			}
			err = m.condemn(device, corrupt.Path, corrupt.Reason)
			if moved := (*QuarantinedError)(nil); !errors.As(err, &moved) {
				return nil, err
			}
		}
		return h, nil
	case errors.Is(err, ErrNotExist):
	default:
		return nil, err
	}
	if m.replicated() {
		return h, nil
	}
	c := m.choose(m.hashPath(dev, part, hash), names, query{limit: m.policy.UniqueFragments(), index: max(fragIndex, -1)})
	if c.durable != nil {
		h.Durable = c.durable[0].time
	}
	h.sets = c.fragmentSets()
	return h, nil
}

// MakeHashDurable is MakeDurable for who knows an object's hash only.
func (m *Manager) MakeHashDurable(dev string, part int, hash string, fragIndex int, at timestamp.Timestamp) error {
	device, err := m.DevicePath(dev)
	if err != nil {
		return err
	}
	if _, err := parseHash(hash); err != nil {
		return fmt.Errorf("cannot make a fragment durable: %w", err)
	}
	if m.replicated() || fragIndex < 0 || fragIndex >= m.policy.UniqueFragments() {
		return fmt.Errorf("cannot make a fragment durable: %d is no fragment index", fragIndex)
	}
	l := &location{Place: Place{Device: dev, Partition: part, FragIndex: fragIndex}, device: device, hash: hash, dir: m.hashPath(dev, part, hash)}
	return m.makeDurable(l, at, fragIndex)
}
