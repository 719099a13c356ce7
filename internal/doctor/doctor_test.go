package doctor_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/doctor"
	"github.com/sealmesh/sealmesh/internal/meshdir"
)

const day = 24 * time.Hour

func newMesh(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mesh")
	if _, err := meshdir.Init(dir, meshdir.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// offline takes root/ away, as operators are told to.
func offline(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, "root")); err != nil {
		t.Fatal(err)
	}
}

// offlineAt looks at the files as they will be later.
func offlineAt(t *testing.T, dir string, later time.Duration) doctor.Report {
	t.Helper()
	return doctor.Examine(t.Context(), doctor.Options{Dir: dir, Offline: true, Now: func() time.Time { return time.Now().Add(later) }})
}

// findings of one level.
func findings(r doctor.Report, l doctor.Level) (out []doctor.Finding) {
	for _, g := range r.Groups {
		for _, f := range g.Findings {
			if f.Level == l {
				out = append(out, f)
			}
		}
	}
	return out
}

func TestNothingIsWrong(t *testing.T) {
	t.Parallel()
	dir := newMesh(t)
	r := offlineAt(t, dir, 0)
	if !r.Healthy() || r.Warnings() != 1 || !strings.Contains(findings(r, doctor.Warning)[0].What, "root/authority.nk") {
		t.Errorf("got %+v, want a warning about the keys that are online and nothing else", r)
	}
	offline(t, dir)
	if r := offlineAt(t, dir, 0); !r.Healthy() || r.Warnings() != 0 || len(findings(r, doctor.OK)) < 4 {
		t.Errorf("got %+v, want nothing to complain of", r)
	}
}

// edit replaces what matches in a file, which must be there.
func edit(t *testing.T, path, pattern, by string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	re := regexp.MustCompile(pattern)
	at := re.FindIndex(text)
	if at == nil {
		t.Fatalf("%s has nothing like %s", path, pattern)
	}
	out := string(text[:at[0]]) + by + string(text[at[1]:])
	if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
		t.Fatal(err)
	}
}

// conf harms nats-server.conf; DIR is the mesh directory.
func conf(pattern, by string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		edit(t, filepath.Join(dir, "nats", "nats-server.conf"), pattern, strings.ReplaceAll(by, "DIR", dir))
	}
}

