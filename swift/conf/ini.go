package conf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxFile bounds one conf file: real ones have a few KiB, and a conf that names a disk
// by mistake must not fill the memory.
const maxFile = 4 << 20

// maxExpanded bounds the work of interpolation in one INI: the bytes that were written, and
// costOfReference for each reference. In Python, ten levels of references that each name
// the next one a few times grow without end.
const (
	maxExpanded     = 16 << 20
	costOfReference = 64
)

// maxDepth is how deep references may nest, the same as Python's
// MAX_INTERPOLATION_DEPTH.
const maxDepth = 10

// Dialect is one of the ways in which Swift sets up Python's configparser.
type Dialect struct {
	Strict bool // an option or a section given twice in one file is an error
	Fold   bool // option names are lower-cased
	Latin1 bool // each byte of the file is a character; else the file is UTF-8
	Loose  bool // a value without "%(" is taken as it is, a bare % included
}

// The readings that Swift 2.30.1 uses.
var (
	// Readconf is the reading of the daemons. Swift: common/utils.py, readconf.
	Readconf = Dialect{Strict: true, Fold: true, Loose: true}
	// Paste is the reading of the servers. Swift: common/wsgi.py, appconfig.
	Paste = Dialect{Strict: true, Loose: true}
	// Hash is the reading of swift.conf for the hash path's prefix and suffix.
	// Swift: common/utils.py, validate_hash_conf.
	Hash = Dialect{Strict: true, Fold: true, Latin1: true}
	// Policies is the reading of swift.conf for storage policies.
	// Swift: common/storage_policy.py, reload_storage_policies.
	Policies = Dialect{Fold: true}
)

// Item is one option and its value.
type Item struct{ Option, Value string }

// INI holds the sections of one or more files that were parsed one over the other.
type INI struct {
	dialect  Dialect
	defaults *options
	sections []*options
	expanded int // see maxExpanded
}

// options are the options of one section in the order of their first appearance.
type options struct {
	name   string
	keys   []string
	values map[string]string
}

func newOptions(name string) *options {
	return &options{name: name, values: map[string]string{}}
}

func (o *options) set(key, value string) {
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

const defaultSection = "DEFAULT"

// NewINI returns an INI without sections.
func NewINI(d Dialect) *INI {
	return &INI{dialect: d, defaults: newOptions(defaultSection)}
}

// Parse reads one file's bytes over what is there: an option of an earlier file is
// replaced, its place in the order is kept. name is only used in errors. After an error
// the INI is not to be used.
func (f *INI) Parse(name string, data []byte) error {
	text, err := f.dialect.decode(data)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	p := parser{ini: f, name: name, seen: map[[2]string]bool{}}
	for line := range lines(text) {
		p.number++
		if err := p.line(line); err != nil {
			return fmt.Errorf("cannot read %s, line %d: %w", name, p.number, err)
		}
	}
	p.flush()
	if p.bad != nil {
		return fmt.Errorf("cannot read %s, line %d: %w", name, p.badLine, p.bad)
	}
	return nil
}

func (d Dialect) decode(data []byte) (string, error) {
	if len(data) > maxFile {
		return "", fmt.Errorf("%d bytes are too many for a conf file, the limit is %d", len(data), maxFile)
	}
	if d.Latin1 {
		runes := make([]rune, len(data))
		for i, b := range data {
			runes[i] = rune(b)
		}
		return string(runes), nil
	}
	if !utf8.Valid(data) {
		return "", errors.New("the text is not UTF-8")
	}
	return string(data), nil
}

// lines yields the lines without their ends, which are \n, \r\n and \r (Python's
// universal newlines). Nothing follows the last end.
func lines(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for text != "" {
			i := strings.IndexAny(text, "\r\n")
			if i < 0 {
				yield(text)
				return
			}
			end := i + 1
			if strings.HasPrefix(text[i:], "\r\n") {
				end++
			}
			if !yield(text[:i]) {
				return
			}
			text = text[end:]
		}
	}
}

