package controlplane_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/epochlog"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

func down(t *testing.T, m *devmesh.Mesh) {
	t.Helper()
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	m.Server.Close()
}

func up(t *testing.T, ctx context.Context, m *devmesh.Mesh) {
	t.Helper()
	if err := m.Up(ctx); err != nil {
		t.Fatal(err)
	}
}

// olderOf lists the records that the status names, "(gone)" behind those that are
// not there.
func olderOf(t *testing.T, ctx context.Context, m *devmesh.Mesh) string {
	t.Helper()
	var out []string
	for _, o := range status(t, ctx, m).OlderRecords {
		if o.Gone {
			o.Record += " (gone)"
		}
		out = append(out, o.Record)
	}
	return strings.Join(out, " ")
}

// An old backup of JetStream is put back in a mesh in use: nobody comes back who
// was taken out since, operators are told of every record, and set it right.
func TestOldBackup(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	call := registry.Rights{Call: scopes("own:work")}
	dirs := map[string]string{}
	for _, name := range []string{"revoked", "suspended", "untouched"} {
		dirs[name] = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(name), Rights: call})
	}
	handler := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("server"), Rights: registry.Rights{Handle: scopes("own:work")}}))
	if err := handler.Handle("own:work", func(context.Context, *meshclient.Request) ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	stays := connect(t, ctx, m, dirs["untouched"])
	for name, dir := range dirs {
		if name == "untouched" {
			continue
		}
		if _, err := raw(t, dir); err != nil {
			t.Fatalf("%s before the backup: %v", name, err)
		}
	}
	down(t, m)
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(m.Dir.Store())); err != nil {
		t.Fatal(err)
	}
	up(t, ctx, m)
	before := m.Plane.Store().Incarnation()
	for name, op := range map[string]wire.Op{"revoked": wire.OpRevoke, "suspended": wire.OpSuspend} {
		if _, err := m.Cut(ctx, op, name, "since the backup"); err != nil {
			t.Fatal(err)
		}
	}
	late := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("late"), Rights: call})
	eventually(t, ctx, "a call of one that stayed", func() bool { _, err := stays.Call(ctx, "own:work", nil); return err == nil })

	down(t, m)
	if err := os.RemoveAll(m.Dir.Store()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(m.Dir.Store(), os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	up(t, ctx, m)

	lateKey := registry.InstanceKey(agentid.Require("late"), instanceOf(t, late))
	if got, want := olderOf(t, ctx, m), "late (gone) "+lateKey+" (gone) revoked suspended"; got != want {
		t.Errorf("older records: got %q, want %q", got, want)
	}
	if now := m.Plane.Store().Incarnation(); now != before+1 {
		t.Errorf("ticks are in incarnation %d after %d", now, before)
	}
	refused := func(name, dir string, want denial.Reason) {
		t.Helper()
		var denied *meshclient.Denied
		if _, err := m.Connect(ctx, dir); !errors.As(err, &denied) || denied.Reason != want {
			t.Errorf("%s: got %v, want it refused as %q", name, err, want)
		}
	}
	refused("revoked", dirs["revoked"], denial.OlderRecord)
	refused("suspended", dirs["suspended"], denial.OlderRecord)
	refused("late", late, denial.UnlistedKey)
	// Those whom nobody touched go on, with processes that never ended.
	eventually(t, ctx, "a call of one that stayed", func() bool { _, err := stays.Call(ctx, "own:work", nil); return err == nil })

	for _, c := range []struct {
		op     wire.Op
		target string
		want   denial.Reason
	}{
		{wire.OpResume, "suspended", denial.OlderRecord}, {wire.OpResume, "revoked", denial.OlderRecord},
		{wire.OpSuspend, "revoked", denial.WrongState}, {wire.OpSuspend, "suspended", ""}, {wire.OpRevoke, "revoked", ""},
		{wire.OpResume, "suspended", ""}, {wire.OpResume, "revoked", denial.WrongState},
	} {
		err := m.Operate(ctx, wire.AdminRequest{Op: c.op, Target: c.target, Reason: "restored"}, nil)
		if denial.Of(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s %s: got %v, want %q", c.op, c.target, err, c.want)
		}
	}
	if _, err := raw(t, dirs["suspended"]); err != nil {
		t.Errorf("suspended, after a look: %v", err)
	}
	refused("revoked", dirs["revoked"], denial.Revoked)
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpAdd, New: &registry.NewAgent{Agent: agentid.Require("late"), Rights: call, Replace: true}}, nil); err != nil {
		t.Errorf("adding one again that is gone: %v", err)
	}
	if got := olderOf(t, ctx, m); got != "" {
		t.Errorf("older records at the end: got %q", got)
	}
}

