package controlplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// ask asks the HTTPS endpoint of a mesh, and returns the reason where it refuses.
func ask(t *testing.T, ctx context.Context, m *devmesh.Mesh, dir, path string, body, into any) denial.Reason {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := agentdir.Open(m.AgentDir("admin"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := admin.Source()
	if err != nil {
		t.Fatal(err)
	}
	conf := source.ClientTLS("127.0.0.1")
	conf.GetClientCertificate = nil
	if dir != "" {
		d, err := agentdir.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		own, err := d.Source()
		if err != nil {
			t.Fatal(err)
		}
		conf.GetClientCertificate = own.ClientTLS("").GetClientCertificate
	}
	transport := &http.Transport{TLSClientConfig: conf}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Plane.URL()+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
		return ""
	}
	var f wire.Failure
	if err := json.NewDecoder(resp.Body).Decode(&f); err != nil {
		t.Fatal(err)
	}
	return f.Reason
}

// Whoever renews gets a certificate for its own name and a key that nobody else has,
// and nothing else by whatever request.
func TestRenewForOneselfOnly(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	rights := registry.Rights{Call: scopes("read:logs")}
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: rights})
	otherDir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("other"), Rights: rights})
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	nkey, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.ReadSecret(otherDir + "/" + agentdir.TLSKeyFile)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := pki.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	request := func(key *pki.Key, name, domain string) string {
		csr, err := pki.CSR(key, agentid.Require(name), domain)
		if err != nil {
			t.Fatal(err)
		}
		return string(csr)
	}
	domain := m.Dir.Config.TrustDomain
	own := request(fresh, "reader", domain)
	for name, tt := range map[string]struct {
		csr, signed string
		agent       string
		audience    string
		age         time.Duration
		shows       string // whose directory the client certificate is from
		want        denial.Reason
	}{
		"its own":                        {own, own, "reader", domain, 0, dir, ""},
		"another's name":                 {request(fresh, "other", domain), "", "reader", domain, 0, dir, denial.BadInput},
		"of another mesh":                {request(fresh, "reader", "else.example"), "", "reader", domain, 0, dir, denial.BadInput},
		"another's TLS key":              {request(stolen, "reader", domain), "", "reader", domain, 0, dir, denial.AlreadyExists},
		"a request that it did not sign": {request(fresh, "reader", domain), own + "x", "reader", domain, 0, dir, denial.BadInput},
		"as another":                     {request(fresh, "other", domain), "", "other", domain, 0, dir, denial.UnlistedKey},
		"to another mesh":                {own, own, "reader", "else.example", 0, dir, denial.UnlistedKey},
		"of an hour ago":                 {own, own, "reader", domain, time.Hour, dir, denial.Stale},
		"by its nkey alone":              {own, own, "reader", domain, 0, "", denial.BadCertificate},
		"by another's TLS key":           {own, own, "reader", domain, 0, otherDir, denial.AlreadyExists},
		"by that of who came first":      {own, own, "reader", domain, 0, m.AgentDir("admin"), denial.AlreadyExists},
	} {
		if tt.signed == "" {
			tt.signed = tt.csr
		}
		proof, err := jws.Sign(&wire.RenewClaims{
			Head:  jws.Head{Kind: wire.KindRenew, IssuedAt: time.Now().Add(-tt.age).Unix()},
			Agent: agentid.Require(tt.agent), Audience: tt.audience, CSR: jws.Digest(tt.signed),
		}, nkey)
		if err != nil {
			t.Fatal(err)
		}
		var r wire.Renewed
		if got := ask(t, ctx, m, tt.shows, wire.PathRenew, wire.RenewRequest{Proof: proof, CSR: tt.csr}, &r); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
		if tt.want != "" {
			continue
		}
		certs, err := pki.ParseCertificates([]byte(r.Certificate))
		if err != nil {
			t.Fatal(err)
		}
		if got := show(t, ctx, m, "reader").Instances[0].CertificateSerial; got != certs[0].SerialNumber.Text(16) {
			t.Errorf("the registry has serial %s", got)
		}
	}
}
