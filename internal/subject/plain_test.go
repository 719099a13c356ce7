package subject_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func TestCheckPlain(t *testing.T) {
	acme, err := subject.New("acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		subj string
		why  string // part of the refusal; empty: it is taken
	}{
		{"legacy.orders", ""},
		{"a", ""},
		{"orders,new", ""},
		{"a.$b._c", ""},
		{"meshed.x", ""},
		{"mesh-x", ""},
		{"acme.call.bob.read.logs", ""},
		{strings.Repeat("a", limits.Subject), ""},
		{strings.Repeat("a", limits.Subject+1), "1 to 512 bytes"},
		{"", "1 to 512 bytes"},
		{"mesh", "the mesh's own"},
		{"mesh.call.bob.read.logs", "the mesh's own"},
		{"$SYS.REQ.USER.AUTH", "the server's own"},
		{"$JS.API.STREAM.DELETE.KV_MESH_REPLAY", "the server's own"},
		{"$KV.MESH_AGENTS.bob", "the server's own"},
		{"$", "the server's own"},
		{"_INBOX_bob_00000000.x", "where NATS itself answers"},
		{"_R_.x", "where NATS itself answers"},
		{"_GR_.x", "where NATS itself answers"},
		{"_", "where NATS itself answers"},
		{">", "wildcard"},
		{"*", "wildcard"},
		{"orders.*", "wildcard"},
		{"orders.>", "wildcard"},
		{"orders*", "wildcard"},
		{"orders.{{name()}}", "template"},
		{".a", "empty token"},
		{"a.", "empty token"},
		{"a..b", "empty token"},
		{".", "empty token"},
		{"orders queue", "printable ASCII"},
		{"orders\tqueue", "printable ASCII"},
		{"orders\n", "printable ASCII"},
		{"orders\x00", "printable ASCII"},
		{"bücher", "printable ASCII"},
	} {
		for side, err := range map[string]error{
			"publish":   subject.Default().CheckPlain([]string{"ok", tt.subj}, nil),
			"subscribe": subject.Default().CheckPlain(nil, []string{"ok", tt.subj}),
		} {
			switch {
			case tt.why == "" && err != nil:
				t.Errorf("%s %.40q: got %v, want it taken", side, tt.subj, err)
			case tt.why != "" && (!errors.Is(err, denial.BadPlain) || !strings.Contains(err.Error(), tt.why)):
				t.Errorf("%s %.40q: got %v, want %s: … %s", side, tt.subj, err, denial.BadPlain, tt.why)
			}
		}
	}
	// The prefix is that of the space, and a space without one has no outside.
	if err := acme.CheckPlain([]string{"mesh.x"}, nil); err != nil {
		t.Errorf("another prefix: got %v, want it taken", err)
	}
	if err := acme.CheckPlain(nil, []string{"acme.x"}); !errors.Is(err, denial.BadPlain) {
		t.Errorf("its own prefix: got %v, want %s", err, denial.BadPlain)
	}
	if err := (subject.Space{}).CheckPlain([]string{"x"}, nil); !errors.Is(err, denial.BadPlain) {
		t.Errorf("the zero space: got %v, want %s", err, denial.BadPlain)
	}
}

func TestCheckPlainCounts(t *testing.T) {
	var list []string
	for n := range limits.Plain {
		list = append(list, fmt.Sprintf("legacy.n%d", n))
	}
	s := subject.Default()
	if err := s.CheckPlain(list, list); err != nil {
		t.Errorf("%d on each side: got %v, want them taken", len(list), err)
	}
	list = append(list, "legacy.more")
	for side, err := range map[string]error{"publish": s.CheckPlain(list, nil), "subscribe": s.CheckPlain(nil, list)} {
		if !errors.Is(err, denial.QuotaExceeded) {
			t.Errorf("%d to %s: got %v, want %s", len(list), side, err, denial.QuotaExceeded)
		}
	}
}

// What is taken matches itself alone, and nothing of the mesh or of NATS.
func FuzzCheckPlain(f *testing.F) {
	for _, s := range []string{"legacy.orders", "mesh.x", "$SYS.x", "_INBOX.x", "a.*", "a.>", "a..b", "a b", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if subject.Default().CheckPlain([]string{s}, nil) != nil {
			return
		}
		tokens := strings.Split(s, ".")
		if slices.Contains(tokens, "") || strings.ContainsAny(s, "*> \t\r\n") || len(s) > limits.Subject {
			t.Fatalf("%q was taken and is not one literal subject", s)
		}
		if tokens[0] == "mesh" || tokens[0][0] == '$' || tokens[0][0] == '_' {
			t.Fatalf("%q was taken and is not outside", s)
		}
		if _, err := subject.Default().Parse(s); err == nil {
			t.Fatalf("%q was taken and is a message of the mesh", s)
		}
	})
}
