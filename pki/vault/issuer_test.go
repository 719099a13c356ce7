package vault_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/pki/vault"
)

const (
	trustDomain = "mesh.local"
	token       = "hvs.CAESIfirsttoken"
)

var reader = agentid.Require("reader")

// world is a server that answers as Vault does, or as somebody who took its place.
// What the real one does is tested in test/vault.
type world struct {
	t      *testing.T
	dir    string
	server *httptest.Server
	agents *pki.CA // that signs in place of Vault

	mu     sync.Mutex
	answer func(csr *x509.CertificateRequest, ttl string) (status int, body any) // of sign
	asked  []*http.Request
	bodies []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), agents: authority(t, pki.Agent)}
	w.server = httptest.NewUnstartedServer(w)
	w.server.TLS = &tls.Config{Certificates: []tls.Certificate{w.serverCertificate()}}
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.file("token", token+"\n")
	w.answer = w.honest
	return w
}

func authority(t *testing.T, role pki.Role) *pki.CA {
	t.Helper()
	root, err := pki.NewCA(role, trustDomain, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.Intermediate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func (w *world) serverCertificate() tls.Certificate {
	w.t.Helper()
	infra := authority(w.t, pki.Infra)
	key, err := pki.NewTLSKey()
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := infra.SignServer(key.Public(), []string{"127.0.0.1"}, "vault", 0, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	w.file("ca.pem", string(infra.Roots()))
	cert, err := tls.X509KeyPair(chain, text)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

func (w *world) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// ServeHTTP implements http.Handler.
func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	w.asked, w.bodies = append(w.asked, r), append(w.bodies, string(body))
	answer := w.answer
	w.mu.Unlock()
	status, reply := http.StatusOK, any(map[string]any{"data": map[string]any{"ttl": 3600, "renewable": false}})
	if strings.Contains(r.URL.Path, "/sign/") {
		var req struct{ CSR, TTL string }
		if err := json.Unmarshal(body, &req); err != nil {
			w.t.Error(err)
		}
		csr, err := pki.ParseCSR([]byte(req.CSR))
		if err != nil {
			w.t.Error(err)
			return
		}
		status, reply = answer(csr, req.TTL)
	}
	rw.WriteHeader(status)
	if err := json.NewEncoder(rw).Encode(reply); err != nil {
		w.t.Error(err)
	}
}

// honest signs as Vault does by a role that is right.
func (w *world) honest(csr *x509.CertificateRequest, ttl string) (int, any) {
	life, err := time.ParseDuration(ttl)
	if err != nil {
		w.t.Error(err)
	}
	chain, err := w.agents.SignAgent(context.Background(), csr, reader, life, time.Now())
	if err != nil {
		w.t.Error(err)
	}
	return http.StatusOK, signed(string(chain), string(w.agents.Roots()))
}

// signed is Vault's answer with a chain, which ends with the root there.
func signed(chain, root string) any {
	const begin = "-----BEGIN"
	parts := strings.SplitAfter(chain+root, "-----END CERTIFICATE-----\n")
	var above []string
	for _, p := range parts[1:] {
		if strings.Contains(p, begin) {
			above = append(above, p)
		}
	}
	return map[string]any{"data": map[string]any{"certificate": parts[0], "ca_chain": above, "issuing_ca": above[0]}}
}

func (w *world) config() vault.Config {
	return vault.Config{
		Address: w.server.URL, Role: "agents", CAFile: filepath.Join(w.dir, "ca.pem"), TokenFile: filepath.Join(w.dir, "token"),
		TrustDomain: trustDomain, Roots: w.agents.Roots(), Clock: time.Now,
	}
}

func (w *world) issuer() *vault.Issuer {
	w.t.Helper()
	i, err := vault.New(w.config())
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

func request(t *testing.T, agent agentid.ID) *x509.CertificateRequest {
	t.Helper()
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.CSR(key, agent, trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func (w *world) sign(i *vault.Issuer) ([]byte, error) {
	return i.SignAgent(w.t.Context(), request(w.t, reader), reader, time.Hour, time.Now())
}

func (w *world) answering(f func(csr *x509.CertificateRequest, ttl string) (int, any)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

func TestSignAgent(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "hvs.ofsomebodyelse")
	t.Setenv("VAULT_NAMESPACE", "elsewhere")
	t.Setenv("VAULT_ADDR", "https://127.0.0.1:1")
	t.Setenv("VAULT_HEADERS", `{"X-Added":"1"}`)
	t.Setenv("VAULT_PROXY_ADDR", "http://127.0.0.1:1")
	w := newWorld(t)
	text, err := w.sign(w.issuer())
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil || len(chain) != 2 {
		t.Fatalf("got %d certificates, %v, want the leaf and the intermediate, without the root", len(chain), err)
	}
	if len(w.asked) != 2 {
		t.Fatalf("got %d requests, want one that looks up the token and one that signs", len(w.asked))
	}
	r := w.asked[1]
	if r.Method != http.MethodPut || r.URL.Path != "/v1/pki/sign/agents" {
		t.Errorf("got %s %s", r.Method, r.URL.Path)
	}
	for name, want := range map[string]string{"X-Vault-Token": token, "X-Vault-Namespace": "", "X-Added": "", "X-Vault-Wrap-Ttl": ""} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("got header %s %q, want %q: the environment must have no say", name, got, want)
		}
	}
	if !strings.Contains(w.bodies[1], `"ttl":"3600s"`) || strings.Contains(w.bodies[1], "PRIVATE") {
		t.Errorf("got the body %s", w.bodies[1])
	}
}

// What no issuer signs is not even shown to Vault.
func TestRequestsAreCheckedBefore(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	for name, f := range map[string]func() error{
		"another agent": func() error {
			_, err := i.SignAgent(t.Context(), request(t, agentid.Require("writer")), reader, time.Hour, time.Now())
			return err
		},
		"too long": func() error {
			_, err := i.SignAgent(t.Context(), request(t, reader), reader, pki.MaxAgentTTL+1, time.Now())
			return err
		},
		"nothing": func() error {
			_, err := i.SignAgent(t.Context(), nil, reader, time.Hour, time.Now())
			return err
		},
	} {
		if err := f(); denial.Of(err) != denial.BadInput {
			t.Errorf("%s: got %v, want %s", name, err, denial.BadInput)
		}
	}
	if len(w.asked) != 0 {
		t.Errorf("Vault was asked %d times, want never", len(w.asked))
	}
}

// forge signs whatever it is told with a CA of its own that the mesh trusts, as a
// role can that is set up wrongly, or whoever took over Vault.
func forge(t *testing.T, change func(*x509.Certificate), pub any, csr *x509.CertificateRequest) (root []byte, answer any) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	top := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/agent/reader"}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	change(leaf)
	if pub == nil {
		pub = csr.PublicKey
	}
	encode := func(c *x509.Certificate, pub any) string {
		der, err := x509.CreateCertificate(rand.Reader, c, top, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	above := encode(top, key.Public())
	return []byte(above), signed(encode(leaf, pub), above)
}

// Nothing that differs from what was asked leaves the issuer.
func TestAnswersAreChecked(t *testing.T) {
	other, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	none := func(*x509.Certificate) {}
	for _, tt := range []struct {
		name   string
		change func(*x509.Certificate)
		pub    any
		kind   vault.Kind // empty: it is fine
		says   string
	}{
		{"as it should be", none, nil, "", ""},
		{"another key", none, other.Public(), vault.BadRole, "another key"},
		{"another agent", func(c *x509.Certificate) { c.URIs[0].Path = "/agent/writer" }, nil, vault.BadRole, "writer"},
		{"two agents", func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/agent/writer"})
		}, nil, vault.BadRole, "more than one URI"},
		{"a host", func(c *x509.Certificate) { c.DNSNames = []string{"nats.example.org"} }, nil, vault.BadRole, "DNS name"},
		{"no name", func(c *x509.Certificate) { c.URIs = nil; c.Subject.CommonName = "reader" }, nil, vault.BadRole, "does not name"},
		{"another trust domain", func(c *x509.Certificate) { c.URIs[0].Host = "mesh.example" }, nil, vault.BadRole, "does not name one agent"},
		{"a server", func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }, nil, vault.BadRole, "more than TLS clients"},
		{"anything", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, nil, vault.BadRole, "not for TLS clients"},
		{"a CA", func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		}, nil, vault.BadRole, "may sign"},
		{"too long", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Hour) }, nil, vault.BadRole, "lives until"},
		{"shorter", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(10 * time.Minute) }, nil, "", ""},
		{"not yet", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(10 * time.Minute) }, nil, vault.BadRole, "not valid before"},
		{"over", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, nil, vault.BadRole, "cannot be used"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			csr := request(t, reader)
			root, answer := forge(t, tt.change, tt.pub, csr)
			w.answering(func(*x509.CertificateRequest, string) (int, any) { return http.StatusOK, answer })
			c := w.config()
			c.Roots = root
			i, err := vault.New(c)
			if err != nil {
				t.Fatal(err)
			}
			text, err := i.SignAgent(t.Context(), csr, reader, time.Hour, time.Now())
			if tt.kind == "" {
				if err != nil || len(text) == 0 {
					t.Errorf("got %v, want a certificate", err)
				}
				return
			}
			var e *vault.Error
			if !errors.As(err, &e) || e.Kind != tt.kind || !strings.Contains(e.Error(), tt.says) || e.Hint() == "" {
				t.Errorf("got %v, want %s that says %q with a hint", err, tt.kind, tt.says)
			}
			if text != nil {
				t.Error("a certificate was handed out with the error")
			}
		})
	}
	t.Run("another root", func(t *testing.T) {
		w := newWorld(t)
		csr := request(t, reader)
		_, answer := forge(t, none, nil, csr)
		w.answering(func(*x509.CertificateRequest, string) (int, any) { return http.StatusOK, answer })
		for name, roots := range map[string][]byte{"pinned": w.agents.Roots(), "none": nil} {
			c := w.config()
			c.Roots = roots
			i, err := vault.New(c)
			if err != nil {
				t.Fatal(err)
			}
			var e *vault.Error
			if _, err := i.SignAgent(t.Context(), csr, reader, time.Hour, time.Now()); !errors.As(err, &e) || e.Kind != vault.OtherRoot {
				t.Errorf("%s: got %v, want %s", name, err, vault.OtherRoot)
			}
			if string(i.Roots()) != string(roots) {
				t.Errorf("%s: the roots changed", name)
			}
		}
	})
}

