package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// callDoc is sealmesh.call/v1.
type callDoc struct {
	Schema      string           `json:"schema"`
	From        agentid.ID       `json:"from"`
	Scope       capability.Scope `json:"scope"`
	Correlation string           `json:"correlation"`
	Nonce       string           `json:"nonce"`
	payload
	MS float64 `json:"ms"`
}

func newCall(a *app) *cobra.Command {
	var to string
	c := &cobra.Command{
		Use:   "call SCOPE [PAYLOAD|-]",
		Short: "Call whoever handles a scope and print the verified answer",
		Long: `Call whoever handles a scope, or the agent that --to names, and print the
verified answer. The payload is the argument, or standard input where that is -.

Without --timeout the call ends when nothing was heard of the handler for two
minutes; with it, at that time.`,
		Args: takes(1, 2, "SCOPE [PAYLOAD|-]"),
		RunE: func(c *cobra.Command, args []string) error {
			scope, err := scopeArg(c, args[0])
			if err != nil {
				return err
			}
			if to != "" {
				if _, err := agentArg(c, to); err != nil {
					return err
				}
			}
			data, err := a.payloadArg(args)
			if err != nil {
				return err
			}
			return a.call(c.Context(), scope, to, data)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the one agent to ask")
	return c
}

func (a *app) call(ctx context.Context, scope capability.Scope, to string, data []byte) error {
	ctx, cancel := a.deadline(ctx, 0)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, "", log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	var opts []meshclient.CallOption
	if to != "" {
		opts = append(opts, meshclient.To(to))
	}
	if a.timeout > 0 {
		opts = append(opts, meshclient.IdleTimeout(a.timeout))
	}
	start := time.Now()
	reply, err := m.Call(ctx, scope.String(), data, opts...)
	if err != nil {
		return a.lacking(err, m.ID(), "--call "+scope.String())
	}
	if a.json {
		return writeJSON(a.stdout, callDoc{
			"sealmesh.call/v1", reply.From, scope, reply.Correlation, reply.Nonce, payloadOf(reply.Data), millis(time.Since(start)),
		}, true)
	}
	return a.raw(reply.Data)
}

// lacking gives the refusal of a right that the agent does not hold the command
// that grants it.
func (a *app) lacking(err error, id agentid.ID, flag string) error {
	var d *meshclient.Denied
	if errors.As(err, &d) && d.Reason == denial.ScopeNotHeld {
		return &hinted{err, a.suggest("agent grant %s %s", id, flag)}
	}
	return err
}

// raw prints data as it is. Only for a person a line that does not end is ended.
func (a *app) raw(data []byte) error {
	if isTerminal(a.stdout) && len(data) > 0 && data[len(data)-1] != '\n' {
		data = append(data[:len(data):len(data)], '\n')
	}
	_, err := a.stdout.Write(data)
	return err
}
