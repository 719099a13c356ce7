package vault_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/pki/vault"
)

const trustDomain = "example.org"

var reader = agentid.Require("reader")

// issuer is one with the roots that Vault serves pinned.
func (s *server) issuer(t *testing.T, c vault.Config) *vault.Issuer {
	t.Helper()
	if c.Address == "" {
		c.Address = s.addr
	}
	c.Mount, c.CAFile, c.TrustDomain, c.Clock = "sealmesh", s.ca, trustDomain, time.Now
	asking, err := vault.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if c.Roots == nil {
		if c.Roots, err = asking.FetchRoots(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	i, err := vault.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func request(t *testing.T) *x509.CertificateRequest {
	t.Helper()
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.CSR(key, reader, trustDomain)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func sign(t *testing.T, i *vault.Issuer, ttl time.Duration) error {
	t.Helper()
	_, err := i.SignAgent(t.Context(), request(t), reader, ttl, time.Now())
	return err
}

// refused fails unless err is a vault.Error of the kind that says and advises
// something, and shows no secret.
func refused(t *testing.T, err error, kind vault.Kind, says, advises string, secrets ...string) {
	t.Helper()
	var e *vault.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got %v, want an error of kind %s", err, kind)
	}
	if !errors.Is(err, pki.ErrUnavailable) {
		t.Errorf("%v is not pki.ErrUnavailable, so an agent would take it for a refusal", err)
	}
	if !strings.Contains(e.Error(), says) || !strings.Contains(e.Hint(), advises) {
		t.Errorf("got %q, hint %q, want them to hold %q and %q", e, e.Hint(), says, advises)
	}
	if strings.Contains(e.Error()+e.Hint(), "\n") {
		t.Errorf("%q has more than one line", e)
	}
	for _, secret := range secrets {
		if strings.Contains(e.Error()+e.Hint(), secret) {
			t.Errorf("the error shows a secret: %q", e)
		}
	}
}

func TestTheDocumentedRoleSigns(t *testing.T) {
	s := running(t)
	for name, c := range map[string]vault.Config{
		"token":   {TokenFile: filepath.Join(s.dir, "vault-token")},
		"approle": {AppRole: &vault.AppRole{RoleIDFile: filepath.Join(s.dir, "role-id"), SecretIDFile: filepath.Join(s.dir, "secret-id")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.Role = "agents"
			i := s.issuer(t, c)
			csr := request(t)
			text, err := i.SignAgent(t.Context(), csr, reader, time.Hour, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			chain, err := pki.ParseCertificates(text)
			if err != nil {
				t.Fatal(err)
			}
			if len(chain) != 2 {
				t.Errorf("got a chain of %d, want the certificate and the intermediate", len(chain))
			}
			roots, err := pki.ParsePool(i.Roots())
			if err != nil {
				t.Fatal(err)
			}
			got, err := pki.VerifyAgent(chain, roots, trustDomain, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if got.ID != reader || got.NotAfter.After(time.Now().Add(time.Hour+time.Minute)) {
				t.Errorf("got %+v, want reader for an hour", got)
			}
			for _, check := range []func(context.Context) ([]vault.Finding, error){
				i.CheckPolicy, func(ctx context.Context) ([]vault.Finding, error) { return i.CheckRole(ctx, pki.MaxAgentTTL) },
			} {
				if found, err := check(t.Context()); err != nil || len(found) > 0 {
					t.Errorf("got findings %+v, error %v, want none for what is documented", found, err)
				}
			}
			if err := i.CheckPin(t.Context()); err != nil {
				t.Errorf("got %v for the pinned root", err)
			}
		})
	}
}

func TestRoleTooNarrow(t *testing.T) {
	s := running(t)
	for _, tt := range []struct {
		name          string
		change        map[string]any
		says, advises string
	}{
		{"other names", map[string]any{"allowed_uri_sans": "spiffe://example.com/agent/*"}, "too narrow", "allowed_uri_sans=spiffe://example.org/agent/*"},
		{"common name", map[string]any{"require_cn": true}, "too narrow", "require_cn=false"},
		{"rsa", map[string]any{"key_type": "rsa", "key_bits": 2048}, "too narrow", "key_type=ec key_bits=256"},
		{"bits", map[string]any{"key_bits": 384}, "too narrow", "key_type=ec key_bits=256"},
		{"names of the request", map[string]any{"use_csr_sans": false}, "does not name the agent", "use_csr_sans=true"},
		{"servers", map[string]any{"server_flag": true}, "more than TLS clients", "server_flag=false"},
		{"code", map[string]any{"code_signing_flag": true}, "more than TLS clients", "code_signing_flag=false"},
		{"no client", map[string]any{"client_flag": false}, "not for TLS clients", "client_flag=true"},
		{"signer", map[string]any{"key_usage": "CertSign"}, "may sign certificates", "key_usage=DigitalSignature"},
		{"fixed end", map[string]any{"not_after": time.Now().Add(24 * time.Hour).UTC().Format(time.RFC3339)}, "too narrow", "not_after="},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			role := s.role(t, tt.change)
			token, file := s.token(t, role, nil)
			i := s.issuer(t, vault.Config{Role: role, TokenFile: file})
			refused(t, sign(t, i, time.Hour), vault.BadRole, tt.says, tt.advises, token)
			found, err := i.CheckRole(t.Context(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			blocks := false
			for _, f := range found {
				blocks = blocks || f.Blocks && strings.HasPrefix(f.Remedy, "vault patch sealmesh/roles/"+role+" ")
			}
			if !blocks {
				t.Errorf("got findings %+v, want one that says why nothing is signed", found)
			}
		})
	}
	t.Run("short lives", func(t *testing.T) {
		t.Parallel()
		role := s.role(t, map[string]any{"ttl": "60s", "max_ttl": "60s"})
		_, file := s.token(t, role, nil)
		i := s.issuer(t, vault.Config{Role: role, TokenFile: file})
		if err := sign(t, i, time.Hour); err != nil {
			t.Errorf("got %v, want the shorter certificate", err)
		}
		found, err := i.CheckRole(t.Context(), time.Hour)
		if err != nil || len(found) != 1 || !strings.Contains(found[0].Remedy, "max_ttl=604800s") {
			t.Errorf("got %+v, %v, want one finding about max_ttl", found, err)
		}
	})
}

// A remedy that is followed leaves nothing to find.
func TestRemediesHelp(t *testing.T) {
	s := running(t)
	role := s.role(t, map[string]any{
		"allowed_uri_sans": "*", "allow_any_name": true, "server_flag": true, "max_ttl": 60, "ttl": 30, "no_store": false, "ext_key_usage": "TimeStamping", "allow_ip_sans": true, "require_cn": true,
	})
	_, file := s.token(t, role, nil)
	i := s.issuer(t, vault.Config{Role: role, TokenFile: file})
	found, err := i.CheckRole(t.Context(), 24*time.Hour)
	if err != nil || len(found) < 8 {
		t.Fatalf("got %d findings %+v, %v, want eight", len(found), found, err)
	}
	for _, f := range found {
		s.shell(t, f.Remedy)
	}
	if found, err := i.CheckRole(t.Context(), 24*time.Hour); err != nil || len(found) > 0 {
		t.Errorf("after all remedies got %+v, %v", found, err)
	}
	if err := sign(t, i, time.Hour); err != nil {
		t.Error(err)
	}
}

func TestForbidden(t *testing.T) {
	s := running(t)
	t.Run("policy", func(t *testing.T) {
		t.Parallel()
		_, file := s.token(t, "another", nil)
		i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
		refused(t, sign(t, i, time.Hour), vault.Forbidden, "sealmesh/sign/agents", `path "sealmesh/sign/agents" { capabilities = ["update"] }`)
		found, err := i.CheckPolicy(t.Context())
		if err != nil || len(found) != 2 || !found[0].Blocks {
			t.Errorf("got %+v, %v, want both lines of the policy", found, err)
		}
	})
	t.Run("no role", func(t *testing.T) {
		t.Parallel()
		_, file := s.token(t, "missing", nil)
		refused(t, sign(t, s.issuer(t, vault.Config{Role: "missing", TokenFile: file}), time.Hour), vault.NoRole, "missing", "sealmesh doctor")
	})
	t.Run("no token", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "token")
		if err := pki.WriteSecret(file, []byte("hvs.nosuchtokenanywhere")); err != nil {
			t.Fatal(err)
		}
		i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file, Roots: s.roots(t)})
		for range 2 {
			refused(t, sign(t, i, time.Hour), vault.TokenEnded, "token", "write a new token to "+file, "nosuchtoken")
		}
	})
	t.Run("wide file", func(t *testing.T) {
		t.Parallel()
		_, file := s.token(t, "agents", nil)
		i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		refused(t, sign(t, i, time.Hour), vault.NoCredential, "0644", "chmod 600")
	})
	t.Run("secret id", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		id, err := os.ReadFile(filepath.Join(s.dir, "role-id"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(pki.WriteSecret(dir+"/role", id), pki.WriteSecret(dir+"/secret", []byte("2b0e7d2a-wrong"))); err != nil {
			t.Fatal(err)
		}
		i := s.issuer(t, vault.Config{Role: "agents", AppRole: &vault.AppRole{RoleIDFile: dir + "/role", SecretIDFile: dir + "/secret"}, Roots: s.roots(t)})
		refused(t, sign(t, i, time.Hour), vault.TokenEnded, "auth/approle/login", "secret-id", strings.TrimSpace(string(id)), "2b0e7d2a-wrong")
	})
	t.Run("unreachable", func(t *testing.T) {
		t.Parallel()
		_, file := s.token(t, "agents", nil)
		dead := httptest.NewServer(nil)
		dead.Close()
		i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file, Roots: s.roots(t), Address: "https" + strings.TrimPrefix(dead.URL, "http")})
		refused(t, sign(t, i, time.Hour), vault.Unreachable, "no answer", "vault.address")
	})
}

