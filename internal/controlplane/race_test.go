package controlplane_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// seam stands between the callout and the registry and runs something between
// the steps of one agent's connection.
type seam struct {
	authcallout.Registry
	victim                agentid.ID
	afterAdmit, afterOpen func()
	amidOpen              func() // between the session and the look at the records
	unlisted              bool   // whoever is admitted is not listed
	opened                chan error
	store                 *registry.Store
	log                   zerolog.Logger // of the plane; nothing where zero
}

func (s *seam) Admit(ctx context.Context, id agentid.ID, key string, presented []string) (authcallout.Admission, error) {
	a, err := s.Registry.Admit(ctx, id, key, presented)
	if id == s.victim && err == nil && s.afterAdmit != nil {
		s.afterAdmit()
	}
	return a, err
}

func (s *seam) Open(ctx context.Context, session authcallout.Session) error {
	if session.Agent == s.victim && s.unlisted {
		s.opened <- nil
		return nil
	}
	if session.Agent == s.victim && s.amidOpen != nil {
		if err := s.put(ctx, session); err != nil {
			return err
		}
		s.amidOpen()
	}
	err := s.Registry.Open(ctx, session)
	if session.Agent == s.victim {
		s.opened <- err
		if err == nil && s.afterOpen != nil {
			s.afterOpen()
		}
	}
	return err
}

// put writes a session as Open does first.
func (s *seam) put(ctx context.Context, o authcallout.Session) error {
	e, err := envelope.ParseEpoch(o.Epoch)
	if err != nil {
		return err
	}
	return s.store.PutSession(ctx, registry.Session{
		Agent: o.Agent, Instance: o.Instance, AgentEpoch: e.Agent, Epoch: e.Instance, ServerID: o.ServerID, ClientID: o.ClientID,
		Host: o.Host, UserKey: o.UserKey, Issued: o.Issued, Expires: o.Expires, Chains: o.Chains, Via: o.Via, Footing: o.Footing, Certificate: o.Certificate,
	})
}

// replacePlane puts one with a seam in the place of the mesh's control plane.
func replacePlane(t *testing.T, ctx context.Context, m *devmesh.Mesh, s *seam) {
	t.Helper()
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	p, err := controlplane.StartWith(ctx, controlplane.Config{Mesh: m.Dir, Log: s.log}, func(r authcallout.Registry) authcallout.Registry {
		s.Registry = r
		return s
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Plane, s.store = p, p.Store()
}

// A cut and a connect race in either order: no connection outlives the cut.
func TestCutRacesWithConnect(t *testing.T) {
	t.Parallel()
	for _, order := range []string{"cut before the session is opened", "cut before the connection is answered"} {
		t.Run(order, func(t *testing.T) {
			m, ctx := start(t, devmesh.Options{})
			victim := agentid.Require("victim")
			// Without rights, so that no chain is looked at that would tell as well.
			dir := add(t, ctx, m, registry.NewAgent{Agent: victim})
			var cut wire.CutResult
			done := make(chan struct{})
			suspend := func() {
				defer close(done)
				if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: "victim"}, &cut); err != nil {
					t.Error(err)
				}
			}
			s := &seam{victim: victim, opened: make(chan error, 10)}
			late := order == "cut before the connection is answered"
			if late {
				s.afterOpen = suspend
			} else {
				s.afterAdmit = suspend
			}
			replacePlane(t, ctx, m, s)
			nc, err := raw(t, dir)
			if err == nil {
				eventually(t, ctx, "the end of the connection", nc.IsClosed)
				t.Error("connection was admitted")
			}
			<-done
			if err := <-s.opened; late != (err == nil) || !late && !errors.Is(err, denial.EpochRaced) {
				t.Errorf("got %v from Open", err)
			}
			want := 0
			if late {
				want = 1
			}
			if cut.Cut != want || !cut.Confirmed || cut.Epoch != 2 {
				t.Errorf("got %+v, want a confirmed cut of %d in epoch 2", cut, want)
			}
			if n, unreachable, err := m.Plane.Connections(ctx, victim); n != 0 || len(unreachable) != 0 || err != nil {
				t.Errorf("got %d connections, unreachable %v, %v", n, unreachable, err)
			}
		})
	}
}

