package meshfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

var admin = agentid.Require("admin")

const operator = "  admin: {kind: person, heartbeat: none, call: [\"admin:registry\"]}\n"

// shown are the changes of a plan, a line each.
func shown(p *meshfile.Plan) string {
	var b strings.Builder
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			what := c.Topic
			if what == "" {
				what = c.Agent.String()
			}
			fmt.Fprintf(&b, "%s %s %s %s>%s\n", c.Kind, what, c.Field, c.From, c.To)
		}
	}
	return b.String()
}

func TestPlanInOrder(t *testing.T) {
	m := newMesh().load(t, `version: 1
topics:
  news: {max_age: 1h}
  old: {max_age: 1h}
  same: {max_age: 1h}
agents:
`+operator+`  gone: {call: ["read:logs"]}
  reader:
    handle: [read:logs]
    call: [write:reports, read:mail]
    may_delegate: [write:reports, read:mail]
    plain: {publish: [legacy.a, legacy.b]}
    labels: {team: ops, tier: "1"}
  same: {publish: [news]}
  writer:
    depth: 4
`)
	want := mustParse(t, `version: 1
topics:
  alerts: {max_age: 24h}
  news: {max_age: 2h}
  same: {max_age: 1h}
agents:
  admin:
    kind: person
    heartbeat: none
    call: [admin:registry]
    publish: [news]
  fresh:
    kind: job
    stock: true
    call: [read:logs]
    may_delegate: [read:logs]
  reader:
    call: [write:reports]
    may_delegate: [write:reports]
    plain: {publish: [legacy.b], subscribe: [legacy.c]}
    labels: {team: dev, note: ""}
  same: {publish: [news]}
  writer:
    stock: true
    handle: [read:logs]
`)
	const ordered = `add alerts max_age >24h
change news max_age 1h>2h
ungrant reader call read:mail>
ungrant reader handle read:logs>
ungrant reader may_delegate read:mail>
ungrant reader plain.publish legacy.a>
set reader labels.note >""
set reader labels.team ops>dev
set reader labels.tier 1>
set writer heartbeat session>none
set writer stock false>true
set writer depth 4>3
add fresh  >
add fresh kind >job
add fresh stock >true
add fresh call >read:logs
add fresh may_delegate >read:logs
grant admin publish >news
grant reader plain.subscribe >legacy.c
grant writer handle >read:logs
`
	p := m.plan(t, want, meshfile.Options{Self: admin})
	if p.Refused != nil {
		t.Fatal(p.Refused)
	}
	if got := shown(p); got != ordered {
		t.Errorf("got\n%s\nwant\n%s", got, ordered)
	}
	var surplus []string
	for _, c := range p.Surplus {
		surplus = append(surplus, c.Topic+c.Agent.String())
	}
	if got := strings.Join(surplus, " "); got != "old gone" {
		t.Errorf("got surplus %q", got)
	}
	p = m.plan(t, want, meshfile.Options{Self: admin, Prune: true})
	pruned := strings.Replace(ordered, "ungrant reader call", "remove gone  >\nungrant reader call", 1) + "remove old  >\n"
	if got := shown(p); got != pruned || len(p.Surplus) != 0 {
		t.Errorf("got\n%s\nwant\n%s", got, pruned)
	}
	for _, s := range p.Steps {
		// An ungrant closes the agent's connections, and so do settings that shrink.
		want := 0
		if s.Kind() == meshfile.Ungrant || s.Kind() == meshfile.Remove && s.Agent() != (agentid.ID{}) || s.Kind() == meshfile.Set && s.Agent().String() == "writer" {
			want = 2
		}
		if s.Cuts != want {
			t.Errorf("got %d connections cut by %+v, want %d", s.Cuts, s.Changes[0], want)
		}
	}
}

