package meshfile

import (
	"slices"
	"strconv"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// Kind is what sort of change is made.
type Kind string

// The kinds of changes.
const (
	Add     Kind = "add"     // a topic or an agent, and what it begins with
	Edit    Kind = "change"  // a topic
	Remove  Kind = "remove"  // a topic or an agent
	Grant   Kind = "grant"   // a right
	Ungrant Kind = "ungrant" // a right
	Set     Kind = "set"     // a setting
)

// Change is one line of a difference: of a topic or of an agent, as a whole or
// in one field. From is empty where there was nothing, To where nothing is left.
type Change struct {
	Topic string     `json:"topic,omitempty"`
	Agent agentid.ID `json:"agent,omitzero"`
	Kind  Kind       `json:"change"`
	Field string     `json:"field,omitempty"` // as in the file: call, plain.publish, labels.team
	From  string     `json:"from,omitempty"`
	To    string     `json:"to,omitempty"`
}

// Step is one operation of a plan and the changes that it makes, of which there
// is at least one.
type Step struct {
	Request wire.AdminRequest
	Changes []Change
	Cuts    int // open connections of the agent that it closes
}

// Kind is that of the step's changes.
func (s Step) Kind() Kind { return s.Changes[0].Kind }

// Agent is the agent that the step is about, zero where it is about a topic.
func (s Step) Agent() agentid.ID { return s.Changes[0].Agent }

// field is a right or a setting with the values that it has.
type field struct {
	name   string
	values []string
}

// rightFields are the rights as the file names them.
func rightFields(r registry.Rights) []field {
	return []field{
		{"call", spelt(r.Call)}, {"handle", spelt(r.Handle)}, {"publish", r.Publish}, {"subscribe", r.Subscribe},
		{"may_delegate", spelt(r.MayDelegate)}, {"plain.publish", r.Plain.Publish}, {"plain.subscribe", r.Plain.Subscribe},
	}
}

// rightChanges are a line for each right.
func rightChanges(id agentid.ID, k Kind, r registry.Rights) []Change {
	var out []Change
	for _, f := range rightFields(r) {
		for _, v := range f.values {
			c := Change{Agent: id, Kind: k, Field: f.name, To: v}
			if k == Ungrant {
				c.From, c.To = v, ""
			}
			out = append(out, c)
		}
	}
	return out
}

// settingChanges are a line for each setting that differs.
func settingChanges(k Kind, from, to registry.NewAgent) []Change {
	var out []Change
	one := func(name, a, b string) {
		if a != b {
			out = append(out, Change{Agent: to.Agent, Kind: k, Field: name, From: a, To: b})
		}
	}
	one("kind", string(from.Kind), string(to.Kind))
	one("heartbeat", string(from.Heartbeat), string(to.Heartbeat))
	one("readmit", string(from.Readmit), string(to.Readmit))
	one("sessions", string(from.Sessions), string(to.Sessions))
	one("stock", strconv.FormatBool(from.Stock), strconv.FormatBool(to.Stock))
	one("join.oidc.issuer", from.Join.OIDC.Issuer, to.Join.OIDC.Issuer)
	one("join.oidc.audience", from.Join.OIDC.Audience, to.Join.OIDC.Audience)
	one("join.oidc.subject", from.Join.OIDC.Subject, to.Join.OIDC.Subject)
	one("depth", strconv.Itoa(from.Depth), strconv.Itoa(to.Depth))
	for _, k := range labelNames(from.Labels, to.Labels) {
		if from.Labels[k] != to.Labels[k] || !sameKey(from.Labels, to.Labels, k) {
			one("labels."+k, shownLabel(from.Labels, k), shownLabel(to.Labels, k))
		}
	}
	return out
}

func labelNames(a, b map[string]string) []string {
	var out []string
	for _, m := range []map[string]string{a, b} {
		for k := range m {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func sameKey(a, b map[string]string, k string) bool {
	_, inA := a[k]
	_, inB := b[k]
	return inA == inB
}

// shownLabel tells a label without a value from no label.
func shownLabel(m map[string]string, k string) string {
	if v, ok := m[k]; !ok || v != "" {
		return v
	}
	return `""`
}

// begins are the lines of a new agent: that it is added, its rights, and the
// settings that are not the usual ones.
func begins(a registry.NewAgent) []Change {
	usual := registry.NewAgent{Agent: a.Agent, Stock: a.Stock}
	settle(&usual)
	usual.Stock = false
	out := []Change{{Agent: a.Agent, Kind: Add}}
	for _, c := range settingChanges(Add, usual, a) {
		c.From = ""
		out = append(out, c)
	}
	return append(out, rightChanges(a.Agent, Add, a.Rights)...)
}

func age(t registry.Topic) string { return short(time.Duration(t.MaxAge) * time.Second) }
