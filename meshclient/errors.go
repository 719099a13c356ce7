package meshclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// ErrUnavailable is wrapped by every error that says that something could not
// be reached or did not answer. Trying again later may help.
var ErrUnavailable = errors.New("meshclient: unavailable")

// ErrClosed is returned once the Mesh is closed.
var ErrClosed = errors.New("meshclient: closed")

// ErrDeadline is wrapped where nobody answered in time. It wraps ErrUnavailable
// as well: the work may or may not have been done.
var ErrDeadline = fmt.Errorf("%w: deadline passed", ErrUnavailable)

// Denied says that something was refused, by the mesh or by another agent.
// Trying again changes nothing.
type Denied struct {
	Reason denial.Reason // stable code
	Detail string        // what rule was broken, where the other side may know
	Hint   string        // what helps
	ID     string        // denial ID, where there is one: sealmesh why ID
}

// Error implements error.
func (d *Denied) Error() string {
	if d.Detail == "" {
		return "denied: " + string(d.Reason)
	}
	return "denied: " + string(d.Reason) + ": " + d.Detail
}

// Unwrap makes errors.Is(err, denial.Suspended) work.
func (d *Denied) Unwrap() error { return d.Reason }

// denied turns a refusal into what an application sees.
func denied(err error) error {
	var d *Denied
	if errors.As(err, &d) {
		return err
	}
	r := denial.Of(err)
	switch r {
	case "":
		return err
	case denial.RegistryUnavailable, denial.ReplayUnavailable, denial.FeedStale:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return &Denied{Reason: r, Detail: denial.Detail(err), Hint: denial.Hint(r)}
}

// Error is an error that a handler returns on purpose and that its caller sees.
// Everything else that a handler returns stays at home: the caller is told
// [CodeInternal] and no more.
type Error struct {
	Code    string // CodeInvalid, CodeNotFound, or "app-" and the application's own
	Message string
}

// The error codes that cross the mesh. Applications make their own with the
// prefix "app-": lower case letters, digits and hyphens, at most 40 characters.
const (
	CodeDenied      = "denied"
	CodeInvalid     = "invalid"
	CodeNotFound    = "not-found"
	CodeUnavailable = "unavailable"
	CodeDeadline    = "deadline"
	CodeLoop        = "loop"
	CodeInternal    = "internal"
)

// Error implements error.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

// Is compares codes, so that errors.Is(err, &meshclient.Error{Code: …}) works.
func (e *Error) Is(target error) bool {
	var t *Error
	return errors.As(target, &t) && t.Code == e.Code && (t.Message == "" || t.Message == e.Message)
}

// maxErrorText bounds what of an error message travels.
const maxErrorText = 1024

// outgoing turns what a handler returned into a code and a payload.
func outgoing(err error) (code string, payload []byte) {
	var e *Error
	var d *Denied
	switch {
	case errors.As(err, &e) && validCode(e.Code):
		msg := e.Message
		if len(msg) > maxErrorText {
			msg = msg[:maxErrorText]
		}
		return e.Code, []byte(msg)
	case denial.Of(err) == denial.Loop:
		return CodeLoop, nil
	case errors.As(err, &d):
		// A refusal further down is this handler's affair; its caller learns that
		// something was denied, not what the handler may or may not do.
		return CodeUnavailable, nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrDeadline):
		return CodeDeadline, nil
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled):
		return CodeUnavailable, nil
	}
	return CodeInternal, nil
}

var codeForm = regexp.MustCompile(`^app-[a-z0-9-]{1,36}$`)

// validCode reports whether a handler may answer with the code.
func validCode(code string) bool {
	switch code {
	case CodeInvalid, CodeNotFound, CodeUnavailable, CodeDeadline, CodeInternal:
		return true
	}
	return codeForm.MatchString(code)
}

// incoming turns a reply's error code and payload into an error.
func incoming(code string, payload []byte) error {
	switch code {
	case CodeDenied:
		var f wire.Failure
		if err := json.Unmarshal(payload, &f); err != nil || f.Reason == "" {
			return &Denied{Reason: denial.Internal, Detail: "refused without a reason"}
		}
		return &Denied{Reason: f.Reason, Detail: f.Detail, Hint: f.Hint, ID: f.Denial}
	case CodeLoop:
		return &Denied{Reason: denial.Loop, Detail: "the call tree is too deep", Hint: denial.Hint(denial.Loop)}
	case CodeDeadline:
		return fmt.Errorf("%w at the handler", ErrDeadline)
	case CodeUnavailable:
		return fmt.Errorf("%w: the handler could not reach what it needs", ErrUnavailable)
	}
	return &Error{Code: code, Message: string(payload)}
}
