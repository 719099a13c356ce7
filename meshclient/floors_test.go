package meshclient_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// A client that saw an epoch believes no lower one, not even as a new process, and
// not from the registry's own leader: what was revoked does not come back by an old
// copy of the bucket. It is an instance's here, of which no tick tells.
func TestNoOlderRecordAfterRestart(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	readerDir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	naive := connected(t, m, enrolled(t, m, "naive", registry.Rights{}))
	writerDir := enrolled(t, m, "writer", registry.Rights{Call: scopes("read:logs")})
	writer := connected(t, m, writerDir)
	key := registry.InstanceKey(writer.ID(), writer.Instance())
	ctrl := service(t, m)
	old := raw(t, ctrl, key)
	standing := func(c *meshclient.Mesh) denial.Reason {
		return denial.Of(c.KeyStanding(ctx, writer.ID(), writer.Key()))
	}

	reader := connected(t, m, readerDir)
	handle(t, reader, "read:logs", echo)
	if _, err := writer.Call(ctx, "read:logs", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Cut(ctx, wire.OpRevoke, "writer/"+writer.Instance().String(), "test"); err != nil {
		t.Fatal(err)
	}
	writer.Close() // which would knock at a door that nobody answers
	eventually(t, "the revocation", func() bool { return standing(reader) == denial.Revoked })
	// It is on disk soon, and not at the end alone: a process may be killed.
	dir, err := agentdir.Open(readerDir)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file", func() bool { s, err := dir.Floors(); return err == nil && s.Epoch(key) == 2 })
	if info, err := os.Stat(dir.File(agentdir.StateFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	reader.Die()

	again := connected(t, m, readerDir)
	// From here on nobody repairs what is done to the bucket.
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	put(t, ctrl, key, old)
	if got := standing(naive); got != "" {
		t.Fatalf("one that remembers nothing refuses what is in the bucket: %s; this test would show nothing", got)
	}
	if got := standing(again); got != denial.BadRecord {
		t.Errorf("got %q after the restart, want %q", got, denial.BadRecord)
	}
}

// One that came and went for one call writes when it saw something, and not each
// time.
func TestShortLivedClientsWriteSeldom(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	ctx := within(t, 60*time.Second)
	dir := enrolled(t, m, "asker", registry.Rights{})
	enrolled(t, m, "other", registry.Rights{})
	once := func() os.FileInfo {
		t.Helper()
		c := connected(t, m, dir)
		if _, err := c.Record(ctx, agentid.Require("other")); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, agentdir.StateFile))
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := once()
	if again := once(); !os.SameFile(first, again) {
		t.Error("the file was written again though nothing rose")
	}
	if _, err := m.Cut(ctx, wire.OpSuspend, "other", "test"); err != nil {
		t.Fatal(err)
	}
	if again := once(); os.SameFile(first, again) {
		t.Error("an epoch rose, and nothing was written")
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
