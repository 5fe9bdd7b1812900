package server

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"imping/netfast"
)

// maxFooter bounds the metadata behind an object: what its fields may take in a head, quoted.
const maxFooter = 1 << 20

// documents are the parts of a body in which a proxy sends more than an object: its bytes, then metadata that it knows
// only once it has seen them all, then, when enough servers have both, word that the archive is to be durable.
// Swift: proxy/controllers/obj.py, MIMEPutter.
type documents struct {
	footer, commit bool // what was announced

	body  phased
	watch *watched
	buf   *bufio.Reader
	parts *multipart.Reader
}

// phased is the body of a request of its own; those in an SSYNC session have one phase.
type phased interface {
	Body
	Promise(...netfast.Field)
	NextPhase() error
}

// maxDocumentHead bounds what may be read on the way to a document's first byte, beside what is in the buffer: its head is a few lines.
const maxDocumentHead = 64 << 10

var errLongDocumentHead = fmt.Errorf("the head of a document is longer than %d bytes", maxDocumentHead)

// watched remembers why a body can not be read any more: what parses it may wrap that, or pass it over.
type watched struct {
	r    io.Reader
	room int   // how much may be read; negative is all
	err  error // not io.EOF
}

func (w *watched) Read(p []byte) (int, error) {
	if w.room == 0 {
		w.err = errLongDocumentHead
		return 0, w.err
	}
	if w.room > 0 {
		p = p[:min(len(p), w.room)]
	}
	n, err := w.r.Read(p)
	if w.room > 0 {
		w.room -= n
	}
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// documentBuffers are larger than what multipart reads at once, so that a body costs fewer system calls.
var documentBuffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 64<<10) }}

// documentsOf gives the documents that a request announces, nil for a body that is the object and nothing else. The peer
// learns with 100 Continue that they are understood. Swift: obj/server.py, _do_multi_stage_mime_continue_headers.
func documentsOf(r *Request) (*documents, error) {
	d := &documents{footer: r.Header.True("X-Backend-Obj-Metadata-Footer"), commit: r.Header.True("X-Backend-Obj-Multiphase-Commit")}
	if !d.footer && !d.commit {
		return nil, nil
	}
	var ok bool
	if d.body, ok = r.Body.(phased); !ok {
		return nil, badDocument(400, "a body of several documents within a session")
	}
	boundary := r.Header.Get("X-Backend-Obj-Multipart-Mime-Boundary")
	if boundary == "" {
		return nil, badDocument(400, "no MIME boundary")
	}
	if d.commit {
		d.body.Promise(netfast.Field{Key: "X-Obj-Multiphase-Commit", Value: "yes"})
	}
	if d.footer {
		d.body.Promise(netfast.Field{Key: "X-Obj-Metadata-Footer", Value: "yes"})
	}
	d.watch = &watched{r: d.body, room: -1}
	d.buf = documentBuffers.Get().(*bufio.Reader)
	d.buf.Reset(d.watch)
	if err := d.begin("--" + boundary + "\r\n"); err != nil {
		d.close()
		return nil, err
	}
	d.parts = multipart.NewReader(d.buf, boundary)
	return d, nil
}

// begin sees to it that a body begins with the line that ends every document, as multipart does not: it skips what comes
// before, and takes a line feed alone there for the end of lines everywhere.
func (d *documents) begin(line string) error {
	for {
		got, err := d.buf.Peek(len(line))
		switch {
		case string(got) == line:
			return nil
		case bytes.HasPrefix(got, crlf):
			_, _ = d.buf.Discard(len(crlf)) // is there
		case d.watch.err != nil:
			return cutShort(d.watch.err)
		case err == nil || err == io.EOF || err == bufio.ErrBufferFull:
			return answer(500)
		}
	}
}

func (d *documents) close() {
	d.buf.Reset(nil)
	documentBuffers.Put(d.buf)
	d.buf = nil
}

// document is one part.
type document struct {
	*multipart.Part
	of *documents
}

// Read ends where the part does, or where the body does: what is missing behind it is found out later.
func (p *document) Read(b []byte) (int, error) {
	n, err := p.Part.Read(b)
	switch {
	case err == nil || err == io.EOF:
	case p.of.watch.err != nil:
		err = p.of.watch.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = io.EOF
	}
	return n, err
}

// badDocument answers as Swift does to what comes in documents.
func badDocument(status int, format string, args ...any) *Response {
	return answerText(status, "text/html; charset=UTF-8", fmt.Sprintf(format, args...))
}

