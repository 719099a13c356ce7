package meshfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sealmesh/sealmesh/registry"
)

// Refusal says why a plan may not be carried out, and what helps.
type Refusal struct {
	Problem string
	hint    string
}

// Error implements error.
func (r *Refusal) Error() string { return "meshfile: refused: " + r.Problem }

// Hint returns what helps.
func (r *Refusal) Hint() string { return r.hint }

// guard refuses a plan that would bring back what was revoked, or after which
// nobody could undo it.
func (p *planner) guard(want *Mesh, have *State) error {
	if len(p.revoked) > 0 {
		list := make([]string, len(p.revoked))
		for i, id := range p.revoked {
			list[i] = id.String()
		}
		return &Refusal{
			"the file lists what was revoked: " + strings.Join(list, ", "),
			fmt.Sprintf("take it out of the file, or give the name new keys: sealmesh agent add %s --replace", list[0]),
		}
	}
	if want.Agents == nil {
		return nil
	}
	if p.removesSelf() {
		return &Refusal{
			fmt.Sprintf("the file does not list %q, which applies it, and would remove it", p.Self),
			"list it, or apply the file as another agent with --as",
		}
	}
	if before, after := administrators(want, have, p.Prune); before > 0 && after == 0 {
		return &Refusal{
			"no active agent would be left that holds admin:registry",
			"leave it with one that is enrolled and active; sealmesh export shows who has it now",
		}
	}
	if what := p.narrowsSelf(); what != "" && !p.AllowSelf {
		return &Refusal{
			fmt.Sprintf("it would change %s of %q, which applies it", what, p.Self),
			"--allow-self if that is meant",
		}
	}
	return nil
}

func (p *planner) removesSelf() bool {
	return slices.ContainsFunc(p.steps[phaseRemove], func(s Step) bool { return s.Agent() == p.Self })
}

// narrowsSelf names what the plan changes of the one who applies it that could
// keep it from applying another, or from coming back.
func (p *planner) narrowsSelf() string {
	for _, s := range p.steps[phaseSelf] {
		for _, c := range s.Changes {
			switch {
			case c.Kind == Ungrant && c.Field == "call" && c.From == adminScope.String():
				return "the right to administer"
			case c.Kind == Set && slices.Contains([]string{"kind", "heartbeat", "readmit", "sessions", "stock"}, c.Field):
				return "the " + c.Field
			}
		}
	}
	return ""
}

// administrators counts who can administer the mesh before and after.
func administrators(want *Mesh, have *State, prune bool) (before, after int) {
	for _, a := range have.Agents {
		if a.administers(a.Rights) {
			before++
		}
		rights, stays := rightsAfter(want, a, prune)
		if stays && a.administers(rights) {
			after++
		}
	}
	return before, after
}

func rightsAfter(want *Mesh, a Agent, prune bool) (registry.Rights, bool) {
	if w, ok := want.Agent(a.Agent); ok {
		return w.Rights, true
	}
	return a.Rights, !prune
}
