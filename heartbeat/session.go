package heartbeat

import (
	"crypto/rand"
	"encoding/base64"

	"github.com/sealmesh/sealmesh/denial"
)

var b64 = base64.RawURLEncoding.Strict()

// Session names one connect of an instance: 128 random bits. An instance may
// have several at once, each with its own sequence. The zero Session names none.
// Values are comparable.
type Session [16]byte

// NewSession returns a fresh random session.
func NewSession() Session {
	var s Session
	rand.Read(s[:]) // never fails: the runtime aborts the process instead
	return s
}

// IsZero reports whether s names no session.
func (s Session) IsZero() bool { return s == Session{} }

// String returns the session in base64url, 22 characters.
func (s Session) String() string { return b64.EncodeToString(s[:]) }

// MarshalText implements encoding.TextMarshaler.
func (s Session) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it takes only what
// MarshalText gives.
func (s *Session) UnmarshalText(text []byte) error {
	// The length is checked first because the decoder skips line breaks.
	if len(text) != b64.EncodedLen(len(s)) {
		return denial.New(denial.BadInput, "session must have %d characters", b64.EncodedLen(len(s)))
	}
	raw, err := b64.DecodeString(string(text))
	if err != nil || len(raw) != len(s) {
		return denial.New(denial.BadInput, "session is not canonical base64url")
	}
	*s = Session(raw)
	return nil
}
