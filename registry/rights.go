package registry

import (
	"cmp"
	"slices"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// Rights is what an operator gave an agent, in the operator's words. The root
// tokens say the same as scopes; receivers believe only those.
type Rights struct {
	Call        []capability.Scope `json:"call,omitempty"`
	Handle      []capability.Scope `json:"handle,omitempty"`
	Publish     []string           `json:"publish,omitempty"`
	Subscribe   []string           `json:"subscribe,omitempty"`
	MayDelegate []capability.Scope `json:"may_delegate,omitempty"` // as scopes: read:logs, publish:news
	Plain       Plain              `json:"plain,omitzero"`
}

// Plain are rights outside the mesh: literal subjects of services that do not
// speak it. They are in no token, cannot be passed on, and are worth something
// to the broker alone: nothing that arrives there is signed.
type Plain struct {
	Publish   []string `json:"publish,omitempty"`
	Subscribe []string `json:"subscribe,omitempty"`
}

// IsZero reports whether nothing is given.
func (p Plain) IsZero() bool { return len(p.Publish)+len(p.Subscribe) == 0 }

func (p Plain) clone() Plain { return Plain{slices.Clone(p.Publish), slices.Clone(p.Subscribe)} }

func (p Plain) equal(o Plain) bool {
	return slices.Equal(p.Publish, o.Publish) && slices.Equal(p.Subscribe, o.Subscribe)
}

// union returns the rights of both, sorted and unique.
func (p Plain) union(o Plain) Plain {
	return Plain{
		Publish:   sortTopics(slices.Concat(p.Publish, o.Publish)),
		Subscribe: sortTopics(slices.Concat(p.Subscribe, o.Subscribe)),
	}
}

// without returns the rights less those of o.
func (p Plain) without(o Plain) Plain {
	return Plain{Publish: lessTopics(p.Publish, o.Publish), Subscribe: lessTopics(p.Subscribe, o.Subscribe)}
}

// notHeld returns a right of o that p has not, as words, and the empty text
// where there is none.
func (p Plain) notHeld(o Plain) string {
	for _, s := range o.Publish {
		if !slices.Contains(p.Publish, s) {
			return "publish " + s
		}
	}
	for _, s := range o.Subscribe {
		if !slices.Contains(p.Subscribe, s) {
			return "subscribe " + s
		}
	}
	return ""
}

// IsZero reports whether nothing is given.
func (r Rights) IsZero() bool { return !r.scoped() && len(r.MayDelegate) == 0 && r.Plain.IsZero() }

// scoped reports whether any of the rights is one that a token holds.
func (r Rights) scoped() bool {
	return len(r.Call)+len(r.Handle)+len(r.Publish)+len(r.Subscribe) > 0
}

// scopes returns the rights without those that are in no token.
func (r Rights) scopes() Rights {
	r.Plain = Plain{}
	return r
}

func (r Rights) clone() Rights {
	return Rights{
		Call: slices.Clone(r.Call), Handle: slices.Clone(r.Handle), Publish: slices.Clone(r.Publish), Subscribe: slices.Clone(r.Subscribe),
		MayDelegate: slices.Clone(r.MayDelegate), Plain: r.Plain.clone(),
	}
}

func (r Rights) equal(o Rights) bool {
	return slices.Equal(r.Call, o.Call) && slices.Equal(r.Handle, o.Handle) && slices.Equal(r.Publish, o.Publish) &&
		slices.Equal(r.Subscribe, o.Subscribe) && slices.Equal(r.MayDelegate, o.MayDelegate) && r.Plain.equal(o.Plain)
}

// Scopes returns the rights as token scopes, sorted and unique, and which of
// them may be passed on; plain rights are none. It refuses what no token may
// hold, and a may-delegate that is not among the rights.
func (r Rights) Scopes() (capabilities, delegatable []capability.Scope, err error) {
	for _, s := range r.Call {
		switch s.Verb() {
		case "handle", "publish", "subscribe", "self":
			return nil, nil, denial.New(denial.BadScope, "%q is not a scope that can be called", s)
		}
		capabilities = append(capabilities, s)
	}
	for _, s := range r.Handle {
		h, err := capability.HandleOf(s)
		if err != nil {
			return nil, nil, err
		}
		capabilities = append(capabilities, h)
	}
	for _, t := range r.Publish {
		s, err := capability.PublishOf(t)
		if err != nil {
			return nil, nil, err
		}
		capabilities = append(capabilities, s)
	}
	for _, t := range r.Subscribe {
		s, err := capability.SubscribeOf(t)
		if err != nil {
			return nil, nil, err
		}
		capabilities = append(capabilities, s)
	}
	capabilities = sortScopes(capabilities)
	for _, s := range capabilities {
		if err := s.Grantable(); err != nil {
			return nil, nil, err
		}
	}
	delegatable = sortScopes(slices.Clone(r.MayDelegate))
	for _, s := range delegatable {
		if !slices.Contains(capabilities, s) {
			return nil, nil, denial.New(denial.BeyondOwn, "may-delegate %q is not among the agent's own rights", s)
		}
		if !s.MayDelegate() {
			return nil, nil, denial.New(denial.NotDelegatable, "%q can never be delegated", s)
		}
	}
	return capabilities, delegatable, nil
}

// Union returns the rights of both, sorted and unique.
func (r Rights) Union(o Rights) Rights {
	return Rights{
		Call:        sortScopes(slices.Concat(r.Call, o.Call)),
		Handle:      sortScopes(slices.Concat(r.Handle, o.Handle)),
		Publish:     sortTopics(slices.Concat(r.Publish, o.Publish)),
		Subscribe:   sortTopics(slices.Concat(r.Subscribe, o.Subscribe)),
		MayDelegate: sortScopes(slices.Concat(r.MayDelegate, o.MayDelegate)),
		Plain:       r.Plain.union(o.Plain),
	}
}

// Without returns the rights less those of o. What can no longer be held can no
// longer be passed on either.
func (r Rights) Without(o Rights) (Rights, error) {
	gone := func(list, minus []capability.Scope) []capability.Scope {
		return slices.DeleteFunc(slices.Clone(list), func(s capability.Scope) bool { return slices.Contains(minus, s) })
	}
	out := Rights{
		Call:      gone(r.Call, o.Call),
		Handle:    gone(r.Handle, o.Handle),
		Publish:   lessTopics(r.Publish, o.Publish),
		Subscribe: lessTopics(r.Subscribe, o.Subscribe),
		Plain:     r.Plain.without(o.Plain),
	}
	left, _, err := out.Scopes()
	if err != nil {
		return Rights{}, err
	}
	for _, s := range gone(r.MayDelegate, o.MayDelegate) {
		if slices.Contains(left, s) {
			out.MayDelegate = append(out.MayDelegate, s)
		}
	}
	return out, nil
}

func sortScopes(s []capability.Scope) []capability.Scope {
	slices.SortFunc(s, func(a, b capability.Scope) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(s)
}

func sortTopics(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func lessTopics(list, minus []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(minus, s) })
}
