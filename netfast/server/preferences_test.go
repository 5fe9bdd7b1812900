package server

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is read in a hurry is read as JSON would be.
func FuzzUsualPreferences(f *testing.F) {
	for _, value := range []string{
		``, `[]`, `[{"timestamp": "1402444821.72589", "exclude": []}]`, `[{"timestamp": "1402444821.72589_00000000000000ab", "exclude": [0, 13]}, {"timestamp": "1", "exclude": [2]}]`,
		`[{"timestamp": "1402444821.72589", "exclude": [0, ]}]`, `[{"timestamp": "1", "exclude": [01]}]`, `[{"timestamp": "1", "exclude": [-1]}]`, `[{"timestamp": "\u0031", "exclude": []}]`,
		`[{"timestamp": "x", "exclude": []}]`, `[{"timestamp": "1", "exclude": []}, ]`, `[{"timestamp": "1", "exclude": []}`, `[] `, `[{"exclude": [], "timestamp": "1"}]`,
		`[{"timestamp": "1", "exclude": [1]}][{"timestamp": "1", "exclude": []}]`, `[{"timestamp": "1", "exclude": [99999999999]}]`,
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := usualPreferences(value)
		if !ok {
			return
		}
		want, err := anyPreferences(value)
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v %s", value, err, d)
		}
	})
}

func TestUsualPreferencesAreUsual(t *testing.T) {
	for _, value := range []string{`[]`, `[{"timestamp": "1402444821.72589", "exclude": []}]`, `[{"timestamp": "1402444821.72589", "exclude": [0, 13]}, {"timestamp": "1402444821.72588", "exclude": [2]}]`} {
		if _, ok := usualPreferences(value); !ok {
			t.Errorf("%s is not", value)
		}
	}
}

func TestNamesOfFieldsInTitleCase(t *testing.T) {
	for key, want := range map[string]string{
		"": "", "Etag": "Etag", "ETag": "Etag", "x_object-META-foo1bar": "X-Object-Meta-Foo1Bar", "X-Object-Meta-Foo1Bar": "X-Object-Meta-Foo1Bar", "a": "A", "A": "A", "1a": "1A", "\xffa": "\xffA",
	} {
		if got := title(key); got != want {
			t.Errorf("%q: %q, not %q", key, got, want)
		}
	}
}
