package pass

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"imping/netfast/ssync"
)

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
