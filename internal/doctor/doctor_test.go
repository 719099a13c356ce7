package doctor_test

import (
	"os"
	"path/filepath"
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
	r := doctor.Examine(t.Context(), dir, time.Now())
	if !r.Healthy() || r.Warnings() != 1 || !strings.Contains(findings(r, doctor.Warning)[0].What, "root/authority.nk") {
		t.Errorf("got %+v, want a warning about the keys that are online and nothing else", r)
	}
	offline(t, dir)
	if r := doctor.Examine(t.Context(), dir, time.Now()); !r.Healthy() || r.Warnings() != 0 || len(findings(r, doctor.OK)) < 4 {
		t.Errorf("got %+v, want nothing to complain of", r)
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
			r := doctor.Examine(t.Context(), dir, time.Now().Add(tt.later))
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
