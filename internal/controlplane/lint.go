package controlplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/internal/lint"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// lintMost is how many findings fit into an answer for certain. The worst come
// first.
const lintMost = 500

// lint proves the mesh as it is now. What cannot be read is a finding and not an
// error: a report that leaves something out must not look clean.
func (p *Plane) lint(ctx context.Context) (any, error) {
	r := lint.Check(p.snapshot(ctx))
	if err := ctx.Err(); err != nil {
		return nil, err // what was not read any more is not what is wrong
	}
	out := wire.LintReport{
		Schema: wire.LintSchema, Time: p.clock().UTC(), Checked: wire.LintCounts(r.Checked), Findings: []wire.LintFinding{},
	}
	if n := len(r.Findings); n > lintMost {
		out.Omitted, r.Findings = n-lintMost, r.Findings[:lintMost]
	}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, wire.LintFinding{
			Code: string(f.Code), Severity: string(f.Severity), Agent: f.Agent, Subject: f.Subject, Line: f.Line, Why: f.Why, Remedy: f.Remedy,
		})
	}
	return out, nil
}

// snapshot reads everything that decides who reaches what.
func (p *Plane) snapshot(ctx context.Context) lint.Snapshot {
	s := lint.Snapshot{Prefix: p.space.Prefix(), Accounts: layout(natsconf.Layout(p.space))}
	unread := func(id agentid.ID, what string, err error) {
		p.log.Warn().Err(err).Str("agent", id.String()).Str("what", what).Msg("not proven")
		s.Unread = append(s.Unread, lint.Unread{Agent: id, What: what, Why: err.Error()})
	}
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		unread(agentid.ID{}, "records of agents", err)
	}
	instances, err := p.store.Instances(ctx, agentid.ID{})
	if err != nil {
		unread(agentid.ID{}, "records of instances", err)
	}
	of := map[agentid.ID][]*registry.Instance{}
	for _, i := range instances {
		of[i.Agent] = append(of[i.Agent], i)
	}
	for _, a := range agents {
		if a.Agent.Reserved() || a.Status == registry.Revoked {
			continue // never admitted again
		}
		e, err := p.lintAgent(ctx, a, of[a.Agent])
		if err != nil {
			unread(a.Agent, "grant", err)
		}
		s.Agents = append(s.Agents, e)
	}
	topics, err := p.store.Topics(ctx)
	if err != nil {
		unread(agentid.ID{}, "list of durable topics", err)
	} else {
		for _, t := range topics.Topics {
			s.Topics = append(s.Topics, t.Topic)
		}
	}
	control, err := jetstream.New(p.ctrl)
	if err != nil {
		unread(agentid.ID{}, "streams of "+natsconf.Control, err)
		return s
	}
	for account, js := range map[string]jetstream.JetStream{natsconf.Control: control, natsconf.Storage: p.stored} {
		if err := lintStreams(ctx, &s, account, js); err != nil {
			unread(agentid.ID{}, "streams of "+account, err)
		}
	}
	return s
}

// lintAgent compiles an agent's grants as the callout does, with all chains that
// the agent might present. One that is suspended is looked at as it would come
// back.
func (p *Plane) lintAgent(ctx context.Context, a *registry.Agent, instances []*registry.Instance) (lint.Agent, error) {
	out := lint.Agent{ID: a.Agent, Plain: authcallout.Plain(a.Rights.Plain), Durables: a.Durables}
	digests, err := p.store.Held(ctx, a.Agent)
	if err != nil {
		return out, err
	}
	chains, err := (&admitter{p}).chains(ctx, a, digests, p.store.Chain)
	if err != nil {
		return out, err
	}
	for _, c := range chains {
		out.Scopes = append(out.Scopes, c.Scopes()...)
	}
	in := authcallout.Subject{Agent: a.Agent, Scopes: out.Scopes, Plain: out.Plain}
	for _, d := range a.Durables {
		in.Durables = append(in.Durables, d.Name)
	}
	var names []agentid.Instance
	for _, i := range instances {
		if i.State != registry.InstanceRevoked {
			names = append(names, i.Instance)
		}
	}
	if len(names) == 0 {
		// Instances of one agent differ in their names alone.
		names = append(names, agentid.InstanceOf(a.Agent.String()))
	}
	for _, in.Instance = range names {
		g, err := authcallout.Compile(p.space, in)
		if err != nil {
			return out, err
		}
		out.Instances = append(out.Instances, lint.Instance{ID: in.Instance, Grant: g})
	}
	return out, nil
}

func lintStreams(ctx context.Context, s *lint.Snapshot, account string, js jetstream.JetStream) error {
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		s.Streams = append(s.Streams, lint.Stream{Account: account, Config: info.Config})
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return err
	}
	for _, st := range s.Streams {
		if st.Account != account {
			continue
		}
		stream, err := js.Stream(ctx, st.Config.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", st.Config.Name, err)
		}
		consumers := stream.ListConsumers(ctx)
		for info := range consumers.Info() {
			c := lint.Consumer{Account: account, Stream: info.Stream, Config: info.Config}
			if c.Config.Durable == "" {
				c.Config.Name = info.Name
			}
			s.Consumers = append(s.Consumers, c)
		}
		if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			return fmt.Errorf("consumers of %s: %w", st.Config.Name, err)
		}
	}
	return nil
}

// layout is the border as the configuration has it.
func layout(accounts []natsconf.Account) []lint.Account {
	var out []lint.Account
	for _, a := range accounts {
		l := lint.Account{Name: a.Name, JetStream: a.JetStream}
		for _, e := range a.Exports {
			l.Exports = append(l.Exports, lint.Export{Subject: e.Subject, Service: e.Service, Accounts: e.Accounts})
		}
		for _, i := range a.Imports {
			l.Imports = append(l.Imports, lint.Import(i))
		}
		out = append(out, l)
	}
	return out
}
