package capability_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func TestParseScope(t *testing.T) {
	long := func(n int) string { return "read:" + strings.Repeat("a", n-len("read:")) }
	segments := func(n int) string { return "read:" + strings.Repeat("a.", n-1) + "a" }
	cases := []struct {
		in   string
		want denial.Reason // empty: it is a scope
	}{
		{"read:logs", ""},
		{"read:logs.app", ""},
		{"read:0_-.9", ""},
		{"r2-:l", ""},
		{"read:allies.anything", ""},
		{"handle:read:logs", ""},
		{"handle:read:handle", ""},
		{"publish:builds.done", ""},
		{"subscribe:builds.done", ""},
		{"admin:registry", ""},
		{"self:session", ""},
		{segments(limits.ScopeSegments), ""},
		{long(limits.Scope), ""},

		{segments(limits.ScopeSegments + 1), denial.BadScope},
		{long(limits.Scope + 1), denial.BadScope},
		{"", denial.BadScope},
		{":", denial.BadScope},
		{"read", denial.BadScope},
		{"read:", denial.BadScope},
		{":logs", denial.BadScope},
		{"read:logs:app", denial.BadScope},
		{"Read:logs", denial.BadScope},
		{"read:Logs", denial.BadScope},
		{"2read:logs", denial.BadScope},
		{"-read:logs", denial.BadScope},
		{"re_ad:logs", denial.BadScope},
		{"read:-logs", denial.BadScope},
		{"read:_logs", denial.BadScope},
		{"read:.logs", denial.BadScope},
		{"read:logs.", denial.BadScope},
		{"read:a..b", denial.BadScope},
		{" read:logs", denial.BadScope},
		{"read:logs\n", denial.BadScope},
		{"read:lo gs", denial.BadScope},
		{"read:lögs", denial.BadScope},
		{"read:\x00", denial.BadScope},
		{"read:logs/app", denial.BadScope},
		{"read:$logs", denial.BadScope},
		{"handle:logs", denial.BadScope},
		{"handle:", denial.BadScope},
		{"handle:read:", denial.BadScope},
		{"handle:handle:read:logs", denial.BadScope},
		{"handle:handle:read", denial.BadScope},
		{"handle:admin:registry", denial.BadScope},
		{"handle:self:session", denial.BadScope},
		{"handle:publish:topic", denial.BadScope},
		{"handle:subscribe:topic", denial.BadScope},
		{"publish:a:b", denial.BadScope},
		{"admin:registry.agents", denial.BadScope},
		{"self:session.all-of-it", denial.BadScope},

		{"*", denial.WildcardScope},
		{">", denial.WildcardScope},
		{"*:*", denial.WildcardScope},
		{"read:*", denial.WildcardScope},
		{"read:>", denial.WildcardScope},
		{"read:logs.*", denial.WildcardScope},
		{"read:logs.>", denial.WildcardScope},
		{"read:lo*", denial.WildcardScope},
		{"*:logs", denial.WildcardScope},
		{"all:logs", denial.WildcardScope},
		{"any:logs", denial.WildcardScope},
		{"read:all", denial.WildcardScope},
		{"read:any", denial.WildcardScope},
		{"read:logs.all", denial.WildcardScope},
		{"read:all.logs", denial.WildcardScope},
		{"publish:all", denial.WildcardScope},
		{"subscribe:builds.any", denial.WildcardScope},
		{"admin:all", denial.WildcardScope},
		{"self:all", denial.WildcardScope},
		{"handle:all:logs", denial.WildcardScope},
		{"handle:read:all", denial.WildcardScope},
		{"handle:*:logs", denial.WildcardScope},
	}
	for _, c := range cases {
		s, err := capability.ParseScope(c.in)
		if got := denial.Of(err); got != c.want {
			t.Errorf("%q: got %q (%v), want %q", c.in, got, err, c.want)
		}
		if err == nil && s.String() != c.in || err != nil && !s.IsZero() {
			t.Errorf("%q: got scope %q", c.in, s)
		}
	}
}

