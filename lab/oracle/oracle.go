// Package oracle asks the installed Swift and PyECLib what they would do: it runs
// a Python script under Debian's interpreter, hands it a JSON question on standard
// input and decodes the JSON answer from standard output. It holds no knowledge of
// Swift itself; the scripts live beside the tests that ask.
package oracle

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"syscall"
	"testing"
)

// Python is Debian's interpreter: the only one that sees Debian's python3-swift.
const Python = "/usr/bin/python3"

// Ask runs script (Python source) and decodes its answer into answer. It fails the
// test, with all that the script wrote to standard error, when anything goes wrong:
// a machine without Swift is a failed test, not a skipped one (`make deps` installs
// what is missing).
func Ask(t testing.TB, script string, question, answer any) {
	t.Helper()
	in, err := json.Marshal(question)
	if err != nil {
		t.Fatalf("cannot encode the question: %v", err)
	}
	cmd := exec.Command(Python, "-P", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stdin = bytes.NewReader(in)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("cannot ask Swift (is python3-swift installed? `make deps`): %v\n%s", err, errOut.String())
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		t.Fatalf("cannot read Swift's answer: %v\n%s\n%s", err, out.String(), errOut.String())
	}
}
