package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Two addresses of this machine, which are two hosts to the mesh.
const hostA, hostB = "127.0.0.1", "127.0.0.2"

// rawFrom is raw from another host: whoever copied an agent's directory.
func rawFrom(t *testing.T, host, dir string) (*nats.Conn, error) {
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
	nc, err := nats.Connect(d.Info.NATS[0], nats.Timeout(20*time.Second), nats.Nkey(pub, kp.Sign), nats.NoReconnect(),
		nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)),
		nats.SetCustomDialer(&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host)}}),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

func mustRaw(t *testing.T, host, dir string) *nats.Conn {
	t.Helper()
	nc, err := rawFrom(t, host, dir)
	if err != nil {
		t.Fatalf("connecting from %s: %v", host, err)
	}
	return nc
}

// speak sends something that the server takes, whatever it makes of it.
func speak(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.Publish("mesh.nothing", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

// logged is a log that a test reads.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// with returns the lines that have all of these in them.
func (l *logged) with(parts ...string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			out = append(out, line)
		}
	}
	return out
}

// crowd is one mesh for all that is tried here, each with agents of its own.
type crowd struct {
	*devmesh.Mesh
	ctx context.Context
	log *logged
}

func TestWhoIsConnectedTwice(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	c := crowd{ctx: ctx, log: &logged{}}
	var err error
	if c.Mesh, err = devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: zerolog.New(c.log), ClientLog: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("clones", c.clones)
	t.Run("one session at a time", c.single)
	t.Run("setting it", c.setSingle)
	t.Run("rotation", c.rotation)
	t.Run("flapping", c.flapping)
	t.Run("readmission by an operator", c.manual)
	t.Run("replicas", c.replicas)
}

func clonesOf(t *testing.T, ctx context.Context, m *devmesh.Mesh, id string) []string {
	t.Helper()
	c := show(t, ctx, m, id).Instances[0].Clones
	if c == nil {
		return nil
	}
	if c.Since.IsZero() || c.Seen.Before(c.Since) {
		t.Errorf("got clones since %s, seen %s", c.Since, c.Seen)
	}
	return c.Hosts
}

func alarms(t *testing.T, ctx context.Context, m *devmesh.Mesh, id string) (out []wire.AlarmView) {
	t.Helper()
	var s wire.MeshStatus
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &s); err != nil {
		t.Fatal(err)
	}
	for _, a := range s.Alarms {
		if a.Agent.String() == id {
			out = append(out, a)
		}
	}
	return out
}

