package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"imping/lab/oracle"
)

// askArgs runs the command line parts of swift-object-reconstructor and swift-object-server:
// the programs themselves up to run_daemon and run_wsgi, which are replaced.
const askArgs = `
import contextlib, io, json, os, runpy, sys
os.environ['COLUMNS'] = '80'
from swift.common import daemon, wsgi
from swift.common.utils import list_from_csv
parsed = {}
daemon.run_daemon = lambda klass, conf, **options: parsed.update(conf=conf, options=options)
wsgi.run_wsgi = lambda conf, section, global_conf_callback=None, **options: parsed.update(conf=conf, options=options) or 7
answers = []
asked = json.load(sys.stdin)
for argv in asked['Lines']:
    parsed.clear()
    out, err, status = io.StringIO(), io.StringIO(), None
    sys.argv = ['/some/where/' + asked['Program']] + argv
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path('/usr/bin/' + asked['Program'], run_name='__main__')
        except SystemExit as e:
            status = None if e.code == 7 else e.code or 0
    answer = {'Failed': status is not None, 'Status': status or 0, 'Stdout': out.getvalue(), 'Stderr': err.getvalue()}
    if parsed:
        o = parsed['options']
        answer['Args'] = {'Conf': parsed['conf'], 'Once': o.get('once', False), 'Verbose': o['verbose'],
                          'Devices': list_from_csv(o.get('devices')), 'Partitions': list_from_csv(o.get('partitions')),
                          'Extra': o.get('extra_args')}
    answers.append(answer)
json.dump(answers, sys.stdout)
`

func TestCommandLineIsReadAsSwiftsProgramReadsIt(t *testing.T) {
	t.Run("swift-object-reconstructor", func(t *testing.T) {
		compareArgs(t, "swift-object-reconstructor", ParseReconstructorArgs)
	})
	t.Run("swift-object-server", func(t *testing.T) { compareArgs(t, "swift-object-server", ParseServerArgs) })
}

func compareArgs(t *testing.T, program string, parse func([]string) (SwiftArgs, error)) {
	path := filepath.Join(t.TempDir(), "1.conf")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lines := [][]string{
		{path},
		{path, "once"},
		{path, "once", "verbose"},
		{path, "verbose", "-o"},
		{"-o", path}, {"--once", path}, {"-v", path}, {"-vo", path}, {"-ov", path, "once"},
		{path, "-d", "sda"}, {path, "-dsda"}, {path, "-d", " sda , ,sdb,"}, {path, "-d", ""}, {path, "-vdsda"}, {path, "-d", "-o"},
		{path, "--devices=sda,sdb", "--partitions", "1,2"}, {path, "--dev=sda"}, {path, "--devices="}, {path, "--devices=a=b"},
		{path, "-d", "sda", "-d", "sdb"}, {path, "-p", "1", "--partitions=2"}, {path, "-p", "x"},
		{path, "once", "other", "words", "-x"}, {path, "once", "other", "words"},
		{"--", path, "-o"}, {path, "--", "once", "--once"}, {path, "-"}, {"-", path},
		{path, "help"}, {path, "ONCE"}, {path, "--o"},
		{}, {"-o"}, {"once"}, {"/no/such.conf"}, {"/no/./such/../such.conf", "once"}, {""}, {"--once"},
		{path, "-x"}, {path, "-\u00e9"}, {path, "--none"}, {path, "--once=yes"}, {path, "--on=1"}, {path, "-d"}, {path, "--devices"}, {path, "--p"}, {path, "-vp"}, {path, "--=x"}, {path, "-ox"},
		{"-h"}, {"--help"}, {"--he", path}, {path, "-oh"}, {"-x", "-h"}, {"-h", "-x"},
		{filepath.Dir(path)}, {path + "/"},
	}
	var answers []struct {
		Failed         bool
		Status         int
		Stdout, Stderr string
		Args           SwiftArgs
	}
	oracle.Ask(t, askArgs, struct {
		Program string
		Lines   [][]string
	}{program, lines}, &answers)
	for i, want := range answers {
		got, err := parse(append([]string{"/some/where/" + program}, lines[i]...))
		if (err != nil) != want.Failed {
			t.Errorf("%q: Swift says %+v, imping %v", lines[i], want, err)
			continue
		}
		if diff := cmp.Diff(want.Args, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q: Swift (-), imping (+):\n%s", lines[i], diff)
		}
		var failure *ArgsError
		if errors.As(err, &failure) {
			if diff := cmp.Diff(&ArgsError{want.Status, want.Stdout, want.Stderr}, failure); diff != "" {
				t.Errorf("%q: Swift (-), imping (+):\n%s", lines[i], diff)
			}
		}
	}
}

// Swift takes these words and breaks down on them later.
func TestListsThatAreMissingAreRefused(t *testing.T) {
	for _, word := range []string{"devices", "partitions"} {
		var failure *ArgsError
		if _, err := ParseReconstructorArgs([]string{"x", "/", word}); !errors.As(err, &failure) || failure.Status != 1 {
			t.Errorf("%s: %v", word, err)
		}
	}
	if _, err := (SwiftArgs{Partitions: []string{"1", "x"}}).PartitionNumbers(); err == nil {
		t.Error("x is taken for a partition")
	}
	if n, err := (SwiftArgs{Partitions: []string{"1", "0", "1"}}).PartitionNumbers(); err != nil || len(n) != 3 {
		t.Error(n, err)
	}
}
