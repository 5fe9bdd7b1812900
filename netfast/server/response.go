package server

import (
	"fmt"
	"io"
	"strings"

	"imping/netfast"
)

// Response is an answer. It is an error too, so that a verb can fail with it.
type Response struct {
	Status int
	Header []netfast.Field // without Date, Content-Length, Connection, Transfer-Encoding: conn.go adds them
	// One of these at most; none is the html text that Swift has for the status.
	Body   []byte                  // with an own text, empty ones too
	Stream Stream                  // bytes of an object
	Duplex func(w io.Writer) error // in chunks, while the request's body is read; each Write is a chunk, sent at once

	reason string // instead of Swift's for the status
	drive  string // in the text of a 507
}

// Stream is a body that is not held in memory. Send writes head and then exactly Length
// bytes; an error cuts the connection. Close is called once, whether Send was or not.
type Stream interface {
	Length() int64
	Send(c *netfast.Conn, head []byte) error
	Close()
}

func (r *Response) Error() string { return fmt.Sprintf("%d %s", r.Status, r.title()) }

// answer is an answer with the text that Swift has for the status.
func answer(status int) *Response { return &Response{Status: status} }

// answerText is an answer with a text of its own.
func answerText(status int, contentType, body string) *Response {
	return (&Response{Status: status, Body: []byte(body)}).with("Content-Type", contentType)
}

// insufficientStorage is 507, which tells that a device is unmounted or full.
// Swift: common/swob.py, HTTPInsufficientStorage.
func insufficientStorage(device string) *Response {
	return &Response{Status: 507, drive: device}
}

// with sets a field and returns r.
func (r *Response) with(key, value string) *Response {
	for i := range r.Header {
		if r.Header[i].Key == key {
			r.Header[i].Value = value
			return r
		}
	}
	r.Header = append(r.Header, netfast.Field{Key: key, Value: value})
	return r
}

// Get is the value of a field of the answer, or "". key is written as it was set.
func (r *Response) Get(key string) string {
	for _, f := range r.Header {
		if f.Key == key {
			return f.Value
		}
	}
	return ""
}

func (r *Response) title() string {
	if r.reason != "" {
		return r.reason
	}
	if text, ok := reasons[r.Status]; ok {
		return text[0]
	}
	return "Unknown"
}

// close gives up what the answer holds when it is not sent.
func (r *Response) close() {
	if r.Stream != nil {
		r.Stream.Close()
	}
}

// complete fills in what Swift's Response has by default; to a HEAD a text of the status' own
// is none at all. Swift: common/swob.py, Response._response_iter.
func (r *Response) complete(method string) {
	if r.Get("Content-Type") == "" {
		r.with("Content-Type", "text/html; charset=UTF-8")
	}
	if r.Body == nil && r.Stream == nil && r.Duplex == nil {
		r.Body = []byte{}
		if method != "HEAD" {
			r.Body = []byte(htmlText(r.Status, r.drive))
		}
	}
}

// htmlText is the text that an answer without one has.
func htmlText(status int, drive string) string {
	text := reasons[status]
	if text[1] == "" {
		return ""
	}
	return "<html><h1>" + text[0] + "</h1><p>" + strings.ReplaceAll(text[1], "%(drive)s", drive) + "</p></html>"
}

// reasons are the reason phrases and texts of the statuses that a server answers with; they
// are what Swift's servers send, for clients that look at them.
var reasons = map[int][2]string{
	200: {"OK", ""},
	201: {"Created", ""},
	202: {"Accepted", "The request is accepted for processing."},
	204: {"No Content", ""},
	206: {"Partial Content", ""},
	304: {"Not Modified", ""},
	400: {"Bad Request", "The server could not comply with the request since it is either malformed or otherwise incorrect."},
	403: {"Forbidden", "Access was denied to this resource."},
	404: {"Not Found", "The resource could not be found."},
	405: {"Method Not Allowed", "The method is not allowed for this resource."},
	408: {"Request Timeout", "The server has waited too long for the request to be sent by the client."},
	409: {"Conflict", "There was a conflict when trying to complete your request."},
	411: {"Length Required", "Content-Length header required."},
	412: {"Precondition Failed", "A precondition for this request was not met."},
	413: {"Request Entity Too Large", "The body of your request was too large for this server."},
	416: {"Requested Range Not Satisfiable", "The Range requested is not available."},
	422: {"Unprocessable Entity", "Unable to process the contained instructions"},
	431: {"Request Header Fields Too Large", ""},
	499: {"Client Disconnect", "The client was disconnected during request."},
	500: {"Internal Error", "The server has either erred or is incapable of performing the requested operation."},
	501: {"Not Implemented", "The requested method is not implemented by this server."},
	503: {"Service Unavailable", "The server is currently unavailable. Please try again at a later time."},
	507: {"Insufficient Storage", "There was not enough space to save the resource. Drive: %(drive)s"},
	529: {"Too Many Backend Requests", "The server is incapable of performing the requested operation due to too many requests. Slow down."},
}
