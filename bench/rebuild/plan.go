package rebuild

import (
	"crypto/md5"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"imping/bench/limit"
	"imping/codec"
	"imping/lab/scenario"
	"imping/netfast/ssync"
	"imping/swift/timestamp"
)

// newPlan is what a rebuild of a load moves: for each object the local archive and those of the lowest indexes that suffice, and a
// session per victim and partition.
func newPlan(p *place, loaded *scenario.Loaded) (*limit.Plan, error) {
	code, err := codec.New(codec.Scheme{Type: p.policy.ECType, K: p.policy.Data, M: p.policy.Parity})
	if err != nil {
		return nil, err
	}
	plan := &limit.Plan{}
	sessions := make([]map[int]*limit.Session, len(p.victims)) // by partition
	for i := range sessions {
		sessions[i] = map[int]*limit.Session{}
	}
	etags := map[int64]string{}
	for _, o := range loaded.Objects {
		length := code.ArchiveSize(o.Size, p.policy.SegmentSize)
		if etags[length] == "" {
			etags[length] = etag(length)
		}
		path, err := p.layout.Archive(o, p.dev)
		if err != nil {
			return nil, err
		}
		stampOf, _, _ := strings.Cut(path[strings.LastIndexByte(path, '/')+1:], "#")
		stamp, err := timestamp.Parse(stampOf)
		if err != nil {
			return nil, err
		}
		name := p.layout.Path(o)
		part, nodes := p.layout.Partition(o), p.layout.Primaries(o)
		var held, want codec.Set
		var offered []int
		sources := map[int]limit.Source{}
		for _, n := range nodes {
			index, dev := p.policy.BackendIndex(n.Index), n.Device.Device
			at := slices.Index(p.victims, dev)
			addr := net.JoinHostPort(n.Device.ReplicationIP, strconv.Itoa(n.Device.ReplicationPort))
			switch {
			case dev == p.dev:
				held = held.With(index)
			case at < 0:
				offered = append(offered, index)
				sources[index] = limit.Source{Addr: addr, Device: dev, Partition: part, Policy: p.policy.Index,
					Path: strings.ReplaceAll(url.PathEscape(name), "%2F", "/")}
			default:
				want = want.With(index)
				s := sessions[at][part]
				if s == nil {
					s = &limit.Session{Target: ssync.Target{Addr: addr, Device: dev, Partition: part, Policy: p.policy.Index, FragIndex: index}}
					sessions[at][part] = s
				}
				s.Puts = append(s.Puts, limit.Put{Hash: p.layout.Hash(o), Stamp: stamp, Head: ssync.PutHead{Path: name, Length: length, Header: []ssync.Field{
					{Key: "X-Timestamp", Value: stamp.Internal()}, {Key: "Content-Type", Value: "application/octet-stream"}, {Key: "ETag", Value: etags[length]},
					{Key: "X-Object-Sysmeta-Ec-Etag", Value: etags[length]}, {Key: "X-Object-Sysmeta-Ec-Content-Length", Value: strconv.FormatInt(o.Size, 10)},
					{Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: strconv.Itoa(index)}, {Key: "X-Object-Sysmeta-Ec-Scheme", Value: p.policy.Scheme()},
					{Key: "X-Object-Sysmeta-Ec-Segment-Size", Value: strconv.Itoa(p.policy.SegmentSize)},
				}}})
			}
		}
		slices.Sort(offered)
		chosen, err := code.Choose(held, offered, want)
		if err != nil {
			return nil, err
		}
		have := held
		for _, i := range chosen {
			have = have.With(i)
		}
		decode, err := code.Plan(have, want)
		if err != nil {
			return nil, err
		}
		object := limit.Object{Length: int(length)}
		for _, i := range decode.In() {
			if held.Has(i) {
				object.Local = path
			} else {
				object.Sources = append(object.Sources, sources[i])
			}
		}
		plan.Objects = append(plan.Objects, object)
	}
	for _, s := range sessions {
		var list []limit.Session
		for _, part := range slices.Sorted(maps.Keys(s)) {
			list = append(list, *s[part])
		}
		plan.Targets = append(plan.Targets, list)
	}
	return plan, nil
}

// etag is the MD5 of an archive that the limit sends.
func etag(length int64) string {
	sum, body := md5.New(), limit.Body()
	for ; length > 0; length -= int64(len(body)) {
		sum.Write(body[:min(length, int64(len(body)))])
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}
