package meshclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
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

// ErrNobody, ErrDraining and ErrHandlerGone say of a call more than ErrUnavailable,
// which they wrap: nobody handles the scope at the moment, and the work was not done;
// the handler was closing before it was done with it; or whoever had been asked, or had
// taken the call, was cut, or its connection ended and did not come back, so that the
// work may be half done. Somebody else may handle it then.
var (
	ErrNobody      = fmt.Errorf("%w: nobody handles it now", ErrUnavailable)
	ErrDraining    = fmt.Errorf("%w: the handler is closing", ErrUnavailable)
	ErrHandlerGone = fmt.Errorf("%w: the handler is gone", ErrUnavailable)
)

// What a handler returns to choose the code that its caller sees, and what
// errors.Is finds at the caller: ErrInvalid for a request that can never work,
// ErrNotFound for what it is about, ErrInternal for everything that stays at home.
// An error that wraps one says no more than the code across the mesh; for a
// message of its own return an [Error]. [ErrUnavailable] and [ErrDeadline] travel
// as well.
var (
	ErrInvalid  error = &Error{Code: CodeInvalid}
	ErrNotFound error = &Error{Code: CodeNotFound}
	ErrInternal error = &Error{Code: CodeInternal}
)

// ErrLoop is wrapped where a call tree became too deep.
var ErrLoop error = denial.Loop

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
	switch {
	case r == "" || errors.Is(err, ErrUnavailable):
		return err
	case transient(r):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return &Denied{Reason: r, Detail: denial.Detail(err), Hint: denial.Hint(r)}
}

// transient reports whether a refusal says that something could not be decided,
// and nothing about the one who was refused, or that it is for now only: trying
// again may help.
func transient(r denial.Reason) bool {
	switch r {
	case denial.RegistryUnavailable, denial.ReplayUnavailable, denial.FeedStale, denial.RateLimited,
		denial.Overloaded, denial.EpochRaced, denial.Flapping, denial.SessionTaken:
		return true
	}
	return false
}

// Error is an error that a handler returns on purpose and that its caller sees.
// Everything else that a handler returns stays at home: the caller is told
// [CodeInternal] and no more. A code that this version does not know is an Error
// with that code.
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

// causeDraining is what the answer "unavailable" of a closing handler says.
const causeDraining = "draining"

// Hint says what helps against one of the codes; it is empty for those of an
// application.
func (e *Error) Hint() string {
	switch e.Code {
	case CodeInvalid:
		return "the handler takes no such request; the same one again changes nothing"
	case CodeNotFound:
		return "the handler does not know what the request is about"
	case CodeInternal:
		return "the handler failed; its own log says why, under the correlation ID"
	}
	return ""
}

// Error implements error.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + plain(e.Message) // another agent's words, on their way to a log or a terminal
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
		return e.Code, []byte(clipText(e.Message))
	case denial.Of(err) == denial.Loop:
		return CodeLoop, nil
	case errors.As(err, &d):
		// A refusal further down is this handler's affair; its caller learns that
		// something was denied, not what the handler may or may not do.
		return CodeUnavailable, nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrDeadline):
		return CodeDeadline, nil
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrCallerGone), errors.Is(err, context.Canceled):
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

// clipText bounds a text and makes it valid UTF-8.
func clipText(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText]
	}
	return strings.ToValidUTF8(s, "")
}

// plain is clipText for what ends up on terminals: without control characters.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, clipText(s))
}

var reasonForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// incoming turns the error code and payload of a reply into an error. Another
// agent's word is believed for the reason alone: a hint is a command that
// somebody is about to type, so only the control plane's own is passed on.
func incoming(from agentid.ID, code string, payload []byte) error {
	switch code {
	case CodeDenied:
		var f wire.Failure
		if len(payload) > limits.HTTPBody || json.Unmarshal(payload, &f) != nil || !reasonForm.MatchString(string(f.Reason)) {
			return &Denied{Reason: denial.Internal, Detail: "refused without a reason"}
		}
		d := &Denied{Reason: f.Reason, Detail: plain(f.Detail), Hint: plain(f.Hint), ID: plain(f.Denial)}
		if from != agentid.Control {
			d.Hint, d.ID = denial.Hint(f.Reason), ""
		}
		if transient(d.Reason) {
			return fmt.Errorf("%w: %s: %w", ErrUnavailable, from, d.Reason)
		}
		return d
	case CodeLoop:
		return &Denied{Reason: denial.Loop, Detail: "the call tree is too deep", Hint: denial.Hint(denial.Loop)}
	case CodeDeadline:
		return fmt.Errorf("%w at the handler", ErrDeadline)
	case CodeUnavailable:
		if string(payload) == causeDraining {
			return ErrDraining
		}
		return fmt.Errorf("%w: the handler could not reach what it needs", ErrUnavailable)
	}
	return &Error{Code: code, Message: clipText(string(payload))}
}
