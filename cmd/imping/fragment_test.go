package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imping/engine/rescue"
	"imping/lab/real"
	"imping/lab/scenario"
)

// fragment runs `imping fragment`, which must end with that status, and returns what it said.
func (l *lab) fragment(status int, args ...string) string {
	l.Helper()
	exit, out := l.run(l.self, append([]string{"fragment"}, args...)...)
	if exit != status {
		l.Fatalf("imping fragment %q: status %d, want %d\n%s", args, exit, status, out)
	}
	return out
}

// archives are an object's archives on its primaries, by index.
func (l *lab) archives(layout *scenario.Layout, obj *scenario.Object) []string {
	l.Helper()
	var all []string
	for i, n := range layout.Primaries(obj) {
		path, err := layout.Archive(obj, n.Device.Device)
		if err != nil {
			l.Fatal(err)
		}
		if want := fmt.Sprintf("#%d#d.data", i); !strings.HasSuffix(path, want) {
			l.Fatalf("%s does not end in %s", path, want)
		}
		all = append(all, path)
	}
	return all
}

// decodes fails the test unless the object is decoded from its archives on disk.
func (l *lab) decodes(layout *scenario.Layout, obj *scenario.Object) {
	l.Helper()
	out := filepath.Join(l.TempDir(), "object")
	said := l.fragment(0, append([]string{"decode", "-o", out}, l.archives(layout, obj)...)...)
	if !strings.Contains(said, "proved: the object's MD5 is the one in its metadata") {
		l.Errorf("decode of %v: %s", obj, said)
	}
	l.equal(out, content(l.T, obj))
}

func content(t *testing.T, obj *scenario.Object) []byte {
	t.Helper()
	b, err := io.ReadAll(obj.Content())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (l *lab) equal(path string, want []byte) {
	l.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		l.Errorf("%s is not what it should be (%d bytes, want %d; %v)", path, len(got), len(want), err)
	}
}

// copies copies files into a new folder, with or without their attributes, under names that say nothing.
func (l *lab) copies(paths []string, attributes bool) []string {
	l.Helper()
	dir, err := os.MkdirTemp(shared.root, "saved")
	if err != nil {
		l.Fatal(err)
	}
	how := "--preserve=mode"
	if attributes {
		how = "--preserve=xattr"
	}
	var all []string
	for i, path := range paths {
		to := filepath.Join(dir, fmt.Sprintf("disk %c", 'a'+i))
		var out bytes.Buffer
		if exit, _, err := real.Run(l.Context(), &out, "cp", how, "--", path, to); err != nil || exit != 0 {
			l.Fatalf("cannot copy %s: %v %s", path, err, out.String())
		}
		all = append(all, to)
	}
	return all
}

// Archives copied from the disks of a real cluster, for each scheme that Debian's liberasurecode has.
func TestArchivesSavedFromDisksAreOfUseWithoutACluster(t *testing.T) {
	l := startLab(t)
	policies := append([]string{"isal42", "lec42"}, rareNames()...)
	loaded := l.load(scenario.LoadOptions{Seed: 11, Policies: policies, Sizes: []int64{2*segment + 777}, Kinds: []scenario.Kind{}})
	for _, obj := range loaded.Objects {
		t.Run(obj.Policy.ECType, func(t *testing.T) {
			l := l.with(t)
			onDisk, want := l.archives(loaded.Layout, obj), content(t, obj)
			var was [][]byte
			for _, path := range onDisk {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				was = append(was, b)
			}
			n, out := len(onDisk), t.TempDir()
			object := filepath.Join(out, "object")
			flags := []string{"--ec-type", obj.Policy.ECType,
				"--data", strconv.Itoa(obj.Policy.Data), "--parity", strconv.Itoa(obj.Policy.Parity)}

			// One of data and one of parity are lost; all these codes bear that.
			saved := l.copies(onDisk, true)
			held := slices.Concat(saved[:1], saved[2:n-1])
			l.fragment(0, append([]string{"rebuild", "--index", fmt.Sprintf("1,%d", n-1), "-o", out}, held...)...)
			l.equal(filepath.Join(out, "frag-1"), was[1])
			l.equal(filepath.Join(out, fmt.Sprintf("frag-%d", n-1)), was[n-1])
			l.fragment(0, append([]string{"decode", "-o", object}, held...)...)
			l.equal(object, want)
			l.fragment(0, append([]string{"inspect"}, saved...)...)

			// As proxies encode.
			l.fragment(0, slices.Concat([]string{"encode", "-o", filepath.Join(out, "encoded"), object}, flags)...)
			for i := range was {
				l.equal(filepath.Join(out, "encoded", fmt.Sprintf("frag-%d", i)), was[i])
			}

			// Without their attributes.
			plain := l.copies(onDisk, false)
			if said := l.fragment(1, append([]string{"decode", "-o", object + ".none"}, plain...)...); !strings.Contains(said, "give --ec-type, --data and --parity") {
				t.Errorf("bare files: %s", said)
			}
			if _, err := os.Stat(object + ".none"); err == nil {
				t.Error("something was written nevertheless")
			}
			bare := filepath.Join(out, "bare")
			l.fragment(0, slices.Concat([]string{"rebuild", "--index", "1", "-o", bare}, flags, plain)...)
			l.equal(filepath.Join(bare, "frag-1"), was[1])
			if _, err := scenario.FlipPayloadByte(plain[2], 5); err != nil {
				t.Fatal(err)
			}
			said := l.fragment(0, slices.Concat([]string{"decode", "-o", object}, flags, plain)...)
			l.equal(object, want)
			if !strings.Contains(said, "its content is damaged: it contradicts the other archives") || !strings.Contains(said, plain[2]+": segment ") {
				t.Errorf("a flipped byte of a bare file: %s", said)
			}

			// A payload byte is flipped, a file truncated.
			if _, err := scenario.FlipPayloadByte(saved[0], 5); err != nil {
				t.Fatal(err)
			}
			truncate(t, saved[3])
			l.fragment(0, append([]string{"decode", "-o", object}, saved...)...)
			l.equal(object, want)
			said = l.fragment(1, append([]string{"inspect"}, saved...)...)
			if !strings.Contains(said, "its content is damaged") || !strings.Contains(said, "WRONG: truncated: ") || !strings.Contains(said, "with 2 of ") {
				t.Errorf("inspect: %s", said)
			}
			said = l.fragment(1, append([]string{"inspect", "--json"}, saved...)...)
			var reports []rescue.Report
			if err := json.NewDecoder(strings.NewReader(said[strings.Index(said, "["):])).Decode(&reports); err != nil {
				t.Fatalf("%v:\n%s", err, said)
			}
			for i, r := range reports {
				if bad := i == 0 || i == 3; bad != (len(r.Problems) > 0) || r.Index != i || r.Object != obj.Size || r.Scheme != obj.Policy.Scheme() {
					t.Errorf("%s: fragment %d of %s, %d bytes, %q", r.Path, r.Index, r.Scheme, r.Object, r.Problems)
				}
			}
			said = l.fragment(0, append([]string{"rebuild", "--index", "0,3", "-o", out}, saved...)...)
			l.equal(filepath.Join(out, "frag-0"), was[0])
			l.equal(filepath.Join(out, "frag-3"), was[3])
			for _, text := range []string{saved[3] + ": truncated: ", saved[0] + ": its MD5 is ", "proved: the object's MD5"} {
				if !strings.Contains(said, text) {
					t.Errorf("rebuild does not say %q: %s", text, said)
				}
			}
		})
	}
}

