package object_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"imping/codec"
	"imping/engine/object"
	"imping/lab/embedded"
	"imping/netfast"
	"imping/swift/policy"
)

// An object of 64 MiB, servers in the same process: what an archive's MD5, the object's, encoding and both ends of the network take.
func BenchmarkObject(b *testing.B) {
	c, err := embedded.Start(embedded.Options{Root: b.TempDir(), Nodes: 14, DevicesPerNode: 1, PartPower: 3, Policies: []embedded.Policy{
		{Name: "gold", Scheme: codec.Scheme{Type: "isa_l_rs_vand", K: 10, M: 4}, SegmentSize: 1 << 20}}})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Remove()
	swift, err := policy.Load(c.SwiftConf())
	if err != nil {
		b.Fatal(err)
	}
	http := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second, UserAgent: "imping"})
	defer http.Close()
	client := &object.Client{Swift: swift, Dir: c.SwiftDir(), HTTP: http, ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second}
	data, pol := content(64<<20), swift.Policies[0]
	put := func(b *testing.B) {
		if _, err := client.Put(b.Context(), pol, "/a/c/o", bytes.NewReader(data), object.PutOptions{Size: int64(len(data))}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("put", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			put(b)
		}
	})
	put(b)
	b.Run("get", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			o, err := client.Find(b.Context(), pol, "/a/c/o")
			if err != nil {
				b.Fatal(err)
			}
			if err := o.Copy(b.Context(), io.Discard, 0, o.Size); err != nil {
				b.Fatal(err)
			}
		}
	})
}
