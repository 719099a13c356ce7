package main

import (
	"context"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newAgentLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the agents",
		Args:    takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.everyAgent(c.Context())
			if err != nil {
				return err
			}
			for i := range list.Agents {
				list.Agents[i] = complete(list.Agents[i])
			}
			return a.show(list, func(w io.Writer) {
				rows := [][]string{{"AGENT", "STATUS", "EPOCH", "KIND", "ONLINE", "CALL", "HANDLE", "PUBLISH", "SUBSCRIBE", "PLAIN", "CERTIFICATE UNTIL"}}
				for _, v := range list.Agents {
					rows = append(rows, []string{
						v.Agent.String(), clean(string(v.Status)), strconv.FormatUint(v.Epoch, 10), clean(string(v.Kind)), online(v),
						names(v.Call), names(v.Handle), listed(v.Publish), listed(v.Subscribe), orDash(plainOf(v)), when(firstEnd(v)),
					})
				}
				table(w, rows...)
			})
		},
	}
}

// everyAgent reads the list of agents to its end.
func (a *app) everyAgent(ctx context.Context) (wire.AgentList, error) {
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, adminID, log)
	if err != nil {
		return wire.AgentList{}, err
	}
	defer leave(m, log)
	return wire.ListAgents(ctx, func(ctx context.Context, req wire.AdminRequest) (wire.AgentList, error) {
		return operateOn[wire.AgentList](ctx, m, req)
	})
}

// firstEnd is when the first certificate of the agent ends that counts.
func firstEnd(v wire.AgentView) (first *time.Time) {
	for _, i := range v.Instances {
		if end := i.CertificateNotAfter; i.State != registry.InstanceRevoked && end != nil && (first == nil || end.Before(*first)) {
			first = end
		}
	}
	return first
}

// online counts instances: "1/2".
func online(v wire.AgentView) string {
	n := 0
	for _, i := range v.Instances {
		if i.State == registry.Online {
			n++
		}
	}
	return strconv.Itoa(n) + "/" + strconv.Itoa(len(v.Instances))
}
