package rebuild

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"imping/codec"
	"imping/engine/pipeline"
	"imping/engine/rebuild/peers"
	"imping/netfast/fake"
)

var bg = context.Background()

func TestEveryLossIsRebuiltByteForByteFromK(t *testing.T) { // rule 2: K-1 requests, the local archive is the Kth survivor
	for _, s := range []codec.Scheme{isal, plain} {
		for _, size := range []int64{1, single, segment, multi} {
			for wanted := range 6 {
				local := (wanted + 5) % 6
				l := newLab(t, s, size, local, wanted)
				res, err := l.run(bg)
				if err != nil {
					t.Fatalf("%v, %d bytes, fragment %d: %v", s, size, wanted, err)
				}
				l.good()
				if n := l.asked(); n != s.K-1 {
					t.Errorf("%v, %d bytes, fragment %d: %d peers were asked, want %d", s, size, wanted, n, s.K-1)
				}
				if want := int64(s.K) * l.object.Length; res.BytesIn != want || len(l.notes) != 0 {
					t.Errorf("%v, %d bytes, fragment %d: read %d bytes, want %d; notes %v", s, size, wanted, res.BytesIn, want, l.notes)
				}
			}
		}
	}
}

// A flat XOR code is no MDS code: fewer than K archives may be enough, and any K may not be.
func TestALossOfAFlatXORCodeIsRebuiltFromTheFewestArchives(t *testing.T) {
	flat := codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}
	for wanted := range 10 {
		local := (wanted + 4) % 10
		l := newLab(t, flat, multi, local, wanted)
		plan, err := l.code.Plan(codec.SetOf(0, 1, 2, 3, 4, 5, 6, 7, 8, 9), codec.SetOf(wanted))
		if err != nil {
			t.Fatal(err)
		}
		fewest := len(plan.In())
		res, err := l.run(bg)
		if err != nil {
			t.Fatalf("fragment %d: %v", wanted, err)
		}
		l.good()
		if n := l.asked(); n != fewest && n != fewest-1 {
			t.Errorf("fragment %d: %d peers were asked, %d archives are enough", wanted, n, fewest)
		}
		if want := int64(fewest) * l.object.Length; res.BytesIn != want {
			t.Errorf("fragment %d: read %d bytes, want %d", wanted, res.BytesIn, want)
		}
	}
}

func TestAMissingTermOfASumIsReplacedByAnother(t *testing.T) {
	flat := codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5} // 0 = 1+5 = 4+7
	l := newLab(t, flat, multi, 3, 0)
	for _, i := range []int{5, 4} { // one of each short sum
		l.nodes[i] = peers.New(t, "sdb", hasher)
	}
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	l.good()
	l = newLab(t, flat, multi, 3, 0)
	for _, i := range []int{5, 7} { // nothing else has a part of 0
		l.nodes[i] = peers.New(t, "sdb", hasher)
	}
	_, err := l.run(bg)
	if e, ok := IsInsufficient(err); !ok || e.Have < 5 || !strings.Contains(err.Error(), "do not make fragment 0") {
		t.Errorf("%v", err)
	}
	l.bad()
}

// Where the first K survivors of isa_l_rs_vand are a singular set another is asked for.
func TestASurvivorThatTellsNothingNewIsNotAskedFor(t *testing.T) {
	l := newLab(t, codec.Scheme{Type: "isa_l_rs_vand", K: 6, M: 5}, multi, 1, 0)
	for _, i := range []int{3, 5, 8} { // of the rest 1, 2, 4, 6, 7, 10 are singular
		l.nodes[i] = peers.New(t, "sdb", hasher)
	}
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	l.good()
	if n := len(l.nodes[9].Gets()); n != 1 {
		t.Errorf("9 was asked %d times", n)
	}
}

func TestAWideSchemeAndTwoTargetsFromOneDecode(t *testing.T) {
	l := newLab(t, wide, multi, 12, 13, 0)
	res, err := l.run(bg)
	if err != nil {
		t.Fatal(err)
	}
	l.good()
	if n := l.asked(); n != 9 || res.Stripes != 7 || res.BytesOut != 2*l.object.Length {
		t.Errorf("%d peers were asked, %+v", n, res)
	}
}

func TestTheRequestIsStocks(t *testing.T) { // rule 16
	l := newLab(t, isal, single, 0, 1)
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	g := l.nodes[2].Gets()[0]
	if g.Path != "/sdb/3"+name || g.Timestamp != l.obj.Data.Internal() || len(g.Exclude) != 0 ||
		peers.Field(g.Head, "X-Backend-Storage-Policy-Index") != "1" || peers.Field(g.Head, "X-Backend-Replication") != "True" {
		t.Errorf("asked %+v", g)
	}
}

// Or one fragment that a deletion has missed would bring the object back.
func TestAnObjectWithoutBytesNeedsAsManyFragmentsAsAny(t *testing.T) { // rule 20
	for _, enough := range []bool{true, false} {
		l := newLab(t, isal, 0, 3, 0, 5)
		if !enough {
			l.nodes[2].Refuse(404)
		}
		_, err := l.run(bg)
		if enough {
			if err != nil {
				t.Fatal(err)
			}
			l.good()
			if n := l.asked(); n != 3 {
				t.Errorf("%d peers were asked", n)
			}
			continue
		}
		if _, few := IsInsufficient(err); !few {
			t.Errorf("rebuilt from too few: %v", err)
		}
		l.bad()
	}
}

