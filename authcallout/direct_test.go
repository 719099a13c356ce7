package authcallout_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// door is a service without a connection, with requests made by hand: those that
// no nats-server sends.
type door struct {
	svc          *authcallout.Service
	cfg          authcallout.Config
	agents       *ca
	authority    *authority
	registry     *fakeRegistry
	server       nkeys.KeyPair
	curve        nkeys.KeyPair
	key          nkeys.KeyPair
	cert         tls.Certificate
	now          time.Time
	decisions    []authcallout.Decision
	issuer, xkey nkeys.KeyPair
}

func newDoor(t testing.TB) *door {
	t.Helper()
	d := &door{
		agents: newCA(t, "agents"), registry: newFakeRegistry(), now: time.Now().Truncate(time.Second),
		server: must(t)(nkeys.CreateServer()), curve: must(t)(nkeys.CreateCurveKeys()), key: user(t),
		issuer: must(t)(nkeys.CreateAccount()), xkey: must(t)(nkeys.CreateCurveKeys()),
	}
	d.authority = newAuthority(t, d.now)
	d.cert = d.agents.sign(t, "reader", nil)
	d.registry.add(reader, public(t, d.key), authcallout.Admission{
		Chains: []*capability.Chain{d.authority.chain(t, reader, 48*time.Hour, "read:logs")}})
	d.cfg = authcallout.Config{
		Issuers: keys(d.issuer), XKeys: keys(d.xkey), Account: "MESH", Space: subject.Default(), TrustDomain: trustDomain,
		Roots: d.agents.pool, Registry: d.registry, Clock: func() time.Time { return d.now }, Log: zerolog.Nop(),
		Audit: func(x authcallout.Decision) { d.decisions = append(d.decisions, x) },
	}
	d.open(t)
	return d
}

func (d *door) open(t testing.TB) {
	t.Helper()
	var err error
	if d.svc, err = authcallout.NewDetached(d.cfg); err != nil {
		t.Fatal(err)
	}
}

const nonce = "AAECAwQFBgcICQo" // base64url of eleven bytes

