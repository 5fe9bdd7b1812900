package relink

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"imping/io/diskfile"
	"imping/swift/policy"
	"imping/swift/ring"
)

// device is one policy's data directory on one device.
type device struct {
	*worker
	name   string
	policy *policy.Policy
	ring   *ring.Ring
	m      *diskfile.Manager

	disks []*diskfile.Relinker // each is at one partition at a time
	lock  sync.Mutex           // what follows, and data
	state *state
	todo  []int // partitions, in their order
	gone  bool  // mounted no more

	hashing [64]sync.Mutex // by partition
	hashed  sync.Map       // partition -> number of its suffixes, when it was hashed
}

func (d *device) data() *policyData { return d.recon.policy(d.name, d.policy.Index) }

// run does what is left to do. Its error has not been logged or counted. Swift: common/utils.py, audit_location_generator; the hooks
// of cli/relinker.py.
func (d *device) run(ctx context.Context) (err error) {
	path, err := d.m.DevicePath(d.name)
	if err != nil {
		if !d.cfg.MountCheck {
			return err
		}
		d.unmounted()
		return nil
	}
	data := d.data()
	power, next := int(d.ring.PartPower), d.ring.NextPartPower
	d.state = newState(power, next)
	if !d.cfg.DryRun {
		root, err := os.OpenRoot(path)
		if err != nil {
			return err
		}
		defer root.Close()
		d.warnOfOwner(root)
		lock, err := lockDevice(ctx, root, d.policy.DataDir(), func(file string) {
			d.log.Infof("Waiting for another relinker that holds %s", file)
		})
		if err != nil {
			return err
		}
		defer lock.Close()
		if d.state, err = openState(root, d.policy.DataDir(), power, next); err != nil {
			return err
		}
	}
	*data = policyData{begun: time.Now(), updated: time.Now(), power: power, next: next}
	d.updateRecon(d.name, false)

	there, err := d.open()
	defer func() {
		for _, disk := range d.disks {
			disk.Close()
		}
	}()
	if err != nil {
		dir := filepath.Join(path, d.policy.DataDir())
		d.log.Warnf("Skipping %s because %s: '%s'", dir, pythonError(err), dir)
		data.unlistable++
		return nil
	}
	d.todo = d.state.partitions(there)
	if len(d.cfg.Partitions) > 0 {
		// Only now, so that the state has all of them.
		d.todo = only(d.todo, d.cfg.Partitions)
	}
	d.expect(len(d.todo))
	var wg sync.WaitGroup
	for _, disk := range d.disks {
		wg.Go(func() {
			for part, ok := d.next(ctx); ok; part, ok = d.next(ctx) {
				d.partition(ctx, disk, part)
			}
		})
	}
	wg.Wait()
	if d.cfg.DryRun {
		d.plan()
		return nil
	}
	if err := d.state.save(); err != nil {
		return err
	}
	if ctx.Err() == nil {
		data.ended = time.Now()
	}
	data.parts, data.total = d.state.done, len(d.state.Done)
	data.updated = time.Now()
	d.updateRecon(d.name, true)
	return nil
}

// next gives the next partition, as long as there is one and work goes on.
func (d *device) next(ctx context.Context) (part int, ok bool) {
	d.lock.Lock()
	defer d.lock.Unlock()
	if len(d.todo) == 0 || d.gone || ctx.Err() != nil {
		return 0, false
	}
	part = d.todo[0]
	d.todo = d.todo[1:]
	return part, true
}

func (d *device) unmounted() {
	d.log.Warnf("Skipping %s as it is not mounted", d.name)
	d.data().unmounted++
}

