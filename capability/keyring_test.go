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
)

func (w *world) certify(root, key nkeys.KeyPair, p capability.Purpose, from, until time.Time) string {
	w.t.Helper()
	text, err := capability.CertifyKey(root, publicOf(w.t, key), p, from, until, now)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

func (w *world) keyring(roots []string, certificates ...string) *capability.Keyring {
	w.t.Helper()
	ring, err := capability.NewKeyring(roots, certificates)
	if err != nil {
		w.t.Fatal(err)
	}
	return ring
}

// forgeCert signs a certificate by hand.
func (w *world) forgeCert(root nkeys.KeyPair, change func(*certClaims)) string {
	w.t.Helper()
	c := &certClaims{
		Head: jws.Head{Kind: "signing-key", IssuedAt: now.Unix()},
		Key:  publicOf(w.t, w.tokens), Purpose: "tokens", NotBefore: now.Unix(), Expires: now.Unix() + 3600,
	}
	change(c)
	text, err := jws.Sign(c, root)
	if err != nil {
		w.t.Fatal(err)
	}
	return text
}

func TestNewKeyring(t *testing.T) {
	w := newWorld(t)
	root := publicOf(t, w.root)
	stranger := keyOf(t, nkeys.PrefixByteAccount, "stranger")
	good := w.forgeCert(w.root, func(*certClaims) {})
	cases := []struct {
		name  string
		roots []string
		certs []string
		want  denial.Reason
	}{
		{"good", []string{root}, []string{good}, ""},
		{"no certificates yet", []string{root}, nil, ""},
		{"the same twice", []string{root, root}, []string{good, good}, ""},
		{"no root", nil, []string{good}, denial.BadInput},
		{"root is a user key", []string{publicOf(t, w.agent("reader"))}, nil, denial.BadInput},
		{"root is empty", []string{""}, nil, denial.BadInput},
		{"root in lower case", []string{strings.ToLower(root)}, nil, denial.BadInput},
		{"another root's certificate", []string{root}, []string{good, w.forgeCert(stranger, func(*certClaims) {})}, denial.UnknownSigner},
		{"a signing key certifies another", []string{root}, []string{good, w.forgeCert(w.tokens, func(c *certClaims) { c.Key = publicOf(t, stranger) })}, denial.UnknownSigner},
		{"two purposes", []string{root}, []string{good, w.forgeCert(w.root, func(c *certClaims) { c.Purpose = "records" })}, denial.BadToken},
		{"unknown purpose", []string{root}, []string{w.forgeCert(w.root, func(c *certClaims) { c.Purpose = "everything" })}, denial.BadToken},
		{"no purpose", []string{root}, []string{w.forgeCert(w.root, func(c *certClaims) { c.Purpose = "" })}, denial.BadToken},
		{"key is a user key", []string{root}, []string{w.forgeCert(w.root, func(c *certClaims) { c.Key = publicOf(t, w.agent("reader")) })}, denial.BadToken},
		{"the root certifies itself", []string{root}, []string{w.forgeCert(w.root, func(c *certClaims) { c.Key = root })}, denial.BadToken},
		{"one root certifies another", []string{root, publicOf(t, stranger)}, []string{w.forgeCert(w.root, func(c *certClaims) { c.Key = publicOf(t, stranger) })}, denial.BadToken},
		{"no end", []string{root}, []string{w.forgeCert(w.root, func(c *certClaims) { c.Expires = 0 })}, denial.BadToken},
		{"no beginning", []string{root}, []string{w.forgeCert(w.root, func(c *certClaims) { c.NotBefore = 0 })}, denial.BadToken},
		{"a token", []string{root}, []string{w.three().Text()}, denial.BadToken},
		{"a passport", []string{root}, []string{w.passport("reader")}, denial.WrongKind},
		{"a forged signature", []string{root}, []string{good[:strings.LastIndexByte(good, '.')] + w.passport("reader")[strings.LastIndexByte(w.passport("reader"), '.'):]}, denial.BadSignature},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ring, err := capability.NewKeyring(c.roots, c.certs)
			wantReason(t, err, c.want)
			if (ring == nil) != (err != nil) {
				t.Errorf("got ring %v with %v", ring, err)
			}
		})
	}
	ring := w.keyring([]string{root, root}, good, good)
	if !slices.Equal(ring.Roots(), []string{root}) || !slices.Equal(ring.Certificates(), []string{good}) {
		t.Errorf("got %v, %v", ring.Roots(), ring.Certificates())
	}
	ring.Roots()[0], ring.Certificates()[0] = "", ""
	if ring.Roots()[0] != root || ring.Certificates()[0] != good {
		t.Error("the keyring changed through what it gave out")
	}
}

