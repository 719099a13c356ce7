package meshfile_test

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// What the model of the other tests promises, a mesh keeps: any file after any
// other is brought about at once.
func TestApplyToAMesh(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := devmesh.Start(ctx, filepath.Join(t.TempDir(), "mesh"), devmesh.Options{Log: zerolog.Nop(), ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // the test is over
	operate := func(ctx context.Context, req wire.AdminRequest) (json.RawMessage, error) {
		var answer json.RawMessage
		err := m.Operate(ctx, req, &answer)
		return answer, err
	}
	first, err := meshfile.Read(ctx, operate, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(first.Agents) != 1 || first.Agents[0].Agent != admin || !first.Agents[0].Standing || first.Agents[0].Connections == 0 {
		t.Fatalf("got %+v of a new mesh", first.Agents)
	}
	operator := first.Agents[0].NewAgent
	r := random{rand.New(rand.NewPCG(7, 7))}
	for i := range 12 {
		want := r.file()
		for i, a := range want.Agents {
			want.Agents[i].Join = registry.JoinRule{} // this mesh knows no platform
			if a.Agent == admin {
				want.Agents[i] = operator // its own cut is another test's
			}
		}
		want = mustParse(t, string(want.Text()))
		a := meshfile.Applier{Operate: operate, Options: meshfile.Options{Self: admin}}
		rep, err := a.Apply(ctx, want)
		if err != nil || rep.Rounds > 2 {
			t.Fatalf("file %d: got %d rounds, %v", i, rep.Rounds, err)
		}
		have, err := meshfile.Read(ctx, operate, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p := meshfile.NewPlan(meshfile.Export(have), have, meshfile.Options{Self: admin, Prune: true}); len(p.Steps) != 0 || p.Refused != nil {
			t.Errorf("file %d: got %s, %v of what was exported", i, shown(p), p.Refused)
		}
	}
	// New agents came without join tokens.
	id := agentid.Require("fresh")
	b, err := operate(ctx, wire.AdminRequest{Op: wire.OpAdd, NoJoin: true, New: &registry.NewAgent{Agent: id, Rights: registry.Rights{Call: []capability.Scope{capability.RequireScope("read:logs")}}}})
	if err != nil {
		t.Fatal(err)
	}
	var res wire.AddResult
	if err := json.Unmarshal(b, &res); err != nil || res.Agent != id || res.JoinToken != "" {
		t.Errorf("got %s, %v, want no join token", b, err)
	}
	// A removed name is found although it is in no list.
	if _, err := m.Cut(ctx, wire.OpRemove, "fresh", "test"); err != nil {
		t.Fatal(err)
	}
	want := mustParse(t, "version: 1\nagents: {fresh: {}}\n")
	have, err := meshfile.Read(ctx, operate, want)
	if err != nil {
		t.Fatal(err)
	}
	if p := meshfile.NewPlan(want, have, meshfile.Options{Self: admin}); p.Refused == nil || len(p.Steps) != 0 {
		t.Errorf("got %s, %v of a removed name", shown(p), p.Refused)
	}
	// The refusals that Apply takes for somebody else's doing are those that come.
	for _, req := range []wire.AdminRequest{
		{Op: wire.OpAdd, NoJoin: true, New: &registry.NewAgent{Agent: agentid.Require("a")}},
		{Op: wire.OpUngrant, Target: "a", Rights: registry.Rights{Publish: []string{"never"}}},
		{Op: wire.OpUngrant, Target: "nobody", Rights: registry.Rights{Publish: []string{"never"}}},
		{Op: wire.OpGrant, Target: "fresh", Rights: registry.Rights{Publish: []string{"news"}}},
		{Op: wire.OpTopicRemove, Topic: &registry.Topic{Topic: "never"}},
	} {
		_, err := operate(ctx, req)
		switch denial.Of(err) {
		case denial.AlreadyExists, denial.NotFound, denial.UnlistedAgent, denial.WrongState:
		default:
			t.Errorf("got %v of %s", err, req.Op)
		}
	}
}