// warnOfOwner warns of directories that Swift could not write to.
func (d *device) warnOfOwner(root *os.Root) {
	info, err := root.Stat(d.policy.DataDir())
	if err != nil {
		return
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; os.Geteuid() == 0 && owner != 0 {
		d.log.Warnf("New directories on %s will belong to root, but %s belongs to user %d: is that what --user is for?", d.name, d.policy.DataDir(), owner)
	}
}

// open lists the partitions.
func (d *device) open() (there []int, err error) {
	c := diskfile.RelinkConfig{
		Power: d.ring.NextPartPower, Cleanup: d.cfg.Cleanup, Clobber: d.cfg.Clobber, DryRun: d.cfg.DryRun,
		Verbose: d.cfg.Verbose, Tell: d.tell,
	}
	if d.pace.rate > 0 {
		c.Pace = d.pace.wait
	}
	for range max(d.cfg.PartitionsPerDevice, 1) {
		disk, err := d.m.Relinker(d.name, c)
		if err != nil {
			return nil, err
		}
		d.disks = append(d.disks, disk)
	}
	return d.disks[0].Partitions()
}

func only(parts, wanted []int) []int {
	var both []int
	for _, p := range parts {
		for _, w := range wanted {
			if p == w {
				both = append(both, p)
				break
			}
		}
	}
	return both
}

// partition does one partition. Swift: hook_pre_partition, hook_post_partition.
func (d *device) partition(ctx context.Context, disk *diskfile.Relinker, part int) {
	before := disk.RelinkCounts
	linked, err := disk.Partition(ctx, part)
	done := false
	var unmounted *diskfile.NotMountedError
	switch {
	case errors.As(err, &unmounted):
		d.lock.Lock()
		if !d.gone {
			d.gone = true
			d.unmounted()
		}
		d.lock.Unlock()
	case ctx.Err() != nil: // what was done of it is found done the next time
	case err != nil:
		disk.Errors++
		d.log.Warnf("Skipping %s because %s", d.m.PartitionPath(d.name, part), pythonError(err))
	default:
		done = true
	}
	if done && !d.cfg.DryRun {
		disk.Errors += d.rehash(ctx, part, linked)
	}
	d.lock.Lock()
	defer d.lock.Unlock()
	if done && disk.Errors == before.Errors {
		if err := d.state.finish(part); err != nil {
			disk.Errors++
			d.log.Warnf("%v", err)
		}
	}
	d.count(disk.RelinkCounts.Since(before))
	if d.gone || ctx.Err() != nil && !done {
		return
	}
	d.PartitionsDone.Add(1)
	if d.cfg.DryRun {
		return
	}
	step := "Step: " + d.cfg.step() + " "
	if d.cfg.MasterTexts {
		step = ""
	}
	d.log.Infof("%sDevice: %s Policy: %s Partitions: %d/%d", step, d.name, d.policy.Name, d.data().parts, d.data().total)
	d.updateRecon(d.name, false)
}

// rehash hashes what has changed. Cleanup visits the lower half only, so that the partitions of the upper half are hashed when they
// get their links; those of the lower half are by cleanup, when it has come by. Partitions in which suffixes wait to be hashed
// count as changed: links may have been made by a relinker that was killed.
func (d *device) rehash(ctx context.Context, part int, linked []int) (failed int64) {
	changed := map[int]bool{}
	for _, p := range linked {
		changed[p] = true
	}
	for _, p := range []int{2 * part, 2*part + 1} {
		changed[p] = changed[p] || p != part && d.m.AwaitsHashing(d.name, p)
	}
	for p, yes := range changed {
		if yes && (d.cfg.Cleanup || p >= 1<<d.ring.PartPower) {
			if _, err := d.hash(p); err != nil {
				failed++
				d.log.Warnf("Error hashing partition %s: %v", d.m.PartitionPath(d.name, p), err)
			}
		}
	}
	if !d.cfg.Cleanup {
		return failed
	}
	// Most are empty, and need no hashes any more.
	if removed, _ := d.remove(ctx, part); removed {
		return failed
	}
	suffixes, err := d.hash(part)
	var busy *diskfile.LockTimeoutError
	switch {
	case errors.As(err, &busy): // others will
	case err != nil:
		d.log.Warnf("Error hashing partition %s: %v", d.m.PartitionPath(d.name, part), err)
	case suffixes == 0:
		if _, unexpected := d.remove(ctx, part); len(unexpected) > 0 {
			d.log.Warnf("Partition %s stays because of %s", d.m.PartitionPath(d.name, part), strings.Join(unexpected, ", "))
		}
	}
	return failed
}

// hash brings a partition's hashes up to date, and counts its suffixes. A partition of the lower half is hashed for itself and for
// the one whose files come there; both may be at work, and a suffix that holds nothing but strange files would be hashed by each.
func (d *device) hash(part int) (suffixes int, err error) {
	lock := &d.hashing[part%len(d.hashing)]
	lock.Lock()
	defer lock.Unlock()
	if n, ok := d.hashed.Load(part); ok && !d.m.AwaitsHashing(d.name, part) {
		return n.(int), nil
	}
	hashes, _, err := d.m.SuffixHashes(d.name, part, nil, false)
	if err == nil {
		d.hashed.Store(part, len(hashes))
	}
	return len(hashes), err
}

// remove removes a partition, if it is empty. It is worth a try: what it meets, a replicator deals with.
func (d *device) remove(ctx context.Context, part int) (removed bool, unexpected []string) {
	removed, unexpected, err := d.m.RemovePartition(ctx, d.name, part)
	if err != nil {
		d.log.Debugf("Partition %s stays: %v", d.m.PartitionPath(d.name, part), err)
	}
	return removed, unexpected
}

// count brings recon's figures and Progress up to date, now that so much more was done; the lock is held.
func (d *device) count(more diskfile.RelinkCounts) {
	data := d.data()
	data.RelinkCounts.Add(more)
	data.parts, data.total = d.state.done, len(d.state.Done)
	data.updated = time.Now()
	d.HashDirs.Add(more.HashDirs)
	d.Files.Add(more.Files)
	d.Linked.Add(more.Linked)
	d.Removed.Add(more.Removed)
	d.ErrorsNow.Add(more.Errors)
}

// tell logs what happened to a file, in Swift's words where it has any.
func (d *device) tell(e diskfile.RelinkEvent) {
	in := ""
	if d.cfg.Cleanup && !d.cfg.MasterTexts {
		in = " (cleanup)"
	}
	switch e.Kind {
	case diskfile.RelinkLinked:
		d.log.Debugf("Relinking%s created link: %s to %s", in, e.Old, e.New)
	case diskfile.RelinkTolerated:
		d.log.Debugf("Relinking%s: tolerating different inodes for tombstone with same timestamp: %s to %s", in, e.Old, e.New)
	case diskfile.RelinkClobbered:
		if e.To == "" {
			d.log.Debugf("Relinking: tolerating hardlink collision: %s to %s", e.Old, e.New)
		} else {
			d.log.Infof("Relinking: clobbering hardlink collision: %s moved to %s", e.New, e.To)
		}
	case diskfile.RelinkFailed:
		d.tellFailed(in, e)
	case diskfile.RelinkUnreadable:
		d.log.Warnf("Error relinking%s: cannot list %s: %s", in, e.Old, pythonError(e.Err))
	case diskfile.RelinkRemoved:
		d.log.Debugf("Removed %s", e.Old)
	case diskfile.RelinkNotRemoved:
		d.log.Warnf("Error cleaning up %s: %s", e.Old, pythonError(e.Err))
	case diskfile.RelinkInvalid:
		d.log.Warnf("Error invalidating suffix for %s: %v", e.Old, e.Err)
	case diskfile.RelinkNotExpected:
		d.log.Warnf("Unexpected entity is left alone: %s", e.Old)
	}
}

// tellFailed is tell, of a link that could not be made. Master's log knows collisions, and takes for an error what 2.30 warns of.
func (d *device) tellFailed(in string, e diskfile.RelinkEvent) {
	switch collided := errors.Is(e.Err, unix.EEXIST); {
	case !d.cfg.MasterTexts:
		d.log.Warnf("Error relinking%s: failed to relink %s to %s: %s: '%s' -> '%s'", in, e.Old, e.New, pythonError(e.Err), e.Old, e.New)
	case !collided:
		d.log.Errorf("Error relinking: failed to relink %s to %s: %s: '%s' -> '%s'", e.Old, e.New, pythonError(e.Err), e.Old, e.New)
	case d.cfg.Clobber:
		d.log.Warnf("Relinking: hardlink collision persists after quarantine: %s to %s", e.Old, e.New)
	default:
		d.log.Errorf("Error relinking: hardlink collision: %s to %s (consider enabling clobber_hardlink_collisions)", e.Old, e.New)
	}
}

// pythonError is an error of the system as Python prints it.
func pythonError(err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	text := errno.Error()
	return fmt.Sprintf("[Errno %d] %s", int(errno), strings.ToUpper(text[:1])+text[1:])
}
