package rebuild

import (
	"crypto/md5"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"imping/codec"
	"imping/engine/pipeline"
	"imping/engine/rebuild/peers"
	"imping/lab/faults"
	"imping/netfast/fake"
)

// roomy has survivors to spare for parity, and one more.
var roomy = codec.Scheme{Type: "isa_l_rs_vand", K: 4, M: 4}

// dying is an answer that ends after so many bytes of the body.
func dying(bytes int, end func(*fake.Conn)) func(*fake.Conn, *peers.Archive) {
	return func(c *fake.Conn, a *peers.Archive) {
		c.Say(a.Head())
		c.Write(a.Body[:bytes])
		end(c)
	}
}

func ranges(p *peers.Peer) (list []string) {
	for _, g := range p.Gets() {
		list = append(list, peers.Field(g.Head, "Range"))
	}
	return list
}

// rule 7: nothing fails, nothing is wrong, and of what the others sent no byte is asked for again.
func TestASurvivorThatDiesInTheMiddleIsReplacedByARange(t *testing.T) {
	ends := map[string]func(*fake.Conn){
		"closes": func(*fake.Conn) {},
		"resets": func(c *fake.Conn) { c.SetLinger(0) },
		"stalls": func(c *fake.Conn) { c.Hang() },
	}
	for end, how := range ends {
		for _, mode := range []Verify{VerifyOff, VerifyParity} {
			for _, wanted := range [][]int{{2}, {2, 7}} {
				t.Run(fmt.Sprintf("%s, %v, %d wanted", end, mode, len(wanted)), func(t *testing.T) {
					t.Parallel()
					for seg := range 7 {
						l := newLab(t, roomy, multi, 0, wanted...)
						if l.r.Verify = mode; end == "stalls" {
							if seg%3 != 0 {
								continue
							}
							l.hurry()
						}
						frag := l.code.FragmentSize(segment)
						l.spoil(1, func(a *peers.Archive) { a.Say = dying(seg*frag+33, how) })
						res, err := l.run(bg)
						if err != nil {
							t.Fatalf("segment %d: %v", seg, err)
						}
						l.good()
						read := int64(roomy.K + mode.Spares())
						if want := read*l.object.Length + 33; res.BytesIn != want || res.Replaced != 1 {
							t.Errorf("segment %d: read %d bytes, want %d; %d replaced", seg, res.BytesIn, want, res.Replaced)
						}
						var asked []string
						for _, p := range l.nodes {
							if p != nil {
								asked = append(asked, slices.DeleteFunc(ranges(p), func(s string) bool { return s == "" })...)
							}
						}
						want := []string{fmt.Sprintf("bytes=%d-", seg*frag)}
						if seg == 0 {
							want = nil
						}
						if !slices.Equal(asked, want) || l.asked() != int(read) {
							t.Errorf("segment %d: ranges %v, want %v; %d requests", seg, asked, want, l.asked())
						}
						if l.object.Avoiding() != 1 || l.object.LocalFault() != nil || l.targets[0].sinks != 1 {
							t.Errorf("%d avoided, local %v, %d sinks", l.object.Avoiding(), l.object.LocalFault(), l.targets[0].sinks)
						}
					}
				})
			}
		}
	}
}

// rule 7: what answers a range is judged like any other survivor.
func TestASpareThatIsNoSurvivorIsRefused(t *testing.T) {
	for what, spoil := range map[string]func(a *peers.Archive){
		"another timestamp": func(a *peers.Archive) { a.Fields["X-Backend-Data-Timestamp"] = "9999999999.00000" },
		"another Ec-Etag":   func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Etag"] = strings.Repeat("0", 32) },
		"no index":          func(a *peers.Archive) { delete(a.Fields, "X-Object-Sysmeta-Ec-Frag-Index") },
		"another length":    func(a *peers.Archive) { a.Body = append(a.Body, 0) },
		"the whole": func(a *peers.Archive) {
			whole := a.Body
			a.Say = func(c *fake.Conn, a *peers.Archive) {
				b := *a
				b.Status, b.Body = 200, whole
				b.Fields["Content-Length"] = fmt.Sprint(len(whole))
				c.Say(b.Head())
				c.Write(whole)
			}
		},
		"another range": func(a *peers.Archive) {
			a.Say = func(c *fake.Conn, a *peers.Archive) {
				a.Fields["Content-Range"] = fmt.Sprintf("bytes 0-%d/%d", len(a.Body)-1, len(a.Body))
				c.Say(a.Head())
				c.Write(a.Body)
			}
		},
		"a wrong header": func(a *peers.Archive) { a.Body[len(a.Body)-1200] ^= 1 },
		"404":            func(a *peers.Archive) { a.Status = 404 },
		"507":            func(a *peers.Archive) { a.Status = 507 },
		"an index that is held": func(a *peers.Archive) {
			a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "3"
		},
		"the wanted index": func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "2" },
	} {
		l := newLab(t, roomy, multi, 0, 2)
		l.r.Verify = VerifyOff
		frag := l.code.FragmentSize(segment)
		l.spoil(1, func(a *peers.Archive) { a.Say = dying(3*frag, func(*fake.Conn) {}) })
		l.spoil(5, func(a *peers.Archive) {
			if what == "a wrong header" {
				a.Body[4*frag] ^= 1
				return
			}
			spoil(a)
		})
		if _, err := l.run(bg); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		l.good()
		if n := len(l.nodes[5].Gets()); n == 0 {
			t.Errorf("%s: nobody asked the spare", what)
		}
		want := []string{fmt.Sprintf("bytes=%d-", 3*frag)}
		if what == "a wrong header" {
			want[0] = fmt.Sprintf("bytes=%d-", 4*frag)
		}
		if got := ranges(l.nodes[6]); !slices.Equal(got, want) {
			t.Errorf("%s: the next one was asked for %v, want %v", what, got, want)
		}
	}
}

