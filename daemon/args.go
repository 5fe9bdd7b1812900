package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"imping/swift/conf"
)

// SwiftArgs are the words after the name of one of Swift's programs.
type SwiftArgs struct {
	Conf    string // absolute path of the file or folder, which exists
	Once    bool
	Verbose bool
	// Devices and Partitions narrow a pass, which Swift does only once (rule 38).
	Devices    []string
	Partitions []string
	Extra      []string // further words, which Swift passes over
}

// ArgsError is what a program should print, and the status that it should then exit with.
// Status 0 is an answer to --help.
type ArgsError struct {
	Status         int
	Stdout, Stderr string
}

func (e *ArgsError) Error() string { return strings.TrimSpace(e.Stdout + e.Stderr) }

// Exit prints and ends the process.
func (e *ArgsError) Exit() {
	os.Stdout.WriteString(e.Stdout)
	os.Stderr.WriteString(e.Stderr)
	os.Exit(e.Status)
}

// swiftOption is an option of a program. The order is that of the help.
type swiftOption struct {
	short, long string
	takesValue  bool
}

var serverOptions = []swiftOption{
	{"-h", "--help", false},
	{"-v", "--verbose", false},
}

const serverHelp = `
Options:
  -h, --help     show this help message and exit
  -v, --verbose  log to console
`

var reconstructorOptions = []swiftOption{
	{"-h", "--help", false},
	{"-d", "--devices", true},
	{"-p", "--partitions", true},
	{"-v", "--verbose", false},
	{"-o", "--once", false},
}

const reconstructorHelp = `
Options:
  -h, --help            show this help message and exit
  -d DEVICES, --devices=DEVICES
                        Reconstruct only given devices. Comma-separated list.
                        Only has effect if --once is used.
  -p PARTITIONS, --partitions=PARTITIONS
                        Reconstruct only given partitions. Comma-separated
                        list. Only has effect if --once is used.
  -v, --verbose         log to console
  -o, --once            only run one pass of daemon
`

// ParseReconstructorArgs reads a command line, with the program's name first, as
// swift-object-reconstructor does: options anywhere, in short, in long and abbreviated,
// the last of the same kind winning; the first other word is the conf, and "once" and
// "verbose" after it are the same as --once and --verbose. The error is an *ArgsError.
// Swift: common/utils.py, parse_options, and Python's optparse.
func ParseReconstructorArgs(argv []string) (SwiftArgs, error) {
	return parseArgs(argv, reconstructorOptions, reconstructorHelp)
}

// ParseServerArgs reads a command line as swift-object-server does, which has no passes to
// narrow: of the options only --verbose, and "verbose" after the conf.
func ParseServerArgs(argv []string) (SwiftArgs, error) {
	return parseArgs(argv, serverOptions, serverHelp)
}

func parseArgs(argv []string, options []swiftOption, help string) (SwiftArgs, error) {
	program := filepath.Base(argv[0])
	p := argsParser{usage: "Usage: " + program + " CONFIG [options]\n", help: help, options: options, program: program, rest: argv[1:]}
	if err := p.parse(); err != nil {
		return SwiftArgs{}, err
	}
	if len(p.words) == 0 {
		return SwiftArgs{}, p.failed("Error: missing config path argument")
	}
	path, err := filepath.Abs(p.words[0])
	if err != nil {
		return SwiftArgs{}, p.failed("Error: unable to locate " + p.words[0])
	}
	if _, err := os.Stat(path); err != nil {
		return SwiftArgs{}, p.failed("Error: unable to locate " + path)
	}
	args := SwiftArgs{Conf: path, Once: p.once, Verbose: p.verbose, Devices: conf.List(p.devices), Partitions: conf.List(p.partitions)}
	for _, word := range p.words[1:] {
		if !slices.ContainsFunc(options, func(o swiftOption) bool { return o.long == "--"+word }) {
			args.Extra = append(args.Extra, word)
			continue
		}
		switch word {
		case "once":
			args.Once = true
		case "verbose":
			args.Verbose = true
		case "devices", "partitions":
			// Swift takes the bare word too, and then breaks down on it.
			return SwiftArgs{}, p.failed("Error: the list is missing, use --" + word)
		default:
			args.Extra = append(args.Extra, word)
		}
	}
	return args, nil
}

