package controlplane_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// candidate is a host that enrols by hand, and may say anything.
type candidate struct {
	key, curve nkeys.KeyPair
	tls        *pki.Key
	claims     wire.EnrollClaims
	req        wire.EnrollRequest
}

func newCandidate(t *testing.T, agent, trustDomain string) *candidate {
	t.Helper()
	c := &candidate{}
	var err error
	if c.key, err = nkeys.CreateUser(); err != nil {
		t.Fatal(err)
	}
	if c.curve, err = nkeys.CreateCurveKeys(); err != nil {
		t.Fatal(err)
	}
	if c.tls, err = pki.NewTLSKey(); err != nil {
		t.Fatal(err)
	}
	curve, err := c.curve.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.CSR(c.tls, agentid.Require(agent), trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	c.claims = wire.EnrollClaims{Head: jws.Head{Kind: wire.KindEnroll, IssuedAt: time.Now().Unix()}, Agent: agentid.Require(agent), Curve: curve}
	c.ask(string(csr))
	return c
}

// ask names a certificate request in the proof.
func (c *candidate) ask(csr string) { c.req.CSR, c.claims.CSR = csr, jws.Digest(csr) }

// template makes a request of the candidate's own out of any template.
func (c *candidate) template(t *testing.T, x *x509.CertificateRequest) {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, x, c.tls)
	if err != nil {
		t.Fatal(err)
	}
	c.ask(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})))
}

func (c *candidate) sign(t *testing.T) {
	t.Helper()
	var err error
	if c.req.Proof, err = jws.Sign(&c.claims, c.key); err != nil {
		t.Fatal(err)
	}
}

func (c *candidate) post(t *testing.T, m *devmesh.Mesh) denial.Reason {
	t.Helper()
	body, err := json.Marshal(c.req)
	if err != nil {
		t.Fatal(err)
	}
	// Whom it speaks to is another test's.
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Post(m.Plane.URL()+wire.PathEnroll, "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var f wire.Failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		t.Fatal(err)
	}
	return f.Reason
}

func uris(list ...string) []*url.URL {
	var out []*url.URL
	for _, s := range list {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		out = append(out, u)
	}
	return out
}

