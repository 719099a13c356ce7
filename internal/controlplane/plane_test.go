package controlplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

const limit = 60 * time.Second

func start(t *testing.T, o devmesh.Options) (*devmesh.Mesh, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	o.Log, o.ClientLog = zerolog.Nop(), zerolog.Nop()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, ctx
}

func add(t *testing.T, ctx context.Context, m *devmesh.Mesh, n registry.NewAgent) string {
	t.Helper()
	dir, err := m.Add(ctx, n)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func connect(t *testing.T, ctx context.Context, m *devmesh.Mesh, dir string) *meshclient.Mesh {
	t.Helper()
	c, err := m.Connect(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func show(t *testing.T, ctx context.Context, m *devmesh.Mesh, id string) wire.AgentView {
	t.Helper()
	var v wire.AgentView
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpShow, Target: id}, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually waits for something that comes by itself, within the test's limit.
func eventually(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// raw is a stock NATS connection with an agent's key and certificate. It never
// reconnects, so that a cut is seen.
func raw(t *testing.T, dir string, chains ...string) (*nats.Conn, error) {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	token := ""
	if len(chains) > 0 {
		token = "v1:" + strings.Join(chains, ",")
	}
	nc, err := nats.Connect(d.Info.NATS[0], nats.Timeout(20*time.Second), nats.Nkey(pub, kp.Sign), nats.NoReconnect(), nats.Token(token),
		nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func scopes(list ...string) []capability.Scope {
	var out []capability.Scope
	for _, s := range list {
		out = append(out, capability.RequireScope(s))
	}
	return out
}

// An agent that connects and never beats is cut, and nothing but a full
// attestation brings it back.
func TestSilentAgentIsCutOff(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 200 * time.Millisecond})
	id := agentid.Require("silent")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("read:logs")}})
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	before := show(t, ctx, m, "silent")
	if before.Status != registry.Active || before.Instances[0].State != registry.Online {
		t.Fatalf("got %+v, want an active agent that is online", before)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
	// The instance expires first, and the agent with it a moment later.
	eventually(t, ctx, "the agent's expiry", func() bool { return show(t, ctx, m, "silent").Status == registry.Expired })
	after := show(t, ctx, m, "silent")
	if after.Status != registry.Expired || after.Epoch <= before.Epoch || after.Instances[0].State != registry.InstanceExpired {
		t.Fatalf("got %+v, want it expired under a higher epoch than %d", after, before.Epoch)
	}
	c := connect(t, ctx, m, dir)
	back := show(t, ctx, m, "silent")
	if back.Status != registry.Active || back.Epoch <= after.Epoch || back.Instances[0].Epoch <= after.Instances[0].Epoch {
		t.Errorf("got %+v, want it readmitted above epoch %d", back, after.Epoch)
	}
	if c.Epoch() != "3.3" {
		t.Errorf("the client is in epoch %s, want 3.3", c.Epoch())
	}
}

// A client that beats outlives many time-outs, and leaving is not death.
func TestBeatingAgentLivesAndLeaves(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 200 * time.Millisecond})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("lively"), Rights: registry.Rights{Call: scopes("read:logs")}})
	c := connect(t, ctx, m, dir)
	eventually(t, ctx, "a beat after three time-outs", func() bool {
		v := show(t, ctx, m, "lively")
		if v.Status != registry.Active || v.Epoch != 1 {
			t.Fatalf("got %+v, want it active in epoch 1", v)
		}
		last := v.Instances[0].LastBeat
		return last != nil && last.After(v.Changed.At.Add(2*time.Second))
	})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the leave", func() bool { return show(t, ctx, m, "lively").Instances[0].State == registry.Left })
	if v := show(t, ctx, m, "lively"); v.Status != registry.Active || v.Epoch != 1 {
		t.Errorf("got %+v, want it active in epoch 1", v)
	}
}

// Who is not watched is not given up, and its leaving is seen all the same.
func TestUnwatchedAgentLeaves(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 100 * time.Millisecond})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("quiet"), Heartbeat: registry.HeartbeatNone, Rights: registry.Rights{Call: scopes("read:logs")}})
	c := connect(t, ctx, m, dir)
	long := time.Now().Add(time.Second)
	eventually(t, ctx, "a long silence", func() bool { return time.Now().After(long) })
	if v := show(t, ctx, m, "quiet"); v.Status != registry.Active || v.Instances[0].State != registry.Online {
		t.Fatalf("got %+v, want it active and online", v)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the leave", func() bool { return show(t, ctx, m, "quiet").Instances[0].State == registry.Left })
}

