package soak

import (
	"fmt"
	"os"
	"sync"
	"time"
)

// log is the soak's own file: what was done in each round, and what each pass had to say.
type log struct {
	mu   sync.Mutex
	path string
	file *os.File
}

func openLog(path string) (*log, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &log{path: path, file: f}, nil
}

func (l *log) Close() error { return l.file.Close() }

func (l *log) print(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.file, "%s %s\n", time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

// of is the log of a node's passes: a pass.Log.
func (l *log) of(node int) nodeLog { return nodeLog{l, node} }

type nodeLog struct {
	log  *log
	node int
}

func (n nodeLog) say(level, format string, args []any) {
	n.log.print("node %d %s %s", n.node, level, fmt.Sprintf(format, args...))
}

// Debugf lines tell of tries that are repeated: a failing round is read by them.
func (n nodeLog) Debugf(format string, args ...any) { n.say("D", format, args) }
func (n nodeLog) Infof(format string, args ...any)  { n.say("I", format, args) }
func (n nodeLog) Warnf(format string, args ...any)  { n.say("W", format, args) }
func (n nodeLog) Errorf(format string, args ...any) { n.say("E", format, args) }