// A token that is replaced in its file is used at once; one that was revoked is
// missed by nobody whose AppRole can log in.
func TestTokensChange(t *testing.T) {
	s := running(t)
	t.Run("file", func(t *testing.T) {
		t.Parallel()
		first, file := s.token(t, "agents", nil)
		i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
		if err := sign(t, i, time.Hour); err != nil {
			t.Fatal(err)
		}
		s.write(t, "auth/token/revoke", map[string]any{"token": first})
		refused(t, sign(t, i, time.Hour), vault.TokenEnded, "has ended", file, first)
		second, _ := s.token(t, "agents", nil)
		if err := pki.ReplaceSecret(file, []byte(second)); err != nil {
			t.Fatal(err)
		}
		if err := sign(t, i, time.Hour); err != nil {
			t.Errorf("with a new token got %v", err)
		}
	})
	t.Run("approle", func(t *testing.T) {
		t.Parallel()
		var logins atomic.Int64
		addr := s.through(t, func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/login") {
				logins.Add(1)
			}
			return true
		})
		i := s.issuer(t, vault.Config{Role: "agents", Address: addr, Roots: s.roots(t), AppRole: &vault.AppRole{RoleIDFile: filepath.Join(s.dir, "role-id"), SecretIDFile: filepath.Join(s.dir, "secret-id")}})
		var many sync.WaitGroup
		for range 8 {
			many.Go(func() {
				if err := sign(t, i, time.Hour); err != nil {
					t.Error(err)
				}
			})
		}
		many.Wait()
		if n := logins.Load(); n != 1 {
			t.Errorf("got %d logins for eight certificates at once, want one", n)
		}
		s.write(t, "sys/leases/revoke-prefix/auth/approle/login", nil)
		if err := sign(t, i, time.Hour); err != nil {
			t.Errorf("after the token was revoked got %v", err)
		}
		if n := logins.Load(); n != 2 {
			t.Errorf("got %d logins, want a second one", n)
		}
	})
}