func TestWhatVaultRefuses(t *testing.T) {
	w := newWorld(t)
	i := w.issuer()
	for _, tt := range []struct {
		status int
		said   string
		kind   vault.Kind
	}{
		{503, "Vault is sealed", vault.Sealed},
		{500, "internal error", vault.Unreachable},
		{429, "request path is rate limited", vault.Unreachable},
		{400, "unknown role: agents", vault.NoRole},
		{404, "no handler for route", vault.NoRole},
		{400, "the common_name field is required", vault.BadRole},
		{400, "cannot satisfy request, as TTL would result in notAfter beyond the expiration of the CA certificate", vault.BadIssuer},
		{500, "no default issuer currently configured", vault.BadIssuer},
		{403, "permission denied", vault.Forbidden},
	} {
		w.answering(func(*x509.CertificateRequest, string) (int, any) {
			return tt.status, map[string]any{"errors": []string{tt.said + "\n\x1b[31m\n"}}
		})
		_, err := w.sign(i)
		var e *vault.Error
		if !errors.As(err, &e) || e.Kind != tt.kind {
			t.Errorf("%d %s: got %v, want %s", tt.status, tt.said, err, tt.kind)
			continue
		}
		if !errors.Is(err, pki.ErrUnavailable) || denial.Of(err) != "" {
			t.Errorf("%d %s: %v must not be taken for a judgement of the agent", tt.status, tt.said, err)
		}
		if e.Hint() == "" || strings.ContainsAny(e.Error()+e.Hint(), "\n\x1b") || strings.Contains(e.Error()+e.Hint(), "hvs.") {
			t.Errorf("%d %s: got %q and %q, want one line each, a hint, and no secret", tt.status, tt.said, e, e.Hint())
		}
	}
}

