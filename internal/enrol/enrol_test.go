package enrol_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// An enrolled directory is complete and proves its agent to somebody who knows
// the mesh's roots alone.
func TestEnrol(t *testing.T) {
	p := newPlane(t, newMesh(t, "test.example"))
	dir := filepath.Join(t.TempDir(), "agents", "reader")
	token := p.token("reader")
	info, err := enrol.Enrol(t.Context(), token, dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(d.Info), fmt.Sprint(info); got != want {
		t.Errorf("agent.json is %s, returned was %s", got, want)
	}
	if info.Agent != token.Agent || info.TrustDomain != "test.example" || info.Prefix != "mesh" || info.Control != p.url || info.CA != token.CA {
		t.Errorf("got %+v", info)
	}
	key, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if n, keys := p.seen(); n != 1 || len(keys) != 1 || keys[0] != pub {
		t.Errorf("the control plane saw %d requests of %v, want one of %s", n, keys, pub)
	}
	ring, err := p.mesh.Ring()
	if err != nil {
		t.Fatal(err)
	}
	passport, err := capability.VerifyPassport(info.Passport, ring, time.Now())
	if err != nil || passport.Agent != token.Agent || passport.Key != pub {
		t.Errorf("passport %+v, %v", passport, err)
	}
	source, err := d.Source()
	if err != nil {
		t.Fatal(err)
	}
	if err := source.Leaf().VerifyHostname("reader"); err == nil {
		t.Error("the certificate has a host name")
	}
	if got, want := source.Leaf().URIs[0].String(), token.Agent.SPIFFE("test.example"); got != want {
		t.Errorf("certificate is for %s, want %s", got, want)
	}
	for name, text := range contents(t, dir) {
		private := strings.HasSuffix(name, ".nk") || name == agentdir.TLSKeyFile || strings.HasSuffix(name, ".lock")
		if private != strings.HasPrefix(text, "-rw------- ") {
			t.Errorf("%s has mode %.10s", name, text)
		}
		if strings.Contains(text, secret) {
			t.Errorf("%s holds the join secret", name)
		}
	}
	for _, name := range []string{agentdir.ContextFile, agentdir.CAFile, agentdir.CurveFile} {
		if _, err := os.Stat(d.File(name)); err != nil {
			t.Error(err)
		}
	}
}

// Whatever broke, running it again finishes with the same keys, which is what
// the control plane bound the token to.
func TestInterruptedRunResumes(t *testing.T) {
	hangUp := func(w http.ResponseWriter) bool {
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_ = c.Close()
		}
		return true
	}
	breaks := map[string]func(*plane){
		"before the request is read": func(p *plane) { p.before = func(w http.ResponseWriter, _ *http.Request) bool { return hangUp(w) } },
		"after the registration":     func(p *plane) { p.after = hangUp },
		"in an outage": func(p *plane) {
			p.before = func(w http.ResponseWriter, _ *http.Request) bool {
				http.Error(w, "upstream is gone", http.StatusBadGateway)
				return true
			}
		},
	}
	for name, breakIt := range breaks {
		t.Run(name, func(t *testing.T) {
			p := newPlane(t, newMesh(t, "test.example"))
			dir := t.TempDir()
			breakIt(p)
			_, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
			if !errors.Is(err, enrol.ErrUnreachable) || strings.Contains(err.Error(), secret) {
				t.Fatalf("got %v, want ErrUnreachable without the secret", err)
			}
			before := contents(t, dir)
			if _, ok := before[agentdir.InfoFile]; ok || len(before) != 3 {
				t.Errorf("an interrupted run left %d files", len(before))
			}
			p.mu.Lock()
			p.before, p.after = nil, nil
			p.mu.Unlock()
			info, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
			if err != nil {
				t.Fatal(err)
			}
			_, keys := p.seen()
			if agentid.InstanceOf(keys[0]) != info.Instance {
				t.Error("the second run made another instance")
			}
			after := contents(t, dir)
			for name, text := range before {
				if after[name] != text {
					t.Errorf("%s was changed", name)
				}
			}
		})
	}

	t.Run("while writing", func(t *testing.T) {
		p := newPlane(t, newMesh(t, "test.example"))
		dir := t.TempDir()
		first, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{agentdir.InfoFile, agentdir.ContextFile} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		again, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
		if err != nil || again.Instance != first.Instance {
			t.Errorf("got instance %s, %v, want %s", again.Instance, err, first.Instance)
		}
	})

	t.Run("complete already", func(t *testing.T) {
		p := newPlane(t, newMesh(t, "test.example"))
		dir := t.TempDir()
		first, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
		if err != nil {
			t.Fatal(err)
		}
		again, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
		if err != nil || again.Instance != first.Instance {
			t.Errorf("got instance %s, %v, want %s", again.Instance, err, first.Instance)
		}
	})
}