func TestFindings(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		harm   func(t *testing.T, dir string)
		later  time.Duration
		level  doctor.Level
		what   string
		remedy string
	}{
		"server certificate ends soon": {nil, 80 * day, doctor.Warning, "nats/server.crt", "start the control plane"},
		"server certificate ended":     {nil, 91 * day, doctor.Wrong, "nats/server.crt", "start the control plane"},
		"control certificate ended":    {nil, 91 * day, doctor.Wrong, "server/control.crt", "start the control plane"},
		"agent's certificate ended":    {nil, 2 * day, doctor.Warning, "agents/admin/tls.crt", "start the agent"},
		"signing keys end soon":        {nil, 80 * day, doctor.Warning, "the signing key for", "sealmesh keys renew"},
		"signing keys ended":           {nil, 91 * day, doctor.Wrong, "the signing key for", "sealmesh keys renew"},
		"intermediate ends soon":       {nil, 330 * day, doctor.Warning, "server/agent-ca.crt", "sealmesh ca rotate"},
		"intermediate ended":           {nil, 366 * day, doctor.Wrong, "server/infra-ca.crt", "sealmesh ca rotate"},
		"the clock is wrong":           {nil, -day, doctor.Wrong, "is not valid before", "clock"},
		"a secret for all": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "agents", "admin", "agent.nk"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Wrong, "agents/admin/agent.nk has mode 0640", "chmod 600"},
		"a key is missing": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "server", "tokens.nk")); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Wrong, "server/tokens.nk", "backup"},
		"a certificate is rubbish": {func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "nats", "server.crt"), []byte("-----BEGIN PRIVATE KEY-----"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Wrong, "nats/server.crt cannot be read", "backup"},
		"a seed for nats-server": {func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(dir, "server", "issuer.nk"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "nats", "notes.txt"), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Wrong, "nats/notes.txt holds a seed", "move it out"},
		"nowhere to remember": {func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, "sealmesh.yaml"), `(?m)^state: .*$`, `state: "gone"`)
		}, 0, doctor.Wrong, "the state directory cannot be written", "state in sealmesh.yaml"},
		"no log of epochs beside a registry": {func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "nats", "jetstream", "CTRL"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Warning, "there is no log of epochs", "never restore it"},
		"no nats-server.conf": {func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "nats", "nats-server.conf")); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Warning, "nats/nats-server.conf is not here", "where nats-server reads it"},
		"another issuer": {conf(`issuer: "A[A-Z0-9]+"`, `issuer: "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"`),
			0, doctor.Wrong, "issuer is not the mesh's", "sealmesh keys rotate issuer"},
		"no xkey":                    {conf(`(?m)^ *xkey: .*$`, ``), 0, doctor.Wrong, "there is no xkey", "as sealmesh init writes it"},
		"everybody is delegated":     {conf(`(?m)^ *allowed_accounts: .*$`, ``), 0, doctor.Wrong, "allowed_accounts is", "as sealmesh init writes it"},
		"no certificates":            {conf(`verify: +true`, `verify: false`), 0, doctor.Wrong, "asks for no certificate", "verify: true"},
		"old TLS":                    {conf(`min_version: "1.3"`, `min_version: "1.2"`), 0, doctor.Warning, "takes TLS older than 1.3", "min_version"},
		"a short control line":       {conf(`max_control_line: 16384`, `max_control_line: 4096`), 0, doctor.Warning, "max_control_line is 4096", "16384"},
		"a user with a password":     {conf(`(?m)^    users: \[$`, "    users: [\n      { user: eve, password: secret123456 }"), 0, doctor.Wrong, `user "eve" has a password`, "take the user out"},
		"a second user in CTRL":      {conf(`(?m)^    users: \[$`, "    users: [\n      { nkey: UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4 }"), 0, doctor.Wrong, `in account "CTRL" is not the mesh's`, "take the user out"},
		"a page for all":             {conf(`(?m)^max_payload`, "http: \"0.0.0.0:8222\"\nmax_payload"), 0, doctor.Wrong, "monitoring page", "127.0.0.1:8222"},
		"a page for the network":     {conf(`(?m)^max_payload`, "http: \"10.1.2.3:8222\"\nmax_payload"), 0, doctor.Warning, "monitoring page", "127.0.0.1:8222"},
		"rubbish for nats-server":    {conf(`(?m)^max_payload`, "no_such_setting: 1\nmax_payload"), 0, doctor.Wrong, "nats-server would refuse it", "nats-server -t"},
		"something that is insecure": {conf(`(?m)^max_payload`, "websocket { port: 8080, no_tls: true } # insecure\nmax_payload"), 0, doctor.Wrong, "the websocket listener has no TLS", "no_tls"},
		"routes for every agent": {conf(`(?m)^max_payload`, "cluster { name: m, listen: \"127.0.0.1:6222\", authorization { user: routes, password: secret1234567890 }\n"+
			`  tls { cert_file: "DIR/nats/server.crt", key_file: "DIR/nats/server.key", ca_file: "DIR/nats/ca.crt", verify: true, min_version: "1.3" } }`+"\nmax_payload"),
			0, doctor.Wrong, "the route listener believes the agent CA", "infra CA alone"},
		"no mesh": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}, 0, doctor.Wrong, "there is no mesh here", "sealmesh init"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newMesh(t)
			offline(t, dir)
			if tt.harm != nil {
				tt.harm(t, dir)
			}
			r := offlineAt(t, dir, tt.later)
			if r.Healthy() != (r.Problems() == 0) || tt.level == doctor.Wrong && r.Healthy() {
				t.Errorf("got healthy %v with %d problems", r.Healthy(), r.Problems())
			}
			found := false
			for _, f := range findings(r, tt.level) {
				found = found || strings.Contains(f.What, tt.what) && strings.Contains(f.Remedy, tt.remedy)
			}
			if !found {
				t.Errorf("got %+v, want %s about %q with the remedy %q", r, tt.level, tt.what, tt.remedy)
			}
			for _, l := range []doctor.Level{doctor.Warning, doctor.Wrong} {
				for _, f := range findings(r, l) {
					if f.Remedy == "" || strings.Contains(f.What, "\n") {
						t.Errorf("%+v: want one line and a remedy", f)
					}
				}
			}
		})
	}
}
