package differential

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"imping/io/diskfile"
	"imping/swift/objhash"
	"imping/swift/suffix"
)

// Verdict is what became of a plan.
type Verdict struct {
	Plan     *Plan
	Features map[Feature]int
	Allowed  map[string]int // differences that are to be, by their reason
	Rounds   [2]int         // of stock, of imping, until nothing changed
	Took     [2]time.Duration
	Problems []string
	Log      []string // of imping's passes
}

func (v *Verdict) wrong(format string, args ...any) {
	v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
}

// excuse is a difference that is to be.
type excuse struct {
	reason string // the rule or stock's mistake
	covers func(j *judgement, d difference) bool
}

// judgement is what an excuse may look at.
type judgement struct {
	*world
	oracle       *oracle
	theirs, ours *repaired
}

// judge compares what stock and imping made.
func (v *Verdict) judge(w *world, o *oracle, theirs, ours *repaired) {
	v.Rounds = [2]int{theirs.rounds, ours.rounds}
	j := &judgement{w, o, theirs, ours}
	if !ours.quiet {
		v.wrong("%v: %d rounds of imping's", errRestless, ours.rounds)
	}
	end := o.files(theirs.tree)
	for _, l := range o.lost {
		if stateOf(end[l.object]).decodable(l.object).Before(l.at) {
			v.Allowed["an older version that could be decoded gives way to fragments of a newer one, as with stock"]++
		} else {
			v.wrong("after round %d of imping: %s of %s could be decoded, and can not any more, and can with stock; there is %v", l.round, l.name, l.at, l.left)
		}
	}
	// Folders come before what lies in them: what is to be there makes them so, too.
	excused := map[string]bool{}
	list := compare(theirs.tree, ours.tree)
	slices.Reverse(list)
	for _, d := range list {
		i := slices.IndexFunc(excuses, func(e excuse) bool { return e.covers(j, d) })
		switch {
		case i >= 0:
			v.Allowed[excuses[i].reason]++
			for at := d.name; at != "."; at = path.Dir(at) {
				excused[at] = true
			}
		case excused[d.name] && (d.stock == nil || d.stock.Dir) && (d.ours == nil || d.ours.Dir):
		default:
			v.wrong("%v", d)
		}
	}
	for _, at := range slices.Sorted(maps.Keys(ours.hashes)) {
		kept, anew := ours.hashes[at][0], ours.hashes[at][1]
		for _, name := range slices.Sorted(maps.Keys(kept)) {
			if maps.Equal(kept[name], anew[name]) {
				continue
			}
			if s, ok := theirs.hashes[at]; ok && maps.Equal(s[0][name], kept[name]) {
				continue // stock keeps the same
			}
			if hashedTooEarly(ours.hashes[at], name) {
				v.Allowed["rule 21: a stock server hashed a fragment before it became durable, and does not invalidate then"]++
				continue
			}
			v.wrong("%s: hashes.pkl says %v of suffix %s, and its files make %v", at, kept[name], name, anew[name])
		}
	}
	if len(v.Problems) > 0 {
		v.Log = ours.log
	}
}

// allowed is the number of differences that are to be.
func (v *Verdict) allowed() (n int) {
	for _, of := range v.Allowed {
		n += of
	}
	return n
}

func (v *Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", v.Plan)
	for _, p := range v.Problems {
		fmt.Fprintf(&b, "  %s\n", p)
	}
	return b.String()
}

