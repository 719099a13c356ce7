package meshfile_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// random makes meshes out of few names, so that two of them overlap.
type random struct{ *rand.Rand }

func some[T any](r random, list ...T) []T {
	var out []T
	for _, v := range list {
		if r.IntN(3) == 0 {
			out = append(out, v)
		}
	}
	return out
}

func one[T any](r random, list ...T) T { return list[r.IntN(len(list))] }

func (r random) rights() registry.Rights {
	out := registry.Rights{
		Call:      some(r, capability.RequireScope("read:logs"), capability.RequireScope("read:mail"), capability.RequireScope("write:x")),
		Handle:    some(r, capability.RequireScope("read:logs"), capability.RequireScope("read:mail")),
		Publish:   some(r, "news", "alerts.red"),
		Subscribe: some(r, "news", "alerts.red"),
		Plain:     registry.Plain{Publish: some(r, "legacy.a", "legacy.b"), Subscribe: some(r, "legacy.a")},
	}
	held, _, err := out.Scopes()
	if err != nil {
		panic(err)
	}
	out.MayDelegate = some(r, held...)
	return out
}

func (r random) agent(id agentid.ID) registry.NewAgent {
	a := registry.NewAgent{
		Agent: id, Kind: one(r, registry.Service, registry.Service, registry.Job), Stock: r.IntN(4) == 0,
		Heartbeat: one(r, registry.HeartbeatSession, registry.HeartbeatAlways, registry.HeartbeatNone),
		Readmit:   one(r, registry.ReadmitAttestation, registry.ReadmitManual),
		Sessions:  one(r, registry.SessionsAny, registry.SessionsSingle), Depth: 1 + r.IntN(4), Rights: r.rights(),
	}
	if r.IntN(3) == 0 {
		a.Join.OIDC = registry.OIDCRule{
			Issuer: one(r, "https://issuer.example", "https://issuer.example/realms/x"), Audience: one(r, "sealmesh", "on"), Subject: one(r, "system:pod", `"#:é1`),
		}
	}
	for _, k := range some(r, "team", "tier") {
		if a.Labels == nil {
			a.Labels = map[string]string{}
		}
		a.Labels[k] = one(r, "", "1", "x y")
	}
	return a
}

// operator is the agent that applies, which keeps its right.
func (r random) operator() registry.NewAgent {
	a := registry.NewAgent{Agent: admin, Kind: registry.Person, Heartbeat: registry.HeartbeatNone, Readmit: registry.ReadmitAttestation, Sessions: registry.SessionsAny, Depth: registry.DefaultDepth, Rights: r.rights()}
	a.Rights.Call = append(a.Rights.Call, capability.RequireScope(wire.AdminScope))
	return a
}

func (r random) file() *meshfile.Mesh {
	m := &meshfile.Mesh{Topics: []registry.Topic{}, Agents: []registry.NewAgent{}}
	for _, name := range some(r, "alerts.red", "news", "old") {
		m.Topics = append(m.Topics, registry.Topic{Topic: name, MaxAge: 3600 * int64(1+r.IntN(2))})
	}
	for _, name := range []string{"a", "admin", "b", "c", "d"} {
		if name == "admin" {
			m.Agents = append(m.Agents, r.operator())
		} else if r.IntN(4) > 0 {
			m.Agents = append(m.Agents, r.agent(agentid.Require(name)))
		}
	}
	return m
}

// world is a mesh that a file brought about, lived in since.
func (r random) world(t testing.TB) *mesh {
	m := newMesh()
	f := r.file()
	for _, topic := range f.Topics {
		m.topics[topic.Topic] = topic
	}
	for _, a := range f.Agents {
		b := &member{NewAgent: a, status: registry.Active, open: r.IntN(3)}
		b.Rights = a.Rights.Union(registry.Rights{})
		if a.Agent != admin {
			b.status = one(r, registry.Active, registry.Active, registry.Pending, registry.Suspended, registry.Expired)
		}
		m.agents[a.Agent] = b
	}
	return m
}

// holders are who holds each right.
func (m *mesh) holders() map[string][]agentid.ID {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]agentid.ID{}
	for id, a := range m.agents {
		if a.status == registry.Revoked {
			continue
		}
		for i, l := range lists(a.Rights) {
			for _, s := range l {
				right := fmt.Sprint(i, s)
				out[right] = append(out[right], id)
			}
		}
	}
	return out
}