func TestAnswersThatAreNoSurvivorsAreRefusedAndNoted(t *testing.T) { // rule 1
	for _, c := range []struct {
		what   string
		spoil  func(l *lab, a *peers.Archive)
		why    string
		status int
	}{
		{"an older timestamp", func(l *lab, a *peers.Archive) {
			a.Data.Raw -= 1
			a.Fields["X-Backend-Data-Timestamp"] = a.Data.Internal()
		}, "timestamp", 200},
		{"a newer timestamp", func(l *lab, a *peers.Archive) { a.Fields["X-Backend-Data-Timestamp"] = "9999999999.00000" }, "timestamp", 200},
		{"another offset", func(l *lab, a *peers.Archive) {
			a.Fields["X-Backend-Data-Timestamp"] = l.obj.Data.Normal() + "_0000000000000001"
		}, "timestamp", 200},
		{"no timestamp", func(l *lab, a *peers.Archive) {
			delete(a.Fields, "X-Backend-Data-Timestamp")
			delete(a.Fields, "X-Backend-Timestamp")
		}, "timestamp", 200},
		{"a timestamp that is none", func(l *lab, a *peers.Archive) { a.Fields["X-Backend-Data-Timestamp"] = "yesterday" }, "timestamp", 200},
		{"another Ec-Etag", func(l *lab, a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Etag"] = strings.Repeat("0", 32) }, "Etag", 200},
		{"no Ec-Etag", func(l *lab, a *peers.Archive) { delete(a.Fields, "X-Object-Sysmeta-Ec-Etag") }, "Etag", 200},
		{"no index", func(l *lab, a *peers.Archive) { delete(a.Fields, "X-Object-Sysmeta-Ec-Frag-Index") }, "Frag-Index", 200},
		{"an index that is none", func(l *lab, a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "two" }, "Frag-Index", 200},
		{"a negative index", func(l *lab, a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "-1" }, "Frag-Index", 200},
		{"an index that the scheme does not have", func(l *lab, a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "6" }, "Frag-Index", 200},
		{"an index beyond all schemes", func(l *lab, a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "99999999999999999999" }, "Frag-Index", 200},
		{"a byte too few", func(l *lab, a *peers.Archive) {
			a.Body = a.Body[1:]
			a.Fields["Content-Length"] = fmt.Sprint(len(a.Body))
		}, "bytes, wanted", 200},
		{"a byte too many", func(l *lab, a *peers.Archive) {
			a.Body = append(a.Body, 0)
			a.Fields["Content-Length"] = fmt.Sprint(len(a.Body))
		}, "bytes, wanted", 200},
		{"nothing at all", func(l *lab, a *peers.Archive) { a.Body, a.Fields["Content-Length"] = nil, "0" }, "bytes, wanted", 200},
		{"no length", func(l *lab, a *peers.Archive) {
			delete(a.Fields, "Content-Length")
			a.Say = func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body) }
		}, "length", 0},
		{"a length that is none", func(l *lab, a *peers.Archive) { a.Fields["Content-Length"] = "-5" }, "Content-Length", 0},
		{"no ETag", func(l *lab, a *peers.Archive) { delete(a.Fields, "Etag") }, "no ETag", 200},
		{"206", func(l *lab, a *peers.Archive) { a.Status = 206 }, "206", 0},
		{"503", func(l *lab, a *peers.Archive) { a.Status = 503 }, "503", 503},
		{"507", func(l *lab, a *peers.Archive) { a.Status = 507 }, "507", 507},
		{"404", func(l *lab, a *peers.Archive) { a.Status = 404 }, "404", 404},
		{"garbage", func(l *lab, a *peers.Archive) {
			a.Say = func(c *fake.Conn, _ *peers.Archive) { c.Say("SSH-2.0-OpenSSH_9.2\r\n\r\n") }
		}, "status line", 0},
		{"endless head", func(l *lab, a *peers.Archive) {
			a.Say = func(c *fake.Conn, _ *peers.Archive) {
				c.Say("HTTP/1.1 200 OK\r\n")
				for range 3000 {
					c.Say("X-Object-Meta-Filler: " + strings.Repeat("x", 100) + "\r\n")
				}
			}
		}, "", 0},
		{"nothing but a hangup", func(l *lab, a *peers.Archive) { a.Say = func(*fake.Conn, *peers.Archive) {} }, "", 0},
	} {
		for _, size := range []int64{single, multi} {
			l := newLab(t, isal, size, 0, 1)
			l.spoil(2, func(a *peers.Archive) { c.spoil(l, a) })
			if _, err := l.run(bg); err != nil {
				t.Errorf("%s: %v", c.what, err)
				continue
			}
			l.good()
			if len(l.notes) != 1 || l.notes[0].Status != c.status || !mentions(l.notes, l.peer(2), c.why) {
				t.Errorf("%s: noted %+v, want the peer, status %d and %q", c.what, l.notes, c.status, c.why)
			}
			if n := l.asked(); n != 4 {
				t.Errorf("%s: %d peers were asked, want 4: the refused one is replaced by one", c.what, n)
			}
			if l.object.Avoiding() != 0 {
				t.Errorf("%s: an answer that was refused is no archive that proved bad", c.what)
			}
		}
	}
}

func TestAnOldServersTimestampHeaderWillDo(t *testing.T) { // rule 1
	l := newLab(t, isal, single, 0, 1)
	l.spoil(2, func(a *peers.Archive) { delete(a.Fields, "X-Backend-Data-Timestamp") })
	if _, err := l.run(bg); err != nil || len(l.notes) != 0 {
		t.Fatal(err, l.notes)
	}
	l.good()
}

func TestPeersThatRefuseConnectionsAreReplaced(t *testing.T) {
	l := newLab(t, isal, multi, 0, 1)
	from := l.peers()
	from[0].Addr = "127.0.0.1:1"
	if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
		t.Fatal(err)
	}
	l.good()
	if len(l.notes) != 1 || l.notes[0].Status != 0 || !strings.Contains(l.notes[0].Why, "127.0.0.1:1") {
		t.Errorf("noted %+v", l.notes)
	}
}