// A key on two hosts is seen where both speak, and only there: a connection that a
// laptop left behind on another network is no clone, however long it stays.
func (c crowd) clones(t *testing.T) {
	m, ctx, log := c.Mesh, c.ctx, c.log
	at := func(id string, n registry.NewAgent) string {
		n.Agent = agentid.Require(id)
		n.Rights.Call = scopes("read:logs")
		return add(t, ctx, m, n)
	}

	// Somebody who moved, and is watched for as long as the test goes on.
	moved := at("moved", registry.NewAgent{})
	left := mustRaw(t, hostA, moved)
	speak(t, left)
	now := mustRaw(t, hostB, moved)

	dir := at("twin", registry.NewAgent{})
	one, two := mustRaw(t, hostA, dir), mustRaw(t, hostB, dir)
	m.Plane.LookForClones()
	if got := clonesOf(t, ctx, m, "twin"); got != nil {
		t.Fatalf("before anybody spoke: %v", got)
	}
	eventually(t, ctx, "the alarm", func() bool {
		speak(t, one)
		speak(t, two)
		speak(t, now)
		m.Plane.LookForClones()
		return clonesOf(t, ctx, m, "twin") != nil
	})
	if got := clonesOf(t, ctx, m, "twin"); !slices.Equal(got, []string{hostA, hostB}) {
		t.Errorf("got %v", got)
	}
	a := alarms(t, ctx, m, "twin")
	if len(a) != 1 || a[0].Kind != wire.AlarmClone || !slices.Equal(a[0].Hosts, []string{hostA, hostB}) {
		t.Errorf("got alarms %+v", a)
	}
	if got := log.with(`"level":"error"`, `"agent":"twin"`, hostA, hostB); len(got) != 1 {
		t.Errorf("got %d lines at level error: %q", len(got), got)
	}
	if got := log.with(`"audit":"change"`, `"peer":"twin"`, `"scope":"clone"`, hostA+" and "+hostB); len(got) != 1 {
		t.Errorf("got %d audit lines: %q", len(got), got)
	}
	if one.IsClosed() || two.IsClosed() {
		t.Error("a policy that allows several sessions closes one")
	}

	// It is said once, and a third host is news.
	three := mustRaw(t, "127.0.0.3", dir)
	eventually(t, ctx, "the third host", func() bool {
		for _, nc := range []*nats.Conn{one, two, three, now} {
			speak(t, nc)
		}
		m.Plane.LookForClones()
		return len(clonesOf(t, ctx, m, "twin")) == 3
	})
	if got := log.with(`"level":"error"`, `"agent":"twin"`, "127.0.0.3"); len(got) != 1 {
		t.Errorf("got %d lines about the third host: %q", len(got), got)
	}
	for range 3 {
		speak(t, now)
		m.Plane.LookForClones()
	}
	if got := clonesOf(t, ctx, m, "moved"); got != nil || left.IsClosed() {
		t.Errorf("somebody who moved: got %v, and the old connection is closed: %v", got, left.IsClosed())
	}

	// Whoever is revoked alarms nobody any more.
	inst := show(t, ctx, m, "twin").Instances[0].Instance
	if _, err := m.Cut(ctx, wire.OpRevoke, "twin/"+inst.String(), "stolen"); err != nil {
		t.Fatal(err)
	}
	if got := alarms(t, ctx, m, "twin"); len(got) != 0 {
		t.Errorf("after the revocation: %+v", got)
	}
}

// Replicas tell each other of clones.
func (c crowd) replicas(t *testing.T) {
	m, ctx := c.Mesh, c.ctx
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("spread")})
	one, two := mustRaw(t, hostA, dir), mustRaw(t, hostB, dir)
	first, other := m.Plane, *m.Dir
	other.Config.Control.Listen, other.Config.Control.URL = "127.0.0.1:0", ""
	second, err := controlplane.Start(ctx, controlplane.Config{Mesh: &other, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, ctx, "the alarm at the other", func() bool {
		speak(t, one)
		speak(t, two)
		first.LookForClones() // the second has admitted neither
		return second.Alarms(ctx, agentid.Require("spread")) == 1
	})
}

