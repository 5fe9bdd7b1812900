package pass

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"imping/codec"
	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/netfast/ssync"
	"imping/swift/objhash"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// PointRequest names the object of a point repair.
type PointRequest struct {
	Object string         // /account/container/object; or
	Hash   string         // of an object of which a local device holds a file, which knows its name
	Policy *policy.Policy // nil: that erasure-code policy in which the object is found
}

// PointReport says what a point repair found and did.
type PointReport struct {
	Object     string          `json:"object"`
	Hash       string          `json:"hash"`
	Policy     int             `json:"policy"`
	PolicyName string          `json:"policy_name"`
	Partition  int             `json:"partition"`
	State      PointState      `json:"state"`
	Reference  *PointReference `json:"reference,omitempty"`
	Have       int             `json:"have"` // distinct indexes of whole archives of the reference; where there is none, of the newest version
	Need       int             `json:"need"`
	Primaries  int             `json:"primaries"`
	Repaired   int             `json:"repaired"` // devices that got something and were seen to hold it
	Left       int             `json:"left"`     // devices on which something is still amiss
	Reason     string          `json:"reason,omitempty"`
	Verdict    *PointVerdict   `json:"verdict,omitempty"` // of Verify
	Notes      []string        `json:"notes,omitempty"`
	Nodes      []*PointNode    `json:"nodes"` // the primaries, and those handoffs of which something is to be said
}

// PointState is the outcome of a point repair.
type PointState string

const (
	PointWhole    PointState = "whole"         // all primaries hold it: nothing was amiss, or all of it was repaired
	PointLeft     PointState = "left"          // something is left
	PointDeleted  PointState = "deleted"       // the newest is a tombstone
	PointHopeless PointState = "beyond repair" // no version has enough archives, or nobody can say which metadata is right
)

// PointReference is the version that is repaired.
type PointReference struct {
	Timestamp string `json:"timestamp"`
	Metadata  string `json:"metadata_timestamp,omitempty"` // of the newest .meta file
	ECEtag    string `json:"etag,omitempty"`
	Size      int64  `json:"size"`
	Source    string `json:"source"` // where its metadata was taken from
}

// PointNode is one device.
type PointNode struct {
	Node    string          `json:"node"` // replication address and device
	Handoff bool            `json:"handoff"`
	Index   int             `json:"fragment_index"` // that belongs there
	Held    []*PointArchive `json:"held"`
	Deleted string          `json:"deleted,omitempty"` // time of a tombstone
	Error   string          `json:"error,omitempty"`   // why nothing is known of it
	Action  string          `json:"action"`
	Left    bool            `json:"left"`
}

// PointArchive is what a device held when it was asked first.
type PointArchive struct {
	Timestamp string `json:"timestamp"`
	Metadata  string `json:"metadata_timestamp,omitempty"`
	Index     int    `json:"fragment_index"`
	Durable   bool   `json:"durable"`
	ECEtag    string `json:"etag"`
	Verified  bool   `json:"verified"` // read whole: its MD5 and all its headers are right
	Problem   string `json:"problem,omitempty"`
}

// pointSource is what a point repair offers and sends: a reference that need not lie on
// a local disk.
type pointSource struct {
	offer   ssync.Offer
	deleted *diskfile.DeletedError // the reference is a tombstone
	object  *rebuild.Object
	put     func(index int) []ssync.Field // header of the archive of an index
	post    []ssync.Field                 // of the .meta file; nil: none
}

// point is a point repair on its way.
type point struct {
	*place
	p          *Pass
	part       int
	hash, name string
	nodes      []*pointNode
	disks      []*diskArchive
	tombstone  *diskfile.DeletedError // the newest on a local disk

	source *pointSource
	ref    *version
	meta   timestamp.Timestamp // of the newest .meta file, zero if none
	unsent string              // why the metadata of that time can not be sent, if so
	here   *diskArchive        // the local archive of the reference, nil if there is none
	report *PointReport
}

// Repair repairs one object on all its primaries, and says node by node what it found
// and did. It works on any node of the cluster: where no local device holds the object's
// newest version, what its survivors answer is the reference (rule 36). An error means
// that it could not run, or that ctx ended it.
func (p *Pass) Repair(ctx context.Context, r *PointRequest) (*PointReport, error) {
	return p.point(ctx, r, (*point).repair)
}