func TestCutsCloseConnections(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	for _, op := range []wire.Op{wire.OpSuspend, wire.OpRevoke, wire.OpRemove, wire.OpUngrant} {
		t.Run(string(op), func(t *testing.T) {
			id := agentid.Require("victim-" + string(op))
			dir := add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("read:logs", "read:more")}})
			nc, err := raw(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			var r wire.CutResult
			req := wire.AdminRequest{Op: op, Target: id.String(), Reason: "test"}
			if op == wire.OpUngrant {
				req.Rights = registry.Rights{Call: scopes("read:more")}
			}
			if err := m.Operate(ctx, req, &r); err != nil {
				t.Fatal(err)
			}
			if r.Cut != 1 || !r.Confirmed || r.Epoch != 2 {
				t.Errorf("got %+v, want one confirmed cut in epoch 2", r)
			}
			eventually(t, ctx, "the cut", nc.IsClosed)
			_, err = raw(t, dir)
			if admitted := err == nil; admitted != (op == wire.OpUngrant) {
				t.Errorf("got %v from a new connection", err)
			}
		})
	}
}

// Two control planes share the work; either may die.
func TestReplicas(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 300 * time.Millisecond})
	other := *m.Dir
	other.Config.Control.Listen, other.Config.Control.URL = "127.0.0.1:0", ""
	second, err := controlplane.Start(ctx, controlplane.Config{Mesh: &other, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	reader := agentid.Require("reader")
	handler := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: reader, Rights: registry.Rights{Handle: scopes("read:logs")}}))
	if err := handler.Handle("read:logs", func(_ context.Context, r *meshclient.Request) ([]byte, error) { return r.Data, nil }); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		id := agentid.Require("asker-" + string(rune('a'+i)))
		c := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("read:logs")}}))
		if _, err := c.Call(ctx, "read:logs", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.Plane = second
	var r wire.CutResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: "asker-a"}, &r); err != nil || !r.Confirmed {
		t.Fatalf("got %+v, %v from the other control plane", r, err)
	}
	if _, err := handler.Call(ctx, "read:logs", nil); !errors.Is(err, denial.ScopeNotHeld) {
		t.Errorf("got %v, want %q", err, denial.ScopeNotHeld)
	}
}

