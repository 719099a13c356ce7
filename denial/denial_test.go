package denial_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"regexp"
	"strconv"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
)

func ExampleNew() {
	err := fmt.Errorf("verifying: %w", denial.New(denial.Stale, "sent %d s ago", 400))
	fmt.Println(err)
	fmt.Println(denial.Of(err), "|", denial.Detail(err), "|", errors.Is(err, denial.Stale), errors.Is(err, denial.Future))
	// Output:
	// verifying: stale: sent 400 s ago
	// stale | sent 400 s ago | true false
}

func TestErrorKeepsReasonAndCause(t *testing.T) {
	err := denial.New(denial.BadRecord, "reading %q: %w", "a", io.ErrUnexpectedEOF)
	if got, want := err.Error(), `bad-record: reading "a": unexpected EOF`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, denial.BadRecord) || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("reason or cause is lost")
	}
	if bare := (&denial.Error{Reason: denial.Loop}); bare.Error() != "loop" || len(bare.Unwrap()) != 1 {
		t.Errorf("without detail: %q, %v", bare, bare.Unwrap())
	}
}

// A refusal that wraps another is what the outer one says, and a reason by
// itself is a refusal too.
func TestOf(t *testing.T) {
	inner := denial.New(denial.Revoked, "gone")
	for _, tt := range []struct {
		err    error
		reason denial.Reason
		detail string
	}{
		{nil, "", ""},
		{io.EOF, "", "EOF"},
		{denial.Revoked, denial.Revoked, "revoked"},
		{inner, denial.Revoked, "gone"},
		{denial.New(denial.DelegatorCut, "chain: %w", inner), denial.DelegatorCut, "chain: revoked: gone"},
		{errors.Join(io.EOF, inner), denial.Revoked, "gone"},
	} {
		if got := denial.Of(tt.err); got != tt.reason {
			t.Errorf("Of(%v) = %q, want %q", tt.err, got, tt.reason)
		}
		if got := denial.Detail(tt.err); got != tt.detail {
			t.Errorf("Detail(%v) = %q, want %q", tt.err, got, tt.detail)
		}
	}
}

// Codes go into logs, JSON and envelopes: one form, each once, each documented.
func TestReasons(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reasons.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`)
	seen := make(map[string]string)
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			name := v.Names[0].Name
			code, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
			if err != nil || !form.MatchString(code) || len(code) > 32 {
				t.Errorf("%s = %q, want lower-case words joined by hyphens, at most 32 bytes", name, code)
			}
			if other, ok := seen[code]; ok {
				t.Errorf("%s and %s are both %q", other, name, code)
			}
			seen[code] = name
			if v.Doc == nil || len(v.Doc.Text()) < len(name)+2 || v.Doc.Text()[:len(name)+1] != name+":" {
				t.Errorf("%s needs a comment that begins %q", name, name+":")
			}
		}
	}
	if len(seen) < 50 {
		t.Errorf("found %d reasons, which cannot be all", len(seen))
	}
}
