package authcallout

import (
	"strings"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Plain is what an operator lets an agent do outside the mesh: literal subjects
// of services that do not speak it. Nothing that arrives there is signed.
type Plain struct {
	Publish   []string
	Subscribe []string
}

// IsZero reports whether p permits nothing.
func (p Plain) IsZero() bool { return len(p.Publish) == 0 && len(p.Subscribe) == 0 }

// Check returns nil if every subject of p may stand in a grant in this space.
// The registry asks it before it stores plain rights, and the compiler again.
func (p Plain) Check(space subject.Space) error {
	for _, list := range [][]string{p.Publish, p.Subscribe} {
		for _, s := range list {
			if err := checkPlain(space, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkPlain accepts a literal subject that is neither the mesh's nor NATS' own.
// A first token with "$" or "_" is the server's (system, JetStream, inboxes,
// gateway replies); publishing there forges answers, subscribing there reads
// those of others.
func checkPlain(space subject.Space, s string) error {
	if s == "" || len(s) > limits.Subject {
		return denial.New(denial.BadInput, "plain subject must have 1 to %d bytes", limits.Subject)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' {
			return denial.New(denial.BadInput, "plain subject %q has a character outside printable ASCII", s)
		}
	}
	if strings.ContainsAny(s, "*>") {
		return denial.New(denial.WildcardScope, "plain subject %q has a wildcard", s)
	}
	first, _, _ := strings.Cut(s, ".")
	switch {
	case strings.Contains("."+s+".", ".."):
		return denial.New(denial.BadInput, "plain subject %q has an empty token", s)
	case first[0] == '$' || first[0] == '_':
		return denial.New(denial.BadInput, "plain subject %q belongs to NATS", s)
	case first == space.Prefix():
		return denial.New(denial.BadInput, "plain subject %q belongs to the mesh", s)
	}
	return nil
}
