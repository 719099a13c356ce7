package enrol_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/enrol"
)

// The files of a directory in the order in which they are written: three keys before
// anything is asked, the rest out of the answer.
var order = []string{
	agentdir.KeyFile, agentdir.CurveFile, agentdir.TLSKeyFile,
	agentdir.TLSCertFile, agentdir.CAFile, agentdir.ContextFile, agentdir.InfoFile,
}

const keyFiles = 3

// Wherever a run ended, the next one finishes it: with the keys that are there, as
// the instance that they are, and with the use of the token that they took.
func TestInterruptedAfterEachFile(t *testing.T) {
	mesh := newMesh(t, "test.example")
	for n := range len(order) + 1 {
		name := "before any file"
		if n > 0 {
			name = "after " + order[n-1]
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, dir := newPlane(t, mesh), t.TempDir()
			first, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
			if err != nil {
				t.Fatal(err)
			}
			if n < keyFiles {
				p = newPlane(t, mesh) // nothing had been asked yet
			}
			for _, f := range order[n:] {
				if err := os.Remove(filepath.Join(dir, f)); err != nil {
					t.Fatal(err)
				}
			}
			left := contents(t, dir)
			again, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
			if err != nil {
				t.Fatal(err)
			}
			if same := again.Instance == first.Instance; same != (n > 0) {
				t.Errorf("got instance %s after %s", again.Instance, first.Instance)
			}
			if _, keys := p.seen(); slices.ContainsFunc(keys, func(k string) bool { return agentid.InstanceOf(k) != again.Instance }) {
				t.Error("several keys asked for one directory")
			}
			now := contents(t, dir)
			for f, text := range left {
				if slices.Contains(order[:keyFiles], f) && now[f] != text {
					t.Errorf("%s was changed", f)
				}
			}
			for _, f := range order {
				if _, ok := now[f]; !ok {
					t.Errorf("%s is missing", f)
				}
			}
			if d, err := agentdir.Open(dir); err != nil || d.Info.Instance != again.Instance {
				t.Errorf("opening it: %v", err)
			} else if _, err := d.Source(); err != nil {
				t.Errorf("its certificate: %v", err)
			}
			// Somebody else's run does not take it over, and changes nothing.
			_, err = enrol.Enrol(t.Context(), p.token("writer"), dir)
			if err == nil {
				t.Error("writer took reader's directory")
			}
			if after := contents(t, dir); fmt.Sprint(after) != fmt.Sprint(now) {
				t.Error("and changed it")
			}
		})
	}
}

// A platform's token goes the same way as a join token, and is no more shown.
func TestPlatformTokenInPlaceOfAJoinToken(t *testing.T) {
	p := newPlane(t, newMesh(t, "test.example"))
	j := p.token("reader")
	const token = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJl"
	who := enrol.Platform{URL: j.URL, CA: j.CA, Agent: j.Agent, Token: token}
	for _, s := range []string{fmt.Sprint(who), fmt.Sprintf("%+v", who), fmt.Sprintf("%#v", who)} {
		if strings.Contains(s, token) {
			t.Errorf("a platform identity in a log shows its token: %s", s)
		}
	}
	p.platform = token
	dir := t.TempDir()
	info, err := enrol.EnrolByPlatform(t.Context(), who, dir)
	if err != nil || info.Agent != j.Agent {
		t.Fatalf("got %+v, %v", info, err)
	}
	for name, text := range contents(t, dir) {
		if strings.Contains(text, token) {
			t.Errorf("%s holds the platform's token", name)
		}
	}
	p.platform = "another"
	_, err = enrol.EnrolByPlatform(t.Context(), who, dir)
	if denial.Of(err) != denial.BadJoinToken || strings.Contains(err.Error(), token) {
		t.Errorf("got %v", err)
	}
	for name, w := range map[string]enrol.Platform{
		"no token": {URL: j.URL, CA: j.CA, Agent: j.Agent}, "no agent": {URL: j.URL, CA: j.CA, Token: token},
		"no URL": {CA: j.CA, Agent: j.Agent, Token: token}, "no TLS": {URL: strings.Replace(j.URL, "https", "http", 1), CA: j.CA, Agent: j.Agent, Token: token},
		"no CA": {URL: j.URL, Agent: j.Agent, Token: token}, "another CA": {URL: j.URL, CA: strings.Repeat("A", 43), Agent: j.Agent, Token: token},
	} {
		n, _ := p.seen()
		if _, err := enrol.EnrolByPlatform(t.Context(), w, t.TempDir()); err == nil {
			t.Errorf("%s: enrolled", name)
		}
		if after, _ := p.seen(); after != n {
			t.Errorf("%s: the token was sent", name)
		}
	}
}
