package conf

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"imping/lab/oracle"
)

// askSwift reads every folder of files with readconf and with appconfig. A folder of one
// file "conf" is read as that file, others as folders.
const askSwift = `
import base64, json, os, sys, tempfile, warnings
warnings.simplefilter('ignore')
from swift.common.utils import readconf
from swift.common.wsgi import appconfig

def ask(call):
    try:
        conf = call()
    except RecursionError as e:
        return {'Error': 'RecursionError'}
    except Exception as e:
        return {'Error': '%s: %s' % (type(e).__name__, e)}
    return {'Conf': {k: v for k, v in conf.items() if k not in ('__file__', '__name__')}}

answers = []
question = json.load(sys.stdin)
for i, files in enumerate(question['Cases']):
    path = os.path.join(question['Dir'], 'case%d' % i)
    os.mkdir(path)
    for name, data in files.items():
        with open(os.path.join(path, name), 'wb') as f:
            f.write(base64.b64decode(data))
    if list(files) == ['conf']:
        path = os.path.join(path, 'conf')
    answers.append({'Path': path, 'Readconf': ask(lambda: readconf(path, 'a')),
                    'App': ask(lambda: appconfig(path, name='a'))})
json.dump(answers, sys.stdout)
`

type swiftConf struct {
	Error string
	Conf  map[string]string
}

type swiftAnswer struct {
	Path          string
	Readconf, App swiftConf
}

type files = map[string][]byte

func one(text string) files { return files{"conf": []byte(text)} }

// compare asks Swift about all cases at once and reports each difference.
func compare(t *testing.T, cases []files) (read, app int) {
	t.Helper()
	var answers []swiftAnswer
	oracle.Ask(t, askSwift, map[string]any{"Dir": t.TempDir(), "Cases": cases}, &answers)
	for i, answer := range answers {
		s, err := Read(answer.Path, "a")
		if same(t, "Read", cases[i], answer.Readconf, s, err) {
			read++
		}
		s, err = App(answer.Path, "a")
		if same(t, "App", cases[i], answer.App, s, err) {
			app++
		}
	}
	return read, app
}

// same reports whether Swift could read the conf, after comparing.
func same(t *testing.T, what string, in files, want swiftConf, got *Section, err error) bool {
	t.Helper()
	switch {
	case (err != nil) != (want.Error != ""):
		t.Errorf("%s %q: Swift says %v %q, imping %v", what, in, want.Conf, want.Error, err)
	case err == nil:
		if diff := cmp.Diff(want.Conf, got.values); diff != "" {
			t.Errorf("%s %q: Swift (-), imping (+):\n%s", what, in, diff)
		}
	}
	return want.Error == ""
}