// A peer's answer counts for the index that it names (rule 2).
func TestWhatAPeerAnswersCountsNotWhatItShouldHave(t *testing.T) {
	t.Run("an index that nobody else has", func(t *testing.T) {
		l := newLab(t, isal, multi, 0, 1)
		l.nodes[2], l.nodes[3] = l.nodes[3], l.nodes[2] // two archives lie on each other's nodes
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
		if n := l.asked(); n != 3 || len(l.notes) != 0 {
			t.Errorf("%d peers were asked, noted %+v", n, l.notes)
		}
	})
	t.Run("the wanted index", func(t *testing.T) { // rule 6: it is streamed as it is
		for _, own := range []bool{true, false} {
			l := newLab(t, isal, multi, 0, 5)
			if !own {
				l.nodes[2] = peers.New(t, "sdb", hasher)
			}
			l.nodes[2].Hold(l.obj.Archive(5))
			if _, err := l.run(bg); err != nil {
				t.Fatal(err)
			}
			l.good()
			if want := l.obj.Archive(5).Fields["Etag"]; l.targets[0].etag != strings.Trim(want, `"`) {
				t.Errorf("the receiver is told MD5 %q, want %s", l.targets[0].etag, want)
			}
			if n := l.asked(); n != 3 {
				t.Errorf("%d requests, want 3", n)
			}
		}
	})
	t.Run("a wanted index of two, and its own behind it", func(t *testing.T) {
		l := newLab(t, wide, multi, 1, 0, 13)
		l.nodes[3].Hold(l.obj.Archive(13))
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
		gets := l.nodes[3].Gets()
		if len(gets) != 2 || len(gets[0].Exclude) != 0 || !slices.Contains(gets[1].Exclude, 13) || !slices.Contains(gets[1].Exclude, 1) {
			t.Errorf("asked %+v, want a second request that excludes 13, which is wanted, and 1, which is held", gets)
		}
		if n := l.asked(); n != 10 || len(l.notes) != 0 {
			t.Errorf("%d requests, noted %+v", n, l.notes)
		}
	})
	t.Run("the local index", func(t *testing.T) {
		l := newLab(t, isal, multi, 0, 5)
		l.nodes[2].Hold(l.obj.Archive(2))
		p := peers.New(t, "sdb", hasher)
		p.Hold(l.obj.Archive(0))
		l.nodes[2] = p
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
	})
	t.Run("always the same index, whatever is excluded", func(t *testing.T) {
		l := newLab(t, isal, multi, 0, 5)
		l.spoil(2, func(a *peers.Archive) {
			b := l.obj.Archive(0)
			a.Say = func(c *fake.Conn, _ *peers.Archive) { c.Say(b.Head()); c.Write(b.Body) }
		})
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
		if n := len(l.nodes[2].Gets()); n != 2 {
			t.Errorf("asked %d times, want once and once more", n)
		}
	})
	t.Run("a lie about the index", func(t *testing.T) { // rule 5: the fragment headers tell
		l := newLab(t, isal, multi, 0, 5)
		l.spoil(2, func(a *peers.Archive) {
			a.Body = l.obj.Frags[5]
			a.Fields["Etag"] = l.obj.Archive(5).Fields["Etag"]
		})
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
		if l.object.Avoiding() != 1 {
			t.Errorf("%d archives are avoided, want the liar's", l.object.Avoiding())
		}
	})
}

