package enrol_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

const secret = "c2VjcmV0LXNlY3JldC0xMQ" // 22 characters

// plane plays the control plane: it checks a request as that does, binds the
// join token to the first key, and answers.
type plane struct {
	t      *testing.T
	mesh   *meshdir.Mesh
	url    string
	before func(http.ResponseWriter, *http.Request) bool // true: it answered itself
	after  func(http.ResponseWriter) bool                // likewise, the registration done
	edit   func(*wire.EnrollResponse)
	// The token of a platform that it takes in place of the join token.
	platform string

	mu       sync.Mutex
	requests int
	keys     []string // nkeys that used the token
}

func newMesh(t *testing.T, trustDomain string) *meshdir.Mesh {
	t.Helper()
	m, err := meshdir.Init(filepath.Join(t.TempDir(), "mesh"), meshdir.InitOptions{TrustDomain: trustDomain})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newPlane(t *testing.T, m *meshdir.Mesh) *plane {
	t.Helper()
	source, err := m.ControlSource()
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, m, source.ServerTLS())
}

// serve starts the plane with another certificate than its own.
func serve(t *testing.T, m *meshdir.Mesh, conf *tls.Config) *plane {
	t.Helper()
	p := &plane{t: t, mesh: m}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: tls.NewListener(l, conf), Config: &http.Server{Handler: p}}
	s.Start()
	t.Cleanup(s.Close)
	p.url = "https://" + l.Addr().String()
	return p
}

// token is a join token for the plane, pinning its mesh.
func (p *plane) token(agent string) registry.JoinToken {
	p.t.Helper()
	ca, err := p.mesh.InfraCA()
	if err != nil {
		p.t.Fatal(err)
	}
	return registry.JoinToken{URL: p.url, CA: ca.RootHash(), Agent: agentid.Require(agent), Secret: secret}
}

func (p *plane) seen() (requests int, keys []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests, p.keys
}

func (p *plane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if p.before != nil && p.before(w, r) {
		return
	}
	out, err := p.enrol(r)
	if err != nil {
		refuse(w, denial.Of(err), denial.Detail(err))
		return
	}
	if p.after != nil && p.after(w) {
		return
	}
	if p.edit != nil {
		p.edit(&out)
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		p.t.Error(err)
	}
}

func refuse(w http.ResponseWriter, reason denial.Reason, detail string) {
	w.WriteHeader(http.StatusForbidden)
	_ = json.NewEncoder(w).Encode(wire.Failure{Reason: reason, Detail: detail})
}

func (p *plane) enrol(r *http.Request) (out wire.EnrollResponse, err error) {
	if r.Method != http.MethodPost || r.URL.Path != wire.PathEnroll {
		return out, denial.New(denial.BadInput, "%s %s", r.Method, r.URL.Path)
	}
	var req wire.EnrollRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return out, denial.New(denial.BadInput, "%w", err)
	}
	var c wire.EnrollClaims
	u, err := jws.Decode(req.Proof, wire.KindEnroll, &c)
	if err != nil {
		return out, err
	}
	if err := u.Verify(); err != nil {
		return out, err
	}
	if req.OIDC != "" {
		if c.OIDC != registry.JoinHash(req.OIDC) || c.Join != "" || req.Secret != "" || c.CSR != jws.Digest(req.CSR) {
			return out, denial.New(denial.BadInput, "the proof is for something else")
		}
		if req.OIDC != p.platform {
			return out, denial.New(denial.BadJoinToken, "not this one")
		}
		csr, err := pki.ParseCSR([]byte(req.CSR))
		if err != nil {
			return out, err
		}
		return p.answer(c, csr)
	}
	if c.Join != registry.JoinHash(req.Secret) || c.CSR != jws.Digest(req.CSR) {
		return out, denial.New(denial.BadInput, "the proof is for something else")
	}
	if req.Secret != secret || (len(p.keys) > 0 && p.keys[0] != c.Issuer) {
		return out, denial.New(denial.BadJoinToken, "used up")
	}
	csr, err := pki.ParseCSR([]byte(req.CSR))
	if err != nil {
		return out, err
	}
	p.keys = append(p.keys, c.Issuer)
	return p.answer(c, csr)
}

// answer is what the control plane gives to a request that it accepted.
func (p *plane) answer(c wire.EnrollClaims, csr *x509.CertificateRequest) (out wire.EnrollResponse, err error) {
	m, now := p.mesh, time.Now()
	agentCA, err := m.AgentCA()
	if err != nil {
		return out, err
	}
	infra, err := m.InfraCA()
	if err != nil {
		return out, err
	}
	chain, err := agentCA.SignAgent(p.t.Context(), csr, c.Agent, 0, now)
	if err != nil {
		return out, err
	}
	records, err := m.RecordsKey()
	if err != nil {
		return out, err
	}
	passport, err := capability.IssuePassport(records, c.Agent, c.Issuer, c.Curve, now)
	return wire.EnrollResponse{
		Schema: wire.EnrollSchema, Agent: c.Agent, TrustDomain: m.Config.TrustDomain, Prefix: m.Config.Prefix,
		NATS: m.Config.NATS.URLs, Roots: m.Roots(), SigningKeys: m.SigningKeyCertificates(),
		Passport: passport, Certificate: string(chain), CA: string(infra.Roots()),
	}, err
}

// contents maps every file under dir to its mode and text.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		out[rel] = info.Mode().String() + " " + strings.TrimSpace(string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tls12 serves the right certificate over an old protocol.
func tls12(t *testing.T, m *meshdir.Mesh) *plane {
	t.Helper()
	source, err := m.ControlSource()
	if err != nil {
		t.Fatal(err)
	}
	conf := source.ServerTLS()
	conf.MinVersion, conf.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	return serve(t, m, conf)
}

// renamed serves a control plane's certificate for another host.
func renamed(t *testing.T, m *meshdir.Mesh) *plane {
	t.Helper()
	ca, err := m.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := ca.SignServer(key.Public(), []string{"elsewhere.example"}, agentid.Control.String(), 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return serve(t, m, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}})
}
