package netfast

import (
	"errors"
	"testing"
	"time"
)

func TestAPeerThatDoesNotAnswerIsLeftAloneForAWhile(t *testing.T) {
	c := NewClient(Options{})
	defer c.Close()
	gone := errors.New("connection refused")
	for i := range suspectAfter {
		if err := c.Suspect("a:1", "sda"); err != nil {
			t.Fatalf("suspect after %d faults: %v", i, err)
		}
		c.fault("a:1", "", gone)
	}
	if err := c.Suspect("a:1", "sda"); !errors.Is(err, gone) {
		t.Errorf("after %d faults: %v, want the last of them", suspectAfter, err)
	}
	if err := c.Suspect("a:2", "sda"); err != nil {
		t.Errorf("another peer: %v", err)
	}
	c.health["a:1"].until = time.Now().Add(-time.Second)
	if err := c.Suspect("a:1", "sda"); err != nil {
		t.Errorf("it gets no second chance: %v", err)
	}
	c.fault("a:1", "", gone)
	if c.Suspect("a:1", "sda") == nil {
		t.Error("it used its chance badly and is not suspect")
	}
	c.fine("a:1", "sda")
	if err := c.Suspect("a:1", "sda"); err != nil {
		t.Errorf("it answered: %v", err)
	}
}

// rule 10
func TestHowLongAPeerIsLeftAloneFollowsNodeTimeout(t *testing.T) {
	for node, want := range map[time.Duration][2]time.Duration{
		0:                {suspectFor, suspectMost},
		time.Minute:      {suspectFor, suspectMost},
		10 * time.Second: {suspectFor, suspectMost},
		time.Second:      {suspectFor / 10, suspectMost / 10},
	} {
		c := NewClient(Options{NodeTimeout: node})
		fault := func() time.Duration {
			begin := time.Now()
			c.fault("a:1", "", errors.New("connection refused"))
			return c.health["a:1"].until.Sub(begin).Round(50 * time.Millisecond)
		}
		after := func(faults int) time.Duration {
			for range faults {
				fault()
				c.health["a:1"].until = time.Time{}
			}
			return fault()
		}
		if got := after(suspectAfter - 1); got != want[0] {
			t.Errorf("node_timeout %v: left alone for %v at first, want %v", node, got, want[0])
		}
		if got := after(10); got != want[1] {
			t.Errorf("node_timeout %v: left alone for %v in the end, want %v", node, got, want[1])
		}
		c.Close()
	}
}

// rule 10, law 7: a hanging disk discredits itself, several the server.
func TestADeviceThatDoesNotAnswerDiscreditsItselfAlone(t *testing.T) {
	c := NewClient(Options{})
	defer c.Close()
	silent := errors.New("no progress")
	for range 3 * suspectAfter {
		c.fault("a:1", "sda", silent)
		c.health["a:1/sda"].until = time.Now().Add(-time.Second)
	}
	c.fault("a:1", "sda", silent)
	if c.Suspect("a:1", "sda") == nil || c.Suspect("a:1", "sdb") != nil || c.Suspect("a:11", "sda") != nil {
		t.Error("not sda, and sda alone, is suspect")
	}
	c.fine("a:1", "sdb")
	if c.Suspect("a:1", "sda") == nil {
		t.Error("another device's answer speaks for sda")
	}
	for range suspectAfter {
		c.fault("a:1", "sdb", silent)
	}
	if c.Suspect("a:1", "sdb") == nil || c.Suspect("a:1", "sdc") != nil {
		t.Error("not sda and sdb are suspect")
	}
	for range suspectAfter {
		c.health["a:1/sdb"].until = time.Now().Add(-time.Second)
		c.fault("a:1", "sdb", silent)
	}
	if c.Suspect("a:1", "sdc") == nil {
		t.Error("two devices are silent throughout, and the server is not suspect")
	}
	c.fine("a:1", "sdc")
	if c.Suspect("a:1", "sdc") != nil || c.Suspect("a:1", "sda") == nil {
		t.Error("an answer speaks for the server and for its own device")
	}
}
