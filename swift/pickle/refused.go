package pickle

import "fmt"

// RefusedError is in the chain of the errors for pickles that Python may well load: they
// hold more, or other things, than Swift writes. All other errors are for what is no
// pickle, or none of metadata.
type RefusedError struct{ err error }

func (e *RefusedError) Error() string { return e.err.Error() }
func (e *RefusedError) Unwrap() error { return e.err }

func refuse(format string, args ...any) error {
	return &RefusedError{fmt.Errorf(format, args...)}
}
