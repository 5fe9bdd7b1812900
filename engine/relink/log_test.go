package relink

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// logBook keeps what is logged, with the level before each line.
type logBook struct {
	mu      sync.Mutex
	lines   []string
	limit   int    // 0: none
	reached func() // is called when there are so many lines
	heard   func(line string)
}

func (l *logBook) put(level, format string, args []any) {
	line := level + " " + fmt.Sprintf(format, args...)
	l.mu.Lock()
	l.lines = append(l.lines, line)
	reached := len(l.lines) == l.limit
	l.mu.Unlock()
	if reached {
		l.reached()
	}
	if l.heard != nil {
		l.heard(line)
	}
}

func (l *logBook) Debugf(format string, args ...any) { l.put("debug", format, args) }
func (l *logBook) Infof(format string, args ...any)  { l.put("info", format, args) }
func (l *logBook) Warnf(format string, args ...any)  { l.put("warn", format, args) }
func (l *logBook) Errorf(format string, args ...any) { l.put("error", format, args) }

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// has tells that a line is there.
func (l *logBook) has(line string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.lines, line)
}