// excuses are all differences that are to be. Each is as narrow as it can be.
var excuses = []excuse{
	{"rule 19: stock removes what is no partition", func(_ *judgement, d difference) bool {
		parts := strings.Split(d.name, "/")
		return d.stock == nil && len(parts) >= 3 && strings.HasPrefix(parts[1], "objects") && strings.Trim(parts[2], "0123456789") != ""
	}},
	{"rule 5: stock rebuilds from a corrupt survivor", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		return o != nil && o.spoiled && h.ext == ".data" && d.stock != nil && d.ours != nil && o.sound(h, *d.ours) &&
			d.stock.SHA256 != d.ours.SHA256 && d.stock.Size == d.ours.Size && differOnly(d, "ETag")
	}},
	{"a tombstone that comes and goes on a handoff while a primary is not mounted", func(j *judgement, d difference) bool {
		return j.oracle.restless(d)
	}},
	{"rule 19: stock removes a handoff's partition with what it does not know in it", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		dev, _, _ := strings.Cut(d.name, "/")
		return o != nil && d.stock == nil && h.ext == ".data" && h.index >= o.code.N() && o.index(dev) < 0
	}},
	{"a file with damaged metadata, over which receivers trip: only imping has it put away, and brings what is newer", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		if o == nil || (d.stock == nil) == (d.ours == nil) {
			return false
		}
		if d.ours == nil { // the damaged file itself
			return h.ext == ".data" && d.stock.Problem != "" && j.beside(j.ours.tree, d.name, func(n node, other held) bool { return other.ext == ".ts" && other.at.After(h.at) })
		}
		return (h.ext == ".meta" || h.ext == ".ts") && d.ours.Problem == "" && j.beside(j.theirs.tree, d.name, func(n node, _ held) bool { return n.Problem != "" })
	}},
	{"a tombstone that stock does not bring home, since a partner has a file in place of the object's folder", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		dev, _, _ := strings.Cut(d.name, "/")
		if o == nil || o.index(dev) < 0 || !slices.ContainsFunc(o.primaryDevices(), func(p string) bool { l := j.draft[p][o.dir()]; return l != nil && !l.dir }) {
			return false
		}
		deleted := stateOf(j.oracle.first[o]).tombstone
		isIt := func(_ node, other held) bool { return other.ext == ".ts" && other.at == deleted }
		switch {
		case d.stock == nil:
			return d.ours.Problem == "" && isIt(*d.ours, h)
		case d.ours == nil: // what it deletes
			return h.at.Before(deleted) && j.beside(j.ours.tree, d.name, isIt) && !j.beside(j.theirs.tree, d.name, isIt)
		}
		return false
	}},
	{"a fragment of a version that was lost with either, rebuilt before or not, as newer ones came first or later", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		if o == nil || h.ext != ".data" || (d.stock == nil) == (d.ours == nil) || !slices.ContainsFunc(o.versions, func(v *version) bool { return v.at.After(h.at) }) {
			return false
		}
		n := d.stock
		if n == nil {
			n = d.ours
		}
		for _, tree := range []tree{j.theirs.tree, j.ours.tree} {
			if len(stateOf(j.oracle.files(tree)[o]).indexes[h.at]) >= o.Policy.Data {
				return false
			}
		}
		return o.sound(h, *n)
	}},
	{"an empty partition that comes and goes on a handoff while a primary is not mounted: its partners ask there for hashes", func(j *judgement, d difference) bool {
		return j.emptyPartition(d, func(o *object, dev string) bool {
			return o.index(dev) < 0 && slices.ContainsFunc(o.primaryDevices(), func(p string) bool { return j.oracle.w.draft[p] == nil })
		})
	}},
	{"an empty partition that a primary was asked for by one whose damaged archive went to quarantine sooner with imping", func(j *judgement, d difference) bool {
		return d.ours == nil && j.emptyPartition(d, func(o *object, dev string) bool { return o.index(dev) >= 0 && o.spoiled })
	}},
	{"rule 21: that a fragment is durable is not spread, for a stock server hashed it too early", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		if o == nil || h.ext != ".data" || (d.stock == nil) == (d.ours == nil) || h.durable != (d.ours == nil) {
			return false
		}
		dev, _, _ := strings.Cut(d.name, "/")
		here := path.Join(dev, o.dir())
		_, durable := j.theirs.tree[path.Join(here, dataName(h.at, h.index, true))]
		_, not := j.ours.tree[path.Join(here, dataName(h.at, h.index, false))]
		return durable && not && slices.ContainsFunc(o.primaryDevices(), func(p string) bool {
			return hashedTooEarly(j.ours.hashes[fmt.Sprintf("%s/%d/%d", p, o.Policy.Index, o.part)], objhash.Suffix(o.hash))
		})
	}},
	{"a fragment past reclaim age that is not durable is reclaimed, or made durable, by which pass comes first", func(j *judgement, d difference) bool {
		o, _ := j.oracle.object(d.name)
		return o != nil && (d.ours == nil || j.sound(d)) && slices.ContainsFunc(j.oracle.first[o], func(f place) bool {
			return f.ext == ".data" && j.oracle.old(f.held)
		})
	}},
	{"which of the metadata that was on its way came into a folder before that went to quarantine", func(j *judgement, d difference) bool {
		parts := strings.Split(d.name, "/")
		if len(parts) != 5 || parts[1] != "quarantined" || path.Ext(parts[4]) != ".meta" {
			return false
		}
		folder := path.Dir(d.name)
		return j.theirs.tree[folder].Dir && j.ours.tree[folder].Dir
	}},
	{"metadata that outlived its object, which was deleted: by which came first, tombstone or metadata", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		return o != nil && h.ext == ".meta" && !j.isThere(j.theirs.tree, o) && !j.isThere(j.ours.tree, o) && !stateOf(j.oracle.first[o]).tombstone.IsZero()
	}},
	{"an empty folder with a name of three characters that is no suffix: stock hashes it, and so removes it", func(_ *judgement, d difference) bool {
		parts := strings.Split(d.name, "/")
		return d.stock == nil && d.ours.Dir && len(parts) == 4 && len(parts[3]) == 3 && !suffix.Valid(parts[3])
	}},
	{"rule 1: stock rebuilds a version of which too few fragments are left from those of another", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		return o != nil && j.fabricated(o) && (d.ours == nil || o.sound(h, *d.ours))
	}},
	{"rule 1: stock rebuilds a version from the fragments of another, and from what it made that way", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		return o != nil && h.ext == ".data" && d.stock != nil && d.ours != nil && o.sound(h, *d.ours) && d.stock.SHA256 != d.ours.SHA256 &&
			!o.spoiled && len(stateOf(j.oracle.first[o]).indexes) > 1
	}},
	{"metadata that is not ASCII: stock encodes it once more", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		const key = "X-Object-Meta-Utf8"
		return o != nil && d.stock != nil && d.ours != nil && o.sound(h, *d.ours) && differOnly(d, key, "ETag") &&
			(d.stock.SHA256 == d.ours.SHA256 || o.spoiled) && encodedOnceMore(d.ours.Metadata[key], d.stock.Metadata[key])
	}},
	{"rules 3 and 6: a duplicate is sent where too few fragments are left for stock to rebuild it", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		return o != nil && j.onlyOurs(o, d, h, func(v *version, index int) bool {
			return v.size > 0 && j.onlyADuplicate(o, held{at: v.at, index: index})
		})
	}},
	{"a partition in which imping was about to bring more than stock could", func(j *judgement, d difference) bool {
		parts := strings.Split(d.name, "/")
		return d.stock == nil && d.ours.Dir && len(parts) == 3 && slices.ContainsFunc(j.objects, func(o *object) bool {
			return strings.Join(parts[1:], "/") == j.partition(o) && slices.ContainsFunc(o.versions, func(v *version) bool {
				n := len(stateOf(j.oracle.first[o]).indexes[v.at])
				return n > 0 && n < o.Policy.Data && o.Policy.Duplication > 1
			})
		})
	}},
	{"rot that stock came to read, and imping did not", func(j *judgement, d difference) bool {
		return d.ours != nil && j.isAsDrafted(d.name, d.ours) && slices.ContainsFunc(j.rotBeside(d.name), func(at string) bool {
			n, ok := j.ours.tree[at]
			return ok && j.isAsDrafted(at, &n)
		})
	}},
	{"rot that stock came to read, and imping did not: its quarantine", func(j *judgement, d difference) bool {
		return d.ours == nil && j.inQuarantine(d.name, func(at string) bool {
			n, ok := j.ours.tree[at]
			return ok && j.rotted(at) && j.isAsDrafted(at, &n)
		})
	}},
	{"rule 4: rot that imping came to read, and stock did not", func(j *judgement, d difference) bool {
		o, h := j.oracle.object(d.name)
		return d.stock != nil && j.isAsDrafted(d.name, d.stock) && (d.ours == nil || o.sound(h, *d.ours)) &&
			slices.ContainsFunc(j.rotBeside(d.name), func(at string) bool {
				n, ok := j.theirs.tree[at]
				return ok && j.isAsDrafted(at, &n)
			})
	}},
	{"rule 4: rot that imping came to read, and stock did not: its quarantine", func(j *judgement, d difference) bool {
		return d.stock == nil && j.inQuarantine(d.name, func(at string) bool {
			n, ok := j.theirs.tree[at]
			return ok && j.rotted(at) && j.isAsDrafted(at, &n)
		})
	}},
	{"rot that one came to read, and the other removed unread: obsolete by then, or confirmed by its home", func(j *judgement, d difference) bool {
		other := j.theirs.tree
		if d.ours == nil {
			other = j.ours.tree
		}
		return (d.stock == nil) != (d.ours == nil) && j.inQuarantine(d.name, func(at string) bool {
			dev, _, _ := strings.Cut(at, "/")
			o, h := j.oracle.object(at)
			_, there := other[at]
			return !there && j.rotted(at) && (o.index(dev) != h.index || slices.ContainsFunc(j.oracle.files(other)[o], func(f place) bool {
				return f.at.After(h.at) && (f.ext == ".ts" || f.durable)
			}))
		})
	}},
	{"what is obsolete by its age may go before its folder is put in quarantine, or with it", func(j *judgement, d difference) bool {
		parts := strings.Split(d.name, "/") // device, quarantined, objects, hash, file
		if len(parts) != 5 || parts[1] != "quarantined" || d.stock != nil && d.ours != nil {
			return false
		}
		o := j.oracle.byHash[strings.SplitN(parts[3], "-", 2)[0]]
		h, ok := parse(parts[4])
		return o != nil && ok && j.oracle.old(h)
	}},
}

