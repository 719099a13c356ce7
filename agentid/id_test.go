package agentid_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
)

func ExampleParse() {
	id, err := agentid.Parse("reader-1")
	fmt.Println(id, err)
	_, err = agentid.Parse("Reader")
	fmt.Println(err)
	// Output:
	// reader-1 <nil>
	// agentid: invalid agent ID "Reader": only a-z, 0-9 and inner hyphens are allowed
}

// The documented grammar, as an oracle that shares no code with the parser.
// (\z, since $ would also match before a final line break.)
var grammar = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)

func TestEveryCodePoint(t *testing.T) {
	accepted := 0
	for r := range rune(256) {
		// As a rune and as a raw byte, alone and at each place of a name.
		for _, c := range []string{string(r), string([]byte{byte(r)})} {
			for _, s := range []string{c, c + "a", "a" + c, "a" + c + "a"} {
				id, err := agentid.Parse(s)
				if want := grammar.MatchString(s); (err == nil) != want {
					t.Errorf("Parse(%q): %v, want accepted: %v", s, err, want)
				}
				if err == nil {
					accepted++
				}
				if err != nil && (!errors.Is(err, agentid.ErrInvalid) || !id.IsZero()) {
					t.Errorf("Parse(%q) = %q, %v, want the zero ID and ErrInvalid", s, id, err)
				}
			}
		}
	}
	// 36 letters and digits in 4 places, the hyphen in 1, each in 2 spellings.
	if accepted != 2*(36*4+1) {
		t.Errorf("accepted %d, want %d", accepted, 2*(36*4+1))
	}
}

// Attack 9: names that would change a subject, a path or a comparison.
func TestParse(t *testing.T) {
	for s, want := range map[string]bool{
		"a":                           true,
		"0":                           true,
		"reader":                      true,
		"a--b":                        true,
		"xn--rder-5qa":                true,
		strings.Repeat("a", 63):       true,
		strings.Repeat("a", 64):       false,
		strings.Repeat("a", 300):      false,
		"":                            false,
		"-":                           false,
		"-a":                          false,
		"a-":                          false,
		"a.b":                         false,
		"*":                           false,
		">":                           false,
		"a b":                         false,
		" a":                          false,
		"a\n":                         false,
		"a\x00":                       false,
		"../a":                        false,
		"a/b":                         false,
		"Reader":                      false,
		"r\u0435ader":                 false, // Cyrillic
		"\uff52eader":                 false, // full width
		"reade\u0301r":                false, // combining accent
		"reader\u200b":                false, // zero width space
		"ſeal":                        false, // folds to s
		strings.Repeat("a", 62) + "-": false,
	} {
		id, err := agentid.Parse(s)
		if (err == nil) != want {
			t.Errorf("Parse(%q): %v, want accepted: %v", s, err, want)
		}
		if want && id.String() != s {
			t.Errorf("Parse(%q) = %q", s, id)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("Parse(%.20q…): the error repeats the whole input", s)
		}
	}
}

func TestRequirePanics(t *testing.T) {
	if got := agentid.Require("a").String(); got != "a" {
		t.Errorf("Require(a) = %q", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("Require of a bad ID: got no panic")
		}
	}()
	agentid.Require("A")
}

func TestReserved(t *testing.T) {
	for s, want := range map[string]bool{"control": true, "sealmesh": true, "sys": true, "controls": false, "a": false} {
		if got := agentid.Require(s).Reserved(); got != want {
			t.Errorf("%s reserved: got %v, want %v", s, got, want)
		}
	}
	if !agentid.Control.Reserved() || agentid.Control.IsZero() {
		t.Error("Control must be a reserved ID")
	}
}

func TestText(t *testing.T) {
	type doc struct {
		ID       agentid.ID       `json:"id"`
		Instance agentid.Instance `json:"instance"`
	}
	in := doc{agentid.Require("reader"), agentid.InstanceOf("U")}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out doc
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("%s gives %+v, %v, want %+v", text, out, err, in)
	}
	// What is refused must leave no trace.
	for _, s := range []string{`{"id":""}`, `{"id":"A"}`, `{"instance":""}`, `{"instance":"0000000l"}`, `{"id":7}`} {
		var d doc
		if err := json.Unmarshal([]byte(s), &d); err == nil || d != (doc{}) {
			t.Errorf("%s gives %+v, %v, want a refusal", s, d, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"a", "reader-1", "a-", "A", "", "a.b", strings.Repeat("a", 64)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := agentid.Parse(s)
		if (err == nil) != grammar.MatchString(s) {
			t.Fatalf("Parse(%q): %v, the grammar says %v", s, err, err != nil)
		}
		if err == nil && id.String() != s {
			t.Fatalf("Parse(%q) = %q", s, id)
		}
	})
}
