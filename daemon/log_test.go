package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"imping/lab/oracle"
	"imping/swift/conf"
)

// askSwift logs with Swift's get_logger, as run_daemon calls it, to a socket of its own,
// and returns the datagrams and what went to the console. What logging prints about a
// message that it failed on is not there.
const askSwift = `
import base64, io, json, os, socket, sys, tempfile
from swift.common import utils
from swift.common.daemon import utils as daemon_utils
import logging
logging.raiseExceptions = False
question = json.load(sys.stdin)
path = os.path.join(question['Dir'], 'swift')
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind(path)
sock.setblocking(False)
answers = []
for case in question['Cases']:
    conf = dict(case['Conf'] or {}, log_address=path)
    sys.__stderr__ = io.StringIO()
    log = utils.get_logger(conf, conf.get('log_name', 'route'), log_to_console=True, log_route='route')
    packets = []
    for level, message in case['Lines']:
        getattr(log, level)('%s', message)
        try:
            packets.append(base64.b64encode(sock.recv(1 << 20)).decode())
        except BlockingIOError:
            pass
    answers.append({'Packets': packets, 'Console': sys.__stderr__.getvalue()})
json.dump(answers, sys.stdout)
`

type logCase struct {
	Conf  map[string]string
	Lines [][2]string
}

type logAnswer struct {
	Packets [][]byte
	Console string
}

// shortDir is a folder whose name leaves room in a socket's address.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// listen is a syslog.
func listen(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// receive returns what is there.
func receive(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	buf := make([]byte, 1<<20)
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatalf("no packet came: %v", err)
	}
	return buf[:n]
}

func TestLogLinesAreSwiftsToTheByte(t *testing.T) {
	all := [][2]string{
		{"debug", "one"}, {"info", "two"}, {"notice", "three"}, {"warning", "four"}, {"error", "five"}, {"critical", "six"},
	}
	cases := []logCase{
		{nil, all},
		{map[string]string{"log_name": "me"}, append([][2]string{{"info", "two\nlines\n"}, {"info", ""}, {"error", "caf\u00e9 \x00 \r\t%s %d"}}, all...)},
		{map[string]string{"log_name": ""}, all},
		{map[string]string{"log_name": "a\nb"}, all},
	}
	for _, level := range []string{"debug", "INFO", "Notice", "WARN", "WARNING", "ERROR", "CRITICAL", "FATAL", "NOTSET", "nonsense", ""} {
		cases = append(cases, logCase{map[string]string{"log_level": level}, all})
	}
	facilities := []string{"LOG_LOCAL0", "LOG_LOCAL7", "LOG_KERN", "LOG_USER", "LOG_DAEMON", "LOG_AUTHPRIV", "LOG_FTP", "LOG_NTP", "LOG_SECURITY", "LOG_CONSOLE", "LOG_SOLCRON", "LOG_CRON", "local1", "LOG_LOCAL8", "log_local1", ""}
	for _, facility := range facilities {
		cases = append(cases, logCase{map[string]string{"log_facility": facility}, all})
	}
	for length := range 16 {
		cases = append(cases, logCase{map[string]string{"log_max_line_length": fmt.Sprint(length)}, [][2]string{{"info", "f\u00fcnf\nsix seven eight"}, {"info", "x"}}})
	}
	dir := shortDir(t)
	var answers []logAnswer
	oracle.Ask(t, askSwift, map[string]any{"Dir": dir, "Cases": cases}, &answers)

	path := filepath.Join(dir, "imping")
	syslog := listen(t, path)
	for i, c := range cases {
		options := maps.Clone(c.Conf)
		if options == nil {
			options = map[string]string{}
		}
		options["log_address"] = path
		var console strings.Builder
		log, err := NewLogger(conf.NewSection("a", "/a.conf", options), "route", &console)
		if err != nil {
			t.Fatal(err)
		}
		var got logAnswer
		for _, line := range c.Lines {
			level, write := methods(log, line[0])
			write("%s", line[1])
			if log.Enabled(level) {
				got.Packets = append(got.Packets, receive(t, syslog))
			}
		}
		log.Close()
		got.Console = console.String()
		if diff := cmp.Diff(answers[i], got); diff != "" {
			t.Errorf("%v: Swift (-), imping (+):\n%s", c.Conf, diff)
		}
	}
}

func methods(log *Logger, name string) (slog.Level, func(string, ...any)) {
	switch name {
	case "debug":
		return slog.LevelDebug, log.Debugf
	case "info":
		return slog.LevelInfo, log.Infof
	case "notice":
		return LevelNotice, log.Noticef
	case "warning":
		return slog.LevelWarn, log.Warnf
	case "error":
		return slog.LevelError, log.Errorf
	}
	return LevelCritical, log.Criticalf
}