// object is the one that a file belongs to, and what the file is by its name.
func (o *oracle) object(at string) (*object, held) {
	_, rest, _ := strings.Cut(at, "/")
	obj := o.byHash[path.Base(path.Dir(rest))]
	h, ok := parse(path.Base(rest))
	if obj == nil || path.Dir(rest) != obj.dir() || !ok {
		return nil, h
	}
	return obj, h
}

// onlyOurs says whether a difference comes of imping having brought an archive that stock could not make: it is
// the archive, or metadata that follows it, or something older that it replaced.
func (j *judgement) onlyOurs(o *object, d difference, h held, ofUs func(v *version, index int) bool) bool {
	dev, _, _ := strings.Cut(d.name, "/")
	brought := false
	for _, v := range o.versions {
		name := path.Join(dev, o.dir(), dataName(v.at, o.index(dev), true))
		n, ok := j.ours.tree[name]
		_, stock := j.theirs.tree[name]
		if !ok || stock || !o.sound(held{at: v.at, ext: ".data", index: o.index(dev)}, n) || !ofUs(v, o.index(dev)) {
			continue
		}
		brought = brought || d.stock != nil && d.ours == nil && h.at.Before(v.at) // replaced
		brought = brought || d.stock == nil && (d.name == name || h.ext == ".meta" && o.sound(h, *d.ours))
	}
	if d.stock != nil && d.ours == nil && h.ext == ".meta" { // newer metadata came along
		brought = brought || slices.ContainsFunc(o.versions, func(v *version) bool {
			_, ok := j.ours.tree[path.Join(dev, o.dir(), dataName(v.at, o.index(dev), true))]
			return ok && ofUs(v, o.index(dev)) && j.oracle.obsolete(h, o, dev, j.ours.tree, j.ours.tree)
		})
	}
	return brought
}