func TestWithNothingToSpareTheObjectIsBegunAnewWithoutTheDead(t *testing.T) {
	for _, mode := range []Verify{VerifyOff, VerifyParity} {
		l := newLab(t, isal, multi, 0, 2)
		if l.r.Verify = mode; mode == VerifyOff {
			l.nodes[5].Refuse(404) // else it would do
		}
		frag := l.code.FragmentSize(segment)
		l.spoil(1, func(a *peers.Archive) { a.Say = dying(3*frag, func(*fake.Conn) {}) })
		_, err := l.run(bg)
		var source *pipeline.SourceError
		if !errors.As(err, &source) || source.Segment != 3 || !strings.Contains(err.Error(), "no other archive suffices") {
			t.Fatal(err)
		}
		l.bad()
		l.nodes[5].Refuse(0)
		l.again()
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
	}
}

// rules 4 and 7
func TestALocalArchiveThatFailsInTheMiddleIsReplaced(t *testing.T) {
	for _, mode := range []Verify{VerifyOff, VerifyParity} {
		for _, at := range []int64{80, 3000, 5000} {
			l := newLab(t, roomy, multi, 0, 2)
			l.r.Verify = mode
			cut(t, l.path, at)
			if res, err := l.run(bg); err != nil || res.Replaced != 1 {
				t.Fatalf("%+v, %v", res, err)
			}
			l.good()
			if l.object.LocalFault() == nil || l.object.Avoiding() != 1 {
				t.Errorf("local fault %v, %d avoided", l.object.LocalFault(), l.object.Avoiding())
			}
		}
	}
}

// rule 7: under md5 the same archive goes on, from whoever else has it.
func TestUnderMD5ADuplicateOfTheArchiveGoesOn(t *testing.T) {
	for _, good := range []bool{true, false} {
		for seg := range 7 {
			l := newLab(t, isal, multi, 0, 2)
			frag := l.code.FragmentSize(segment)
			l.spoil(1, func(a *peers.Archive) { a.Say = dying(seg*frag+5, func(*fake.Conn) {}) })
			twin := peers.New(t, "sdc", hasher)
			a := l.obj.Archive(1)
			if !good {
				a.Body[len(a.Body)-1] ^= 1
			}
			twin.Hold(a).Hold(l.obj.Archive(4)) // its best one is another
			from := append(l.peers(), Peer{ID: 301, Addr: twin.Addr, Device: twin.Device, Index: 1})
			res, err := l.runFor(bg, from, []Target{l.targets[0]}, false)
			if good {
				if err != nil || res.Replaced != 1 {
					t.Fatalf("segment %d: %+v, %v", seg, res, err)
				}
				l.good()
				if want := int64(4)*l.object.Length + 5; res.BytesIn != want {
					t.Errorf("segment %d: read %d bytes, want %d", seg, res.BytesIn, want)
				}
				continue
			}
			var source *pipeline.SourceError
			if !errors.As(err, &source) || !strings.Contains(err.Error(), "MD5 is") || l.object.Avoiding() != 2 {
				t.Fatalf("segment %d: %v, %d avoided", seg, err, l.object.Avoiding())
			}
			l.bad()
			l.again()
			if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
				t.Fatal(err)
			}
			l.good()
		}
	}
}

