package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// selector names agents by something else than their names.
type selector struct {
	labels  []string
	subtree string
	except  []string
	yes     bool
}

func (s *selector) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&s.labels, "label", nil, "in place of ID: those with the label name=value; given more than once, with all of them")
	f.StringVar(&s.subtree, "subtree", "", "in place of ID: this agent, and everybody who holds something that rests on what it lent")
	f.StringSliceVar(&s.except, "all-except", nil, "in place of ID: everybody but these, joined with commas")
	f.BoolVar(&s.yes, "yes", false, "do it to more than one agent without asking to be told so")
}

// takes accepts an argument, words, or one of the selectors.
func (s *selector) takes(words string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		n := len(args)
		for _, name := range []string{"label", "subtree", "all-except"} {
			if c.Flags().Changed(name) {
				n++
			}
		}
		switch {
		case n != 1:
			return usage(c, "%s takes one of %s, --label, --subtree and --all-except", verb(c), words)
		case len(args) == 1 && s.yes:
			return usage(c, "--yes belongs to --label, --subtree and --all-except")
		}
		return nil
	}
}

// selection is what a selector found.
type selection struct {
	agents []agentid.ID // in order of their names, the one that acts last
	done   int          // that match and are what they are to be already
	notes  []string     // for people
}

// find returns the agents that an operation is to be done to. The agent that acts is
// not among them unless it is named: who types a label does not mean to saw off the
// branch.
func (s *selector) find(ctx context.Context, c *cobra.Command, m *meshclient.Mesh, op wire.Op) (selection, error) {
	list, err := wire.ListAgents(ctx, func(ctx context.Context, req wire.AdminRequest) (wire.AgentList, error) {
		return operateOn[wire.AgentList](ctx, m, req)
	})
	if err != nil {
		return selection{}, err
	}
	matches, named, err := s.matcher(ctx, c, m, list.Agents)
	if err != nil {
		return selection{}, err
	}
	var out selection
	var left []wire.AgentView // who can still administer the mesh afterwards
	self := false
	for _, v := range list.Agents {
		switch {
		case !matches(v):
		case v.Agent == m.ID() && !named:
			out.notes = append(out.notes, fmt.Sprintf("%s is left out: it is the one that acts", v.Agent))
		case is(v, op):
			out.done++
			continue
		case op == wire.OpSuspend && (v.Status == registry.Pending || v.Status == registry.Revoked):
			out.notes = append(out.notes, fmt.Sprintf("%s is left out: it is %s", v.Agent, clean(string(v.Status))))
			continue
		case v.Agent == m.ID():
			self = true
			continue
		default:
			out.agents = append(out.agents, v.Agent)
			continue
		}
		left = append(left, v)
	}
	if self {
		out.agents = append(out.agents, m.ID())
	}
	if len(out.agents) > 0 && !slices.ContainsFunc(left, administers) {
		return selection{}, denial.New(denial.WrongState, "nobody who can administer the mesh would be left")
	}
	if len(out.agents) == 0 && out.done == 0 {
		return out, &hinted{errors.New("no agent is selected"), strings.Join(append(out.notes, "sealmesh agent ls shows who is there"), "; ")}
	}
	return out, nil
}

// is reports whether nothing is left to be done: the agent is what the operation
// makes it, and no connection of it is listed. One that an interrupted run left half
// cut is done again.
func is(v wire.AgentView, op wire.Op) bool {
	for _, i := range v.Instances {
		if i.Connections > 0 {
			return false
		}
	}
	return v.Status == registry.Revoked || op == wire.OpSuspend && v.Status == registry.Suspended
}

// administers reports whether an agent is enrolled and active and may administer the
// mesh.
func administers(v wire.AgentView) bool {
	return v.Status == registry.Active && slices.Contains(v.Call, capability.RequireScope(wire.AdminScope)) &&
		slices.ContainsFunc(v.Instances, func(i wire.InstanceView) bool { return i.State != registry.InstanceRevoked })
}

// matcher returns who is meant, and whether the agent that acts may be.
func (s *selector) matcher(ctx context.Context, c *cobra.Command, m *meshclient.Mesh, list []wire.AgentView) (matches func(wire.AgentView) bool, named bool, err error) {
	switch {
	case len(s.labels) > 0:
		want, err := labelsArg(c, s.labels)
		return func(v wire.AgentView) bool {
			for k, value := range want {
				if got, ok := v.Labels[k]; !ok || got != value {
					return false
				}
			}
			return len(want) > 0
		}, false, err
	case c.Flags().Changed("subtree"):
		root, err := agentArg(c, s.subtree)
		if err != nil {
			return nil, false, err
		}
		tree, err := operateOn[wire.DelegationTree](ctx, m, wire.AdminRequest{Op: wire.OpDelegated, Target: root.String()})
		if err != nil {
			return nil, false, err
		}
		set := map[agentid.ID]bool{root: true}
		below(tree.Lent, set)
		return func(v wire.AgentView) bool { return set[v.Agent] }, root == m.ID(), nil
	}
	keep := map[agentid.ID]bool{}
	for _, text := range s.except {
		id, err := agentArg(c, text)
		if err != nil {
			return nil, false, err
		}
		// A name that is misspelt would not be kept.
		if !slices.ContainsFunc(list, func(v wire.AgentView) bool { return v.Agent == id }) {
			return nil, false, usage(c, "--all-except names %q, which does not exist", id)
		}
		keep[id] = true
	}
	if len(keep) == 0 {
		return nil, false, usage(c, "--all-except names nobody")
	}
	return func(v wire.AgentView) bool { return !keep[v.Agent] }, false, nil
}

// below adds everybody who holds something in a tree of delegations. What was ended
// for its own sake passes nothing on; what rests on somebody who was cut does: else
// a second run would miss those that the first one left.
func below(list []wire.LentView, set map[agentid.ID]bool) {
	for _, v := range list {
		if v.Ended == "" || v.Ended == denial.DelegatorCut {
			set[v.To] = true
			below(v.Lent, set)
		}
	}
}

// confirm refuses what concerns more agents than one and nobody said yes to.
func (s *selector) confirm(a *app, c *cobra.Command, found selection, did string) error {
	if s.yes || len(found.agents) < 2 {
		return nil
	}
	if !a.json {
		if err := a.show(nil, func(w io.Writer) {
			for _, id := range found.agents {
				fmt.Fprintln(w, id)
			}
		}); err != nil {
			return err
		}
	}
	return &usageError{fmt.Errorf("%s would be %s, and nothing was done", count(len(found.agents), "agent"), did), "--yes does it, --dry-run says what it would cut"}
}