// rules 3 and 6
func TestALivingCopyOfTheWantedArchiveIsStreamed(t *testing.T) {
	t.Run("from the local disk", func(t *testing.T) {
		for _, size := range []int64{1, single, multi} {
			l := newLab(t, isal, size, 2, 2)
			l.nodes[2] = peers.New(t, "sdb", hasher)
			if _, err := l.run(bg); err != nil {
				t.Fatal(err)
			}
			l.good()
			if n := l.asked(); n != 0 || l.targets[0].etag != l.local.DataMeta["ETag"] {
				t.Errorf("%d peers were asked, MD5 %q", n, l.targets[0].etag)
			}
		}
	})
	t.Run("not from the local disk when it has rotted", func(t *testing.T) { // rule 4
		l := newLab(t, isal, multi, 2, 2)
		l.nodes[2] = peers.New(t, "sdb", hasher)
		l.nodes[2].Refuse(507)
		flip(t, l.path, 200)
		if _, err := l.run(bg); err == nil {
			t.Fatal("rot was not found before the target was begun")
		}
		l.bad()
		l.again()
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
		if l.targets[0].etag != "" || l.object.LocalFault() == nil {
			t.Errorf("MD5 %q, fault %v", l.targets[0].etag, l.object.LocalFault())
		}
	})
	t.Run("from the peer that the ring names", func(t *testing.T) {
		l := newLab(t, isal, multi, 0, 5)
		twin := peers.New(t, "sdb", hasher)
		twin.Hold(l.obj.Archive(5))
		from := append(l.peers(), Peer{ID: 999, Addr: twin.Addr, Device: twin.Device, Index: 5})
		if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
			t.Fatal(err)
		}
		l.good()
		if n := l.asked(); n != 0 || len(twin.Gets()) != 1 {
			t.Errorf("%d others were asked, the twin %d times", n, len(twin.Gets()))
		}
	})
	// The receiver may have an archive of an earlier PUT, which is needed: law "nothing that can be decoded is lost".
	t.Run("not when there are too few to make the object", func(t *testing.T) {
		for name, c := range map[string]struct {
			scheme codec.Scheme
			local  int
			wanted int
			place  func(l *lab) []Peer // of the living copy
		}{
			"on the local disk": {isal, 2, 2, func(l *lab) []Peer {
				l.nodes[2] = peers.New(t, "sdb", hasher)
				return nil
			}},
			"where the ring names it": {isal, 0, 5, func(l *lab) []Peer {
				twin := peers.New(t, "sdb", hasher).Hold(l.obj.Archive(5))
				return []Peer{{ID: 999, Addr: twin.Addr, Device: twin.Device, Index: 5}}
			}},
			"by chance": {isal, 0, 5, func(l *lab) []Peer {
				l.nodes[4] = peers.New(t, "sdb", hasher).Hold(l.obj.Archive(5))
				return nil
			}},
			"of a flat exclusive or": {codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}, 2, 2, func(l *lab) []Peer {
				l.nodes[2] = peers.New(t, "sdb", hasher)
				return nil
			}},
		} {
			for _, enough := range []bool{false, true} {
				l := newLab(t, c.scheme, multi, c.local, c.wanted)
				from := append(l.peers(), c.place(l)...)
				have := codec.SetOf(c.local, c.wanted)
				for i := range l.nodes {
					switch {
					case have.Has(i), i == 4 && name == "by chance":
					case enough && !decodes(l.code, have) || !enough && !decodes(l.code, have.With(i)):
						have = have.With(i)
					default:
						l.nodes[i].Refuse(404)
					}
				}
				_, err := l.runFor(bg, from, []Target{l.targets[0]}, false)
				if enough {
					if err != nil {
						t.Fatal(name, err)
					}
					l.good()
					if l.targets[0].etag == "" && name != "by chance" { // nobody may have asked there
						t.Errorf("%s: it was decoded", name)
					}
					continue
				}
				if _, few := IsInsufficient(err); !few {
					t.Errorf("%s: %v", name, err)
				}
				if l.targets[0].sinks > 0 || l.targets[0].started {
					t.Errorf("%s: something was sent", name)
				}
			}
		}
	})
	t.Run("when it is only to be moved", func(t *testing.T) {
		l := newLab(t, isal, multi, 2, 2)
		l.object.Moves = true
		if _, err := l.runFor(bg, nil, []Target{l.targets[0]}, false); err != nil {
			t.Fatal(err)
		}
		l.good()
	})
	t.Run("not when it is another object's", func(t *testing.T) {
		l := newLab(t, isal, multi, 0, 5)
		twin := peers.New(t, "sdb", hasher)
		a := l.obj.Archive(5)
		a.Fields["X-Object-Sysmeta-Ec-Etag"] = strings.Repeat("0", 32)
		twin.Hold(a)
		from := append(l.peers(), Peer{ID: 999, Addr: twin.Addr, Device: twin.Device, Index: 5})
		if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
			t.Fatal(err)
		}
		l.good()
		if l.targets[0].etag != "" {
			t.Error("a rebuilt archive's MD5 is not known beforehand")
		}
	})
	t.Run("not when it has rotted", func(t *testing.T) { // rule 5
		l := newLab(t, isal, single, 0, 5)
		twin := peers.New(t, "sdb", hasher)
		a := l.obj.Archive(5)
		a.Body = append([]byte(nil), a.Body...)
		a.Body[200] ^= 1
		twin.Hold(a)
		from := append(l.peers(), Peer{ID: 999, Addr: twin.Addr, Device: twin.Device, Index: 5})
		if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
			t.Fatal(err)
		}
		l.good()
		if l.object.Avoiding() != 1 || l.targets[0].etag != "" {
			t.Errorf("%d archives are avoided, MD5 %q", l.object.Avoiding(), l.targets[0].etag)
		}
	})
}

// rule 4
func TestALocalArchiveThatProvesBadIsReplacedByAPeers(t *testing.T) {
	for _, size := range []int64{1, single, multi} {
		for _, local := range []int{0, 5} {
			l := newLab(t, isal, size, local, 2)
			length := int64(len(l.obj.Frags[local]))
			for _, at := range []int64{0, 4, 9, codec.HeaderSize, length / 2, length - 1} {
				l := newLab(t, isal, size, local, 2)
				flip(t, l.path, at)
				_, err := l.run(bg)
				var source *pipeline.SourceError
				if err != nil {
					if size <= segment || !errors.As(err, &source) || !l.targets[0].started {
						t.Fatalf("%d bytes, byte %d: %v", size, at, err)
					}
					l.bad()
				}
				if l.object.LocalFault() == nil || l.object.Avoiding() != 1 {
					t.Errorf("%d bytes, byte %d: local fault %v, %d avoided", size, at, l.object.LocalFault(), l.object.Avoiding())
				}
				if err != nil {
					l.again()
					if _, err := l.run(bg); err != nil {
						t.Fatalf("%d bytes, byte %d, second session: %v", size, at, err)
					}
					if l.object.LocalFault() == nil {
						t.Error("the second session does not know of the fault")
					}
				}
				l.good()
			}
		}
	}
}

func TestALocalFileThatIsCutUnderneathIsAFault(t *testing.T) { // rule 4: after diskfile has seen its length
	l := newLab(t, isal, multi, 0, 2)
	cut(t, l.path, 3)
	if _, err := l.run(bg); err != nil {
		l.bad()
		l.again0()
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
	}
	l.good()
	if l.object.LocalFault() == nil {
		t.Error("no fault")
	}
}

func TestAVerifyingRebuilderDoesWithoutALocalArchiveThatHasNoETag(t *testing.T) {
	l := newLabWith(t, isal, multi, 0, func(m map[string]string) { delete(m, "ETag") }, 2)
	l.open()
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	l.good()
	if n := l.asked(); n != 4 {
		t.Errorf("%d peers were asked, want 4 in place of the local archive", n)
	}
	if err := l.object.LocalFault(); err != nil {
		t.Errorf("nothing proved that the archive is bad, it must not be quarantined: %v", err)
	}
}

