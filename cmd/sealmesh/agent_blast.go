package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// blast asks what a compromise of an agent means, and prints it.
func (a *app) blast(ctx context.Context, id agentid.ID) error {
	v, err := operate[wire.Blast](ctx, a, wire.AdminRequest{Op: wire.OpBlast, Target: id.String()})
	if err != nil {
		return err
	}
	v.Sessions, v.MayDelegate = some(v.Sessions), some(v.MayDelegate)
	v.Call, v.Handle, v.Publish, v.Subscribe = reaches(v.Call), reaches(v.Handle), reaches(v.Publish), reaches(v.Subscribe)
	v.Plain.Publish, v.Plain.Subscribe = some(v.Plain.Publish), some(v.Plain.Subscribe)
	v.Lent, v.Held, v.Did = filled(v.Lent), filled(v.Held), filledActivity(v.Did)
	return a.show(v, func(w io.Writer) { writeBlast(w, v) })
}

func reaches(list []wire.ReachView) []wire.ReachView {
	list = some(list)
	for i := range list {
		list[i].Agents = some(list[i].Agents)
	}
	return list
}

func writeBlast(w io.Writer, v wire.Blast) {
	fmt.Fprintf(w, "%s, %s, epoch %d: whoever has its keys\n", v.Agent, clean(string(v.Status)), v.Epoch)
	if v.Admin {
		fmt.Fprintln(w, "may administer the mesh, and so everything else")
	}
	var rows [][]string
	for _, part := range []struct {
		does, end string
		list      []wire.ReachView
	}{
		{"may call", "handled by", v.Call},
		{"may answer", "callable by", v.Handle},
		{"may publish", "subscribed by", v.Publish},
		{"may hear", "published by", v.Subscribe},
	} {
		for _, r := range part.list {
			scope := clean(r.Scope)
			if r.Lent {
				scope += " (lent)"
			}
			rows = append(rows, []string{part.does, scope, part.end + " " + reached(r)})
		}
	}
	if p := plainOf(wire.AgentView{Plain: v.Plain}); p != "" {
		rows = append(rows, []string{"may, unsigned", p, ""})
	}
	if len(v.MayDelegate) > 0 {
		rows = append(rows, []string{"may lend", names(v.MayDelegate), ""})
	}
	table(w, rows...)
	if len(rows) == 0 && !v.Admin {
		fmt.Fprintln(w, "may do nothing")
	}
	fmt.Fprintf(w, "\nconnected %s\n", count(len(v.Sessions), "time"))
	rows = nil
	for _, s := range v.Sessions {
		rows = append(rows, []string{"  " + s.Instance.String(), orDash(s.Host), "since " + when(&s.Since), "until " + when(&s.Expires), "server " + clean(s.Server)})
	}
	table(w, rows...)
	if len(v.Lent) > 0 {
		fmt.Fprintln(w, "\nlent")
		drawTree(w, "", v.Lent, func(l wire.LentView) string { return l.To.String() })
	}
	if len(v.Held) > 0 {
		fmt.Fprintln(w, "\nholds of others")
		drawTree(w, "", v.Held, func(l wire.LentView) string { return l.From.String() })
	}
	fmt.Fprintf(w, "\ndid since %s\n", when(&v.Audit.Since))
	writeWindow(w, v.Audit)
	writeActivity(w, v.Did)
}

func reached(r wire.ReachView) string {
	if r.Count == 0 {
		return "nobody"
	}
	list := make([]string, len(r.Agents))
	for i, id := range r.Agents {
		list[i] = id.String()
	}
	s := strings.Join(list, ", ")
	if n := r.Count - len(list); n > 0 {
		s += fmt.Sprintf(" and %d more", n)
	}
	return s
}

// filledActivity gives every list of it a value.
func filledActivity(v wire.Activity) wire.Activity {
	v.Calls, v.Answers, v.Published = some(v.Calls), some(v.Answers), some(v.Published)
	v.Refused, v.Changes = some(v.Refused), some(v.Changes)
	return v
}

// writeWindow says what of the audit could not be read: what is not told did not
// therefore not happen.
func writeWindow(w io.Writer, v wire.AuditWindow) {
	if v.From.After(v.Since) {
		fmt.Fprintf(w, "! no records before %s\n", when(&v.From))
	}
	if v.Why != "" {
		fmt.Fprintf(w, "! read until %s only: %s\n", when(&v.Until), clean(v.Why))
	}
	if v.Missing > 0 {
		fmt.Fprintf(w, "! %d records were left out by those who had to write them\n", v.Missing)
	}
	if v.Refused > 0 {
		fmt.Fprintf(w, "! %s of records %s not signed by a known key\n", count(v.Refused, "batch"), map[bool]string{true: "is", false: "are"}[v.Refused == 1])
	}
}

func writeActivity(w io.Writer, v wire.Activity) {
	var rows [][]string
	row := func(what, of, with string, n uint64, more string, first, last time.Time) {
		rows = append(rows, []string{what, of, with, strconv.FormatUint(n, 10) + more, when(&first), when(&last)})
	}
	failed := func(c wire.CallCount) string {
		if c.Failed == 0 {
			return ""
		}
		return fmt.Sprintf(" (%d failed)", c.Failed)
	}
	for _, c := range v.Calls {
		row("called", clean(c.Scope), "of "+c.Peer.String(), c.Count, failed(c), c.First, c.Last)
	}
	for _, c := range v.Answers {
		row("answered", clean(c.Scope), "for "+c.Peer.String(), c.Count, failed(c), c.First, c.Last)
	}
	for _, t := range v.Published {
		row("published", clean(t.Topic), "taken "+count(int(t.Accepted), "time"), t.Published, "", t.First, t.Last)
	}
	for _, r := range v.Refused {
		row("refused", clean(r.Kind), clean(string(r.Reason)), r.Count, "", r.First, r.Last)
	}
	for _, r := range v.Changes {
		with := "-"
		if r.Reason != "" {
			with = "refused: " + clean(string(r.Reason))
		}
		row("changed", clean(r.Kind), with, r.Count, "", r.First, r.Last)
	}
	if len(rows) == 0 {
		fmt.Fprintln(w, "nothing that anybody recorded")
		return
	}
	table(w, append([][]string{{"", "WHAT", "WITH", "COUNT", "FIRST", "LAST"}}, rows...)...)
	if v.Omitted > 0 {
		fmt.Fprintf(w, "and %d rows more\n", v.Omitted)
	}
}