// point looks an object up and does something about it.
func (p *Pass) point(ctx context.Context, r *PointRequest, do func(*point, context.Context) (*PointReport, error)) (*PointReport, error) {
	places, passed, err := p.pointPlaces(r.Policy)
	if err != nil {
		return nil, err
	}
	var found []*point
	defer func() {
		for _, pt := range found {
			pt.close()
		}
	}()
	for _, pl := range places {
		pt, err := p.newPoint(pl, r)
		if err != nil {
			return nil, err
		}
		if pt == nil { // no local file of that hash
			continue
		}
		pt.survey(ctx)
		if ctx.Err() != nil {
			pt.close()
			return nil, context.Cause(ctx)
		}
		if pt.known() {
			found = append(found, pt)
			continue
		}
		pt.close()
		if silent := pt.silent(); len(silent) > 0 {
			passed = append(passed, fmt.Sprintf("in policy %v these did not answer: %s", pl.pol, strings.Join(silent, ", ")))
		}
	}
	switch {
	case len(found) > 1:
		var names []string
		for _, pt := range found {
			names = append(names, pt.pol.String())
		}
		return nil, fmt.Errorf("%s is found in more than one policy (%s): say which one with --policy", found[0].name, strings.Join(names, ", "))
	case len(found) == 1:
		return do(found[0], ctx)
	case r.Object == "":
		return nil, fmt.Errorf("no local device holds a file of hash %s, and nothing else tells the object's name: give --object, or try it on %s", r.Hash, primariesOf(places, r.Hash))
	}
	why := ""
	if len(passed) > 0 {
		why = " (" + strings.Join(passed, "; ") + ")"
	}
	return nil, fmt.Errorf("no node holds anything of %s%s", r.Object, why)
}

// pointPlaces are the policies in which the object is looked for, and why others are not.
func (p *Pass) pointPlaces(only *policy.Policy) (places []*place, passed []string, err error) {
	for _, pol := range p.cfg.Swift.Policies {
		if pol.Type != policy.ErasureCoding || only != nil && pol != only {
			continue
		}
		i := slices.IndexFunc(p.policies, func(pl *place) bool { return pl.pol == pol })
		why := ""
		switch {
		case i < 0:
			why = fmt.Sprintf("policy %v: this version does not know %s", pol, pol.Scheme())
		case p.policies[i].ring.NextPartPower >= 0:
			why = fmt.Sprintf("policy %v: its partition power is being increased", pol)
		default:
			places = append(places, p.policies[i])
			continue
		}
		if only != nil {
			return nil, nil, errors.New(why)
		}
		passed = append(passed, why+", so that nobody was asked")
	}
	if len(places) == 0 {
		return nil, nil, fmt.Errorf("no erasure-code policy to look in%s", strings.Join(append([]string{""}, passed...), "; "))
	}
	return places, passed, nil
}

func primariesOf(places []*place, hash string) string {
	h, err := objhash.Parse(hash)
	if err != nil {
		return "a primary"
	}
	var names []string
	for _, pl := range places {
		for _, node := range pl.ring.PartNodes(pl.ring.Partition(h)) {
			names = append(names, rebuild.NewPeer(pl.pol, node).String())
		}
	}
	return strings.Join(names, ", ")
}

// newPoint looks at the local disks. nil, where only a hash is given and none knows it.
func (p *Pass) newPoint(pl *place, r *PointRequest) (*point, error) {
	pt := &point{place: pl, p: p, name: r.Object, hash: r.Hash}
	if r.Object != "" {
		pt.hash = objhash.Hex(p.cfg.Swift.Hasher().Object(r.Object))
	}
	h, err := objhash.Parse(pt.hash)
	if err != nil {
		return nil, fmt.Errorf("%.80q is no object hash: 32 hexadecimal digits in lower case", pt.hash)
	}
	pt.part = pl.ring.Partition(h)
	pt.report = &PointReport{
		Hash: pt.hash, Policy: pl.pol.Index, PolicyName: pl.pol.Name, Partition: pt.part, Need: pl.code.K(),
	}
	pt.readDisks()
	if pt.name == "" {
		return nil, nil
	}
	pt.report.Object = pt.name
	return pt, nil
}

