package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// written is a log that may be read while it is written.
type written struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// platformMesh is a mesh that lists issuers, and its log.
func platformMesh(t *testing.T, o devmesh.Options, issuers ...meshdir.OIDC) (*devmesh.Mesh, context.Context, *written) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	log := &written{}
	o.Log, o.ClientLog = zerolog.New(log), zerolog.Nop()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.Dir.Config.OIDC = issuers
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	return m, ctx, log
}

func oidcRule(issuer, subject string) registry.JoinRule {
	return registry.JoinRule{OIDC: registry.OIDCRule{Issuer: issuer, Audience: "sealmesh", Subject: subject}}
}

// register adds an agent without a join token.
func register(t *testing.T, ctx context.Context, m *devmesh.Mesh, n registry.NewAgent) error {
	t.Helper()
	var added wire.AddResult
	return m.Operate(ctx, wire.AdminRequest{Op: wire.OpAdd, New: &n, NoJoin: true}, &added)
}

func platform(t *testing.T, m *devmesh.Mesh, agent, token string) enrol.Platform {
	t.Helper()
	ca, err := m.Dir.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	return enrol.Platform{URL: m.Plane.URL(), CA: ca.RootHash(), Agent: agentid.Require(agent), Token: token}
}

func claims(issuer, subject string) map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": issuer, "sub": subject, "aud": []string{"other", "sealmesh"},
		"iat": now.Unix(), "nbf": now.Add(-time.Second).Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
}

