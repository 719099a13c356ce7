package controlplane_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// newLender is a mesh in which ann, who is connected, lends to bob, who is not.
func newLender(t *testing.T) *family {
	t.Helper()
	m, ctx := start(t, devmesh.Options{})
	f := &family{
		Mesh: m, t: t, ctx: ctx, dirs: map[string]string{}, chains: map[string]*capability.Chain{},
		conns: map[uint64]*nats.Conn{}, names: map[uint64]string{},
	}
	read := scopes("read:logs")
	f.dirs["ann"] = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("ann"), Heartbeat: registry.HeartbeatNone, Rights: registry.Rights{Call: read, MayDelegate: read}})
	f.dirs["bob"] = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("bob"), Heartbeat: registry.HeartbeatNone})
	f.connect("ann", f.dirs["ann"]) // whoever delegates must have been admitted once
	f.lend("ann-bob", f.dirs["ann"], f.root("ann"), "bob", read, nil)
	return f
}

// journal is a log that can be searched while it is written.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.buf.String(), text)
}

func status(t *testing.T, ctx context.Context, m *devmesh.Mesh) wire.MeshStatus {
	t.Helper()
	var s wire.MeshStatus
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// A cut finds every session that was written before it, also where the index of
// this replica has not heard of it: the watch is held back, or comes in time, or
// has lost its thread.
func TestCutWithAnIndexThatIsBehind(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]func(f *family, connect, cut func()){
		"it stays behind": func(f *family, connect, cut func()) {
			release := f.Plane.HoldSessions()
			defer release()
			connect()
			if n := f.Plane.KnownSessions(agentid.Require("bob")); n != 0 {
				f.t.Errorf("got %d sessions in an index that is behind", n)
			}
			cut()
		},
		"it catches up meanwhile": func(f *family, connect, cut func()) {
			release := f.Plane.HoldSessions()
			connect()
			go func() {
				defer release()
				for f.ctx.Err() == nil {
					if a, err := f.Plane.Store().Agent(f.ctx, agentid.Require("ann")); err == nil && a.Status == registry.Suspended {
						return
					}
				}
			}()
			cut()
		},
		"it lost its thread": func(f *family, connect, cut func()) {
			connect()
			f.Plane.LoseSessions()
			cut()
		},
		"it is there": func(_ *family, connect, cut func()) {
			connect()
			cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newLender(t)
			tt(f, func() { f.connect("bob", f.dirs["bob"], "ann-bob") }, func() {
				r, err := f.Cut(f.ctx, wire.OpSuspend, "ann", "")
				if err != nil || !r.Confirmed || r.Cut != 2 || len(r.Delegates) != 1 {
					t.Errorf("got %+v, %v; want a confirmed cut of ann and bob", r, err)
				}
			})
			for _, nc := range f.conns {
				eventually(t, f.ctx, "the end of the connections", nc.IsClosed)
			}
		})
	}
}

// The index follows what others write, and forgets what ends.
func TestIndexFollows(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("reader")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
	other, err := m.AddPlane(ctx)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	known := func(n int) func() bool {
		return func() bool { return m.Plane.KnownSessions(id) == n && other.KnownSessions(id) == n }
	}
	eventually(t, ctx, "the session in both indexes", known(1))
	nc.Close()
	eventually(t, ctx, "its end in both indexes", known(0))
}

// A cut says what it did at every server. What a server does not confirm stays
// pending, is tried again, and is said to be over at last.
func TestUnconfirmedCutIsTriedUntilItIs(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	log := &journal{}
	replacePlane(t, ctx, m, &seam{log: zerolog.New(log)})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Plane.MeetServer("NSILENT", "n2")
	r, err := m.Cut(ctx, wire.OpSuspend, "victim", "")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the end of the connection", nc.IsClosed)
	want := []wire.ServerCut{{Server: "NSILENT", Name: "n2"}, {Server: m.Server.ID(), Name: m.Dir.Config.NATS.ServerName, Asked: true, Closed: 1}}
	slices.SortFunc(want, func(a, b wire.ServerCut) int { return strings.Compare(a.Server, b.Server) })
	if r.Confirmed || r.Cut != 1 || !slices.Equal(r.Servers, want) || !slices.Equal(r.Unreachable, []string{"NSILENT"}) {
		t.Errorf("got %+v, want one closed and one server unheard", r)
	}
	if s := status(t, ctx, m); len(s.PendingCuts) != 1 || s.PendingCuts[0].Agent != id || !slices.Equal(s.PendingCuts[0].Unreachable, []string{"NSILENT"}) || s.PendingCuts[0].Since.IsZero() || s.RevocationBoundMS != 0 {
		t.Errorf("got %+v, want the cut pending", s)
	}
	m.Plane.MissServer("NSILENT")
	eventually(t, ctx, "the end of the pending cut", func() bool { return len(status(t, ctx, m).PendingCuts) == 0 })
	if !log.has("a cut that was pending is complete") {
		t.Error("nothing says that the cut was confirmed")
	}
}