// service is a connection with the control plane's own key: of somebody who has
// stolen it.
func service(t *testing.T, m *devmesh.Mesh) jetstream.KeyValue {
	t.Helper()
	nc, err := devmesh.AsService(m.Dir, m.Dir.Config.NATS.URLs[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(t.Context(), registry.AgentsBucket)
	if err != nil {
		t.Fatal(err)
	}
	return kv
}

// Genuine records of before are written back into the bucket while everybody
// looks, and while nobody does: they count for nobody, and the status names them.
func TestOldRecordsWrittenBack(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("own:work")}})
	inst := instanceOf(t, dir)
	handler := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("server"), Rights: registry.Rights{Handle: scopes("own:work")}}))
	if err := handler.Handle("own:work", func(context.Context, *meshclient.Request) ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	victim, err := m.Connect(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := victim.Call(ctx, "own:work", nil); err != nil {
		t.Fatal(err)
	}
	// It would ask to be let in again and again, and its record would be read for it.
	if err := victim.Close(); err != nil {
		t.Fatal(err)
	}
	kv := service(t, m)
	old := map[string][]byte{}
	for _, key := range []string{id.String(), registry.InstanceKey(id, inst), registry.TickKey} {
		e, err := kv.Get(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		old[key] = e.Value()
	}
	if _, err := m.Cut(ctx, wire.OpRevoke, id.String(), ""); err != nil {
		t.Fatal(err)
	}
	writeBack := func() {
		t.Helper()
		for key, text := range old {
			if _, err := kv.Put(ctx, key, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := id.String() + " " + registry.InstanceKey(id, inst)
	writeBack()
	eventually(t, ctx, "that the older records are named", func() bool { return olderOf(t, ctx, m) == want })
	if _, err := raw(t, dir); err == nil {
		t.Error("the agent came back by its old records")
	}
	// With the control plane away, and started anew.
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	writeBack()
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "that they are named after a start", func() bool { return olderOf(t, ctx, m) == want })
	if _, err := raw(t, dir); err == nil {
		t.Error("the agent came back by its old records and a start")
	}
	if r, err := m.Cut(ctx, wire.OpRevoke, id.String(), "again"); err != nil || r.Status != registry.Revoked || r.Epoch <= 2 {
		t.Errorf("revoking again: got %+v, %v", r, err)
	}
	eventually(t, ctx, "that nothing is older", func() bool { return olderOf(t, ctx, m) == "" })
	if _, err := raw(t, dir); err == nil {
		t.Error("the agent came back")
	}
}

// JetStream is put back to an older state under a control plane that runs on: it
// finds out by its next tick.
func TestWentBackWhileRunning(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	id := agentid.Require("victim")
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Rights: registry.Rights{Call: scopes("own:work")}})
	down(t, m)
	backup := t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(m.Dir.Store())); err != nil {
		t.Fatal(err)
	}
	up(t, ctx, m)
	if _, err := m.Cut(ctx, wire.OpRevoke, id.String(), ""); err != nil {
		t.Fatal(err)
	}
	m.Server.Close()
	if err := os.RemoveAll(m.Dir.Store()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(m.Dir.Store(), os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := m.UpServer(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "a new incarnation", func() bool { return m.Plane.Store().Incarnation() == 2 })
	eventually(t, ctx, "that the record is named", func() bool {
		var s wire.MeshStatus
		err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &s)
		return err == nil && slices.ContainsFunc(s.OlderRecords, func(o wire.OlderRecord) bool { return o.Record == id.String() })
	})
	if _, err := raw(t, dir); err == nil {
		t.Error("the agent came back")
	}
	// What changes from now on is seen again.
	add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("fresh"), Rights: registry.Rights{Call: scopes("own:work")}})
	if _, err := m.Cut(ctx, wire.OpSuspend, "fresh", ""); err != nil {
		t.Error(err)
	}
}

// A control plane that cannot keep its log, or cannot read it, does not start.
func TestLogOfEpochsIsNeeded(t *testing.T) {
	m, ctx := start(t, devmesh.Options{})
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	dir := *m.Dir
	path := filepath.Join(m.Dir.State(), epochlog.File)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	starts := func() error {
		short, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		p, err := controlplane.Start(short, controlplane.Config{Mesh: &dir, Log: zerolog.Nop()})
		if err == nil {
			err = p.Close()
		}
		return err
	}
	var e *epochlog.Error
	dir.Config.State = path
	if err := starts(); !errors.As(err, &e) || e.Hint() == "" {
		t.Errorf("a place that cannot be written: got %v, want an error with a hint", err)
	}
	dir.Config.State = m.Dir.Config.State
	if err := os.WriteFile(path, []byte(strings.Replace(string(good), " 1 1 ", " 1 0 ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := starts(); !errors.As(err, &e) || e.Line == 0 {
		t.Errorf("a changed line: got %v, want an error that names it", err)
	}
	if err := os.WriteFile(path, append(good, "half a li"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := starts(); err != nil {
		t.Errorf("a line that a crash cut off: %v", err)
	}
	dir.Config.State = "elsewhere"
	if err := starts(); err != nil {
		t.Errorf("another directory: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.Dir.Dir, "elsewhere", epochlog.File)); err != nil {
		t.Error(err)
	}
	// JetStream lost all of it: founding it again would bring the first
	// administrator back.
	m.Server.Close()
	if err := os.RemoveAll(m.Dir.Store()); err != nil {
		t.Fatal(err)
	}
	if err := m.UpServer(ctx); err != nil {
		t.Fatal(err)
	}
	dir.Config.State, dir.Config.NATS = m.Dir.Config.State, m.Dir.Config.NATS
	if err := starts(); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("an empty registry: got %v, want that it was lost", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
}