// request is what an honest server asks for the honest reader.
func (d *door) request(t testing.TB) *jwt.AuthorizationRequestClaims {
	t.Helper()
	r := jwt.NewAuthorizationRequestClaims(public(t, d.issuer))
	r.Audience = "nats-authorization-request"
	r.UserNkey = public(t, user(t))
	r.Server = jwt.ServerID{Name: "n1", Host: "10.0.0.1", ID: public(t, d.server), XKey: public(t, d.curve)}
	r.Expires = d.now.Add(10 * time.Second).Unix()
	r.ClientInformation = jwt.ClientInformation{Host: "10.0.0.9", ID: 7, Kind: "Client", Type: "nats", Nonce: nonce}
	sig, err := d.key.Sign([]byte(nonce))
	if err != nil {
		t.Fatal(err)
	}
	r.ConnectOptions = jwt.ConnectOptions{Nkey: public(t, d.key), SignedNonce: base64.RawURLEncoding.EncodeToString(sig)}
	r.TLS = &jwt.ClientTLS{VerifiedChains: []jwt.StringList{d.chain(d.cert)}}
	return r
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func (d *door) chain(cert tls.Certificate) jwt.StringList {
	return jwt.StringList{pemOf(cert.Certificate[0]), string(d.agents.pem())}
}

func (d *door) seal(t testing.TB, r *jwt.AuthorizationRequestClaims) []byte {
	t.Helper()
	text, err := r.Encode(d.server)
	if err != nil {
		t.Fatal(err)
	}
	return d.sealText(t, d.curve, text)
}

func (d *door) sealText(t testing.TB, by nkeys.KeyPair, text string) []byte {
	t.Helper()
	data, err := by.Seal([]byte(text), public(t, d.xkey))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// ask puts r to the service as its server would.
func (d *door) ask(t testing.TB, r *jwt.AuthorizationRequestClaims) (*jwt.AuthorizationResponseClaims, authcallout.Decision) {
	t.Helper()
	return d.read(t, d.svc.Process(d.seal(t, r), public(t, d.curve)))
}

// read opens an answer; nil means the empty one, which rejects.
func (d *door) read(t testing.TB, answer []byte) (*jwt.AuthorizationResponseClaims, authcallout.Decision) {
	t.Helper()
	var dec authcallout.Decision
	if n := len(d.decisions); n > 0 {
		dec = d.decisions[n-1]
		d.decisions = nil
	}
	if len(answer) == 0 {
		return nil, dec
	}
	text, err := d.curve.Open(answer, public(t, d.xkey))
	if err != nil {
		t.Fatalf("the answer is not sealed to the server that asked: %v", err)
	}
	resp, err := jwt.DecodeAuthorizationResponseClaims(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return resp, dec
}

func TestAnswerOfAnAdmission(t *testing.T) {
	d := newDoor(t)
	r := d.request(t)
	resp, dec := d.ask(t, r)
	if resp == nil || resp.Error != "" || resp.Jwt == "" {
		t.Fatalf("got %+v (%+v), want a user JWT", resp, dec)
	}
	if resp.Subject != r.UserNkey || resp.Audience != r.Server.ID || resp.Issuer != public(t, d.issuer) || resp.IssuerAccount != "" {
		t.Errorf("got response %+v", resp.ClaimsData)
	}
	u, err := jwt.DecodeUserClaims(resp.Jwt)
	if err != nil {
		t.Fatal(err)
	}
	if u.Subject != r.UserNkey || u.Name != "reader" || u.Audience != "MESH" || u.Issuer != public(t, d.issuer) || u.IssuerAccount != "" {
		t.Errorf("got user %+v", u.ClaimsData)
	}
	if !slices.Equal(u.AllowedConnectionTypes, jwt.StringList{"STANDARD", "WEBSOCKET"}) || u.BearerToken || u.Resp != nil ||
		len(u.Pub.Allow) == 0 || len(u.Sub.Allow) == 0 {
		t.Errorf("got permissions %+v", u.User)
	}
	// A warning is enough for nats-server to refuse.
	vr := jwt.CreateValidationResults()
	u.Validate(vr)
	resp.Validate(vr)
	if len(vr.Issues) != 0 {
		t.Errorf("got validation issues %v", vr.Issues)
	}
	if ttl := time.Unix(u.Expires, 0).Sub(d.now); ttl < 53*time.Minute || ttl > 67*time.Minute {
		t.Errorf("got a session of %s, want an hour ± 10 %%", ttl)
	}
	if !dec.Admitted() || dec.Expires.Unix() != u.Expires {
		t.Errorf("got decision %+v", dec)
	}
}

// Requests that are not from the server that they name are refused without a
// signature, so that there is nothing to be had for a forger.
func TestForgedRequests(t *testing.T) {
	d := newDoor(t)
	curve := public(t, d.curve)
	otherCurve := must(t)(nkeys.CreateCurveKeys())
	encode := func(edit func(*jwt.AuthorizationRequestClaims), by nkeys.KeyPair) string {
		r := d.request(t)
		if edit != nil {
			edit(r)
		}
		text, err := r.Encode(by)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := encode(nil, d.server)
	// A request "signed" by something that is no server: made by hand, since the
	// library does not write one.
	byUser := func() string {
		r := d.request(t)
		r.Server.ID = public(t, d.key)
		r.Issuer = public(t, d.key)
		r.Type, r.Version = jwt.AuthorizationRequestClaim, 2
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		b64 := base64.RawURLEncoding
		signed := b64.EncodeToString([]byte(`{"typ":"JWT","alg":"ed25519-nkey"}`)) + "." + b64.EncodeToString(body)
		sig, err := d.key.Sign([]byte(signed))
		if err != nil {
			t.Fatal(err)
		}
		return signed + "." + b64.EncodeToString(sig)
	}()
	for name, c := range map[string]struct {
		data []byte
		xkey string
		want denial.Reason
	}{
		"unsealed":               {[]byte(good), "", denial.BadRequest},
		"unsealed with the key":  {[]byte(good), curve, denial.BadRequest},
		"sealed, key not named":  {d.sealText(t, d.curve, good), "", denial.BadRequest},
		"sealed by another key":  {d.sealText(t, otherCurve, good), curve, denial.BadRequest},
		"other key in the claim": {d.sealText(t, otherCurve, good), public(t, otherCurve), denial.BadRequest},
		"claim names no key":     {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Server.XKey = "" }, d.server)), curve, denial.BadRequest},
		"key far too long":       {d.sealText(t, d.curve, good), "X" + strings.Repeat("A", 300), denial.BadRequest},
		"key of another kind":    {d.sealText(t, d.curve, good), public(t, d.key), denial.BadRequest},
		"empty":                  {nil, curve, denial.BadRequest},
		"garbage":                {bytes.Repeat([]byte("x"), 500), curve, denial.BadRequest},
		"too large":              {make([]byte, 256<<10+1), curve, denial.TooLarge},
		"sealed garbage":         {d.sealText(t, d.curve, "a.b.c"), curve, denial.BadRequest},
		"sealed nothing":         {d.sealText(t, d.curve, ""), curve, denial.BadRequest},
		"tampered signature":     {d.sealText(t, d.curve, good[:len(good)-8]+"AAAAAAAA"), curve, denial.BadRequest},
		"forged issuer":          {d.sealText(t, d.curve, encode(nil, must(t)(nkeys.CreateServer()))), curve, denial.BadRequest},
		"issuer is a user":       {d.sealText(t, d.curve, byUser), curve, denial.BadRequest},
		"response as request": {func() []byte {
			r := jwt.NewAuthorizationResponseClaims(public(t, d.key))
			r.Error = "x"
			text, err := r.Encode(d.issuer)
			if err != nil {
				t.Fatal(err)
			}
			return d.sealText(t, d.curve, text)
		}(), curve, denial.BadRequest},
		"other audience": {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Audience = "nats-authorization-response" }, d.server)), curve, denial.BadRequest},
		"no audience":    {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Audience = "" }, d.server)), curve, denial.BadRequest},
		"other subject":  {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Subject = public(t, d.key) }, d.server)), curve, denial.BadRequest},
		"no user key":    {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.UserNkey = "" }, d.server)), curve, denial.BadRequest},
		"no expiry":      {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Expires = 0 }, d.server)), curve, denial.BadRequest},
		"expired":        {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Expires = d.now.Unix() }, d.server)), curve, denial.Overloaded},
		"lives too long": {d.sealText(t, d.curve, encode(func(r *jwt.AuthorizationRequestClaims) { r.Expires = d.now.Unix() + 301 }, d.server)), curve, denial.BadRequest},
	} {
		resp, dec := d.read(t, d.svc.Process(c.data, c.xkey))
		if resp != nil {
			t.Errorf("%s: got the answer %+v, want none signed", name, resp)
		}
		if dec.Reason != c.want {
			t.Errorf("%s: got %q (%s), want %q", name, dec.Reason, dec.Detail, c.want)
		}
		if len(d.registry.asked) != 0 {
			t.Fatalf("%s: the registry was asked", name)
		}
	}
	if resp, _ := d.read(t, d.svc.Process(d.sealText(t, d.curve, good), curve)); resp == nil || resp.Jwt == "" {
		t.Error("the request that all of these derive from is refused too")
	}
}