// A server that is not the pinned control plane gets no request, and no key is
// made for it.
func TestOtherServersGetNothing(t *testing.T) {
	mesh, other := newMesh(t, "test.example"), newMesh(t, "test.example")
	foreign, err := other.ControlSource()
	if err != nil {
		t.Fatal(err)
	}
	natsServer, err := pki.NewSource(filepath.Join(mesh.Dir, "nats", "server.crt"), filepath.Join(mesh.Dir, "nats", "server.key"), "", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]*plane{
		"another CA":              serve(t, mesh, foreign.ServerTLS()),
		"a nats-server's host":    serve(t, mesh, natsServer.ServerTLS()),
		"TLS 1.2":                 tls12(t, mesh),
		"a name not in the chain": renamed(t, mesh),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
			if err == nil {
				t.Fatal("enrolled")
			}
			if name != "TLS 1.2" && (!errors.Is(err, enrol.ErrWrongServer) || errors.Is(err, enrol.ErrUnreachable)) {
				t.Errorf("got %v, want ErrWrongServer", err)
			}
			if n, _ := p.seen(); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
			if got := contents(t, dir); len(got) != 0 {
				t.Errorf("the directory has %v", got)
			}
		})
	}
}

func TestDirectoryOfSomebodyElseStays(t *testing.T) {
	mesh := newMesh(t, "test.example")
	p, other := newPlane(t, mesh), newPlane(t, newMesh(t, "test.example"))
	enrolled := func(p *plane, agent string) string {
		dir := t.TempDir()
		if _, err := enrol.Enrol(t.Context(), p.token(agent), dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	swapped := enrolled(newPlane(t, mesh), "reader")
	if err := os.Remove(filepath.Join(swapped, agentdir.KeyFile)); err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteSecret(filepath.Join(swapped, agentdir.KeyFile), seed); err != nil {
		t.Fatal(err)
	}
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, agentdir.InfoFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{
		"another agent":             enrolled(newPlane(t, mesh), "writer"),
		"the same, of another mesh": enrolled(other, "reader"),
		"another key than it says":  swapped,
		"an agent.json of no agent": damaged,
		"the admin of the mesh":     mesh.AgentDir("admin"),
	} {
		t.Run(name, func(t *testing.T) {
			before := contents(t, dir)
			_, err := enrol.Enrol(t.Context(), p.token("reader"), dir)
			if err == nil {
				t.Fatal("enrolled")
			}
			if n, _ := p.seen(); n != 0 {
				t.Errorf("%d requests were sent", n)
			}
			if !maps.Equal(before, contents(t, dir)) {
				t.Error("the directory was changed")
			}
		})
	}
}

// An answer that is not for these keys is not written.
func TestBadAnswers(t *testing.T) {
	mesh, other := newMesh(t, "test.example"), newMesh(t, "test.example")
	// What the mesh would give another instance of the same agent.
	var stolen wire.EnrollResponse
	thief := newPlane(t, mesh)
	thief.edit = func(r *wire.EnrollResponse) { stolen = *r }
	if _, err := enrol.Enrol(t.Context(), thief.token("reader"), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	otherCA, err := other.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	writer := newPlane(t, mesh)
	var foreign wire.EnrollResponse
	writer.edit = func(r *wire.EnrollResponse) { foreign = *r }
	if _, err := enrol.Enrol(t.Context(), writer.token("writer"), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	leafOnly := func(r *wire.EnrollResponse) {
		leaf, _, _ := strings.Cut(r.Certificate, "-----END CERTIFICATE-----\n")
		r.Certificate = leaf + "-----END CERTIFICATE-----\n"
	}
	for name, edit := range map[string]func(*wire.EnrollResponse){
		"another schema":          func(r *wire.EnrollResponse) { r.Schema = "sealmesh.enrolment/v2" },
		"another agent":           func(r *wire.EnrollResponse) { r.Agent = agentid.Require("writer") },
		"another trust domain":    func(r *wire.EnrollResponse) { r.TrustDomain = "other.example" },
		"no prefix":               func(r *wire.EnrollResponse) { r.Prefix = "" },
		"a prefix of everything":  func(r *wire.EnrollResponse) { r.Prefix = ">" },
		"no nats-server":          func(r *wire.EnrollResponse) { r.NATS = nil },
		"nats-server without TLS": func(r *wire.EnrollResponse) { r.NATS = []string{"nats://127.0.0.1:4222"} },
		"no roots":                func(r *wire.EnrollResponse) { r.Roots = nil },
		"roots of another mesh":   func(r *wire.EnrollResponse) { r.Roots = other.Roots() },
		"no signing keys":         func(r *wire.EnrollResponse) { r.SigningKeys = nil },
		"no passport":             func(r *wire.EnrollResponse) { r.Passport = "" },
		"passport of other keys":  func(r *wire.EnrollResponse) { r.Passport = stolen.Passport },
		"passport of another":     func(r *wire.EnrollResponse) { r.Passport = foreign.Passport },
		"certificate of a key":    func(r *wire.EnrollResponse) { r.Certificate = stolen.Certificate },
		"certificate of another":  func(r *wire.EnrollResponse) { r.Certificate = foreign.Certificate },
		"no certificate":          func(r *wire.EnrollResponse) { r.Certificate = "" },
		"no intermediate":         leafOnly,
		"no CA":                   func(r *wire.EnrollResponse) { r.CA = "" },
		"CA of another mesh":      func(r *wire.EnrollResponse) { r.CA = string(otherCA.Roots()) },
		"leaf as CA":              func(r *wire.EnrollResponse) { r.CA += r.Certificate },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t, mesh)
			p.edit = edit
			dir := t.TempDir()
			if _, err := enrol.Enrol(t.Context(), p.token("reader"), dir); err == nil {
				t.Error("the answer was accepted")
			}
			got := contents(t, dir)
			for _, name := range []string{agentdir.InfoFile, agentdir.TLSCertFile, agentdir.CAFile, agentdir.ContextFile} {
				if _, ok := got[name]; ok {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
}

// The parts of an answer belong together: each of these is right for this
// host's nkey or TLS key and wrong for the rest of it.
func TestMixedAnswers(t *testing.T) {
	mesh, now := newMesh(t, "test.example"), time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, edit := range map[string]func(r *wire.EnrollResponse, dir string){
		"passport with another curve key": func(r *wire.EnrollResponse, _ string) {
			ring, err := mesh.Ring()
			must(err)
			passport, err := capability.VerifyPassport(r.Passport, ring, now)
			must(err)
			curve, err := nkeys.CreateCurveKeys()
			must(err)
			pub, err := curve.PublicKey()
			must(err)
			records, err := mesh.RecordsKey()
			must(err)
			r.Passport, err = capability.IssuePassport(records, passport.Agent, passport.Key, pub, now)
			must(err)
		},
		"certificate of another agent for this key": func(r *wire.EnrollResponse, dir string) {
			text, err := pki.ReadSecret(filepath.Join(dir, agentdir.TLSKeyFile))
			must(err)
			key, err := pki.ParseKey(text)
			must(err)
			writer := agentid.Require("writer")
			text, err = pki.CSR(key, writer, "test.example")
			must(err)
			csr, err := pki.ParseCSR(text)
			must(err)
			ca, err := mesh.AgentCA()
			must(err)
			text, err = ca.SignAgent(t.Context(), csr, writer, 0, now)
			must(err)
			r.Certificate = string(text)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, dir := newPlane(t, mesh), t.TempDir()
			edited := false
			p.edit = func(r *wire.EnrollResponse) { edit(r, dir); edited = true }
			if _, err := enrol.Enrol(t.Context(), p.token("reader"), dir); err == nil || !edited {
				t.Errorf("got %v, want a refusal of the edited answer", err)
			}
			if _, err := os.Stat(filepath.Join(dir, agentdir.InfoFile)); err == nil {
				t.Error("agent.json was written")
			}
		})
	}
}

// A refusal keeps its reason; its text cannot write to the terminal.
func TestRefusals(t *testing.T) {
	p := newPlane(t, newMesh(t, "test.example"))
	answer := func(f func(http.ResponseWriter)) error {
		p.mu.Lock()
		p.before = func(w http.ResponseWriter, _ *http.Request) bool { f(w); return true }
		p.mu.Unlock()
		_, err := enrol.Enrol(t.Context(), p.token("reader"), t.TempDir())
		return err
	}
	err := answer(func(w http.ResponseWriter) {
		refuse(w, denial.BadJoinToken, "used\x1b[31m up"+strings.Repeat("!", 2000))
	})
	if denial.Of(err) != denial.BadJoinToken || errors.Is(err, enrol.ErrUnreachable) || strings.ContainsRune(err.Error(), 0x1b) || len(err.Error()) > 400 {
		t.Errorf("got %q, want %s", err, denial.BadJoinToken)
	}
	if err := answer(func(w http.ResponseWriter) { refuse(w, denial.Internal, "") }); !errors.Is(err, enrol.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
	if err := answer(func(w http.ResponseWriter) { refuse(w, "Not A\nReason", "x") }); !errors.Is(err, enrol.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
	err = answer(func(w http.ResponseWriter) {
		for range 64 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v, want the limit of an answer", err)
	}
}

// A redirect would hand the secret to whoever it names.
func TestRedirectIsNotFollowed(t *testing.T) {
	mesh := newMesh(t, "test.example")
	p, to := newPlane(t, mesh), newPlane(t, mesh)
	p.before = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, to.url+wire.PathEnroll, http.StatusTemporaryRedirect)
		return true
	}
	if _, err := enrol.Enrol(t.Context(), p.token("reader"), t.TempDir()); err == nil {
		t.Error("enrolled")
	}
	if n, _ := to.seen(); n != 0 {
		t.Errorf("%d requests followed", n)
	}
}

// A control plane hangs up on an address that has too many connections open. Whoever
// enrols tries again for a while.
func TestHungUpOn(t *testing.T) {
	for _, times := range []int{2, 100} {
		p := newPlane(t, newMesh(t, "test.example"))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		go func() {
			for n := 0; ; n++ {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if n < times {
					_ = c.Close()
					continue
				}
				to, err := net.Dial("tcp", strings.TrimPrefix(p.url, "https://"))
				if err != nil {
					_ = c.Close()
					return
				}
				go func() { _, _ = io.Copy(to, c); _ = to.Close() }()
				go func() { _, _ = io.Copy(c, to); _ = c.Close() }()
			}
		}()
		token := p.token("reader")
		token.URL = "https://" + l.Addr().String()
		_, err = enrol.Enrol(t.Context(), token, t.TempDir())
		if times == 2 && err != nil {
			t.Errorf("after two connections that were closed: %v", err)
		}
		if times > 2 && !errors.Is(err, enrol.ErrUnreachable) {
			t.Errorf("by whom every connection is closed: got %v", err)
		}
	}
}

func TestUnusableTokens(t *testing.T) {
	p := newPlane(t, newMesh(t, "test.example"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*registry.JoinToken){
		"no agent":            func(j *registry.JoinToken) { j.Agent = agentid.ID{} },
		"no secret":           func(j *registry.JoinToken) { j.Secret = "" },
		"plain HTTP":          func(j *registry.JoinToken) { j.URL = strings.Replace(j.URL, "https", "http", 1) },
		"a user in the URL":   func(j *registry.JoinToken) { j.URL = strings.Replace(j.URL, "https://", "https://u:p@", 1) },
		"no host":             func(j *registry.JoinToken) { j.URL = "https://" },
		"a pin of no key":     func(j *registry.JoinToken) { j.CA = "x" },
		"a pin of zeros":      func(j *registry.JoinToken) { j.CA = strings.Repeat("A", 43) },
		"nobody listens":      func(j *registry.JoinToken) { j.URL = "https://" + l.Addr().String() },
		"a digest as the pin": func(j *registry.JoinToken) { j.CA = jws.Digest("root") },
	} {
		t.Run(name, func(t *testing.T) {
			token, dir := p.token("reader"), t.TempDir()
			edit(&token)
			_, err := enrol.Enrol(t.Context(), token, dir)
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v, want an error without the secret", err)
			}
			if name == "nobody listens" && !errors.Is(err, enrol.ErrUnreachable) {
				t.Errorf("got %v, want ErrUnreachable", err)
			}
			if n, _ := p.seen(); n != 0 || len(contents(t, dir)) != 0 {
				t.Errorf("%d requests were sent, %d files made", n, len(contents(t, dir)))
			}
		})
	}
}
