//go:build unix

package kill_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

var (
	runFor = flag.Duration("kill.for", 15*time.Second, "how long TestKill goes on killing")
	seed   = flag.Uint64("kill.seed", 0, "seed of the moments at which TestKill kills; 0 picks one")
)

// operators is how many of them change the registry at once.
const operators = 4

// longest is the longest time that a program lives under load.
const longest = 1200 * time.Millisecond

func TestKill(t *testing.T) {
	t.Parallel()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("-kill.seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	w := &world{t: t, mesh: process.NewMesh(t, programs), model: newModel()}
	up := w.mesh.Up()
	up.Await(process.IsUp)
	rounds := 0
	for end := time.Now().Add(*runFor); time.Now().Before(end); rounds++ {
		w.round(up, rounds, time.Duration(random.Int64N(int64(longest))))
		if random.IntN(3) == 0 {
			// It may die while it starts, too.
			up = w.mesh.Up()
			w.pause(up, time.Duration(random.Int64N(int64(400*time.Millisecond))))
			up.Kill()
		}
		up = w.mesh.Up()
		up.Await(process.IsUp)
		w.inspect()
	}
	w.enforced()
	if code := up.Terminate(10 * time.Second); code != 0 {
		t.Errorf("the last one: got exit code %d, want 0", code)
	}
	t.Logf("%d kills; %d acknowledged operations; %d agents active, %d suspended, %d revoked, %d pending", rounds, w.done,
		w.model.count(registry.Active), w.model.count(registry.Suspended), w.model.count(registry.Revoked), w.model.count(registry.Pending))
	if rounds < 3 || w.done < 20 {
		t.Errorf("got %d rounds and %d operations, too few to show anything", rounds, w.done)
	}
}

// world is the mesh and what has to be true of it.
type world struct {
	t     *testing.T
	mesh  *process.Mesh
	model *model

	mu   sync.Mutex
	done int
}

// pause lets a program run for a while.
func (w *world) pause(p *process.Process, d time.Duration) {
	w.t.Helper()
	select {
	case <-p.Done():
		w.t.Fatal("the program ended by itself")
	case <-time.After(d):
	}
}

// round lets operators work until the program is killed under them.
func (w *world) round(up *process.Process, n int, life time.Duration) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	admin := w.connect(ctx, "admin")
	old := w.model.ids()
	var wg sync.WaitGroup
	for i := range operators {
		wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				w.life(ctx, admin, fmt.Sprintf("a-%d-%d-%d", n, i, k), (n+i+k)%4)
			}
		})
	}
	wg.Go(func() { w.revisit(ctx, admin, old) })
	w.pause(up, life)
	up.Kill()
	// The dead acknowledge nothing: what was answered has been recorded, or is
	// recorded now from an answer that was on its way.
	cancel()
	wg.Wait()
	if err := admin.Close(); err != nil {
		w.t.Logf("closing: %v", err)
	}
}

func (w *world) connect(ctx context.Context, id string) *meshclient.Mesh {
	w.t.Helper()
	m, err := w.dial(ctx, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) dial(ctx context.Context, id string) (*meshclient.Mesh, error) {
	ctx, cancel := context.WithTimeout(ctx, process.Soon)
	defer cancel()
	return meshclient.Connect(ctx, meshclient.As(w.mesh.Agent(id)), meshclient.Log(zerolog.Nop()))
}

// life leads one agent as far as kind says: 0 added, 1 suspended and resumed, 2
// revoked, 3 added and revoked without ever having lived.
func (w *world) life(ctx context.Context, admin *meshclient.Mesh, id string, kind int) {
	token := w.operate(ctx, admin, id, wire.OpAdd)
	if token == "" {
		return
	}
	ops := [][]wire.Op{
		{opEnrol},
		{opEnrol, wire.OpSuspend, wire.OpResume, wire.OpSuspend},
		{opEnrol, wire.OpSuspend, wire.OpRevoke},
		{wire.OpRevoke},
	}[kind]
	for _, op := range ops {
		if op == opEnrol && !w.enrol(ctx, id, token) || op != opEnrol && w.operate(ctx, admin, id, op) == "" {
			return
		}
	}
}

// revisit changes agents of earlier rounds.
func (w *world) revisit(ctx context.Context, admin *meshclient.Mesh, ids []string) {
	for _, id := range ids {
		var op wire.Op
		switch w.model.state(id).status {
		case registry.Active:
			op = wire.OpSuspend
		case registry.Suspended:
			op = wire.OpResume
			if len(id)%2 == 0 {
				op = wire.OpRevoke
			}
		default:
			continue
		}
		if w.operate(ctx, admin, id, op) == "" {
			return
		}
	}
}

// operate makes one change. It returns the join token of an add, anything for
// another operation that was acknowledged, and nothing where none was.
func (w *world) operate(ctx context.Context, admin *meshclient.Mesh, id string, op wire.Op) string {
	req := wire.AdminRequest{Op: op, Target: id, Reason: w.t.Name()}
	if op == wire.OpAdd {
		req = wire.AdminRequest{Op: op, New: &registry.NewAgent{
			Agent: agentid.Require(id), Heartbeat: registry.HeartbeatNone,
			Rights: registry.Rights{Call: []capability.Scope{capability.RequireScope("read:logs")}},
		}}
	}
	body, err := json.Marshal(req)
	if err != nil {
		w.t.Error(err)
		return ""
	}
	w.model.begin(id, op)
	reply, err := admin.Call(ctx, wire.AdminScope, body)
	if err != nil {
		w.refused(id, op, err)
		return ""
	}
	w.model.acknowledged(id, op)
	w.count()
	var result struct {
		JoinToken string          `json:"join_token"`
		Status    registry.Status `json:"status"`
		Epoch     uint64          `json:"epoch"`
	}
	if err := json.Unmarshal(reply.Data, &result); err != nil {
		w.t.Error(err)
		return ""
	}
	if op == wire.OpAdd {
		return result.JoinToken
	}
	if got, want := (state{result.Status, result.Epoch}), w.model.state(id); got != want {
		w.t.Errorf("%s %s: got %v, want %v", op, id, got, want)
	}
	return id
}

// refused sorts out why an operation failed: the program died, which is no
// acknowledgement of anything, or something is wrong.
func (w *world) refused(id string, op wire.Op, err error) {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, meshclient.ErrUnavailable),
		errors.Is(err, meshclient.ErrDeadline):
	default:
		w.t.Errorf("%s %s: %v", op, id, err)
	}
}