func TestDirectRefusals(t *testing.T) {
	d := newDoor(t)
	digest := strings.Repeat("A", 43)
	type request = jwt.AuthorizationRequestClaims
	sign := func(r *request, n string) {
		sig, err := d.key.Sign([]byte(n))
		if err != nil {
			t.Fatal(err)
		}
		r.ClientInformation.Nonce, r.ConnectOptions.SignedNonce = n, base64.RawURLEncoding.EncodeToString(sig)
	}
	expired := d.agents.sign(t, "reader", func(c *x509.Certificate) { c.NotAfter = d.now.Add(-time.Second) })
	early := d.agents.sign(t, "reader", func(c *x509.Certificate) { c.NotBefore = d.now.Add(20 * time.Hour) })
	serving := d.agents.sign(t, "reader", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) })
	other := d.agents.sign(t, "writer", nil)
	foreign := newCA(t, "foreign")
	foreignCert := foreign.sign(t, "reader", nil)
	for name, c := range map[string]struct {
		edit func(*request)
		want denial.Reason
	}{
		"leafnode":      {func(r *request) { r.ClientInformation.Kind, r.ClientInformation.Type = "Leafnode", "" }, denial.ConnectionType},
		"mqtt":          {func(r *request) { r.ClientInformation.Type = "mqtt" }, denial.ConnectionType},
		"no kind":       {func(r *request) { r.ClientInformation.Kind = "" }, denial.ConnectionType},
		"no type":       {func(r *request) { r.ClientInformation.Type = "" }, denial.ConnectionType},
		"user jwt":      {func(r *request) { r.ConnectOptions.JWT = "eyJ" }, denial.ForeignCredentials},
		"user":          {func(r *request) { r.ConnectOptions.Username = "u" }, denial.ForeignCredentials},
		"password":      {func(r *request) { r.ConnectOptions.Password = "p" }, denial.ForeignCredentials},
		"token v2":      {func(r *request) { r.ConnectOptions.Token = "v2:" + digest }, denial.ForeignCredentials},
		"token empty":   {func(r *request) { r.ConnectOptions.Token = "v1:" }, denial.ForeignCredentials},
		"token twice":   {func(r *request) { r.ConnectOptions.Token = "v1:" + digest + "," + digest }, denial.ForeignCredentials},
		"token spaced":  {func(r *request) { r.ConnectOptions.Token = "v1:" + digest + ", " + digest }, denial.ForeignCredentials},
		"token comma":   {func(r *request) { r.ConnectOptions.Token = "v1:" + digest + "," }, denial.ForeignCredentials},
		"token forever": {func(r *request) { r.ConnectOptions.Token = "v1:" + strings.Repeat("A", 100_000) }, denial.ForeignCredentials},
		"no nkey":       {func(r *request) { r.ConnectOptions.Nkey = "" }, denial.NoKey},
		"account nkey":  {func(r *request) { r.ConnectOptions.Nkey = public(t, d.issuer) }, denial.NoKey},
		"curve nkey":    {func(r *request) { r.ConnectOptions.Nkey = public(t, d.curve) }, denial.NoKey},
		"long nkey":     {func(r *request) { r.ConnectOptions.Nkey += strings.Repeat("A", 200) }, denial.NoKey},
		"garbled nkey":  {func(r *request) { r.ConnectOptions.Nkey = "U" + strings.Repeat("A", 55) }, denial.NoKey},
		"no nonce":      {func(r *request) { r.ClientInformation.Nonce = "" }, denial.BadNonceSignature},
		"no signature":  {func(r *request) { r.ConnectOptions.SignedNonce = "" }, denial.BadNonceSignature},
		"other nonce":   {func(r *request) { r.ClientInformation.Nonce = "BBECAwQFBgcICQo" }, denial.BadNonceSignature},
		"short nonce":   {func(r *request) { sign(r, nonce[:14]) }, denial.BadNonceSignature},
		"long nonce":    {func(r *request) { sign(r, nonce+"A") }, denial.BadNonceSignature},
		"spare bits":    {func(r *request) { sign(r, nonce[:14]+"p") }, denial.BadNonceSignature},
		"nonce newline": {func(r *request) { sign(r, nonce[:14]+"\n") }, denial.BadNonceSignature},
		// An envelope's signed bytes are not a nonce, however they are signed.
		"envelope as nonce":      {func(r *request) { sign(r, "sealmesh-envelope-v1\nx") }, denial.BadNonceSignature},
		"padded base64url":       {func(r *request) { r.ConnectOptions.SignedNonce = strings.Repeat("-", 86) + "==" }, denial.BadNonceSignature},
		"unpadded base64":        {func(r *request) { r.ConnectOptions.SignedNonce = strings.Repeat("+", 86) }, denial.BadNonceSignature},
		"spare bits in padding":  {func(r *request) { r.ConnectOptions.SignedNonce = padded(t, r)[:85] + "B==" }, denial.BadNonceSignature},
		"newline in padding":     {func(r *request) { r.ConnectOptions.SignedNonce = padded(t, r)[:84] + "\n\n==" }, denial.BadNonceSignature},
		"signature with newline": {func(r *request) { r.ConnectOptions.SignedNonce = r.ConnectOptions.SignedNonce[:85] + "\n" }, denial.BadNonceSignature},

		"no tls":          {func(r *request) { r.TLS = nil }, denial.NoCertificate},
		"only unverified": {func(r *request) { r.TLS = &jwt.ClientTLS{Certs: d.chain(d.cert)} }, denial.NoCertificate},
		"empty chain":     {func(r *request) { r.TLS.VerifiedChains = []jwt.StringList{{}} }, denial.BadCertificate},
		"many chains":     {func(r *request) { r.TLS.VerifiedChains = slices.Repeat(r.TLS.VerifiedChains, 9) }, denial.BadCertificate},
		"long chain": {func(r *request) {
			r.TLS.VerifiedChains[0] = slices.Repeat(r.TLS.VerifiedChains[0], limits.Certificates)
		}, denial.BadCertificate},
		"not PEM":    {func(r *request) { r.TLS.VerifiedChains[0][0] = "x" }, denial.BadCertificate},
		"huge PEM":   {func(r *request) { r.TLS.VerifiedChains[0][0] += strings.Repeat("\n", 20_000) }, denial.BadCertificate},
		"two in one": {func(r *request) { r.TLS.VerifiedChains[0][0] += pemOf(other.Certificate[0]) }, denial.BadCertificate},
		"key for a cert": {func(r *request) {
			r.TLS.VerifiedChains[0][0] = strings.ReplaceAll(r.TLS.VerifiedChains[0][0], "CERTIFICATE", "PRIVATE KEY")
		}, denial.BadCertificate},
		"not a cert": {func(r *request) { r.TLS.VerifiedChains[0][0] = pemOf([]byte("x")) }, denial.BadCertificate},
		"two leaves": {func(r *request) { r.TLS.VerifiedChains = append(r.TLS.VerifiedChains, d.chain(other)) }, denial.BadCertificate},
		"foreign CA": {func(r *request) {
			r.TLS.VerifiedChains[0] = jwt.StringList{pemOf(foreignCert.Certificate[0]), string(foreign.pem())}
		}, denial.BadCertificate},
		"expired":           {func(r *request) { r.TLS.VerifiedChains[0] = d.chain(expired) }, denial.BadCertificate},
		"not yet valid":     {func(r *request) { r.TLS.VerifiedChains[0] = d.chain(early) }, denial.BadCertificate},
		"serverAuth too":    {func(r *request) { r.TLS.VerifiedChains[0] = d.chain(serving) }, denial.BadCertificate},
		"the CA as a leaf":  {func(r *request) { r.TLS.VerifiedChains[0] = jwt.StringList{string(d.agents.pem())} }, denial.BadCertificate},
		"other's cert":      {func(r *request) { r.TLS.VerifiedChains[0] = d.chain(other) }, denial.UnlistedAgent},
		"name means nobody": {func(r *request) { r.TLS.VerifiedChains[0] = d.chain(other); r.ConnectOptions.Name = "reader" }, denial.UnlistedAgent},
	} {
		d.now = d.now.Add(time.Minute) // refills the throttle
		r := d.request(t)
		c.edit(r)
		resp, dec := d.ask(t, r)
		if resp == nil || resp.Jwt != "" || resp.Error != "denied "+dec.ID {
			t.Errorf("%s: got %+v, want a refusal that says its ID and nothing else", name, resp)
		}
		if dec.Reason != c.want || dec.Admitted() || !dec.Expires.IsZero() {
			t.Errorf("%s: got %q (%s), want %q", name, dec.Reason, dec.Detail, c.want)
		}
	}
	if n := len(d.registry.opened()); n != 0 {
		t.Errorf("got %d sessions, want none", n)
	}
	// One chain that holds is enough, wherever it stands.
	r := d.request(t)
	r.TLS.VerifiedChains = []jwt.StringList{{pemOf(d.cert.Certificate[0])}, d.chain(d.cert)}
	r.ConnectOptions.Token = "v1:" + digest
	if resp, dec := d.ask(t, r); resp == nil || resp.Jwt == "" {
		t.Errorf("good second chain: got %+v, want an admission", dec)
	}
}

