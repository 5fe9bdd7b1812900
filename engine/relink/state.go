package relink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// state is how far the relinking of a data directory is: DEVICE/relink.DATADIR.json, which Swift's program writes and reads,
// too. Swift: cli/relinker.py, hook_pre_device and partitions_filter.
type state struct {
	PartPower     int             `json:"part_power"`
	NextPartPower int             `json:"next_part_power"`
	PrevPartPower *int            `json:"prev_part_power,omitempty"` // that of the step before
	Done          map[string]bool `json:"state"`                     // by partition

	device *os.Root // nil in a dry run
	file   string   // below it
	tmp    string
	saved  time.Time
	dirty  bool // the file lacks something
	done   int  // of Done
}

// maxState bounds what is read: some ten million partitions.
const maxState = 1 << 28

func newState(power, next int) *state {
	return &state{PartPower: power, NextPartPower: next, Done: map[string]bool{}}
}

// openState reads the state of a data directory. One of other powers, or that can not be understood, is removed; of a step before the
// power is kept. The device is asked for as it was opened: one that is unmounted later has its state on itself, not on the disk below.
func openState(device *os.Root, dataDir string, power, next int) (*state, error) {
	s := newState(power, next)
	s.device, s.file, s.tmp = device, "relink."+dataDir+".json", ".relink."+dataDir+".json.tmp"
	info, err := device.Stat(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxState) {
		err = fmt.Errorf("%s is %v of %d bytes", s.file, info.Mode(), info.Size())
	}
	var data []byte
	if err == nil {
		data, err = device.ReadFile(s.file)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read how far it is: %w", err)
	}
	if s.take(data) {
		return s, nil
	}
	s.Done = map[string]bool{}
	if err := device.Remove(s.file); err != nil {
		return nil, fmt.Errorf("cannot begin anew: %w", err)
	}
	return s, nil
}

// take takes over what was written of the same powers. Otherwise it has remembered the power of the step before, if it was one that
// led here.
func (s *state) take(data []byte) bool {
	var old struct {
		PartPower     *float64       `json:"part_power"`
		NextPartPower *float64       `json:"next_part_power"`
		PrevPartPower *float64       `json:"prev_part_power"`
		State         map[string]any `json:"state"`
	}
	if json.Unmarshal(data, &old) != nil || old.PartPower == nil || old.NextPartPower == nil {
		return false
	}
	if *old.NextPartPower != float64(s.NextPartPower) {
		return false
	}
	if *old.PartPower != float64(s.PartPower) {
		s.PrevPartPower = s.before(*old.PartPower)
		return false
	}
	if old.State == nil {
		return false
	}
	for part, done := range old.State {
		if n, err := strconv.Atoi(part); err != nil || n < 0 || strconv.Itoa(n) != part {
			return false
		}
		yes, isBool := done.(bool)
		number, _ := done.(float64)
		s.Done[part] = yes || !isBool && number != 0
	}
	if old.PrevPartPower != nil {
		// Swift forgets it here, and then visits the upper half, too.
		s.PrevPartPower = s.before(*old.PrevPartPower)
	}
	return true
}

// before is a partition power that the present one can come from; of any other nothing is to be thought.
func (s *state) before(power float64) *int {
	prev := int(max(min(power, 32), 0))
	if float64(prev) != power || prev > s.PartPower {
		return nil
	}
	return &prev
}

// partitions takes note of those that there are, and returns those that are to be done, descending: what is relinked to a
// higher one is so not met again there.
func (s *state) partitions(there []int) (todo []int) {
	relinking := s.PartPower != s.NextPartPower
	limit := -1 // partitions from here on are new ones
	switch {
	case relinking:
		limit = 1 << s.PartPower
	case s.PrevPartPower != nil:
		limit = 1 << *s.PrevPartPower
	}
	fresh := len(s.Done) == 0
	for _, part := range there {
		if limit >= 0 && part >= limit {
			continue
		}
		name := strconv.Itoa(part)
		if _, known := s.Done[name]; !known {
			// One that has come after the first run with these powers was written by servers that make both links, so that there
			// is nothing to relink; cleanup looks at it.
			s.Done[name] = !fresh && relinking
		}
	}
	s.done = 0
	for _, done := range s.Done {
		if done {
			s.done++
		}
	}
	for name, done := range s.Done {
		if n, err := strconv.Atoi(name); err == nil && !done {
			todo = append(todo, n)
		}
	}
	slices.Sort(todo)
	slices.Reverse(todo)
	return slices.Compact(todo)
}

// saveEvery bounds how often the file is written: it is as long as there are partitions, and each time the disk is waited for. What
// is lost in a crash is done again, which changes nothing.
const saveEvery = time.Second

// finish notes that a partition is done.
func (s *state) finish(part int) error {
	if name := strconv.Itoa(part); !s.Done[name] {
		s.Done[name] = true
		s.done++
	}
	s.dirty = s.device != nil
	if !s.dirty || time.Since(s.saved) < saveEvery {
		return nil
	}
	return s.save()
}

// save writes the file if it lacks something, and puts it on the disk.
func (s *state) save() error {
	if !s.dirty {
		return nil
	}
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := s.device.OpenFile(s.tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	if err == nil {
		_, err = f.Write(data)
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		err = s.device.Rename(s.tmp, s.file)
	}
	if err != nil {
		return fmt.Errorf("cannot note how far it is: %w", err)
	}
	s.dirty, s.saved = false, time.Now()
	return nil
}

// lockPoll is the pause between two tries for a device's lock.
const lockPoll = 100 * time.Millisecond

// lockDevice waits until no other relinker is at the data directory; waiting is called, once, if there is one. Swift: cli/relinker.py,
// hook_pre_device.
func lockDevice(ctx context.Context, device *os.Root, dataDir string, waiting func(file string)) (*os.File, error) {
	f, err := device.OpenFile(".relink."+dataDir+".lock", os.O_WRONLY|os.O_CREATE, 0o777)
	if err != nil {
		return nil, fmt.Errorf("cannot open the relinker's lock: %w", err)
	}
	for {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
		case nil:
			return f, nil
		case syscall.EWOULDBLOCK, syscall.EINTR:
		default:
			f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", f.Name(), err)
		}
		if waiting != nil {
			waiting(f.Name())
			waiting = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}
