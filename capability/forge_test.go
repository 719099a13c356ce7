package capability_test

import (
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/jws"
)

// forgery is a chain taken apart, to be signed again by hand after one change.
// Nothing of the package under test helps to make the result, so that a forged
// hop reaches Verify also where Delegate would refuse to sign it.
type forgery struct {
	t            testing.TB
	tokens       []*tokenClaims
	tokenKeys    []nkeys.KeyPair
	passports    []*passportClaims // passports[i] stands before tokens[i+1]
	passportKeys []nkeys.KeyPair
	parent       map[int]string              // instead of the digest of the token before
	rewrite      map[int]func(string) string // the payload of the i-th document, by place in the chain
}

func (w *world) forge() *forgery {
	w.t.Helper()
	parts := strings.Split(w.three().Text(), "~")
	f := &forgery{t: w.t, parent: map[int]string{}, rewrite: map[int]func(string) string{}}
	for i, part := range parts {
		if i%2 == 1 {
			f.passports = append(f.passports, open[passportClaims](w.t, part))
			f.passportKeys = append(f.passportKeys, w.records)
			continue
		}
		f.tokens = append(f.tokens, open[tokenClaims](w.t, part))
	}
	f.tokenKeys = []nkeys.KeyPair{w.tokens, w.agent("orchestrator"), w.agent("reader")}
	return f
}

func (f *forgery) documents() []string {
	f.t.Helper()
	var docs []string
	var last string
	add := func(text string, key nkeys.KeyPair) string {
		if edit, ok := f.rewrite[len(docs)]; ok {
			payload := payloadOf(f.t, text)
			edited := edit(payload)
			if edited == payload {
				f.t.Fatalf("the change leaves document %d as it was: %s", len(docs), payload)
			}
			text = rawDocument(f.t, key, edited)
		}
		docs = append(docs, text)
		return text
	}
	for i, c := range f.tokens {
		if i > 0 {
			text, err := jws.Sign(f.passports[i-1], f.passportKeys[i-1])
			if err != nil {
				f.t.Fatal(err)
			}
			add(text, f.passportKeys[i-1])
			c.Parent = jws.Digest(last)
		}
		if p, ok := f.parent[i]; ok {
			c.Parent = p
		}
		last = add(signToken(f.t, f.tokenKeys[i], c), f.tokenKeys[i])
	}
	return docs
}

func (f *forgery) text() string {
	f.t.Helper()
	return strings.Join(f.documents(), "~")
}

// edit is a rewrite that replaces a piece of the payload.
func edit(old, new string) func(string) string {
	return func(payload string) string { return strings.Replace(payload, old, new, 1) }
}
