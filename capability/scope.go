package capability

import (
	"cmp"
	"slices"
	"strings"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// The mesh's own verbs.
const (
	verbHandle    = "handle"
	verbPublish   = "publish"
	verbSubscribe = "subscribe"
	verbAdmin     = "admin"
	verbSelf      = "self"
)

// Scope is one literal right: "read:logs", "handle:read:logs",
// "publish:builds.done", "subscribe:builds.done", "admin:registry". The zero
// Scope is no right. Scopes are comparable with ==.
type Scope struct{ s string }

// ParseScope accepts s only if it is exactly a scope. It refuses with
// denial.WildcardScope where s asks for more than one thing by a wildcard or an
// all-style shortcut, and otherwise with denial.BadScope.
// (docs/spec/capability.md, section "Scopes".)
func ParseScope(s string) (Scope, error) {
	switch {
	case s == "":
		return Scope{}, denial.New(denial.BadScope, "a scope must not be empty")
	case len(s) > limits.Scope:
		return Scope{}, denial.New(denial.BadScope, "scope %q is longer than %d bytes", clip(s), limits.Scope)
	case strings.ContainsAny(s, "*>"):
		return Scope{}, denial.New(denial.WildcardScope, "scope %q has a wildcard", clip(s))
	}
	verb, resource, ok := strings.Cut(s, ":")
	if !ok {
		return Scope{}, denial.New(denial.BadScope, "scope %q must be verb:resource", clip(s))
	}
	most := limits.ScopeSegments
	switch verb {
	case verbHandle:
		verb, resource, ok = strings.Cut(resource, ":")
		if !ok {
			return Scope{}, denial.New(denial.BadScope, "scope %q must be handle:verb:resource", clip(s))
		}
		// A handler of admin or self calls would pose as the control plane.
		if reserved(verb) {
			return Scope{}, denial.New(denial.BadScope, "scope %q: calls of the mesh's own verb %q cannot be handled by an agent", clip(s), verb)
		}
	case verbAdmin, verbSelf:
		most = 1
	}
	if err := checkVerb(s, verb); err != nil {
		return Scope{}, err
	}
	if err := checkResource(s, resource, most); err != nil {
		return Scope{}, err
	}
	return Scope{s}, nil
}

// RequireScope is ParseScope for constants; it panics where ParseScope returns
// an error.
func RequireScope(s string) Scope {
	sc, err := ParseScope(s)
	if err != nil {
		panic(err)
	}
	return sc
}

// HandleOf returns the right to answer calls of s, which must have an ordinary
// verb.
func HandleOf(s Scope) (Scope, error) { return ParseScope(verbHandle + ":" + s.s) }

// PublishOf returns the right to publish events on the topic.
func PublishOf(topic string) (Scope, error) { return ParseScope(verbPublish + ":" + topic) }

// SubscribeOf returns the right to receive events of the topic.
func SubscribeOf(topic string) (Scope, error) { return ParseScope(verbSubscribe + ":" + topic) }

// CallScope is the inverse of [Scope.Dotted] for what can be called: ordinary
// verbs, admin and self. "read.logs.app" gives read:logs.app.
func CallScope(dotted string) (Scope, error) {
	verb, resource, _ := strings.Cut(dotted, ".")
	s, err := ParseScope(verb + ":" + resource)
	if err != nil {
		return Scope{}, err
	}
	// Judged after parsing: a colon in the tail makes a longer verb of its own.
	switch s.Verb() {
	case verbHandle, verbPublish, verbSubscribe:
		return Scope{}, denial.New(denial.BadScope, "%q is not something to call", clip(dotted))
	}
	return s, nil
}

// String returns the scope's one spelling; the zero Scope gives the empty text.
func (s Scope) String() string { return s.s }

// IsZero reports whether s is no right at all.
func (s Scope) IsZero() bool { return s.s == "" }

// Verb returns what stands before the first colon.
func (s Scope) Verb() string {
	verb, _, _ := strings.Cut(s.s, ":")
	return verb
}

// Dotted returns the tail of the subjects that the scope is about: read:logs.app
// gives "read.logs.app", handle:read:logs "read.logs", publish:a.b and
// subscribe:a.b "a.b", admin:registry "admin.registry".
func (s Scope) Dotted() string {
	verb, rest, _ := strings.Cut(s.s, ":")
	switch verb {
	case verbPublish, verbSubscribe:
		return rest
	case verbHandle:
		return strings.Replace(rest, ":", ".", 1)
	}
	return strings.Replace(s.s, ":", ".", 1)
}

// Handled returns the scope whose calls s may answer; it reports false where s
// is not a right to handle.
func (s Scope) Handled() (Scope, bool) {
	rest, ok := strings.CutPrefix(s.s, verbHandle+":")
	if !ok {
		return Scope{}, false
	}
	return Scope{rest}, true
}

// Grantable returns nil where s may stand in a token. What self scopes name,
// every active agent may ask about itself, and nobody about another.
func (s Scope) Grantable() error {
	switch {
	case s.IsZero():
		return denial.New(denial.BadScope, "a scope must not be empty")
	case s.Verb() == verbSelf:
		return denial.New(denial.BadScope, "scope %q cannot be granted: every active agent has it for itself", s.s)
	}
	return nil
}

// MayDelegate reports whether an agent that holds s may ever pass it on. Rights
// over the control plane are given by the authority alone.
func (s Scope) MayDelegate() bool {
	return s.Grantable() == nil && s.Verb() != verbAdmin
}

// MarshalText implements encoding.TextMarshaler. The zero Scope marshals to the
// empty text, which does not parse.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.s), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the strictness of
// ParseScope.
func (s *Scope) UnmarshalText(b []byte) error {
	v, err := ParseScope(string(b))
	if err != nil {
		return err
	}
	*s = v
	return nil
}

func reserved(verb string) bool {
	switch verb {
	case verbHandle, verbPublish, verbSubscribe, verbAdmin, verbSelf:
		return true
	}
	return false
}

func checkVerb(s, verb string) error {
	if shortcut(verb) {
		return denial.New(denial.WildcardScope, "scope %q: verb %q stands for more than one", clip(s), verb)
	}
	if verb == "" || !lower(verb[0]) {
		return denial.New(denial.BadScope, "scope %q: a verb begins with a-z", clip(s))
	}
	for i := 1; i < len(verb); i++ {
		if c := verb[i]; !lower(c) && !digit(c) && c != '-' {
			return denial.New(denial.BadScope, "scope %q: a verb has a-z, 0-9 and hyphens only", clip(s))
		}
	}
	return nil
}

// checkResource checks one to most segments without splitting the text.
func checkResource(s, resource string, most int) error {
	count, start := 0, 0
	for i := 0; i <= len(resource); i++ {
		if i < len(resource) && resource[i] != '.' {
			c := resource[i]
			if !lower(c) && !digit(c) && (i == start || c != '-' && c != '_') {
				return denial.New(denial.BadScope, "scope %q: a segment has a-z, 0-9 and, after its first character, hyphens and underscores only", clip(s))
			}
			continue
		}
		segment := resource[start:i]
		switch {
		case segment == "":
			return denial.New(denial.BadScope, "scope %q has an empty segment", clip(s))
		case shortcut(segment):
			return denial.New(denial.WildcardScope, "scope %q: segment %q stands for more than one", clip(s), segment)
		}
		count++
		start = i + 1
	}
	if count > most {
		return denial.New(denial.BadScope, "scope %q has more than %d segments", clip(s), most)
	}
	return nil
}

// shortcut names the words that people write when they mean everything. They
// would be literal here and grant less than was meant, until somebody taught a
// handler to honour them.
func shortcut(word string) bool { return word == "all" || word == "any" }

func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }

func compare(a, b Scope) int { return cmp.Compare(a.s, b.s) }

// inOrder returns the one order in which a set of scopes is written; never nil.
func inOrder(scopes []Scope) []Scope {
	out := make([]Scope, len(scopes))
	copy(out, scopes)
	slices.SortFunc(out, compare)
	return slices.Compact(out)
}

func contains(sorted []Scope, s Scope) bool {
	_, ok := slices.BinarySearchFunc(sorted, s, compare)
	return ok
}

// clip bounds foreign text in an error message.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
