package server

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"imping/netfast"
)

// defaultFormat is Swift's. Swift: common/utils.py, LOG_LINE_DEFAULT_FORMAT.
const defaultFormat = `{remote_addr} - - [{time.d}/{time.b}/{time.Y}:{time.H}:{time.M}:{time.S} +0000] ` +
	`"{method} {path}" {status} {content_length} "{referer}" "{txn_id}" "{user_agent}" ` +
	`{trans_time:.4f} "{additional_info}" {pid} {policy_index}`

// line is what a request line can tell.
type line struct {
	s     *Server
	r     *Request
	resp  *Response
	spent time.Duration
	at    time.Time
	segs  [5]string // of the path: device, partition, account, container, object
}

// lineFormat writes a request line, part by part.
type lineFormat []func(*strings.Builder, *line)

// logRequest writes the request line: at DEBUG for what daemons ask of each other.
// Swift: common/utils.py, get_log_line.
func (s *Server) logRequest(r *Request, resp *Response, spent time.Duration) {
	_, replication := r.Header.Lookup("X-Backend-Replication")
	replication = replication || r.Method == "REPLICATE" || r.Method == "SSYNC"
	level := slog.LevelInfo
	if replication {
		level = slog.LevelDebug
	}
	if !s.log.Enabled(level) {
		return
	}
	l := &line{s: s, r: r, resp: resp, spent: spent, at: s.now().UTC()}
	if strings.HasPrefix(r.Path, "/") {
		copy(l.segs[:], strings.SplitN(netfast.Quote(r.Path)[1:], "/", 5))
	}
	var b strings.Builder
	for _, part := range s.conf.LogFormat {
		part(&b, l)
	}
	if replication {
		s.log.Debugf("%s", b.String())
	} else {
		s.log.Infof("%s", b.String())
	}
}

// texts are the fields that are texts and can be anonymized, and others that are not.
var texts = map[string]func(*line) string{
	"remote_addr": func(l *line) string { return l.r.Remote },
	"path":        func(l *line) string { return netfast.Quote(l.r.Path) },
	"account":     func(l *line) string { return l.segs[2] },
	"container":   func(l *line) string { return l.segs[3] },
	"object":      func(l *line) string { return l.segs[4] },
	"referer":     func(l *line) string { return l.r.Header.Get("Referer") },
	"user_agent":  func(l *line) string { return l.r.Header.Get("User-Agent") },
}

var plainTexts = map[string]func(*line) string{
	"method":          func(l *line) string { return l.r.Method },
	"disk":            func(l *line) string { return l.segs[0] },
	"partition":       func(l *line) string { return l.segs[1] },
	"status":          func(l *line) string { return strconv.Itoa(l.resp.Status) },
	"content_length":  (*line).contentLength,
	"txn_id":          func(l *line) string { return l.r.Header.Get("X-Trans-Id") },
	"additional_info": func(*line) string { return "" },
	"pid":             func(*line) string { return strconv.Itoa(os.Getpid()) },
	"policy_index":    func(l *line) string { return l.r.Header.Get("X-Backend-Storage-Policy-Index") },
}

func (l *line) contentLength() string {
	length := int64(len(l.resp.Body))
	switch {
	case l.resp.Duplex != nil:
		return ""
	case l.resp.Stream != nil:
		length = l.resp.Stream.Length()
	}
	if length == 0 {
		return "" // a dash, as above
	}
	return strconv.FormatInt(length, 10)
}

// strftime are the directives that Swift allows, in Go's layouts.
var strftime = map[string]string{
	"a": "Mon", "A": "Monday", "b": "Jan", "B": "January", "c": "Mon Jan _2 15:04:05 2006", "d": "02", "H": "15", "I": "03", "j": "002", "m": "01",
	"M": "04", "p": "PM", "S": "05", "x": "01/02/06", "X": "15:04:05", "y": "06", "Y": "2006", "Z": "UTC",
	"asctime": "Mon Jan _2 15:04:05 2006", "datetime": "02/Jan/2006/15/04/05", "iso8601": "2006-01-02T15:04:05",
}

