package capability_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Every rule of a chain, broken alone in a chain signed by hand with the right
// keys otherwise. (Attacks 25, 26, 28, 29, 31, 34, 35.)
func TestEachRuleAlone(t *testing.T) {
	w := newWorld(t)
	if _, err := capability.Verify(w.forge().text(), w.ring, now); err != nil {
		t.Fatalf("the forgery verifies unchanged or the table shows nothing: %v", err)
	}
	stranger := keyOf(t, nkeys.PrefixByteAccount, "stranger")
	many := make([]string, limits.Scopes+1)
	for i := range many {
		many[i] = fmt.Sprintf("read:m%03d", i)
	}
	cases := []struct {
		name   string
		change func(*forgery)
		want   denial.Reason
	}{
		// One token alone.
		{"holder is reserved", func(f *forgery) { f.tokens[2].Agent = "control" }, denial.ReservedName},
		{"holder is no agent ID", func(f *forgery) { f.tokens[2].Agent = "Helper" }, denial.BadToken},
		{"holder is empty", func(f *forgery) { f.tokens[2].Agent = "" }, denial.BadToken},
		{"jti is short", func(f *forgery) { f.tokens[2].ID = "AAAA" }, denial.BadToken},
		{"jti has spare bits", func(f *forgery) { f.tokens[2].ID = "AAAAAAAAAAAAAAAAAAAAAB" }, denial.BadToken},
		{"jti has line breaks", func(f *forgery) { f.tokens[2].ID = "AAAAAAAAAAAAAAAAAAAA\n\n" }, denial.BadToken},
		{"no jti", func(f *forgery) { f.rewrite[4] = edit(`"jti":"`+f.tokens[2].ID+`",`, ``) }, denial.BadToken},
		{"no exp", func(f *forgery) { f.rewrite[4] = edit(fmt.Sprintf(`,"exp":%d`, f.tokens[2].Expires), ``) }, denial.BadToken},
		{"exp is null", func(f *forgery) { f.rewrite[4] = edit(fmt.Sprintf(`"exp":%d`, f.tokens[2].Expires), `"exp":null`) }, denial.BadToken},
		{"exp is zero", func(f *forgery) { f.tokens[2].Expires = 0 }, denial.BadToken},
		{"exp is past the year 9999", func(f *forgery) { f.tokens[0].Expires = 253402300800 }, denial.BadToken},
		{"exp is a float", func(f *forgery) { f.rewrite[4] = edit(fmt.Sprintf(`"exp":%d`, f.tokens[2].Expires), `"exp":1e12`) }, denial.BadToken},
		{"nbf is zero", func(f *forgery) { f.tokens[0].NotBefore = 0 }, denial.BadToken},
		{"nbf is negative", func(f *forgery) { f.tokens[0].NotBefore = -1 }, denial.BadToken},
		{"nbf equals exp", func(f *forgery) { f.tokens[2].NotBefore = f.tokens[2].Expires }, denial.BadToken},
		{"no capabilities", func(f *forgery) { f.rewrite[4] = edit(`"capabilities":["read:logs"],`, ``) }, denial.BadToken},
		{"capabilities are null", func(f *forgery) { f.tokens[2].Capabilities = nil }, denial.BadToken},
		{"capabilities are empty", func(f *forgery) { f.tokens[2].Capabilities = []string{} }, denial.BadToken},
		{"capabilities are one text", func(f *forgery) { f.rewrite[4] = edit(`["read:logs"]`, `"read:logs"`) }, denial.BadToken},
		{"a capability is null", func(f *forgery) { f.rewrite[4] = edit(`["read:logs"]`, `["read:logs",null]`) }, denial.BadToken},
		{"no delegatable", func(f *forgery) { f.rewrite[4] = edit(`"delegatable":[],`, ``) }, denial.BadToken},
		{"delegatable is null", func(f *forgery) { f.tokens[2].Delegatable = nil }, denial.BadToken},
		{"capabilities are not sorted", func(f *forgery) { slices.Reverse(f.tokens[1].Capabilities) }, denial.BadToken},
		{"a capability twice", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:logs", "read:logs"} }, denial.BadToken},
		{"delegatable twice", func(f *forgery) { f.tokens[1].Delegatable = []string{"read:logs", "read:logs"} }, denial.BadToken},
		{"too many capabilities", func(f *forgery) { f.tokens[0].Capabilities = many }, denial.TooLarge},
		{"wildcard", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:*"} }, denial.WildcardScope},
		{"wildcard at the root", func(f *forgery) { f.tokens[0].Capabilities = []string{"read:>"} }, denial.WildcardScope},
		{"all-style shortcut", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:all"} }, denial.WildcardScope},
		{"empty scope", func(f *forgery) { f.tokens[2].Capabilities = []string{""} }, denial.BadScope},
		{"handling admin", func(f *forgery) { f.tokens[0].Capabilities = []string{"handle:admin:registry"} }, denial.BadScope},
		{"self scope", func(f *forgery) {
			f.tokens[0].Capabilities = []string{"read:logs", "read:metrics", "self:session"}
		}, denial.BadScope},
		{"depth is negative", func(f *forgery) { f.tokens[2].Depth = -1 }, denial.BadToken},
		{"depth over the limit", func(f *forgery) { f.tokens[0].Depth = limits.Depth + 1 }, denial.DepthExceeded},
		{"delegatable at depth zero", func(f *forgery) { f.tokens[2].Delegatable = []string{"read:logs"} }, denial.DepthExceeded},
		{"delegatable beyond capabilities", func(f *forgery) {
			f.tokens[1].Capabilities = []string{"read:metrics"}
		}, denial.BeyondOwn},
		{"admin delegatable", func(f *forgery) {
			f.tokens[0].Capabilities = []string{"admin:registry", "read:logs", "read:metrics"}
			f.tokens[0].Delegatable = []string{"admin:registry", "read:logs", "read:metrics"}
		}, denial.NotDelegatable},
		{"parent is no digest", func(f *forgery) { f.parent[2] = "AAAA" }, denial.BadToken},
		{"reserved corr", func(f *forgery) { f.rewrite[4] = edit(`"depth":0`, `"corr":"AAAAAAAAAAAAAAAAAAAAAA","depth":0`) }, denial.BadToken},
		{"reserved corr at the end", func(f *forgery) { f.rewrite[4] = edit(`}`, `,"corr":"AAAAAAAAAAAAAAAAAAAAAA"}`) }, denial.BadToken},
		{"reserved aud", func(f *forgery) { f.rewrite[4] = edit(`}`, `,"aud":["writer"]}`) }, denial.BadToken},
		{"unknown member", func(f *forgery) { f.rewrite[0] = edit(`}`, `,"budget":1}`) }, denial.BadToken},
		{"doubled member", func(f *forgery) { f.rewrite[4] = edit(`"depth":0`, `"depth":0,"depth":0`) }, denial.BadToken},

		// A passport alone.
		{"passport of no agent ID", func(f *forgery) { f.passports[1].Agent = "reader/1" }, denial.BadToken},
		{"passport of nobody", func(f *forgery) { f.passports[1].Agent = "" }, denial.BadToken},
		{"passport of an account key", func(f *forgery) { f.passports[1].Key = publicOf(t, stranger) }, denial.BadToken},
		{"passport without a curve key", func(f *forgery) { f.passports[1].Curve = "" }, denial.BadToken},
		{"passport's curve key is a user key", func(f *forgery) { f.passports[1].Curve = f.passports[1].Key }, denial.BadToken},
		{"passport has an unknown member", func(f *forgery) { f.rewrite[3] = edit(`}`, `,"exp":1}`) }, denial.BadToken},

		// Between neighbours.
		{"root token has a parent", func(f *forgery) { f.parent[0] = jws.Digest("x") }, denial.BrokenChain},
		{"delegation has no parent", func(f *forgery) { f.parent[1] = "" }, denial.BrokenChain},
		{"parent is another token", func(f *forgery) { f.parent[2] = jws.Digest("x") }, denial.BrokenChain},
		{"parent is the root token", func(f *forgery) { f.parent[2] = jws.Digest(f.documents()[0]) }, denial.BrokenChain},
		{"signed by another key than the passport's", func(f *forgery) { f.tokenKeys[2] = w.agent("helper") }, denial.BrokenChain},
		{"signed by the authority", func(f *forgery) { f.tokenKeys[2] = w.tokens }, denial.BrokenChain},
		{"passport of another agent", func(f *forgery) {
			f.passports[1].Agent = "helper"
		}, denial.NotHolder},
		{"passport and signature of another agent", func(f *forgery) {
			f.passports[1] = open[passportClaims](t, w.passport("writer"))
			f.tokenKeys[2] = w.agent("writer")
		}, denial.NotHolder},
		{"parent's depth is used up", func(f *forgery) {
			f.tokens[1].Depth, f.tokens[1].Delegatable = 0, []string{}
		}, denial.DepthExceeded},
		{"depth stays", func(f *forgery) { f.tokens[2].Depth = f.tokens[1].Depth }, denial.DepthExceeded},
		{"depth rises", func(f *forgery) { f.tokens[2].Depth = f.tokens[1].Depth + 1 }, denial.DepthExceeded},
		{"begins before its parent", func(f *forgery) { f.tokens[2].NotBefore = f.tokens[1].NotBefore - 1 }, denial.BeyondWindow},
		{"ends after its parent", func(f *forgery) { f.tokens[2].Expires = f.tokens[1].Expires + 1 }, denial.BeyondWindow},
		{"held, not delegatable", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:metrics"} }, denial.NotDelegatable},
		{"held by the root only", func(f *forgery) { f.tokens[2].Capabilities = []string{"write:reports"} }, denial.BeyondOwn},
		{"held by nobody", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:logs", "read:secrets"} }, denial.BeyondOwn},
		{"a longer resource", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:logs.app"} }, denial.BeyondOwn},
		{"a shorter resource", func(f *forgery) { f.tokens[2].Capabilities = []string{"read:log"} }, denial.BeyondOwn},
		{"the right to handle what one may call", func(f *forgery) { f.tokens[2].Capabilities = []string{"handle:read:logs"} }, denial.BeyondOwn},
		{"admin under a root that has it", func(f *forgery) {
			f.tokens[0].Capabilities = []string{"admin:registry", "read:logs", "read:metrics"}
			f.tokens[1].Capabilities = []string{"admin:registry", "read:logs"}
		}, denial.NotDelegatable},
		{"to oneself", func(f *forgery) { f.tokens[2].Agent = "reader" }, denial.DelegationCycle},
		{"back to the root's holder", func(f *forgery) { f.tokens[2].Agent = "orchestrator" }, denial.DelegationCycle},

		// The window at now.
		{"expired", func(f *forgery) { f.tokens[2].Expires = now.Unix() }, denial.TokenExpired},
		{"not yet valid", func(f *forgery) { f.tokens[2].NotBefore = now.Unix() + 1 }, denial.TokenNotYet},

		// Signers and signatures.
		{"root token signed by a stranger", func(f *forgery) { f.tokenKeys[0] = stranger }, denial.UnknownSigner},
		{"root token signed by the root", func(f *forgery) { f.tokenKeys[0] = w.root }, denial.UnknownSigner},
		{"root token signed by a records key", func(f *forgery) { f.tokenKeys[0] = w.records }, denial.UnknownSigner},
		{"root token signed by its holder", func(f *forgery) { f.tokenKeys[0] = w.agent("orchestrator") }, denial.UnknownSigner},
		{"passport signed by a stranger", func(f *forgery) { f.passportKeys[0] = stranger }, denial.UnknownSigner},
		{"passport signed by a tokens key", func(f *forgery) { f.passportKeys[1] = w.tokens }, denial.UnknownSigner},
		{"passport signed by its agent", func(f *forgery) { f.passportKeys[1] = w.agent("reader") }, denial.UnknownSigner},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := w.forge()
			c.change(f)
			chain, err := capability.Verify(f.text(), w.ring, now)
			wantReason(t, err, c.want)
			if chain != nil {
				t.Errorf("got a chain with the refusal")
			}
		})
	}
}

// A signature of another document in the place of each one. (Attack 13.)
func TestForeignSignatures(t *testing.T) {
	w := newWorld(t)
	docs := strings.Split(w.three().Text(), "~")
	for i := range docs {
		for j := range docs {
			if i == j {
				continue
			}
			swapped := slices.Clone(docs)
			cut, from := strings.LastIndexByte(docs[i], '.'), strings.LastIndexByte(docs[j], '.')
			swapped[i] = docs[i][:cut] + docs[j][from:]
			_, err := capability.Verify(strings.Join(swapped, "~"), w.ring, now)
			want := denial.BadSignature
			// A token's digest covers its signature, so the hop after it breaks first.
			if i == 0 || i == 2 {
				want = denial.BrokenChain
			}
			if denial.Of(err) != want {
				t.Errorf("document %d with the signature of %d: got %v, want %s", i, j, err, want)
			}
		}
	}
}

// The root token alone with a foreign signature: no later hop notices.
func TestForeignSignatureOfTheRoot(t *testing.T) {
	w := newWorld(t)
	a := w.rootOf("reader", 0, []string{"read:logs"}, nil).Text()
	b := w.rootOf("reader", 0, []string{"read:logs", "write:reports"}, nil).Text()
	mixed := b[:strings.LastIndexByte(b, '.')] + a[strings.LastIndexByte(a, '.'):]
	_, err := capability.Verify(mixed, w.ring, now)
	wantReason(t, err, denial.BadSignature)
}

// Documents removed, reordered, doubled and spliced from two chains of the same
// agents: only the chains that were made verify, and the shorter ones that they
// were made from. (Attack 28.)
func TestSplices(t *testing.T) {
	w := newWorld(t)
	var pool []string
	made := map[string]bool{}
	for range 2 {
		docs := strings.Split(w.three().Text(), "~")
		for n := 1; n <= len(docs); n += 2 {
			made[strings.Join(docs[:n], "~")] = true
		}
		pool = append(pool, docs...)
	}
	verified := map[string]bool{}
	try := func(docs ...string) {
		text := strings.Join(docs, "~")
		_, err := capability.Verify(text, w.ring, now)
		if (err == nil) != made[text] {
			t.Errorf("made %t, got %v", made[text], err)
		}
		if err == nil {
			verified[text] = true
		} else if denial.Of(err) == "" {
			t.Errorf("refused without a reason: %v", err)
		}
	}
	for _, a := range pool {
		try(a)
		for _, b := range pool {
			try(a, b)
			for _, c := range pool {
				try(a, b, c)
			}
		}
	}
	for mask := range 1 << 5 { // each place from the one or the other
		docs := make([]string, 5)
		for i := range docs {
			docs[i] = pool[i+5*(mask>>i&1)]
		}
		try(docs...)
	}
	for i := range 5 { // one left out, one doubled, two exchanged
		try(slices.Delete(slices.Clone(pool[:5]), i, i+1)...)
		try(slices.Insert(slices.Clone(pool[:5]), i, pool[i])...)
		for j := range i {
			docs := slices.Clone(pool[:5])
			docs[i], docs[j] = docs[j], docs[i]
			try(docs...)
		}
	}
	try(append(slices.Clone(pool[:5]), pool[5:]...)...)
	if len(verified) != len(made) {
		t.Errorf("got %d chains, want the %d that were made", len(verified), len(made))
	}
}

func TestChainForm(t *testing.T) {
	w := newWorld(t)
	text := w.three().Text()
	docs := strings.Split(text, "~")
	for name, c := range map[string]struct {
		text string
		want denial.Reason
	}{
		"empty":                    {"", denial.BadToken},
		"separators alone":         {"~~", denial.BadToken},
		"separator at the end":     {text + "~", denial.BrokenChain},
		"two separators at an end": {text + "~~", denial.BadToken},
		"separator at the start":   {"~" + text, denial.BrokenChain},
		"line break at the end":    {text + "\n", denial.BadToken},
		"space":                    {" " + text, denial.BadToken},
		"other separator":          {strings.Join(docs, "!"), denial.BadToken},
		"passport first":           {docs[1], denial.WrongKind},
		"token for a passport":     {docs[0] + "~" + docs[2] + "~" + docs[2], denial.WrongKind},
		"certificate for a token":  {w.certificates[0], denial.WrongKind},
		"delegated token first":    {docs[2], denial.BrokenChain},
		"without its last token":   {strings.Join(docs[:4], "~"), denial.BrokenChain},
		"over the limit":           {strings.Repeat("A", limits.Chain+1), denial.TooLarge},
		"separators without end":   {strings.Repeat("~", limits.Chain), denial.DepthExceeded},
		"one document too long":    {strings.Repeat("A", limits.Document+1), denial.TooLarge},
	} {
		_, err := capability.Verify(c.text, w.ring, now)
		if denial.Of(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

// Eight delegations are a chain, nine are none, made or forged. (Attack 31.)
func TestDepth(t *testing.T) {
	w := newWorld(t)
	c := w.rootOf("a0", limits.Depth, []string{"read:logs"}, []string{"read:logs"})
	for i := 1; i <= limits.Depth; i++ {
		d := capability.Delegation{To: agentid.Require(fmt.Sprintf("a%d", i)), Scopes: scopes("read:logs"), Delegatable: scopes("read:logs"), Depth: limits.Depth - i, Expires: c.Expires()}
		if d.Depth == 0 {
			d.Delegatable = nil
		}
		text, err := w.delegate(c, d)
		if err != nil {
			t.Fatalf("delegation %d: %v", i, err)
		}
		c = w.verify(text)
	}
	if got := len(c.Hops()); got != limits.Depth+1 {
		t.Errorf("got %d tokens, want %d", got, limits.Depth+1)
	}
	_, err := w.delegate(c, capability.Delegation{To: agentid.Require("b"), Scopes: scopes("read:logs"), Expires: c.Expires()})
	wantReason(t, err, denial.DepthExceeded)

	docs := strings.Split(c.Text(), "~")
	forged := open[tokenClaims](t, docs[len(docs)-1])
	forged.Agent, forged.Parent = "b", jws.Digest(docs[len(docs)-1])
	longer := c.Text() + "~" + w.passport(fmt.Sprintf("a%d", limits.Depth)) + "~" + signToken(t, w.agent(fmt.Sprintf("a%d", limits.Depth)), forged)
	_, err = capability.Verify(longer, w.ring, now)
	wantReason(t, err, denial.DepthExceeded)
}

// The largest chain passes, one byte more does not.
func TestSizes(t *testing.T) {
	w := newWorld(t)
	full := make([]string, limits.Scopes)
	for i := range full {
		full[i] = fmt.Sprintf("read:m%03d", i)
	}
	if got := len(w.rootOf("reader", 1, full, full).Scopes()); got != limits.Scopes {
		t.Errorf("got %d scopes, want %d", got, limits.Scopes)
	}
	_, err := capability.IssueRoot(w.tokens, capability.Root{
		Agent: agentid.Require("reader"), Capabilities: scopes(append(full, "read:one-more")...), Expires: now.Add(time.Hour),
	}, now)
	wantReason(t, err, denial.TooLarge)

	// Tokens of some 20 kB each: three fit into a chain, four do not.
	long := make([]string, 100)
	for i := range long {
		long[i] = fmt.Sprintf("read:m%03d%s", i, strings.Repeat("x", 60))
	}
	c := w.rootOf("a0", 8, long, long)
	for i := 1; ; i++ {
		text, err := w.delegate(c, capability.Delegation{To: agentid.Require(fmt.Sprintf("a%d", i)), Scopes: scopes(long...), Delegatable: scopes(long...), Depth: 8 - i, Expires: c.Expires()})
		if err != nil {
			wantReason(t, err, denial.TooLarge)
			if len(c.Text()) > limits.Chain || i == 1 {
				t.Errorf("refused after %d bytes", len(c.Text()))
			}
			break
		}
		c = w.verify(text)
	}
	docs := strings.Split(c.Text(), "~")
	last := docs[len(docs)-1]
	next := open[tokenClaims](t, last)
	holder := next.Agent
	next.Agent, next.Parent, next.Depth = "b", jws.Digest(last), next.Depth-1
	longer := c.Text() + "~" + w.passport(holder) + "~" + signToken(t, w.agent(holder), next)
	_, err = capability.Verify(longer, w.ring, now)
	wantReason(t, err, denial.TooLarge)
}

func TestWindowEdges(t *testing.T) {
	w := newWorld(t)
	from, until := now.Add(10*time.Minute), now.Add(20*time.Minute)
	text, err := capability.IssueRoot(w.tokens, capability.Root{
		Agent: agentid.Require("reader"), Capabilities: scopes("read:logs"), NotBefore: from, Expires: until,
	}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   time.Time
		want denial.Reason
	}{
		{from.Add(-time.Nanosecond), denial.TokenNotYet},
		{from, ""},
		{until.Add(-time.Nanosecond), ""},
		{until, denial.TokenExpired},
		{time.Time{}, denial.TokenNotYet},
	} {
		_, err := capability.Verify(text, w.ring, c.at)
		if denial.Of(err) != c.want {
			t.Errorf("at %s: got %v, want %q", c.at, err, c.want)
		}
	}
}

func TestChainGetters(t *testing.T) {
	w := newWorld(t)
	c := w.three()
	if c.Holder() != agentid.Require("helper") || c.Depth() != 0 {
		t.Errorf("got holder %s, depth %d", c.Holder(), c.Depth())
	}
	if got := texts(c.Scopes()); !slices.Equal(got, []string{"read:logs"}) {
		t.Errorf("got scopes %v", got)
	}
	if got := c.Delegatable(); len(got) != 0 {
		t.Errorf("got delegatable %v", got)
	}
	if c.Digest() != jws.Digest(c.Text()) || !jws.IsDigest(c.Digest()) {
		t.Errorf("got digest %s", c.Digest())
	}
	if !c.Expires().Equal(now.Add(time.Hour)) || !c.NotBefore().Equal(now.Add(-limits.Ahead)) {
		t.Errorf("got window %s to %s", c.NotBefore(), c.Expires())
	}
	for s, want := range map[string]bool{"read:logs": true, "read:metrics": false, "write:reports": false, "handle:read:logs": false} {
		if got := c.Has(capability.RequireScope(s)); got != want {
			t.Errorf("has %s: got %t, want %t", s, got, want)
		}
	}
	if c.Has(capability.Scope{}) {
		t.Error("has the zero scope")
	}
	docs := strings.Split(c.Text(), "~")
	hops := c.Hops()
	want := []struct{ by, to, key, token string }{
		{"", "orchestrator", publicOf(t, w.tokens), jws.Digest(docs[0])},
		{"orchestrator", "reader", publicOf(t, w.agent("orchestrator")), jws.Digest(docs[2])},
		{"reader", "helper", publicOf(t, w.agent("reader")), jws.Digest(docs[4])},
	}
	for i, h := range hops {
		if h.By.String() != want[i].by || h.To.String() != want[i].to || h.Key != want[i].key || h.Token != want[i].token {
			t.Errorf("hop %d: got %+v, want %+v", i, h, want[i])
		}
	}
	// What is handed out is a copy: a caller cannot widen the chain through it.
	hops[2].Scopes[0] = capability.RequireScope("write:reports")
	c.Scopes()[0] = capability.RequireScope("write:reports")
	if c.Has(capability.RequireScope("write:reports")) || c.Hops()[2].Scopes[0] != capability.RequireScope("read:logs") {
		t.Error("the chain changed through what it gave out")
	}
}

func TestZeroChain(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]*capability.Chain{"nil": nil, "zero": new(capability.Chain)} {
		if c.Has(capability.RequireScope("read:logs")) || c.Has(capability.Scope{}) {
			t.Errorf("%s: has a scope", name)
		}
		if !c.Holder().IsZero() || c.Scopes() != nil || c.Delegatable() != nil || c.Hops() != nil || c.Depth() != 0 ||
			c.Text() != "" || c.Digest() != "" || !c.Expires().IsZero() || !c.NotBefore().IsZero() {
			t.Errorf("%s: is something", name)
		}
		wantReason(t, c.Check(now, everybodyStands()), denial.NoToken)
		_, err := capability.Delegate(c, w.agent("reader"), w.passport("reader"), capability.Delegation{To: agentid.Require("helper"), Scopes: scopes("read:logs"), Expires: now.Add(time.Hour)}, now)
		wantReason(t, err, denial.NoToken)
	}
}