// What the file does not speak of is left alone, even by --prune.
func TestPlanLeavesSectionsAlone(t *testing.T) {
	m := newMesh().load(t, "version: 1\ntopics: {news: {max_age: 1h}}\nagents:\n"+operator+"  a: {}\n")
	for text, want := range map[string]string{
		"version: 1\n":                     "",
		"version: 1\ntopics: {}\n":         "remove news  >\n",
		"version: 1\nagents:\n" + operator: "remove a  >\n",
	} {
		if got := shown(m.plan(t, mustParse(t, text), meshfile.Options{Self: admin, Prune: true})); got != want {
			t.Errorf("got %q of %q, want %q", got, text, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	const second = "  boss: {call: [\"admin:registry\"]}\n"
	base := "version: 1\nagents:\n" + operator
	tests := map[string]struct {
		have, want string
		edit       func(*mesh)
		opts       meshfile.Options
		refused    string // in the error; empty: not refused
		hint       string
	}{
		"nothing":                 {base, base, nil, meshfile.Options{Prune: true}, "", ""},
		"not listed, no prune":    {base, "version: 1\nagents: {}\n", nil, meshfile.Options{}, "", ""},
		"self not listed":         {base + second, "version: 1\nagents:\n" + second, nil, meshfile.Options{Prune: true}, `does not list "admin", which applies it`, "--as"},
		"self not listed, allow":  {base + second, "version: 1\nagents:\n" + second, nil, meshfile.Options{Prune: true, AllowSelf: true}, `does not list "admin"`, ""},
		"other admin removed":     {base + second, base, nil, meshfile.Options{Prune: true}, "", ""},
		"last right":              {base, "version: 1\nagents: {admin: {kind: person, heartbeat: none}}\n", nil, meshfile.Options{AllowSelf: true}, "no active agent would be left", "export"},
		"right to a new one":      {base, "version: 1\nagents:\n" + second + "  admin: {kind: person, heartbeat: none}\n", nil, meshfile.Options{AllowSelf: true}, "no active agent would be left", ""},
		"right to another":        {base + second, "version: 1\nagents:\n" + second + "  admin: {kind: person, heartbeat: none}\n", nil, meshfile.Options{}, "the right to administer", "--allow-self"},
		"right to another, allow": {base + second, "version: 1\nagents:\n" + second + "  admin: {kind: person, heartbeat: none}\n", nil, meshfile.Options{AllowSelf: true}, "", ""},
		"the other is suspended": {base + second, "version: 1\nagents:\n" + second + "  admin: {kind: person, heartbeat: none}\n",
			func(m *mesh) { m.agents[agentid.Require("boss")].status = registry.Suspended }, meshfile.Options{AllowSelf: true}, "no active agent would be left", ""},
		"own sessions":    {base, strings.Replace(base, "kind: person", "kind: person, sessions: single", 1), nil, meshfile.Options{}, `the sessions of "admin"`, "--allow-self"},
		"own readmission": {base, strings.Replace(base, "kind: person", "kind: person, readmit: manual", 1), nil, meshfile.Options{}, `the readmit of "admin"`, "--allow-self"},
		"own heartbeat":   {base, strings.Replace(base, "heartbeat: none", "heartbeat: always", 1), nil, meshfile.Options{}, `the heartbeat of "admin"`, "--allow-self"},
		"own kind, allow": {base, strings.Replace(base, "person", "service", 1), nil, meshfile.Options{AllowSelf: true}, "", ""},
		"own labels":      {base, strings.Replace(base, "kind: person", "kind: person, labels: {a: b}", 1), nil, meshfile.Options{}, "", ""},
		"own other right": {strings.Replace(base, "kind: person", "kind: person, publish: [news]", 1), base, nil, meshfile.Options{}, "", ""},
		"revoked, listed": {base + "  a: {}\n  b: {}\n  c: {}\n", base + "  a: {}\n  b: {}\n  c: {}\n", func(m *mesh) {
			m.agents[agentid.Require("a")].status = registry.Revoked
			b := m.agents[agentid.Require("b")]
			b.status, b.removed = registry.Revoked, true
		}, meshfile.Options{}, "lists what was revoked: a, b", "sealmesh agent add a --replace"},
		"revoked, not listed": {base + "  a: {}\n", base, func(m *mesh) { m.agents[agentid.Require("a")].status = registry.Revoked }, meshfile.Options{Prune: true}, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMesh().load(t, tt.have)
			if tt.edit != nil {
				tt.edit(m)
			}
			tt.opts.Self = admin
			want := mustParse(t, tt.want)
			r, err := (&meshfile.Applier{Operate: m.operate, Options: tt.opts}).Apply(t.Context(), want)
			if tt.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var refusal *meshfile.Refusal
			if !errors.As(err, &refusal) || !strings.Contains(err.Error(), tt.refused) || !strings.Contains(refusal.Hint(), tt.hint) {
				t.Fatalf("got %v, want %q", err, tt.refused)
			}
			if len(m.log) != 0 || len(r.Done) != 0 {
				t.Errorf("got %d changes before the refusal", len(m.log))
			}
		})
	}
}

func TestExportThenPlanIsEmpty(t *testing.T) {
	m := newMesh().load(t, strings.ReplaceAll(whole, `"x\ty"`, `'x"y\'`))
	m.agents[agentid.Require("stocky")].status = registry.Revoked
	m.agents[agentid.Require("reader")].Depth = 0 // a record that relies on the default
	text := m.text(t)
	if strings.Contains(text, "stocky") || strings.Contains(text, "depth") {
		t.Errorf("got\n%s", text)
	}
	for _, o := range []meshfile.Options{{Self: admin}, {Self: admin, Prune: true}} {
		if p := m.plan(t, mustParse(t, text), o); len(p.Steps) != 0 || p.Refused != nil || len(p.Surplus) != 0 {
			t.Errorf("got %s, %v, %v", shown(p), p.Refused, p.Surplus)
		}
	}
}

var errDown = errors.New("nobody answers")

// Of a failure in the middle the report says what was done and what was not, and
// the next run does the rest.
func TestApplyGoesOnAfterAFailure(t *testing.T) {
	want := mustParse(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x]}\n  b: {publish: [x]}\n  c: {publish: [x]}\n")
	m := newMesh().load(t, "version: 1\nagents:\n"+operator+"  d: {}\n")
	m.before = func(r wire.AdminRequest) error {
		if r.Op == wire.OpAdd && r.New.Agent.String() == "b" {
			return errDown
		}
		return nil
	}
	var did []string
	a := &meshfile.Applier{Operate: m.operate, Options: meshfile.Options{Self: admin, Prune: true}, Did: func(s meshfile.Step, cut *wire.CutResult) {
		did = append(did, s.Agent().String())
		if (cut != nil) != (s.Kind() == meshfile.Remove) {
			t.Errorf("got cut %v of %s", cut, s.Kind())
		}
	}}
	r, err := a.Apply(t.Context(), want)
	if !errors.Is(err, errDown) || !strings.Contains(err.Error(), `add agent "b"`) {
		t.Errorf("got %v", err)
	}
	if len(r.Done) != 2 || len(r.Left) != 2 || strings.Join(did, " ") != "d a" {
		t.Errorf("got %d done, %d left, %v", len(r.Done), len(r.Left), did)
	}
	m.before = nil
	if r, err = a.Apply(t.Context(), want); err != nil || len(r.Done) != 2 || len(r.Left) != 0 || r.Rounds != 2 {
		t.Errorf("got %+v, %v", r, err)
	}
	if r, err = a.Apply(t.Context(), want); err != nil || len(r.Done) != 0 || r.Rounds != 1 {
		t.Errorf("got %+v, %v the third time", r, err)
	}
}

// Somebody else is faster at every single change.
func TestApplyMeetsAnother(t *testing.T) {
	want := mustParse(t, "version: 1\ntopics: {news: {max_age: 1h}}\nagents:\n"+operator+"  a: {publish: [x]}\n  b: {publish: [y]}\n  c: {depth: 2}\n")
	m := newMesh().load(t, "version: 1\ntopics: {old: {max_age: 1h}}\nagents:\n"+operator+"  b: {publish: [x]}\n  c: {}\n  d: {}\n")
	m.before = func(r wire.AdminRequest) error {
		if r.Op != wire.OpList && r.Op != wire.OpShow && r.Op != wire.OpTopics {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.do(r) //nolint:errcheck // the other one is first, or not
		}
		return nil
	}
	o := meshfile.Options{Self: admin, Prune: true}
	if _, err := (&meshfile.Applier{Operate: m.operate, Options: o}).Apply(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if p := m.plan(t, want, o); len(p.Steps) != 0 {
		t.Errorf("got left\n%s", shown(p))
	}
}

// With somebody who always undoes it, an end comes.
func TestApplyEnds(t *testing.T) {
	want := mustParse(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x]}\n")
	m := newMesh().load(t, "version: 1\nagents:\n"+operator+"  a: {}\n")
	m.after = func(r wire.AdminRequest) error {
		if r.Op == wire.OpGrant {
			m.mu.Lock()
			defer m.mu.Unlock()
			_, err := m.do(wire.AdminRequest{Op: wire.OpUngrant, Target: "a", Rights: r.Rights})
			return err
		}
		return nil
	}
	r, err := (&meshfile.Applier{Operate: m.operate, Options: meshfile.Options{Self: admin}}).Apply(t.Context(), want)
	if denial.Of(err) != denial.Conflict || r.Rounds != meshfile.Rounds {
		t.Errorf("got %v after %d rounds", err, r.Rounds)
	}
}

// The cut of one's own connection takes the answer with it.
func TestApplyOutlivesItsOwnCut(t *testing.T) {
	want := mustParse(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x]}\n")
	m := newMesh().load(t, strings.Replace("version: 1\nagents:\n"+operator, "kind: person", "kind: person, publish: [x]", 1))
	m.after = func(r wire.AdminRequest) error {
		if r.Op == wire.OpUngrant {
			return errDown
		}
		return nil
	}
	var did []meshfile.Kind
	a := &meshfile.Applier{Operate: m.operate, Options: meshfile.Options{Self: admin}, Did: func(s meshfile.Step, _ *wire.CutResult) { did = append(did, s.Kind()) }}
	r, err := a.Apply(t.Context(), want)
	if err != nil || len(m.log) != 2 || m.log[1].Op != wire.OpUngrant || len(r.Left) != 0 {
		t.Errorf("got %+v, %v, %v", r, err, m.log)
	}
	if len(r.Done) != 2 || len(did) != 2 || did[1] != meshfile.Ungrant {
		t.Errorf("got %d steps done, told %v", len(r.Done), did)
	}
}

