package meshfile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/token"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// The keys of the file, of a topic, of an agent and of its plain rights, in the
// order in which they are written.
var (
	fileKeys  = []string{"version", "topics", "agents"}
	topicKeys = []string{"max_age"}
	agentKeys = []string{
		"kind", "heartbeat", "readmit", "sessions", "stock", "depth", "join",
		"call", "handle", "publish", "subscribe", "may_delegate", "plain", "labels",
	}
	plainKeys = []string{"publish", "subscribe"}
	joinKeys  = []string{"oidc"}
	oidcKeys  = []string{"issuer", "audience", "subject"}
)

// elsewhere are keys that somebody may look for in an agent.
var elsewhere = map[string]string{
	"durable": "an agent makes its durable subscriptions itself; list the topics in subscribe",
	"replace": "sealmesh agent add ID --replace gives a revoked name new keys; a file must not undo a revocation",
	"status":  "sealmesh agent suspend, resume and revoke change it; the file says what an agent may do while it is active",
}

// Parse reads a file for a mesh with these subjects; path is for errors, which
// are all of type *[Error].
func Parse(path string, data []byte, space subject.Space) (*Mesh, error) {
	m, err := parse(data, space)
	if err != nil {
		err.Path = path
		return nil, err
	}
	return m, nil
}