// padded is the signature as the clients for JavaScript and Python spell it.
func padded(t *testing.T, r *jwt.AuthorizationRequestClaims) string {
	t.Helper()
	sig, err := base64.RawURLEncoding.DecodeString(r.ConnectOptions.SignedNonce)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(sig)
}

// NATS' own clients spell the signature in two ways.
func TestSpellingOfTheSignature(t *testing.T) {
	d := newDoor(t)
	r := d.request(t)
	r.ConnectOptions.SignedNonce = padded(t, r)
	if resp, dec := d.ask(t, r); resp == nil || resp.Jwt == "" {
		t.Errorf("padded base64: got %+v, want an admission", dec)
	}
}

// What the registry gives is checked again, so that its mistake is not ours.
func TestAdmissionIsChecked(t *testing.T) {
	d := newDoor(t)
	chain := func(ttl time.Duration) *capability.Chain { return d.authority.chain(t, reader, ttl, "read:logs") }
	future, err := capability.IssueRoot(d.authority.tokens, capability.Root{Agent: reader, Capabilities: scopes("read:logs"),
		NotBefore: d.now.Add(time.Hour), Expires: d.now.Add(2 * time.Hour)}, d.now)
	if err != nil {
		t.Fatal(err)
	}
	notYet, err := capability.Verify(future, d.authority.ring, d.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	short := chain(2 * time.Second)
	for name, c := range map[string]struct {
		adm  authcallout.Admission
		want denial.Reason
	}{
		"other instance": {authcallout.Admission{Instance: agentid.InstanceOf("x"), Chains: []*capability.Chain{chain(time.Hour)}}, denial.IdentityMismatch},
		"nil chain":      {authcallout.Admission{Chains: []*capability.Chain{nil}}, denial.Internal},
		"zero chain":     {authcallout.Admission{Chains: []*capability.Chain{{}}}, denial.NotHolder},
		"future chain":   {authcallout.Admission{Chains: []*capability.Chain{notYet}}, denial.TokenNotYet},
		"bad plain":      {authcallout.Admission{Plain: authcallout.Plain{Publish: []string{"$SYS.REQ.SERVER.PING"}}}, denial.BadPlain},
	} {
		d.registry.add(reader, public(t, d.key), c.adm)
		resp, dec := d.ask(t, d.request(t))
		if resp == nil || resp.Jwt != "" || dec.Reason != c.want {
			t.Errorf("%s: got %q (%s), want %q", name, dec.Reason, dec.Detail, c.want)
		}
	}
	// The chain ends while the registry is being asked.
	d.registry.add(reader, public(t, d.key), authcallout.Admission{Chains: []*capability.Chain{short}})
	d.registry.admit = func(context.Context) error { d.now = d.now.Add(2 * time.Second); return nil }
	if _, dec := d.ask(t, d.request(t)); dec.Reason != denial.TokenExpired {
		t.Errorf("ended meanwhile: got %q, want %q", dec.Reason, denial.TokenExpired)
	}
	if n := len(d.registry.opened()); n != 0 {
		t.Errorf("got %d sessions, want none", n)
	}
	// The server gave up while the session was being written: nothing is signed.
	d.registry.admit = nil
	d.registry.add(reader, public(t, d.key), authcallout.Admission{Chains: []*capability.Chain{chain(time.Hour)}})
	d.registry.open = func(context.Context) error { d.now = d.now.Add(10 * time.Second); return nil }
	if resp, dec := d.ask(t, d.request(t)); dec.Reason != denial.Overloaded || resp.Jwt != "" {
		t.Errorf("too late: got %q, want %q", dec.Reason, denial.Overloaded)
	}
}

func TestRootsMayVanish(t *testing.T) {
	d := newDoor(t)
	pool := d.agents.pool()
	d.cfg.Roots = func() *x509.CertPool { return pool }
	d.open(t)
	for name, p := range map[string]*x509.CertPool{"nil": nil, "empty": x509.NewCertPool()} {
		pool = p
		if _, dec := d.ask(t, d.request(t)); dec.Reason != denial.Internal {
			t.Errorf("%s pool: got %q, want %q", name, dec.Reason, denial.Internal)
		}
	}
}

// The registry has as long as the server waits and not longer.
func TestRegistryTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDoor(t)
		d.cfg.Clock = time.Now
		d.open(t)
		d.registry.admit = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		begin := time.Now()
		resp, dec := d.ask(t, d.request(t))
		if resp == nil || resp.Jwt != "" || dec.Reason != denial.RegistryUnavailable {
			t.Errorf("got %q (%s), want %q", dec.Reason, dec.Detail, denial.RegistryUnavailable)
		}
		if took := time.Since(begin); took != 10*time.Second || dec.Took != took {
			t.Errorf("got an answer after %s, said %s, want 10s", took, dec.Took)
		}
	})
}