// An agent that has one session at a time: the one who was there stays and works
// on, whoever comes with a copy of its key is refused and seen.
func (c crowd) single(t *testing.T) {
	m, ctx, log := c.Mesh, c.ctx, c.log
	id := agentid.Require("lone")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Sessions: registry.SessionsSingle, Rights: registry.Rights{Call: scopes("read:logs")}})
	honest := connect(t, ctx, m, dir)
	ask := func() error {
		_, err := honest.Call(ctx, "self:session", []byte(`{"server":"x","client":1}`), meshclient.To("control"))
		return err
	}
	works := func() {
		t.Helper()
		if err := ask(); err != nil {
			t.Errorf("the honest one: %v", err)
		}
	}
	works()
	for range 2 {
		if _, err := rawFrom(t, hostB, dir); !errors.Is(err, nats.ErrAuthorization) {
			t.Fatalf("the copy: got %v, want it refused", err)
		}
		works()
	}
	if got := log.with(`"audit":"connect"`, `"reason":"session-taken"`, hostB); len(got) != 2 {
		t.Errorf("got %d refusals: %q", len(got), got)
	}
	sessions, err := m.Plane.Store().InstanceSessions(ctx, id, show(t, ctx, m, "lone").Instances[0].Instance)
	if err != nil || len(sessions) != 1 || sessions[0].Host != hostA {
		t.Errorf("got sessions %+v, %v, want the honest one's alone", sessions, err)
	}
	eventually(t, ctx, "the alarm", func() bool {
		_ = ask() // whatever the answer is
		m.Plane.LookForClones()
		return clonesOf(t, ctx, m, "lone") != nil
	})
	if got := clonesOf(t, ctx, m, "lone"); !slices.Equal(got, []string{hostA, hostB}) {
		t.Errorf("got %v", got)
	}
	if v := show(t, ctx, m, "lone"); v.Sessions != registry.SessionsSingle || v.Epoch != 1 || v.Instances[0].Connections != 1 {
		t.Errorf("got %+v", v)
	}

	// Nor does it get in behind connections that are gone and were listed first.
	one := sessions[0]
	for n := range uint64(40) {
		gone := one
		gone.ServerID, gone.ClientID, gone.Host, gone.Issued, gone.Expires = "A0", n, hostB, time.Now(), time.Now().Add(time.Hour)
		if err := m.Plane.Store().PutSession(ctx, gone); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rawFrom(t, hostB, dir); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the copy behind many that are gone: got %v, want it refused", err)
	}
	works()

	// A second one of the same host is a replacement, a third is not.
	second := mustRaw(t, hostA, dir)
	if _, err := rawFrom(t, hostA, dir); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a third connection of the same host: got %v, want it refused", err)
	}
	second.Close()
	mustRaw(t, hostA, dir).Close()

	// Once the place is free, whoever comes has it.
	if err := honest.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the move", func() bool {
		nc, err := rawFrom(t, hostB, dir)
		return err == nil && nc.IsConnected()
	})
}

// A connection whose client has fallen silent does not hold its place.
func TestSilentSessionMakesRoom(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) {
		o.Heartbeat.Interval, o.Heartbeat.Timeout = 400*time.Millisecond, limit // nobody expires here
	}})
	at := func(id string, beats registry.Heartbeat) string {
		return add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(id), Sessions: registry.SessionsSingle, Heartbeat: beats})
	}
	// No beat of this one is due, so that it sends none says nothing.
	unwatched := at("unwatched", registry.HeartbeatNone)
	mustRaw(t, hostA, unwatched)

	laptop := at("laptop", registry.HeartbeatSession)
	old := mustRaw(t, hostA, laptop)
	speak(t, old)
	refused := 0
	var fresh *nats.Conn
	eventually(t, ctx, "the way in", func() bool {
		var err error
		if fresh, err = rawFrom(t, hostB, laptop); err != nil {
			refused++
		}
		return err == nil
	})
	eventually(t, ctx, "the end of the old connection", old.IsClosed)
	for range 3 {
		m.Plane.LookForClones()
		speak(t, fresh)
	}
	if got := clonesOf(t, ctx, m, "laptop"); got != nil {
		t.Errorf("a laptop that changed its network: got clones %v", got)
	}
	if v := show(t, ctx, m, "laptop"); v.Epoch != 1 || v.Instances[0].Epoch != 1 || v.Instances[0].State != registry.Online {
		t.Errorf("got %+v", v)
	}
	t.Logf("the laptop was refused %d times first", refused)
	for range 3 {
		if _, err := rawFrom(t, hostB, unwatched); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("beside one that is not watched: got %v", err)
		}
	}
}

