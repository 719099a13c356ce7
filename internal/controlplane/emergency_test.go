package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

func inEmergency(m *devmesh.Mesh) controlplane.Config {
	return controlplane.Config{Mesh: m.Dir, Log: zerolog.Nop()}
}

// opened are raw connections of an agent that do not come back by themselves.
func opened(t *testing.T, dir string, n int) (out []*nats.Conn) {
	t.Helper()
	for range n {
		nc, err := raw(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, nc)
	}
	return out
}

func ended(conns []*nats.Conn) func() bool {
	return func() bool {
		return !slices.ContainsFunc(conns, func(nc *nats.Conn) bool { return !nc.IsClosed() })
	}
}

// liar is an agent whose client does not care what becomes of its record.
type liar struct {
	t       *testing.T
	nc      *nats.Conn
	speaker gate.Speaker
	chain   string
}

func lying(t *testing.T, ctx context.Context, m *devmesh.Mesh, dir string) *liar {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(bytes.Clone(seed))
	if err != nil {
		t.Fatal(err)
	}
	a, err := m.Plane.Store().Agent(ctx, d.Info.Agent)
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{t: t, nc: opened(t, dir, 1)[0], chain: a.Tokens[0]}
	l.speaker = gate.Speaker{
		Self: d.Info.Agent, Key: key, TrustDomain: d.Info.TrustDomain, Space: subject.Default(), Clock: time.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} },
	}
	return l
}

