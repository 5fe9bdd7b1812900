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
		if err := c.Suspect("a:1"); err != nil {
			t.Fatalf("suspect after %d faults: %v", i, err)
		}
		c.fault("a:1", gone)
	}
	if err := c.Suspect("a:1"); !errors.Is(err, gone) {
		t.Errorf("after %d faults: %v, want the last of them", suspectAfter, err)
	}
	if err := c.Suspect("a:2"); err != nil {
		t.Errorf("another peer: %v", err)
	}
	c.health["a:1"].until = time.Now().Add(-time.Second)
	if err := c.Suspect("a:1"); err != nil {
		t.Errorf("it gets no second chance: %v", err)
	}
	c.fault("a:1", gone)
	if c.Suspect("a:1") == nil {
		t.Error("it used its chance badly and is not suspect")
	}
	c.fine("a:1")
	if err := c.Suspect("a:1"); err != nil {
		t.Errorf("it answered: %v", err)
	}
}