// parser is the state between two lines of one file. Python: configparser,
// RawConfigParser._read.
type parser struct {
	ini    *INI
	name   string
	number int

	section *options // nil before the first header
	option  string   // the option that continuation lines go to, "" for none
	value   []string // its lines so far
	indent  int      // of the last header or option, in characters

	seen    map[[2]string]bool // (section, option) and (section, "") of this file
	bad     error              // the first line that is neither header nor option
	badLine int
}

func (p *parser) line(line string) error {
	value := strip(line)
	if strings.HasPrefix(value, "#") || strings.HasPrefix(value, ";") {
		return nil
	}
	if value == "" {
		if p.option != "" {
			p.value = append(p.value, "")
		}
		return nil
	}
	indent := utf8.RuneCountInString(line[:strings.Index(line, value)])
	if p.option != "" && indent > p.indent {
		p.value = append(p.value, value)
		return nil
	}
	p.indent = indent
	p.flush()
	if header, ok := header(value); ok {
		return p.header(header)
	}
	if p.section == nil {
		return fmt.Errorf("%.80q stands before the first [section]", value)
	}
	return p.setOption(value)
}

// header returns what stands between "[" at the start and the last "]". What follows
// that is ignored.
func header(value string) (string, bool) {
	if value[0] != '[' {
		return "", false
	}
	end := strings.LastIndexByte(value, ']')
	if end < 2 {
		return "", false
	}
	return value[1:end], true
}

func (p *parser) header(name string) error {
	switch section := p.ini.section(name); {
	case section != nil:
		if p.ini.dialect.Strict && p.seen[[2]string{name}] {
			return fmt.Errorf("section [%s] was there before", name)
		}
		p.section = section
	case name == defaultSection:
		p.section = p.ini.defaults
		return nil
	default:
		p.section = newOptions(name)
		p.ini.sections = append(p.ini.sections, p.section)
	}
	p.seen[[2]string{name}] = true
	return nil
}

func (p *parser) setOption(value string) error {
	i := strings.IndexAny(value, "=:")
	if i < 1 {
		// Python goes on and complains at the end: an error that stops the parser comes
		// first, whichever line it is on.
		if p.bad == nil {
			p.bad, p.badLine = fmt.Errorf("%.80q is no option, \"name = value\" is expected", value), p.number
		}
		return nil
	}
	option := strip(value[:i])
	if p.ini.dialect.Fold {
		option = strings.ToLower(option)
	}
	key := [2]string{p.section.name, option}
	if p.ini.dialect.Strict && p.seen[key] {
		return fmt.Errorf("option %q of section [%s] was there before", option, p.section.name)
	}
	p.seen[key] = true
	p.option, p.value = option, []string{strip(value[i+1:])}
	return nil
}

// flush stores the option that was being read.
func (p *parser) flush() {
	if p.option == "" {
		return
	}
	p.section.set(p.option, strings.TrimRightFunc(strings.Join(p.value, "\n"), isSpace))
	p.option, p.value = "", nil
}

func (f *INI) section(name string) *options {
	for _, s := range f.sections {
		if s.name == name {
			return s
		}
	}
	return nil
}

// Sections returns the names in the order of the file, without DEFAULT.
func (f *INI) Sections() []string {
	var names []string
	for _, s := range f.sections {
		names = append(names, s.name)
	}
	return names
}

// HasSection reports whether a section is there. DEFAULT is not one.
func (f *INI) HasSection(name string) bool { return f.section(name) != nil }

// Own lists the options that a section, or DEFAULT, has itself.
func (f *INI) Own(section string) []string {
	if section == defaultSection {
		return slices.Clone(f.defaults.keys)
	}
	if own := f.section(section); own != nil {
		return slices.Clone(own.keys)
	}
	return nil
}