// A redirect takes the token nowhere.
func TestRedirectsAreNotFollowed(t *testing.T) {
	w := newWorld(t)
	thief := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	thief.TLS = &tls.Config{Certificates: w.server.TLS.Certificates} // one that the CA file vouches for
	thief.StartTLS()
	defer thief.Close()
	i := w.issuer()
	inner := w.server.Config.Handler
	w.server.Config.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/sign/") {
			http.Redirect(rw, r, thief.URL+r.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		inner.ServeHTTP(rw, r)
	})
	var e *vault.Error
	if _, err := w.sign(i); !errors.As(err, &e) || e.Kind != vault.Unreachable {
		t.Errorf("got %v, want %s", err, vault.Unreachable)
	}
}

// A server that the CA file does not vouch for gets no token.
func TestTheServerIsVerified(t *testing.T) {
	w := newWorld(t)
	c := w.config()
	c.CAFile = w.file("other.pem", string(authority(t, pki.Infra).Roots()))
	i, err := vault.New(c)
	if err != nil {
		t.Fatal(err)
	}
	var e *vault.Error
	if _, err := w.sign(i); !errors.As(err, &e) || e.Kind != vault.Unreachable || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want %s for a certificate that is not trusted", err, vault.Unreachable)
	}
	if len(w.asked) > 0 {
		t.Error("a request was sent")
	}
}

