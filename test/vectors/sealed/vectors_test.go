package sealed_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/seal"
)

const schema = "sealmesh.sealed-vector/v1"

// vector is one file; README.md says what each member means.
type vector struct {
	Schema      string        `json:"schema"`
	Name        string        `json:"name"`
	Section     string        `json:"section"`
	Rule        string        `json:"rule"`
	Description string        `json:"description"`
	Key         string        `json:"key"`
	Binding     binding       `json:"binding"`
	Sealed      string        `json:"sealed"`
	Accept      *accepted     `json:"accept"`
	Refuse      denial.Reason `json:"refuse"`
}

type binding struct {
	TrustDomain string     `json:"trust_domain"`
	Direction   string     `json:"direction"`
	Signer      string     `json:"signer"`
	Recipient   agentid.ID `json:"recipient"`
	Nonce       string     `json:"nonce"`
	Piece       int        `json:"piece"`
}

type accepted struct {
	Plain string `json:"plain"`
}

// load reads every vector below this folder, strictly.
func load(t *testing.T) []vector {
	t.Helper()
	var out []vector
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var v vector
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&v); err != nil {
			t.Errorf("%s: %v", path, err)
		} else if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: something follows", path)
		}
		if v.Schema != schema || v.Name+".json" != filepath.ToSlash(path) || (v.Accept == nil) == (v.Refuse == "") {
			t.Errorf("%s: schema %q, name %q, accept %v, refuse %q", path, v.Schema, v.Name, v.Accept, v.Refuse)
		}
		out = append(out, v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 90 {
		t.Fatalf("found %d vectors, where there were 90 and more", len(out))
	}
	return out
}

func base(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (v vector) open(t *testing.T) ([]byte, error) {
	t.Helper()
	key, err := seal.NewKey([]byte(v.Key))
	if err != nil {
		t.Fatal(err)
	}
	if v.Binding.Direction != "request" && v.Binding.Direction != "reply" {
		t.Fatalf("direction %q", v.Binding.Direction)
	}
	return key.Open(seal.Binding{
		TrustDomain: v.Binding.TrustDomain, Reply: v.Binding.Direction == "reply", Signer: v.Binding.Signer,
		Recipient: v.Binding.Recipient, Nonce: v.Binding.Nonce, Piece: v.Binding.Piece,
	}, base(t, v.Sealed))
}

func TestVectors(t *testing.T) {
	for _, v := range load(t) {
		t.Run(v.Name, func(t *testing.T) {
			got, err := v.open(t)
			if v.Refuse != "" {
				if denial.Of(err) != v.Refuse || got != nil {
					t.Errorf("got %q and %v, want %q", got, err, v.Refuse)
				}
				return
			}
			if want := base(t, v.Accept.Plain); err != nil || !bytes.Equal(got, want) {
				t.Errorf("got %q and %v, want %q", got, err, want)
			}
		})
	}
}

// A payload that is refused for what it was bound to is good otherwise: with its
// own binding it opens.
func TestBindingVectorsBreakTheBindingAlone(t *testing.T) {
	all := load(t)
	n := 0
	for _, v := range all {
		if !strings.HasPrefix(v.Name, "binding/") || v.Refuse == "" {
			continue
		}
		opened := false
		for _, other := range all {
			if other.Name == v.Name {
				continue
			}
			w := v
			w.Binding = other.Binding
			if _, err := w.open(t); err == nil {
				opened = true
				break
			}
		}
		if opened {
			n++
		}
	}
	if n < 11 {
		t.Errorf("found %d vectors of the binding that open with another one, want 11 and more", n)
	}
}