// rule 5: nothing wrong is ever committed, wherever the wrong byte is.
func TestAFlippedByteAtAPeerIsNeverCommitted(t *testing.T) {
	for _, s := range []codec.Scheme{isal, plain} {
		code, err := codec.New(s)
		if err != nil {
			t.Fatal(err)
		}
		frag := code.FragmentSize(segment)
		length := int(code.ArchiveSize(multi, segment))
		for _, c := range []struct {
			size int64
			at   []int
		}{
			{single, []int{codec.HeaderSize, codec.HeaderSize + 7, int(code.ArchiveSize(single, segment)) - 1}},
			{multi, []int{codec.HeaderSize, frag - 1, 3*frag + codec.HeaderSize + 5, length - 1}},
			{multi, []int{4, 2*frag + 4, length - code.FragmentSize(multi%segment)}}, // in headers
		} {
			for _, at := range c.at {
				for _, liar := range []int{1, 3} {
					l := newLab(t, s, c.size, 0, 2)
					l.spoil(liar, func(a *peers.Archive) { a.Body[at] ^= 1 })
					_, err := l.run(bg)
					if err != nil {
						var source *pipeline.SourceError
						if c.size <= segment || !errors.As(err, &source) {
							t.Fatalf("%v, %d bytes, byte %d of %d: %v", s, c.size, at, liar, err)
						}
						if !l.targets[0].started || len(l.targets[0].aborts) != 1 {
							t.Errorf("%v: target %+v, want it started and aborted", s, l.targets[0])
						}
						l.bad()
						l.again()
						if _, err := l.run(bg); err != nil {
							t.Fatalf("%v, %d bytes, byte %d of %d, second session: %v", s, c.size, at, liar, err)
						}
						if n := len(l.nodes[liar].Gets()); n != 1 {
							t.Errorf("the liar was asked %d times", n)
						}
					}
					l.good()
					if l.object.Avoiding() != 1 || l.object.LocalFault() != nil {
						t.Errorf("%d archives are avoided (local: %v), want the liar's only", l.object.Avoiding(), l.object.LocalFault())
					}
				}
			}
		}
	}
}

func TestTheSameObjectMayBeRunAgainAfterALie(t *testing.T) { // rule 5, without Inherit
	l := newLab(t, isal, multi, 0, 2)
	l.spoil(1, func(a *peers.Archive) { a.Body[len(a.Body)-1] ^= 1 })
	if _, err := l.run(bg); err == nil {
		t.Fatal("a lie in the last segment was not found before the target was begun")
	}
	l.targets[0] = &target{index: 2}
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	l.good()
}

// Without a check of the bytes a lie is published: this is what rule 5 is for.
// rule 2: with ec_duplication_factor 2 every index is to be had twice.
func TestPeersOfDistinctIndexAreAskedFirst(t *testing.T) {
	l := newLab(t, isal, multi, 0, 2)
	var from []Peer
	for i := range 6 { // the twins of the local node and of the target, too
		twin := peers.New(t, "sdc", hasher)
		if i != 2 {
			twin.Hold(l.obj.Archive(i))
		}
		from = append(from, Peer{ID: 200 + i, Addr: twin.Addr, Device: twin.Device, Index: i})
	}
	from = append(from[:2:2], from[3:]...) // he who misses it was not asked
	from = append(from, l.peers()...)
	if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
		t.Fatal(err)
	}
	l.good()
	if n := l.r.Client.Counters().Dials; n != 3 || len(l.notes) != 0 {
		t.Errorf("%d connections, noted %+v; want 3: no index twice", n, l.notes)
	}
}

// A disk that rots has thousands of archives: it may spoil a few tries, not all.
func TestAPeerWhoseArchivesKeepProvingBadIsAskedLast(t *testing.T) {
	l := newLab(t, isal, single, 0, 2)
	l.spoil(1, func(a *peers.Archive) { a.Body[len(a.Body)-1] ^= 1 })
	for range 3 * distrustAfter {
		l.open() // another object, for all that is known of it
		l.targets[0] = &target{index: 2}
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
	}
	if n := len(l.nodes[1].Gets()); n != distrustAfter {
		t.Errorf("asked %d times, want %d", n, distrustAfter)
	}
	// Last is not never: without it there are too few, and it may have recovered.
	whole := peers.New(t, "sdb", hasher)
	whole.Hold(l.obj.Archive(1))
	from := l.peers()
	from[0].Addr = whole.Addr
	from[0].Device = whole.Device
	for range distrustAfter {
		l.r.trust.blame(&from[0])
	}
	l.nodes[3].Refuse(404)
	l.open()
	l.targets[0] = &target{index: 2}
	if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
		t.Fatal(err)
	}
	l.good()
	if l.r.trust.last(&from[0]) {
		t.Error("a peer that sent a whole archive is not trusted again")
	}
}

// A primary that is not mounted keeps its place in the ring: with a handoff for a target it
// would be asked for its living copy before each object.
func TestADeviceThatIsNotMountedIsAskedOnce(t *testing.T) { // rule 9
	l := newLab(t, isal, multi, 0, 5)
	gone := peers.New(t, "sdb", hasher)
	gone.Refuse(507)
	for range 3 {
		from := append(l.peers(), Peer{ID: 999, Addr: gone.Addr, Device: gone.Device, Index: 5})
		if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
			t.Fatal(err)
		}
		l.good()
		l.again()
	}
	if n := len(gone.Gets()); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

func TestWithVerificationOffOnlyHeadersAreChecked(t *testing.T) {
	l := newLab(t, isal, single, 0, 2)
	l.r.Verify = VerifyOff
	l.spoil(1, func(a *peers.Archive) { delete(a.Fields, "Etag"); a.Body[4] ^= 1 })
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	l.good()
}

