package faults

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// head is the head of a request or an answer. What is not changed is written as it came.
type head struct {
	first   string
	lines   []string
	status  int
	length  int64 // -1: not said
	chunked bool
	closes  bool
}

func parseHead(raw []byte) (*head, error) {
	h := &head{length: -1}
	lines := strings.Split(strings.ReplaceAll(string(raw), "\r\n", "\n"), "\n")
	h.first = lines[0]
	if strings.HasPrefix(h.first, "HTTP/1.0") {
		h.closes = true
	}
	for _, line := range lines[1:] {
		if line == "" {
			break
		}
		h.lines = append(h.lines, line)
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.ToLower(key) {
		case "content-length":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("a Content-Length of %.100q", value)
			}
			h.length = n
		case "transfer-encoding":
			h.chunked = strings.EqualFold(value, "chunked")
		case "connection":
			h.closes = strings.EqualFold(value, "close")
		}
	}
	return h, nil
}

func (h *head) parseStatus() error {
	words := strings.Fields(h.first)
	if len(words) < 2 || !strings.HasPrefix(words[0], "HTTP/") {
		return fmt.Errorf("not an answer: %.100q", h.first)
	}
	var err error
	h.status, err = strconv.Atoi(words[1])
	return err
}

func (h *head) get(key string) string {
	for _, line := range h.lines {
		if k, v, _ := strings.Cut(line, ":"); strings.EqualFold(k, key) {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// set changes a header that is there.
func (h *head) set(key, value string) {
	for i, line := range h.lines {
		if k, _, _ := strings.Cut(line, ":"); strings.EqualFold(k, key) {
			h.lines[i] = k + ": " + value
		}
	}
}

func (h *head) bytes() []byte {
	var b strings.Builder
	b.WriteString(h.first + "\r\n")
	for _, line := range h.lines {
		b.WriteString(line + "\r\n")
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

// copyChunks passes a chunked body on, with its end.
func copyChunks(w io.Writer, r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
		word, _, _ := strings.Cut(strings.TrimSpace(line), ";")
		n, err := strconv.ParseInt(word, 16, 63)
		if err != nil {
			return fmt.Errorf("a chunk of %.100q bytes", word)
		}
		if n > 0 {
			if _, err := io.CopyN(w, r, n+2); err != nil { // with its line's end
				return err
			}
			continue
		}
		for { // trailers, and the blank line
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if _, err := io.WriteString(w, line); err != nil {
				return err
			}
			if strings.TrimSpace(line) == "" {
				return nil
			}
		}
	}
}