// rule 5: one peer more than without, and no MD5.
func TestParityReadsOneSurvivorMore(t *testing.T) {
	for _, s := range []codec.Scheme{isal, plain, wide} {
		for _, size := range []int64{1, single, multi} {
			l := newLab(t, s, size, 0, 2)
			l.r.Verify = VerifyParity
			res, err := l.run(bg)
			if err != nil {
				t.Fatal(err)
			}
			l.good()
			if want := int64(s.K+1) * l.object.Length; l.asked() != s.K || res.BytesIn != want {
				t.Errorf("%v: %d peers were asked, %d bytes read; want %d, %d", s, l.asked(), res.BytesIn, s.K, want)
			}
		}
	}
	flat := codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}
	for wanted := range 10 {
		l := newLab(t, flat, multi, (wanted+4)%10, wanted)
		l.r.Verify = VerifyParity
		if _, err := l.run(bg); err != nil {
			t.Fatalf("%v, fragment %d: %v", flat, wanted, err)
		}
		l.good()
		if n := l.asked(); n > flat.K+1 {
			t.Errorf("%v, fragment %d: %d peers were asked", flat, wanted, n)
		}
	}
}

// rule 5: under parity, too, nothing wrong is ever committed, wherever the wrong byte is, and the liar is found, also one whose MD5 is right.
func TestALiarIsFoundUnderParity(t *testing.T) {
	flat := codec.Scheme{Type: "flat_xor_hd_3", K: 5, M: 5}
	for _, s := range []codec.Scheme{isal, roomy, flat} {
		for _, size := range []int64{single, multi} {
			for _, rot := range []bool{true, false} {
				if !rot && s != roomy { // with one to spare it can not be told
					continue
				}
				for liar := range s.K + s.M {
					for _, seg := range []int64{0, 3, 6} {
						if size < seg*segment || liar == 2 {
							continue
						}
						l := newLab(t, s, size, 0, 2)
						l.r.Verify = VerifyParity
						at := seg*int64(l.code.FragmentSize(segment)) + codec.HeaderSize + 3
						if liar == 0 {
							if !rot {
								continue
							}
							flip(t, l.path, at)
						} else {
							l.spoil(liar, func(a *peers.Archive) {
								if a.Body[at] ^= 1; !rot {
									a.Fields["Etag"] = fmt.Sprintf("%x", md5.Sum(a.Body))
								}
							})
						}
						sessions := 1
						_, err := l.run(bg)
						for ; err != nil && sessions < 3; sessions++ {
							if !l.targets[0].started {
								t.Fatalf("%v, segment %d of %d: %v", s, seg, liar, err)
							}
							l.bad()
							l.again()
							_, err = l.run(bg)
						}
						if err != nil || sessions > 2 || seg == 0 && sessions > 1 {
							t.Fatalf("%v, segment %d of %d, rot %v, %d sessions: %v", s, seg, liar, rot, sessions, err)
						}
						l.good()
						if n := l.object.Avoiding(); n > 1 || sessions > 1 && n != 1 {
							t.Errorf("%v, segment %d of %d: %d are avoided", s, seg, liar, n)
						}
						if local := l.object.LocalFault(); (local != nil) != (liar == 0 && l.object.Avoiding() == 1) {
							t.Errorf("local fault: %v", local)
						}
					}
				}
			}
		}
	}
}

// Survivors of which one was written wrong, and it can not be told which: nothing is sent, now or later.
func TestSurvivorsThatContradictEachOtherForGoodAreGivenUp(t *testing.T) {
	for _, size := range []int64{single, multi} {
		l := newLab(t, isal, size, 0, 2)
		l.r.Verify = VerifyParity
		l.spoil(3, func(a *peers.Archive) {
			a.Body[100] ^= 1
			a.Fields["Etag"] = fmt.Sprintf("%x", md5.Sum(a.Body))
		})
		for range 2 {
			_, err := l.run(bg)
			if _, ok := errors.AsType[*pipeline.Inconsistent](err); !ok {
				t.Fatal(err)
			}
			l.bad()
			if l.object.Avoiding() != 0 {
				t.Errorf("%d are avoided", l.object.Avoiding())
			}
			l.again()
		}
		if n := l.asked(); n > 8 {
			t.Errorf("%d requests: asked again", n)
		}
	}
}

// Survivors that contradict each other in every session, and never when it is looked for who lies: there is an end to that.
func TestAContradictionThatIsNeverFoundAgainIsGivenUpInTheEnd(t *testing.T) { // law 5
	l := newLab(t, isal, multi, 0, 2)
	l.r.Verify = VerifyParity
	good := slices.Clone(l.obj.Archive(3).Body)
	gets := 0
	l.spoil(3, func(a *peers.Archive) {
		at := 5*l.code.FragmentSize(segment) + codec.HeaderSize
		a.Say = func(c *fake.Conn, a *peers.Archive) {
			body := slices.Clone(good)
			if gets++; gets%2 == 1 {
				body[at] ^= 1
			}
			c.Say(a.Head())
			c.Write(body)
		}
	})
	for session := 1; ; session++ {
		_, err := l.run(bg)
		if _, ok := errors.AsType[*pipeline.Inconsistent](err); !ok {
			t.Fatal(session, err)
		}
		l.bad()
		if !l.targets[0].started {
			if session != maxDoubts+1 {
				t.Errorf("given up in session %d", session)
			}
			return
		}
		if session > maxDoubts || !l.object.Forget() {
			t.Fatalf("session %d, and it goes on", session)
		}
		l.again()
	}
}

