package pass

import (
	"context"
	"sync"
	"time"

	"imping/engine/rebuild"
	"imping/io/diskfile"
	"imping/netfast/fragment"
)

// solitary reports whether the local archive may be all that there is of its object, as of
// one that was deleted while this device was away, so that it is to be put aside. Every
// primary but the target has said 404, but for so few with archives of the same PUT that
// they are no more than quarantine_threshold together with the local one; and so do the
// handoffs up to request_node_count now. Any other answer, or none, and the archive stays
// (rule 20). What handoffs say is added to e.
// Swift: obj/reconstructor.py, _is_quarantine_candidate, _make_fragment_requests.
func (p *Pass) solitary(ctx context.Context, j *job, e *rebuild.Insufficient) bool {
	o, primaries := e.Object, j.ring.PartNodes(j.part)
	candidate := func(asked int) bool {
		return e.OK <= p.cfg.QuarantineMax && e.OK < o.Code.K() && o.LocalFault() == nil && len(e.Others) == 0 &&
			len(e.Statuses) == 1 && e.Statuses[404] > 0 && e.Statuses[404]+e.OK-1 == asked &&
			float64(time.Now().UnixNano())/1e9-o.Data.Seconds() > p.cfg.QuarantineAge.Seconds()
	}
	others := len(primaries) - 2
	if j.point != nil || !candidate(others) {
		return false
	}
	var peers []rebuild.Peer
	for node := range j.ring.MoreNodes(j.part) {
		if len(primaries)+len(peers) >= p.cfg.RequestNodes(len(primaries)) {
			break
		}
		peers = append(peers, rebuild.NewPeer(j.pol, node))
	}
	statuses := make([]int, len(peers))
	var wg sync.WaitGroup
	for i, peer := range peers {
		wg.Go(func() {
			resp, err := fragment.Get(ctx, p.client, &fragment.Request{
				Addr: peer.Addr, Device: peer.Device, Partition: j.part, Name: o.Name, Policy: j.pol.Index, Timestamp: o.Data,
			})
			if err == nil {
				statuses[i] = resp.Status
				resp.Close()
			}
		})
	}
	wg.Wait()
	for _, status := range statuses {
		e.Statuses[status]++
	}
	return candidate(others + len(peers))
}

// putAside quarantines a solitary archive, unless something else has come: the whole directory of the object goes.
func (p *Pass) putAside(j *job, local *diskfile.Object) {
	now, err := j.files.Open(j.dev.Device, j.part, local.Hash, j.index, false)
	if err != nil {
		return
	}
	now.Close()
	if now.Data != local.Data || len(now.Sets) != 1 || len(now.Sets[0].Indexes) != 1 {
		return
	}
	if _, err := j.files.Quarantine(j.dev.Device, j.part, local.Hash); err != nil {
		p.cfg.Log.Errorf("Unable to quarantine %s: %v", local.Path, err)
		return
	}
	p.putAway()
	p.cfg.Log.Warnf("Quarantined object %s: Solitary fragment #%d", local.Path, local.FragIndex)
}
