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
	"sync"

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

// watched remembers why a body can not be read any more: what parses it may wrap that, or pass it over.
type watched struct {
	r   io.Reader
	err error // not io.EOF
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
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
	d.watch = &watched{r: d.body}
	d.buf = documentBuffers.Get().(*bufio.Reader)
	d.buf.Reset(d.watch)
	d.parts = multipart.NewReader(d.buf, boundary)
	return d, nil
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
	part, err := d.parts.NextRawPart()
	switch {
	case err == nil:
		return &document{part, d}, nil
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

// parseFooter reads a JSON object of texts and numbers, in its order; null is nothing.
func parseFooter(text []byte) (Header, error) {
	var footers Header
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
		switch v := value.(type) {
		case string:
			footers.Set(key.(string), v)
		case json.Number:
			footers.Set(key.(string), v.String())
		case nil:
			footers.Del(key.(string))
		default:
			return footers, fmt.Errorf("%s is neither text nor number", key)
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
	return nil
}
