package meshdir_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/pki/vault"
)

// authority makes a CA for tests.
func authority(t *testing.T, role pki.Role) *pki.CA {
	t.Helper()
	root, err := pki.NewCA(role, "test.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := root.Intermediate(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// fakeVault signs admin's first certificate with agents, for life, and returns what
// a mesh is told of it. The real one is in test/vault.
func fakeVault(t *testing.T, agents *pki.CA, life time.Duration) meshdir.Vault {
	t.Helper()
	list := func(text []byte) []string {
		parts := strings.SplitAfter(string(text), "-----END CERTIFICATE-----\n")
		return parts[:len(parts)-1]
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data := map[string]any{"ttl": 3600, "issuer_ref": "default"}
		switch {
		case strings.HasSuffix(r.URL.Path, "/issuer/default/json"):
			data = map[string]any{"ca_chain": list(agents.Bundle())}
		case strings.HasSuffix(r.URL.Path, "/sign/agents"):
			var req struct{ CSR string }
			if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
				t.Error(err)
			}
			csr, err := pki.ParseCSR([]byte(req.CSR))
			if err != nil {
				t.Error(err)
				return
			}
			chain, err := agents.SignAgent(r.Context(), csr, agentid.Require("admin"), life, time.Now())
			if err != nil {
				t.Error(err)
			}
			data = map[string]any{"certificate": list(chain)[0], "ca_chain": list(agents.Bundle())}
		}
		if err := json.NewEncoder(w).Encode(map[string]any{"data": data}); err != nil {
			t.Error(err)
		}
	}))
	infra := authority(t, pki.Infra)
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := infra.SignServer(key.Public(), []string{"127.0.0.1"}, "vault", 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(chain, text)
	if err != nil {
		t.Fatal(err)
	}
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	if err := errors.Join(pki.WriteFile(dir+"/ca.pem", infra.Roots()), pki.WriteSecret(dir+"/token", []byte("hvs.token"))); err != nil {
		t.Fatal(err)
	}
	return meshdir.Vault{Address: srv.URL, Role: "agents", CAFile: dir + "/ca.pem", TokenFile: dir + "/token"}
}

func byVault(v meshdir.Vault) func(*meshdir.InitOptions) {
	return func(o *meshdir.InitOptions) { o.Certificate.Issuer, o.Vault = meshdir.IssuerVault, v }
}

func TestInitWithVault(t *testing.T) {
	t.Parallel()
	agents := authority(t, pki.Agent)
	m := newMesh(t, byVault(fakeVault(t, agents, 24*time.Hour)))
	for name := range tree(t, m.Dir) {
		if strings.Contains(name, "agent-ca") && name != "server/agent-ca.crt" {
			t.Errorf("%s was made, and Vault is the CA of agents", name)
		}
	}
	text, err := os.ReadFile(filepath.Join(m.Dir, "server", "agent-ca.crt"))
	if err != nil || string(text) != string(agents.Roots()) {
		t.Errorf("got %q, %v, want the root alone", text, err)
	}
	text, err = os.ReadFile(filepath.Join(m.Dir, "nats", "ca.crt"))
	if err != nil || !strings.HasPrefix(string(text), string(agents.Roots())) {
		t.Errorf("nats-server is told %q, %v, want Vault's root first", text, err)
	}
	m, err = meshdir.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, doc, err := m.Trust(); err != nil || len(doc.Agent) > 0 || len(doc.Infra) != 1 {
		t.Errorf("got %+v, %v, want a trust document that says nothing of agent roots: Vault changes them", doc, err)
	}
	i, err := m.AgentIssuer(t.Context())
	if err != nil || string(i.Roots()) != string(agents.Roots()) {
		t.Errorf("got %v, want an issuer with the pinned root", err)
	}
	if _, ok := i.(*vault.Issuer); !ok {
		t.Errorf("got a %T", i)
	}
	for name, text := range map[string]string{"missing": "", "empty": "\n"} {
		path := filepath.Join(m.Dir, "server", "agent-ca.crt")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if text != "" {
			if err := pki.WriteFile(path, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		if i, err := m.AgentIssuer(t.Context()); err == nil {
			t.Errorf("%s roots: got the issuer %v", name, i)
		}
		if err := pki.WriteFile(path, agents.Roots()); err != nil {
			t.Fatal(err)
		}
	}
}

// A Vault that cannot be used leaves no mesh behind.
func TestInitWithAVaultThatDoesNotDo(t *testing.T) {
	t.Parallel()
	agents := authority(t, pki.Agent)
	good := fakeVault(t, agents, 24*time.Hour)
	for name, tt := range map[string]struct {
		vault meshdir.Vault
		says  string
	}{
		"short lives": {fakeVault(t, agents, time.Hour), "max_ttl"},
		"away":        {func() meshdir.Vault { v := good; v.Address = "https://127.0.0.1:1"; return v }(), "no answer"},
		"no token":    {func() meshdir.Vault { v := good; v.TokenFile += ".absent"; return v }(), "absent"},
		"plain":       {func() meshdir.Vault { v := good; v.Address = "http://127.0.0.1"; return v }(), "vault: address"},
		"nothing":     {meshdir.Vault{}, "vault: address"},
	} {
		dir := filepath.Join(t.TempDir(), "mesh")
		o := meshdir.InitOptions{TrustDomain: "test.example"}
		byVault(tt.vault)(&o)
		_, err := meshdir.Init(dir, o)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want an error about %q", name, err, tt.says)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the directory was left behind (%v)", name, err)
		}
	}
}

func TestLoadRefusesIssuers(t *testing.T) {
	t.Parallel()
	plain := newMesh(t)
	withVault := newMesh(t, byVault(fakeVault(t, authority(t, pki.Agent), 24*time.Hour)))
	for name, tt := range map[string]struct {
		mesh           *meshdir.Mesh
		old, new, want string
	}{
		"unknown":      {plain, "issuer: embedded", "issuer: acme", `certificate.issuer: "acme"`},
		"no vault":     {plain, "issuer: embedded", "issuer: vault", "vault: address"},
		"idle vault":   {plain, "certificate:", "vault: {role: agents}\ncertificate:", "vault: it has no effect"},
		"no longer":    {withVault, "issuer: vault", "issuer: embedded", "vault: it has no effect"},
		"unknown key":  {withVault, "  role:", "  insecure_skip_verify: true\n  role:", "insecure_skip_verify"},
		"misspelt key": {withVault, "  ca_file:", "  cafile:", "cafile"},
		"both logins":  {withVault, "  role:", "  approle: {role_id_file: a, secret_id_file: b}\n  role:", "either token_file or approle"},
		"half a login": {withVault, "  token_file:", "  approle: {role_id_file: a}\n  #", "secret_id_file"},
		"without TLS":  {withVault, "  address: \"https", "  address: \"http", "vault: address"},
	} {
		path := filepath.Join(tt.mesh.Dir, meshdir.ConfigFile)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(before), tt.old) {
			t.Fatalf("%s: there is no %q to replace", name, tt.old)
		}
		edit(t, path, func(s string) string {
			if at := "\n" + tt.old; strings.Contains(s, at) { // not in a comment
				return strings.Replace(s, at, "\n"+tt.new, 1)
			}
			return strings.Replace(s, tt.old, tt.new, 1)
		})
		if _, err := meshdir.Load(tt.mesh.Dir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error about %q", name, err, tt.want)
		}
		edit(t, path, func(string) string { return string(before) })
	}
}
