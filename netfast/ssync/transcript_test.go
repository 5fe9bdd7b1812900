package ssync

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what came out into testdata instead of comparing")

// TestTranscripts plays the conversations in testdata. A file is a sequence of blocks
// apart by an empty line; each is a command, perhaps lines that belong to it, a line of
// dashes, and what came out: bytes for the wire behind ">", one line each, with what
// can not be seen escaped; events behind "<"; errors behind "!". Each file is one Sender.
//
//	dialect [no-offsets] [durable-only]
//	offer HASH DATA [meta=TS] [ctype=TS] [nondurable]    offer-end
//	feed       + lines, each as the receiver sends it
//	put PATH LENGTH [no-commit]  + header lines          post PATH  + header lines
//	delete PATH TS      frame N     updates-end     terminate
func TestTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(raw))
			if *rewrite {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(raw) {
				t.Errorf("the conversation went differently:\n%s", got)
			}
		})
	}
}

func play(t *testing.T, file string) string {
	var s Sender
	var blocks []string
	for _, block := range strings.Split(strings.TrimRight(file, "\n"), "\n\n") {
		asked, _, _ := strings.Cut(block, "\n----")
		var comments, lines []string
		for _, line := range strings.Split(asked, "\n") {
			if strings.HasPrefix(line, "#") {
				comments = append(comments, line)
			} else {
				lines = append(lines, line)
			}
		}
		if len(lines) == 0 {
			blocks = append(blocks, strings.Join(comments, "\n"))
			continue
		}
		blocks = append(blocks, asked+"\n----\n"+strings.Join(command(t, &s, strings.Fields(lines[0]), lines[1:]), "\n"))
	}
	return strings.Join(blocks, "\n\n") + "\n"
}

func command(t *testing.T, s *Sender, words, lines []string) (out []string) {
	var wire []byte
	var err error
	for i, w := range words {
		if words[i], err = strconv.Unquote(`"` + w + `"`); err != nil {
			t.Fatal(err)
		}
	}
	switch words[0] {
	case "dialect":
		s.Dialect = Dialect{NoOffsets: slices.Contains(words, "no-offsets"), DurableOnly: slices.Contains(words, "durable-only")}
		if s.Dialect.NoOffsets {
			out = append(out, "tells no offsets")
		}
		if s.Dialect.DurableOnly {
			out = append(out, "withholds what is not durable")
		}
		return out
	case "offer":
		o := Offer{Hash: words[1], Data: mustStamp(t, words[2])}
		for _, w := range words[3:] {
			switch key, value, _ := strings.Cut(w, "="); key {
			case "meta":
				o.Meta = mustStamp(t, value)
			case "ctype":
				o.CType = mustStamp(t, value)
			case "nondurable":
				o.NonDurable = true
			default:
				t.Fatalf("unknown word %q", w)
			}
		}
		withheld := s.Withheld
		if wire, err = s.Offer(nil, o); s.Withheld > withheld {
			out = append(out, "withheld")
		}
	case "offer-end":
		wire, err = s.OfferEnd(nil)
	case "feed":
		for _, line := range lines {
			text, uerr := strconv.Unquote(`"` + line + `"`)
			if uerr != nil {
				t.Fatalf("cannot read %s: %v", line, uerr)
			}
			// repeated lines are written as TEXT*N
			if base, n, ok := strings.Cut(text, "*"); ok {
				times, _ := strconv.Atoi(n)
				text = strings.Repeat(base, times)
			}
			ev, ferr := s.Feed([]byte(text))
			if ferr != nil {
				out = append(out, describe(ferr))
				continue
			}
			word := "< " + ev.Kind.String()
			if ev.Kind == Want {
				word += fmt.Sprintf(" %s data=%t meta=%t", ev.Wanted.Hash, ev.Wanted.Data, ev.Wanted.Meta)
			}
			out = append(out, word)
		}
		return out
	case "put":
		h := PutHead{Path: words[1], Header: fields(t, lines), NoCommit: len(words) > 3}
		h.Length, err = strconv.ParseInt(words[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		wire, err = s.PutHead(nil, h)
	case "post":
		wire, err = s.PostHead(nil, words[1], fields(t, lines))
	case "delete":
		wire, err = s.DeleteHead(nil, words[1], mustStamp(t, words[2]))
	case "frame":
		n, _ := strconv.Atoi(words[1])
		var head, tail []byte
		head, tail, err = s.Frame(n)
		if err == nil {
			wire = append(append(append([]byte(nil), head...), fmt.Sprintf("(%d bytes)", n)...), tail...)
		}
	case "updates-end":
		wire, err = s.UpdatesEnd(nil)
	case "terminate":
		wire, err = s.Terminate(nil)
	default:
		t.Fatalf("unknown command %q", words)
	}
	for line := range strings.Lines(string(wire)) {
		quoted := strconv.Quote(line)
		out = append(out, "> "+quoted[1:len(quoted)-1])
	}
	if err != nil {
		out = append(out, describe(err))
	}
	if s.MustCut() {
		out = append(out, fmt.Sprintf("must cut: %d bytes owed", s.Owes()))
	}
	return out
}

func describe(err error) string {
	var remote *RemoteError
	var protocol *ProtocolError
	switch {
	case errors.As(err, &remote) && remote.Raised():
		return "! remote error, raised there: " + remote.Error()
	case errors.As(err, &remote):
		return fmt.Sprintf("! remote error, retryable=%t: %v", remote.Retryable(), err)
	case errors.As(err, &protocol):
		if len(protocol.Line) > 60 {
			protocol = &ProtocolError{Expected: protocol.Expected, Line: fmt.Sprintf("%d bytes", len(protocol.Line))}
		}
		return "! protocol error: " + protocol.Error()
	}
	return "! " + err.Error()
}

func fields(t *testing.T, lines []string) []Field {
	var fs []Field
	for _, line := range lines {
		line, err := strconv.Unquote(`"` + line + `"`)
		if err != nil {
			t.Fatal(err)
		}
		key, value, _ := strings.Cut(line, ": ")
		fs = append(fs, Field{Key: key, Value: value})
	}
	return fs
}