func TestScopeParts(t *testing.T) {
	cases := []struct {
		in, verb, dotted, handled string
		grantable, delegate, call bool
	}{
		{"read:logs", "read", "read.logs", "", true, true, true},
		{"read:logs.app", "read", "read.logs.app", "", true, true, true},
		{"handle:read:logs", "handle", "read.logs", "read:logs", true, true, false},
		{"handle:read:logs.app", "handle", "read.logs.app", "read:logs.app", true, true, false},
		{"publish:a.b", "publish", "a.b", "", true, true, false},
		{"subscribe:a.b", "subscribe", "a.b", "", true, true, false},
		{"admin:registry", "admin", "admin.registry", "", true, false, true},
		{"self:session", "self", "self.session", "", false, false, true},
	}
	for _, c := range cases {
		s := capability.RequireScope(c.in)
		if s.Verb() != c.verb || s.Dotted() != c.dotted {
			t.Errorf("%s: got %s, %s, want %s, %s", s, s.Verb(), s.Dotted(), c.verb, c.dotted)
		}
		h, ok := s.Handled()
		if h.String() != c.handled || ok != (c.handled != "") {
			t.Errorf("%s: handled got %q, %t, want %q", s, h, ok, c.handled)
		}
		if got := s.Grantable() == nil; got != c.grantable {
			t.Errorf("%s: grantable got %t, want %t", s, got, c.grantable)
		}
		if got := s.MayDelegate(); got != c.delegate {
			t.Errorf("%s: may delegate got %t, want %t", s, got, c.delegate)
		}
		back, err := capability.CallScope(c.dotted)
		if c.call && (err != nil || back != s) {
			t.Errorf("%s: call scope of %q got %q, %v", s, c.dotted, back, err)
		}
	}
}

func TestCallScopeRefusals(t *testing.T) {
	for dotted, want := range map[string]denial.Reason{
		"":                denial.BadScope,
		"read":            denial.BadScope,
		"read.":           denial.BadScope,
		".logs":           denial.BadScope,
		"read:logs":       denial.BadScope,
		"read:logs.app":   denial.BadScope,
		"handle.read":     denial.BadScope,
		"publish.a":       denial.BadScope,
		"subscribe.a":     denial.BadScope,
		"handle:read.a":   denial.BadScope,
		"admin.a.b":       denial.BadScope,
		"read.*":          denial.WildcardScope,
		"read.logs.>":     denial.WildcardScope,
		"any.logs":        denial.WildcardScope,
		"read.logs..tail": denial.BadScope,
	} {
		s, err := capability.CallScope(dotted)
		if denial.Of(err) != want {
			t.Errorf("%q: got %q, %v, want %s", dotted, s, err, want)
		}
	}
}

func TestDerivedScopes(t *testing.T) {
	read := capability.RequireScope("read:logs")
	h, err := capability.HandleOf(read)
	if err != nil || h.String() != "handle:read:logs" {
		t.Errorf("got %s, %v", h, err)
	}
	for _, s := range []string{"handle:read:logs", "publish:a", "subscribe:a", "admin:registry", "self:session"} {
		if got, err := capability.HandleOf(capability.RequireScope(s)); denial.Of(err) != denial.BadScope {
			t.Errorf("handle of %s: got %q, %v, want %s", s, got, err, denial.BadScope)
		}
	}
	if _, err := capability.HandleOf(capability.Scope{}); denial.Of(err) != denial.BadScope {
		t.Errorf("handle of nothing: got %v", err)
	}
	if p, err := capability.PublishOf("a.b"); err != nil || p.String() != "publish:a.b" {
		t.Errorf("got %s, %v", p, err)
	}
	if p, err := capability.SubscribeOf("a.b"); err != nil || p.String() != "subscribe:a.b" {
		t.Errorf("got %s, %v", p, err)
	}
	for _, topic := range []string{"", "*", "a.>", "all", "a:b"} {
		if _, err := capability.PublishOf(topic); denial.Of(err) == "" {
			t.Errorf("publish of %q: got %v", topic, err)
		}
		if _, err := capability.SubscribeOf(topic); denial.Of(err) == "" {
			t.Errorf("subscribe of %q: got %v", topic, err)
		}
	}
}

