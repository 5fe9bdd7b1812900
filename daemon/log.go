// Package daemon is what makes a process one of Swift's daemons: its log lines, command
// line, user, priorities, limits, session and signals. It knows nothing of objects, rings
// or what the daemon does.
package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"unicode/utf8"

	"imping/swift/conf"
)

// The levels that Swift has beside slog's. Swift: common/utils.py, NOTICE.
const (
	LevelNotice   = slog.LevelInfo + 2
	LevelCritical = slog.LevelError + 4
)

// Logger writes log lines as Swift's get_logger does: to syslog and, when asked for, to a
// console. It is goroutine-safe. A syslog that is away or does not read never stops the
// caller for long: lines are dropped then, and their number is logged once it is back.
type Logger struct {
	slog *slog.Logger
	sink *sink
}

// sink is what all loggers with the same settings share.
type sink struct {
	name      string // what stands before the colon
	plain     bool   // nothing stands there
	level     slog.Level
	facility  int
	maxLength int // of a line, in characters; 0 for no limit

	mu      sync.Mutex
	syslog  transport
	console io.Writer // nil for none
	lost    int       // lines that were dropped since the last one that was sent
}

// NewLogger reads the options log_name (default: route), log_level, log_facility,
// log_address, log_udp_host, log_udp_port and log_max_line_length. Lines also go to console
// unless it is nil. A syslog that does not run is no error; a value that Swift would not
// start with is one. Swift: common/utils.py, get_logger.
func NewLogger(sec *conf.Section, route string, console io.Writer) (*Logger, error) {
	if sec == nil {
		sec = &conf.Section{}
	}
	maxLength, err := sec.Int("log_max_line_length", 0)
	if err != nil {
		return nil, err
	}
	s := &sink{
		name:      sec.Get("log_name", route),
		level:     logLevel(sec.Get("log_level", "INFO")),
		facility:  logFacility(sec.Get("log_facility", "LOG_LOCAL0")),
		maxLength: maxLength,
		console:   console,
	}
	if s.syslog, err = newTransport(sec); err != nil {
		return nil, err
	}
	return newLogger(s, ""), nil
}

// OptLogTexts is the option of all our programs that MasterTexts reads.
const OptLogTexts = "imping_log_texts"

// MasterTexts reports whether log lines are to be those of Swift's master where they are not 2.30.1's (rule 37).
func MasterTexts(sec *conf.Section) (bool, error) {
	switch sec.Get(OptLogTexts, "2.30") {
	case "2.30":
		return false, nil
	case "master":
		return true, nil
	}
	return false, sec.Errorf(OptLogTexts, "2.30 or master")
}

// NewPlainLogger writes messages of at least that level to w, and nothing else: what Swift's programs do that run without a conf.
func NewPlainLogger(w io.Writer, level slog.Level) *Logger {
	return newLogger(&sink{plain: true, level: level, console: w, syslog: nothing{}}, "")
}

func newLogger(s *sink, prefix string) *Logger {
	return &Logger{slog: slog.New(&handler{sink: s, prefix: prefix}), sink: s}
}

// WithPrefix returns a logger that writes prefix before each message, such as a worker's
// number. It shares the socket with l. Swift: common/utils.py, PrefixLoggerAdapter.
func (l *Logger) WithPrefix(prefix string) *Logger { return newLogger(l.sink, prefix) }

// Slog returns the logger for packages that know slog only. Attributes follow the message
// as " key=value".
func (l *Logger) Slog() *slog.Logger { return l.slog }

// Enabled reports whether lines of that level are written.
func (l *Logger) Enabled(level slog.Level) bool { return level >= l.sink.level }

// Debugf logs under Python's DEBUG, syslog's debug.
func (l *Logger) Debugf(format string, args ...any) { l.logf(slog.LevelDebug, format, args) }

// Infof logs under INFO.
func (l *Logger) Infof(format string, args ...any) { l.logf(slog.LevelInfo, format, args) }

// Noticef logs under NOTICE, which Swift puts between INFO and WARNING.
func (l *Logger) Noticef(format string, args ...any) { l.logf(LevelNotice, format, args) }

// Warnf logs under WARNING.
func (l *Logger) Warnf(format string, args ...any) { l.logf(slog.LevelWarn, format, args) }

