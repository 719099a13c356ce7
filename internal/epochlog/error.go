package epochlog

import "fmt"

// Error says what is wrong with a log and what helps.
type Error struct {
	Path  string
	Line  int // from 1; 0: none
	text  string
	hint  string
	cause error
}

// Error implements error.
func (e *Error) Error() string {
	at := e.Path
	if e.Line > 0 {
		at = fmt.Sprintf("%s line %d", at, e.Line)
	}
	return fmt.Sprintf("epochlog: %s: %s", at, e.text)
}

// Hint returns what helps.
func (e *Error) Hint() string { return e.hint }

// Unwrap returns the cause, or nil.
func (e *Error) Unwrap() error { return e.cause }

func unreadable(path string, line int, err error) error {
	return &Error{
		Path: path, Line: line, text: err.Error(), cause: err,
		hint: "put a copy of the file back; without one move it away, and nothing will tell an older registry from the newest until it has filled again",
	}
}

func unwritable(path string, err error) error {
	return &Error{
		Path: path, text: fmt.Sprintf("cannot be written: %v", err), cause: err,
		hint: "state in sealmesh.yaml names a directory that the control plane may write",
	}
}