// Some sets of K fragments of isa_l_rs_vand are singular: liberasurecode fails there, and
// one survivor more is enough.
func TestASingularSetOfSurvivorsIsCompletedByAnother(t *testing.T) {
	for _, size := range []int64{single, multi} {
		for _, helped := range []bool{true, false} {
			l := newLab(t, codec.Scheme{Type: "isa_l_rs_vand", K: 6, M: 5}, size, 1, 0, 3, 5, 8, 9, 10)
			l.targets = l.targets[:1]
			l.nodes[8].Hold(l.obj.Archive(10)) // asked before the one that helps
			if helped {
				l.nodes[10].Hold(l.obj.Archive(8))
			}
			_, err := l.run(bg)
			if !helped {
				var lack *codec.Insufficient
				if !errors.As(err, &lack) || lack.Helpful.Len() == 0 {
					t.Errorf("%d bytes: %v, want it to say what would help", size, err)
				}
				l.bad()
				continue
			}
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			l.good()
		}
	}
}

func TestTwoLiarsAreFoundAndTheObjectIsInsufficient(t *testing.T) { // rule 5: 4+2, one wanted, two bad: three are left
	l := newLab(t, isal, single, 0, 2)
	for _, liar := range []int{1, 5} {
		l.spoil(liar, func(a *peers.Archive) { a.Body[codec.HeaderSize] ^= 1 })
	}
	_, err := l.run(bg)
	e, ok := IsInsufficient(err)
	if !ok {
		t.Fatal(err)
	}
	l.bad()
	if e.Have != 3 || l.object.Avoiding() != 2 || !mentions(e.Answers, l.peer(1), "MD5") || !mentions(e.Answers, l.peer(5), "MD5") {
		t.Errorf("%+v; %d avoided", e, l.object.Avoiding())
	}
}

// Bodies that do not come to their end, or go beyond it.
func TestBodiesThatBreakOff(t *testing.T) {
	stalled := make(chan struct{}, 100)
	for _, c := range []struct {
		what string
		say  func(c *fake.Conn, a *peers.Archive)
		ok   bool // usable all the same
	}{
		{"closes after the head", func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()) }, false},
		{"closes in the first header", func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body[:17]) }, false},
		{"closes in the middle", func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body[:len(a.Body)/2]) }, false},
		{"closes before the last byte", func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body[:len(a.Body)-1]) }, false},
		{"resets", func(c *fake.Conn, a *peers.Archive) {
			c.Say(a.Head())
			c.Write(a.Body[:len(a.Body)-1])
			c.SetLinger(0)
		}, false},
		{"stalls before the head", func(c *fake.Conn, a *peers.Archive) { stalled <- struct{}{}; c.Hang() }, false},
		{"stalls in the head", func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()[:40]); stalled <- struct{}{}; c.Hang() }, false},
		{"stalls after the head", func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); stalled <- struct{}{}; c.Hang() }, false},
		{"stalls before the last byte", func(c *fake.Conn, a *peers.Archive) {
			c.Say(a.Head())
			c.Write(a.Body[:len(a.Body)-1])
			stalled <- struct{}{}
			c.Hang()
		}, false},
		{"says more than it declared", func(c *fake.Conn, a *peers.Archive) {
			c.Say(a.Head())
			c.Write(a.Body)
			c.Say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra")
		}, true},
		{"comes byte by byte", func(c *fake.Conn, a *peers.Archive) {
			c.Dribble(a.Head())
			c.Dribble(string(a.Body[:300]))
			c.Write(a.Body[300:])
		}, true},
	} {
		for _, size := range []int64{single, multi} {
			t.Run(fmt.Sprintf("%s, %d bytes", c.what, size), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, isal, size, 0, 2)
				if strings.HasPrefix(c.what, "stalls") {
					l.hurry()
				}
				l.spoil(1, func(a *peers.Archive) { a.Say = c.say })
				_, err := l.run(bg)
				if err != nil {
					var source *pipeline.SourceError
					if !errors.As(err, &source) || !l.targets[0].started || size <= segment || c.ok {
						t.Fatal(err)
					}
					l.bad()
					l.again()
					if _, err = l.run(bg); err != nil {
						t.Fatalf("second session: %v", err)
					}
				}
				l.good()
				if c.ok && (l.object.Avoiding() != 0 || len(l.notes) != 0) {
					t.Errorf("%d avoided, noted %+v", l.object.Avoiding(), l.notes)
				}
				if l.object.LocalFault() != nil {
					t.Errorf("the local archive is blamed: %v", l.object.LocalFault())
				}
			})
		}
	}
}

// What a peer said beyond its answer is not taken for the next one.
func TestExtraBytesAreNotTheNextAnswer(t *testing.T) {
	l := newLab(t, isal, multi, 0, 2)
	l.spoil(1, func(a *peers.Archive) {
		wrong := l.obj.Archive(1)
		wrong.Body[codec.HeaderSize] ^= 1
		a.Say = func(c *fake.Conn, a *peers.Archive) {
			c.Say(a.Head())
			c.Write(a.Body)
			c.Say(wrong.Head())
			c.Write(wrong.Body)
			c.Hang()
		}
	})
	for range 3 {
		if _, err := l.run(bg); err != nil {
			if l.object.Avoiding() != 1 {
				t.Fatal(err)
			}
			l.bad()
		} else {
			l.good()
		}
		l.targets[0] = &target{index: 2}
	}
}

