package lint

import (
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/registry"
)

const remedyConsumer = "delete it: nats consumer rm, in its account"

// checkConsumers proves that nothing hands out more of what is stored than an
// agent may receive, nor sends it anywhere by itself.
func checkConsumers(r *Report, s Snapshot) {
	agents := map[string]Agent{}
	for _, a := range s.Agents {
		agents[a.ID.String()] = a
	}
	for _, c := range s.Consumers {
		r.Checked.Consumers++
		line := "consumer " + c.name() + " of " + c.Stream + " in " + c.Account
		found := func(code Code, sev Severity, agent, subj, why, remedy string) {
			r.add(Finding{code, sev, agent, subj, line, why, remedy})
		}
		if to := c.Config.DeliverSubject; to != "" {
			switch {
			case c.Account != Control:
				found(ConsumerPush, Error, "", to, "the server sends what is stored to that subject, unasked and whoever may publish there", remedyConsumer)
			case !strings.HasPrefix(to, "_INBOX.") || meetsAny(s.leaves(c.Account), []string{to}):
				found(ConsumerPush, Error, "", to, "the control plane watches at its own inbox and nowhere else", remedyConsumer)
			}
		}
		if c.Account != Store {
			continue
		}
		if c.Stream != "MESH_EVENTS" {
			found(ConsumerOrphan, Warning, "", c.Stream, "nobody takes anything out of that stream", remedyConsumer)
			continue
		}
		id, name, ok := strings.Cut(c.name(), "_")
		a, exists := agents[id]
		durable := ok && exists && slices.ContainsFunc(a.Durables, func(d registry.Durable) bool { return d.Name == name })
		if !durable {
			found(ConsumerOrphan, Warning, "", c.name(), "no agent has such a durable subscription; whoever is given the name later gets what waits in it", remedyConsumer)
		}
		if c.Config.AckPolicy != jetstream.AckExplicitPolicy {
			found(ConsumerAck, Warning, id, c.name(), "what is handed out and not taken is lost", "set ack_policy to explicit")
		}
		if exists {
			checkFilters(s.Prefix, a, c.Config, found)
		}
	}
}

// checkFilters compares a consumer with what its agent may subscribe: a stored
// event is no freer than a live one.
func checkFilters(prefix string, a Agent, c jetstream.ConsumerConfig, found func(Code, Severity, string, string, string, string)) {
	filters := slices.Clone(c.FilterSubjects)
	if c.FilterSubject != "" {
		filters = append(filters, c.FilterSubject)
	}
	if len(filters) == 0 {
		filters = []string{tail} // no filter is everything
	}
	may := passes(prefix + ".event.sealmesh.none")
	for _, t := range hold(a.Scopes).subscribes {
		may = append(may, pass{pattern: prefix + ".event.*." + t})
	}
	for _, f := range filters {
		if !slices.ContainsFunc(may, func(p pass) bool { return covers(split(p.pattern), split(f)) }) {
			found(ConsumerWide, Error, a.ID.String(), f, "its agent may not subscribe that", "sealmesh agent grant "+a.ID.String()+" --subscribe, if it should, else delete the consumer")
		}
	}
}