func (pt *point) close() {
	for _, d := range pt.disks {
		d.file.Close()
	}
}

func (pt *point) known() bool {
	if pt.tombstone != nil {
		return true
	}
	return slices.ContainsFunc(pt.nodes, func(n *pointNode) bool { return len(n.held) > 0 || !n.deleted.IsZero() })
}

// silent are the devices that might hold the object for all that they said.
func (pt *point) silent() (names []string) {
	for _, n := range pt.nodes {
		if n.err != nil {
			names = append(names, n.String())
		}
	}
	return names
}

func (pt *point) note(format string, args ...any) {
	pt.report.Notes = append(pt.report.Notes, fmt.Sprintf(format, args...))
}

// repair decides what the object is and brings it there.
func (pt *point) repair(ctx context.Context) (*PointReport, error) {
	for _, n := range pt.nodes {
		n.describe()
	}
	if at, ok := pt.isDeleted(); ok {
		return pt.repairDeleted(ctx, at)
	}
	pt.ref = pt.agreed()
	if pt.ref == nil {
		return pt.hopeless(pt.tooFew()), nil
	}
	pt.proveAll(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	err := pt.compose()
	pt.report.Have = pt.ref.indexes().Len()
	if err != nil {
		return pt.hopeless(err.Error()), nil
	}
	return pt.send(ctx, pt.complete)
}

// tied is what a device has that takes nothing of the reference, since a tombstone of its very time is there.
const tied = "holds a tombstone of the data's very time, and takes none of it: put the object anew, or delete it"

// isDeleted reports whether the newest that is known for certain is a tombstone. On one device a tombstone makes data of its very time obsolete
// (Swift: obj/diskfile.py, get_ondisk_files), and such a device shows none. What others have of that time counts: the proxy
// serves it, since only a newer tombstone takes a bucket's place (proxy/controllers/obj.py, ECGetResponseCollection.best_bucket), and no
// device takes what another has: PUT and DELETE of that time are answered with 409 (obj/server.py). rule 36
func (pt *point) isDeleted() (timestamp.Timestamp, bool) {
	var at, data timestamp.Timestamp
	if pt.tombstone != nil {
		at = pt.tombstone.Timestamp
	}
	for _, n := range pt.nodes {
		if n.deleted.After(at) {
			at = n.deleted
		}
		for _, h := range n.held {
			if h.durable && h.data.After(data) {
				data = h.data
			}
		}
	}
	return at, at.After(data)
}

// repairDeleted pushes a local tombstone to the primaries that lack it. What others say
// of a deletion is told, no more.
func (pt *point) repairDeleted(ctx context.Context, at timestamp.Timestamp) (*PointReport, error) {
	gone := pt.deletedAt(at)
	if pt.tombstone != nil && pt.tombstone.Timestamp == at {
		pt.report.Reference.Source = "the local tombstone"
		pt.source = &pointSource{deleted: pt.tombstone, offer: ssync.Offer{Hash: pt.hash, Data: at}}
		return pt.send(ctx, gone)
	}
	return pt.tellDeleted(gone, "the tombstone is not on this machine, a pass on a node that has it brings it here"), nil
}

// deletedAt begins the report of a deleted object. gone says whether a device knows that it is.
func (pt *point) deletedAt(at timestamp.Timestamp) (gone func(*pointNode) bool) {
	pt.report.State = PointDeleted
	pt.report.Reference = &PointReference{Timestamp: at.Internal(), Source: "a tombstone"}
	pt.report.Reason = fmt.Sprintf("deleted at %s (%s)", at.Internal(), at.Time().Format(time.RFC3339))
	return func(n *pointNode) bool { return n.deleted == at && len(n.held) == 0 }
}

// tellDeleted ends the report of a deleted object of which nothing is sent, and why.
func (pt *point) tellDeleted(gone func(*pointNode) bool, why string) *PointReport {
	for _, n := range pt.nodes {
		switch {
		case n.err != nil:
			n.report.Action, n.report.Left = n.unreachable(), !n.handoff
		case gone(n):
			n.report.Action = "holds the tombstone"
		case len(n.held) == 0:
			n.report.Action = "holds nothing"
		default:
			n.report.Action, n.report.Left = "still holds data: "+why, !n.handoff
		}
	}
	return pt.finish()
}

// hopeless ends a repair that can not be begun.
func (pt *point) hopeless(why string) *PointReport {
	pt.report.State, pt.report.Reason = PointHopeless, why
	for _, n := range pt.nodes {
		switch {
		case n.err != nil:
			n.report.Action, n.report.Left = n.unreachable(), !n.handoff
		case !n.handoff || len(n.held) > 0:
			n.report.Action = "nothing was written"
		}
	}
	pt.finish()
	pt.report.Left = max(1, pt.report.Left)
	return pt.report
}

// finish counts what the report says.
func (pt *point) finish() *PointReport {
	r := pt.report
	for _, n := range pt.nodes {
		if !n.handoff {
			r.Primaries++
		} else if len(n.held) == 0 && n.deleted.IsZero() && n.err == nil && n.report.Action == "" {
			continue
		}
		if n.report.Left {
			r.Left++
		}
		r.Nodes = append(r.Nodes, n.report)
	}
	if r.State == "" {
		r.State = PointWhole
		if r.Left > 0 {
			r.State = PointLeft
		}
	}
	return r
}

// version is what several nodes hold of one PUT.
type version struct {
	data   timestamp.Timestamp
	ecEtag string
	length int64
	held   []*holding
}

// indexes are those of the archives that nothing is known against.
func (v *version) indexes() codec.Set {
	set := codec.SetOf()
	for _, h := range v.held {
		if h.fit() {
			set = set.With(h.index)
		}
	}
	return set
}

func (v *version) durable() bool {
	return slices.ContainsFunc(v.held, func(h *holding) bool { return h.durable })
}

// versions are all that there are, the newest first.
func (pt *point) versions() []*version {
	var list []*version
	for _, n := range pt.nodes {
		for _, h := range n.held {
			if h.index < 0 || h.index >= pt.code.N() || h.data.IsZero() || h.ecEtag == "" {
				h.problem = errors.New("not an archive of this policy: no fragment index, timestamp or Ec-Etag that fits")
				h.report.Problem = h.problem.Error()
				continue
			}
			i := slices.IndexFunc(list, func(v *version) bool {
				return v.data == h.data && v.ecEtag == h.ecEtag && v.length == h.length
			})
			if i < 0 {
				i = len(list)
				list = append(list, &version{data: h.data, ecEtag: h.ecEtag, length: h.length})
			}
			list[i].held = append(list[i].held, h)
		}
	}
	slices.SortStableFunc(list, func(a, b *version) int { return b.data.Compare(a.data) })
	return list
}

// agreed is the newest version on which enough distinct indexes agree, one of them
// durable (rule 36); nil if there is none. What a tombstone is newer than was deleted, though there be something newer still that has too few.
func (pt *point) agreed() *version {
	deleted, _ := pt.isDeleted()
	for _, v := range pt.versions() {
		if v.durable() && !deleted.After(v.data) && v.indexes().Len() >= pt.code.K() {
			return v
		}
	}
	return nil
}

// tooFew says what there is instead of a version that could be repaired.
func (pt *point) tooFew() string {
	var list []string
	deleted, _ := pt.isDeleted()
	for i, v := range pt.versions() {
		have := v.indexes()
		if i == 0 {
			pt.report.Have = have.Len()
		}
		durable := "durable"
		if !v.durable() {
			durable = "not durable"
		}
		if deleted.After(v.data) {
			durable += ", deleted since"
		}
		list = append(list, fmt.Sprintf("version %s has %d of %d survivors (fragments %v), %s", v.data.Internal(), have.Len(), pt.code.K(), have, durable))
	}
	if len(list) == 0 {
		return "no node holds an archive"
	}
	return "no version can be repaired: " + strings.Join(list, "; ")
}

// complete reports whether a device holds all that belongs there.
func (pt *point) complete(n *pointNode) bool {
	return slices.ContainsFunc(n.held, func(h *holding) bool {
		return pt.isRef(h) && h.index == n.Index && h.durable && h.fit() && h.meta.Compare(pt.meta) >= 0
	})
}

func (pt *point) isRef(h *holding) bool { return h.data == pt.ref.data && h.ecEtag == pt.ref.ecEtag }