func TestEnrolByPlatform(t *testing.T) {
	t.Parallel()
	good, unlisted := newIssuer(t), newIssuer(t)
	m, ctx, log := platformMesh(t, devmesh.Options{}, good.config())
	const subject = "system:serviceaccount:prod:pod"
	for name, rule := range map[string]registry.JoinRule{
		"pod": oidcRule(good.URL, subject), "other": oidcRule(good.URL, "system:serviceaccount:prod:other"), "plain": {}, "gone": oidcRule(good.URL, subject),
	} {
		n := registry.NewAgent{Agent: agentid.Require(name), Rights: registry.Rights{Call: scopes("read:logs")}, Join: rule}
		if err := register(t, ctx, m, n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Cut(ctx, wire.OpRevoke, "gone", ""); err != nil {
		t.Fatal(err)
	}
	err := register(t, ctx, m, registry.NewAgent{Agent: agentid.Require("stray"), Join: oidcRule(unlisted.URL, subject)})
	if denial.Of(err) != denial.BadInput {
		t.Errorf("a rule with an issuer that is not listed: got %v", err)
	}
	other := oidcRule(unlisted.URL, subject)
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "pod", Settings: &wire.Settings{Join: &other}}, new(wire.AgentView)); denial.Of(err) != denial.BadInput {
		t.Errorf("setting one: got %v", err)
	}

	edit := func(f func(map[string]any)) map[string]any { c := claims(good.URL, subject); f(c); return c }
	is := claims(good.URL, subject)
	var tokens []string
	for name, tt := range map[string]struct {
		agent, token string
		want         denial.Reason
	}{
		"another subject":         {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { c["sub"] = subject + "x" })), denial.BadJoinToken},
		"no subject":              {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { delete(c, "sub") })), denial.BadJoinToken},
		"another audience":        {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { c["aud"] = "vault" })), denial.BadJoinToken},
		"no audience":             {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { delete(c, "aud") })), denial.BadJoinToken},
		"expired":                 {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { c["exp"] = time.Now().Add(-time.Minute).Unix() })), denial.BadJoinToken},
		"never ends":              {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { delete(c, "exp") })), denial.BadJoinToken},
		"not valid yet":           {"pod", good.sign("RS256", "rsa", edit(func(c map[string]any) { c["nbf"] = time.Now().Add(time.Hour).Unix() })), denial.BadJoinToken},
		"another issuer":          {"pod", unlisted.sign("RS256", "rsa", claims(unlisted.URL, subject)), denial.BadJoinToken},
		"another issuer's key":    {"pod", unlisted.sign("RS256", "rsa", is), denial.BadJoinToken},
		"a key nobody has":        {"pod", unlisted.sign("ES256", "unknown", is), denial.BadJoinToken},
		"alg none":                {"pod", good.sign("none", "rsa", is), denial.BadJoinToken},
		"alg HS256":               {"pod", good.sign("HS256", "rsa", is), denial.BadJoinToken},
		"the alg of another key":  {"pod", good.sign("ES256", "rsa", is), denial.BadJoinToken},
		"another alg in the head": {"pod", strings.Replace(good.sign("RS256", "rsa", is), raw64([]byte(`{"alg":"RS256"`))[:16], raw64([]byte(`{"alg":"PS256"`))[:16], 1), denial.BadJoinToken},
		"an agent without a rule": {"plain", good.sign("RS256", "rsa", is), denial.BadJoinToken},
		"an agent that is not":    {"nobody", good.sign("RS256", "rsa", is), denial.BadJoinToken},
		"another agent's":         {"other", good.sign("RS256", "rsa", is), denial.BadJoinToken},
		"a revoked agent":         {"gone", good.sign("RS256", "rsa", is), denial.Revoked},
		"no token":                {"pod", "x", denial.BadJoinToken},
		"three dots":              {"pod", "a.b.c", denial.BadJoinToken},
		"a long one":              {"pod", strings.Repeat("a", 17<<10), denial.BadJoinToken},
	} {
		dir := filepath.Join(t.TempDir(), "pod")
		_, err := enrol.EnrolByPlatform(ctx, platform(t, m, tt.agent, tt.token), dir)
		if denial.Of(err) != tt.want {
			t.Errorf("%s: got %v, want %s", name, err, tt.want)
		}
		if len(tt.token) > 20 {
			tokens = append(tokens, tt.token)
			if strings.Contains(err.Error(), tt.token[len(tt.token)-20:]) {
				t.Errorf("%s: the refusal shows the token", name)
			}
		}
	}
	if n := unlisted.count("/keys") + unlisted.count("/.well-known/openid-configuration"); n != 0 {
		t.Errorf("an issuer that is not listed was asked %d times", n)
	}
	if v := show(t, ctx, m, "pod"); len(v.Instances) != 0 || v.Join != oidcRule(good.URL, subject) {
		t.Errorf("got %+v", v)
	}

	// Both kinds of keys, and new keys each time are a new instance each time.
	dirs := map[string]string{}
	for alg, kid := range map[string]string{"RS256": "rsa", "ES256": "ec"} {
		dirs[alg] = filepath.Join(t.TempDir(), "pod")
		p := platform(t, m, "pod", good.sign(alg, kid, is))
		tokens = append(tokens, p.Token)
		first, err := enrol.EnrolByPlatform(ctx, p, dirs[alg])
		if err != nil {
			t.Fatalf("%s: %v", alg, err)
		}
		again, err := enrol.EnrolByPlatform(ctx, p, dirs[alg])
		if err != nil || again.Instance != first.Instance {
			t.Errorf("%s again: got %s, %v, want %s", alg, again.Instance, err, first.Instance)
		}
	}
	if v := show(t, ctx, m, "pod"); len(v.Instances) != 2 {
		t.Errorf("got %d instances, want 2", len(v.Instances))
	}
	c := connect(t, ctx, m, dirs["ES256"])
	if got := c.ID(); got != agentid.Require("pod") {
		t.Errorf("connected as %s", got)
	}
	if n := good.count("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("discovered %d times within minutes", n)
	}
	// Whoever makes keys up has the issuer asked a few times, and not each time.
	before := good.count("/keys")
	for n := range 40 {
		_, err := enrol.EnrolByPlatform(ctx, platform(t, m, "pod", unlisted.sign("RS256", fmt.Sprint("made up ", n), is)), filepath.Join(t.TempDir(), "pod"))
		if err == nil {
			t.Fatal("enrolled by a key of nobody's")
		}
	}
	if asked := good.count("/keys") - before; asked > 35 {
		t.Errorf("the issuer was asked %d times by 40 made-up keys", asked)
	}
	if _, err := enrol.EnrolByPlatform(ctx, platform(t, m, "pod", good.sign("RS256", "rsa", is)), filepath.Join(t.TempDir(), "pod")); err != nil {
		t.Errorf("a known key, meanwhile: %v", err)
	}
	text := log.String()
	for _, token := range tokens {
		if strings.Contains(text, token[len(token)-20:]) || strings.Contains(text, registry.JoinHash(token)) {
			t.Error("the log shows a platform token")
		}
	}
	if !strings.Contains(text, "platform token is expired") {
		t.Errorf("the log says nothing of the refusals: %.2000s", text)
	}
}

