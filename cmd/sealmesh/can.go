package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// canDoc is sealmesh.can/v1.
type canDoc struct {
	Schema  string     `json:"schema"`
	Agent   agentid.ID `json:"agent"`
	Action  string     `json:"action"`
	Scope   string     `json:"scope"` // or topic, or subject outside the mesh
	Allowed bool       `json:"allowed"`
	Reason  string     `json:"reason,omitempty"`
	Detail  string     `json:"detail"`
	Line    *lineDoc   `json:"line,omitempty"`
}

// lineDoc is one permission of a grant.
type lineDoc struct {
	Action  string `json:"action"` // pub or sub
	Subject string `json:"subject"`
	Queue   string `json:"queue,omitempty"`
	From    string `json:"from"`
}

func lineOf(l authcallout.Line, publish bool) *lineDoc {
	action := "sub"
	if publish {
		action = "pub"
	}
	return &lineDoc{action, l.Subject, l.Queue, l.From}
}

func newCan(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "can AGENT call|handle|publish|subscribe|plain-publish|plain-subscribe SCOPE|TOPIC|SUBJECT",
		Short: "Say whether an agent may do something, and why: exit 0 yes, 1 no",
		Args:  takes(3, 3, "AGENT, then call, handle, publish, subscribe, plain-publish or plain-subscribe, then a scope, topic or subject"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			want, err := wanted(c, args[1], args[2])
			if err != nil {
				return err
			}
			g, err := a.grantOf(c.Context(), id)
			var none *absent
			if err != nil && !errors.As(err, &none) {
				return err
			}
			doc := canDoc{Schema: "sealmesh.can/v1", Agent: id, Reason: string(denial.UnlistedAgent), Detail: id.String() + " is not registered"}
			if err == nil {
				doc = want.judge(g, a.now())
			}
			doc.Action, doc.Scope = args[1], args[2]
			if err := a.show(doc, func(w io.Writer) {
				answer := "no"
				if doc.Allowed {
					answer = "yes"
				}
				fmt.Fprintf(w, "%s: %s\n", answer, clean(doc.Detail))
			}); err != nil {
				return err
			}
			if !doc.Allowed {
				return &said{exitFailed}
			}
			return nil
		},
	}
}

// granted is an agent's record and the grant that it compiles to.
type granted struct {
	view  wire.AgentView
	space subject.Space
	grant authcallout.Grant
}

// grantOf fetches an agent's record and compiles it, as the auth callout does
// when the agent connects.
func (a *app) grantOf(ctx context.Context, id agentid.ID) (granted, error) {
	dir, err := a.find(adminID)
	if err != nil {
		return granted{}, err
	}
	g := granted{}
	if g.space, err = subject.New(dir.Info.Prefix); err != nil {
		return granted{}, err
	}
	if g.view, err = operate[wire.AgentView](ctx, a, wire.AdminRequest{Op: wire.OpShow, Target: id.String()}); err != nil {
		return granted{}, err
	}
	scopes, err := held(g.view)
	if err != nil {
		return granted{}, err
	}
	// Instances of one agent differ in their names alone; one that never
	// enrolled is looked at under the name of no key.
	instance := agentid.InstanceOf(id.String())
	if len(g.view.Instances) > 0 {
		instance = g.view.Instances[0].Instance
	}
	g.grant, err = authcallout.Compile(g.space, authcallout.Subject{
		Agent: id, Instance: instance, Scopes: scopes,
		Plain:    authcallout.Plain{Publish: g.view.Plain.Publish, Subscribe: g.view.Plain.Subscribe},
		Durables: durableNames(g.view),
	})
	return g, err
}

func durableNames(v wire.AgentView) []string {
	out := make([]string, 0, len(v.Durables))
	for _, d := range v.Durables {
		out = append(out, d.Name)
	}
	return out
}

// question is what can asks of a grant.
type question struct {
	scope   capability.Scope // zero for a subject outside the mesh
	right   string           // as it is called in the answer
	flag    string           // of agent grant
	publish bool
	subject func(subject.Space, agentid.ID) string
}