// A living copy is of no use to go on with: its connection is given back.
func TestASourceIsNotReplacedByTheWantedArchive(t *testing.T) { // rules 6 and 7
	for seg := range 2 {
		l := newLab(t, roomy, multi, 0, 2)
		l.r.Verify = VerifyOff
		l.spoil(1, func(a *peers.Archive) { a.Say = dying(seg*l.code.FragmentSize(segment)+5, func(*fake.Conn) {}) })
		l.spoil(5, func(a *peers.Archive) { a.Fields["X-Object-Sysmeta-Ec-Frag-Index"] = "2" })
		if _, err := l.run(bg); err != nil {
			t.Fatal(err)
		}
		l.good()
		for _, p := range l.peers() {
			if n := l.r.loads.of(&p).Load(); n != 0 {
				t.Errorf("segment %d: %d bytes are still asked of %s", seg, n, p)
			}
		}
	}
}

// rule 5: without a spare parity is md5.
func TestParityWithoutASpareIsMD5(t *testing.T) {
	for _, lie := range []bool{false, true} {
		l := newLab(t, isal, single, 0, 2, 5)
		l.r.Verify = VerifyParity
		if lie {
			l.spoil(3, func(a *peers.Archive) { a.Body[100] ^= 1 })
		}
		_, err := l.run(bg)
		if _, few := IsInsufficient(err); few != lie || l.object.Avoiding() > 0 != lie {
			t.Fatalf("%v, %d avoided", err, l.object.Avoiding())
		}
		if !lie {
			l.good()
		}
	}
	l := newLab(t, isal, multi, 0, 5) // a living copy
	l.r.Verify = VerifyParity
	twin := peers.New(t, "sdb", hasher)
	twin.Hold(l.obj.Archive(5))
	from := append(l.peers(), Peer{ID: 999, Addr: twin.Addr, Device: twin.Device, Index: 5})
	if _, err := l.runFor(bg, from, []Target{l.targets[0]}, false); err != nil {
		t.Fatal(err)
	}
	l.good()
}

// What goes wrong at one node, of all kinds, in the middle of an object or when its archive is asked for in place of another.
func TestFaultsInTheMiddleOfAnObject(t *testing.T) {
	for _, kind := range []faults.Kind{faults.Down, faults.Unmounted, faults.Busy, faults.StallHead, faults.StallBody, faults.Truncate,
		faults.WrongIndex, faults.WrongTime, faults.WrongEtag, faults.Flip, faults.Garbage} {
		for _, mode := range []Verify{VerifyMD5, VerifyParity, VerifyOff} {
			if kind == faults.Flip && mode == VerifyOff {
				continue // this is what the others are for
			}
			t.Run(fmt.Sprintf("%s, %v", kind, mode), func(t *testing.T) {
				t.Parallel()
				for _, node := range []int{1, 5} { // one that is asked first, and one that takes the place of another that dies
					l := newLab(t, roomy, multi, 0, 2)
					l.r.Verify = mode
					l.hurry()
					from := l.peers()
					proxy, err := faults.Listen("127.0.0.1:0", l.nodes[node].Addr)
					if err != nil {
						t.Fatal(err)
					}
					for i := range from {
						if from[i].Index == node {
							from[i].Addr = proxy.Addr()
						}
					}
					if node == 5 {
						l.spoil(3, func(a *peers.Archive) { a.Say = dying(len(a.Body)/2, func(*fake.Conn) {}) })
						for i := range from {
							if from[i].Index == 3 {
								from[i].Addr = l.nodes[3].Addr
							}
						}
					}
					fault := &faults.Fault{Kind: kind, Device: "sdb"}
					if err := proxy.Inject(fault); err != nil {
						t.Fatal(err)
					}
					for session := 1; ; session++ {
						_, err = l.runFor(bg, from, []Target{l.targets[0]}, false)
						if err == nil {
							break
						}
						if mode == VerifyOff || session == 3 {
							t.Fatalf("node %d: %v", node, err)
						}
						l.bad()
						l.again()
					}
					l.good()
					proxy.Lift()
					proxy.Close()
				}
			})
		}
	}
}

func TestVerifyIsSaidInWords(t *testing.T) {
	for _, v := range []Verify{VerifyMD5, VerifyParity, VerifyOff} {
		if got, err := ParseVerify(v.String()); err != nil || got != v {
			t.Errorf("%v: %v, %v", v, got, err)
		}
	}
	if _, err := ParseVerify("crc"); err == nil || err.Error() != `"crc": md5, parity and off are known` {
		t.Error(err)
	}
}