// What a request asks for beyond the one identity is refused, and none of it costs
// a use of the join token or an issuer's trust.
func TestEnrolmentIsExact(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	m, ctx, _ := platformMesh(t, devmesh.Options{}, i.config())
	td := m.Dir.Config.TrustDomain
	if err := register(t, ctx, m, registry.NewAgent{Agent: agentid.Require("pod"), Join: oidcRule(i.URL, "me")}); err != nil {
		t.Fatal(err)
	}
	if err := register(t, ctx, m, registry.NewAgent{Agent: agentid.Require("other")}); err != nil {
		t.Fatal(err)
	}
	var joined wire.AddResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpJoin, Target: "pod"}, &joined); err != nil {
		t.Fatal(err)
	}
	join, err := registry.ParseJoinToken(joined.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	token := i.sign("ES256", "ec", claims(i.URL, "me"))
	pod := agentid.Require("pod").SPIFFE(td)
	first := newCandidate(t, "pod", td) // whose keys are taken
	keyUsage, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x84}, BitLength: 8})
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []string{"join token", "platform token"} {
		admit := func(c *candidate) {
			if by == "join token" {
				c.req.Secret, c.claims.Join = join.Secret, registry.JoinHash(join.Secret)
			} else {
				c.req.OIDC, c.claims.OIDC = token, registry.JoinHash(token)
			}
		}
		if by == "platform token" {
			admit(first)
			first.sign(t)
			if got := first.post(t, m); got != "" {
				t.Fatalf("enrolling: %s", got)
			}
		}
		for name, tt := range map[string]struct {
			spoil func(c *candidate)
			late  func(c *candidate) // after the proof was signed
			want  denial.Reason
		}{
			"another agent's name": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(agentid.Require("other").SPIFFE(td))})
			}, nil, denial.BadInput},
			"a second name": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(pod, agentid.Require("other").SPIFFE(td))})
			}, nil, denial.BadInput},
			"another trust domain": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(agentid.Require("pod").SPIFFE("other.example"))})
			}, nil, denial.BadInput},
			"a host name": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(pod), DNSNames: []string{"nats-1"}})
			}, nil, denial.BadInput},
			"a mail address": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(pod), EmailAddresses: []string{"a@b.c"}})
			}, nil, denial.BadInput},
			"a subject": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(pod), Subject: pkix.Name{CommonName: "pod"}})
			}, nil, denial.BadInput},
			"to be a CA": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(pod), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 3, 1, 1, 0xff}}}})
			}, nil, denial.BadInput},
			"a key usage": {func(c *candidate) {
				c.template(t, &x509.CertificateRequest{URIs: uris(pod), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: keyUsage}}})
			}, nil, denial.BadInput},
			"no name":                   {func(c *candidate) { c.template(t, &x509.CertificateRequest{}) }, nil, denial.BadInput},
			"no request":                {func(c *candidate) { c.ask("") }, nil, denial.BadInput},
			"a swapped request":         {nil, func(c *candidate) { c.req.CSR = first.req.CSR }, denial.BadInput},
			"a swapped token":           {nil, func(c *candidate) { c.req.Secret, c.req.OIDC = c.req.Secret+"x", c.req.OIDC+"x" }, denial.BadInput},
			"a token that is not named": {func(c *candidate) { c.claims.Join, c.claims.OIDC = "", "" }, nil, denial.BadInput},
			"no token":                  {func(c *candidate) { c.claims.Join, c.claims.OIDC, c.req.Secret, c.req.OIDC = "", "", "", "" }, nil, denial.BadInput},
			"both tokens": {func(c *candidate) {
				c.req.Secret, c.claims.Join, c.req.OIDC, c.claims.OIDC = join.Secret, registry.JoinHash(join.Secret), token, registry.JoinHash(token)
			}, nil, denial.BadInput},
			"an old proof": {func(c *candidate) { c.claims.IssuedAt -= 3600 }, nil, denial.Stale},
			"a swapped key": {nil, func(c *candidate) {
				at := len(c.req.Proof) - 20 // in the middle of the signature
				other := "A"
				if c.req.Proof[at:at+1] == other {
					other = "B"
				}
				c.req.Proof = c.req.Proof[:at] + other + c.req.Proof[at+1:]
			}, ""},
		} {
			c := newCandidate(t, "pod", td)
			admit(c)
			if tt.spoil != nil {
				tt.spoil(c)
			}
			c.sign(t)
			if tt.late != nil {
				tt.late(c)
			}
			got := c.post(t, m)
			if got == "" || tt.want != "" && got != tt.want {
				t.Errorf("%s, %s: got %q, want %q", by, name, got, tt.want)
			}
		}
		if by == "platform token" {
			c := newCandidate(t, "pod", td)
			admit(c)
			c.tls = first.tls
			c.template(t, &x509.CertificateRequest{URIs: uris(pod)})
			c.sign(t)
			if got := c.post(t, m); got != denial.AlreadyExists {
				t.Errorf("the TLS key of another instance: got %q", got)
			}
			c = newCandidate(t, "other", td)
			admit(c)
			c.sign(t)
			if got := c.post(t, m); got != denial.BadJoinToken {
				t.Errorf("for another agent: got %q", got)
			}
		}
	}
	if v := show(t, ctx, m, "pod"); len(v.Instances) != 1 {
		t.Errorf("%d instances, want the first alone", len(v.Instances))
	}
	// The one use is still there.
	if _, err := enrol.Enrol(ctx, join, filepath.Join(t.TempDir(), "pod")); err != nil {
		t.Errorf("the join token, after all that: %v", err)
	}
	_, err = enrol.Enrol(ctx, join, filepath.Join(t.TempDir(), "pod"))
	if denial.Of(err) != denial.BadJoinToken {
		t.Errorf("its second use: got %v", err)
	}
}