func TestAdminRefusals(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Handle: scopes("read:logs")}})
	for name, c := range map[string]struct {
		req  wire.AdminRequest
		want denial.Reason
	}{
		"no operation":     {wire.AdminRequest{Op: "explode", Target: "reader"}, denial.BadInput},
		"no target":        {wire.AdminRequest{Op: wire.OpShow}, denial.BadInput},
		"bad target":       {wire.AdminRequest{Op: wire.OpShow, Target: "Reader"}, denial.BadInput},
		"unknown agent":    {wire.AdminRequest{Op: wire.OpSuspend, Target: "nobody"}, denial.UnlistedAgent},
		"reserved agent":   {wire.AdminRequest{Op: wire.OpRevoke, Target: "control"}, denial.ReservedName},
		"instance of show": {wire.AdminRequest{Op: wire.OpSuspend, Target: "reader/00000000"}, denial.BadInput},
		"unknown instance": {wire.AdminRequest{Op: wire.OpRevoke, Target: "reader/00000000"}, denial.UnlistedKey},
		"existing agent":   {wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("reader")}}, denial.AlreadyExists},
		"reserved name":    {wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("sys")}}, denial.ReservedName},
		"right not held":   {wire.AdminRequest{Op: wire.OpUngrant, Target: "reader", Rights: registry.Rights{Call: scopes("read:logs")}}, denial.NotFound},
		"long reason":      {wire.AdminRequest{Op: wire.OpSuspend, Target: "reader", Reason: strings.Repeat("x", 257)}, denial.BadInput},
		"unknown chain":    {wire.AdminRequest{Op: wire.OpEnd, Chain: jws.Digest("x")}, denial.UnknownChain},
	} {
		if err := m.Operate(ctx, c.req, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if v := show(t, ctx, m, "reader"); v.Epoch != 1 || v.Status != registry.Active {
		t.Errorf("got %+v: a refused operation changed something", v)
	}
}

// An agent without admin:registry drives nothing, even if it asks control
// directly.
func TestAgentIsNoAdmin(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	c := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Call: scopes("read:logs")}}))
	body, err := json.Marshal(wire.AdminRequest{Op: wire.OpRevoke, Target: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Call(ctx, wire.AdminScope, body); !errors.Is(err, denial.ScopeNotHeld) {
		t.Errorf("got %v, want %q", err, denial.ScopeNotHeld)
	}
	if v := show(t, ctx, m, "admin"); v.Status != registry.Active {
		t.Errorf("got %+v, want the admin untouched", v)
	}
}

func post(t *testing.T, ctx context.Context, m *devmesh.Mesh, path, body string) (int, wire.SelfStatus) {
	t.Helper()
	ca, err := m.Dir.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(m.Plane.URL())
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := pki.PinnedTLS(ca.RootHash(), u.Hostname(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: pinned}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.JoinPath(path).String(), bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var s wire.SelfStatus
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return resp.StatusCode, s
}

// The holder of a key learns why it was refused, and nobody else learns
// anything, not even whether an agent exists.
func TestSelfIsTheHoldersOnly(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	reader := agentid.Require("reader")
	dir := add(t, ctx, m, registry.NewAgent{Agent: reader, Rights: registry.Rights{Call: scopes("read:logs")}})
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	claim := func(k nkeys.KeyPair, id agentid.ID, aud string, at time.Time) string {
		text, err := jws.Sign(&wire.SelfClaims{Head: jws.Head{Kind: wire.KindSelf, IssuedAt: at.Unix()}, Agent: id, Audience: aud}, k)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	td, now := m.Dir.Config.TrustDomain, time.Now()
	if _, err := m.Cut(ctx, wire.OpSuspend, "reader", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, dir); err == nil {
		t.Fatal("a suspended agent was admitted")
	}
	code, s := post(t, ctx, m, wire.PathSelf, claim(key, reader, td, now))
	if code != http.StatusOK || s.Reason != denial.Suspended || !strings.HasPrefix(s.Denial, "d-") || s.Hint == "" || s.Epoch != "2.1" {
		t.Errorf("got %d %+v, want the reason, a hint and the denial's ID", code, s)
	}
	tampered := claim(key, reader, td, now)
	for name, c := range map[string]struct {
		body string
		want denial.Reason
	}{
		"stranger's key":      {claim(stranger, reader, td, now), denial.UnlistedKey},
		"unknown agent":       {claim(stranger, agentid.Require("nobody"), td, now), denial.UnlistedKey},
		"another agent's key": {claim(key, agentid.Require("admin"), td, now), denial.UnlistedKey},
		"another mesh":        {claim(key, reader, "other.mesh", now), denial.UnlistedKey},
		"old":                 {claim(key, reader, td, now.Add(-2*time.Minute)), denial.Stale},
		"tampered":            {tampered[:len(tampered)-4] + "AAAA", denial.BadSignature},
		"garbage":             {"hello", denial.BadToken},
	} {
		code, s := post(t, ctx, m, wire.PathSelf, c.body)
		if code != http.StatusForbidden || s.Reason != c.want || s.Denial != "" || s.Status != "" {
			t.Errorf("%s: got %d %+v, want %q and nothing else", name, code, s, c.want)
		}
	}
}

// A join token works as often as it says.
func TestJoinTokenIsUsedUp(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	reader := agentid.Require("reader")
	add(t, ctx, m, registry.NewAgent{Agent: reader})
	dir, err := m.Instance(ctx, reader)
	if err != nil {
		t.Fatal(err)
	}
	if v := show(t, ctx, m, "reader"); len(v.Instances) != 2 {
		t.Fatalf("got %+v, want two instances", v)
	}
	for name, text := range map[string]string{"garbage": "{", "unknown field": `{"x":1}`, "no proof": `{"proof":"","secret":"","csr":""}`} {
		if code, s := post(t, ctx, m, wire.PathEnroll, text); code != http.StatusForbidden || s.Reason == "" {
			t.Errorf("%s: got %d %+v, want a refusal with a reason", name, code, s)
		}
	}
	connect(t, ctx, m, dir)
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("gone"), Rights: registry.Rights{Call: scopes("read:logs")}})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Handle: scopes("read:logs")}})
	c := connect(t, ctx, m, dir)
	if _, err := m.Cut(ctx, wire.OpRevoke, "gone", ""); err != nil {
		t.Fatal(err)
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.Server.Close()
	if err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if v := show(t, ctx, m, "gone"); v.Status != registry.Revoked || v.Epoch != 2 {
		t.Errorf("got %+v, want it revoked in epoch 2", v)
	}
	if _, err := raw(t, m.AgentDir("gone")); err == nil {
		t.Error("what was revoked came back by a restart")
	}
	eventually(t, ctx, "the reader's return", func() bool { return c.Away() == nil })
	if err := c.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return nil, nil }); err != nil {
		t.Error(err)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop(), Heartbeat: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Handle: scopes("read:logs")}})
	c, err := m.Connect(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Close(), m.Close()); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, ignore)
}