func (w *world) count() {
	w.mu.Lock()
	w.done++
	w.mu.Unlock()
}

// enrol makes the agent's directory, over HTTPS.
func (w *world) enrol(ctx context.Context, id, text string) bool {
	token, err := registry.ParseJoinToken(text)
	if err != nil {
		w.t.Error(err)
		return false
	}
	w.model.begin(id, opEnrol)
	// It may fail without a kill: one host may not enrol many a second.
	if _, err := enrol.Enrol(ctx, token, w.mesh.Agent(id)); err != nil {
		return false
	}
	w.model.acknowledged(id, opEnrol)
	w.count()
	return true
}

// inspect asks the registry, through the command that an operator has.
func (w *world) inspect() {
	w.t.Helper()
	var list wire.AgentList
	w.mesh.Document(&list, "agent", "ls")
	for _, wrong := range w.model.check(list.Agents) {
		w.t.Error(wrong)
	}
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// enforced checks that what the registry says is what agents get to feel.
func (w *world) enforced() {
	w.t.Helper()
	felt := map[registry.Status]int{}
	for id, s := range w.model.agents {
		if _, err := os.Stat(filepath.Join(w.mesh.Agent(id), "agent.json")); err != nil || felt[s.status] >= 5 {
			continue
		}
		felt[s.status]++
		m, err := w.dial(context.Background(), id)
		if err == nil {
			if err := m.Close(); err != nil {
				w.t.Error(err)
			}
		}
		want := denial.Of(s.status.Standing())
		if got := denial.Of(err); got != want {
			w.t.Errorf("%s, which is %s, connects: got %v, want %q", id, s.status, err, want)
		}
	}
	if felt[registry.Revoked] == 0 || felt[registry.Suspended] == 0 || felt[registry.Active] == 0 {
		w.t.Errorf("tried %v, want some active, suspended and revoked agents", felt)
	}
}

// Dying while it makes the mesh leaves one that works, or nothing that looks
// like one: the next start says what to do.
func TestKilledWhileItMakesTheMesh(t *testing.T) {
	t.Parallel()
	worked, refused := 0, 0
	for delay := time.Duration(0); delay < 100*time.Millisecond; delay += 5 * time.Millisecond {
		m := process.NewMesh(t, programs)
		up := m.Up()
		select {
		case <-up.Done():
			t.Fatal("the program ended by itself")
		case <-time.After(delay):
		}
		up.Kill()
		left, err := filepath.Glob(filepath.Join(m.Dir(), "*"))
		if err != nil {
			t.Fatal(err)
		}
		up = m.Up()
		if up.Says(process.IsUp) == nil {
			worked++
			m.Must("status")
			up.Kill()
			continue
		}
		refused++
		code := up.Wait(process.Soon)
		if text := up.Stderr.String(); code != 1 || !strings.Contains(text, "\nhint: ") {
			t.Errorf("killed after %s, which left %v: got exit code %d and %q, want 1 and a hint", delay, left, code, text)
		}
	}
	t.Logf("%d meshes came up, %d were refused", worked, refused)
	if worked == 0 {
		t.Error("no mesh came up")
	}
}

// What nats-server leaves behind that was killed while it made a stream, which
// the test above hits once in a while.
func TestStreamThatWasNeverFinished(t *testing.T) {
	t.Parallel()
	m := process.NewMesh(t, programs)
	up := m.Up()
	up.Await(process.IsUp)
	up.Kill()
	streams := filepath.Join(m.Dir(), "nats", "jetstream", "jetstream", "CTRL", "streams")
	for _, change := range []func() error{
		func() error { return os.RemoveAll(filepath.Join(streams, "KV_MESH_JOINS")) },
		func() error { return os.MkdirAll(filepath.Join(streams, "KV_MESH_JOINS", "msgs"), 0o750) },
		func() error {
			return os.WriteFile(filepath.Join(streams, "KV_MESH_JOINS", "msgs", "1.blk"), nil, 0o600)
		},
		func() error { return os.WriteFile(filepath.Join(streams, "KV_MESH_JOINS", "meta.inf.tmp"), nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	m.Up().Await(process.IsUp)
	m.Must("agent", "add", "--enroll", "asker", "--call", "read:logs")
}
