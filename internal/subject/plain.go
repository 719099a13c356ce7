package subject

import (
	"strings"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// CheckPlain returns nil if the subjects of an agent's plain rights may stand in
// a grant in this space, and a denial that says which may not and why. The
// registry asks before it stores them, the compiler of grants asks again.
//
// A plain right is a literal subject that is neither the mesh's nor NATS' own.
// In a wildcard there may be subjects of other agents. A first token with "$" or
// "_" is the server's (system, JetStream, inboxes, gateway replies): whoever
// publishes there forges answers, whoever subscribes there reads those of others.
func (s Space) CheckPlain(publish, subscribe []string) error {
	for _, side := range []struct {
		verb string
		list []string
	}{{"publish", publish}, {"subscribe", subscribe}} {
		if len(side.list) > limits.Plain {
			return denial.New(denial.QuotaExceeded, "%d plain subjects to %s, at most %d are allowed", len(side.list), side.verb, limits.Plain)
		}
		for _, subj := range side.list {
			if err := s.checkPlain(subj); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s Space) checkPlain(subj string) error {
	refuse := func(format string, args ...any) error { return denial.New(denial.BadPlain, format, args...) }
	if s.prefix == "" {
		return refuse("a subject space without a prefix has no plain subjects")
	}
	if subj == "" || len(subj) > limits.Subject {
		return refuse("plain subject must have 1 to %d bytes, not %d", limits.Subject, len(subj))
	}
	for i := range len(subj) {
		// A space would begin the queue of a subscription.
		if c := subj[i]; c <= ' ' || c > '~' {
			return refuse("plain subject %q has a character outside printable ASCII", subj)
		}
	}
	if strings.ContainsAny(subj, "*>") {
		return refuse("plain subject %q has a wildcard, which would reach subjects of other agents", subj)
	}
	if strings.Contains(subj, "{{") {
		// nats-server fills in templates where users are scoped.
		return refuse("plain subject %q has a template, which is not literal", subj)
	}
	first, _, _ := strings.Cut(subj, ".")
	switch {
	case strings.Contains("."+subj+".", ".."):
		return refuse("plain subject %q has an empty token", subj)
	case first[0] == '$':
		return refuse("plain subject %q is the server's own: system, JetStream or a bucket", subj)
	case first[0] == '_':
		return refuse("plain subject %q is where NATS itself answers: an inbox or a gateway", subj)
	case first == s.prefix:
		return refuse("plain subject %q is the mesh's own, where only capabilities count", subj)
	}
	return nil
}
