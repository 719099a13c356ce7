package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// defaultTraced is how far back records are looked for unless --since says so.
const defaultTraced = 24 * time.Hour

// traceDoc is sealmesh.trace/v1.
type traceDoc struct {
	Schema      string            `json:"schema"`
	Correlation string            `json:"correlation"`
	Steps       []stepDoc         `json:"steps"`
	Others      []wire.RecordView `json:"others"` // of no message whose nonce somebody verified
	Omitted     int               `json:"omitted"`
	Audit       wire.AuditWindow  `json:"audit"`
}

// stepDoc is one message of the tree.
type stepDoc struct {
	Kind     audit.Kind        `json:"kind"`
	Nonce    string            `json:"nonce"`
	Sender   agentid.ID        `json:"sender"`
	Instance agentid.Instance  `json:"instance,omitzero"`
	Peer     agentid.ID        `json:"peer,omitzero"` // who answered
	Scope    string            `json:"scope"`
	At       time.Time         `json:"at"`
	MS       float64           `json:"ms"`
	Verdict  audit.Verdict     `json:"verdict"`
	Reason   denial.Reason     `json:"reason,omitempty"`
	Chain    string            `json:"chain,omitempty"`
	Lent     []agentid.ID      `json:"lent"` // whose right it is, and then to whom it was lent; empty: the sender's own
	Gaps     []audit.Gap       `json:"gaps"`
	Sent     *wire.RecordView  `json:"sent,omitempty"`
	Received []wire.RecordView `json:"received"`
	Steps    []stepDoc         `json:"steps"`
}

// tracesDoc is sealmesh.traces/v1: the calls and events that began a tree.
type tracesDoc struct {
	Schema  string            `json:"schema"`
	Records []wire.RecordView `json:"records"`
	Omitted int               `json:"omitted"`
	Audit   wire.AuditWindow  `json:"audit"`
}

func newTrace(a *app) *cobra.Command {
	var (
		last   int
		agent  string
		denied bool
		since  time.Duration
	)
	c := &cobra.Command{
		Use:   "trace [CORRELATION]",
		Short: "Show the call tree of a correlation ID, from the audit",
		Long: `Show who called whom under one correlation ID, and what was refused on the way:
each call and event with its right, its outcome and how long it took, nested as one
was made in the handler of another. It joins what sender and receiver wrote of a
message; where they do not agree, or one is silent, it says so:

  missing-receipt  the caller was answered by somebody who has no record of it
  missing-request  the sender has no record, or still waits for the answer
  mismatch         the two name another payload, scope or parent

Without a correlation ID it lists what began a tree, the newest last; with --denied
what was refused. Records are there a second after what they are of has ended.`,
		Example: `  sealmesh trace --last 20
  sealmesh trace --agent reader --denied
  sealmesh trace 6ZrzbX2wTbmmmKfE`,
		Args: takes(0, 1, "CORRELATION"),
		RunE: func(c *cobra.Command, args []string) error {
			if since <= 0 {
				return usage(c, "--since must be positive")
			}
			q := wire.RecordQuery{Since: a.now().Add(-since).UTC()}
			if len(args) == 1 {
				if agent != "" || denied || c.Flags().Changed("last") {
					return usage(c, "--last, --agent and --denied are without a correlation ID")
				}
				q.Correlation = args[0]
				return a.traceOne(c, q)
			}
			if last < 1 || last > 500 {
				return usage(c, "--last must be 1 to 500")
			}
			if agent != "" {
				id, err := agentid.Parse(agent)
				if err != nil {
					return usage(c, "--agent: %w", err)
				}
				q.Agent = id
			}
			q.Denied, q.Begun, q.Newest = denied, !denied, last
			return a.traceMany(c, q)
		},
	}
	f := c.Flags()
	f.IntVar(&last, "last", 20, "how many are listed")
	f.StringVar(&agent, "agent", "", "only what this agent sent, or was to receive")
	f.BoolVar(&denied, "denied", false, "only what was refused")
	f.DurationVar(&since, "since", defaultTraced, "how far back")
	return c
}

func (a *app) recordsOf(c *cobra.Command, q wire.RecordQuery) (wire.RecordList, error) {
	list, err := operate[wire.RecordList](c.Context(), a, wire.AdminRequest{Op: wire.OpRecords, Records: &q})
	list.Records = some(list.Records)
	return list, err
}

func (a *app) traceMany(c *cobra.Command, q wire.RecordQuery) error {
	list, err := a.recordsOf(c, q)
	if err != nil {
		return err
	}
	doc := tracesDoc{Schema: "sealmesh.traces/v1", Records: list.Records, Omitted: list.Omitted, Audit: list.Audit}
	return a.show(doc, func(w io.Writer) {
		writeWindow(w, doc.Audit)
		rows := [][]string{{"TIME", "CORRELATION", "WHO", "WHAT", "OUTCOME", ""}}
		for _, r := range doc.Records {
			rows = append(rows, []string{when(&r.At), orDash(clean(r.Correlation)), whoOf(r.Entry()), whatOf(r.Entry()), outcomeOf(r.Entry()), clean(r.Detail)})
		}
		table(w, rows...)
	})
}