func TestExpiry(t *testing.T) {
	now := time.Unix(1_000_000, 500_000_000)
	for name, c := range map[string]struct {
		hard  time.Duration
		ttl   time.Duration
		stock bool
		r     float64
		want  time.Duration // from the whole second; 0: refused
	}{
		"earliest":         {48 * time.Hour, time.Hour, false, 0, 54 * time.Minute},
		"middle":           {48 * time.Hour, time.Hour, false, 0.5, time.Hour},
		"latest":           {48 * time.Hour, time.Hour, false, math.Nextafter(1, 0), 66 * time.Minute},
		"hard end":         {30 * time.Minute, time.Hour, false, 0.9, 30*time.Minute - time.Second},
		"hard in jitter":   {time.Hour, time.Hour, false, 0.9, time.Hour - time.Second},
		"stock":            {24 * time.Hour, time.Hour, true, 0.3, 24*time.Hour - time.Second},
		"about to end":     {1400 * time.Millisecond, time.Hour, false, 0.5, 0},
		"two seconds left": {2500 * time.Millisecond, time.Hour, false, 0.5, 2 * time.Second},
		"over":             {-time.Second, time.Hour, true, 0.5, 0},
	} {
		got, err := authcallout.Expiry(now, now.Add(c.hard), c.ttl, c.stock, c.r)
		if c.want == 0 {
			if !errors.Is(err, denial.TokenExpired) {
				t.Errorf("%s: got %s, %v, want %s", name, got, err, denial.TokenExpired)
			}
			continue
		}
		// Planned ends are cut down to the second.
		want := time.Unix(1_000_000, 0).Add(c.want)
		if err != nil || got.Sub(want).Abs() > time.Second || got.Nanosecond() != 0 || got.After(now.Add(c.hard-time.Second)) {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
		}
	}
}