// Whoever gives up the right to apply cannot look whether all is well, and that
// was the last thing to do.
func TestApplyResigns(t *testing.T) {
	const boss = "  boss: {call: [\"admin:registry\"]}\n"
	want := mustParse(t, "version: 1\nagents:\n"+boss+"  admin: {kind: person, heartbeat: none}\n  a: {publish: [x]}\n")
	for name, answer := range map[string]error{"answered": nil, "cut off": errDown} {
		t.Run(name, func(t *testing.T) {
			m := newMesh().load(t, "version: 1\nagents:\n"+operator+boss)
			m.before = func(wire.AdminRequest) error {
				if len(m.agents[admin].Rights.Call) == 0 {
					return denial.New(denial.ScopeNotHeld, "not held")
				}
				return nil
			}
			m.after = func(r wire.AdminRequest) error {
				if r.Op == wire.OpUngrant {
					return answer
				}
				return nil
			}
			r, err := (&meshfile.Applier{Operate: m.operate, Options: meshfile.Options{Self: admin, AllowSelf: true}}).Apply(t.Context(), want)
			if err != nil || len(r.Done) != 2 || len(r.Left) != 0 {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
	m := newMesh().load(t, "version: 1\nagents:\n"+operator+boss)
	m.before = func(wire.AdminRequest) error { return denial.New(denial.ScopeNotHeld, "not held") }
	if _, err := (&meshfile.Applier{Operate: m.operate, Options: meshfile.Options{Self: admin, AllowSelf: true}}).Apply(t.Context(), want); denial.Of(err) != denial.ScopeNotHeld {
		t.Errorf("got %v of one that never held the right", err)
	}
}

// A refusal that does not come from a race stops at once.
func TestApplyStopsAtARefusal(t *testing.T) {
	want := mustParse(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x]}\n")
	m := newMesh().load(t, "version: 1\nagents:\n"+operator)
	calls := 0
	m.before = func(r wire.AdminRequest) error {
		if r.Op == wire.OpAdd {
			calls++
			return denial.New(denial.QuotaExceeded, "full")
		}
		return nil
	}
	if _, err := (&meshfile.Applier{Operate: m.operate, Options: meshfile.Options{Self: admin}}).Apply(t.Context(), want); denial.Of(err) != denial.QuotaExceeded || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func TestApplyNotesWhatIsNotConfirmed(t *testing.T) {
	m := newMesh().load(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x]}\n")
	want := mustParse(t, "version: 1\nagents:\n"+operator+"  a: {}\n")
	operate := func(ctx context.Context, req wire.AdminRequest) (json.RawMessage, error) {
		b, err := m.operate(ctx, req)
		if req.Op == wire.OpUngrant && err == nil {
			b, err = json.Marshal(wire.CutResult{Agent: agentid.Require("a"), Unreachable: []string{"N1"}})
		}
		return b, err
	}
	r, err := (&meshfile.Applier{Operate: operate, Options: meshfile.Options{Self: admin}}).Apply(t.Context(), want)
	if err != nil || len(r.Unconfirmed) != 1 || r.Unconfirmed[0].Unreachable[0] != "N1" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A preview asks and changes nothing.
func TestPreview(t *testing.T) {
	m := newMesh().load(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x, y]}\n  b: {depth: 4}\n  c: {}\n  d: {publish: [x]}\n")
	want := mustParse(t, "version: 1\nagents:\n"+operator+"  a: {publish: [x]}\n  b: {depth: 2, publish: [x]}\n  c: {labels: {a: b}}\n")
	p := m.plan(t, want, meshfile.Options{Self: admin, Prune: true})
	cuts, err := meshfile.Preview(t.Context(), m.operate, p)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range cuts {
		got = append(got, fmt.Sprintf("%s %d %t", c.Agent, c.Cut, c.DryRun))
	}
	if got, want := strings.Join(got, ", "), "d 2 true, a 2 true, b 2 true"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(m.log) != 0 {
		t.Errorf("got %d changes", len(m.log))
	}
	// A control plane that takes the question for an order is not asked twice.
	calls := 0
	_, err = meshfile.Preview(t.Context(), func(ctx context.Context, req wire.AdminRequest) (json.RawMessage, error) {
		calls++
		req.DryRun = false
		return m.operate(ctx, req)
	}, p)
	if err == nil || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func TestReadFails(t *testing.T) {
	want := mustParse(t, "version: 1\ntopics: {}\nagents: {a: {}}\n")
	for _, op := range []wire.Op{wire.OpTopics, wire.OpList, wire.OpShow} {
		m := newMesh()
		m.before = func(r wire.AdminRequest) error {
			if r.Op == op {
				return errDown
			}
			return nil
		}
		if _, err := meshfile.Read(t.Context(), m.operate, want); !errors.Is(err, errDown) {
			t.Errorf("got %v where %s fails", err, op)
		}
	}
}
