package capability_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// printed writes the payload of a root token from what a chain says of itself;
// what it does not say, iat and jti, is handed in.
func printed(c *capability.Chain, iat, jti string) string {
	list := func(scopes []capability.Scope) string {
		var out []string
		for _, s := range scopes {
			out = append(out, `"`+s.String()+`"`)
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	root := c.Hops()[0]
	return fmt.Sprintf(`{"kind":"token","iss":"%s","iat":%s,"jti":"%s","agent":"%s","capabilities":%s,"delegatable":%s,"depth":%d,"nbf":%d,"exp":%d}`,
		root.Key, iat, jti, c.Holder(), list(c.Scopes()), list(c.Delegatable()), c.Depth(), c.NotBefore().Unix(), root.Expires.Unix())
}

// FuzzToken: a payload that is read, signed whatever it is, prints again as it
// was, so that no two texts are one token, and grants what stands in it.
func FuzzToken(f *testing.F) {
	w := newWorld(f)
	good := payloadOf(f, signToken(f, w.tokens, &tokenClaims{
		Head: open[tokenClaims](f, w.rootOf("reader", 0, []string{"read:logs"}, nil).Text()).Head, ID: "AAAAAAAAAAAAAAAAAAAAAA",
		Agent: "reader", Capabilities: []string{"read:logs", "write:reports"}, Delegatable: []string{"read:logs"}, Depth: 8,
		NotBefore: now.Unix(), Expires: now.Unix() + 60,
	}))
	f.Add(good)
	for _, change := range [][2]string{
		{`:8,`, `:8.0,`}, {`:8,`, `:08,`}, {`:8,`, `:"8",`}, {`:8,`, `:8e0,`}, {`:8,`, `:-0,`}, {`:8,`, `:9223372036854775808,`},
		{`"depth"`, `"Depth"`}, {`"depth"`, `"de\u0070th"`}, {`,"depth"`, `, "depth"`}, {`"depth":8,`, ``}, {`"depth":8,`, `"depth":8,"depth":8,`},
		{`"reader"`, `"r\u0065ader"`}, {`"reader"`, `"Reader"`}, {`"reader"`, `null`}, {`"reader"`, "\"reader\xff\""},
		{`["read:logs"]`, `["read:logs","read:logs"]`}, {`["read:logs"]`, `[]`}, {`["read:logs"]`, `null`}, {`["read:logs"]`, `["read:*"]`}, {`["read:logs"]`, `["write:reports"]`},
		{`"read:logs","write:reports"`, `"write:reports","read:logs"`}, {`}`, `,"aud":[]}`}, {`}`, `,"corr":""}`}, {`}`, `}{}`}, {`}`, `} `}, {`{`, ` {`},
		{`"agent":"reader",`, `"agent":"reader","parent":"",`}, {`"kind":"token"`, `"kind":"passport"`},
	} {
		changed := strings.Replace(good, change[0], change[1], 1)
		if changed == good {
			f.Fatalf("%q changes nothing", change)
		}
		f.Add(changed)
	}
	unsaid := regexp.MustCompile(`^\{"kind":"token","iss":"[A-Z0-9]*","iat":(-?[0-9]+),"jti":"([A-Za-z0-9_-]{22})",`)
	f.Fuzz(func(t *testing.T, payload string) {
		c, err := capability.Verify(rawDocument(t, w.tokens, payload), w.ring, now)
		if err != nil {
			if denial.Of(err) == "" {
				t.Fatalf("refused without a reason: %v", err)
			}
			return
		}
		m := unsaid.FindStringSubmatch(payload)
		if m == nil {
			t.Fatalf("read as a token: %q", payload)
		}
		if got := printed(c, m[1], m[2]); got != payload {
			t.Fatalf("reads %q\nprints %q", payload, got)
		}
	})
}
