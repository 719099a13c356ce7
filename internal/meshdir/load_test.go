package meshdir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

func TestLoadGivesWhatInitMade(t *testing.T) {
	made := newMesh(t)
	m, err := meshdir.Load(made.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want := meshdir.Config{
		TrustDomain: "test.example", Prefix: "mesh",
		NATS:        meshdir.NATS{Listen: "127.0.0.1:4222", Store: "nats/jetstream", ServerName: "nats-1"},
		Control:     meshdir.Control{Listen: "127.0.0.1:4223", URL: "https://127.0.0.1:4223"},
		Heartbeat:   meshdir.Heartbeat{Interval: 30 * time.Second, Timeout: 90 * time.Second, MassExpiryShare: 0.3},
		Session:     meshdir.Session{TTL: time.Hour},
		Certificate: meshdir.Certificate{TTL: 24 * time.Hour},
		Token:       meshdir.Token{TTL: 720 * time.Hour}, Replicas: 1,
		Audit: meshdir.Audit{MaxAge: 168 * time.Hour, MaxBytes: 1 << 30},
	}
	got := m.Config
	if len(got.NATS.URLs) != 1 || got.NATS.URLs[0] != "tls://127.0.0.1:4222" {
		t.Errorf("got URLs %q", got.NATS.URLs)
	}
	got.NATS.URLs = nil
	if got.NATS.Listen != want.NATS.Listen || got.Control != want.Control || got.Heartbeat != want.Heartbeat ||
		got.Session != want.Session || got.Certificate.TTL != want.Certificate.TTL || got.Certificate.Issuer != meshdir.IssuerEmbedded || got.Token != want.Token || got.Audit != want.Audit ||
		got.Replicas != want.Replicas || got.TrustDomain != want.TrustDomain || got.Prefix != want.Prefix ||
		got.NATS.Store != want.NATS.Store || got.NATS.ServerName != want.NATS.ServerName {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if ring, err := m.Ring(); err != nil || len(ring.Roots()) != 1 || len(ring.Certificates()) != 2 {
		t.Errorf("got ring %v, %v", ring, err)
	}
	if len(m.Roots()) != 1 || !strings.HasPrefix(m.Roots()[0], "A") || len(m.SigningKeyCertificates()) != 2 {
		t.Errorf("got roots %v", m.Roots())
	}
}

// The control plane's host has sealmesh.yaml and server/ and nothing else.
func TestLoadNeedsServerAlone(t *testing.T) {
	m := newMesh(t)
	for _, d := range []string{"root", "nats", "agents"} {
		if err := os.RemoveAll(filepath.Join(m.Dir, d)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := meshdir.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.ControlSource(); err != nil {
		t.Error(err)
	}
}

func TestLoadRefusesConfigurations(t *testing.T) {
	replace := func(old, new string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, new, 1) }
	}
	tests := map[string]struct {
		edit       func(string) string
		want, hint string
		line       bool
	}{
		"misspelt key":          {replace("  interval:", "  intervall:"), `unknown key "intervall"`, `did you mean "interval"?`, true},
		"misspelt section":      {replace("heartbeat:", "hartbeat:"), `unknown key "hartbeat"`, `did you mean "heartbeat"?`, true},
		"unknown key":           {replace("replicas: 1", "replicas: 1\nallow_everything: true"), `unknown key "allow_everything"`, "remove it", true},
		"key in another place":  {replace("replicas: 1", "replicas: 1\ninterval: 30s"), `unknown key "interval"`, "", true},
		"upper case":            {replace("replicas: 1", "Replicas: 1"), `unknown key "Replicas"`, `did you mean "replicas"?`, true},
		"key twice":             {replace("replicas: 1", "replicas: 1\nreplicas: 3"), "replicas", "", true},
		"duration without unit": {replace("interval: 30s", "interval: 30"), "", "durations are written as", true},
		"duration of words":     {replace("interval: 30s", "interval: 30 seconds"), "30 seconds", "durations are written as", false},
		"negative duration":     {replace("interval: 30s", "interval: -30s"), "heartbeat.interval", "", false},
		"share is no number":    {replace("mass_expiry_share: 0.3", "mass_expiry_share: .nan"), "mass_expiry_share", "", false},
		"short timeout":         {replace("timeout: 1m30s", "timeout: 31s"), "heartbeat.timeout: must be at least twice", "", false},
		"no trust domain":       {replace(`trust_domain: "test.example"`, ""), "trust_domain", "", false},
		"plain NATS":            {replace("tls://", "nats://"), "nats.urls", "", false},
		"no NATS":               {replace("    - \"tls://127.0.0.1:4222\"\n", ""), "nats.urls", "", false},
		"two documents":         {func(s string) string { return s + "---\nreplicas: 3\n" }, "more than one", "", false},
		"empty":                 {func(string) string { return "" }, "empty", "", false},
		"only comments":         {func(string) string { return "# later\n" }, "", "", false},
		"a list":                {func(string) string { return "- a\n" }, "", "", false},
		"not YAML":              {func(string) string { return "a: [\n" }, "", "", false},
		"too long":              {func(s string) string { return s + strings.Repeat("# padding\n", 7000) }, "longer than", "", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMesh(t)
			path := filepath.Join(m.Dir, meshdir.ConfigFile)
			edit(t, path, tt.edit)
			_, err := meshdir.Load(m.Dir)
			var e *meshdir.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %v, want an Error", err)
			}
			if e.Path != path || !strings.Contains(e.Problem, tt.want) || !strings.Contains(e.Hint(), tt.hint) {
				t.Errorf("got %v, want %q with hint %q", err, tt.want, tt.hint)
			}
			if text := e.Error(); strings.Contains(text, "\n") || !strings.Contains(text, e.Hint()) {
				t.Errorf("got %q, want one line with the hint", text)
			}
			if !tt.line {
				return
			}
			text, _ := os.ReadFile(path)
			lines := strings.Split(string(text), "\n")
			if e.Line < 1 || e.Line > len(lines) || strings.HasPrefix(lines[e.Line-1], "#") {
				t.Errorf("got line %d", e.Line)
			}
		})
	}
}

