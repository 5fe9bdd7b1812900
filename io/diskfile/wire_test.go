package diskfile

import "testing"

func TestMetadataGoesOutAsTheClientsBytes(t *testing.T) {
	for _, c := range []struct{ name, disk, wire string }{
		{"ascii", "text/plain; charset=UTF-8", "text/plain; charset=UTF-8"},
		{"utf-8 of a client, as Python 3 keeps it", "\u00c3\u00a9t\u00c3\u00a9", "été"},
		{"latin-1 of a client, as Python 3 keeps it", "\u00e9t\u00e9", "\xe9t\xe9"},
		{"not written that way: beyond Latin-1", "日本", "日本"},
		{"not written that way: no UTF-8", "\xff\xfe", "\xff\xfe"},
		{"empty", "", ""},
	} {
		if got := Wire(c.disk); got != c.wire {
			t.Errorf("%s: %q went out as %q, want %q", c.name, c.disk, got, c.wire)
		}
	}
	for _, wire := range []string{"", "a/b", "été", "\xe9t\xe9", "日本", "\xff\xfe"} {
		if got := Wire(Stored(wire)); got != wire {
			t.Errorf("%q came back as %q", wire, got)
		}
	}
}