// emptyPartition says whether a difference is a partition's folder with nothing in it, that only one has, on a device
// of which is says yes for an object of the partition.
func (j *judgement) emptyPartition(d difference, is func(o *object, dev string) bool) bool {
	parts := strings.Split(d.name, "/")
	tree := j.theirs.tree
	if d.stock == nil {
		tree = j.ours.tree
	}
	for at := range tree {
		if strings.HasPrefix(at, d.name+"/") {
			return false
		}
	}
	return len(parts) == 3 && (d.stock == nil) != (d.ours == nil) && tree[d.name].Dir && slices.ContainsFunc(j.objects, func(o *object) bool {
		return path.Join(parts[1], parts[2]) == j.partition(o) && is(o, parts[0])
	})
}

// isThere says whether anybody has an archive of the object.
func (j *judgement) isThere(t tree, o *object) bool {
	return len(stateOf(j.oracle.files(t)[o]).indexes) > 0
}

// sound says whether what imping has is what it is to be.
func (j *judgement) sound(d difference) bool {
	o, h := j.oracle.object(d.name)
	return o.sound(h, *d.ours)
}

// fabricated says whether stock made an archive of a version that nobody could decode.
func (j *judgement) fabricated(o *object) bool {
	s := stateOf(j.oracle.first[o])
	for at := range j.theirs.tree {
		dev, name, _ := strings.Cut(at, "/")
		if other, h := j.oracle.object(at); other == o && h.ext == ".data" && len(s.indexes[h.at]) < o.Policy.Data && j.draft[dev][name] == nil {
			return true
		}
	}
	return false
}

