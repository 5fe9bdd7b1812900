package ssync

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestReceiverTranscripts plays the conversations in testdata/receiver: what a sender sends, a line each,
// escaped, and what came of it after the dashes: events behind "<", what is said behind ">", errors behind
// "!" with the line that tells them. "END" is the end of the body. Every object offered is
// compared with a local one of 1795342302.00000 if its hash begins with 1, a tombstone of that
// time if with 2, else nothing; subrequests are answered 201, but for paths with a status in
// them. Each file is played in pieces of every size from 1 to 40 and as a whole: what came
// must be the same.
func TestReceiverTranscripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/receiver/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			asked, want, _ := strings.Cut(string(raw), "----\n")
			for size := 0; size <= 40; size++ {
				got := receive(t, asked, size)
				if *rewrite && size == 0 {
					want = got
					if err := os.WriteFile(path, []byte(asked+"----\n"+got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if got != want {
					t.Fatalf("in pieces of %d (0 = whole) it went differently:\n%s", size, got)
				}
			}
		})
	}
}

func receive(t *testing.T, asked string, size int) string {
	r := &Receiver{Threshold: 3, Ratio: 1}
	var sent []byte
	end := false
	for line := range strings.SplitSeq(strings.TrimRight(asked, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "2013":
			r.Old = true
		case line == "END":
			end = true
		default:
			text, err := strconv.Unquote(`"` + line + `"`)
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if base, times, ok := strings.Cut(text, "*"); ok {
				n, _ := strconv.Atoi(strings.TrimSpace(times))
				text = strings.Repeat(base, n)
			}
			sent = append(sent, text...)
		}
	}
	var out, body strings.Builder
	local := mustStamp(t, "1795342302.00000")
	var now Subrequest
	event := func(ev Received) error {
		switch ev.Kind {
		case Offered:
			o := ev.Offer
			have := Local{}
			switch o.Hash[0] {
			case '1':
				have = Local{local, local, local}
			case '2':
				have = Local{Data: local}
			}
			w := Compare(o, have)
			fmt.Fprintf(&out, "< offered %s data=%s meta=%s ctype=%s nondurable=%t; data=%t meta=%t\n", o.Hash, o.Data, o.Meta, o.CType, o.NonDurable, w.Data, w.Meta)
			return r.Want(w)
		case OffersEnd:
			for piece := range r.CheckAnswer() {
				fmt.Fprintf(&out, "> %s\n", strings.ReplaceAll(strconv.Quote(string(piece)), strings.Repeat(" ", flushWidth), "<spaces>"))
			}
		case Asked:
			now = ev.Subrequest
			fmt.Fprintf(&out, "< %s %s of %d bytes, metadata %q\n", now.Method, now.Path, now.Length, now.ReplicationHeaders())
			for _, f := range now.Fields {
				fmt.Fprintf(&out, "<   %s: %.60q\n", f.Key, f.Value)
			}
		case Payload:
			body.Write(ev.Data)
		case Done:
			answer, err := r.UpdatesAnswer()
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "> %s\n", strings.ReplaceAll(strconv.Quote(string(answer)), strings.Repeat(" ", flushWidth), "<spaces>"))
		}
		if (ev.Kind == Asked || ev.Kind == Payload) && r.Left() == 0 {
			if body.Len() > 0 {
				fmt.Fprintf(&out, "< payload %.60q\n", body.String())
				body.Reset()
			}
			status := 201
			if n, err := strconv.Atoi(now.Path[strings.LastIndexByte(now.Path, '/')+1:]); err == nil {
				status = n
			}
			return r.Answered(status)
		}
		return nil
	}
	tell := func(err error) string {
		said := (*Failure)(nil)
		if errors.As(err, &said) {
			return out.String() + fmt.Sprintf("! %q\n", said.Line())
		}
		return out.String() + fmt.Sprintf("! %v\n", err)
	}
	for len(sent) > 0 {
		piece := sent
		if size > 0 {
			piece = sent[:min(size, len(sent))]
		}
		n, ev, err := r.Feed(piece)
		if err == nil {
			err = event(ev)
		}
		if err != nil {
			return tell(err)
		}
		if n == 0 {
			t.Fatal("nothing was taken")
		}
		sent = sent[n:]
	}
	if end {
		ev, err := r.Close()
		if err == nil {
			err = event(ev)
		}
		if err != nil {
			return tell(err)
		}
	}
	return out.String()
}

// Nothing that a sender can send makes a receiver panic, take nothing, or remember more than
// a line.
func FuzzReceiver(f *testing.F) {
	f.Add([]byte(":MISSING_CHECK: START\r\n"+hashA+" 1795342301.00000 m:5__1,t:3,durable:no\r\n:MISSING_CHECK: END\r\n:UPDATES: START\r\nPUT /a/c/o\r\nContent-Length: 3\r\nA: b\r\n\r\nxyz:UPDATES: END\r\n"), uint8(7))
	f.Fuzz(func(t *testing.T, sent []byte, size uint8) {
		r := &Receiver{Threshold: 3, Ratio: 1}
		for len(sent) > 0 {
			n, ev, err := r.Feed(sent[:min(int(size)+1, len(sent))])
			if err != nil {
				if _, _, again := r.Feed([]byte(":UPDATES: END\r\n")); again == nil {
					t.Fatal("it went on after an error")
				}
				return
			}
			if n == 0 {
				t.Fatal("nothing was taken")
			}
			if ev.Kind == Offered && !isHash(ev.Offer.Hash) || len(r.line) > maxLine {
				t.Fatalf("%+v", ev)
			}
			sent = sent[n:]
		}
		r.Close()
	})
}