// A stock client's session lasts to the end of its certificate, an ordinary one
// does not, and neither outlives a CA.
func TestSessionKinds(t *testing.T) {
	d := newDoor(t)
	session := func(kind string) time.Duration {
		t.Helper()
		d.registry.add(reader, public(t, d.key), authcallout.Admission{Session: kind,
			Chains: []*capability.Chain{d.authority.chain(t, reader, 1000*time.Hour, "read:logs")}})
		_, dec := d.ask(t, d.request(t))
		if !dec.Admitted() {
			t.Fatalf("got %+v, want an admission", dec)
		}
		return dec.Expires.Sub(d.now)
	}
	if got := session(""); got > 66*time.Minute {
		t.Errorf("got %s for an ordinary session", got)
	}
	if got, left := session(authcallout.SessionStock), d.cert.Leaf.NotAfter.Sub(d.now); got > left || got < left-5*time.Second {
		t.Errorf("got %s for a stock session, want up to the certificate's end in %s", got, left)
	}
	d.cert = d.agents.sign(t, "reader", func(c *x509.Certificate) { c.NotAfter = d.now.Add(1000 * time.Hour) })
	if got, left := session(authcallout.SessionStock), d.agents.cert.NotAfter.Sub(d.now); got > left || got < left-5*time.Second {
		t.Errorf("got %s for a stock session, want up to the CA's end in %s", got, left)
	}
	if got := session("Stock"); got > 66*time.Minute {
		t.Errorf("got %s for an unknown kind of session, want an ordinary one", got)
	}
}

