package capability_test

import (
	"errors"
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

// Delegate refuses each of these up front, and Verify refuses the same token,
// signed by hand with the delegator's own key, for the same reason.
// (Attacks 25, 26, 31.)
func TestDelegateRefusesWhatVerifyRefuses(t *testing.T) {
	w := newWorld(t)
	parent := w.rootOf("reader", 2, []string{"admin:registry", "read:logs", "read:metrics", "write:reports"}, []string{"read:logs", "read:metrics"})
	good := func() capability.Delegation {
		return capability.Delegation{
			To: agentid.Require("helper"), Scopes: scopes("read:logs"), Delegatable: scopes("read:logs"), Depth: 1,
			NotBefore: now, Expires: now.Add(time.Hour),
		}
	}
	cases := []struct {
		name   string
		change func(*capability.Delegation)
		want   denial.Reason
	}{
		{"nothing is wrong", func(*capability.Delegation) {}, ""},
		{"what the delegator does not hold", func(d *capability.Delegation) { d.Scopes = scopes("read:logs", "read:secrets") }, denial.BeyondOwn},
		{"a longer resource", func(d *capability.Delegation) { d.Scopes = scopes("read:logs", "read:logs.app") }, denial.BeyondOwn},
		{"what it may not pass on", func(d *capability.Delegation) { d.Scopes = scopes("read:logs", "write:reports") }, denial.NotDelegatable},
		{"admin", func(d *capability.Delegation) { d.Scopes = scopes("admin:registry", "read:logs") }, denial.NotDelegatable},
		{"admin to pass on", func(d *capability.Delegation) {
			d.Scopes = scopes("admin:registry", "read:logs")
			d.Delegatable = scopes("admin:registry")
		}, denial.NotDelegatable},
		{"self", func(d *capability.Delegation) { d.Scopes = scopes("read:logs", "self:session") }, denial.BadScope},
		{"the zero scope", func(d *capability.Delegation) { d.Scopes = make([]capability.Scope, 1) }, denial.BadScope},
		{"delegatable beyond its scopes", func(d *capability.Delegation) { d.Delegatable = scopes("read:metrics") }, denial.BeyondOwn},
		{"delegatable at depth zero", func(d *capability.Delegation) { d.Depth = 0 }, denial.DepthExceeded},
		{"the delegator's own depth", func(d *capability.Delegation) { d.Depth = 2 }, denial.DepthExceeded},
		{"depth over the limit", func(d *capability.Delegation) { d.Depth = limits.Depth + 1 }, denial.DepthExceeded},
		{"negative depth", func(d *capability.Delegation) { d.Depth = -1 }, denial.BadToken},
		{"no scopes", func(d *capability.Delegation) { d.Scopes, d.Delegatable, d.Depth = nil, nil, 0 }, denial.BadToken},
		{"ends too late", func(d *capability.Delegation) { d.Expires = parent.Expires().Add(time.Second) }, denial.BeyondWindow},
		{"begins too early", func(d *capability.Delegation) { d.NotBefore = parent.NotBefore().Add(-time.Second) }, denial.BeyondWindow},
		{"ended already", func(d *capability.Delegation) { d.NotBefore, d.Expires = now.Add(-20*time.Second), now }, denial.TokenExpired},
		{"ends before it begins", func(d *capability.Delegation) { d.NotBefore = d.Expires.Add(time.Second) }, denial.BadToken},
		{"no end", func(d *capability.Delegation) { d.Expires = time.Time{} }, denial.BadToken},
		{"to oneself", func(d *capability.Delegation) { d.To = agentid.Require("reader") }, denial.DelegationCycle},
		{"to the control plane", func(d *capability.Delegation) { d.To = agentid.Control }, denial.ReservedName},
		{"to nobody", func(d *capability.Delegation) { d.To = agentid.ID{} }, denial.BadToken},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d := good()
			c.change(&d)
			_, err := w.delegate(parent, d)
			wantReason(t, err, c.want)

			forged := signToken(t, w.agent("reader"), &tokenClaims{
				Head: jws.Head{Kind: "token", IssuedAt: now.Unix()}, ID: "AAAAAAAAAAAAAAAAAAAAAA",
				Agent: d.To.String(), Parent: jws.Digest(parent.Text()),
				Capabilities: texts(d.Scopes), Delegatable: texts(d.Delegatable), Depth: int64(d.Depth),
				NotBefore: d.NotBefore.Unix(), Expires: d.Expires.Unix(),
			})
			_, err = capability.Verify(parent.Text()+"~"+w.passport("reader")+"~"+forged, w.ring, now)
			wantReason(t, err, c.want)
		})
	}
}

