package pass

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"imping/engine/rebuild/peers"
	"imping/io/diskfile"
	"imping/netfast/fake"
	"imping/swift/objhash"
	"imping/swift/suffix"
)

var rewrite = flag.Bool("rewrite", false, "write what came out into testdata")

// Each block of testdata/plans.txt is a partition as it lies on the local device and on
// its three partners: words like a@1 are objects, with the time of the data in seconds,
// and behind it one of
//
//	?    the archive is not durable
//	x    it is a tombstone
//	+5   there is a .meta file of that time
//	#3   the archive has this index, and not the node's
//
// "pkl:" is what hashes.pkl says of the local device, where that is not the truth.
// !507 and the like is how a partner answers REPLICATE. Behind the dashes stands which
// suffixes, named by their objects, are synced with whom, and what the pass left.
func TestPlans(t *testing.T) {
	path := filepath.Join("testdata", "plans.txt")
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(strings.TrimSpace(string(file)), "\n\n")
	for i, block := range blocks {
		in, want, _ := strings.Cut(block+"\n", "\n----\n")
		want = strings.TrimSuffix(want, "\n")
		title, _, _ := strings.Cut(in, "\n")
		t.Run(strings.TrimPrefix(title, "# "), func(t *testing.T) {
			got := plan(t, in)
			if got != want && !*rewrite {
				t.Errorf("%s\n----\n%s\n\nwant\n%s", in, got, want)
			}
			blocks[i] = in + "\n----\n" + got
		})
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(strings.Join(blocks, "\n\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var places = map[string]int{"local": own, "left": left, "right": right, "far": far}

func plan(t *testing.T, in string) string {
	l := newLab(t)
	l.only()
	for line := range strings.Lines(in) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		who, what, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("not a line of a plan: %q", line)
		}
		words := strings.Fields(what)
		index, known := places[who]
		switch {
		case who == "pkl":
			other := peers.Disk{Root: t.TempDir(), Device: "sda", Policy: l.pol, Hasher: hasher}
			l.lay(other, own, words)
			file := &suffix.File{Valid: true, Updated: 1, Hashes: l.hashes(other)}
			write(t, filepath.Join(l.files.PartitionPath("sda", 0), "hashes.pkl"), file.Encode())
		case !known:
			t.Fatalf("nobody is called %q", who)
		case index == own:
			l.lay(l.disk, own, words)
		case len(words) == 1 && strings.HasPrefix(words[0], "!"):
			l.peers[index].Hashes(badHashes(t, words[0]))
		default:
			disk := peers.Disk{Root: t.TempDir(), Device: "sda", Policy: l.pol, Hasher: hasher}
			l.lay(disk, index, words)
			answer := peers.OK(l.hashes(disk).Encode())
			l.peers[index].Hashes(func(int, *fake.Conn) []byte { return answer })
		}
	}
	result := l.run(context.Background())

	var out strings.Builder
	for _, who := range []string{"left", "right", "far"} {
		for _, s := range l.peers[places[who]].Sessions() {
			var names []string
			for _, o := range s.Offers {
				hash, what, _ := strings.Cut(o, " ")
				for letter := 'a'; letter <= 'z'; letter++ {
					if objhash.Hex(hasher.Object(objectName(string(letter)))) == hash {
						if _, more, ok := strings.Cut(what, " "); ok {
							more, _, _ = strings.Cut(more, ":")
							names = append(names, string(letter)+" ("+more+")")
						} else {
							names = append(names, string(letter))
						}
					}
				}
			}
			slices.Sort(names)
			if len(names) == 0 {
				names = []string{"(nothing to offer)"}
			}
			fmt.Fprintf(&out, "%s: %s\n", who, strings.Join(names, " "))
		}
	}
	g := &l.pass.Progress
	fmt.Fprintf(&out, "suffixes %d, synced %d, asked %d", g.Suffixes.Load(), g.SuffixesSynced.Load(),
		l.peers[left].Asked()+l.peers[right].Asked()+l.peers[far].Asked())
	if result.Any() {
		fmt.Fprintf(&out, "\nleft: %d partitions, %d to revert, %d listed", result.Partitions, result.Handoffs, len(l.pass.Unrepaired()))
	}
	if result.Objects+result.Devices+result.Policies > 0 || result.Interrupted {
		t.Errorf("left %+v", result)
	}
	return out.String()
}

// objectName is that of a letter; each lies in a suffix of its own.
func objectName(letter string) string { return "/account/container/" + letter }

func TestLettersLieInSuffixesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for letter := 'a'; letter <= 'z'; letter++ {
		seen[objhash.Suffix(objhash.Hex(hasher.Object(objectName(string(letter)))))] = true
	}
	if len(seen) != 26 {
		t.Errorf("%d suffixes: choose another salt", len(seen))
	}
}

// lay writes what the words say into partition 0 of a device.
func (l *lab) lay(disk peers.Disk, index int, words []string) {
	l.t.Helper()
	if err := os.MkdirAll(filepath.Join(disk.Root, disk.Device, l.pol.DataDir(), "0"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	for _, word := range words {
		name, rest, ok := strings.Cut(word, "@")
		var seconds, meta int
		index := index
		if _, err := fmt.Sscan(strings.TrimRight(strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune("?x+#", r) })[0], " "), &seconds); err != nil || !ok {
			l.t.Fatalf("not an object: %q", word)
		}
		if _, i, ok := strings.Cut(rest, "#"); ok {
			fmt.Sscan(i, &index)
		}
		if strings.HasSuffix(rest, "x") {
			disk.PutTombstone(l.t, 0, objectName(name), at(seconds))
			continue
		}
		o := peers.NewObjectAt(l.t, l.code, l.pol, objectName(name), 10, segment, at(seconds))
		path := disk.Put(l.t, 0, o, index, nil)
		if strings.HasSuffix(rest, "?") {
			if err := os.Rename(path, strings.Replace(path, "#d.data", ".data", 1)); err != nil {
				l.t.Fatal(err)
			}
		}
		if _, m, ok := strings.Cut(rest, "+"); ok {
			fmt.Sscan(m, &meta)
			disk.PutMeta(l.t, 0, o.Name, at(meta), nil)
		}
	}
}

// hashes are those that a server with such a disk answers.
func (l *lab) hashes(disk peers.Disk) suffix.Hashes {
	l.t.Helper()
	files := diskfile.NewManager(diskfile.Config{Devices: disk.Root, Policy: l.pol, Hasher: hasher, ReclaimAge: diskfile.DefaultReclaimAge, CommitWindow: time.Minute})
	hashes, _, err := files.SuffixHashes(disk.Device, 0, nil, true)
	if err != nil {
		l.t.Fatal(err)
	}
	return hashes
}

// badHashes are answers to REPLICATE that help nobody.
func badHashes(t *testing.T, word string) func(int, *fake.Conn) []byte {
	answers := map[string][]byte{
		"!None":    peers.OK((suffix.Hashes)(nil).Encode()),
		"!garbage": peers.OK([]byte("I am not a pickle")),
		"!hostile": peers.OK([]byte("\x80\x02cposix\nsystem\nU\x02idR.")),
		"!bomb":    peers.OK([]byte("\x80\x02}(U\x03abc" + strings.Repeat("}(K\x00", 1000) + ".")),
		"!list":    peers.OK([]byte("]."))}
	var status int
	if _, err := fmt.Sscanf(word, "!%d", &status); err == nil {
		return func(int, *fake.Conn) []byte { return peers.Status(status) }
	}
	if answer, ok := answers[word]; ok {
		return func(int, *fake.Conn) []byte { return answer }
	}
	says := map[string]string{
		"!hangup": "", "!short": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n\x80\x02}", "!ssh": "SSH-2.0-OpenSSH_9.2\r\n",
		"!huge": "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
	}
	say, ok := says[word]
	if !ok {
		t.Fatalf("nobody answers %s; known are %v", word, slices.Sorted(maps.Keys(says)))
	}
	return func(_ int, c *fake.Conn) []byte { c.Say(say); return nil }
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