func TestLoadTakesAShortFile(t *testing.T) {
	m := newMesh(t)
	edit(t, filepath.Join(m.Dir, meshdir.ConfigFile), func(string) string {
		return "trust_domain: test.example\nnats: {urls: [\"tls://n1.example:4222\"], listen: 127.0.0.1:4222}\n" +
			"control: {listen: 127.0.0.1:4223, url: https://c.example:4223}\nheartbeat: {interval: 10s}\nsession:\n  ttl:\ntoken:\n"
	})
	m, err := meshdir.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.Heartbeat != (meshdir.Heartbeat{Interval: 10 * time.Second, Timeout: 90 * time.Second, MassExpiryShare: 0.3}) ||
		m.Config.Session.TTL != time.Hour || m.Config.Token.TTL != 720*time.Hour || m.Config.Prefix != "mesh" || m.Config.NATS.Store != "nats/jetstream" {
		t.Errorf("got %+v, want the defaults where the file is silent", m.Config)
	}
}

func TestLoadRefusesWideSecrets(t *testing.T) {
	for _, name := range []string{
		"root/authority.nk", "root/agent-ca.key", "root/infra-ca.key",
		"server/tokens.nk", "server/records.nk", "server/issuer.nk", "server/xkey.nk", "server/service.nk", "server/system.nk",
		"server/agent-ca.key", "server/infra-ca.key", "server/control.key", "nats/server.key",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			path := filepath.Join(m.Dir, name)
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			_, err := meshdir.Load(m.Dir)
			var mode *pki.ModeError
			if !errors.As(err, &mode) || mode.Path != path || !strings.Contains(err.Error(), "chmod 600 "+path) {
				t.Errorf("got %v, want the chmod command for %s", err, path)
			}
		})
	}
}

func TestLoadRefusesWhatIsNoMesh(t *testing.T) {
	half := newMesh(t)
	if err := os.Remove(filepath.Join(half.Dir, meshdir.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	gone := newMesh(t)
	if err := os.Remove(filepath.Join(gone.Dir, "server", "issuer.nk")); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for name, tt := range map[string]struct{ dir, want, hint string }{
		"absent":           {filepath.Join(empty, "mesh"), "no mesh", "sealmesh init"},
		"empty":            {empty, "no mesh", "sealmesh init"},
		"interrupted init": {half.Dir, "did not finish", "remove the directory"},
		"missing secret":   {gone.Dir, "missing", "backup"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := meshdir.Load(tt.dir)
			var e *meshdir.Error
			if !errors.As(err, &e) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(e.Problem, tt.want) || !strings.Contains(e.Hint(), tt.hint) {
				t.Errorf("got %v, want %q with hint %q", err, tt.want, tt.hint)
			}
		})
	}
}

// A key in another key's file is refused before it signs anything.
func TestKeysAreOfTheirKind(t *testing.T) {
	m := newMesh(t)
	read := map[string]func() error{
		"tokens.nk":  func() error { _, err := m.TokensKey(); return err },
		"records.nk": func() error { _, err := m.RecordsKey(); return err },
		"issuer.nk":  func() error { _, err := m.IssuerKey(); return err },
		"xkey.nk":    func() error { _, err := m.XKey(); return err },
		"service.nk": func() error { _, err := m.ServiceKey(); return err },
		"system.nk":  func() error { _, err := m.SystemKey(); return err },
	}
	seed := func(name string) string {
		b, err := os.ReadFile(filepath.Join(m.Dir, "server", name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	account, user, curve := seed("tokens.nk"), seed("service.nk"), seed("xkey.nk")
	wrong := map[string][]string{
		"tokens.nk": {user, curve}, "records.nk": {user, curve}, "issuer.nk": {user, curve},
		"xkey.nk": {account, user}, "service.nk": {account, curve}, "system.nk": {account, curve},
	}
	for name, get := range read {
		if err := get(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, other := range append(wrong[name], "", "junk", strings.ToLower(account)) {
			edit(t, filepath.Join(m.Dir, "server", name), func(string) string { return other })
			err := get()
			if err == nil {
				t.Errorf("%s: a key of another kind is taken", name)
			} else if s := strings.TrimSpace(other); s != "" && strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error quotes the file", name)
			}
		}
	}
}

// Certificates by a root that is not pinned make the whole directory unusable.
func TestLoadRefusesForeignSigningKeys(t *testing.T) {
	m, other := newMesh(t), newMesh(t)
	path := filepath.Join(m.Dir, "server", "signing-keys.json")
	edit(t, path, func(s string) string { return strings.Replace(s, m.Roots()[0], other.Roots()[0], 1) })
	var e *meshdir.Error
	if _, err := meshdir.Load(m.Dir); !errors.As(err, &e) || e.Path != path {
		t.Errorf("got %v, want an Error about %s", err, path)
	}
}