func TestDelegateKeysAndPassports(t *testing.T) {
	w := newWorld(t)
	parent := w.rootOf("reader", 1, []string{"read:logs"}, []string{"read:logs"})
	d := capability.Delegation{To: agentid.Require("helper"), Scopes: scopes("read:logs"), Expires: now.Add(time.Hour)}
	other, err := capability.IssuePassport(keyOf(t, nkeys.PrefixByteAccount, "stranger"), agentid.Require("reader"), publicOf(t, w.agent("reader")), curveOf(t, "reader"), now)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key      capability.Signer
		passport string
		want     denial.Reason
	}{
		"right":                         {w.agent("reader"), w.passport("reader"), ""},
		"another agent's both":          {w.agent("helper"), w.passport("helper"), denial.NotHolder},
		"another agent's passport":      {w.agent("reader"), w.passport("helper"), denial.NotHolder},
		"another agent's key":           {w.agent("helper"), w.passport("reader"), denial.BrokenChain},
		"the authority's key":           {w.tokens, w.passport("reader"), denial.BrokenChain},
		"a stranger's passport":         {w.agent("reader"), other, denial.UnknownSigner},
		"a token for a passport":        {w.agent("reader"), parent.Text(), denial.WrongKind},
		"no passport":                   {w.agent("reader"), "", denial.BadToken},
		"a passport with a break":       {w.agent("reader"), w.passport("reader") + "\n", denial.BadToken},
		"a passport and something else": {w.agent("reader"), w.passport("reader") + "~" + w.passport("reader"), denial.BadToken},
	} {
		_, err := capability.Delegate(parent, c.key, c.passport, d, now)
		if denial.Of(err) != c.want {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	_, err = capability.Delegate(parent, w.agent("reader"), w.passport("reader"), d, parent.Expires())
	wantReason(t, err, denial.TokenExpired)
}

// A key that fails or changes its mind makes no chain.
func TestDelegateFailingSigner(t *testing.T) {
	w := newWorld(t)
	parent := w.rootOf("reader", 1, []string{"read:logs"}, []string{"read:logs"})
	d := capability.Delegation{To: agentid.Require("helper"), Scopes: scopes("read:logs"), Expires: now.Add(time.Hour)}
	for name, s := range map[string]capability.Signer{
		"no public key": &fickle{keys: []nkeys.KeyPair{nil}},
		"no signature":  &fickle{keys: []nkeys.KeyPair{w.agent("reader")}},
		"two keys":      &fickle{keys: []nkeys.KeyPair{w.agent("reader"), w.agent("helper")}, signs: true},
	} {
		if text, err := capability.Delegate(parent, s, w.passport("reader"), d, now); err == nil {
			t.Errorf("%s: got a chain of %d bytes", name, len(text))
		}
	}
}

var errFickle = errors.New("key store is away")

// fickle answers PublicKey with one key after the other.
type fickle struct {
	keys  []nkeys.KeyPair
	signs bool
}

func (f *fickle) PublicKey() (string, error) {
	kp := f.keys[0]
	if len(f.keys) > 1 {
		f.keys = f.keys[1:]
	}
	if kp == nil {
		return "", errFickle
	}
	return kp.PublicKey()
}

func (f *fickle) Sign(b []byte) ([]byte, error) {
	if !f.signs {
		return nil, errFickle
	}
	return f.keys[0].Sign(b)
}

// A delegation without a wished beginning counts at once on a clock that is
// behind, yet never before its parent does.
func TestDefaultBeginning(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct{ parent, want time.Time }{
		"old parent": {now.Add(-time.Hour), now.Add(-limits.Ahead)},
		"new parent": {now.Add(-time.Second), now.Add(-time.Second)},
	} {
		text, err := capability.IssueRoot(w.tokens, capability.Root{
			Agent: agentid.Require("reader"), Capabilities: scopes("read:logs"), Delegatable: scopes("read:logs"), Depth: 1,
			NotBefore: c.parent, Expires: now.Add(time.Hour),
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		text, err = w.delegate(w.verify(text), capability.Delegation{To: agentid.Require("helper"), Scopes: scopes("read:logs"), Expires: now.Add(time.Hour)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := w.verify(text).NotBefore(); !got.Equal(c.want) {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// A delegation for later is made now and worth nothing before.
func TestLaterBeginning(t *testing.T) {
	w := newWorld(t)
	parent := w.rootOf("reader", 1, []string{"read:logs"}, []string{"read:logs"})
	text, err := w.delegate(parent, capability.Delegation{To: agentid.Require("helper"), Scopes: scopes("read:logs"), NotBefore: now.Add(time.Hour), Expires: now.Add(2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = capability.Verify(text, w.ring, now)
	wantReason(t, err, denial.TokenNotYet)
	if _, err := capability.Verify(text, w.ring, now.Add(time.Hour)); err != nil {
		t.Errorf("at its beginning: %v", err)
	}
}

func TestIssueRootRefusals(t *testing.T) {
	w := newWorld(t)
	good := capability.Root{
		Agent: agentid.Require("reader"), Capabilities: scopes("write:reports", "read:logs", "read:logs"), Delegatable: scopes("read:logs"), Depth: 1,
		Expires: now.Add(time.Hour),
	}
	text, err := capability.IssueRoot(w.tokens, good, now)
	if err != nil {
		t.Fatal(err)
	}
	c := w.verify(text)
	if got := texts(c.Scopes()); !slices.Equal(got, []string{"read:logs", "write:reports"}) {
		t.Errorf("got %v, want a sorted set", got)
	}
	if again, err := capability.IssueRoot(w.tokens, good, now); err != nil || again == text {
		t.Errorf("two tokens alike, %v: taking one back would take back the other", err)
	}
	if good.Capabilities[0] != capability.RequireScope("write:reports") {
		t.Error("the caller's list was sorted")
	}
	for name, x := range map[string]struct {
		change func(*capability.Root)
		want   denial.Reason
	}{
		"nobody":                 {func(r *capability.Root) { r.Agent = agentid.ID{} }, denial.BadToken},
		"reserved":               {func(r *capability.Root) { r.Agent = agentid.Require("sealmesh") }, denial.ReservedName},
		"no capabilities":        {func(r *capability.Root) { r.Capabilities, r.Delegatable = nil, nil }, denial.BadToken},
		"self scope":             {func(r *capability.Root) { r.Capabilities = scopes("self:session", "read:logs") }, denial.BadScope},
		"zero scope":             {func(r *capability.Root) { r.Delegatable = make([]capability.Scope, 1) }, denial.BadScope},
		"admin delegatable":      {func(r *capability.Root) { r.Capabilities = scopes("admin:registry"); r.Delegatable = r.Capabilities }, denial.NotDelegatable},
		"delegatable beyond":     {func(r *capability.Root) { r.Delegatable = scopes("read:metrics") }, denial.BeyondOwn},
		"delegatable at depth 0": {func(r *capability.Root) { r.Depth = 0 }, denial.DepthExceeded},
		"too deep":               {func(r *capability.Root) { r.Depth = limits.Depth + 1 }, denial.DepthExceeded},
		"negative depth":         {func(r *capability.Root) { r.Depth = -1 }, denial.BadToken},
		"no end":                 {func(r *capability.Root) { r.Expires = time.Time{} }, denial.BadToken},
		"ended":                  {func(r *capability.Root) { r.Expires = now }, denial.TokenExpired},
		"ends before it begins":  {func(r *capability.Root) { r.NotBefore = now.Add(2 * time.Hour) }, denial.BadToken},
	} {
		r := good
		x.change(&r)
		if _, err := capability.IssueRoot(w.tokens, r, now); denial.Of(err) != x.want {
			t.Errorf("%s: got %v, want %s", name, err, x.want)
		}
	}
	_, err = capability.IssueRoot(w.agent("reader"), good, now)
	wantReason(t, err, denial.UnknownSigner)
	if _, err = capability.IssueRoot(&fickle{keys: []nkeys.KeyPair{nil}}, good, now); !errors.Is(err, errFickle) {
		t.Errorf("failing key: got %v", err)
	}
}

// No refusal repeats a token: whoever reads the log could present it.
func TestRefusalsKeepTokensToThemselves(t *testing.T) {
	w := newWorld(t)
	f := w.forge()
	f.tokens[2].Capabilities = []string{"read:secrets"}
	text := f.text()
	_, err := capability.Verify(text, w.ring, now)
	if err == nil {
		t.Fatal("a forged chain verifies")
	}
	for doc := range strings.SplitSeq(text, "~") {
		if sig := doc[strings.LastIndexByte(doc, '.')+1:]; strings.Contains(err.Error(), sig) {
			t.Errorf("the refusal has a signature in it: %v", err)
		}
	}
}