// Items returns the options of a section and of DEFAULT below it, interpolated: those of
// DEFAULT first, then the section's own. A section that is not there has those of
// DEFAULT.
func (f *INI) Items(section string) ([]Item, error) {
	own := f.section(section)
	var items []Item
	for _, key := range f.keys(own, true) {
		value, _, err := f.get(own, key)
		if err != nil {
			return nil, err
		}
		items = append(items, Item{key, value})
	}
	return items, nil
}

// Get returns one interpolated value, from the section or from DEFAULT; ok is false when
// neither has it or there is no such section.
func (f *INI) Get(section, option string) (value string, ok bool, err error) {
	own := f.section(section)
	if own == nil {
		return "", false, nil
	}
	return f.get(own, option)
}

// keys lists the options that count in a section (nil for DEFAULT alone).
func (f *INI) keys(own *options, defaultsFirst bool) []string {
	if own == nil {
		return slices.Clone(f.defaults.keys)
	}
	first, second := own, f.defaults
	if defaultsFirst {
		first, second = second, first
	}
	keys := slices.Clone(first.keys)
	for _, key := range second.keys {
		if _, twice := first.values[key]; !twice {
			keys = append(keys, key)
		}
	}
	return keys
}

func (f *INI) raw(own *options, option string) (string, bool) {
	if own != nil {
		if value, ok := own.values[option]; ok {
			return value, true
		}
	}
	value, ok := f.defaults.values[option]
	return value, ok
}

func (f *INI) get(own *options, option string) (string, bool, error) {
	value, ok := f.raw(own, option)
	if !ok {
		return "", false, nil
	}
	if f.dialect.Loose && !strings.Contains(value, "%(") {
		return value, true, nil
	}
	var out strings.Builder
	if err := f.expand(own, value, &out, 1); err != nil {
		name := defaultSection
		if own != nil {
			name = own.name
		}
		return "", false, fmt.Errorf("cannot use option %q of section [%s], %.80q: %w", option, name, value, err)
	}
	return out.String(), true, nil
}

// expand replaces %(name)s and %% in rest. Python: configparser,
// BasicInterpolation._interpolate_some.
func (f *INI) expand(own *options, rest string, out *strings.Builder, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("references nest deeper than %d", maxDepth)
	}
	for {
		before, after, found := strings.Cut(rest, "%")
		out.WriteString(before)
		if f.expanded += len(before) + costOfReference; f.expanded > maxExpanded {
			return fmt.Errorf("the references of this file grow over %d bytes", maxExpanded)
		}
		if !found {
			return nil
		}
		if strings.HasPrefix(after, "%") {
			out.WriteByte('%')
			rest = after[1:]
			continue
		}
		if !strings.HasPrefix(after, "(") {
			return errors.New("a % must be written %% or begin a %(name)s")
		}
		name, tail, closed := strings.Cut(after[1:], ")")
		if !closed || name == "" || !strings.HasPrefix(tail, "s") {
			return fmt.Errorf("%.80q is no %%(name)s", "%"+after)
		}
		rest = tail[1:]
		if f.dialect.Fold {
			name = strings.ToLower(name)
		}
		value, ok := f.raw(own, name)
		if !ok {
			return fmt.Errorf("it refers to option %q, which is not there", name)
		}
		if !strings.Contains(value, "%") {
			out.WriteString(value)
			f.expanded += len(value)
			continue
		}
		if err := f.expand(own, value, out, depth+1); err != nil {
			return err
		}
	}
}

// isSpace is Python's str.isspace: Go's plus the four ASCII separators.
func isSpace(r rune) bool {
	switch {
	case r == ' ', '\t' <= r && r <= '\r', 0x1c <= r && r <= 0x1f, r == 0x85, r == 0xa0,
		r == 0x1680, 0x2000 <= r && r <= 0x200a, r == 0x2028, r == 0x2029, r == 0x202f, r == 0x205f, r == 0x3000:
		return true
	}
	return false
}

func strip(s string) string { return strings.TrimFunc(s, isSpace) }