// The same for a connection that rests on what the agent lent, also where this
// replica hears late of sessions: its index lags behind what is written.
func TestCutRacesWithConnectOfADelegate(t *testing.T) {
	t.Parallel()
	for _, behind := range []bool{false, true} {
		for _, order := range []string{"before the session is opened", "between the session and the records", "before the connection is answered"} {
			name := "cut " + order
			if behind {
				name += ", the index behind"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := newLender(t)
				var cut wire.CutResult
				done := make(chan struct{})
				suspend := func() {
					defer close(done)
					if err := f.Operate(f.ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: "ann"}, &cut); err != nil {
						t.Error(err)
					}
				}
				s := &seam{victim: agentid.Require("bob"), opened: make(chan error, 10)}
				listed := true
				switch order {
				case "before the session is opened":
					s.afterAdmit, listed = suspend, false
				case "between the session and the records":
					s.amidOpen = suspend
				default:
					s.afterOpen = suspend
				}
				replacePlane(t, f.ctx, f.Mesh, s)
				if _, err := f.Admin(f.ctx); err != nil {
					t.Fatal(err)
				}
				if behind {
					release := f.Plane.HoldSessions()
					defer release()
				}
				nc, err := raw(t, f.dirs["bob"], f.chains["ann-bob"].Digest())
				if err == nil {
					eventually(t, f.ctx, "the end of the connection", nc.IsClosed)
					t.Error("connection was admitted")
				}
				<-done
				if err := <-s.opened; (order == "before the connection is answered") != (err == nil) || err != nil && !errors.Is(err, denial.EpochRaced) {
					t.Errorf("got %v from Open", err)
				}
				if want := len(f.conns); !cut.Confirmed || listed && (cut.Cut != want+1 || len(cut.Delegates) != 1) || !listed && cut.Cut != want {
					t.Errorf("got %+v, want a confirmed cut", cut)
				}
				if n, unreachable, err := f.Plane.Connections(f.ctx, s.victim); n != 0 || len(unreachable) != 0 || err != nil {
					t.Errorf("got %d connections, unreachable %v, %v", n, unreachable, err)
				}
			})
		}
	}
}

// An operation that fails after it wrote the record does not leave its
// connections standing: the watcher was told to leave them to it.
func TestFailedOperationStillCuts(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	victim := agentid.Require("victim")
	nc, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: victim, Rights: registry.Rights{Call: scopes("read:logs")}}))
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err = m.Plane.ChangeAndCut(ctx, victim, func() (*registry.Agent, error) {
		if _, err := m.Plane.Store().Suspend(ctx, victim, "test", ""); err != nil {
			t.Error(err)
		}
		return nil, boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("got %v, want %v", err, boom)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
}

// What a replica left half done is finished by the next one that starts.
func TestStartCutsWhatWasLeft(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	victim, honest := agentid.Require("victim"), agentid.Require("honest")
	rights := registry.Rights{Call: scopes("read:logs")}
	nc, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: victim, Rights: rights}))
	if err != nil {
		t.Fatal(err)
	}
	other, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: honest, Rights: rights}))
	if err != nil {
		t.Fatal(err)
	}
	m.Plane.LeaveAlone(victim)
	if _, err := m.Plane.Store().Suspend(ctx, victim, "test", ""); err != nil {
		t.Fatal(err)
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	if nc.IsClosed() {
		t.Fatal("it was cut already: the test proves nothing")
	}
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
	if other.IsClosed() {
		t.Error("an agent that stands was cut as well")
	}
}

// Nobody says that a connection is gone because nobody could be asked.
func TestSilenceIsNoCut(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	if known := m.Plane.KnownServers(); !known[m.Server.ID()] {
		t.Errorf("got %v, want the server met at the start", known)
	}
	if was, err := m.Plane.Kick(ctx, m.Server.ID(), 999999); was || err != nil {
		t.Errorf("got %v, %v for a connection that is not there", was, err)
	}
	m.Plane.ForgetServers()
	if was, err := m.Plane.Kick(ctx, "NOBODY", 1); was || err != nil {
		t.Errorf("got %v, %v from a server that nobody knows and that nobody is", was, err)
	}
	// It is no word of the server's own: one that comes back and lists it counts.
	if m.Plane.PassesWhereUnknown(ctx, agentid.Require("reader")) {
		t.Error("a connection counts as gone of which nobody has said that")
	}
	server := m.Server.ID()
	m.Server.Close()
	m.Plane.ForgetServers()
	if was, err := m.Plane.Kick(ctx, server, 1); was || err == nil {
		t.Errorf("got %v, %v with nobody to ask, want an error", was, err)
	}
	if n, _, err := m.Plane.Connections(ctx, agentid.Require("reader")); err == nil {
		t.Errorf("got %d connections with nobody to ask, want an error", n)
	}
}

