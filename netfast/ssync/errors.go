package ssync

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"imping/netfast"
)

// StatusError is an answer to the SSYNC request itself that is not 200; 507 says that
// the device is not mounted.
type StatusError = netfast.StatusError

// RemoteError is an ":ERROR: code repr" line of the receiver, which then hangs up.
type RemoteError struct {
	Code int    // an HTTP status, or 0 for an exception of its own
	Text string // without the quotes of the Python repr; escapes stay
	Line string // as it came, without its end
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("the receiver reported an error %d: %.1024s", e.Code, e.Text)
}

// Retryable says that there is nothing wrong with what was asked, only with the moment
// (rule 10): the receiver's replication semaphore was taken (503), a replication lock was
// not granted in time, or it had to wait too long for the next line (408), as when another
// session of the same group was sent something long.
func (e *RemoteError) Retryable() bool {
	return e.Code == 503 || e.Code == 408 || e.Code == 0 && namesLockTimeout(e.Text)
}

// Raised says that something that was sent made the receiver fail, with an exception of its
// own: neither a refusal nor the end that many failed subrequests come to (Swift:
// ssync_receiver.py, __call__ and updates).
func (e *RemoteError) Raised() bool {
	return e.Code == 0 && !namesLockTimeout(e.Text) && !strings.HasPrefix(e.Text, "Too many ")
}

// namesLockTimeout recognises "15 seconds: /srv/node/sdb1/.lock", what a LockTimeout
// says (Swift: common/exceptions.py, MessageTimeout.__str__; common/utils.py,
// lock_path; obj/diskfile.py, partition_lock: .lock, .lock-1, .lock-replication).
func namesLockTimeout(text string) bool {
	seconds, rest, ok := strings.Cut(text, " ")
	if !ok {
		return false
	}
	if _, err := strconv.ParseFloat(seconds, 64); err != nil {
		return false
	}
	_, path, ok := strings.Cut(rest, ": ")
	unit := strings.TrimSuffix(rest[:len(rest)-len(path)], ": ")
	if !ok || unit != "second" && unit != "seconds" {
		return false
	}
	name := path[strings.LastIndexByte(path, '/')+1:]
	return name == ".lock" || strings.HasPrefix(name, ".lock-")
}

// parseRemote takes ":ERROR: 503 b'...'" apart; nil if line is not of that form.
func parseRemote(line []byte) *RemoteError {
	rest, ok := bytes.CutPrefix(line, []byte(":ERROR: "))
	if !ok {
		return nil
	}
	code, repr, _ := strings.Cut(string(rest), " ")
	n, err := strconv.Atoi(code)
	if err != nil {
		return nil
	}
	text := strings.TrimPrefix(repr, "b")
	if l := len(text); l >= 2 && (text[0] == '\'' || text[0] == '"') && text[l-1] == text[0] {
		text = text[1 : l-1]
	} else {
		text = repr
	}
	return &RemoteError{Code: n, Text: text, Line: string(line)}
}

// ProtocolError is a line that the receiver must not send at this point.
type ProtocolError struct {
	Expected string
	Line     string // its first 1024 bytes
}

func (e *ProtocolError) Error() string {
	return fmt.Sprintf("unexpected line from the receiver (%s): %q", e.Expected, e.Line)
}

func unexpected(expected string, line []byte) *ProtocolError {
	return &ProtocolError{Expected: expected, Line: string(line[:min(len(line), 1024)])}
}