// onlyADuplicate says whether a version of an object had too few sound fragments to be decoded, but
// that one.
func (j *judgement) onlyADuplicate(o *object, h held) bool {
	indexes := stateOf(j.oracle.first[o]).indexes[h.at]
	return o.Policy.Duplication > 1 && len(indexes) < o.Policy.Data && indexes[h.index]
}

// rotted says whether the draft has a damaged archive there.
func (j *judgement) rotted(at string) bool {
	dev, name, _ := strings.Cut(at, "/")
	o, h := j.oracle.object(at)
	l := j.draft[dev][name]
	if o == nil || !o.spoiled || h.ext != ".data" || l == nil {
		return false
	}
	v := o.version(h.at)
	return v == nil || l.raw == nil || l.checksum != "" || !bytes.Equal(l.body, v.archives[h.index])
}

// rotBeside are the damaged archives of the draft in a file's folder, which goes to quarantine with all it holds.
func (j *judgement) rotBeside(at string) (list []string) {
	dev, name, _ := strings.Cut(at, "/")
	for other := range j.draft[dev] {
		if path.Dir(other) == path.Dir(name) && j.rotted(dev+"/"+other) {
			list = append(list, dev+"/"+other)
		}
	}
	return list
}

// beside says whether a tree has a file of that kind in the folder of another.
func (j *judgement) beside(t tree, name string, is func(node, held) bool) bool {
	for at, n := range t {
		if h, ok := parse(path.Base(at)); ok && path.Dir(at) == path.Dir(name) && is(n, h) {
			return true
		}
	}
	return false
}

func (j *judgement) isAsDrafted(at string, n *node) bool {
	dev, name, _ := strings.Cut(at, "/")
	l := j.draft[dev][name]
	return l != nil && n.SHA256 == fingerprint(l.body) && (n.Problem != "") == (l.raw == nil || l.checksum != "")
}

// inQuarantine says whether what lies in quarantine, or a folder on the way there, is because of a file of
// which is says yes.
func (j *judgement) inQuarantine(at string, is func(at string) bool) bool {
	dev, rest, _ := strings.Cut(at, "/")
	if rest != "quarantined" && !strings.HasPrefix(rest, "quarantined/") {
		return false
	}
	for name := range j.draft[dev] {
		o, _ := j.oracle.object(dev + "/" + name)
		if o == nil || !is(dev+"/"+name) {
			continue
		}
		folder := path.Join("quarantined", o.Policy.DataDir(), o.hash)
		if strings.HasPrefix(folder+"/", rest+"/") || strings.HasPrefix(rest, folder) {
			return true
		}
	}
	return false
}

// differOnly says that no other names of metadata have other values.
func differOnly(d difference, names ...string) bool {
	a, b := maps.Clone(d.stock.Metadata), maps.Clone(d.ours.Metadata)
	for _, n := range names {
		delete(a, n)
		delete(b, n)
	}
	return maps.Equal(a, b)
}

// encodedOnceMore says whether stock's value is ours taken for Latin-1, once for each time that the
// archive was made from one that stock had made.
func encodedOnceMore(ours, stock string) bool {
	for ours != "" && len(ours) < len(stock) {
		if ours = diskfile.Stored(ours); ours == stock {
			return true
		}
	}
	return false
}

// hashedTooEarly says whether hashes.pkl lacks only that a suffix has something durable.
func hashedTooEarly(h partitionHashes, suffix string) bool {
	kept, anew := h[0][suffix], maps.Clone(h[1][suffix])
	delete(anew, "")
	return len(kept)+1 == len(h[1][suffix]) && maps.Equal(kept, anew)
}