// rule 32
func TestOddFilesAreReadAsSwiftReadsThem(t *testing.T) {
	cases := []files{
		one(""),
		one("[a]\n"),
		one("[a]\nx = 1\nY: 2\nz 3 = 4\nfoo:bar=baz\nfoo2=bar:baz\n"),
		one("[DEFAULT]\nUser = swift\nx = 1\n[a]\nX = 2\nuse = egg:swift#object\n"),
		one("[a]\nx=\nuse=\n"),
		one("[a]\nx\n"),
		one("[a]\n= 1\n"),
		one("[a]\n = 1\n"),
		one("x = 1\n[a]\n"),
		one("# first\n; second\n[a]\n# x = 1\nx = 1 # no comment\ny = 2 ; neither\n  ; but this is\n"),
		one("[a]\nx = 1\n  2\n\n\t3\n# 4\n  # 5\n 6\n\n\ny = 7\n"),
		one("  [a]\n  x = 1\n   2\n  y = 3\n z = 4\nw=5\n"),
		one("[a]\n x = 1\ny = 2\n   z = 3\n"),
		one("[a]\nx = 1\n [b]\ny = 2\n"),
		one("[a] # [b]\nx = 1\n"),
		one("[a]]\nx = 1\n[]\n[a]\ny = 1\n"),
		one("[a\nx = 1\n"),
		one("[a]\nx = 1\nx = 2\n"),
		one("[a]\nx = 1\nX = 2\nuse = egg:swift#object\n"),
		one("[a]\nx = 1\n[a]\ny = 2\n"),
		one("[DEFAULT]\nx = 1\n[DEFAULT]\ny = 2\n[a]\n"),
		one("[DEFAULT]\nx = 1\n[DEFAULT]\nx = 2\n[a]\n"),
		one("[a]\nx = 1%\ny = 100%%\nz = %\n"),
		one("[a]\nx = 1\ny = %(x)s2\nz = %(y)s%%\n"),
		one("[a]\nx = 1%\ny = %(x)s\n"),
		one("[a]\nx = 1%%\ny = %(x)s\n"),
		one("[a]\ny = %(x)s\n"),
		one("[a]\ny = %(y)s\n"),
		one("[a]\ny = %()s\n"),
		one("[a]\nx=1\ny = %(x)\n"),
		one("[a]\nx=1\ny = %(x\n"),
		one("[a]\nx=1\ny = %(X)s %(x)s\n"),
		one("[a]\nX=1\ny = %(X)s %(x)s\n"),
		one("[DEFAULT]\nx = %(y)s\ny = d\n[a]\ny = a\nuse = egg:swift#object\nz = %(x)s\n"),
		one("[DEFAULT]\nx = %(y)s\n[a]\ny = a\n"),
		one("[DEFAULT]\nx = %(y)s\ny =\n[a]\nz=1\nuse = egg:swift#object\n"),
		one("[a]\na=%(b)s\nb=%(c)s\nc=%(d)s\nd=%(e)s\ne=%(f)s\nf=%(g)s\ng=%(h)s\nh=%(i)s\ni=%(j)s\nj=%(k)s\nk=1\n"),
		one("[a]\na=%(b)s\nb=%(c)s\nc=%(d)s\nd=%(e)s\ne=%(f)s\nf=%(g)s\ng=%(h)s\nh=%(i)s\ni=%(j)s\nj=%(k)s\nk=%(l)s\nl=1\n"),
		one("[a]\r\nx = 1\r\n  2\r\ny = 3\rz = 4\r\n\r\n"),
		one("[a]\nx = 1\x1f\n\u00a0y\u2003= 2\u00a0\nz = \x85\n\u3000\nw = \x0b1\x0c\n"),
		one("\ufeff[a]\nx = 1\n"),
		one("[a]\nx = caf\u00e9\n\u00c9 = 1\n"),
		one("[a]\nx = \xff\n"),
		one("[a]\nx = 1\x00\n"),
		one("[a]\nlog_name = me\n"),
		one("[a]\nhere = x\n__file__ = y\n__name__ = z\n"),
		// PasteDeploy
		one("[app:a]\n"),
		one("[app:a]\nx = 1\n"),
		one("[app:a]\nuse = egg:swift#object\nx = 1\n"),
		one("[application: a ]\nuse = egg:swift#object\nx = 1\n"),
		one("[ app:a]\nuse = egg:swift#object\n"),
		one("[app:a]\nuse = egg:swift#object\n[application:a]\nuse = egg:swift#object\nx=1\n"),
		one("[app:a]\nuse = egg:swift#object\n[app: a]\nuse = egg:swift#object\nx=1\n"),
		one("[app:a]\nuse = egg:swift#object\n[pipeline:a]\npipeline = a\nx=1\n"),
		one("[DEFAULT]\nx = 1\ny = 2\n[app:a]\nuse = egg:swift#object\nx = 3\nset y = 4\nset  z = 5\nq = %(x)s %(y)s\n"),
		one("[DEFAULT]\nset x = 1\nx = 2\n[app:a]\nuse = egg:swift#object\n"),
		one("[DEFAULT]\ng = 1\n[app:a]\nuse = egg:swift#object\nget x = g\n"),
		one("[DEFAULT]\ng = 1\n[app:a]\nuse = egg:swift#object\nget x = h\n"),
		one("[app:a]\nuse = egg:swift#object\nset y = 4\nget x = y\n"),
		one("[DEFAULT]\nx = 0\n[app:a]\nuse = b\nx = 1\ny = 2\nset z = 3\n[app:b]\nuse = egg:swift#object\ny = 4\nw = 5\nset z = 6\nset v = 7\nset x = 8\n"),
		one("[app:a]\nuse = a\n"),
		one("[app:a]\nuse = b\n"),
		one("[DEFAULT]\nuse = egg:swift#object\n[app:a]\nx = 1\n"),
		one("[app:a]\nuse = egg:swift#object\nx = %(here)s\nfallocate_reserve = 1%\n"),
		one("[app:a]\nuse = egg:swift#object\nfilter-with = f\nx = 1\n[filter:f]\nuse = egg:swift#healthcheck\ny = 2\n"),
		one("[app:a]\nuse = egg:swift#object\nfilter-with = f\n"),
		one("[pipeline:a]\npipeline = f b\n[filter:f]\nuse = egg:swift#healthcheck\n[app:b]\nuse = egg:swift#object\nset x = 1\n"),
		one("[pipeline:a]\npipeline = f b\n[app:b]\nuse = egg:swift#object\n"),
		one("[pipeline:a]\npipeline =\n"),
		one("[pipeline:a]\npipeline = b\nx = 1\n[app:b]\nuse = egg:swift#object\n"),
		one("[filter-app:a]\nuse = egg:swift#healthcheck\nnext = b\nx = 1\n[app:b]\nuse = egg:swift#object\ny = 1\n"),
		one("[filter-app:a]\nuse = egg:swift#healthcheck\n"),
		one("[composite:a]\nuse = egg:swift#object\nx = 1\n"),
		one("[app:a]\nuse = nosuchscheme:x\n"),
		one("[app:a]\nuse = config:conf#b\nx=1\n[app:b]\nuse = egg:swift#object\ny = 1\n"),
		one("[app:a]\npaste.app_factory = swift.obj.server:app_factory\nx=1\n"),
		one("[app:a]\npaste.app_factory = swift.obj.server:app_factory\npaste.composite_factory = swift.obj.server:app_factory\n"),
		one("[app:a]\nuse = egg:swift#object\nx = 1\nX = 2\nhere = 3\n"),
		one("[DEFAULT]\nhere = 3\n__file__ = 4\n[app:a]\nuse = egg:swift#object\nx = %(here)s\n"),
		// folders
		{"1.conf": []byte("[DEFAULT]\nx = 1\n"), "2.conf": []byte("[a]\ny = 2\n[app:a]\nuse = egg:swift#object\n"), "3.conf.bak": []byte("[a]\nz = 3\n"), ".4.conf": []byte("[a]\nw=4\n")},
		{"1.conf": []byte("[a]\nx = 1\n[app:a]\nuse = egg:swift#object\nx = 1\n"), "2.conf": []byte("[a]\nx = 2\n\n 3\n[app:a]\nx = 2\n")},
		{"10.conf": []byte("[a]\nx = 10\n"), "9.conf": []byte("[a]\nx = 9\n")},
		{"1.conf": []byte("x = 1\n"), "2.conf": []byte("[a]\n")},
		{"readme": []byte("[a]\n")},
		{".conf": []byte("[a]\n")},
		{},
	}
	read, app := compare(t, cases)
	if read < 20 || app < 15 {
		t.Errorf("Swift could read only %d and %d cases: the table does not test much", read, app)
	}
}

