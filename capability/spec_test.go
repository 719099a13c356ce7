package capability_test

import (
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// The worked example of the specification is made here, from keys that anybody
// can derive, and compared to the byte: a page that drifts from the code is red.
func TestWorkedExample(t *testing.T) {
	page, err := os.ReadFile("../docs/spec/capability.md")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	sign := func(c *tokenClaims, key nkeys.KeyPair) string {
		c.Kind, c.IssuedAt, c.NotBefore = "token", now.Unix(), now.Unix()
		return signToken(t, key, c)
	}
	root := sign(&tokenClaims{
		ID: "AAAAAAAAAAAAAAAAAAAAAA", Agent: "orchestrator",
		Capabilities: []string{"read:logs", "write:reports"}, Delegatable: []string{"read:logs"}, Depth: 1,
		Expires: now.Unix() + 86400,
	}, w.tokens)
	passport := w.passport("orchestrator")
	lent := sign(&tokenClaims{
		ID: "AQEBAQEBAQEBAQEBAQEBAQ", Agent: "writer", Parent: jws.Digest(root),
		Capabilities: []string{"read:logs"}, Delegatable: []string{}, Depth: 0,
		Expires: now.Unix() + 600,
	}, w.agent("orchestrator"))
	chain := root + "~" + passport + "~" + lent
	c := w.verify(chain)

	for _, part := range []struct{ name, text string }{
		{"root", publicOf(t, w.root)},
		{"tokens key", publicOf(t, w.tokens)},
		{"records key", publicOf(t, w.records)},
		{"orchestrator's key", publicOf(t, w.agent("orchestrator"))},
		{"certificate of the tokens key", w.certificates[0]},
		{"certificate of the records key", w.certificates[1]},
		{"payload of the certificate", payloadOf(t, w.certificates[0])},
		{"payload of the root token", payloadOf(t, root)},
		{"payload of the passport", payloadOf(t, passport)},
		{"payload of the delegated token", payloadOf(t, lent)},
		{"chain", chain},
		{"digest of the chain", c.Digest()},
	} {
		if !strings.Contains(string(page), "\n"+part.text+"\n") {
			t.Errorf("the page lacks the line with the %s:\n%s", part.name, part.text)
		}
	}
	if _, err := capability.Verify(chain, w.ring, c.Expires()); err == nil {
		t.Error("the example never ends")
	}
}