// PartitionNumbers returns Partitions as numbers.
func (a SwiftArgs) PartitionNumbers() ([]int, error) {
	var numbers []int
	for _, word := range a.Partitions {
		n, ok := conf.ParseInt(word)
		if !ok || n < 0 {
			return nil, fmt.Errorf("partition %q is not an integer >= 0", word)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// argsParser follows Python's optparse, OptionParser.
type argsParser struct {
	usage, help, program string
	options              []swiftOption
	rest                 []string
	words                []string

	once, verbose       bool
	devices, partitions string
}

func (p *argsParser) failed(reason string) error {
	return &ArgsError{Status: 1, Stdout: p.usage + "\n" + reason + "\n"}
}

func (p *argsParser) wrong(format string, args ...any) error {
	return &ArgsError{Status: 2, Stderr: p.usage + "\n" + p.program + ": error: " + fmt.Sprintf(format, args...) + "\n"}
}

func (p *argsParser) parse() error {
	for len(p.rest) > 0 {
		word := p.rest[0]
		p.rest = p.rest[1:]
		var err error
		switch {
		case word == "--":
			p.words = append(p.words, p.rest...)
			return nil
		case strings.HasPrefix(word, "--"):
			err = p.long(word)
		case strings.HasPrefix(word, "-") && len(word) > 1:
			err = p.short(word[1:])
		default:
			p.words = append(p.words, word)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// long reads "--name", "--name=value" and unambiguous beginnings of names.
func (p *argsParser) long(word string) error {
	name, value, explicit := strings.Cut(word, "=")
	var matches []string
	for _, o := range p.options {
		if o.long == name {
			matches = []string{name}
			break
		}
		if strings.HasPrefix(o.long, name) {
			matches = append(matches, o.long)
		}
	}
	slices.Sort(matches)
	if len(matches) == 0 {
		return p.wrong("no such option: %s", name)
	}
	if len(matches) > 1 {
		return p.wrong("ambiguous option: %s (%s?)", name, strings.Join(matches, ", "))
	}
	i := slices.IndexFunc(p.options, func(o swiftOption) bool { return o.long == matches[0] })
	o := p.options[i]
	if explicit && !o.takesValue {
		return p.wrong("%s option does not take a value", o.long)
	}
	if explicit {
		p.rest = append([]string{value}, p.rest...)
	}
	return p.option(o, o.long)
}

// short reads one or more letters; what follows a letter that takes a value is the value.
func (p *argsParser) short(letters string) error {
	for i, letter := range letters {
		name := "-" + string(letter)
		at := slices.IndexFunc(p.options, func(o swiftOption) bool { return o.short == name })
		if at < 0 {
			return p.wrong("no such option: %s", name)
		}
		o := p.options[at]
		value := letters[i+len(string(letter)):]
		if o.takesValue && value != "" {
			p.rest = append([]string{value}, p.rest...)
		}
		if err := p.option(o, name); err != nil || o.takesValue {
			return err
		}
	}
	return nil
}

func (p *argsParser) option(o swiftOption, name string) error {
	var value string
	if o.takesValue {
		if len(p.rest) == 0 {
			return p.wrong("%s option requires 1 argument", name)
		}
		value, p.rest = p.rest[0], p.rest[1:]
	}
	switch o.long {
	case "--help":
		return &ArgsError{Stdout: p.usage + p.help}
	case "--devices":
		p.devices = value
	case "--partitions":
		p.partitions = value
	case "--verbose":
		p.verbose = true
	case "--once":
		p.once = true
	}
	return nil
}
