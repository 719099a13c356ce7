package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// What programs do about a failed call hangs on code, exit code and retryable.
func TestFailuresOfCalls(t *testing.T) {
	for name, c := range map[string]struct {
		err       error
		code      string
		exit      int
		retryable bool
		hint      bool
	}{
		"denied":      {&meshclient.Denied{Reason: denial.Revoked}, "revoked", exitDenied, false, true},
		"broken":      {&meshclient.Denied{Reason: denial.BrokenStream}, "broken-stream", exitUnavailable, true, true},
		"loop":        {&meshclient.Denied{Reason: denial.Loop}, "loop", exitDenied, false, true},
		"invalid":     {&meshclient.Error{Code: meshclient.CodeInvalid, Message: "no such colour"}, "invalid", exitFailed, false, true},
		"not found":   {meshclient.ErrNotFound, "not-found", exitFailed, false, true},
		"internal":    {meshclient.ErrInternal, "internal", exitFailed, false, true},
		"deadline":    {meshclient.ErrDeadline, "deadline", exitUnavailable, true, true},
		"timeout":     {context.DeadlineExceeded, "deadline", exitUnavailable, true, true},
		"nobody":      {fmt.Errorf("%w: read:logs", meshclient.ErrNobody), "unavailable", exitUnavailable, true, true},
		"draining":    {meshclient.ErrDraining, "unavailable", exitUnavailable, true, true},
		"gone":        {fmt.Errorf("%w: the connection of reader/7f3c ended and did not come back", meshclient.ErrHandlerGone), "unavailable", exitUnavailable, true, true},
		"cut":         {fmt.Errorf("%w: %w", meshclient.ErrHandlerGone, denial.Suspended), "unavailable", exitUnavailable, true, true},
		"unavailable": {meshclient.ErrUnavailable, "unavailable", exitUnavailable, true, false},
		"application": {&meshclient.Error{Code: "app-full"}, "app-full", exitFailed, false, false},
		"unknown":     {&meshclient.Error{Code: "quantum-decay"}, "quantum-decay", exitFailed, false, false},
	} {
		f := failureOf(c.err)
		if f.Code != c.code || f.exit != c.exit || f.Retryable != c.retryable || (f.Hint != "") != c.hint {
			t.Errorf("%s: got %+v, exit %d; want code %q, exit %d, retryable %v, a hint: %v", name, f, f.exit, c.code, c.exit, c.retryable, c.hint)
		}
	}
	hints := map[string]string{}
	for _, err := range []error{meshclient.ErrNobody, meshclient.ErrDraining, meshclient.ErrDeadline, meshclient.ErrHandlerGone} {
		hints[failureOf(err).Hint] = ""
	}
	if len(hints) != 4 {
		t.Errorf("got hints %q, want one for each cause", hints)
	}
}
