package meshdir

import (
	"fmt"
	"strings"
)

// Error says what is wrong with a mesh directory and what helps.
type Error struct {
	Path    string // file or directory
	Line    int    // in the file, from 1; 0: none
	Problem string
	hint    string
	cause   error
}

// Error implements error: one line that ends with the hint.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "meshdir: %s", e.Path)
	if e.Line > 0 {
		fmt.Fprintf(&b, " line %d", e.Line)
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
