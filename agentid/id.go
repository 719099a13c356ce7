package agentid

import (
	"errors"
	"fmt"
)

// MaxLen is the length limit of an agent ID in bytes, that of a DNS label.
const MaxLen = 63

// The reserved IDs. No record may be created under them. Control is the agent
// as which the control plane answers calls; the others keep registry keys and
// subjects of the mesh's own free.
const (
	controlName  = "control"
	sealmeshName = "sealmesh"
	sysName      = "sys"
)

// Control is the reserved agent that the control plane signs as.
var Control = ID{controlName}

// ErrInvalid is wrapped by every error that says an ID, an instance ID, a
// trust domain or a SPIFFE ID is malformed. Do not retry with the same input.
var ErrInvalid = errors.New("agentid: invalid")

// ID names an agent: a DNS label matching
// ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$.
type ID struct{ s string }

// Parse accepts s only if it is exactly an agent ID.
func Parse(s string) (ID, error) {
	if err := checkLabel(s); err != nil {
		return ID{}, fmt.Errorf("%w agent ID %q: %w", ErrInvalid, clip(s), err)
	}
	return ID{s}, nil
}

// Require is Parse for constants; it panics where Parse returns an error.
func Require(s string) ID {
	id, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return id
}

// String returns the ID, which is also its subject token and file name; the
// zero ID gives the empty string.
func (id ID) String() string { return id.s }

// IsZero reports whether id names nobody.
func (id ID) IsZero() bool { return id.s == "" }

// Reserved reports whether id belongs to the mesh itself, so that no agent may
// be registered under it.
func (id ID) Reserved() bool {
	return id.s == controlName || id.s == sealmeshName || id.s == sysName
}

// MarshalText implements encoding.TextMarshaler. The zero ID marshals to the
// empty text.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the strictness of
// Parse; the empty text is refused.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := Parse(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}

func checkLabel(s string) error {
	switch {
	case s == "":
		return errors.New("must not be empty")
	case len(s) > MaxLen:
		return fmt.Errorf("longer than %d characters", MaxLen)
	case s[0] == '-' || s[len(s)-1] == '-':
		return errors.New("must not begin or end with a hyphen")
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return errors.New("only a-z, 0-9 and inner hyphens are allowed")
		}
	}
	return nil
}

// clip bounds foreign text in an error message.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
