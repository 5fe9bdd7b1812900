package replicate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"imping/netfast"
	"imping/netfast/fake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What Python's pickle.dumps({'f35': {4: 'ab', None: 'cd'}}, 2) gives, hexadecimal md5s
// shortened here to 32 equal digits.
var pickled = "\x80\x02}q\x00X\x03\x00\x00\x00f35q\x01}q\x02(K\x04X \x00\x00\x00" + strings.Repeat("a", 32) +
	"q\x03NX \x00\x00\x00" + strings.Repeat("b", 32) + "q\x04us."

func ask(t *testing.T, answer string, limit int64) (string, *netfast.Client, error) {
	t.Helper()
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		for c.Head() != "" {
			c.Say(answer)
			if strings.Contains(answer, "stops here") {
				return
			}
		}
	})
	c := netfast.NewClient(netfast.Options{ConnTimeout: 10 * time.Second, NodeTimeout: 20 * time.Second})
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	target := Target{Addr: addr, Device: "sda", Partition: 7, Policy: 1}
	hashes, err := Hashes(ctx, c, target, limit)
	if err == nil {
		_, err = Hashes(ctx, c, target, limit) // over the same connection
		if n := c.Counters(); n.Dials != 1 {
			t.Errorf("counters %+v", n)
		}
	}
	return fmt.Sprint(slices.Collect(maps.Keys(hashes))), c, err
}

func ok(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func TestHashesAreRead(t *testing.T) {
	for _, answer := range []string{
		ok(pickled),
		fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(pickled), pickled),
	} {
		if got, _, err := ask(t, answer, int64(len(pickled))); err != nil || got != "[f35]" {
			t.Errorf("%s, %v", got, err)
		}
	}
}

func TestOtherAnswersAreErrorsThatNameThePeer(t *testing.T) {
	for _, c := range []struct {
		what, answer, err string
		final             bool // rule 10: to ask again is of no use
	}{
		{"longer than the limit", ok(pickled + strings.Repeat("x", 1000)), "longer than", true},
		{"longer, in chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n" + strings.Repeat("x", 1024) + "\r\n0\r\n\r\n", "longer than", true},
		{"hostile pickle", ok("cos\nsystem\n(S'true'\ntR."), "cannot read the hashes", true},
		{"hostile, cut off", "HTTP/1.1 200 OK\r\n\r\ncos\nsystem\n#stops here", "cannot read the hashes", true},
		{"no pickle", ok("<html>"), "cannot read the hashes", true},
		{"empty", ok(""), "cannot read the hashes", true},
		{"truncated pickle", ok(pickled[:40]), "cannot read the hashes", true},
		{"cut off where nothing says how long it is", "HTTP/1.1 200 OK\r\n\r\n" + pickled[:40] + "X\x20\x00\x00\x00stops here", "cannot read the hashes", false},
		{"short body", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nstops here", "broke off at byte 10 of 100", false},
	} {
		_, _, err := ask(t, c.answer, 500)
		if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "127.0.0.1:") {
			t.Errorf("%s: %v, want %q and the peer", c.what, err, c.err)
		}
		if _, final := errors.AsType[*AnswerError](err); final != c.final {
			t.Errorf("%s: %v, final %v, want %v", c.what, err, final, c.final)
		}
	}
	_, _, err := ask(t, "HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 3\r\n\r\nsda", 500)
	var status *StatusError
	if !errors.As(err, &status) || status.Status != 507 || status.Body != "sda" || !strings.Contains(err.Error(), "127.0.0.1:") {
		t.Errorf("%v, want a StatusError 507", err)
	}
}

func TestThePeerMayRehashInSilence(t *testing.T) {
	release := make(chan struct{})
	addr := fake.Peer(t, func(_ int, c *fake.Conn) {
		c.Head()
		<-release
		c.Say(ok(pickled))
		c.Hang()
	})
	c := netfast.NewClient(netfast.Options{NodeTimeout: 50 * time.Millisecond})
	defer c.Close()
	time.AfterFunc(200*time.Millisecond, func() { close(release) })
	if _, err := Hashes(context.Background(), c, Target{Addr: addr, Device: "sda"}, 500); err != nil {
		t.Error(err)
	}
}
