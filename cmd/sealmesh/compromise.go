package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// sinceArg reads a time, or how long ago it was.
func sinceArg(c *cobra.Command, s string) (time.Time, error) {
	now := time.Now()
	if d, err := time.ParseDuration(s); err == nil {
		if d <= 0 {
			return time.Time{}, usage(c, "--compromised-since %q is not in the past", s)
		}
		return now.Add(-d).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, usage(c, "--compromised-since %q is neither a time such as 2026-01-31T14:00:00Z nor a duration such as 2h", s)
	}
	if t.After(now) {
		return time.Time{}, usage(c, "--compromised-since %q is not in the past", s)
	}
	return t.UTC(), nil
}

// revokeCompromised revokes and tells what had been accepted. It revokes first:
// reading may take seconds. Where it is itself that it revokes it reads first, since
// afterwards it cannot.
func (a *app) revokeCompromised(ctx context.Context, did string, req wire.AdminRequest) error {
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, adminID, log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	ask := wire.AdminRequest{Op: wire.OpSince, Target: req.Target, Since: req.Since}
	if req.DryRun {
		found, err := operateOn[wire.Compromise](ctx, m, ask)
		if err != nil {
			return err
		}
		return a.showCompromise(found)
	}
	since := req.Since.Format(time.RFC3339)
	if req.Reason != "" {
		req.Reason = ": " + req.Reason
	}
	req.Reason = "compromised since " + since + req.Reason
	req.Since = time.Time{}
	id, _, err := agentid.ParseTarget(req.Target)
	if err != nil {
		return err
	}
	var found wire.Compromise
	var unread error
	if id == m.ID() {
		found, unread = operateOn[wire.Compromise](ctx, m, ask)
	}
	res, err := operateOn[wire.CutResult](ctx, m, req)
	if err != nil {
		return err
	}
	if id != m.ID() {
		found, unread = operateOn[wire.Compromise](ctx, m, ask)
	}
	if unread != nil {
		// What was done is told all the same.
		if err := a.showCut(did, res); err != nil {
			return err
		}
		return &hinted{fmt.Errorf("it is revoked; what was accepted since %s could not be read: %w", since, unread),
			a.suggest("agent revoke %s --compromised-since %s --dry-run", req.Target, since)}
	}
	res.Delegates = some(res.Delegates)
	found.Cut = &res
	if !a.json {
		// With its own error where it is not confirmed, behind the list.
		unconfirmed := a.showCut(did, res)
		if err := a.showCompromise(found); err != nil {
			return err
		}
		return unconfirmed
	}
	if err := a.showCompromise(found); err != nil {
		return err
	}
	return a.confirmed(res, "not every server confirmed the cut")
}

// showCompromise prints what was accepted of an agent.
func (a *app) showCompromise(v wire.Compromise) error {
	v.Calls, v.Stored, v.Delegations = some(v.Calls), some(v.Stored), some(v.Delegations)
	v.Connections, v.Hosts, v.Did = some(v.Connections), some(v.Hosts), filledActivity(v.Did)
	for i := range v.Delegations {
		v.Delegations[i].Scopes = some(v.Delegations[i].Scopes)
	}
	return a.show(v, func(w io.Writer) {
		who := v.Agent.String()
		if !v.Instance.IsZero() {
			who += "/" + v.Instance.String()
		}
		fmt.Fprintf(w, "%s since %s\n", who, when(&v.Since))
		writeWindow(w, v.Audit)
		fmt.Fprintf(w, "\n%s accepted by others\n", count(int(v.CallsTotal), "call"))
		rows := [][]string{}
		for _, c := range v.Calls {
			rows = append(rows, []string{
				"  " + when(&c.At), clean(c.Scope), "by " + c.By.String() + "/" + c.ByInstance.String(), outcome(c), clean(c.Correlation),
				registry.ShortDigest(clean(c.Chain)),
			})
		}
		table(w, rows...)
		if rest := int(v.CallsTotal) - len(v.Calls); rest > 0 {
			fmt.Fprintf(w, "  and %d more\n", rest)
		}
		writeActivity(w, v.Did)
		for _, s := range v.Stored {
			fmt.Fprintf(w, "stored in topic %s: %d, refused by every reader once its key is revoked\n", clean(s.Topic), s.Count)
		}
		for _, d := range v.Delegations {
			fmt.Fprintln(w, madeLine(d))
		}
		if v.Admitted > 0 {
			fmt.Fprintf(w, "%s admitted, from %s\n", count(int(v.Admitted), "connection"), listed(v.Hosts))
			rows = rows[:0]
			for _, s := range v.Connections {
				rows = append(rows, []string{"  " + when(&s.At), s.Instance.String(), orDash(s.Host), "epoch " + clean(s.Epoch)})
			}
			table(w, rows...)
		}
	})
}

func outcome(c wire.AcceptedCall) string {
	if c.Reason != "" {
		return clean(string(c.Outcome) + " (" + string(c.Reason) + ")")
	}
	return clean(string(c.Outcome))
}

// madeLine is one delegation in words.
func madeLine(d wire.MadeView) string {
	s := "lent " + names(d.Scopes) + " to " + d.To.String() + " until " + when(&d.Expires)
	if d.Ended != "" {
		s += ", worth nothing: " + clean(string(d.Ended))
	}
	s += fmt.Sprintf(", signed %s", when(&d.Signed))
	if d.Onward > 0 {
		s += ", passed on " + count(d.Onward, "time")
	}
	s += ", used " + count(int(d.Uses), "time")
	return s + " (" + registry.ShortDigest(clean(d.Chain)) + ")"
}
