package vault_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
	"github.com/sealmesh/sealmesh/test/rotation/load"
)

// mesh is one whose agents' certificates are signed by the documented role, unless
// change says otherwise.
func (s *server) mesh(t *testing.T, ttl time.Duration, log zerolog.Logger, change func(*meshdir.Vault)) *devmesh.Mesh {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	m, err := devmesh.Start(ctx, filepath.Join(t.TempDir(), "mesh"), devmesh.Options{
		Log: log, ClientLog: zerolog.Nop(),
		Configure: func(o *meshdir.InitOptions) {
			o.TrustDomain = trustDomain
			o.Certificate.Issuer, o.Certificate.TTL = meshdir.IssuerVault, ttl
			o.Vault = meshdir.Vault{
				Address: s.addr, Mount: "sealmesh", Role: "agents", CAFile: s.ca,
				AppRole: meshdir.AppRole{RoleIDFile: filepath.Join(s.dir, "role-id"), SecretIDFile: filepath.Join(s.dir, "secret-id")},
			}
			if change != nil {
				change(&o.Vault)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// issuerOf reads who signed the certificate in an agent's directory.
func issuerOf(t *testing.T, dir string) (issuer, serial string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		t.Fatal(err)
	}
	return chain[0].Issuer.CommonName, chain[0].SerialNumber.Text(16)
}

// lines collects a log.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// agent is of a kind that comes back after the end of its certificate: on a slow
// machine a seal may last that long.
func agent(id string) registry.NewAgent {
	return registry.NewAgent{
		Agent: agentid.Require(id), Kind: registry.Person, Heartbeat: registry.HeartbeatNone,
		Rights: registry.Rights{Handle: []capability.Scope{capability.RequireScope("do:" + id)}},
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

// An agent is enrolled, connects and renews by Vault. While Vault is sealed whoever
// is there stays, a control plane starts, and who wants a certificate is told to come
// back; once it is unsealed, the same join token works.
func TestMesh(t *testing.T) {
	s := running(t) // seals: not beside others
	var log lines
	m := s.mesh(t, 20*time.Second, zerolog.New(&log), nil)
	if _, err := os.Stat(filepath.Join(m.Dir.Dir, "server", "agent-ca.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want no key of an agent CA", err)
	}
	dir, err := m.Add(t.Context(), agent("reader"))
	if err != nil {
		t.Fatal(err)
	}
	issuer, first := issuerOf(t, dir)
	if issuer != "Sealmesh agents" {
		t.Errorf("got a certificate by %q, want the intermediate in Vault", issuer)
	}
	c, err := m.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	renewed := func() bool { _, now := issuerOf(t, dir); return now != first }
	eventually(t, "a renewal", renewed)

	if err := s.seal(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a line in the log about the seal", func() bool {
		return strings.Contains(log.String(), "vault operator unseal")
	})
	if strings.Contains(log.String(), "hvs.") {
		t.Error("the log shows a token of Vault")
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	if err := m.UpPlane(t.Context()); err != nil {
		t.Fatalf("a control plane does not start beside a sealed Vault: %v", err)
	}
	_, err = m.Add(t.Context(), agent("late"))
	if !errors.Is(err, enrol.ErrUnreachable) {
		t.Errorf("enrolling beside a sealed Vault got %v, want ErrUnreachable, after which it is tried again", err)
	}
	if err := s.unseal(); err != nil {
		t.Fatal(err)
	}
	_, first = issuerOf(t, dir)
	eventually(t, "a renewal after the seal", renewed)
	late, err := m.Instance(t.Context(), agentid.Require("late"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.Connect(t.Context(), late)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "a line in the log that it is over", func() bool {
		return strings.Contains(log.String(), "can be issued again")
	})
}

// Another root in Vault stops renewals and nothing else, until an operator takes it in
// by the two files that docs/operations.md names.
func TestRootChangedOnPurpose(t *testing.T) {
	s := running(t)
	t.Parallel()
	var log lines
	role := s.role(t, nil)
	_, file := s.token(t, role, nil)
	m := s.mesh(t, 20*time.Second, zerolog.New(&log), func(v *meshdir.Vault) {
		v.Role, v.TokenFile, v.AppRole = role, file, meshdir.AppRole{}
	})
	dir, err := m.Add(t.Context(), agent("reader"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // the test is over
	made := s.write(t, "sealmesh/issuers/generate/root/internal", map[string]any{"common_name": "Second root", "key_type": "ec", "key_bits": 256, "ttl": "24h"})
	s.role(t, map[string]any{"issuer_ref": made.Data["issuer_id"]})
	eventually(t, "a line in the log about the root", func() bool {
		return strings.Contains(log.String(), "Second root") && strings.Contains(log.String(), "take the new root in")
	})
	if issuer, _ := issuerOf(t, dir); issuer != "Sealmesh agents" {
		t.Errorf("got a certificate by %q, which nobody took in", issuer)
	}
	root, ok := made.Data["certificate"].(string)
	if !ok {
		t.Fatalf("got %+v", made.Data)
	}
	for _, name := range []string{"nats/ca.crt", "server/agent-ca.crt"} {
		path := filepath.Join(m.Dir.Dir, filepath.FromSlash(name))
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := pki.WriteFile(path, append(text, root+"\n"...)); err != nil {
			t.Fatal(err)
		}
		if err := m.Server.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a renewal under the new root", func() bool {
		issuer, _ := issuerOf(t, dir)
		return issuer == "Second root"
	})
	fresh, err := m.Instance(t.Context(), agentid.Require("reader"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := m.Connect(t.Context(), fresh)
	if err != nil {
		t.Fatalf("with a certificate under the new root: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// What docs/operations.md says about the mesh works as it stands there, and doctor
// finds nothing wrong with it; and does, when there is.
func TestTheDocumentedMesh(t *testing.T) {
	s := running(t)
	t.Parallel()
	_, script, err := documented()
	if err != nil {
		t.Fatal(err)
	}
	tools := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(tools, "sealmesh"), "../../cmd/sealmesh").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dir := t.TempDir()
	for _, name := range []string{"vault-ca.pem", "vault-token"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sh := func(script string) ([]byte, error) {
		c := exec.Command("sh", "-eu")
		c.Dir, c.Env = dir, append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"))
		c.Stdin = strings.NewReader(strings.ReplaceAll(script, "https://vault.example.org:8200", s.addr))
		return c.CombinedOutput()
	}
	out, err := sh(script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "Vault serves the pinned root") {
		t.Errorf("doctor did not look at Vault:\n%s", out)
	}
	role := s.role(t, map[string]any{"server_flag": true, "max_ttl": 3600, "ttl": 60})
	_, file := s.token(t, role, nil)
	if out, err := sh(fmt.Sprintf("sed -i 's|^  role: .*|  role: %q|; s|^  token_file: .*|  token_file: %q|' mesh/sealmesh.yaml", role, file)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err = sh("sealmesh doctor --offline --json")
	if e := (*exec.ExitError)(nil); !errors.As(err, &e) || e.ExitCode() != 1 {
		t.Errorf("doctor with a wrong role got %v, want exit code 1\n%s", err, out)
	}
	var doc struct {
		Schema   string
		Healthy  bool
		Problems int
		Groups   []struct {
			Findings []struct{ Level, What, Remedy string }
		}
	}
	if err := json.Unmarshal(out, &doc); err != nil || doc.Schema != "sealmesh.doctor/v1" || doc.Healthy || doc.Problems != 2 {
		t.Fatalf("got %+v, %v, want two problems\n%s", doc, err, out)
	}
	for _, g := range doc.Groups {
		for _, f := range g.Findings {
			if f.Level == "wrong" {
				s.shell(t, f.Remedy)
			}
		}
	}
	if out, err := sh("sealmesh doctor --offline"); err != nil {
		t.Errorf("after the remedies: %v\n%s", err, out)
	}
	out, err = sh(strings.ReplaceAll(strings.SplitAfter(script, "\n")[0], "sealmesh init", "sealmesh init --mesh other") + "\n")
	if err != nil {
		t.Errorf("a second mesh: %v\n%s", err, out)
	}
	if err := os.Chmod(filepath.Join(dir, "vault-token"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err = sh(strings.ReplaceAll(script, "sealmesh init", "sealmesh init --mesh third"))
	if err == nil || !strings.Contains(string(out), "chmod 600") {
		t.Errorf("init with a token that others can read got %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "third")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v: a mesh that could not be made was left behind", err)
	}
}

// Ten agents under load whose certificates live a minute. Four times Vault is sealed
// for a quarter of that, a minute in all: a certificate that was to be renewed then
// has half of its life left. Nothing is lost. (No connection outlives its
// certificate, so a Vault that is away for longer than half of a life cuts agents
// off; with lives of a day that is half a day.)
//
//	make test-vault VAULT_FOR=10m
func TestSealedUnderLoad(t *testing.T) {
	s := running(t)
	if *loadFor == 0 {
		t.Skip("LEFT OUT: make test-vault VAULT_FOR=10m runs it")
	}
	ttl := min(time.Minute, *loadFor/10)
	m := s.mesh(t, ttl, zerolog.Nop(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	var sealing sync.WaitGroup
	sealing.Go(func() {
		begun := time.Now()
		for n := range time.Duration(4) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(begun.Add(*loadFor * (n + 1) / 5))):
			}
			if err := s.seal(); err != nil {
				t.Error(err)
			}
			t.Logf("sealed after %s", time.Since(begun).Round(time.Second))
			time.Sleep(ttl / 4) // a time that has to pass
			if err := s.unseal(); err != nil {
				t.Error(err)
			}
			t.Logf("unsealed after %s", time.Since(begun).Round(time.Second))
		}
	})
	report, err := load.Run(ctx, m, load.Options{
		For: *loadFor, Calls: 200, Events: 200,
		Progress: func(sample load.Sample) { t.Logf("%+v", sample) },
	})
	cancel()
	sealing.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", report)
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	for id, n := range report.Certificates {
		if n < 11 { // with the first
			t.Errorf("the certificate of %s was replaced %d times, want ten", id, n-1)
		}
	}
}