func (a *app) traceOne(c *cobra.Command, q wire.RecordQuery) error {
	list, err := a.recordsOf(c, q)
	if err != nil {
		return err
	}
	if len(list.Records) == 0 {
		return &hinted{fmt.Errorf("nothing is known of the correlation ID %s since %s", clean(q.Correlation), when(&q.Since)), a.suggest("trace --last 20") + " lists those that are"}
	}
	entries := make([]audit.Entry, 0, len(list.Records))
	for _, r := range list.Records {
		entries = append(entries, r.Entry())
	}
	roots, others := audit.Tree(entries)
	doc := traceDoc{
		Schema: "sealmesh.trace/v1", Correlation: q.Correlation, Steps: stepDocs(roots, list.Rights),
		Others: []wire.RecordView{}, Omitted: list.Omitted, Audit: list.Audit,
	}
	for _, e := range others {
		doc.Others = append(doc.Others, wire.ViewRecord(e))
	}
	return a.show(doc, func(w io.Writer) {
		writeWindow(w, doc.Audit)
		if doc.Omitted > 0 {
			fmt.Fprintf(w, "%s before these are not shown\n", count(doc.Omitted, "record"))
		}
		var rows [][]string
		for i, s := range doc.Steps {
			rows = treeRows(rows, s, "", i == len(doc.Steps)-1)
		}
		for _, r := range doc.Others {
			rows = append(rows, []string{"! " + whoOf(r.Entry()) + "  " + whatOf(r.Entry()), outcomeOf(r.Entry()), "", clean(r.Detail)})
		}
		table(w, rows...)
	})
}

func stepDocs(steps []*audit.Step, rights map[string][]agentid.ID) []stepDoc {
	out := make([]stepDoc, 0, len(steps))
	for _, s := range steps {
		end := s.Outcome()
		d := stepDoc{
			Kind: s.Kind, Nonce: s.Nonce, Sender: s.Sender, Instance: s.Instance, Scope: s.Scope, At: s.At().UTC(),
			MS: float64(end.Duration.Microseconds()) / 1000, Verdict: end.Verdict, Reason: end.Reason, Chain: end.Chain,
			Lent: []agentid.ID{}, Gaps: some(s.Gaps), Received: []wire.RecordView{}, Steps: stepDocs(s.Steps, rights),
		}
		if s.Kind == audit.Call {
			d.Peer = end.Peer
		}
		if s.Sent != nil {
			v := wire.ViewRecord(*s.Sent)
			d.Sent = &v
		}
		for _, e := range s.Received {
			d.Received = append(d.Received, wire.ViewRecord(e))
			if d.Chain == "" {
				d.Chain = e.Chain
			}
		}
		if lent := rights[d.Chain]; len(lent) > 1 {
			d.Lent = lent
		}
		out = append(out, d)
	}
	return out
}

// treeRows appends the rows of a step and of what stands below it.
func treeRows(rows [][]string, s stepDoc, before string, last bool) [][]string {
	branch, below := "├─ ", "│  "
	if last {
		branch, below = "└─ ", "   "
	}
	who := s.Sender.String()
	if s.Peer != (agentid.ID{}) {
		who += " → " + s.Peer.String()
	}
	outcome := clean(string(s.Verdict))
	if s.Reason != "" {
		outcome += ": " + clean(string(s.Reason))
	}
	var notes []string
	if s.Kind == audit.Event {
		if by := takers(s.Received); by != "" {
			notes = append(notes, by)
		}
	}
	if len(s.Lent) > 0 {
		var names []string
		for _, id := range s.Lent {
			names = append(names, id.String())
		}
		notes = append(notes, "lent "+strings.Join(names, " → "))
	}
	for _, g := range s.Gaps {
		notes = append(notes, "! "+string(g))
	}
	if s.Sent != nil && s.Sent.Detail != "" {
		notes = append(notes, clean(s.Sent.Detail))
	}
	rows = append(rows, []string{
		before + branch + who + "  " + string(s.Kind) + " " + clean(s.Scope), outcome, fmt.Sprintf("%.1f ms", s.MS), strings.Join(notes, "; "),
	})
	for i, c := range s.Steps {
		rows = treeRows(rows, c, before+below, i == len(s.Steps)-1)
	}
	return rows
}

// takers says who took an event, and who did not.
func takers(list []wire.RecordView) string {
	var out []string
	for _, r := range list {
		name := r.By.String()
		if r.Verdict != audit.Accepted {
			name += " (" + clean(string(r.Verdict)) + ": " + clean(string(r.Reason)) + ")"
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return "taken by " + strings.Join(out, ", ")
}

func whoOf(e audit.Entry) string {
	who := orDash(e.Sender.String())
	if e.Peer != (agentid.ID{}) {
		who += " → " + e.Peer.String()
	}
	return who
}

func whatOf(e audit.Entry) string {
	kind := e.Kind
	if kind == audit.Made {
		kind = audit.Call
	}
	return strings.TrimSpace(clean(string(kind)) + " " + clean(e.Scope))
}

func outcomeOf(e audit.Entry) string {
	out := clean(string(e.Verdict))
	if e.Reason != "" {
		out += ": " + clean(string(e.Reason))
	}
	if e.Suppressed > 0 {
		out += fmt.Sprintf(" (and %d before it)", e.Suppressed)
	}
	return out
}