// What a replica leaves when it dies between the record and the cut, another one
// that runs finishes.
func TestAnotherReplicaFinishesTheCut(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	dying, err := m.AddPlane(ctx)
	if err != nil {
		t.Fatal(err)
	}
	dying.LeaveAlone(id)
	if _, err := dying.Store().Suspend(ctx, id, "test", ""); err != nil {
		t.Fatal(err)
	}
	if err := dying.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
}

// A connection that was admitted and that nobody listed is cut: as soon as it is
// there, or when the next replica starts.
func TestUnlistedConnectionIsCut(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(map[bool]string{false: "at once", true: "by the next replica"}[late], func(t *testing.T) {
			t.Parallel()
			m, ctx := start(t, devmesh.Options{})
			id := agentid.Require("victim")
			dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
			honest, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("honest"), Heartbeat: registry.HeartbeatNone}))
			if err != nil {
				t.Fatal(err)
			}
			log := &journal{}
			s := &seam{victim: id, unlisted: true, opened: make(chan error, 10), log: zerolog.New(log)}
			replacePlane(t, ctx, m, s)
			if !late {
				// Nothing but the server's word brings it to light.
				t.Cleanup(m.Plane.HoldRepairs())
			}
			nc, err := raw(t, dir)
			if err != nil {
				t.Fatal(err)
			}
			if late {
				again := &seam{log: zerolog.New(log)}
				replacePlane(t, ctx, m, again)
			}
			eventually(t, ctx, "the cut", nc.IsClosed)
			eventually(t, ctx, "the alarm", func() bool { return log.has("a connection that no control plane had listed was cut") })
			if n := status(t, ctx, m).Unlisted; n != 1 {
				t.Errorf("got %d unlisted connections, want 1", n)
			}
			if honest.IsClosed() {
				t.Error("one that is listed was cut as well")
			}
		})
	}
}

// A cut closes what nobody listed as well: it asks the servers.
func TestCutFindsWhatNobodyListed(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
	replacePlane(t, ctx, m, &seam{victim: id, unlisted: true, opened: make(chan error, 10)})
	if _, err := m.Admin(ctx); err != nil {
		t.Fatal(err)
	}
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Cut(ctx, wire.OpSuspend, "victim", "")
	if err != nil || !r.Confirmed {
		t.Errorf("got %+v, %v; want a confirmed cut", r, err)
	}
	if n, _, err := m.Plane.Connections(ctx, id); n != 0 || err != nil {
		t.Errorf("got %d connections, %v", n, err)
	}
	eventually(t, ctx, "the cut", nc.IsClosed)
}

// Sessions whose connections are not there are forgotten, but not those that may
// still be coming, nor those of a server that did not answer a moment ago.
func TestSessionsWithoutConnectionsAreForgotten(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("reader")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone})
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	connected, err := nc.GetClientID()
	if err != nil {
		t.Fatal(err)
	}
	list, err := m.Plane.Store().Sessions(ctx, id)
	if err != nil || len(list) != 1 {
		t.Fatalf("got %v, %v", list, err)
	}
	put := func(server string, client uint64, ago time.Duration) {
		t.Helper()
		s := list[0]
		s.ServerID, s.ClientID, s.Issued = server, client, s.Issued.Add(-ago)
		if err := m.Plane.Store().PutSession(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	left := func(settled, away time.Duration, want ...uint64) {
		t.Helper()
		if err := m.Plane.Repair(ctx, settled, away); err != nil {
			t.Fatal(err)
		}
		list, err := m.Plane.Store().Sessions(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, s := range list {
			got = append(got, s.ClientID)
		}
		slices.Sort(got)
		if want = append(want, connected); !slices.Equal(got, want) {
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got sessions of connections %v, want %v", got, want)
			}
		}
	}
	put(m.Server.ID(), 90001, 2*time.Hour)
	put(m.Server.ID(), 90002, 0)
	put("NGONE", 90003, 2*time.Hour)
	left(time.Hour, time.Hour, 90002, 90003)
	left(time.Hour, time.Hour, 90002, 90003)
	left(time.Hour, 0, 90002) // the server is away for longer than that
	if nc.IsClosed() {
		t.Error("a connection that is listed was cut")
	}
}