// Fifty hosts come with a join token for seven, over the network.
func TestSevenOfFiftyEnrol(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	var added wire.AddResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("crew")}, Join: &wire.JoinSpec{Uses: 7}}, &added); err != nil {
		t.Fatal(err)
	}
	join, err := registry.ParseJoinToken(added.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	in, out := 0, 0
	var wg sync.WaitGroup
	root := t.TempDir()
	for n := range 50 {
		wg.Go(func() {
			_, err := enrol.Enrol(ctx, join, filepath.Join(root, fmt.Sprint(n)))
			mu.Lock()
			defer mu.Unlock()
			switch denial.Of(err) {
			case "":
				if err != nil {
					t.Errorf("host %d: %v", n, err)
				}
				in++
			case denial.BadJoinToken:
				out++
			default:
				t.Errorf("host %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	if v := show(t, ctx, m, "crew"); in != 7 || out != 43 || len(v.Instances) != 7 {
		t.Errorf("%d let in, %d refused, %d instances", in, out, len(v.Instances))
	}
	var list wire.JoinList
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpJoins, Target: "crew"}, &list); err != nil || len(list.Joins) != 1 || list.Joins[0].Used != 7 {
		t.Errorf("got %+v, %v", list, err)
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpJoinCancel, Target: registry.HandleOfJoin(join.Secret)}, &list); err != nil || len(list.Joins) != 1 {
		t.Errorf("cancelling: got %+v, %v", list, err)
	}
	for target, want := range map[string]denial.Reason{registry.HandleOfJoin(join.Secret): denial.NotFound, "nobody": denial.UnlistedAgent, "a b": denial.BadInput, "": denial.BadInput} {
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpJoinCancel, Target: target}, &list); denial.Of(err) != want {
			t.Errorf("cancelling %q: got %v, want %s", target, err, want)
		}
	}
}

// A full house of pods that are gone makes room for the next one, and what was
// reaped is in no list.
func TestPodsMakeRoom(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	m, ctx, _ := platformMesh(t, devmesh.Options{}, i.config())
	id, rule := agentid.Require("pod"), oidcRule(i.URL, "me")
	if err := register(t, ctx, m, registry.NewAgent{Agent: id, Join: rule}); err != nil {
		t.Fatal(err)
	}
	s := m.Plane.Store()
	// Their certificates ended a minute ago, but for one of which it is longer.
	for n := range limits.Instances {
		c := newCandidate(t, "pod", "x.example")
		key, err := c.key.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		_, inst, err := s.EnrolByRule(ctx, registry.Enrolment{Agent: id, Key: key, Curve: c.claims.Curve, TLS: jws.Digest(key)}, rule)
		if err != nil {
			t.Fatal(err)
		}
		ended := time.Minute
		if n == 0 {
			ended = 25 * time.Hour
		}
		if err := s.SetCertificate(ctx, id, inst.Instance, registry.Certificate{Serial: "01", NotAfter: time.Now().Add(-ended)}); err != nil {
			t.Fatal(err)
		}
	}
	// While there is no need, they have another life of a certificate to come back.
	if err := m.Plane.ReapAll(ctx); err != nil {
		t.Fatal(err)
	}
	if v := show(t, ctx, m, "pod"); len(v.Instances) != limits.Instances-1 {
		t.Errorf("%d instances, want all but one", len(v.Instances))
	}
	token := i.sign("RS256", "rsa", claims(i.URL, "me"))
	for n, want := range []int{limits.Instances, 1} {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(n))
		if _, err := enrol.EnrolByPlatform(ctx, platform(t, m, "pod", token), dir); err != nil {
			t.Fatalf("pod %d: %v", n, err)
		}
		if v := show(t, ctx, m, "pod"); n == 0 && len(v.Instances) != want {
			t.Errorf("%d instances, want %d", len(v.Instances), want)
		}
	}
	if v := show(t, ctx, m, "pod"); len(v.Instances) != 2 {
		t.Errorf("%d instances, want the two that came last", len(v.Instances))
	}
	var st wire.MeshStatus
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &st); err != nil || st.Instances[registry.InstanceRevoked] != 0 || len(st.OlderRecords) != 0 {
		t.Errorf("status: %v, %v, %v", st.Instances, st.OlderRecords, err)
	}
}