// An issuer that answers anything else than its keys lets nobody in, and leads the
// control plane nowhere.
func TestIssuersThatMislead(t *testing.T) {
	t.Parallel()
	elsewhere := newIssuer(t)
	var list []meshdir.OIDC
	issuers := map[string]*issuer{}
	for name, spoil := range map[string]func(i *issuer){
		"keys on another host": func(i *issuer) { i.keysURL = elsewhere.URL + "/keys" },
		"keys without TLS":     func(i *issuer) { i.keysURL = strings.Replace(i.URL, "https://", "http://", 1) + "/keys" },
		"keys in a file":       func(i *issuer) { i.keysURL = "file:///etc/passwd" },
		"a redirect": func(i *issuer) {
			i.serve = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
				return true
			}
		},
		"keys redirected": func(i *issuer) {
			i.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/keys" {
					return false
				}
				http.Redirect(w, r, elsewhere.URL+"/keys", http.StatusTemporaryRedirect)
				return true
			}
		},
		"another's discovery": func(i *issuer) {
			i.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, "/.well") {
					fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, elsewhere.URL, i.URL+"/keys") //nolint:errcheck // the test sees it
					return true
				}
				return false
			}
		},
		"an answer that is too long": func(i *issuer) {
			i.serve = func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasPrefix(r.URL.Path, "/.well") {
					return false
				}
				fmt.Fprintf(w, `{"x":%q,"issuer":%q,"jwks_uri":%q}`, strings.Repeat("x", 300<<10), i.URL, i.keysURL) //nolint:errcheck // the test sees it
				return true
			}
		},
		"no answer":                func(i *issuer) { i.away = true },
		"a certificate of another": func(i *issuer) { i.ca = "" },
	} {
		i := newIssuer(t)
		spoil(i)
		issuers[name] = i
		list = append(list, i.config())
	}
	m, ctx, _ := platformMesh(t, devmesh.Options{}, list...)
	n := 0
	for name, i := range issuers {
		id := fmt.Sprint("pod", n)
		n++
		if err := register(t, ctx, m, registry.NewAgent{Agent: agentid.Require(id), Join: oidcRule(i.URL, "me")}); err != nil {
			t.Fatal(err)
		}
		_, err := enrol.EnrolByPlatform(ctx, platform(t, m, id, elsewhere.sign("RS256", "rsa", claims(i.URL, "me"))), filepath.Join(t.TempDir(), "pod"))
		if !errors.Is(err, enrol.ErrUnreachable) {
			t.Errorf("%s: got %v, want an outage", name, err)
		}
	}
	elsewhere.mu.Lock()
	defer elsewhere.mu.Unlock()
	if len(elsewhere.asked) != 0 {
		t.Errorf("another host was asked: %v", maps.Clone(elsewhere.asked))
	}
}

// Keys elsewhere are taken where sealmesh.yaml says so, and a key that the issuer
// took back counts no more than a little while.
func TestKeysElsewhere(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	other := newIssuer(t)
	o := i.config()
	o.KeysURL, o.CAFile = other.URL+"/keys", other.ca
	m, ctx, _ := platformMesh(t, devmesh.Options{}, o)
	if err := register(t, ctx, m, registry.NewAgent{Agent: agentid.Require("pod"), Join: oidcRule(i.URL, "me")}); err != nil {
		t.Fatal(err)
	}
	if _, err := enrol.EnrolByPlatform(ctx, platform(t, m, "pod", other.sign("RS256", "rsa", claims(i.URL, "me"))), filepath.Join(t.TempDir(), "pod")); err != nil {
		t.Fatal(err)
	}
	_, err := enrol.EnrolByPlatform(ctx, platform(t, m, "pod", i.sign("RS256", "rsa", claims(i.URL, "me"))), filepath.Join(t.TempDir(), "pod"))
	if denial.Of(err) != denial.BadJoinToken || len(i.asked) != 0 {
		t.Errorf("keys of discovery: got %v, asked %v", err, i.asked)
	}
	other.set(func() { other.keys = other.keys[1:] })
	m.Plane.ForgetPlatformKeys()
	_, err = enrol.EnrolByPlatform(ctx, platform(t, m, "pod", other.sign("RS256", "rsa", claims(i.URL, "me"))), filepath.Join(t.TempDir(), "pod"))
	if denial.Of(err) != denial.BadJoinToken {
		t.Errorf("a key that was taken back: got %v", err)
	}
	other.set(func() { other.away = true })
	m.Plane.ForgetPlatformKeys()
	_, err = enrol.EnrolByPlatform(ctx, platform(t, m, "pod", other.sign("ES256", "ec", claims(i.URL, "me"))), filepath.Join(t.TempDir(), "pod"))
	if !errors.Is(err, enrol.ErrUnreachable) {
		t.Errorf("an issuer that is away: got %v", err)
	}
}
