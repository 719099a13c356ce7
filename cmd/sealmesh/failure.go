package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitDenied      = 3 // do not retry
	exitUnavailable = 4 // retry
)

// The codes of failures that are no refusals.
const (
	codeFailed      = "failed"
	codeUsage       = "usage"
	codeUnavailable = "unavailable"
	codeDeadline    = "deadline"
	codeInterrupted = "interrupted"
)

// The causes of unavailable that are told apart: nobody handles the scope, and
// nothing was done; the handler was closing; or it was cut, or went away for good, and
// the work may be half done.
const (
	causeNobody   = "nobody"
	causeDraining = "draining"
	causeGone     = "gone"
)

// usageError says that the command line is wrong.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) Hint() string  { return e.hint }

func usage(c *cobra.Command, format string, args ...any) *usageError {
	return &usageError{fmt.Errorf(format, args...), c.CommandPath() + " --help"}
}

// hinted is an error with the command that helps.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }
func (e *hinted) Hint() string  { return e.hint }

// said ends the program with an exit code after all was said.
type said struct{ code int }

func (e *said) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// correlated is an error of a call or an event with the ID by which the logs of all
// who had to do with it have the rest.
type correlated struct {
	error
	correlation string
}

func (e *correlated) Unwrap() error { return e.error }

// absent says that what an operation is about does not exist. The registry calls
// that unlisted, and for an agent that is unlisted itself it is a denial.
type absent struct{ error }

func (e *absent) Unwrap() error { return e.error }

// outOfTime adds to an error that it came because time was up, and replaces one
// that came because of an interruption.
func outOfTime(ctx context.Context, err error) error {
	switch end := ctx.Err(); {
	case errors.Is(end, context.Canceled):
		return end // what failed because of that is not what is wrong
	case end != nil && !errors.Is(err, end):
		return fmt.Errorf("%w: %w", err, end)
	}
	return err
}

// failure is an error as people and programs are told of it.
type failure struct {
	exit      int
	Code      string `json:"code"`
	Message   string `json:"message"`
	Hint      string `json:"hint,omitempty"`
	Denial    string `json:"denial,omitempty"`
	Retryable bool   `json:"retryable"`

	Cause       string           `json:"cause,omitempty"` // what unavailable means
	Correlation string           `json:"correlation,omitempty"`
	From        agentid.ID       `json:"from,omitzero"` // who answered, or took the call
	Instance    agentid.Instance `json:"instance,omitzero"`
}

// failureOf sorts an error. What the caller may do about it decides, so a
// refusal that says "not now" counts as unavailable and one that says "not so"
// as usage.
func failureOf(err error) failure {
	f := failure{exit: exitFailed, Code: codeFailed, Message: err.Error()}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		f.Hint = h.Hint()
		// Some errors say their hint themselves, at the end; once is enough.
		if rest, ok := strings.CutSuffix(f.Message, f.Hint); ok && f.Hint != "" {
			f.Message = strings.TrimSuffix(strings.TrimRight(strings.TrimSuffix(rest, "run: "), " "), ";")
		}
	}
	var bad *usageError
	var denied *meshclient.Denied
	var app *meshclient.Error
	switch {
	case errors.As(err, &bad):
		f.exit, f.Code = exitUsage, codeUsage
	case errors.As(err, &denied):
		if f.Hint == "" {
			f.Hint = denied.Hint // it knows more than the reason does
		}
		f.refused(denied.Reason)
		f.Denial = denied.ID
	case errors.Is(err, meshclient.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		f.exit, f.Code = exitUnavailable, codeDeadline
		f.suggest("the work may or may not have been done; --timeout gives it more time")
	case errors.Is(err, meshclient.ErrNobody):
		f.exit, f.Code, f.Cause = exitUnavailable, codeUnavailable, causeNobody
		f.suggest("nothing was done; sealmesh agent ls shows who is online")
	case errors.Is(err, meshclient.ErrDraining):
		f.exit, f.Code, f.Cause = exitUnavailable, codeUnavailable, causeDraining
		f.suggest("the handler was closing and did not finish the work")
	case errors.Is(err, meshclient.ErrHandlerGone):
		f.exit, f.Code, f.Cause = exitUnavailable, codeUnavailable, causeGone
		f.suggest("the work may be half done; somebody else who handles the scope may do it")
	case errors.Is(err, meshclient.ErrUnavailable):
		f.exit, f.Code = exitUnavailable, codeUnavailable
		if r := denial.Of(err); exitOf(r) == exitUnavailable {
			f.refused(r) // what could not be decided is known
		}
	case denial.Of(err) != "":
		f.refused(denial.Of(err))
	case errors.As(err, &app):
		f.Code = app.Code
	case errors.Is(err, context.Canceled):
		f.Code, f.Message = codeInterrupted, "interrupted"
		f.suggest("nobody waits for it any more; what was begun may have been done")
	}
	var none *absent
	if errors.As(err, &none) {
		f.exit, f.Hint = exitFailed, denial.Hint(denial.NotFound)
	}
	f.Retryable = f.exit == exitUnavailable
	var tree *correlated
	if errors.As(err, &tree) {
		f.Correlation = tree.correlation
	}
	f.From, f.Instance, _ = meshclient.Answered(err)
	return f
}

// suggest gives a hint where the error has none of its own.
func (f *failure) suggest(hint string) {
	if f.Hint == "" {
		f.Hint = hint
	}
}

func (f *failure) refused(r denial.Reason) {
	f.Code, f.exit = string(r), exitOf(r)
	if f.Hint == "" {
		f.Hint = denial.Hint(r)
	}
}

// exitOf is the exit code of a refusal.
func exitOf(r denial.Reason) int {
	switch r {
	case denial.BadInput, denial.BadPlain, denial.BadScope, denial.WildcardScope, denial.ReservedName:
		return exitUsage
	case denial.AlreadyExists, denial.NotFound, denial.WrongState, denial.QuotaExceeded, denial.TooLarge, denial.Internal:
		return exitFailed
	case denial.RegistryUnavailable, denial.ReplayUnavailable, denial.FeedStale, denial.DeadlinePassed,
		denial.Overloaded, denial.RateLimited, denial.EpochRaced, denial.Conflict, denial.BrokenStream,
		denial.Flapping, denial.SessionTaken:
		return exitUnavailable
	}
	return exitDenied
}

// errorSchema is that of the error document.
const errorSchema = "sealmesh.error/v1"

// finish reports an error in the form that was asked for and returns the exit
// code.
func (a *app) finish(err error) int {
	if err == nil {
		return exitOK
	}
	var s *said
	if errors.As(err, &s) {
		return s.code
	}
	f := failureOf(err)
	if a.json {
		doc := struct {
			Schema string  `json:"schema"`
			Error  failure `json:"error"`
		}{errorSchema, f}
		if e := writeJSON(a.stdout, doc, false); e == nil {
			return f.exit
		}
	}
	io.WriteString(a.stderr, "sealmesh: "+clean(f.Message)+"\n") //nolint:errcheck // nowhere left to say it
	if f.Hint != "" {
		io.WriteString(a.stderr, "hint: "+clean(f.Hint)+"\n") //nolint:errcheck // likewise
	}
	return f.exit
}
