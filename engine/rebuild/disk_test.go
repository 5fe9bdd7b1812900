package rebuild

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"imping/engine/rebuild/peers"
	"imping/io/batch"
	"imping/io/diskfile"
	"imping/netfast/fake"
)

// onDisk has the lab's first target on a second device of the local node.
func (l *lab) onDisk(engines *batch.Engines) *Disk {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Join(l.disk.Root, "sdc"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	files := diskfile.NewManager(diskfile.Config{
		Devices: l.disk.Root, Policy: l.pol, Hasher: hasher, ReclaimAge: diskfile.DefaultReclaimAge, Engine: engines.For,
	})
	return &Disk{
		Files: files, Object: l.object, Meta: l.local.DataMeta,
		Place: diskfile.Place{Device: "sdc", Partition: part, Name: name, FragIndex: l.targets[0].index},
	}
}

// filesOf counts the files on the second device, hashes.invalid not among them.
func (l *lab) filesOf(device string) (list []string) {
	l.t.Helper()
	err := filepath.Walk(filepath.Join(l.disk.Root, device), func(path string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() && filepath.Base(path) != "hashes.invalid" && filepath.Base(path) != ".lock" {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return list
}

// An archive that is rebuilt onto a device of this node is what the lost one was, metadata and all.
func TestAnArchiveIsRebuiltOntoALocalDevice(t *testing.T) { // rule 21
	for _, choice := range []string{batch.PlainOnly, batch.URing} {
		engines, err := batch.New(choice, func(string, ...any) {})
		if err != nil {
			t.Fatal(err)
		}
		defer engines.Close()
		for _, size := range []int64{0, 1, single, multi} {
			for _, durable := range []bool{true, false} {
				for _, mode := range []Verify{VerifyMD5, VerifyParity, VerifyOff} {
					l := newLab(t, isal, size, 0, 5)
					l.r.Verify, l.object.Durable = mode, durable
					d := l.onDisk(engines)
					if _, err := l.runFor(bg, l.peers(), []Target{d}, false); err != nil {
						t.Fatal(err)
					}
					got, err := d.Files.Open("sdc", part, l.hash(), 5, !durable)
					if err != nil {
						t.Fatal(err)
					}
					body, err := io.ReadAll(io.NewSectionReader(got, 0, got.Length))
					got.Close()
					if err != nil || !bytes.Equal(body, l.obj.Frags[5]) || (got.Durable == got.Data) != durable {
						t.Errorf("%s, %d bytes, durable %v, %v: other bytes, or durable at %v; %v", choice, size, durable, mode, got.Durable, err)
					}
					want := l.obj.Metadata(5)
					want["name"] = name
					if !maps.Equal(got.DataMeta, want) {
						t.Errorf("metadata\n%v, want\n%v", got.DataMeta, want)
					}
					if n := len(l.filesOf("sdc")); n != 1 {
						t.Errorf("%d files", n)
					}
				}
			}
		}
	}
}

// What proves bad leaves nothing, and is begun anew without the liar.
func TestNothingIsOnTheLocalDeviceBeforeAllIsProved(t *testing.T) { // laws 1 and 2
	engines, err := batch.New(batch.PlainOnly, nil)
	if err != nil {
		t.Fatal(err)
	}
	for spare, s := range map[bool]struct{ n int }{true: {1}, false: {0}} {
		l := newLab(t, isal, multi, 0, 2)
		d := l.onDisk(engines)
		l.spoil(1, func(a *peers.Archive) { a.Body[len(a.Body)-1] ^= 1 })
		if !spare {
			l.nodes[5].Refuse(404)
		}
		res, err := l.runFor(bg, l.peers(), []Target{d}, false)
		if spare != (err == nil) || len(l.filesOf("sdc")) != s.n {
			t.Errorf("spare %v: %+v, %v; files %v", spare, res, err, l.filesOf("sdc"))
		}
	}
	// A living copy that has rotted.
	l := newLab(t, isal, multi, 0, 2)
	a := l.obj.Archive(2)
	a.Body[77] ^= 1
	twin := peers.New(t, "sdc", hasher).Hold(a)
	l.r.Verify = VerifyOff
	d := l.onDisk(engines)
	from := append(l.peers(), Peer{ID: 301, Addr: twin.Addr, Device: twin.Device, Index: 2})
	if _, err := l.runFor(bg, from, []Target{d}, false); err == nil || len(twin.Gets()) == 0 || len(l.filesOf("sdc")) != 0 {
		t.Errorf("%v; files %v", err, l.filesOf("sdc"))
	}
	// A peer that dies in the middle, and none to take its place.
	l = newLab(t, isal, multi, 0, 2, 5)
	l.spoil(1, func(a *peers.Archive) { a.Say = dying(len(a.Body)/2, func(*fake.Conn) {}) })
	d = l.onDisk(engines)
	if _, err := l.runFor(bg, l.peers(), []Target{d}, false); err == nil || len(l.filesOf("sdc")) != 0 {
		t.Errorf("%v; files %v", err, l.filesOf("sdc"))
	}
	// Sinks that are over take nothing.
	sink := d.Sink("")
	sink.Abort(fmt.Errorf("enough"))
	if sink.WriteFragment([]byte("x")) == nil || sink.Commit(bg) == nil || len(l.filesOf("sdc")) != 0 {
		t.Error("written after the end")
	}
}