// moments are the other attributes of time.
var moments = map[string]func(time.Time) string{
	"":   func(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) },
	"s":  func(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) },
	"ms": func(t time.Time) string { return fmt.Sprintf("%03d", t.Nanosecond()/1e6) },
	"us": func(t time.Time) string { return fmt.Sprintf("%06d", t.Nanosecond()/1e3) },
	"ns": func(t time.Time) string { return fmt.Sprintf("%09d", t.Nanosecond()) },
	"w":  func(t time.Time) string { return strconv.Itoa(int(t.Weekday())) },
	"U":  func(t time.Time) string { return fmt.Sprintf("%02d", (t.YearDay()-1+7-int(t.Weekday()))/7) },
	"W":  func(t time.Time) string { return fmt.Sprintf("%02d", (t.YearDay()-1+7-(int(t.Weekday())+6)%7)/7) },
}

// parseFormat reads a template in Python's str.format, with Swift's fields. Only trans_time
// can have a format of its own, a number of decimals.
func parseFormat(template string) (lineFormat, error) {
	var f lineFormat
	literal := func(text string) {
		if text != "" {
			f = append(f, func(b *strings.Builder, _ *line) { b.WriteString(text) })
		}
	}
	for {
		i := strings.IndexAny(template, "{}")
		if i < 0 {
			literal(template)
			return f, nil
		}
		literal(template[:i])
		brace := template[i]
		template = template[i+1:]
		if strings.HasPrefix(template, string(brace)) {
			literal(string(brace))
			template = template[1:]
			continue
		}
		field, rest, ok := strings.Cut(template, "}")
		if brace == '}' || !ok {
			return nil, errors.New("a brace stands alone")
		}
		part, err := parseField(field)
		if err != nil {
			return nil, err
		}
		f = append(f, part)
		template = rest
	}
}

func parseField(field string) (func(*strings.Builder, *line), error) {
	name, format, formatted := strings.Cut(field, ":")
	base, attribute, dotted := strings.Cut(name, ".")
	if base == "trans_time" && !dotted {
		decimals := 6
		if formatted {
			digits, ok := strings.CutSuffix(strings.TrimPrefix(format, "."), "f")
			n, err := strconv.Atoi(digits)
			if !ok || err != nil || n < 0 || n > 9 || !strings.HasPrefix(format, ".") {
				return nil, fmt.Errorf("{%s}: only a number of decimals is understood, {trans_time:.4f}", field)
			}
			decimals = n
		}
		return func(b *strings.Builder, l *line) {
			if l.spent == 0 {
				b.WriteByte('-') // what is false in Python is a dash
				return
			}
			b.WriteString(strconv.FormatFloat(l.spent.Seconds(), 'f', decimals, 64))
		}, nil
	}
	if formatted && format != "" && format != "s" {
		return nil, fmt.Errorf("{%s}: only trans_time can have a format", field)
	}
	if base == "time" {
		if layout, ok := strftime[attribute]; ok {
			return func(b *strings.Builder, l *line) { b.WriteString(l.at.Format(layout)) }, nil
		}
		if moment, ok := moments[attribute]; ok {
			return func(b *strings.Builder, l *line) { b.WriteString(moment(l.at)) }, nil
		}
		return nil, fmt.Errorf("time has no %q", attribute)
	}
	text, ok := texts[base]
	anonymized := ok && attribute == "anonymized"
	if !ok {
		text, ok = plainTexts[base]
	}
	if !ok || dotted && !anonymized {
		return nil, fmt.Errorf("there is no field {%s}", field)
	}
	return func(b *strings.Builder, l *line) {
		switch value := text(l); {
		case value == "":
			b.WriteByte('-')
		case anonymized:
			b.WriteString(l.s.conf.anonymize(value))
		default:
			b.WriteString(value)
		}
	}, nil
}

// hashes are log_anonymization_method's.
var hashes = map[string]func() hash.Hash{
	"md5": md5.New, "sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New,
}

func hashNames() []string { return slices.Sorted(maps.Keys(hashes)) }

// anonymize hides a value. Swift: common/utils.py, StrAnonymizer.
func (c *Config) anonymize(value string) string {
	h := hashes[strings.ToLower(c.anonymization)]()
	salted := ""
	if c.anonymizedSalt != "" {
		salted = "S"
		h.Write([]byte(c.anonymizedSalt))
	}
	h.Write([]byte(value))
	return "{" + salted + strings.ToUpper(c.anonymization) + "}" + hex.EncodeToString(h.Sum(nil))
}