func newTestLogger(t *testing.T, options map[string]string) *Logger {
	t.Helper()
	log, err := NewLogger(conf.NewSection("a", "/a.conf", options), "route", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

func TestSyslogThatComesBackGetsTheNextLineAndTheNumberOfLostOnes(t *testing.T) {
	path := filepath.Join(shortDir(t), "log")
	first := listen(t, path)
	log := newTestLogger(t, map[string]string{"log_address": path})
	log.Infof("one")
	if got := string(receive(t, first)); got != "<134>route: one\x00" {
		t.Errorf("the first line is %q", got)
	}
	first.Close()
	os.Remove(path)
	log.Infof("two")
	log.Infof("three")
	second := listen(t, path)
	log.Infof("four")
	for _, want := range []string{"<134>route: four\x00", "<132>route: 2 log lines could not be delivered\x00"} {
		if got := string(receive(t, second)); got != want {
			t.Errorf("the line is %q, want %q", got, want)
		}
	}
}

func TestSyslogThatDoesNotReadStopsNobody(t *testing.T) {
	path := filepath.Join(shortDir(t), "log")
	syslog := listen(t, path)
	log := newTestLogger(t, map[string]string{"log_address": path})
	// The queue of a datagram socket holds net.unix.max_dgram_qlen packets, some hundreds
	// at most. A thousand lines end only because most are dropped.
	for i := range 1000 {
		log.Infof("line %d", i)
	}
	// Once it reads again, it hears how many. What is in the queue comes first.
	log.sink.mu.Lock()
	queued := 1000 - log.sink.lost
	log.sink.mu.Unlock()
	if queued == 1000 {
		t.Fatal("no line was dropped: the test does not test")
	}
	for range queued {
		receive(t, syslog)
	}
	log.Infof("again")
	for _, want := range []string{"<134>route: again\x00", fmt.Sprintf("<132>route: %d log lines could not be delivered\x00", 1000-queued)} {
		if got := string(receive(t, syslog)); got != want {
			t.Errorf("the line is %q, want %q", got, want)
		}
	}
}

func TestSyslogMayListenOnAStream(t *testing.T) {
	path := filepath.Join(shortDir(t), "log")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	log := newTestLogger(t, map[string]string{"log_address": path})
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	log.Infof("one")
	if got := string(receive(t, conn)); got != "<134>route: one\x00" {
		t.Errorf("the line is %q", got)
	}
}

func TestLinesGoToUDPWhenTheConfSaysSo(t *testing.T) {
	syslog, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer syslog.Close()
	port := syslog.LocalAddr().(*net.UDPAddr).Port
	log := newTestLogger(t, map[string]string{"log_udp_host": "127.0.0.1", "log_udp_port": fmt.Sprint(port), "log_facility": "LOG_LOCAL2", "log_level": "DEBUG"})
	log.Debugf("one")
	if got := string(receive(t, syslog)); got != "<151>route: one\x00" {
		t.Errorf("the line is %q", got)
	}
}

func TestNoSyslogIsNoError(t *testing.T) {
	log := newTestLogger(t, map[string]string{"log_address": filepath.Join(shortDir(t), "none")})
	log.Errorf("one")
	plain := filepath.Join(shortDir(t), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	newTestLogger(t, map[string]string{"log_address": plain}).Errorf("one")
}

func TestWrongLogOptionsAreNamed(t *testing.T) {
	for _, option := range []string{"log_max_line_length", "log_udp_port"} {
		sec := conf.NewSection("a", "/a.conf", map[string]string{"log_udp_host": "127.0.0.1", option: "many"})
		if _, err := NewLogger(sec, "route", nil); err == nil || !strings.Contains(err.Error(), "/a.conf [a] "+option) {
			t.Errorf("the error of %s is %v", option, err)
		}
	}
}

func TestSlogAttributesAndPrefixesJoinTheMessage(t *testing.T) {
	var console bytes.Buffer
	log, err := NewLogger(conf.NewSection("a", "", map[string]string{"log_address": "/none"}), "route", &console)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	worker := log.WithPrefix("[worker 1/2 pid=3] ")
	worker.Infof("start")
	worker.Slog().With("a", 1).WithGroup("g").Warn("text", "b", "two words")
	log.Close()
	log.Infof("after")
	want := "route: [worker 1/2 pid=3] start\nroute: [worker 1/2 pid=3] text a=1 g.b=two words\nroute: after\n"
	if console.String() != want {
		t.Errorf("the console has\n%swant\n%s", console.String(), want)
	}
}