// randomFiles are files of pieces that matter to the parsers, most of them readable.
func randomFiles() *rapid.Generator[files] {
	names := rapid.SampledFrom([]string{"x", "y", "z", "X", "set x", "set y", "get z", "use", "w 1", "a.b", "h\u00e9"})
	values := rapid.SampledFrom([]string{"", "1", "two words", "1%", "%%", "%(x)s", "%(y)s/%(z)s", "%(X)s", "a=b", "a:b", "# no", "x ; y", "[v]", "\u00e9\u00a0", "egg:swift#object", "b"})
	indents := rapid.SampledFrom([]string{"", "", "", "", " ", "  ", "\t", "\u2003"})
	delimiters := rapid.SampledFrom([]string{" = ", "=", ":", " :", "\t=\u00a0"})
	others := rapid.SampledFrom([]string{"", "", " ", "# comment", "  ; comment", "  more", "\tmore %(x)s", "[DEFAULT]", "[a]", "[app:a]", "[app:b]", " [c]", "bad", "\x1c"})
	heads := rapid.SampledFrom([]string{
		"[a]\n", "[DEFAULT]\n", "[DEFAULT]\nx = 1\ny = 2\n[a]\n", "[a]\nx = 1\n[app:a]\nuse = egg:swift#object\n",
		"[DEFAULT]\nx=d\nz=%(x)s\n[a]\ny=1\n[app:b]\nuse = egg:swift#object\n[app:a]\nuse = b\n",
	})
	ends := rapid.SampledFrom([]string{"\n", "\n", "\n", "\r\n", "\r", "\n\n"})
	text := rapid.Custom(func(t *rapid.T) string {
		var b strings.Builder
		b.WriteString(heads.Draw(t, "head"))
		for range rapid.IntRange(0, 6).Draw(t, "lines") {
			if rapid.IntRange(0, 2).Draw(t, "kind") > 0 {
				b.WriteString(indents.Draw(t, "indent") + names.Draw(t, "name") + delimiters.Draw(t, "delimiter") + values.Draw(t, "value"))
			} else {
				b.WriteString(others.Draw(t, "other"))
			}
			b.WriteString(ends.Draw(t, "end"))
		}
		return b.String()
	})
	return rapid.Custom(func(t *rapid.T) files {
		if rapid.IntRange(0, 3).Draw(t, "folder") > 0 {
			return one(text.Draw(t, "text"))
		}
		return files{"1.conf": []byte(text.Draw(t, "first")), "2.conf": []byte(text.Draw(t, "second"))}
	})
}