// A token of ten seconds that may be renewed outlives that, as long as Run runs.
func TestTokensAreRenewed(t *testing.T) {
	s := running(t)
	t.Parallel()
	_, file := s.token(t, "agents", map[string]any{"period": "10s"})
	i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var reports atomic.Int64
	go func() {
		defer close(done)
		i.Run(ctx, time.Hour, func(err error) {
			if err != nil {
				t.Errorf("Run reports %v", err)
			}
			reports.Add(1)
		})
	}()
	defer func() { cancel(); <-done }()
	// Not a wait for something to happen: that it does not, after the token's time.
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(time.Second) {
		if err := sign(t, i, time.Hour); err != nil {
			t.Fatalf("got %v", err)
		}
	}
	if reports.Load() < 3 {
		t.Errorf("got %d reports, want one at each look", reports.Load())
	}
}

// One that cannot be renewed is reported before it ends.
func TestTheEndOfATokenIsReported(t *testing.T) {
	s := running(t)
	t.Parallel()
	_, file := s.token(t, "agents", map[string]any{"ttl": "10s", "renewable": false})
	i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var first error
	i.Run(ctx, time.Hour, func(err error) {
		if err != nil && first == nil {
			first = err
			cancel()
		}
	})
	refused(t, first, vault.TokenEnded, "token", "write a new token to "+file)
}