// call makes a call of own:work and waits for nothing.
func (l *liar) call(ctx context.Context) {
	l.t.Helper()
	msg, _, _, err := l.speaker.Message(l.speaker.Space.Call(l.speaker.Self, "own.work"), envelope.Fields{Token: l.chain, Deadline: 10 * time.Second}, nil, nil, nil)
	if err == nil {
		err = l.nc.PublishMsg(msg)
	}
	if err == nil {
		err = l.nc.FlushWithContext(ctx)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func remains(r wire.EmergencyResult, part string) bool {
	return slices.ContainsFunc(r.Remains, func(s string) bool { return strings.Contains(s, part) })
}

// Every control plane is dead, and an agent has to go: its connections end, those
// that rested on what it had lent too, receivers hear of it, and it does not come
// back with the control plane.
func TestEmergencyCut(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	own, lent := scopes("own:work"), scopes("read:logs")
	refusals := make(chan meshclient.Refusal, 100)
	handler, err := m.Connect(ctx, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("server"), Rights: registry.Rights{Handle: slices.Concat(own, lent)}}),
		meshclient.OnRefused(func(r meshclient.Refusal) { refusals <- r }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := handler.Close(); err != nil {
			t.Error(err)
		}
	})
	handled := make(chan agentid.ID, 100)
	for _, s := range []string{"own:work", "read:logs"} {
		if err := handler.Handle(s, func(_ context.Context, r *meshclient.Request) ([]byte, error) { handled <- r.From; return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	agent := func(name string, r registry.Rights) (*meshclient.Mesh, string) {
		t.Helper()
		dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(name), Rights: r})
		return connect(t, ctx, m, dir), dir
	}
	lender, lenders := agent("lender", registry.Rights{Call: slices.Concat(own, lent), MayDelegate: lent})
	borrower, _ := agent("borrower", registry.Rights{Call: own})
	_, silent := agent("silent", registry.Rights{Call: own})
	_, resumed := agent("resumed", registry.Rights{Call: own})
	_, twice := agent("twice", registry.Rights{Call: own})
	second, err := m.Instance(ctx, agentid.Require("twice"))
	if err != nil {
		t.Fatal(err)
	}
	liar := lying(t, ctx, m, silent)
	liar.call(ctx)
	select {
	case from := <-handled:
		if from != liar.speaker.Self {
			t.Fatalf("got a call of %s", from)
		}
	case r := <-refusals:
		t.Fatalf("before all that: %+v", r)
	case <-ctx.Done():
		t.Fatal("no call")
	}
	if _, err := lender.Delegate(ctx, "borrower", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour}); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the delegated call", func() bool { _, err := borrower.Call(ctx, "read:logs", nil); return err == nil })
	lenderConns, firstConns, secondConns, resumedConns := opened(t, lenders, 2), opened(t, twice, 1), opened(t, second, 1), opened(t, resumed, 1)
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	cut := func(e controlplane.EmergencyCut) wire.EmergencyResult {
		t.Helper()
		e.Reason = "drill"
		r, err := controlplane.Cut(ctx, inEmergency(m), e)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}

	// A dry run changes nothing.
	if r := cut(controlplane.EmergencyCut{Agent: agentid.Require("lender"), DryRun: true}); !r.DryRun || len(r.Closes) < 4 {
		t.Errorf("dry run: got %+v, want the connections of both", r)
	}
	if ended(lenderConns)() {
		t.Error("a dry run closed connections")
	}

	r := cut(controlplane.EmergencyCut{Agent: agentid.Require("lender")})
	if !r.Recorded || !r.Confirmed || r.Status != registry.Revoked || r.Epoch != 2 || r.Cut < 4 || len(r.Remains) != 0 {
		t.Errorf("got %+v, want four connections cut and nothing that remains", r)
	}
	if len(r.Delegates) != 1 || r.Delegates[0].String() != "borrower" || len(r.Servers) != 1 || r.Servers[0].Closed != r.Cut || !r.Servers[0].Asked || r.Servers[0].Left != 0 {
		t.Errorf("got %+v, want what was done at the server, and the borrower named", r)
	}
	eventually(t, ctx, "the end of the lender's connections", ended(lenderConns))
	if again := cut(controlplane.EmergencyCut{Agent: agentid.Require("lender")}); !again.Recorded || !again.Confirmed || again.Epoch != 2 || again.Cut != 0 {
		t.Errorf("again: got %+v, want nothing left to do", again)
	}

	// Receivers hear of a record while no control plane is there: one who is still
	// connected, because the system account is away too, is refused.
	blind := *m.Dir
	blind.Config.NATS.NoSystemAccount = true
	r, err = controlplane.Cut(ctx, controlplane.Config{Mesh: &blind, Log: zerolog.Nop()}, controlplane.EmergencyCut{Agent: agentid.Require("silent")})
	if err != nil || !r.Recorded || r.Confirmed || !remains(r, "system account") || r.Bound == nil {
		t.Errorf("without the system account: got %+v, %v", r, err)
	}
	eventually(t, ctx, "that the receiver has heard", func() bool {
		liar.call(ctx)
		select {
		case r := <-refusals:
			return r.Sender == liar.speaker.Self && r.Reason == denial.Revoked
		case <-handled:
			return false
		case <-ctx.Done():
			return false
		}
	})
	if liar.nc.IsClosed() {
		t.Error("its connection was closed: nothing is said of the receiver")
	}

	// One instance; the other goes on.
	inst := instanceOf(t, second)
	if r := cut(controlplane.EmergencyCut{Agent: agentid.Require("twice"), Instance: inst}); !r.Recorded || !r.Confirmed || r.Status != registry.Active || r.Cut != 1 {
		t.Errorf("one instance: got %+v, want one connection cut", r)
	}
	eventually(t, ctx, "the end of the second instance", ended(secondConns))
	if ended(firstConns)() {
		t.Error("the first instance was cut as well")
	}
	if r := cut(controlplane.EmergencyCut{Agent: agentid.Require("resumed"), Suspend: true}); !r.Recorded || r.Status != registry.Suspended {
		t.Errorf("suspended: got %+v", r)
	}
	eventually(t, ctx, "the end of the suspended one", ended(resumedConns))

	// A control plane is back: it lets nobody in who was cut, and knows why.
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{lenders, second, resumed} {
		if _, err := raw(t, dir); err == nil {
			t.Errorf("%s came back with the control plane", dir)
		}
	}
	if _, err := raw(t, twice); err != nil {
		t.Errorf("the first instance is refused: %v", err)
	}
	if v := show(t, ctx, m, "lender"); v.Status != registry.Revoked || v.Changed.By != "control" || v.Changed.Reason != "emergency: drill" {
		t.Errorf("got %+v, want the record to say what it was", v.Changed)
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpResume, Target: "resumed"}, nil); err != nil {
		t.Error(err)
	}
	if _, err := raw(t, resumed); err != nil {
		t.Errorf("after resuming: %v", err)
	}
	eventually(t, ctx, "the return of the borrower", func() bool { _, err := borrower.Call(ctx, "own:work", nil); return err == nil })
	// Beside a control plane that runs it does no harm.
	if r := cut(controlplane.EmergencyCut{Agent: agentid.Require("borrower")}); !r.Recorded || !r.Confirmed {
		t.Errorf("beside a control plane: got %+v", r)
	}
}

// JetStream is away: nothing can be recorded, and the connections are closed all
// the same.
func TestEmergencyWithoutJetStream(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("read:logs")}})
	other := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("other"), Rights: registry.Rights{Call: scopes("read:logs")}})
	conns, others := opened(t, dir, 3), opened(t, other, 1)
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	if err := m.Server.StopJetStream(); err != nil {
		t.Fatal(err)
	}
	r, err := controlplane.Cut(ctx, inEmergency(m), controlplane.EmergencyCut{Agent: id})
	if err != nil {
		t.Fatal(err)
	}
	if r.Recorded || r.Cut != 3 || !remains(r, "let in again") || !remains(r, "lent") {
		t.Errorf("got %+v, want three connections closed, nothing recorded, and what that means", r)
	}
	if len(r.Servers) != 1 || r.Servers[0].Closed != 3 || r.Servers[0].Left != 0 || !r.Servers[0].Asked {
		t.Errorf("got %+v, want three closed and none left", r.Servers)
	}
	eventually(t, ctx, "the end of the connections", ended(conns))
	if ended(others)() {
		t.Error("another agent was cut as well")
	}
	short, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := controlplane.Administrator(short, inEmergency(m), agentid.Require("rescue"), false, wire.JoinSpec{}); err == nil {
		t.Error("an administrator was made without a registry")
	}
	m.Server.Close()
	if err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, dir); err != nil {
		t.Errorf("got %v: what was not recorded is not refused, as was said", err)
	}
}

