package lint

import "slices"

// crossing is one thing that may cross into an account.
type crossing struct {
	into, from  string
	service     bool
	subject, to string // to: the only name that it may have in the importing account
}

// crossings is all that may cross in a mesh, written down by hand.
func crossings(prefix string) []crossing {
	p := prefix + "."
	out := []crossing{
		// What the control plane says to agents.
		{Mesh, Control, false, p + "feed.>", ""},
		{Mesh, Control, false, p + "reply.control.>", ""},
		{Mesh, Control, false, p + "note.control.>", ""},
		// Single records. Nothing deeper, and no other bucket.
		{Mesh, Control, true, "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*", ""},
		{Mesh, Control, true, "$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.*.*", ""},
		{Mesh, Control, true, "$JS.API.DIRECT.GET.KV_MESH_CHAINS.$KV.MESH_CHAINS.*", ""},
		{Mesh, Control, true, "$JS.API.STREAM.MSG.GET.KV_MESH_AGENTS", p + "leader.MESH_AGENTS"},
		{Mesh, Control, true, "$JS.API.STREAM.MSG.GET.KV_MESH_CHAINS", p + "leader.MESH_CHAINS"},
		// What agents store, and take out of what is stored.
		{Mesh, Store, true, "$KV.MESH_REPLAY.>", ""},
		{Mesh, Store, true, p + "event.>", ""},
		{Mesh, Store, true, "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.*", ""},
		{Mesh, Store, true, "$JS.API.CONSUMER.INFO.MESH_EVENTS.*", ""},
		{Mesh, Store, true, "$JS.ACK.MESH_EVENTS.*.*.*.*.*.*", ""},
		{Mesh, Store, true, "$JS.ACK.*.*.MESH_EVENTS.*.*.*.*.*.*", ""},
		// What agents say to the control plane.
		{Control, Mesh, false, p + "beat.*.*", ""},
		{Control, Mesh, false, p + "audit.*.*", ""},
		{Control, Mesh, false, p + "call.*.admin.*", ""},
		{Control, Mesh, false, p + "ask.*.control.>", ""},
		// What the control plane does in STORE.
		{Control, Store, true, "$JS.API.INFO", "STORE.JS.API.INFO"},
		{Control, Store, true, "$JS.API.STREAM.>", "STORE.JS.API.STREAM.>"},
		{Control, Store, true, "$JS.API.CONSUMER.>", "STORE.JS.API.CONSUMER.>"},
		{Control, Store, true, "$KV.MESH_REPLAY.>", ""},
	}
	return out
}

func (c crossing) allows(into string, i Import) bool {
	if c.into != into || c.from != i.From || c.service != i.Service || !covers(split(c.subject), split(i.Subject)) {
		return false
	}
	if c.to == "" {
		return i.To == "" || i.To == i.Subject
	}
	return i.To == c.to
}

func (i Import) String() string {
	kind := "stream "
	if i.Service {
		kind = "service "
	}
	text := kind + i.From + ":" + i.Subject
	if i.To != "" && i.To != i.Subject {
		text += " as " + i.To
	}
	return text
}

const remedyBorder = "write nats-server.conf anew and compare what was changed in it"

// checkBorder proves that nothing crosses but what has to. What does not cross
// cannot be reached, whatever a grant says.
func checkBorder(r *Report, s Snapshot) {
	names := map[string]bool{}
	allowed := crossings(s.Prefix)
	for _, a := range s.Accounts {
		names[a.Name] = true
		if a.Name == Mesh && a.JetStream {
			r.add(Finding{BorderJetStream, Error, "", "$JS.API.>", "account " + a.Name,
				"the server answers where the asking client says, without asking whether it may write there: aimed at $JS.API.STREAM.DELETE, such an answer deletes a stream of the same account", remedyBorder})
		}
		for _, i := range a.Imports {
			r.Checked.Imports++
			if !slices.ContainsFunc(allowed, func(c crossing) bool { return c.allows(a.Name, i) }) {
				r.add(Finding{BorderOpen, Error, "", i.local(), i.String() + " into " + a.Name, "nothing of the mesh needs it, and what crosses is not under the exporting account's permissions", remedyBorder})
			}
		}
		for _, e := range a.Exports {
			if len(e.Accounts) == 0 {
				r.add(Finding{BorderPublic, Error, "", e.Subject, "export of " + a.Name, "every account may import it", remedyBorder})
			}
		}
	}
	for _, must := range []string{Control, Mesh, Store} {
		if !names[must] {
			r.add(Finding{Unreadable, Error, "", "", "account " + must, "the layout of the accounts does not have it", remedyBorder})
		}
	}
}

// arrives returns what agents can make arrive in an account: by messages, whose
// reply subject they choose, and by requests, whose answer comes back to them.
func (s Snapshot) arrives(account string) (messages, requests [][]string) {
	for _, a := range s.Accounts {
		for _, i := range a.Imports {
			switch {
			case a.Name == account && !i.Service && i.From == Mesh:
				messages = append(messages, split(i.local()))
			case a.Name == Mesh && i.Service && i.From == account:
				requests = append(requests, split(i.Subject))
			}
		}
	}
	if account == Mesh {
		messages = append(messages, []string{tail})
	}
	return messages, requests
}

// leaves returns what of an account agents can receive.
func (s Snapshot) leaves(account string) [][]string {
	if account == Mesh {
		return [][]string{{tail}}
	}
	var out [][]string
	for _, a := range s.Accounts {
		if a.Name != Mesh {
			continue
		}
		for _, i := range a.Imports {
			if !i.Service && i.From == account {
				out = append(out, split(i.Subject))
			}
		}
	}
	return out
}

func meetsAny(patterns [][]string, subjects []string) bool {
	return slices.ContainsFunc(subjects, func(subj string) bool {
		return slices.ContainsFunc(patterns, func(p []string) bool { return overlap(p, split(subj)) })
	})
}
