package objhash

import "testing"

// FuzzParse reads names of hash directories: what is one is written the same way again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"d41d8cd98f00b204e9800998ecf8427e", "D41D8CD98F00B204E9800998ECF8427E", "", "../../../../../../../../../../../", "d41d8cd98f00b204e9800998ecf8427"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if h, err := Parse(name); err == nil && (Hex(h) != name || len(Suffix(name)) != 3) {
			t.Fatalf("%q is written as %q", name, Hex(h))
		}
	})
}
