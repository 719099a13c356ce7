package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newAgent(a *app) *cobra.Command {
	return group("agent", "Register agents, change their rights, cut them off",
		newAgentAdd(a), newAgentLs(a), newAgentShow(a), newAgentGrant(a), newAgentUngrant(a), newAgentJoin(a),
		newAgentSuspend(a), newAgentResume(a), newAgentRevoke(a), newAgentRm(a))
}

// complete gives every list of a view a value.
func complete(v wire.AgentView) wire.AgentView {
	v.Instances, v.Call, v.Handle = some(v.Instances), some(v.Call), some(v.Handle)
	v.Publish, v.Subscribe = some(v.Publish), some(v.Subscribe)
	v.MayDelegate, v.Delegated = some(v.MayDelegate), some(v.Delegated)
	if v.Labels == nil {
		v.Labels = map[string]string{}
	}
	return v
}

// showAgent prints one agent.
func (a *app) showAgent(v wire.AgentView) error {
	v = complete(v)
	v.Schema = wire.AgentSchema
	return a.show(v, func(w io.Writer) { writeAgent(w, v) })
}

func writeAgent(w io.Writer, v wire.AgentView) {
	rows := [][]string{
		{"agent", v.Agent.String()},
		{"status", clean(string(v.Status)) + ", epoch " + strconv.FormatUint(v.Epoch, 10)},
		{"kind", clean(fmt.Sprintf("%s, heartbeat %s, readmitted by %s", v.Kind, v.Heartbeat, v.Readmit))},
		{"call", names(v.Call)},
		{"handle", names(v.Handle)},
		{"publish", listed(v.Publish)},
		{"subscribe", listed(v.Subscribe)},
		{"may delegate", names(v.MayDelegate)},
	}
	if len(v.Labels) > 0 {
		var list []string
		for k, s := range v.Labels {
			list = append(list, k+"="+s)
		}
		slices.Sort(list)
		rows = append(rows, []string{"labels", listed(list)})
	}
	changed := "by " + v.Changed.By
	if v.Changed.Reason != "" {
		changed += ": " + v.Changed.Reason
	}
	rows = append(rows, []string{"changed", when(&v.Changed.At) + " " + clean(changed)})
	table(w, rows...)
	for _, d := range v.Delegated {
		fmt.Fprintf(w, "lent by %s until %s: %s (%s)\n", d.From, when(&d.Expires), names(d.Scopes), clean(d.Chain))
	}
	if len(v.Instances) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows = [][]string{{"INSTANCE", "STATE", "EPOCH", "CONNECTIONS", "LAST BEAT", "CERTIFICATE UNTIL", "HOST", "CLIENT"}}
	for _, i := range v.Instances {
		rows = append(rows, []string{
			i.Instance.String(), clean(string(i.State)), strconv.FormatUint(i.Epoch, 10), strconv.Itoa(i.Connections),
			when(i.LastBeat), when(i.CertificateNotAfter), orDash(i.Host), orDash(i.Client),
		})
	}
	table(w, rows...)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

// showCut prints what an operation that took authority away has done. A cut
// that not every server confirmed is a failure: the record says no already,
// but somewhere a connection may still be open.
func (a *app) showCut(did string, r wire.CutResult) error {
	r.Delegates = some(r.Delegates)
	if err := a.show(r, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s: epoch %d, %s closed, %.0f ms\n", r.Agent, did, r.Epoch, count(r.Cut, "connection"), r.MS)
		if len(r.Delegates) > 0 {
			list := make([]string, len(r.Delegates))
			for i, d := range r.Delegates {
				list[i] = d.String()
			}
			fmt.Fprintf(w, "what it had lent ended too: %s\n", listed(list))
		}
	}); err != nil {
		return err
	}
	if r.Confirmed {
		return nil
	}
	what := "not every server confirmed the cut"
	if len(r.Unreachable) > 0 {
		what += "; not reached: " + strings.Join(r.Unreachable, ", ")
	}
	fmt.Fprintf(a.stderr, "sealmesh: %s\nhint: run the command again\n", clean(what)) //nolint:errcheck // nowhere left to say it
	return &said{exitUnavailable}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// held returns every scope that an agent holds, own and lent.
func held(v wire.AgentView) ([]capability.Scope, error) {
	own, _, err := registry.Rights{Call: v.Call, Handle: v.Handle, Publish: v.Publish, Subscribe: v.Subscribe}.Scopes()
	if err != nil {
		return nil, err
	}
	for _, d := range v.Delegated {
		own = append(own, d.Scopes...)
	}
	return own, nil
}
