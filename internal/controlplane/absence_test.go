package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// past is a mesh whose control plane lives some time ago, until it returns.
type past struct {
	*devmesh.Mesh
	ago atomic.Int64
}

func (p *past) now() time.Time { return time.Now().Add(-time.Duration(p.ago.Load())) }

// enrol registers an agent and enrols its first instance in the past, where no agent
// can connect: TLS has the clock of today. Then the instance was online.
func (p *past) enrol(t *testing.T, ctx context.Context, n registry.NewAgent) (dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := p.Plane.Store().Add(ctx, n, "admin")
	must(err)
	secret, _, err := p.Plane.Store().NewJoin(ctx, n.Agent, time.Hour, 1, "admin")
	must(err)
	dir = p.AgentDir(n.Agent.String())
	keys, err := agentdir.NewKeys(dir)
	must(err)
	key, err := keys.Key.PublicKey()
	must(err)
	curve, err := keys.Curve.PublicKey()
	must(err)
	domain := p.Dir.Config.TrustDomain
	csr, err := pki.CSR(keys.TLS, n.Agent, domain)
	must(err)
	proof, err := jws.Sign(&wire.EnrollClaims{
		Head:  jws.Head{Kind: wire.KindEnroll, IssuedAt: p.now().Unix()},
		Agent: n.Agent, Join: registry.JoinHash(secret), Curve: curve, CSR: jws.Digest(string(csr)),
	}, keys.Key)
	must(err)
	admin, err := agentdir.Open(p.AgentDir("admin"))
	must(err)
	var r wire.EnrollResponse
	if reason := ask(t, ctx, p.Mesh, "", wire.PathEnroll, wire.EnrollRequest{Proof: proof, Secret: secret, CSR: string(csr)}, &r); reason != "" {
		t.Fatalf("enrolling %s: %s", n.Agent, reason)
	}
	must(agentdir.WriteIdentity(dir, keys.TLS, []byte(r.Certificate)))
	must(pki.WriteFile(filepath.Join(dir, agentdir.CAFile), []byte(r.CA)))
	inst := agentid.InstanceOf(key)
	must(agentdir.Write(dir, agentdir.Info{
		Agent: n.Agent, Instance: inst, TrustDomain: domain, Prefix: r.Prefix, NATS: r.NATS, Control: p.Plane.URL(),
		CA: admin.Info.CA, Roots: r.Roots, SigningKeys: r.SigningKeys, Passport: r.Passport,
	}))
	_, _, err = p.Plane.Store().Attest(ctx, n.Agent, inst, "")
	must(err)
	return dir
}

// Everything was off for a month: certificates have ended, and so have the root
// tokens, and all agents are silent at once. Nobody is needed for people and jobs to
// come back, and somebody for services.
func TestEverythingOffForAMonth(t *testing.T) {
	t.Parallel()
	const away = 30*24*time.Hour + time.Hour // an hour longer than a root token lives
	p := &past{}
	p.ago.Store(int64(away))
	var ctx context.Context
	p.Mesh, ctx = start(t, devmesh.Options{Clock: p.now, Heartbeat: 500 * time.Millisecond})
	dirs := map[string]string{}
	rights := registry.Rights{Call: scopes("read:logs")}
	for name, kind := range map[string]registry.Kind{"job": registry.Job, "person": registry.Person, "service": registry.Service} {
		dirs[name] = p.enrol(t, ctx, registry.NewAgent{Agent: agentid.Require(name), Kind: kind, Rights: rights})
	}
	for i := range 6 { // enough for the brake
		p.enrol(t, ctx, registry.NewAgent{Agent: agentid.Require(fmt.Sprintf("other-%d", i)), Kind: registry.Job})
	}
	if err := p.DownPlane(); err != nil {
		t.Fatal(err)
	}
	p.ago.Store(0)
	if err := p.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}

	// The administrator first, with what was asked at once.
	if err := p.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, nil); err != nil {
		t.Fatalf("the administrator: %v", err)
	}
	var list wire.AgentList
	if err := p.Operate(ctx, wire.AdminRequest{Op: wire.OpList}, &list); err != nil || len(list.Agents) != 10 {
		t.Fatalf("got %d agents, %v", len(list.Agents), err)
	}
	// All the others are silent, so it is not them who failed: nobody is expired, and
	// an operator is asked.
	eventually(t, ctx, "the brake", func() bool {
		var s wire.MeshStatus
		err := p.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &s)
		return err == nil && s.Monitor.Held > 0
	})
	// That keeps nobody from coming back.
	for _, name := range []string{"job", "person"} {
		c := connect(t, ctx, p.Mesh, dirs[name])
		held, err := c.Scopes(ctx)
		if err != nil || len(held) != 1 {
			t.Errorf("%s: got rights %v, %v, want read:logs", name, held, err)
		}
		if h := c.Health(); !h.Connected || h.Away != "" || h.CertificateAlarm || h.CertificateNotAfter.Before(time.Now()) {
			t.Errorf("%s: got %+v", name, h)
		}
		if v := show(t, ctx, p.Mesh, name); v.Status != registry.Active || v.Instances[0].State != registry.Online {
			t.Errorf("%s: got %s, instance %s", name, v.Status, v.Instances[0].State)
		}
	}

	_, err := p.Connect(ctx, dirs["service"])
	var d *meshclient.Denied
	if !errors.As(err, &d) || d.Reason != denial.BadCertificate || !strings.Contains(d.Hint, "agent join service") || !strings.Contains(d.Detail, "too long ago") {
		t.Fatalf("service: got %v, want %s and how it comes back", err, denial.BadCertificate)
	}
	var joined wire.AddResult
	if err := p.Operate(ctx, wire.AdminRequest{Op: wire.OpJoin, Target: "service"}, &joined); err != nil {
		t.Fatal(err)
	}
	token, err := registry.ParseJoinToken(joined.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enrol.Enrol(ctx, token, dirs["service"]); err != nil {
		t.Fatal(err)
	}
	c := connect(t, ctx, p.Mesh, dirs["service"])
	if held, err := c.Scopes(ctx); err != nil || len(held) != 1 {
		t.Errorf("service: got rights %v, %v", held, err)
	}
	if n := len(show(t, ctx, p.Mesh, "service").Instances); n != 1 {
		t.Errorf("service: got %d instances, want the one that it was", n)
	}
}