func TestZeroScope(t *testing.T) {
	var zero capability.Scope
	if !zero.IsZero() || zero.MayDelegate() || zero.Verb() != "" || zero.Dotted() != "" {
		t.Errorf("the zero scope is something: %q", zero)
	}
	wantReason(t, zero.Grantable(), denial.BadScope)
	if _, ok := zero.Handled(); ok {
		t.Error("the zero scope handles something")
	}
	defer func() {
		if recover() == nil {
			t.Error("RequireScope took a wildcard")
		}
	}()
	capability.RequireScope("read:*")
}

func TestScopeText(t *testing.T) {
	var list []capability.Scope
	if err := json.Unmarshal([]byte(`["read:logs","admin:registry"]`), &list); err != nil {
		t.Fatal(err)
	}
	if out, err := json.Marshal(list); err != nil || string(out) != `["read:logs","admin:registry"]` {
		t.Errorf("got %s, %v", out, err)
	}
	for _, bad := range []string{`[""]`, `["read:*"]`, `[1]`} {
		if err := json.Unmarshal([]byte(bad), &list); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// FuzzScope: what parses prints again as it was, agrees with the grammar as the
// specification writes it, and comes back from its subject.
func FuzzScope(f *testing.F) {
	const segment = `[a-z0-9][a-z0-9_-]*`
	const resource = segment + `(\.` + segment + `){0,7}`
	grammar := regexp.MustCompile(`^(?:(handle:)?([a-z][a-z0-9-]*):(` + resource + `))$`)
	for _, s := range []string{
		"", ":", "read:", "read:a..b", "read:a.b.c.d.e.f.g.h", "read:a.b.c.d.e.f.g.h.i", "handle:handle:x:y", "handle:publish:x", "any:x", "read:x.any", "read:*.x", "read:x.>", "Read:x", "read:x\n",
		"read:" + strings.Repeat("a", limits.Scope-5), "read:" + strings.Repeat("a", limits.Scope-4),
		"read:logs", "handle:read:logs.app", "publish:a.b", "admin:registry", "self:session", "read:*", "all:x", "handle:admin:x", "read:all.x", "admin:a.b",
	} {
		f.Add(s)
	}
	inGrammar := func(s string) bool {
		m := grammar.FindStringSubmatch(s)
		if m == nil || len(s) > limits.Scope || strings.Contains(s, "\n") {
			return false
		}
		own := map[string]bool{"handle": true, "publish": true, "subscribe": true, "admin": true, "self": true}
		if m[1] != "" && own[m[2]] || m[2] == "handle" {
			return false
		}
		if (m[2] == "admin" || m[2] == "self") && strings.Contains(m[3], ".") {
			return false
		}
		for _, word := range append(strings.Split(m[3], "."), m[2]) {
			if word == "all" || word == "any" {
				return false
			}
		}
		return true
	}
	f.Fuzz(func(t *testing.T, in string) {
		if s, err := capability.CallScope(in); err == nil && (s.Dotted() != in || strings.Contains(in, ":")) {
			t.Fatalf("subject tail %q reads as %q, whose tail is %q", in, s, s.Dotted())
		}
		s, err := capability.ParseScope(in)
		if want := inGrammar(in); want != (err == nil) {
			t.Fatalf("%q: got %v, the grammar says %t", in, err, want)
		}
		if err != nil {
			if r := denial.Of(err); r != denial.BadScope && r != denial.WildcardScope {
				t.Fatalf("%q: refused with %q", in, r)
			}
			return
		}
		if s.String() != in {
			t.Fatalf("got %q, want %q", s, in)
		}
		if back, err := capability.CallScope(s.Dotted()); err == nil && back.Dotted() != s.Dotted() {
			t.Fatalf("%q: subject %q reads as %q", in, s.Dotted(), back)
		}
		if h, err := capability.HandleOf(s); err == nil {
			if of, ok := h.Handled(); !ok || of != s || h.Dotted() != s.Dotted() {
				t.Fatalf("%q: handle scope %q is of %q", in, h, of)
			}
		}
	})
}
