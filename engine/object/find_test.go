package object

import (
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"imping/codec"
	"imping/netfast"
	"imping/netfast/fake"
	"imping/swift/policy"
	"imping/swift/timestamp"
)

// A peer that says impossible things of an object costs no memory to speak of, and nothing that it says is believed.
func TestALyingPeerExhaustsNoMemory(t *testing.T) {
	code, err := codec.New(codec.Scheme{Type: "liberasurecode_rs_vand", K: 2, M: 2})
	if err != nil {
		t.Fatal(err)
	}
	http := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second})
	defer http.Close()
	const at = "1795342301.49613"
	for _, c := range []struct {
		name          string
		size, segment int64
		indexes       string
		found         bool
	}{
		{"what may be", 10, 4096, "0, 1", true},
		{"the same indexes over and over", 10, 4096, strings.Repeat("0,1,", 15000) + "1", true},
		{"indexes that there are not", 10, 4096, "-1, 4, 255, 256, 9223372036854775807", false},
		{"a segment of two gigabytes", 10, math.MaxInt32, "0, 1", false},
		{"a segment of nothing", 10, 0, "0, 1", false},
		{"a size that overflows", math.MaxInt64, 1, "0, 1", false},
	} {
		length := code.ArchiveSize(c.size, int(c.segment))
		addr := fake.Peer(t, func(_ int, conn *fake.Conn) {
			conn.Head()
			conn.Say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Backend-Timestamp: %s\r\nX-Backend-Durable-Timestamp: %s\r\nX-Object-Sysmeta-Ec-Etag: x\r\n"+
				"X-Object-Sysmeta-Ec-Frag-Index: 0\r\nX-Object-Sysmeta-Ec-Content-Length: %d\r\nX-Object-Sysmeta-Ec-Segment-Size: %d\r\nX-Backend-Fragments: {%q: [%s]}\r\n\r\n",
				length, at, at, c.size, c.segment, at, c.indexes))
		})
		o := &Object{Name: "/a/c/o", Policy: &policy.Policy{SegmentSize: 4096}, client: &Client{HTTP: http}, place: &place{code: code}}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := o.head(t.Context(), &node{addr: addr, device: "sda"}, timestamp.Timestamp{})
		if found := r.err == nil && o.of([]*reply{r}, r.Data); found != c.found {
			t.Errorf("%s: found %v, %v", c.name, found, r.err)
		}
		if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 64<<20 {
			t.Errorf("%s: %d bytes were allocated", c.name, after.TotalAlloc-before.TotalAlloc)
		}
	}
	o := &Object{Size: 10}
	if err := o.Copy(t.Context(), io.Discard, math.MaxInt64, 1); err == nil {
		t.Error("bytes that there are not were copied")
	}
}