func TestEmergencyRefusals(t *testing.T) {
	m, ctx := start(t, devmesh.Options{})
	admin := agentid.Require(devmeshAdmin)
	for name, c := range map[string]struct {
		e    controlplane.EmergencyCut
		want denial.Reason
	}{
		"nobody":                {controlplane.EmergencyCut{}, denial.BadInput},
		"the mesh itself":       {controlplane.EmergencyCut{Agent: agentid.Control}, denial.ReservedName},
		"suspend an instance":   {controlplane.EmergencyCut{Agent: admin, Instance: agentid.InstanceOf("U"), Suspend: true}, denial.BadInput},
		"an unknown instance":   {controlplane.EmergencyCut{Agent: admin, Instance: agentid.InstanceOf("U"), Last: true}, denial.UnlistedKey},
		"the last admin":        {controlplane.EmergencyCut{Agent: admin}, denial.WrongState},
		"the last admin's only": {controlplane.EmergencyCut{Agent: admin, Instance: instanceOf(t, m.AgentDir(devmeshAdmin))}, denial.WrongState},
		"to suspend the last":   {controlplane.EmergencyCut{Agent: admin, Suspend: true}, denial.WrongState},
	} {
		if _, err := controlplane.Cut(ctx, inEmergency(m), c.e); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	r, err := controlplane.Cut(ctx, inEmergency(m), controlplane.EmergencyCut{Agent: agentid.Require("nobody")})
	if err != nil || r.Recorded || !remains(r, "no agent nobody") {
		t.Errorf("an unknown agent: got %+v, %v", r, err)
	}
	if v := show(t, ctx, m, devmeshAdmin); v.Status != registry.Active || v.Epoch != 1 {
		t.Errorf("what was refused changed the administrator: %+v", v)
	}
}

const devmeshAdmin = "admin"

// The administrator itself is compromised, and the last one: it is cut, and the
// keys of the mesh make another.
func TestEmergencyAdministrator(t *testing.T) {
	m, ctx := start(t, devmesh.Options{})
	admin, rescue := agentid.Require(devmeshAdmin), agentid.Require("rescue")
	conns := opened(t, m.AgentDir(devmeshAdmin), 1)
	r, err := controlplane.Cut(ctx, inEmergency(m), controlplane.EmergencyCut{Agent: admin, Last: true})
	if err != nil || !r.Recorded || !remains(r, "emergency admin") {
		t.Fatalf("got %+v, %v, want it cut, and what to do next", r, err)
	}
	eventually(t, ctx, "the end of the administrator", ended(conns))
	_, err = controlplane.Administrator(ctx, inEmergency(m), admin, false, wire.JoinSpec{})
	if !errors.Is(err, denial.AlreadyExists) {
		t.Errorf("the revoked name: got %v, want %q", err, denial.AlreadyExists)
	}
	_, err = controlplane.Administrator(ctx, inEmergency(m), agentid.Control, false, wire.JoinSpec{})
	if !errors.Is(err, denial.ReservedName) {
		t.Errorf("a reserved name: got %v, want %q", err, denial.ReservedName)
	}
	added, err := controlplane.Administrator(ctx, inEmergency(m), rescue, false, wire.JoinSpec{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	token, err := registry.ParseJoinToken(added.JoinToken)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/rescue"
	if _, err := enrol.Enrol(ctx, token, dir); err != nil {
		t.Fatal(err)
	}
	c := connect(t, ctx, m, dir)
	if _, err := c.Call(ctx, wire.AdminScope, []byte(`{"op":"status","rights":{}}`)); err != nil {
		t.Errorf("the new administrator: %v", err)
	}
}

// Two servers of three are gone, and JetStream with them: what is connected to the
// third is closed, and the others are named.
func TestEmergencyWithoutQuorum(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Nodes: 3})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("read:logs")}})
	if err := m.Place(dir, 0); err != nil {
		t.Fatal(err)
	}
	conns := opened(t, dir, 2)
	if r, err := controlplane.Cut(ctx, inEmergency(m), controlplane.EmergencyCut{Agent: id, DryRun: true}); err != nil || len(r.Closes) != 2 || len(r.Remains) != 0 {
		t.Errorf("with all servers: got %+v, %v", r, err)
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.StopNode(1)
	m.StopNode(2)
	r, err := controlplane.Cut(ctx, inEmergency(m), controlplane.EmergencyCut{Agent: id})
	if err != nil {
		t.Fatal(err)
	}
	names := m.Dir.Config.NATS.Servers
	if r.Recorded || r.Confirmed || r.Cut != 2 || !remains(r, "let in again") || !remains(r, names[1].Name) || !remains(r, names[2].Name) || remains(r, "server "+names[0].Name) {
		t.Errorf("got %+v, want two connections closed and two servers named", r)
	}
	eventually(t, ctx, "the end of the connections", ended(conns))
}