// Of two chains with one scope the later decides, of two scopes the earlier.
func TestSessionEndsWhenTheGrantShrinks(t *testing.T) {
	d := newDoor(t)
	chain := func(ttl time.Duration, list ...string) *capability.Chain {
		return d.authority.chain(t, reader, ttl, list...)
	}
	for name, c := range map[string]struct {
		chains []*capability.Chain
		want   time.Duration
	}{
		"same scope": {[]*capability.Chain{chain(10*time.Minute, "read:logs"), chain(20*time.Minute, "read:logs"), chain(5*time.Minute, "read:logs")}, 20 * time.Minute},
		"two scopes": {[]*capability.Chain{chain(10*time.Minute, "read:logs"), chain(20*time.Minute, "write:logs")}, 10 * time.Minute},
		"overlap":    {[]*capability.Chain{chain(10*time.Minute, "read:logs"), chain(20*time.Minute, "read:logs", "write:logs")}, 20 * time.Minute},
	} {
		d.registry.add(reader, public(t, d.key), authcallout.Admission{Chains: c.chains})
		_, dec := d.ask(t, d.request(t))
		if left := c.want - dec.Expires.Sub(d.now); left < time.Second || left > 2*time.Second {
			t.Errorf("%s: got a session of %s, want just under %s", name, dec.Expires.Sub(d.now), c.want)
		}
	}
}