func TestAnswersOfServers(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct{ was, ok bool }{
		`{"server":{"id":"N1"}}`: {true, true},
		`{"server":{"id":"N1"},"error":{"code":500,"description":"no such client or leafnode id"}}`: {false, true},
		`{"server":{"id":"N1"},"error":{"code":500,"description":"server is not running"}}`:         {false, false},
		`{"server":{"id":"N2"}}`: {false, false},
		`{}`:                     {false, false},
		`[]`:                     {false, false},
		``:                       {false, false},
	} {
		if was, err := controlplane.ParseKick([]byte(text), "N1"); was != want.was || (err == nil) != want.ok {
			t.Errorf("kick %s: got %v, %v", text, was, err)
		}
	}
	reader := agentid.Require("reader")
	for text, want := range map[string]struct {
		found, listed int
		ok            bool
	}{
		`{"connections":[]}`: {0, 0, true},
		`{"connections":[{"cid":1,"authorized_user":"reader"},{"cid":2,"authorized_user":"reader-2"},{"cid":3}]}`: {1, 3, true},
		`{"connections":null}`: {0, 0, false},
		`{}`:                   {0, 0, false},
		`null`:                 {0, 0, false},
		``:                     {0, 0, false},
		`{"connections":[{"cid":"1","authorized_user":"reader"}]}`: {0, 0, false},
	} {
		found, listed, err := controlplane.ParseConnections("N1", []byte(text), reader)
		if found != want.found || listed != want.listed || (err == nil) != want.ok {
			t.Errorf("connections %s: got %d of %d, %v", text, found, listed, err)
		}
	}
}

// A list that lost its thread between two pages is no list.
func TestPagesOverlap(t *testing.T) {
	t.Parallel()
	type pages = [][]uint64
	for name, tt := range map[string]struct {
		pages pages
		ok    bool
	}{
		"one":                           {pages{{1, 2}}, true},
		"none":                          {pages{{}}, true},
		"two that overlap":              {pages{{1, 2, 3}, {3, 4}}, true},
		"one ended before":              {pages{{1, 2, 3}, {3, 4, 5}, {5}}, true},
		"so many ended that none is":    {pages{{1, 2, 3}, {}}, false},
		"so many ended that some miss":  {pages{{1, 2, 3}, {5, 6}}, false},
		"the third does not reach back": {pages{{1, 2, 3}, {3, 4, 5}, {6}}, false},
	} {
		if err := controlplane.Pages(3, tt.pages...); (err == nil) != tt.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Whoever was cut changes nothing any more, also where the gate of this replica
// has not heard of it.
func TestCutAgentAsksNothing(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("reader")
	c := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("read:logs")}}))
	ask := func() error {
		_, err := c.Call(ctx, "self:session", []byte(`{"server":"x","client":1}`), meshclient.To("control"))
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	m.Plane.LeaveAlone(id)
	if err := m.Plane.StopListening(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Plane.Store().Suspend(ctx, id, "test", ""); err != nil {
		t.Fatal(err)
	}
	if err := ask(); !errors.Is(err, denial.Suspended) {
		t.Errorf("got %v, want %q", err, denial.Suspended)
	}
}

// A server lists its connections by pages, and all of them are seen.
func TestConnectionsByPages(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("many")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone, Rights: registry.Rights{Call: scopes("read:logs")}})
	const n = 7
	m.Plane.SetPage(3)
	conns := make([]*nats.Conn, n)
	for i := range conns {
		nc, err := raw(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = nc
	}
	if got, unreachable, err := m.Plane.Connections(ctx, id); got != n || len(unreachable) > 0 || err != nil {
		t.Fatalf("got %d connections, %v, %v; want %d", got, unreachable, err, n)
	}
	cut, err := m.Cut(ctx, wire.OpSuspend, "many", "")
	if err != nil || cut.Cut != n || !cut.Confirmed {
		t.Errorf("got %+v, %v; want %d cut", cut, err, n)
	}
	for _, nc := range conns {
		eventually(t, ctx, "the cut", nc.IsClosed)
	}
}