// Where an operator says it while several are there, the first stays.
func (c crowd) setSingle(t *testing.T) {
	m, ctx := c.Mesh, c.ctx
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("pair")})
	first, same, other := mustRaw(t, hostA, dir), mustRaw(t, hostA, dir), mustRaw(t, hostB, dir)
	single := registry.SessionsSingle
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "pair", Settings: &wire.Settings{Sessions: &single}}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the end of the other host's", other.IsClosed)
	if first.IsClosed() || same.IsClosed() {
		t.Error("the host that was there first was closed")
	}
	if _, err := rawFrom(t, hostB, dir); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("the other host again: %v", err)
	}
	if v := show(t, ctx, m, "pair"); v.Epoch != 1 || v.Instances[0].Epoch != 1 {
		t.Errorf("an epoch rose: %+v", v)
	}
}

// An agent with one session replaces its connection without losing a call.
func (c crowd) rotation(t *testing.T) {
	m, ctx := c.Mesh, c.ctx
	handler := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{
		Agent: agentid.Require("rotor"), Sessions: registry.SessionsSingle, Rights: registry.Rights{Handle: scopes("read:logs")},
	}))
	caller := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{
		Agent: agentid.Require("caller"), Rights: registry.Rights{Call: scopes("read:logs", "read:more")},
	}))
	echo := func(_ context.Context, r *meshclient.Request) ([]byte, error) { return r.Data, nil }
	if err := handler.Handle("read:logs", echo); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := caller.Call(ctx, "read:logs", []byte("x")); err != nil {
				t.Errorf("call %d: %v", n, err)
				return
			}
			n++
		}
	}()
	before := show(t, ctx, m, "rotor").Instances[0]
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "rotor", Rights: registry.Rights{Handle: scopes("read:more")}}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the new right", func() bool { return handler.Handle("read:more", echo) == nil })
	eventually(t, ctx, "a call by it", func() bool {
		_, err := caller.Call(ctx, "read:more", []byte("x"))
		return err == nil
	})
	eventually(t, ctx, "the end of the old connection", func() bool { return show(t, ctx, m, "rotor").Instances[0].Connections == 1 })
	close(stop)
	n := <-done
	if after := show(t, ctx, m, "rotor").Instances[0]; after.Epoch != before.Epoch || n == 0 {
		t.Errorf("epoch %d after %d, %d calls", after.Epoch, before.Epoch, n)
	}
}

func TestHostOf(t *testing.T) {
	for _, same := range [][]string{
		{"10.0.0.1", "::ffff:10.0.0.1"}, {"127.0.0.1", "::1"}, {"127.0.0.2"}, {"10.0.0.2"},
		{"2001:db8:1:2::5", "2001:db8:1:2:ffff::1", "2001:db8:1:2::5%eth0"}, {"2001:db8:1:3::5"}, {"a name"}, {""},
	} {
		for _, s := range same {
			if controlplane.HostOf(s) != controlplane.HostOf(same[0]) {
				t.Errorf("%q is not %q", s, same[0])
			}
		}
		for _, other := range []string{"10.0.0.9", "2001:db8::1", "another name"} {
			if controlplane.HostOf(same[0]) == controlplane.HostOf(other) {
				t.Errorf("%q is %q", same[0], other)
			}
		}
	}
}

func TestSightOfAConnection(t *testing.T) {
	reader := agentid.Require("reader")
	for text, want := range map[string]struct {
		open bool
		sent int64
		ok   bool
	}{
		`{"server":{"id":"N1"},"data":{"connections":[{"cid":7,"authorized_user":"reader","in_msgs":5}]}}`: {true, 5, true},
		`{"server":{"id":"N1"},"data":{"connections":[{"cid":7}]}}`:                                        {true, 0, true}, // being admitted
		`{"server":{"id":"N1"},"data":{"connections":[]}}`:                                                 {false, 0, true},
		`{"server":{"id":"N1"},"data":{"connections":[{"cid":8,"authorized_user":"reader"}]}}`:             {false, 0, true},
		`{"server":{"id":"N1"},"data":{"connections":[{"cid":7,"authorized_user":"writer"}]}}`:             {false, 0, true},
		`{"server":{"id":"N1"},"data":{"connections":null}}`:                                               {false, 0, false},
		`{"server":{"id":"N1"},"data":{}}`:                                                                 {false, 0, false},
		`{"server":{"id":"N1"}}`:                                                                           {false, 0, false},
		`{"server":{"id":"N1"},"error":{"code":500,"description":"no"}}`:                                   {false, 0, false},
		`{"server":{"id":"N2"},"data":{"connections":[]}}`:                                                 {false, 0, false},
		`{}`: {false, 0, false},
		``:   {false, 0, false},
	} {
		open, sent, err := controlplane.ParseSight(text, reader)
		if open != want.open || sent != want.sent || (err == nil) != want.ok {
			t.Errorf("%s: got %v, %d, %v", text, open, sent, err)
		}
	}
}