// An answer without end is cut off.
func TestAnswersAreBounded(t *testing.T) {
	w := newWorld(t)
	w.answering(func(csr *x509.CertificateRequest, ttl string) (int, any) {
		status, answer := w.honest(csr, ttl)
		long, ok := answer.(map[string]any)
		if !ok {
			t.Errorf("got a %T", answer)
		}
		long["padding"] = strings.Repeat("A", 4<<20)
		return status, long
	})
	var e *vault.Error
	if _, err := w.sign(w.issuer()); !errors.As(err, &e) || e.Kind != vault.Unreachable || len(err.Error()) > 1000 {
		t.Errorf("got %.2000v, want %s in few words", err, vault.Unreachable)
	}
}

func TestConfig(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*vault.Config){
		"plain http":      func(c *vault.Config) { c.Address = "http" + strings.TrimPrefix(c.Address, "https") },
		"password":        func(c *vault.Config) { c.Address = "https://me:secret@127.0.0.1" },
		"path":            func(c *vault.Config) { c.Address += "/v1" },
		"socket":          func(c *vault.Config) { c.Address = "unix:///run/vault.sock" },
		"no CA":           func(c *vault.Config) { c.CAFile = "" },
		"CA is missing":   func(c *vault.Config) { c.CAFile = w.dir + "/absent" },
		"CA is no CA":     func(c *vault.Config) { c.CAFile = c.TokenFile },
		"no role":         func(c *vault.Config) { c.Role = "" },
		"role with slash": func(c *vault.Config) { c.Role = "agents/../../sys/seal" },
		"mount goes up":   func(c *vault.Config) { c.Mount = "pki/../sys" },
		"mount query":     func(c *vault.Config) { c.Mount = "pki?x=" },
		"no login":        func(c *vault.Config) { c.TokenFile = "" },
		"two logins":      func(c *vault.Config) { c.AppRole = &vault.AppRole{RoleIDFile: "a", SecretIDFile: "b"} },
		"half a login":    func(c *vault.Config) { c.TokenFile, c.AppRole = "", &vault.AppRole{RoleIDFile: "a"} },
		"no trust domain": func(c *vault.Config) { c.TrustDomain = "" },
		"no clock":        func(c *vault.Config) { c.Clock = nil },
		"roots":           func(c *vault.Config) { c.Roots = []byte("rubbish") },
	} {
		c := w.config()
		change(&c)
		if i, err := vault.New(c); err == nil {
			t.Errorf("%s: got %v, want an error", name, i)
		} else if strings.Contains(err.Error(), "secret") && name == "password" {
			t.Errorf("%s: the error shows it: %v", name, err)
		}
	}
}

// Whatever is answered, there is no certificate that the mesh would not accept, and
// no panic.
func FuzzAnswer(f *testing.F) {
	ca, err := pki.NewCA(pki.Agent, trustDomain, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	mid, err := ca.Intermediate(time.Now())
	if err != nil {
		f.Fatal(err)
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		f.Fatal(err)
	}
	text, err := pki.CSR(key, reader, trustDomain)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		f.Fatal(err)
	}
	good, err := mid.SignAgent(context.Background(), csr, reader, time.Hour, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	seed, err := json.Marshal(signed(string(good), string(mid.Roots())))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"data":{"certificate":["a"],"ca_chain":{}}}`))
	f.Add([]byte(`{"errors":["Vault is sealed"]}`))
	f.Add([]byte(`null`))
	roots, err := pki.ParsePool(mid.Roots())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		chain, err := vault.Judge(body, csr, reader, mid.Roots(), trustDomain, time.Hour)
		if err != nil {
			if chain != nil {
				t.Fatal("a chain came with an error")
			}
			return
		}
		certs, err := pki.ParseCertificates(chain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pki.VerifyAgent(certs, roots, trustDomain, time.Now()); err != nil || got.ID != reader {
			t.Fatalf("got a certificate for %v, %v", got, err)
		}
	})
}