func TestThrottle(t *testing.T) {
	d := newDoor(t)
	junk := func(host string) (*jwt.AuthorizationResponseClaims, int, denial.Reason) {
		r := d.request(t)
		r.ClientInformation.Host = host
		r.ConnectOptions.Nkey = public(t, user(t))
		before := len(d.decisions)
		answer := d.svc.Process(d.seal(t, r), public(t, d.curve))
		reported := len(d.decisions) - before
		resp, dec := d.read(t, answer)
		return resp, reported, dec.Reason
	}
	// The honest agent has been seen here before the flood.
	if _, dec := d.ask(t, d.request(t)); !dec.Admitted() {
		t.Fatalf("got %+v", dec)
	}
	for i := range authcallout.FailureBurst {
		if _, _, why := junk("10.0.0.9"); why != denial.BadNonceSignature {
			t.Fatalf("request %d: got %q, want %q", i, why, denial.BadNonceSignature)
		}
	}
	if resp, reported, why := junk("10.0.0.9"); why != denial.RateLimited || reported != 1 || resp != nil {
		t.Errorf("past the burst: got %q, %d reports, want %q, 1", why, reported, denial.RateLimited)
	}
	for range 5 {
		if resp, reported, _ := junk("10.0.0.9"); reported != 0 || resp != nil {
			t.Errorf("flood: got %d reports, want none and no signature", reported)
		}
	}
	if _, _, why := junk("10.0.0.8"); why != denial.BadNonceSignature {
		t.Errorf("another host: got %q, want it untouched", why)
	}
	if _, dec := d.ask(t, d.request(t)); !dec.Admitted() {
		t.Errorf("known agent behind the flood: got %+v, want an admission", dec)
	}
	// Who borrows the known key's name gets as far as the signature.
	r := d.request(t)
	r.ConnectOptions.SignedNonce = strings.Repeat("A", 86)
	asked := len(d.registry.asked)
	if _, dec := d.ask(t, r); dec.Reason != denial.BadNonceSignature || len(d.registry.asked) != asked {
		t.Errorf("borrowed key: got %q, want %q and no look-up", dec.Reason, denial.BadNonceSignature)
	}
	d.now = d.now.Add(time.Second)
	for range 4 { // the tokens of a second
		if _, _, why := junk("10.0.0.9"); why != denial.BadNonceSignature {
			t.Errorf("a second later: got %q, want it looked at again", why)
		}
	}
	r = d.request(t)
	r.ConnectOptions.Nkey = public(t, user(t))
	if _, dec := d.ask(t, r); dec.Reason != denial.RateLimited || dec.Suppressed != 5 {
		t.Errorf("a second later: got %q after %d silent ones, want %q after 5", dec.Reason, dec.Suppressed, denial.RateLimited)
	}
}

// An outage of the registry is nobody's fault and leaves no throttle behind.
func TestOutageDoesNotThrottle(t *testing.T) {
	d := newDoor(t)
	d.registry.admit = func(context.Context) error { return errors.New("no leader") }
	for range 2 * authcallout.FailureBurst {
		if _, dec := d.ask(t, d.request(t)); dec.Reason != denial.RegistryUnavailable {
			t.Fatalf("got %q, want %q", dec.Reason, denial.RegistryUnavailable)
		}
	}
	d.registry.admit = nil
	if _, dec := d.ask(t, d.request(t)); !dec.Admitted() {
		t.Errorf("after it: got %+v, want an admission", dec)
	}
}

func TestDecisionIsLogged(t *testing.T) {
	d := newDoor(t)
	var buf bytes.Buffer
	d.cfg.Log, d.cfg.Audit = zerolog.New(&buf), nil // without an audit, the log has it
	d.open(t)
	r := d.request(t)
	r.ClientInformation.Host = "10.0.0.9\n{\"level\":\"info\"}"
	r.ConnectOptions.Token = "v1:canary-secret"
	resp, _ := d.ask(t, r)
	var line map[string]any
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil {
		t.Fatalf("the log is not one JSON line: %v\n%s", err, buf.String())
	}
	if resp.Error != fmt.Sprint("denied ", line["denial"]) || line["reason"] != string(denial.ForeignCredentials) || line["message"] != "connection refused" || line["level"] != "warn" {
		t.Errorf("got %v", line)
	}
	buf.Reset()
	if resp, _ := d.ask(t, d.request(t)); resp.Jwt == "" {
		t.Fatalf("got %+v", resp)
	}
	if err := json.Unmarshal(buf.Bytes(), &line); err != nil || line["message"] != "connection admitted" || line["agent"] != "reader" {
		t.Errorf("got %v, %v", line, err)
	}
	// Nothing that opens anything is ever written.
	buf.Reset()
	d.registry.admit = func(context.Context) error { panic("boom") }
	d.ask(t, d.request(t))
	for what, kp := range map[string]nkeys.KeyPair{"issuer": d.issuer, "xkey": d.xkey} {
		seed, err := kp.Seed()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(buf.Bytes(), seed) {
			t.Errorf("the log has the %s seed", what)
		}
	}
	if bytes.Contains(buf.Bytes(), []byte("canary")) || !bytes.Contains(buf.Bytes(), []byte("callout worker panicked")) {
		t.Errorf("got log %s", buf.String())
	}
}