func parse(data []byte, space subject.Space) (*Mesh, *Error) {
	body, err := document(data)
	if err != nil {
		return nil, err
	}
	top, err := section(body, nil, fileKeys, nil)
	if err != nil {
		return nil, err
	}
	v, ok := top["version"]
	if !ok {
		return nil, &Error{Line: 1, Problem: "does not say its version", hint: fmt.Sprintf("write version: %d", version)}
	}
	if _, err := v.number(version, version); err != nil {
		return nil, err
	}
	m := &Mesh{}
	if e, ok := top["topics"]; ok {
		if m.Topics, err = topics(e); err != nil {
			return nil, err
		}
	}
	if e, ok := top["agents"]; ok {
		if m.Agents, err = agents(e, space); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func topics(e entry) ([]registry.Topic, *Error) {
	list, err := mapping(e.value, e.at)
	if err != nil {
		return nil, err
	}
	if len(list) > limits.Topics {
		return nil, at(e.at, "", "%d durable topics, at most %d are allowed", len(list), limits.Topics)
	}
	out := make([]registry.Topic, 0, len(list))
	for _, e := range list {
		if _, err := capability.PublishOf(e.key); err != nil {
			return nil, at(e.at, "", "%w", err)
		}
		keys, err := section(e.value, e.at, topicKeys, nil)
		if err != nil {
			return nil, err
		}
		age, ok := keys["max_age"]
		if !ok {
			return nil, at(e.at, "write "+e.key+": {max_age: 24h}", "topic %q does not say its max_age", e.key)
		}
		d, err := age.duration(limits.EventAge)
		if err != nil {
			return nil, err
		}
		out = append(out, registry.Topic{Topic: e.key, MaxAge: int64(d / time.Second)})
	}
	slices.SortFunc(out, func(a, b registry.Topic) int { return strings.Compare(a.Topic, b.Topic) })
	return out, nil
}

func agents(e entry, space subject.Space) ([]registry.NewAgent, *Error) {
	list, err := mapping(e.value, e.at)
	if err != nil {
		return nil, err
	}
	out := make([]registry.NewAgent, 0, len(list))
	for _, e := range list {
		id, bad := agentid.Parse(e.key)
		if bad != nil {
			return nil, at(e.at, "", "%w", bad)
		}
		if id.Reserved() {
			return nil, at(e.at, "remove it", "%w", denial.New(denial.ReservedName, "%q belongs to the mesh itself", id))
		}
		a, err := agent(id, e, space)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b registry.NewAgent) int { return byID(a.Agent, b.Agent) })
	return out, nil
}

func agent(id agentid.ID, e entry, space subject.Space) (registry.NewAgent, *Error) {
	a := registry.NewAgent{Agent: id}
	keys, err := section(e.value, e.at, agentKeys, elsewhere)
	if err != nil {
		return a, err
	}
	if err := settings(&a, keys); err != nil {
		return a, err
	}
	if err := rights(&a.Rights, keys); err != nil {
		return a, err
	}
	if p, ok := keys["plain"]; ok {
		if err := plain(&a.Rights.Plain, p, space); err != nil {
			return a, err
		}
	}
	settle(&a)
	return a, nil
}

func settings(a *registry.NewAgent, keys map[string]entry) (err *Error) {
	if e, ok := keys["kind"]; ok {
		if a.Kind, err = oneOf(e, registry.Service, registry.Person, registry.Job); err != nil {
			return err
		}
	}
	if e, ok := keys["heartbeat"]; ok {
		if a.Heartbeat, err = oneOf(e, registry.HeartbeatSession, registry.HeartbeatAlways, registry.HeartbeatNone); err != nil {
			return err
		}
	}
	if e, ok := keys["readmit"]; ok {
		if a.Readmit, err = oneOf(e, registry.ReadmitAttestation, registry.ReadmitManual); err != nil {
			return err
		}
	}
	if e, ok := keys["sessions"]; ok {
		if a.Sessions, err = oneOf(e, registry.SessionsAny, registry.SessionsSingle); err != nil {
			return err
		}
	}
	if e, ok := keys["stock"]; ok {
		if a.Stock, err = e.boolean(); err != nil {
			return err
		}
	}
	if e, ok := keys["depth"]; ok {
		if a.Depth, err = e.number(1, limits.Depth); err != nil {
			return err
		}
	}
	if e, ok := keys["join"]; ok {
		if a.Join, err = joinRule(e); err != nil {
			return err
		}
	}
	if e, ok := keys["labels"]; ok {
		a.Labels, err = labels(e)
	}
	return err
}

// joinRule reads whom an agent takes without a join token. A rule is complete or
// not there: what is left out would be taken for anything by some reader.
func joinRule(e entry) (registry.JoinRule, *Error) {
	var r registry.JoinRule
	keys, err := section(e.value, e.at, joinKeys, nil)
	if err != nil {
		return r, err
	}
	o, ok := keys["oidc"]
	if !ok {
		return r, at(e.at, "write oidc: {issuer: …, audience: …, subject: …}, or leave join out", "join names nobody")
	}
	if keys, err = section(o.value, o.at, oidcKeys, nil); err != nil {
		return r, err
	}
	for _, f := range []struct {
		key string
		to  *string
	}{{"issuer", &r.OIDC.Issuer}, {"audience", &r.OIDC.Audience}, {"subject", &r.OIDC.Subject}} {
		v, ok := keys[f.key]
		if !ok {
			return r, at(o.at, "", "oidc does not say its %s", f.key)
		}
		t, err := v.text()
		if err != nil {
			return r, err
		}
		*f.to = t.s
	}
	if err := r.Check(); err != nil {
		return r, at(o.at, "", "%w", err)
	}
	return r, nil
}

func oneOf[T ~string](e entry, words ...T) (T, *Error) {
	t, err := e.text()
	if err != nil {
		return "", err
	}
	if !slices.Contains(words, T(t.s)) {
		list := make([]string, len(words))
		for i, w := range words {
			list[i] = string(w)
		}
		return "", at(t.at, "", "%s %q is not %s or %s", e.key, clip(t.s), strings.Join(list[:len(list)-1], ", "), list[len(list)-1])
	}
	return T(t.s), nil
}

func labels(e entry) (map[string]string, *Error) {
	list, err := mapping(e.value, e.at)
	if err != nil {
		return nil, err
	}
	if len(list) > limits.Labels {
		return nil, at(e.at, "", "%d labels, at most %d are allowed", len(list), limits.Labels)
	}
	out := map[string]string{}
	for _, l := range list {
		v, err := l.text()
		if err != nil {
			return nil, err
		}
		if err := checkLabel(l.at, l.key, v.s); err != nil {
			return nil, err
		}
		out[l.key] = v.s
	}
	return out, nil
}

func checkLabel(t *token.Token, name, value string) *Error {
	odd := func(r rune) bool { return r < ' ' || r == 0x7f }
	if name == "" || len(name) > limits.LabelText || len(value) > limits.LabelText || strings.ContainsFunc(name+value, odd) {
		return at(t, "", "label %q must have a name, at most %d characters and no control characters", clip(name), limits.LabelText)
	}
	return nil
}

func rights(r *registry.Rights, keys map[string]entry) (err *Error) {
	if r.Call, err = scopes(keys["call"], func(s capability.Scope) error {
		_, _, err := registry.Rights{Call: []capability.Scope{s}}.Scopes()
		return err
	}); err != nil {
		return err
	}
	if r.Handle, err = scopes(keys["handle"], func(s capability.Scope) error {
		_, err := capability.HandleOf(s)
		return err
	}); err != nil {
		return err
	}
	if r.Publish, err = names(keys["publish"], func(t string) error { _, err := capability.PublishOf(t); return err }); err != nil {
		return err
	}
	if r.Subscribe, err = names(keys["subscribe"], func(t string) error { _, err := capability.SubscribeOf(t); return err }); err != nil {
		return err
	}
	own := *r
	r.MayDelegate, err = scopes(keys["may_delegate"], func(s capability.Scope) error {
		own.MayDelegate = []capability.Scope{s}
		_, _, err := own.Scopes()
		return err
	})
	return err
}

func plain(p *registry.Plain, e entry, space subject.Space) *Error {
	keys, err := section(e.value, e.at, plainKeys, nil)
	if err != nil {
		return err
	}
	one := func(s string) error { return space.CheckPlain([]string{s}, nil) }
	if p.Publish, err = names(keys["publish"], one); err != nil {
		return err
	}
	if p.Subscribe, err = names(keys["subscribe"], one); err != nil {
		return err
	}
	if err := space.CheckPlain(p.Publish, p.Subscribe); err != nil { // how many there are
		return at(e.at, "", "%w", err)
	}
	return nil
}

func scopes(e entry, check func(capability.Scope) error) ([]capability.Scope, *Error) {
	var out []capability.Scope
	_, err := names(e, func(s string) error {
		scope, err := capability.ParseScope(s)
		if err == nil {
			err = check(scope)
		}
		out = append(out, scope)
		return err
	})
	return out, err
}

// names reads a list of texts that all pass a check; a key that is not there is
// an empty list.
func names(e entry, check func(string) error) ([]string, *Error) {
	if e.at == nil {
		return nil, nil
	}
	list, err := e.texts()
	if err != nil {
		return nil, err
	}
	if len(list) > limits.Scopes {
		return nil, at(e.at, "", "%s lists %d, at most %d are allowed", e.key, len(list), limits.Scopes)
	}
	var out []string
	for _, t := range list {
		if err := check(t.s); err != nil {
			return nil, at(t.at, "", "%s: %w", e.key, err)
		}
		out = append(out, t.s)
	}
	return out, nil
}
