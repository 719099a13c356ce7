package meshfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/token"

	"github.com/sealmesh/sealmesh/denial"
)

// Error says what is wrong with a file, where, and what helps.
type Error struct {
	Path    string
	Line    int // from 1; 0: the file as a whole
	Problem string
	hint    string
	cause   error
}

// Error implements error: one line that ends with the hint.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("meshfile: " + e.Path)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": " + e.Problem)
	if e.hint != "" {
		b.WriteString("; " + e.hint)
	}
	return b.String()
}

// Hint returns what helps, empty where nothing is known.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

// at is an error at a token; the path is filled in by Parse.
func at(t *token.Token, hint, format string, args ...any) *Error {
	e := &Error{hint: hint}
	err := fmt.Errorf(format, args...)
	e.Problem, e.cause = err.Error(), errors.Unwrap(err)
	if t != nil && t.Position != nil {
		e.Line = t.Position.Line
	}
	if e.hint == "" {
		e.hint = denial.Hint(denial.Of(err))
	}
	return e
}

// syntax says in one line what the YAML library found.
func syntax(err error) *Error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return &Error{Problem: clip(err.Error()), cause: err}
	}
	e := at(y.GetToken(), "", "%s", clip(y.GetMessage()))
	e.cause = err
	return e
}

// clip bounds foreign text in an error.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}