func TestNamespaceAndSecretsOnTheWire(t *testing.T) {
	s := running(t)
	token, file := s.token(t, "agents", nil)
	t.Setenv("VAULT_TOKEN", "hvs.fromtheenvironment")
	t.Setenv("VAULT_NAMESPACE", "fromtheenvironment")
	t.Setenv("VAULT_ADDR", "https://127.0.0.1:1")
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	var mu sync.Mutex
	seen := map[string]string{}
	addr := s.through(t, func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		seen[r.URL.Path] = r.Header.Get("X-Vault-Namespace") + " " + r.Header.Get("X-Vault-Token")
		r.Header.Del("X-Vault-Namespace") // the Community edition knows none
		return true
	})
	i := s.issuer(t, vault.Config{Role: "agents", Address: addr, Namespace: "team/mesh", TokenFile: file, Roots: s.roots(t)})
	if err := sign(t, i, time.Hour); err != nil {
		t.Fatal(err)
	}
	if got, want := seen["/v1/sealmesh/sign/agents"], "team/mesh "+token; got != want {
		t.Errorf("got namespace and token %q, want %q", got, want)
	}
	for path := range seen {
		if strings.Contains(path, "/issue") {
			t.Errorf("%s was asked, which makes keys in Vault", path)
		}
	}
}

func TestSealedAndBack(t *testing.T) {
	s := running(t) // not beside others
	token, file := s.token(t, "agents", nil)
	i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
	if err := sign(t, i, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.seal(); err != nil {
		t.Fatal(err)
	}
	refused(t, sign(t, i, time.Hour), vault.Sealed, "is sealed", "vault operator unseal", token)
	fresh := s.issuer(t, vault.Config{Role: "agents", TokenFile: file, Roots: i.Roots()})
	refused(t, sign(t, fresh, time.Hour), vault.Sealed, "is sealed", "vault operator unseal", token)
	if err := s.unseal(); err != nil {
		t.Fatal(err)
	}
	for _, i := range []*vault.Issuer{i, fresh} {
		if err := sign(t, i, time.Hour); err != nil {
			t.Errorf("after it was unsealed got %v", err)
		}
	}
}

// Whoever can write to the mount puts another CA there: nothing that it signs leaves
// the issuer, and it is said.
func TestAnotherRootIsNotTrusted(t *testing.T) {
	s := running(t)
	t.Parallel()
	_, file := s.token(t, "agents", nil)
	i := s.issuer(t, vault.Config{Role: "agents", TokenFile: file})
	made := s.write(t, "sealmesh/issuers/generate/root/internal", map[string]any{"common_name": "Mallory", "key_type": "ec", "key_bits": 256, "ttl": "24h"})
	role := s.role(t, map[string]any{"issuer_ref": made.Data["issuer_id"]})
	_, file = s.token(t, role, nil)
	turned := s.issuer(t, vault.Config{Role: role, TokenFile: file, Roots: i.Roots()})
	refused(t, sign(t, turned, time.Hour), vault.OtherRoot, "Mallory", "docs/operations.md")
	refused(t, turned.CheckPin(t.Context()), vault.OtherRoot, "Mallory", "docs/operations.md")
	if string(turned.Roots()) != string(i.Roots()) {
		t.Error("the roots changed, and nobody decided that")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var first error
	turned.Run(ctx, time.Hour, func(err error) { first = err; cancel() })
	refused(t, first, vault.OtherRoot, "Mallory", "docs/operations.md")
	if err := sign(t, i, time.Hour); err != nil {
		t.Errorf("the role that was left alone: %v", err)
	}
}

func (s *server) roots(t *testing.T) []byte {
	t.Helper()
	return s.issuer(t, vault.Config{Role: "agents", TokenFile: filepath.Join(s.dir, "vault-token")}).Roots()
}

// through is a TLS server in front of Vault; see may answer a request itself and
// returns whether it is passed on.
func (s *server) through(t *testing.T, see func(http.ResponseWriter, *http.Request) bool) string {
	t.Helper()
	u, err := url.Parse(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.ca)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := pki.ParsePool(text)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if see(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}
