package meshclient_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// A client that saw an epoch believes no lower one, not even as a new process, and
// not from the registry's own leader: what was revoked does not come back by an old
// copy of the bucket.
func TestNoOlderRecordAfterRestart(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	readerDir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	naive := connected(t, m, enrolled(t, m, "naive", registry.Rights{}))
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Call: scopes("read:logs")}))
	id := writer.ID()
	key := registry.InstanceKey(id, writer.Instance())
	ctrl := service(t, m)
	old, oldKey := raw(t, ctrl, "writer"), raw(t, ctrl, key)

	reader := connected(t, m, readerDir)
	handle(t, reader, "read:logs", echo)
	if _, err := writer.Call(ctx, "read:logs", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cut(ctx, wire.OpSuspend, "writer", "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new epoch", func() bool { a, err := reader.Record(ctx, id); return err == nil && a.Epoch == 2 })
	// It is on disk soon, and not at the end alone: a process may be killed.
	dir, err := agentdir.Open(readerDir)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file", func() bool { s, err := dir.Floors(); return err == nil && s.Epoch("writer") == 2 })
	if info, err := os.Stat(dir.File(agentdir.StateFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	reader.Die()
	writer.Close() // which would knock at a door that nobody answers

	again := connected(t, m, readerDir)
	handle(t, again, "read:logs", echo)
	// From here on nobody repairs what is done to the bucket.
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	put(t, ctrl, "writer", old)
	put(t, ctrl, key, oldKey)
	if a, err := naive.Record(ctx, id); err != nil || a.Status != registry.Active || a.Epoch != 1 {
		t.Fatalf("got %+v, %v, want what is in the bucket: this test would show nothing", a, err)
	}
	_, err = again.Record(ctx, id)
	if denial.Of(err) != denial.BadRecord {
		t.Errorf("got %v after the restart, want %q", err, denial.BadRecord)
	}
}

// One that came and went for one call writes when it saw something, and not each
// time.
func TestShortLivedClientsWriteSeldom(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	handle(t, reader, "read:logs", echo)
	dir := enrolled(t, m, "asker", registry.Rights{Call: scopes("read:logs")})
	file := filepath.Join(dir, agentdir.StateFile)
	once := func() os.FileInfo {
		t.Helper()
		c := connected(t, m, dir)
		if _, err := c.Call(ctx, "read:logs", nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := once()
	if again := once(); !os.SameFile(first, again) {
		t.Error("the file was written again though nothing rose")
	}
	if _, err := m.Cut(ctx, wire.OpUngrant, "reader", "test"); err == nil {
		t.Fatal("nothing was named to take back, and it was")
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "reader", Rights: registry.Rights{Call: scopes("x:y")}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpUngrant, Target: "reader", Rights: registry.Rights{Call: scopes("x:y")}}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the handler's return", func() bool {
		_, err := reader.Call(ctx, "x:y", nil)
		return err != nil && reader.Epoch() == "2.1" && reader.Away() == nil
	})
	if again := once(); os.SameFile(first, again) {
		t.Error("the handler's epoch rose, and nothing was written")
	}
}

// What a client remembers is not thrown away because it cannot be read.
func TestCorruptStateIsNoFreshStart(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	dir := enrolled(t, m, "asker", registry.Rights{})
	if err := connected(t, m, dir).Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, agentdir.StateFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, good[:len(good)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := m.Connect(within(t, 20*time.Second), dir)
	if err == nil {
		c.Close()
		t.Fatal("connected in spite of it")
	}
	var e *agentdir.StateError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), file) || !strings.Contains(meshclient.Hint(err), file) {
		t.Errorf("got %v with the hint %q, want both to name the file", err, meshclient.Hint(err))
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	connected(t, m, dir)
}