func TestLargeSegmentsAreRebuiltAndSurviveALieAndAStop(t *testing.T) {
	const seg = 96 << 10
	for _, lie := range []string{"", "flip", "stop"} {
		l := newLab(t, plain, 1, 0, 4)
		l.obj = peers.NewObjectAt(t, l.code, l.pol, name, large, seg, peers.Yesterday())
		l.disk.Put(t, part, l.obj, 0, nil)
		l.open()
		for i := 1; i < 6; i++ {
			l.nodes[i] = peers.New(t, "sdb", hasher)
			if i != 4 {
				l.nodes[i].Hold(l.obj.Archive(i))
			}
		}
		switch lie {
		case "flip":
			l.spoil(2, func(a *peers.Archive) { a.Body[len(a.Body)/2] ^= 1 })
		case "stop":
			l.spoil(2, func(a *peers.Archive) {
				a.Say = func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body[:len(a.Body)-1]) }
			})
		}
		if _, err := l.run(bg); (err != nil) != (lie != "") {
			t.Fatalf("%q: %v", lie, err)
		}
		if lie != "" {
			l.bad()
			l.again()
			if _, err := l.run(bg); err != nil {
				t.Fatalf("%q, second session: %v", lie, err)
			}
		}
		l.good()
	}
}

func TestOneTargetsFailureDoesNotStopTheOther(t *testing.T) { // rule 12
	for _, size := range []int64{single, multi} {
		for _, at := range []int{1, 3} {
			l := newLab(t, isal, size, 0, 2, 5)
			l.targets[0].failAt = at
			res, err := l.run(bg)
			if err != nil {
				t.Fatal(err)
			}
			failed := size > segment || at == 1
			if failed {
				if !errors.Is(res.Sinks[0], errTarget) || l.targets[0].committed || len(l.targets[0].aborts) != 1 {
					t.Errorf("%d bytes, write %d: %v, %+v", size, at, res.Sinks[0], l.targets[0])
				}
				l.targets = l.targets[1:]
			}
			l.good()
			if l.object.Avoiding() != 0 {
				t.Error("a source is blamed for a target")
			}
		}
	}
}

func TestATargetThatFailsIsNotTriedAgain(t *testing.T) {
	for _, change := range []func(*target){
		func(g *target) { g.failAt = 1 },
		func(g *target) { g.commit = errTarget },
	} {
		l := newLab(t, isal, multi, 0, 2)
		change(l.targets[0])
		if _, err := l.run(bg); !errors.Is(err, errTarget) || l.targets[0].sinks != 1 || l.targets[0].committed {
			t.Errorf("%v, %+v", err, l.targets[0])
		}
	}
}

// A target that failed before anything was sent does not fail the others' second try.
func TestALieWhileOneTargetIsGoneIsStillOutlived(t *testing.T) {
	l := newLab(t, wide, single, 0, 2, 5)
	l.spoil(1, func(a *peers.Archive) { a.Body[len(a.Body)-1] ^= 1 })
	l.targets[0].failAt = 1
	if _, err := l.run(bg); err != nil {
		t.Fatal(err)
	}
	l.targets = l.targets[1:]
	l.good()
}