func TestFragmentRefusesWhatItCanNotDo(t *testing.T) {
	dir := t.TempDir()
	object := filepath.Join(dir, "object")
	if err := os.WriteFile(object, []byte("tail feather"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	isal := []string{"--ec-type", "isa_l_rs_vand", "--data", "4", "--parity", "2"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"decode", object}, `required flag(s) "output" not set`},
		{[]string{"rebuild", "-o", out, object}, `required flag(s) "index" not set`},
		{[]string{"decode", "-o", out}, "requires at least 1 arg(s), only received 0"},
		{[]string{"decode", "-o", out, "--data", "4", object}, "--ec-type, --data and --parity are given all three, or none of them"},
		{[]string{"decode", "-o", out, "--ec-type", "shss", "--data", "4", "--parity", "2", object},
			`ec_type "shss": not supported: a proprietary library, whose code is not public`},
		{[]string{"decode", "-o", out, "--segment-size", "no", object}, `--segment-size "no": not a size such as 256MiB or 1GiB`},
		{[]string{"decode", "-o", out, "--segment-size", "2GiB", object}, `--segment-size "2GiB": liberasurecode takes segments of up to 2147483647 bytes`},
		{[]string{"decode", "-o", out, object}, "none of these files is a fragment archive that could be told from its metadata or its headers"},
		{[]string{"encode", "-o", out, object}, "encode needs --ec-type, --data and --parity"},
		{append([]string{"encode", "-o", out, "--libec-version", "1.6", object}, isal...), `--libec-version "1.6": not a version such as 1.6.2`},
		{append([]string{"encode", "-o", out, "--libec-version", "1.600.2", object}, isal...), `--libec-version "1.600.2": not a version such as 1.6.2`},
		{append([]string{"encode", "-o", out, dir}, isal...), dir + ": not a regular file"},
		{[]string{"inspect", object}, "something is wrong with 1 of 1 files"},
	} {
		cmd := fragmentCommand()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(c.args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || err.Error() != c.want {
			t.Errorf("%q: %v, want %s", c.args, err, c.want)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Fatalf("%q: left behind: %v (%v)", c.args, left, err)
		}
	}
}

func TestEncodeStampsTheVersionThatItIsTold(t *testing.T) {
	dir := t.TempDir()
	object := filepath.Join(dir, "object")
	if err := os.WriteFile(object, []byte("tail feather"), 0o600); err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{"": "1.6.2", "--libec-version=1.5.0": "1.5.0"} {
		args := []string{"encode", "-o", dir, "--ec-type", "isa_l_rs_vand", "--data", "4", "--parity", "2", object}
		if flag != "" {
			args = append(args, flag)
		}
		cmd := fragmentCommand()
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := rescue.Inspect(t.Context(), filepath.Join(dir, "frag-4"), rescue.Options{})
		if err != nil || r.Fragments[0].Header.LibecVersion != want {
			t.Errorf("%s: %v, %+v", flag, err, r)
		}
	}
}
