package pass

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"imping/daemon"
	"imping/engine/rebuild/peers"
	"imping/swift/conf"
	"imping/swift/ring"
)

// A call to a disk may hang for days. Each pass of a daemon would add a thread to those that
// hang, if later ones did not leave the device alone.
func TestLaterPassesLeaveADeviceAloneWhileACallToItHangs(t *testing.T) { // laws 5 and 7
	t.Parallel()
	l := newLabOfTwo(t)
	l.cfg.Kept = new(Kept)
	l.only(left)
	l.object(0, "/a/c/o0", multi, left)
	o := l.onSdb("/a/c/o3", multi, left)
	free := l.pipe(filepath.Join(l.files.PartitionPath("sda", 0), "hashes.pkl"))
	l.want(l.run(bg), "rebuilt=1 left.devices=1 left.partitions=1")
	l.received(left, o)
	first := l.pass
	for range 3 {
		result := l.run(bg)
		if result.Devices != 1 || l.pass.Progress.Partitions.Load() != 1 {
			t.Errorf("left %v of %d partitions: want sda, and sdb's one", result, l.pass.Progress.Partitions.Load())
		}
		if list := l.pass.Unrepaired(); len(list) != 1 || list[0].Device != "sda" || list[0].Partition != -1 {
			t.Errorf("listed %+v", list)
		}
	}
	if !l.logged("a call of an earlier pass to it has not come back") {
		t.Errorf("nobody said why:\n%s", l.log)
	}
	free()
	first.queue.all.Wait()
	if result := l.run(bg); result.Any() || l.pass.Progress.Partitions.Load() != 2 {
		t.Errorf("left %v of %d partitions after the call came back", result, l.pass.Progress.Partitions.Load())
	}
	l.quiet()
}

func TestARingIsReadAgainOnlyWhenItHasChanged(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.Kept = new(Kept)
	l.agree(left, right, far)
	var rings []*ring.Ring
	for n := range 4 {
		l.want(l.run(bg), "")
		rings = append(rings, l.pass.policies[0].ring)
		if n == 1 {
			l.writeRing(nil)
			if err := os.Chtimes(rings[0].Path, time.Time{}, rings[0].ModTime.Add(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if rings[0] != rings[1] || rings[1] == rings[2] || rings[2] != rings[3] {
		t.Errorf("the passes had %p", rings)
	}
}

func TestAPassInWhichNothingMovesIsEnded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.cfg.LockupTimeout = 300 * time.Millisecond
	l.cfg.NodeTimeout, l.cfg.HTTPTimeout = time.Hour, time.Hour
	l.only(left)
	l.object(0, "/a/c/o", multi, left)
	l.peers[left].Script(func(s *peers.Session) {
		s.Greet()
		s.ReadOffers()
		s.Conn.Hang()
	})
	l.want(l.run(bg), "left.partitions=1 interrupted=1")
	if !l.logged("Lockup detected.. killing live coros.") || l.pass.Stuck() {
		t.Errorf("stuck: %v\n%s", l.pass.Stuck(), l.log)
	}
	if list := l.pass.Unrepaired(); len(list) == 0 || !strings.Contains(list[0].Reason, "lockup_timeout") {
		t.Errorf("listed %+v", list)
	}
}

// A process that is stopped for hours, and its clock not, finds one look due when it goes on.
func TestALockupIsSeenInManyLooks(t *testing.T) {
	var still stillness
	for i := range lockupLooks {
		if still.look(0) != (i == lockupLooks-1) {
			t.Errorf("nothing had moved at the look %d, and what is told of it is wrong", i)
		}
	}
	for range 2 {
		if still.look(1) {
			t.Error("a lockup is seen soon after something has moved")
		}
	}
}

func TestPartitionsThatNoDeviceHasAreNamed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.agree(left, right, far)
	l.object(1, "/a/c/o", single)
	l.cfg.OnlyPartitions = []int{1, 2, 999999, 2}
	l.want(l.run(bg), "")
	if got := l.pass.Missing(); !slices.Equal(got, []int{2, 999999}) || !l.logged("W Partition 999999 is on none of the devices") {
		t.Errorf("missing %v\n%s", got, l.log)
	}
}

// rule 37
func TestAPassTellsStatsdWhatStocksDoes(t *testing.T) {
	t.Parallel()
	listener, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l := newLab(t)
	l.cfg.Statsd, err = daemon.NewStatsd(conf.NewSection("object-reconstructor", "x.conf", map[string]string{
		"log_statsd_host": "127.0.0.1", "log_statsd_port": strconv.Itoa(listener.LocalAddr().(*net.UDPAddr).Port),
	}), "object-reconstructor")
	if err != nil {
		t.Fatal(err)
	}
	defer l.cfg.Statsd.Close()
	l.only(left)
	l.object(0, "/a/c/o", multi, left)
	l.want(l.run(bg), "rebuilt=1")
	l.pass.revertBegins("sda")
	l.pass.revertTook(time.Millisecond)
	l.pass.revertLocked()
	l.pass.putAway()
	l.cfg.Statsd.Increment("end")
	got := make(map[string]bool)
	for buf := make([]byte, 1000); !got["end c"]; {
		listener.SetReadDeadline(time.Now().Add(20 * time.Second))
		n, _, err := listener.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(string(buf[:n]), "object-reconstructor."), ":")
		_, kind, _ := strings.Cut(value, "|")
		got[name+" "+kind] = true
	}
	for _, want := range []string{
		"suffix.hashes c", "suffix.syncs c", "partition.update.count.sda c", "partition.update.timing ms",
		"partition.delete.count.sda c", "partition.delete.timing ms", "partition.lock-failure.count c", "quarantines c", "end c",
	} {
		if !got[want] {
			t.Errorf("statsd was not told %s", want)
		}
		delete(got, want)
	}
	if len(got) > 0 {
		t.Errorf("statsd was told %v, too", got)
	}
}

// What signals ask for is answered at any moment of a pass, and after it.
func TestSignalsComeAtAnyMoment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.only(left)
	for i := range 20 {
		l.object(0, fmt.Sprintf("/a/c/o%d", i), multi, left)
	}
	l.cfg.StatsInterval, l.cfg.LockupTimeout, l.cfg.ReconPath = time.Millisecond, time.Minute, t.TempDir()
	var signals sync.WaitGroup
	ended := make(chan struct{})
	l.begun = func(p *Pass) {
		for _, do := range []func(){p.LogWhere, p.LookAtRings, func() { p.Stuck() }, func() { p.Unrepaired() }} {
			signals.Go(func() {
				for {
					select {
					case <-ended:
						return
					case <-time.After(100 * time.Microsecond):
						do()
					}
				}
			})
		}
	}
	l.want(l.run(bg), "rebuilt=20")
	l.pass.DumpRecon(time.Second)
	close(ended)
	signals.Wait()
}