// Applying a file to any mesh leads to that file; applying it again does nothing.
// On the way nobody ever holds what neither the mesh nor the file gives it, and no
// right has more holders than before or after. Whatever fails, the next run ends
// in the same, and so do two at once.
func FuzzApply(f *testing.F) {
	for seed := range uint64(100) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := random{rand.New(rand.NewPCG(seed, 1))}
		m, want := r.world(t), r.file()
		// What is written is what is meant.
		if again := mustParseBytes(t, want.Text()); string(again.Text()) != string(want.Text()) {
			t.Fatalf("got\n%s\nwant\n%s", again.Text(), want.Text())
		} else {
			want = again
		}
		o := meshfile.Options{Self: admin, Prune: r.IntN(2) == 0}
		goal := m.copy()
		before := m.holders()
		a := meshfile.Applier{Operate: goal.operate, Options: o}
		rep, err := a.Apply(t.Context(), want)
		if err != nil || rep.Rounds > 2 {
			t.Fatalf("got %d rounds, %v", rep.Rounds, err)
		}
		checkOrder(t, rep.Done)
		if rep, err = a.Apply(t.Context(), want); err != nil || len(rep.Done) != 0 || rep.Rounds != 1 {
			t.Fatalf("got %d steps the second time, %v", len(rep.Done), err)
		}
		if o.Prune && goal.text(t) != string(want.Text()) {
			t.Fatalf("got\n%s\nwant\n%s", goal.text(t), want.Text())
		}
		after := goal.holders()

		// The same once more, with a look after each step and a failure somewhere.
		watched, left := m.copy(), r.IntN(6)
		watched.after = func(req wire.AdminRequest) error {
			checkHolders(t, watched.holders(), before, after)
			if changes(req) {
				left--
			}
			if left == 0 && changes(req) {
				return errDown
			}
			return nil
		}
		b := meshfile.Applier{Operate: watched.operate, Options: o}
		if _, err := b.Apply(t.Context(), want); err != nil {
			if !errors.Is(err, errDown) {
				t.Fatal(err)
			}
			if _, err := b.Apply(t.Context(), want); err != nil {
				t.Fatal(err)
			}
		}
		if got := watched.text(t); got != goal.text(t) {
			t.Fatalf("got after a failure\n%s\nwant\n%s", got, goal.text(t))
		}

		both := m.copy()
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range errs {
			wg.Go(func() {
				_, errs[i] = (&meshfile.Applier{Operate: both.operate, Options: o}).Apply(t.Context(), want)
			})
		}
		wg.Wait()
		if got := both.text(t); errors.Join(errs...) != nil || got != goal.text(t) {
			t.Fatalf("got %v and\n%s\nof two at once, want\n%s", errs, got, goal.text(t))
		}
	})
}

func mustParseBytes(t *testing.T, text []byte) *meshfile.Mesh { return mustParse(t, string(text)) }

func changes(r wire.AdminRequest) bool {
	return r.Op != wire.OpList && r.Op != wire.OpShow && r.Op != wire.OpTopics
}

// Authority is taken before it is given, but for that of the one who applies.
func checkOrder(t *testing.T, steps []meshfile.Step) {
	t.Helper()
	given := false
	for _, s := range steps {
		switch k := s.Kind(); {
		case s.Agent().IsZero():
		case k == meshfile.Grant || k == meshfile.Add:
			given = true
		case given && s.Agent() != admin:
			t.Fatalf("got %s %v after something was given", k, s.Agent())
		}
	}
}

func checkHolders(t *testing.T, now, before, after map[string][]agentid.ID) {
	t.Helper()
	others := func(list []agentid.ID) []agentid.ID {
		return slices.DeleteFunc(slices.Clone(list), func(id agentid.ID) bool { return id == admin })
	}
	for right, list := range now {
		for _, id := range list {
			if !slices.Contains(before[right], id) && !slices.Contains(after[right], id) {
				t.Fatalf("%s holds %q, which neither side gives it", id, right)
			}
		}
		if n, most := len(others(list)), max(len(others(before[right])), len(others(after[right]))); n > most {
			t.Fatalf("%q has %d holders, at most %d before and after", right, n, most)
		}
	}
}