// Errorf logs under ERROR.
func (l *Logger) Errorf(format string, args ...any) { l.logf(slog.LevelError, format, args) }

// Criticalf logs under CRITICAL.
func (l *Logger) Criticalf(format string, args ...any) { l.logf(LevelCritical, format, args) }

func (l *Logger) logf(level slog.Level, format string, args []any) {
	if l.Enabled(level) {
		l.slog.Log(context.Background(), level, fmt.Sprintf(format, args...))
	}
}

// Close closes the socket, not the console. Lines after it go to the console only.
func (l *Logger) Close() {
	l.sink.mu.Lock()
	defer l.sink.mu.Unlock()
	l.sink.syslog.close()
	l.sink.syslog = nothing{}
}

// handler is the slog.Handler in front of a sink.
type handler struct {
	sink   *sink
	prefix string
	attrs  string // " key=value", as it follows the message
	group  string // "group." before the keys of attributes
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.sink.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	message := h.prefix + r.Message + h.attrs
	r.Attrs(func(a slog.Attr) bool {
		message += h.attr(a)
		return true
	})
	h.sink.log(r.Level, message)
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	for _, a := range attrs {
		with.attrs += h.attr(a)
	}
	return &with
}

func (h *handler) WithGroup(name string) slog.Handler {
	with := *h
	with.group += name + "."
	return &with
}

func (h *handler) attr(a slog.Attr) string {
	return fmt.Sprintf(" %s%s=%v", h.group, a.Key, a.Value.Resolve())
}

func (s *sink) log(level slog.Level, message string) {
	line := s.format(message)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.console != nil {
		io.WriteString(s.console, line+"\n") // a console that is gone is no reason to stop
	}
	if s.syslog.send(s.packet(level, line)) != nil {
		s.lost++
		return
	}
	if s.lost > 0 {
		late := s.packet(slog.LevelWarn, s.format(fmt.Sprintf("%d log lines could not be delivered", s.lost)))
		if s.syslog.send(late) == nil {
			s.lost = 0
		}
	}
}

// packet is a line as syslog gets it, with the NUL that Python's SysLogHandler puts at the
// end.
func (s *sink) packet(level slog.Level, line string) []byte {
	return fmt.Appendf(nil, "<%d>%s\x00", s.facility<<3|severity(level), line)
}

// format makes a line of a message. Swift: common/utils.py, SwiftLogFormatter.
func (s *sink) format(message string) string {
	if !s.plain {
		message = s.name + ": " + message
	}
	line := strings.ReplaceAll(message, "\n", "#012")
	line = strings.ToValidUTF8(line, "\ufffd")
	if s.maxLength <= 0 || utf8.RuneCountInString(line) <= s.maxLength {
		return line
	}
	chars := []rune(line)
	if s.maxLength < 7 {
		return string(chars[:s.maxLength])
	}
	half := (s.maxLength - 5) / 2
	return string(chars[:half]) + " ... " + string(chars[len(chars)-half:])
}

// severity is syslog's number for a level.
func severity(level slog.Level) int {
	switch {
	case level >= LevelCritical:
		return 2
	case level >= slog.LevelError:
		return 3
	case level >= slog.LevelWarn:
		return 4
	case level >= LevelNotice:
		return 5
	case level >= slog.LevelInfo:
		return 6
	}
	return 7
}

// logLevel reads log_level, a name of Python's logging module; all others are INFO, NOTICE
// too. NOTSET asks the logger above, which has WARNING.
func logLevel(name string) slog.Level {
	switch strings.ToUpper(name) {
	case "DEBUG":
		return slog.LevelDebug
	case "WARNING", "WARN", "NOTSET":
		return slog.LevelWarn
	case "ERROR":
		return slog.LevelError
	case "CRITICAL", "FATAL":
		return LevelCritical
	}
	return slog.LevelInfo
}

// logFacility reads log_facility; names that Python's SysLogHandler does not have are
// LOG_LOCAL0.
func logFacility(name string) int {
	for i, facility := range []string{
		"KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP",
		"NTP", "SECURITY", "CONSOLE", "SOLCRON",
		"LOCAL0", "LOCAL1", "LOCAL2", "LOCAL3", "LOCAL4", "LOCAL5", "LOCAL6", "LOCAL7",
	} {
		if name == "LOG_"+facility {
			return i
		}
	}
	return 16
}
