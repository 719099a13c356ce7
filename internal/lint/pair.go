package lint

import (
	"maps"
	"slices"
	"strings"
)

// checkPlain looks at what agents do outside the mesh: whom it joins, and that
// the mesh does not act on it.
func checkPlain(r *Report, s Snapshot) {
	publish, subscribe := map[string][]string{}, map[string][]string{}
	for _, a := range s.Agents {
		for _, subj := range a.Plain.Publish {
			publish[subj] = append(publish[subj], a.ID.String())
		}
		for _, subj := range a.Plain.Subscribe {
			subscribe[subj] = append(subscribe[subj], a.ID.String())
		}
	}
	for subj, who := range publish {
		for _, a := range s.Accounts {
			for _, i := range a.Imports {
				caught := a.Name == Mesh && i.Service && overlap(split(i.local()), split(subj)) ||
					i.From == Mesh && !i.Service && overlap(split(i.Subject), split(subj))
				if caught {
					r.add(Finding{PlainCaptured, Error, list(who), subj, i.String() + " into " + a.Name, "it crosses the border", "take the plain right back"})
				}
			}
		}
		for _, st := range s.Streams {
			if st.Account == Mesh && meetsAny([][]string{split(subj)}, st.Config.Subjects) {
				r.add(Finding{PlainCaptured, Error, list(who), subj, "stream " + st.Config.Name + " in " + st.Account, "it is stored, and acknowledged where its sender says", "take the plain right back"})
			}
		}
		if heard := without(subscribe[subj], who); len(heard) > 0 {
			r.add(Finding{PlainMeets, Info, "", subj, "plain rights of " + list(who) + " and " + list(heard),
				"what passes there is neither signed nor limited by a scope", "move them to a scope or a topic when you can"})
		}
	}
}

// without are those of a list who are not all of another: an agent that only
// talks to itself meets nobody.
func without(list, others []string) []string {
	if len(others) > 1 {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(others, s) })
}

func list(who []string) string {
	who = slices.Clone(who)
	slices.Sort(who)
	return strings.Join(slices.Compact(who), ", ")
}

// checkPairs tells of rights that lead nowhere. The control plane answers what
// operators call.
func checkPairs(r *Report, s Snapshot) {
	callers, handlers := map[string][]string{}, map[string][]string{}
	for _, a := range s.Agents {
		h := hold(a.Scopes)
		for _, d := range h.calls {
			callers[d] = append(callers[d], a.ID.String())
		}
		for _, d := range h.handles {
			handlers[d] = append(handlers[d], a.ID.String())
		}
	}
	for _, d := range slices.Sorted(maps.Keys(callers)) {
		if len(handlers[d]) == 0 && !strings.HasPrefix(d, "admin.") {
			r.add(Finding{Unhandled, Info, list(callers[d]), s.Prefix + ".call.*." + d, "scope " + scope(d), "nobody may answer such calls", "sealmesh agent grant AGENT --handle " + scope(d)})
		}
	}
	for _, d := range slices.Sorted(maps.Keys(handlers)) {
		if len(callers[d]) == 0 {
			r.add(Finding{Uncalled, Info, list(handlers[d]), s.Prefix + ".call.*." + d, "scope " + scope(d), "nobody may make such calls", "sealmesh agent grant AGENT --call " + scope(d)})
		}
	}
}

func scope(dotted string) string { return strings.Replace(dotted, ".", ":", 1) }
