package wire

import (
	"context"
	"fmt"
)

// ListAgents reads the list of all agents, page by page.
func ListAgents(ctx context.Context, ask func(context.Context, AdminRequest) (AgentList, error)) (AgentList, error) {
	all := AgentList{Schema: AgentsSchema, Agents: []AgentView{}}
	for req := (AdminRequest{Op: OpList}); ; {
		page, err := ask(ctx, req)
		if err != nil {
			return AgentList{}, err
		}
		all.Agents = append(all.Agents, page.Agents...)
		if page.Next.IsZero() {
			return all, nil
		}
		if page.Next.String() <= req.After.String() {
			return AgentList{}, fmt.Errorf("list of agents does not go on after %q", req.After)
		}
		req.After = page.Next
	}
}