func TestCertifyKeyRefusals(t *testing.T) {
	w := newWorld(t)
	later := now.Add(time.Hour)
	for name, c := range map[string]struct {
		root        capability.Signer
		key         string
		p           capability.Purpose
		from, until time.Time
		want        denial.Reason
	}{
		"user key as the root":  {w.agent("reader"), publicOf(t, w.tokens), capability.ForTokens, now, later, denial.UnknownSigner},
		"user key as signing":   {w.root, publicOf(t, w.agent("reader")), capability.ForTokens, now, later, denial.BadToken},
		"the root itself":       {w.root, publicOf(t, w.root), capability.ForTokens, now, later, denial.BadToken},
		"no key":                {w.root, "", capability.ForTokens, now, later, denial.BadToken},
		"no purpose":            {w.root, publicOf(t, w.tokens), "", now, later, denial.BadToken},
		"other purpose":         {w.root, publicOf(t, w.tokens), "all", now, later, denial.BadToken},
		"ends before it begins": {w.root, publicOf(t, w.tokens), capability.ForTokens, later, now, denial.BadToken},
		"ended":                 {w.root, publicOf(t, w.tokens), capability.ForTokens, now.Add(-time.Hour), now, denial.TokenExpired},
		"no window":             {w.root, publicOf(t, w.tokens), capability.ForTokens, time.Time{}, time.Time{}, denial.BadToken},
	} {
		if _, err := capability.CertifyKey(c.root, c.key, c.p, c.from, c.until, now); denial.Of(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	if _, err := capability.CertifyKey(&fickle{keys: []nkeys.KeyPair{nil}}, publicOf(t, w.tokens), capability.ForTokens, now, later, now); !errors.Is(err, errFickle) {
		t.Errorf("failing key: got %v", err)
	}
}

// Signing keys are renewed and roots replaced without a moment at which a chain
// in use is refused, or one of an unpinned root accepted. (Attack 34.)
func TestRotation(t *testing.T) {
	w := newWorld(t)
	root := publicOf(t, w.root)
	text := w.rootOf("reader", 0, []string{"read:logs"}, nil).Text()
	day := 24 * time.Hour
	first := w.certify(w.root, w.tokens, capability.ForTokens, now.Add(-day), now.Add(2*time.Hour))
	second := w.certify(w.root, w.tokens, capability.ForTokens, now.Add(time.Hour), now.Add(30*day))
	gap := w.certify(w.root, w.tokens, capability.ForTokens, now.Add(3*time.Hour), now.Add(30*day))
	try := func(ring *capability.Keyring, after time.Duration, want denial.Reason, ends time.Time) {
		t.Helper()
		c, err := capability.Verify(text, ring, now.Add(after))
		wantReason(t, err, want)
		if err == nil && !c.Expires().Equal(ends) {
			t.Errorf("after %s: got end %s, want %s", after, c.Expires(), ends)
		}
	}
	tokenEnd := now.Add(day)
	one := w.keyring([]string{root}, first)
	try(one, 0, "", now.Add(2*time.Hour)) // the certificate ends before the token
	try(one, 2*time.Hour-1, "", now.Add(2*time.Hour))
	try(one, 2*time.Hour, denial.UnknownSigner, time.Time{})

	both := w.keyring([]string{root}, first, second)
	try(both, 0, "", now.Add(2*time.Hour))
	try(both, time.Hour, "", tokenEnd)
	try(both, 2*time.Hour, "", tokenEnd)

	broken := w.keyring([]string{root}, first, gap)
	try(broken, 2*time.Hour, denial.UnknownSigner, time.Time{})
	try(broken, 3*time.Hour, "", tokenEnd)

	// A second root takes over: pinned beside the first, then alone.
	next := keyOf(t, nkeys.PrefixByteAccount, "next root")
	crossed := w.certify(next, w.tokens, capability.ForTokens, now.Add(-time.Hour), now.Add(30*day))
	try(w.keyring([]string{root, publicOf(t, next)}, first, crossed), 0, "", tokenEnd)
	try(w.keyring([]string{publicOf(t, next)}, crossed), 0, "", tokenEnd)
	try(w.keyring([]string{publicOf(t, next)}), 0, denial.UnknownSigner, time.Time{})
	if _, err := capability.NewKeyring([]string{publicOf(t, next)}, []string{first}); denial.Of(err) != denial.UnknownSigner {
		t.Errorf("the old root's certificate under the new root: got %v", err)
	}

	// A cached chain ends with the certificate that it was verified under.
	c, err := capability.Verify(text, one, now)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, c.Check(now.Add(2*time.Hour), everybodyStands()), denial.TokenExpired)
}

// The passport's signing key bounds the chain as well.
func TestRecordsKeyEnds(t *testing.T) {
	w := newWorld(t)
	text := w.three().Text()
	ring := w.keyring([]string{publicOf(t, w.root)},
		w.certify(w.root, w.tokens, capability.ForTokens, now.Add(-time.Hour), now.Add(24*time.Hour)),
		w.certify(w.root, w.records, capability.ForRecords, now.Add(-time.Hour), now.Add(30*time.Minute)))
	c, err := capability.Verify(text, ring, now)
	if err != nil || !c.Expires().Equal(now.Add(30*time.Minute)) {
		t.Errorf("got end %s, %v", c.Expires(), err)
	}
	_, err = capability.Verify(text, ring, now.Add(30*time.Minute))
	wantReason(t, err, denial.UnknownSigner)
}

func TestNobodyIsTrustedWithoutAKeyring(t *testing.T) {
	w := newWorld(t)
	text := w.three().Text()
	for name, ring := range map[string]*capability.Keyring{"nil": nil, "zero": new(capability.Keyring)} {
		_, err := capability.Verify(text, ring, now)
		if denial.Of(err) != denial.UnknownSigner {
			t.Errorf("%s: got %v, want %s", name, err, denial.UnknownSigner)
		}
		_, err = capability.VerifyPassport(w.passport("reader"), ring, now)
		if denial.Of(err) != denial.UnknownSigner {
			t.Errorf("%s: passport: got %v, want %s", name, err, denial.UnknownSigner)
		}
		if ring.Roots() != nil || ring.Certificates() != nil {
			t.Errorf("%s: got %v, %v", name, ring.Roots(), ring.Certificates())
		}
	}
}

func TestKeyringCheck(t *testing.T) {
	w := newWorld(t)
	var p passportClaims
	u, err := jws.Decode(w.passport("reader"), "passport", &p)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ring.Check(u, capability.ForRecords, now); err != nil {
		t.Errorf("for records: %v", err)
	}
	wantReason(t, w.ring.Check(u, capability.ForTokens, now), denial.UnknownSigner)
	wantReason(t, w.ring.Check(u, "", now), denial.UnknownSigner)
	wantReason(t, w.ring.Check(u, capability.ForRecords, now.Add(90*24*time.Hour)), denial.UnknownSigner)
	wantReason(t, w.ring.Check(u, capability.ForRecords, now.Add(-time.Hour-time.Second)), denial.UnknownSigner)
}

func TestPassport(t *testing.T) {
	w := newWorld(t)
	key := publicOf(t, w.agent("reader"))
	p, err := capability.VerifyPassport(w.passport("reader"), w.ring, now)
	if err != nil {
		t.Fatal(err)
	}
	if p.Agent != agentid.Require("reader") || p.Key != key || p.Curve != curveOf(t, "reader") || p.Instance() != agentid.InstanceOf(key) {
		t.Errorf("got %+v", p)
	}
	curve := curveOf(t, "reader")
	for name, c := range map[string]struct {
		signer      capability.Signer
		agent       agentid.ID
		nkey, curve string
		want        denial.Reason
	}{
		"nobody":                  {w.records, agentid.ID{}, key, curve, denial.BadToken},
		"account key":             {w.records, agentid.Require("reader"), publicOf(t, w.tokens), curve, denial.BadToken},
		"no key":                  {w.records, agentid.Require("reader"), "", curve, denial.BadToken},
		"no curve key":            {w.records, agentid.Require("reader"), key, "", denial.BadToken},
		"user key for the curve":  {w.records, agentid.Require("reader"), key, key, denial.BadToken},
		"curve key cut":           {w.records, agentid.Require("reader"), key, curve[:55], denial.BadToken},
		"curve key with a break":  {w.records, agentid.Require("reader"), key, curve + "\n", denial.BadToken},
		"curve key in lower case": {w.records, agentid.Require("reader"), key, strings.ToLower(curve), denial.BadToken},
		"signed by a user key":    {w.agent("reader"), agentid.Require("reader"), key, curve, denial.UnknownSigner},
	} {
		if _, err := capability.IssuePassport(c.signer, c.agent, c.nkey, c.curve, now); denial.Of(err) != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		text string
		want denial.Reason
	}{
		"token":      {strings.Split(w.three().Text(), "~")[0], denial.WrongKind},
		"line break": {w.passport("reader") + "\n", denial.BadToken},
		"empty":      {"", denial.BadToken},
	} {
		got, err := capability.VerifyPassport(c.text, w.ring, now)
		if denial.Of(err) != c.want || got.Key != "" {
			t.Errorf("%s: got %v, %v, want %s", name, got, err, c.want)
		}
	}
}
