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
}

// IsZero reports whether nothing is given.
func (r Rights) IsZero() bool {
	return len(r.Call)+len(r.Handle)+len(r.Publish)+len(r.Subscribe)+len(r.MayDelegate) == 0
}

func (r Rights) clone() Rights {
	return Rights{slices.Clone(r.Call), slices.Clone(r.Handle), slices.Clone(r.Publish), slices.Clone(r.Subscribe), slices.Clone(r.MayDelegate)}
}

func (r Rights) equal(o Rights) bool {
	return slices.Equal(r.Call, o.Call) && slices.Equal(r.Handle, o.Handle) && slices.Equal(r.Publish, o.Publish) &&
		slices.Equal(r.Subscribe, o.Subscribe) && slices.Equal(r.MayDelegate, o.MayDelegate)
}

// Scopes returns the rights as token scopes, sorted and unique, and which of
// them may be passed on. It refuses what no token may hold, and a may-delegate
// that is not among the rights.
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
	}
}

// Without returns the rights less those of o. What can no longer be held can no
// longer be passed on either.
func (r Rights) Without(o Rights) (Rights, error) {
	gone := func(list, minus []capability.Scope) []capability.Scope {
		return slices.DeleteFunc(slices.Clone(list), func(s capability.Scope) bool { return slices.Contains(minus, s) })
	}
	topics := func(list, minus []string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(minus, s) })
	}
	out := Rights{
		Call:      gone(r.Call, o.Call),
		Handle:    gone(r.Handle, o.Handle),
		Publish:   topics(r.Publish, o.Publish),
		Subscribe: topics(r.Subscribe, o.Subscribe),
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
