package pki_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/pki"
)

// openssl runs a second, independent implementation in a folder of its own.
func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("NOT TESTED: openssl is not on the PATH, so nothing but crypto/x509 has read these certificates")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestOpenSSLVerifies(t *testing.T) {
	dir := t.TempDir()
	agents, infra := newCA(t, pki.Agent), newCA(t, pki.Infra)
	agent := certs(t, signAgent(t, agents, newKey(t), "reader"))
	server := certs(t, signServer(t, infra, newKey(t), "nats.example.com", "127.0.0.1"))
	// What the agent CA must not be able to do, whoever holds its key.
	stray := goodLeaf(t)
	stray.URIs[0] = uri(t, "spiffe://other.example/agent/reader")
	strayLeaf := forge(t, stray, agent[1], newKey(t).Public(), agents.Key())
	for name, text := range map[string][]byte{
		"agent.pem": pki.EncodeCertificates(agent[0]), "agent-mid.pem": pki.EncodeCertificates(agent[1]), "agent-root.pem": agents.Roots(),
		"server.pem": pki.EncodeCertificates(server[0]), "infra-mid.pem": pki.EncodeCertificates(server[1]), "infra-root.pem": infra.Roots(),
		"stray.pem": pki.EncodeCertificates(strayLeaf),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := fmt.Sprint(epoch.Unix())
	for name, tt := range map[string]struct {
		args []string
		ok   bool
	}{
		"agent as client":        {[]string{"-purpose", "sslclient", "-CAfile", "agent-root.pem", "-untrusted", "agent-mid.pem", "agent.pem"}, true},
		"agent as server":        {[]string{"-purpose", "sslserver", "-CAfile", "agent-root.pem", "-untrusted", "agent-mid.pem", "agent.pem"}, false},
		"agent by infra root":    {[]string{"-purpose", "sslclient", "-CAfile", "infra-root.pem", "-untrusted", "agent-mid.pem", "agent.pem"}, false},
		"stray domain":           {[]string{"-purpose", "sslclient", "-CAfile", "agent-root.pem", "-untrusted", "agent-mid.pem", "stray.pem"}, false},
		"server":                 {[]string{"-purpose", "sslserver", "-verify_hostname", "nats.example.com", "-CAfile", "infra-root.pem", "-untrusted", "infra-mid.pem", "server.pem"}, true},
		"server by address":      {[]string{"-purpose", "sslserver", "-verify_ip", "127.0.0.1", "-CAfile", "infra-root.pem", "-untrusted", "infra-mid.pem", "server.pem"}, true},
		"server as client":       {[]string{"-purpose", "sslclient", "-CAfile", "infra-root.pem", "-untrusted", "infra-mid.pem", "server.pem"}, true},
		"server by another name": {[]string{"-purpose", "sslserver", "-verify_hostname", "x.example.com", "-CAfile", "infra-root.pem", "-untrusted", "infra-mid.pem", "server.pem"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := openssl(t, dir, append([]string{"verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-attime", at}, tt.args...)...)
			if (err == nil) != tt.ok {
				t.Errorf("got %v, want accepted %v\n%s", err, tt.ok, out)
			}
		})
	}
}

// TestOpenSSLRequest: an agent in another language makes its request with stock
// tools.
func TestOpenSSLRequest(t *testing.T) {
	dir := t.TempDir()
	if out, err := openssl(t, dir, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "sec1.pem"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := openssl(t, dir, "pkcs8", "-topk8", "-nocrypt", "-in", "sec1.pem", "-out", "tls.key"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	conf := "[req]\ndistinguished_name=dn\nreq_extensions=v3\nprompt=no\n[dn]\n[v3]\nsubjectAltName=URI:spiffe://" + domain + "/agent/reader\n"
	if err := os.WriteFile(filepath.Join(dir, "req.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := openssl(t, dir, "req", "-new", "-key", "tls.key", "-subj", "/", "-config", "req.conf", "-out", "req.pem"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	csr, err := pki.ParseCSR(must(os.ReadFile(filepath.Join(dir, "req.pem"))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newCA(t, pki.Agent).SignAgent(t.Context(), csr, agentid.Require("reader"), 0, epoch); err != nil {
		t.Error(err)
	}
	if _, err := pki.ParseKey(must(os.ReadFile(filepath.Join(dir, "tls.key")))); err != nil {
		t.Error(err)
	}
	// And the other way: openssl reads our request and finds its signature good.
	ours := must(pki.CSR(newKey(t), agentid.Require("reader"), domain))
	if err := os.WriteFile(filepath.Join(dir, "ours.pem"), ours, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := openssl(t, dir, "req", "-in", "ours.pem", "-noout", "-verify", "-text")
	if err != nil || !strings.Contains(out, "URI:spiffe://mesh.example/agent/reader") {
		t.Errorf("%v\n%s", err, out)
	}
}