func wanted(c *cobra.Command, action, what string) (question, error) {
	var q question
	var err error
	switch action {
	case "call":
		if q.scope, err = scopeArg(c, what); err != nil {
			return q, err
		}
		switch q.scope.Verb() {
		case "handle", "publish", "subscribe":
			return q, usage(c, "%q is nothing to call; ask for %s", what, q.scope.Verb())
		}
		q.publish = true
		q.subject = func(s subject.Space, id agentid.ID) string { return s.Call(id, q.scope.Dotted()) }
	case "handle":
		called, err := scopeArg(c, what)
		if err != nil {
			return q, err
		}
		if q.scope, err = capability.HandleOf(called); err != nil {
			return q, badScope(c, err)
		}
		d := called.Dotted()
		q.subject = func(s subject.Space, _ agentid.ID) string { return s.CallFilter(d) + " " + subject.Queue(d) }
	case "publish":
		if q.scope, err = capability.PublishOf(what); err != nil {
			return q, badScope(c, err)
		}
		q.publish = true
		q.subject = func(s subject.Space, id agentid.ID) string { return s.Event(id, what) }
	case "subscribe":
		if q.scope, err = capability.SubscribeOf(what); err != nil {
			return q, badScope(c, err)
		}
		q.subject = func(s subject.Space, _ agentid.ID) string { return s.EventFilter(what) }
	case "plain-publish", "plain-subscribe":
		q.publish = action == "plain-publish"
		q.subject = func(subject.Space, agentid.ID) string { return what }
		q.right = "the plain right to " + strings.TrimPrefix(action, "plain-") + " " + what
	default:
		return q, usage(c, "%q is not call, handle, publish, subscribe, plain-publish or plain-subscribe", action)
	}
	if q.right == "" {
		q.right = q.scope.String()
	}
	q.flag = "--" + action + " " + quoted(what)
	return q, nil
}

func (q question) judge(g granted, now time.Time) canDoc {
	v := g.view
	doc := canDoc{Schema: "sealmesh.can/v1", Agent: v.Agent}
	line, ok := g.grant.Allows(q.subject(g.space, v.Agent), q.publish)
	if q.scope.IsZero() {
		// What the mesh itself lets it do there is no plain right.
		ok = ok && line.From == authcallout.FromPlain
	}
	switch standing := v.Status.Standing(); {
	case standing != nil:
		r := denial.Of(standing)
		doc.Reason, doc.Detail = string(r), fmt.Sprintf("%s is %s", v.Agent, v.Status)
		if h := denial.Hint(r); h != "" {
			doc.Detail += "; " + h
		}
	case !ok:
		doc.Reason = string(denial.ScopeNotHeld)
		doc.Detail = fmt.Sprintf("%s does not hold %s", v.Agent, q.right)
		if err := q.possible(g.space); err != nil {
			doc.Detail += ", and cannot: " + denial.Detail(err)
			break
		}
		doc.Detail += fmt.Sprintf("; sealmesh agent grant %s %s gives it", v.Agent, q.flag)
	default:
		doc.Allowed, doc.Line = true, lineOf(line, q.publish)
		doc.Detail = fmt.Sprintf("%s holds %s%s", v.Agent, q.right, lent(v, q.scope, now))
		if q.scope.IsZero() {
			doc.Detail += "; nothing there is signed"
		}
	}
	return doc
}

// possible refuses a plain right that nobody can be given.
func (q question) possible(space subject.Space) error {
	if !q.scope.IsZero() {
		return nil
	}
	return space.CheckPlain([]string{q.subject(space, agentid.ID{})}, nil)
}

// lent says from whom a right is, where it is not the agent's own.
func lent(v wire.AgentView, s capability.Scope, now time.Time) string {
	own, _, err := registry.Rights{Call: v.Call, Handle: v.Handle, Publish: v.Publish, Subscribe: v.Subscribe}.Scopes()
	if err == nil {
		for _, o := range own {
			if o == s {
				return ""
			}
		}
	}
	for _, d := range v.Delegated {
		for _, o := range d.Scopes {
			if o == s && d.Expires.After(now) {
				return fmt.Sprintf(", lent by %s until %s", d.From, when(&d.Expires))
			}
		}
	}
	return ""
}