// next goes on to the next document; the error is an answer.
func (d *documents) next(what string) (*document, error) {
	d.watch.room = d.buf.Size() + maxDocumentHead
	part, err := d.parts.NextRawPart()
	d.watch.room = -1
	switch {
	case err == nil:
		return &document{part, d}, nil
	case d.watch.err == errLongDocumentHead:
		return nil, badDocument(400, "%v", d.watch.err)
	case d.watch.err != nil:
		return nil, cutShort(d.watch.err)
	}
	return nil, badDocument(400, "couldn't find %s MIME doc", what)
}

// readFooter gives the metadata behind the object: names in title case, values as they are stored.
// Swift: obj/server.py, _read_metadata_footer and _parse_footer.
func (d *documents) readFooter() (Header, error) {
	part, err := d.next("footer")
	if err != nil {
		return Header{}, err
	}
	text, err := io.ReadAll(io.LimitReader(part, maxFooter+1))
	switch {
	case err != nil:
		return Header{}, cutShort(err)
	case len(text) > maxFooter:
		return Header{}, badDocument(400, "footer of more than %d bytes", maxFooter)
	}
	want := part.Header.Get("Content-MD5")
	if want == "" {
		return Header{}, badDocument(400, "no Content-MD5 in footer")
	}
	if sum := md5.Sum(text); hex.EncodeToString(sum[:]) != want {
		return Header{}, badDocument(422, "footer MD5 mismatch")
	}
	footers, err := parseFooter(text)
	if err != nil {
		return Header{}, badDocument(400, "invalid JSON for footer doc")
	}
	return footers, nil
}

// parseFooter reads a JSON object of texts, numbers and truths, in its order; null is nothing. Other than in a head, underscores in
// names stay. What could not be sent back in a head is refused, and text that the decoder would change.
// Swift: common/header_key_dict.py.
func parseFooter(text []byte) (Header, error) {
	var footers Header
	if !utf8.Valid(text) {
		return footers, errors.New("not UTF-8")
	}
	set := func(key string, value *string) error {
		if strings.ContainsAny(key, "\r\n\x00\uFFFD") || value != nil && strings.ContainsAny(*value, "\r\n\x00\uFFFD") {
			return fmt.Errorf("%.100q can not be a header field", key)
		}
		name := []byte(title(key))
		for i := range name {
			if key[i] == '_' {
				name[i] = '_'
			}
		}
		key = string(name)
		i := footers.index(key)
		switch {
		case value != nil && i >= 0:
			footers.fields[i].Value = *value
		case value != nil:
			footers.add(key, *value)
		case i >= 0:
			footers.fields = slices.Delete(footers.fields, i, i+1)
		}
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return footers, errors.New("not an object")
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return footers, err
		}
		value, err := dec.Token()
		if err != nil {
			return footers, err
		}
		var stored *string
		switch v := value.(type) {
		case string:
			stored = &v
		case json.Number:
			stored = new(v.String())
		case bool:
			stored = new(map[bool]string{false: "False", true: "True"}[v])
		case nil:
		default:
			return footers, fmt.Errorf("%s is a list or an object", key)
		}
		if err := set(key.(string), stored); err != nil {
			return footers, err
		}
	}
	if _, err := dec.Token(); err != nil { // the closing brace
		return footers, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return footers, errors.New("more than an object")
	}
	return footers, nil
}

// awaitCommit tells the peer that the archive is here and waits for its word. An error is an answer, and the archive stays
// as it is: not durable. Swift: obj/server.py, _send_multi_stage_continue_headers and _read_put_commit_message.
func (d *documents) awaitCommit() error {
	// The line break behind the last boundary may be on its way still: it belongs to the phase that ends.
	for {
		_, err := d.buf.Peek(d.buf.Buffered() + 1)
		if err == io.EOF {
			break
		}
		if err != nil {
			return cutShort(err)
		}
	}
	if err := d.body.NextPhase(); err != nil {
		return cutShort(err)
	}
	part, err := d.next("PUT commit")
	if err != nil {
		return err
	}
	if part.Header.Get("X-Document") != "put commit" {
		return answer(500)
	}
	switch n, err := io.Copy(io.Discard, io.LimitReader(part, maxFooter+1)); {
	case err != nil:
		return cutShort(err) // who goes in the middle of a word has not said it
	case n > maxFooter:
		return badDocument(400, "PUT commit of more than %d bytes", maxFooter)
	}
	return nil
}
