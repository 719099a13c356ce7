package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// explainDoc is sealmesh.explain/v1.
type explainDoc struct {
	Schema string     `json:"schema"`
	Agent  agentid.ID `json:"agent"`
	Status string     `json:"status"`
	Lines  []lineDoc  `json:"lines"`
}

// explainedDoc is the answer about one subject, sealmesh.explained/v1.
type explainedDoc struct {
	Schema  string     `json:"schema"`
	Agent   agentid.ID `json:"agent"`
	Action  string     `json:"action"`
	Subject string     `json:"subject"`
	Allowed bool       `json:"allowed"`
	Reason  string     `json:"reason,omitempty"`
	Line    *lineDoc   `json:"line,omitempty"`
}

func newExplain(a *app) *cobra.Command {
	var subj string
	var pub, sub bool
	c := &cobra.Command{
		Use:   "explain AGENT",
		Short: "Show the NATS permissions of an agent and where each comes from",
		Long: `Show the NATS permissions that an agent's rights compile to, and the scope that
each line comes from. A plain line leads out of the mesh: nothing there is signed.
With --subject S and --pub or --sub, say whether the agent
may publish or subscribe that one: exit 0 yes, 1 no. A subscription in a queue
group is written "SUBJECT QUEUE".`,
		Args: takes(1, 1, "AGENT"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			if (subj == "") == (pub || sub) || pub && sub {
				return usage(c, "--subject goes with one of --pub and --sub")
			}
			g, err := a.grantOf(c.Context(), id)
			if err != nil {
				return err
			}
			if subj != "" {
				return a.explainOne(g, subj, pub)
			}
			return a.explainAll(g)
		},
	}
	f := c.Flags()
	f.StringVar(&subj, "subject", "", "one subject to ask about")
	f.BoolVar(&pub, "pub", false, "may it publish there")
	f.BoolVar(&sub, "sub", false, "may it subscribe that")
	return c
}

func (a *app) explainAll(g granted) error {
	doc := explainDoc{Schema: "sealmesh.explain/v1", Agent: g.view.Agent, Status: string(g.view.Status), Lines: []lineDoc{}}
	for _, l := range g.grant.Publish {
		doc.Lines = append(doc.Lines, *lineOf(l, true))
	}
	for _, l := range g.grant.Subscribe {
		doc.Lines = append(doc.Lines, *lineOf(l, false))
	}
	return a.show(doc, func(w io.Writer) {
		if why := notActive(g.view); why != "" {
			fmt.Fprintf(w, "%s; were it active, it might:\n", why)
		}
		rows := make([][]string, 0, len(doc.Lines))
		for _, l := range doc.Lines {
			queue := ""
			if l.Queue != "" {
				queue = "queue " + l.Queue
			}
			rows = append(rows, []string{l.Action, l.Subject, queue, l.From})
		}
		table(w, rows...)
	})
}

func (a *app) explainOne(g granted, subj string, publish bool) error {
	line, ok := g.grant.Allows(subj, publish)
	doc := explainedDoc{Schema: "sealmesh.explained/v1", Agent: g.view.Agent, Action: lineOf(line, publish).Action, Subject: subj}
	text := ""
	switch why := notActive(g.view); {
	case why != "":
		doc.Reason, text = string(denial.Of(g.view.Status.Standing())), "no: "+why
	case !ok:
		doc.Reason, text = string(denial.ScopeNotHeld), "no: nothing in its grant covers that"
	default:
		doc.Allowed, doc.Line = true, lineOf(line, publish)
		text = fmt.Sprintf("yes: %s, from %s", line.Subject, line.From)
	}
	if err := a.show(doc, func(w io.Writer) { fmt.Fprintln(w, clean(text)) }); err != nil {
		return err
	}
	if !doc.Allowed {
		return &said{exitFailed}
	}
	return nil
}

func notActive(v wire.AgentView) string {
	if v.Status.Standing() == nil {
		return ""
	}
	return fmt.Sprintf("%s is %s", v.Agent, clean(string(v.Status)))
}
