package lint_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/lint"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

func scopes(list ...string) []capability.Scope {
	out := make([]capability.Scope, len(list))
	for i, s := range list {
		out[i] = capability.RequireScope(s)
	}
	return out
}

// agent is one agent with one instance and the grant that it would be given.
func agent(t testing.TB, id string, durables []registry.Durable, plain authcallout.Plain, list ...string) lint.Agent {
	t.Helper()
	a := lint.Agent{ID: agentid.Require(id), Scopes: scopes(list...), Durables: durables, Plain: plain}
	in := authcallout.Subject{Agent: a.ID, Instance: agentid.InstanceOf("U" + id), Scopes: a.Scopes, Plain: plain}
	for _, d := range durables {
		in.Durables = append(in.Durables, d.Name)
	}
	g, err := authcallout.Compile(subject.Default(), in)
	if err != nil {
		t.Fatal(err)
	}
	a.Instances = []lint.Instance{{ID: in.Instance, Grant: g}}
	return a
}

func bucket(name string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, MaxMsgsPerSubject: 1, DenyDelete: true, AllowRollup: true,
		AllowDirect: true, MaxMsgs: -1, MaxBytes: -1, Discard: jetstream.DiscardNew,
	}
}

// world is a mesh in which nothing is wrong.
func world(t testing.TB) *lint.Snapshot {
	t.Helper()
	inbox := []registry.Durable{{Name: "inbox", Topics: []string{"news"}}}
	agents := bucket("MESH_AGENTS")
	agents.RePublish = &jetstream.RePublish{Source: "$KV.MESH_AGENTS.>", Destination: "mesh.feed.agents.>"}
	s := &lint.Snapshot{
		Prefix: "mesh", Topics: []string{"news"},
		Agents: []lint.Agent{
			agent(t, "reader", inbox, authcallout.Plain{Subscribe: []string{"legacy.in"}}, "handle:read:logs", "subscribe:news", "write:reports"),
			agent(t, "writer", nil, authcallout.Plain{Publish: []string{"legacy.out"}}, "read:logs", "handle:write:reports", "publish:news"),
			agent(t, "admin", nil, authcallout.Plain{}, "admin:registry"),
			agent(t, "idle", nil, authcallout.Plain{}),
		},
		Streams: []lint.Stream{
			{Account: lint.Control, Config: agents},
			{Account: lint.Control, Config: bucket("MESH_CHAINS")},
			{Account: lint.Control, Config: bucket("MESH_SESSIONS")},
			{Account: lint.Control, Config: bucket("MESH_JOINS")},
			{Account: lint.Control, Config: natsconf.Beats(subject.Default(), 1)},
			{Account: lint.Control, Config: natsconf.Audit(subject.Default(), time.Hour, 1<<20, 1)},
			{Account: lint.Store, Config: natsconf.Replay(limits.Window, 1)},
			{Account: lint.Store, Config: natsconf.Events(subject.Default(), []string{"news"}, time.Hour, 1)},
		},
		Consumers: []lint.Consumer{
			{Account: lint.Store, Stream: "MESH_EVENTS", Config: jetstream.ConsumerConfig{
				Durable: "reader_inbox", AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{"mesh.event.*.news"}}},
			{Account: lint.Control, Stream: "KV_MESH_AGENTS", Config: jetstream.ConsumerConfig{Name: "x", DeliverSubject: "_INBOX.abc.1"}},
		},
	}
	for _, a := range natsconf.Layout(subject.Default()) {
		l := lint.Account{Name: a.Name, JetStream: a.JetStream}
		for _, e := range a.Exports {
			l.Exports = append(l.Exports, lint.Export{Subject: e.Subject, Service: e.Service, Accounts: e.Accounts})
		}
		for _, i := range a.Imports {
			l.Imports = append(l.Imports, lint.Import(i))
		}
		s.Accounts = append(s.Accounts, l)
	}
	return s
}

func stream(t testing.TB, s *lint.Snapshot, name string) *jetstream.StreamConfig {
	t.Helper()
	i := slices.IndexFunc(s.Streams, func(st lint.Stream) bool { return st.Config.Name == name })
	if i < 0 {
		t.Fatalf("no stream %s", name)
	}
	return &s.Streams[i].Config
}

func account(t testing.TB, s *lint.Snapshot, name string) *lint.Account {
	t.Helper()
	i := slices.IndexFunc(s.Accounts, func(a lint.Account) bool { return a.Name == name })
	if i < 0 {
		t.Fatalf("no account %s", name)
	}
	return &s.Accounts[i]
}

// brief spells the findings that are not information.
func brief(r lint.Report) []string {
	var out []string
	for _, f := range r.Findings {
		if f.Severity != lint.Info {
			out = append(out, strings.TrimRight(fmt.Sprintf("%s %s %s", f.Code, f.Severity, f.Agent), " "))
		}
	}
	return out
}
