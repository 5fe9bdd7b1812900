// Package faults makes peers lie, stall and truncate: a proxy stands at a node's
// replication address, passes everything on to the server behind it, and does to single
// devices what disks, networks and broken servers do. It knows HTTP as far as it must, and
// neither who asks nor what is right: the tests judge.
package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

// Kind is what is wrong with a device, or with the node that has it.
type Kind string

const (
	Down       Kind = "down"        // the whole node refuses connections
	Unmounted  Kind = "unmounted"   // 507 to everything
	Busy       Kind = "busy"        // 503 and 529 in turn; within SSYNC a line `:ERROR: 503`
	StallHead  Kind = "stall-head"  // no answer at all
	StallBody  Kind = "stall-body"  // half of an archive, and then nothing more
	Truncate   Kind = "truncate"    // half of an archive, and the connection is closed
	WrongIndex Kind = "wrong-index" // another fragment index
	WrongTime  Kind = "wrong-time"  // older timestamps
	WrongEtag  Kind = "wrong-etag"  // the ETag of another object
	Flip       Kind = "flip"        // one byte of the payload is another: the first and the last in turn
	Garbage    Kind = "garbage"     // no HTTP to GET, no hashes to REPLICATE, no protocol in SSYNC
	SsyncCut   Kind = "ssync-cut"   // the connection ends in the middle of an SSYNC subrequest
	SsyncStall Kind = "ssync-stall" // nothing more is read or answered from there on
	PutStall   Kind = "put-stall"   // of the body of a PUT no more is passed on than Mark and After say
)

// Kinds are all but PutStall, which proxies are met with, not partners.
func Kinds() []Kind {
	return []Kind{Down, Unmounted, Busy, StallHead, StallBody, Truncate, WrongIndex, WrongTime, WrongEtag, Flip, Garbage, SsyncCut, SsyncStall}
}

// Fault is one thing that is wrong, from Inject to Lift.
type Fault struct {
	Kind   Kind
	Device string // as in the request's path; of no meaning for Down
	Method string // "": whatever is asked
	Times  int64  // how often it strikes; 0: as long as it is there
	// After is how many bytes of a session's updates SsyncCut and SsyncStall let pass. Below 64, the size of an
	// empty list of updates, it means 64. PutStall lets as many pass behind Mark, a text in the body; with less than
	// none Mark's end does not pass, and with AllOfIt nothing that the proxy has read together with it.
	After int64
	Mark  string

	struck  atomic.Int64
	refused int64 // connection attempts that had failed before it began
	lifted  chan struct{}
}

func (f *Fault) String() string {
	s := string(f.Kind) + "@" + f.Device
	if f.Method != "" {
		s += "/" + f.Method
	}
	if f.Times > 0 {
		s += "*" + strconv.FormatInt(f.Times, 10)
	}
	return s
}

// AllOfIt, as Fault.After, is more than is ever read at once.
const AllOfIt = -1 << 30

// cut says behind which text of a request's stream how many bytes may pass.
func (f *Fault) cut() (mark string, after int64) {
	if f.Kind == PutStall {
		return f.Mark, f.After
	}
	return updatesStart, max(f.After, 64)
}

// Struck is how often the fault did something. A refused connection reaches no program:
// for Down it is what the kernel counted in this network namespace.
func (f *Fault) Struck() int64 { return f.struck.Load() }

// strike reports whether the fault may do its work once more, and counts that.
func (f *Fault) strike() bool {
	for {
		n := f.struck.Load()
		if f.Times > 0 && n >= f.Times {
			return false
		}
		if f.struck.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// failedAttempts is the kernel's count of connection attempts that came to nothing, of
// this network namespace.
func failedAttempts() (int64, error) {
	b, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		return 0, fmt.Errorf("cannot count refused connections: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		rest, ok := strings.CutPrefix(line, "Tcp:")
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if names == nil {
			names = fields
			continue
		}
		for i, name := range names {
			if name == "AttemptFails" && i < len(fields) {
				return strconv.ParseInt(fields[i], 10, 64)
			}
		}
	}
	return 0, fmt.Errorf("cannot count refused connections: /proc/net/snmp has no AttemptFails")
}
