package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newAgent(a *app) *cobra.Command {
	return group("agent", "Register agents, change their rights, cut them off",
		newAgentAdd(a), newAgentLs(a), newAgentShow(a), newAgentSet(a), newAgentGrant(a), newAgentUngrant(a), newAgentJoin(a),
		newAgentSuspend(a), newAgentResume(a), newAgentRotate(a), newAgentRevoke(a), newAgentRm(a))
}

// complete gives every list of a view a value.
func complete(v wire.AgentView) wire.AgentView {
	v.Instances, v.Call, v.Handle = some(v.Instances), some(v.Call), some(v.Handle)
	v.Publish, v.Subscribe = some(v.Publish), some(v.Subscribe)
	v.MayDelegate, v.Delegated, v.Durables = some(v.MayDelegate), some(v.Delegated), some(v.Durables)
	v.Plain.Publish, v.Plain.Subscribe = some(v.Plain.Publish), some(v.Plain.Subscribe)
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
		{"kind", kindOf(v)},
		{"call", names(v.Call)},
		{"handle", names(v.Handle)},
		{"publish", listed(v.Publish)},
		{"subscribe", listed(v.Subscribe)},
		{"may delegate", mayDelegate(v)},
	}
	if p := plainOf(v); p != "" {
		rows = append(rows, []string{"plain", p + " (unsigned)"})
	}
	if r := ruleOf(v); r != "" {
		rows = append(rows, []string{"joins by", r})
	}
	for _, d := range v.Durables {
		rows = append(rows, []string{"durable " + clean(d.Name), listed(d.Topics)})
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
	rows = [][]string{{"INSTANCE", "STATE", "EPOCH", "CONNECTIONS", "LAST BEAT", "CERTIFICATE UNTIL", "SERIAL", "ROOT", "HOST", "CLIENT"}}
	for _, i := range v.Instances {
		rows = append(rows, []string{
			i.Instance.String(), clean(string(i.State)), strconv.FormatUint(i.Epoch, 10), strconv.Itoa(i.Connections),
			when(i.LastBeat), when(i.CertificateNotAfter), orDash(i.CertificateSerial), orDash(registry.ShortDigest(i.CertificateCA)), orDash(i.Host), orDash(i.Client),
		})
	}
	table(w, rows...)
	for _, i := range v.Instances {
		writeTrouble(w, i)
	}
}

func kindOf(v wire.AgentView) string {
	s := fmt.Sprintf("%s, heartbeat %s, readmitted by %s", v.Kind, v.Heartbeat, v.Readmit)
	if v.Sessions == registry.SessionsSingle {
		s += ", from one host at a time"
	}
	if v.Stock {
		s += ", a stock client"
	}
	return clean(s)
}

func mayDelegate(v wire.AgentView) string {
	s := names(v.MayDelegate)
	if len(v.MayDelegate) == 0 {
		return s
	}
	depth := v.Depth
	if depth == 0 {
		depth = registry.DefaultDepth
	}
	return fmt.Sprintf("%s (depth %d)", s, depth)
}

// plainOf lists rights outside the mesh: "publish a, subscribe b".
func plainOf(v wire.AgentView) string {
	var list []string
	for _, s := range v.Plain.Publish {
		list = append(list, "publish "+s)
	}
	for _, s := range v.Plain.Subscribe {
		list = append(list, "subscribe "+s)
	}
	if len(list) == 0 {
		return ""
	}
	return listed(list)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
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
