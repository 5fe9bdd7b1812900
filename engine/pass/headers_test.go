package pass

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/netfast/ssync"
)

func TestMetadataGoesOutAsTheClientsBytes(t *testing.T) {
	for _, c := range []struct{ name, disk, wire string }{
		{"ascii", "text/plain; charset=UTF-8", "text/plain; charset=UTF-8"},
		{"utf-8 of a client, as Python 3 keeps it", "\u00c3\u00a9t\u00c3\u00a9", "été"},
		{"latin-1 of a client, as Python 3 keeps it", "\u00e9t\u00e9", "\xe9t\xe9"},
		{"not written that way: beyond Latin-1", "日本", "日本"},
		{"not written that way: no UTF-8", "\xff\xfe", "\xff\xfe"},
		{"empty", "", ""},
	} {
		if got := wire(c.disk); got != c.wire {
			t.Errorf("%s: %q went out as %q, want %q", c.name, c.disk, got, c.wire)
		}
	}
}

func TestPutCarriesAllMetadataButNameLengthAndETag(t *testing.T) {
	got := putFields(map[string]string{
		"name": "/a/c/o", "Content-Length": "16", "ETag": "cafe", "X-Timestamp": "1.00000", "Content-Type": "a/b",
		"X-Object-Sysmeta-Ec-Frag-Index": "3", "X-Object-Sysmeta-Ec-Etag": "beef", "X-Delete-At": "99",
	}, 5)
	want := []ssync.Field{
		{Key: "Content-Type", Value: "a/b"}, {Key: "X-Delete-At", Value: "99"},
		{Key: "X-Object-Sysmeta-Ec-Etag", Value: "beef"}, {Key: "X-Object-Sysmeta-Ec-Frag-Index", Value: "5"},
		{Key: "X-Timestamp", Value: "1.00000"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("fields differ (-want +got):\n%s", d)
	}
}

func TestPostCarriesAllMetadataButTheName(t *testing.T) {
	got := postFields(map[string]string{"name": "/a/c/o", "X-Timestamp": "2.00000", "X-Object-Meta-Color": "red"})
	want := []ssync.Field{{Key: "X-Object-Meta-Color", Value: "red"}, {Key: "X-Timestamp", Value: "2.00000"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("fields differ (-want +got):\n%s", d)
	}
}