// An instance that flaps is told until when, goes on trying, and is let in at once
// where an operator says so.
func (c crowd) flapping(t *testing.T) {
	m, ctx := c.Mesh, c.ctx
	id := agentid.Require("flappy")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id})
	expire := func() {
		t.Helper()
		v := show(t, ctx, m, "flappy").Instances[0]
		if err := m.Plane.Store().ExpireInstance(ctx, id, v.Instance, v.Epoch, "heartbeat-timeout"); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		nc := mustRaw(t, hostA, dir)
		expire()
		eventually(t, ctx, "the cut", nc.IsClosed)
	}
	v := show(t, ctx, m, "flappy")
	if i := v.Instances[0]; i.Flaps != 2 || i.NotBefore == nil || v.Status != registry.Expired {
		t.Fatalf("got %+v", v)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := m.Connect(short, dir)
	until := v.Instances[0].NotBefore.Format(time.RFC3339)
	if !errors.Is(err, meshclient.ErrUnavailable) || denial.Of(err) != denial.Flapping || !strings.Contains(err.Error(), until) {
		t.Errorf("got %v, want it unavailable until %s", err, until)
	}
	var final *meshclient.Denied
	if errors.As(err, &final) {
		t.Errorf("got %v, which nobody would try again after", err)
	}
	var resumed wire.AgentView
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpResume, Target: "flappy"}, &resumed); err != nil {
		t.Fatal(err)
	}
	if i := resumed.Instances[0]; i.Flaps != 0 || i.NotBefore != nil || resumed.Status != registry.Active {
		t.Errorf("resumed: got %+v", resumed)
	}
	connect(t, ctx, m, dir)
	if i := show(t, ctx, m, "flappy").Instances[0]; i.Flaps != 1 || i.State != registry.Online {
		t.Errorf("back: got %+v", i)
	}
}

// Where only an operator readmits, an instance stays away also while the agent
// works on by its others, is told so, and comes back when it is resumed.
func (c crowd) manual(t *testing.T) {
	m, ctx := c.Mesh, c.ctx
	id := agentid.Require("guarded")
	one := add(t, ctx, m, registry.NewAgent{Agent: id, Readmit: registry.ReadmitManual})
	connect(t, ctx, m, one)
	two, err := m.Instance(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	nc := mustRaw(t, hostA, two)
	d, err := agentdir.Open(two)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Plane.Store().ExpireInstance(ctx, id, d.Info.Instance, 1, "heartbeat-timeout"); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
	_, err = m.Connect(ctx, two)
	var final *meshclient.Denied
	if !errors.As(err, &final) || final.Reason != denial.Expired {
		t.Fatalf("got %v, want it denied as expired", err)
	}
	if v := show(t, ctx, m, "guarded"); v.Status != registry.Active || v.Epoch != 1 {
		t.Errorf("got %+v", v)
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpResume, Target: "guarded/" + d.Info.Instance.String()}, nil); err != nil {
		t.Fatal(err)
	}
	if back := connect(t, ctx, m, two); back.Epoch() != "1.3" {
		t.Errorf("it is back in epoch %s, want 1.3", back.Epoch())
	}
}
