// Package denial names every reason for which Sealmesh refuses something.
//
// A [Reason] is a stable code: it appears in logs, in the audit, in JSON output
// and, where the other side may know it, in answers. Codes are never renamed or
// reused; a new reason is a new code. A Reason is itself an error, so a caller
// asks errors.Is(err, denial.Replayed); [Error] adds the detail for the log and
// the operator. Details never hold secrets, payloads or whole tokens.
package denial

import (
	"errors"
	"fmt"
)

// Reason is the stable code of a refusal.
type Reason string

// Error implements error: the code itself.
func (r Reason) Error() string { return string(r) }

// Error is a refusal with its detail. It unwraps to its Reason and to the
// error that caused it, if there is one.
type Error struct {
	Reason Reason
	Detail string
	cause  error
}

// New returns a refusal; the detail says what rule was broken, in lower case,
// with %q around foreign text. A %w in the format keeps the cause.
func New(reason Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: reason, Detail: err.Error(), cause: errors.Unwrap(err)}
}

// Error implements error: "code: detail".
func (e *Error) Error() string {
	if e.Detail == "" {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Detail
}

// Unwrap gives the reason and the cause to errors.Is and errors.As.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Reason}
	}
	return []error{e.Reason, e.cause}
}

// Of returns the reason of err, or the empty Reason where err is not a refusal.
func Of(err error) Reason {
	var r Reason
	if errors.As(err, &r) {
		return r
	}
	return ""
}

// Detail returns the text that explains err without its code.
func Detail(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Detail
	}
	if err == nil {
		return ""
	}
	return err.Error()
}