func TestInsufficientCountsAsStockDoes(t *testing.T) {
	for _, c := range []struct {
		what     string
		spoil    func(l *lab)
		have, ok int
		statuses map[int]int
	}{
		{"all the others are gone", func(l *lab) {
			for _, i := range []int{1, 3, 4, 5} {
				l.nodes[i] = peers.New(l.t, "sdb", hasher)
			}
		}, 1, 1, map[int]int{404: 4}},
		{"one too few, of every kind", func(l *lab) {
			l.nodes[3].Refuse(503)
			l.nodes[4].Refuse(507)
			l.nodes[5].Refuse(404)
		}, 2, 2, map[int]int{503: 1, 507: 1, 404: 1}},
		{"no answer", func(l *lab) {
			l.spoil(3, func(a *peers.Archive) { a.Say = func(*fake.Conn, *peers.Archive) {} })
			l.spoil(4, func(a *peers.Archive) { a.Say = func(c *fake.Conn, _ *peers.Archive) { c.Say("hello\r\n\r\n") } })
		}, 3, 3, map[int]int{0: 2}},
		{"no index", func(l *lab) {
			l.spoil(3, func(a *peers.Archive) { delete(a.Fields, "X-Object-Sysmeta-Ec-Frag-Index") })
			l.nodes[4].Refuse(404)
		}, 3, 3, map[int]int{0: 1, 404: 1}},
		// An answer 200 at the local time counts as one, useful or not.
		{"duplicates", func(l *lab) {
			for _, i := range []int{3, 4} {
				l.nodes[i] = peers.New(l.t, "sdb", hasher)
				l.nodes[i].Hold(l.obj.Archive(5))
			}
		}, 3, 5, map[int]int{}},
		{"mixed Ec-Etags", func(l *lab) {
			for _, i := range []int{3, 4} {
				l.spoil(i, func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Etag"] = strings.Repeat("0", 32) })
			}
		}, 3, 5, map[int]int{}},
		// At another time it is none of ours, and no error either.
		{"another time", func(l *lab) {
			l.spoil(3, func(a *peers.Archive) {
				a.Data.Raw++
				a.Fields["X-Backend-Data-Timestamp"] = a.Data.Internal()
			})
			l.nodes[4].Refuse(404)
		}, 3, 3, map[int]int{404: 1}},
		{"archives that proved bad", func(l *lab) {
			l.object.avoid.add(&survivor{}, errTarget)
			p := l.peer(3)
			l.object.avoid.add(&survivor{peer: &p}, errTarget)
		}, 3, 3, map[int]int{0: 2}},
	} {
		l := newLab(t, isal, multi, 0, 2)
		c.spoil(l)
		_, err := l.run(bg)
		e, ok := IsInsufficient(err)
		if !ok {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		l.bad()
		if e.Object != l.object || e.Want != 2 || e.Have != c.have || e.OK != c.ok || fmt.Sprint(e.Statuses) != fmt.Sprint(c.statuses) {
			t.Errorf("%s: %d survivors, %d ok, statuses %v; want %d, %d, %v", c.what, e.Have, e.OK, e.Statuses, c.have, c.ok, c.statuses)
		}
		if len(l.targets[0].buf) != 0 || l.targets[0].sinks != 0 {
			t.Errorf("%s: a sink was asked for", c.what)
		}
		if len(l.notes) != 0 {
			t.Errorf("%s: refusals are noted, although they are in the error: %v", c.what, l.notes)
		}
	}
}

func TestAnswersOfOtherTimesAreCountedByTime(t *testing.T) {
	l := newLab(t, wide, single, 0, 2)
	at := func(raw int64, i int, change func(a *peers.Archive)) {
		l.spoil(i, func(a *peers.Archive) {
			a.Data.Raw += raw
			a.Fields["X-Backend-Data-Timestamp"] = a.Data.Internal()
			change(a)
		})
	}
	at(2, 1, func(a *peers.Archive) {}) // durable is an older one
	at(2, 3, func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Etag"] = strings.Repeat("0", 32) })
	at(2, 4, func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "1" })
	at(2, 5, func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "2" }) // the wanted one
	at(-1, 6, func(a *peers.Archive) { a.Fields["X-Backend-Durable-Timestamp"] = a.Data.Internal() })
	_, err := l.run(bg)
	e, ok := IsInsufficient(err)
	if !ok || e.Have != 8 || e.OK != 8 || len(e.Statuses) != 0 || len(e.Others) != 2 {
		t.Fatalf("%+v, %v", e, err)
	}
	old, young := e.Others[0], e.Others[1]
	if old.Data.Raw != l.obj.Data.Raw-1 || old.Have != 1 || old.OK != 1 || !old.Durable || old.ECEtag != l.obj.ECEtag {
		t.Errorf("%+v", old)
	}
	if young.Data.Raw != l.obj.Data.Raw+2 || young.OK != 4 || young.Have != 1 || young.Durable {
		t.Errorf("%+v", young)
	}
}

func TestTheEndOfTheContextEndsARebuild(t *testing.T) {
	why := errors.New("the pass is over")
	for _, c := range []struct {
		what string
		say  func(ready func()) func(c *fake.Conn, a *peers.Archive)
	}{
		{"while a peer owes its head", func(ready func()) func(c *fake.Conn, a *peers.Archive) {
			return func(c *fake.Conn, a *peers.Archive) { ready(); c.Hang() }
		}},
		{"while a peer owes its body", func(ready func()) func(c *fake.Conn, a *peers.Archive) {
			return func(c *fake.Conn, a *peers.Archive) { c.Say(a.Head()); c.Write(a.Body[:100]); ready(); c.Hang() }
		}},
	} {
		for _, size := range []int64{single, multi} {
			ctx, cancel := context.WithCancelCause(bg)
			l := newLab(t, isal, size, 0, 2)
			l.spoil(1, func(a *peers.Archive) { a.Say = c.say(func() { cancel(why) }) })
			if _, err := l.run(ctx); !errors.Is(err, why) {
				t.Errorf("%s: %v, want the cause", c.what, err)
			}
			if l.object.Avoiding() != 0 {
				t.Errorf("%s: %d archives are blamed for it", c.what, l.object.Avoiding())
			}
			l.bad()
			cancel(nil)
		}
	}
	ctx, cancel := context.WithCancelCause(bg)
	cancel(why)
	l := newLab(t, isal, multi, 0, 2)
	if _, err := l.run(ctx); !errors.Is(err, why) {
		t.Errorf("ended before it began: %v", err)
	}
	l.bad()
}

func TestAPrefetchWithoutSpareMemoryWritesNothing(t *testing.T) { // law 9
	l := newLab(t, isal, multi, 0, 2)
	one := pipeline.StripeSize(l.code, segment, 2)
	l.pool = newPool(2 * one)
	if _, err := l.runFor(bg, l.peers(), []Target{l.targets[0]}, true); !errors.Is(err, pipeline.ErrNoSpare) {
		t.Fatal(err)
	}
	l.bad()
	if n := l.asked(); n != 0 {
		t.Errorf("%d peers were asked for nothing", n)
	}
	if _, err := l.runFor(bg, l.peers(), []Target{l.targets[0]}, false); err != nil {
		t.Fatal(err)
	}
	l.good()
}

func TestTheLeastBusyPeersAreAsked(t *testing.T) { // rule 2
	l := newLab(t, isal, multi, 0, 2)
	busy := l.peer(1)
	l.r.loads.of(&busy).Store(slack * l.object.Length)
	if _, err := l.run0(bg); err != nil {
		t.Fatal(err)
	}
	l.good()
	if n := len(l.nodes[1].Gets()); n != 0 {
		t.Errorf("the busy peer was asked %d times", n)
	}
}

func TestManyRebuildsAtOnceShareThePeers(t *testing.T) {
	l := newLab(t, isal, multi, 0, 2)
	const n = 8
	errs := make(chan error, n)
	for range n {
		go func() {
			acct, err := l.pool.Open(bg, 2*pipeline.StripeSize(l.code, segment, 1))
			if err != nil {
				errs <- err
				return
			}
			defer acct.Close()
			g := &target{index: 2}
			if _, err = l.r.Run(bg, acct, l.object, l.peers(), []Target{g}, false); err == nil && (!g.committed || string(g.buf) != string(l.obj.Frags[2])) {
				err = errors.New("other bytes")
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for i := range l.nodes {
		if i == 0 {
			continue
		}
		p := l.peer(i)
		if n := l.r.loads.of(&p).Load(); n != 0 {
			t.Errorf("%d reads are still counted at peer %d", n, i)
		}
	}
}