// rule 32
func TestRandomFilesAreReadAsSwiftReadsThem(t *testing.T) {
	generator := randomFiles()
	var cases []files
	for seed := range 3000 {
		cases = append(cases, generator.Example(seed))
	}
	read, app := compare(t, cases)
	t.Logf("of %d files Swift could read %d as a daemon's and %d as a server's", len(cases), read, app)
	if read < 500 || app < 200 {
		t.Error("too few files were readable")
	}
}

// FuzzINI checks that no bytes make a parser panic or hang, whatever the dialect.
func FuzzINI(f *testing.F) {
	for _, seed := range []string{"[a]\nx = %(x)s\n", "[DEFAULT]\nx=1\n[app:a]\nuse=a\nset y = 2\n", "[a]\n x=1\n  2\n\r\n[", "\xff[a]\nb:%", "[app:a]\nx=%(y)s%(y)s\ny=%(z)s%(z)s\nz=1"} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, dialect := range []Dialect{Readconf, Paste, Hash, Policies} {
			ini := NewINI(dialect)
			if ini.Parse("fuzz", data) != nil {
				continue
			}
			for _, section := range ini.Sections() {
				ini.Items(section)
			}
		}
		// "use = config:" would read other files; nothing of this machine is wanted here.
		if strings.Contains(string(data), "config") {
			return
		}
		path := filepath.Join(dir, "conf")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := App(path, "a"); err == nil && len(maps.Clone(s.values)) != len(s.Keys()) {
			t.Errorf("Keys() = %q, the values are %q", s.Keys(), s.values)
		}
	})
}
