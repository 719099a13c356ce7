package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/meshclient"
)

// callDoc is sealmesh.call/v1.
type callDoc struct {
	Schema      string           `json:"schema"`
	From        agentid.ID       `json:"from"`
	Instance    agentid.Instance `json:"instance"`
	Scope       capability.Scope `json:"scope"`
	Correlation string           `json:"correlation"`
	Nonce       string           `json:"nonce"`
	Sealed      bool             `json:"sealed,omitempty"`
	payload
	MS float64 `json:"ms"`
}

func newCall(a *app) *cobra.Command {
	var to string
	var stream, sealed bool
	c := &cobra.Command{
		Use:   "call SCOPE [PAYLOAD|-]",
		Short: "Call whoever handles a scope and print the verified answer",
		Long: `Call whoever handles a scope, or the agent that --to names, and print the
verified answer. The payload is the argument, or standard input where that is -,
at most 64 MiB; the answer may be as large.

With --sealed, which needs --to, nobody but the instances of that agent can read
the payload, and nobody but this one the answer.

With --stream the parts of the answer are printed as they come; with --json each
is a line of its own, the last one with "last": true. Where an error ends them,
what was printed is not the whole answer.

Without --timeout the call ends when nothing was heard of the handler for two
minutes, which says every two seconds that it works; with it, at that time.

Answers that are refused, somebody else's or forged ones, are told on standard
error while the true one is waited for; with --json as sealmesh.refused/v1. With
--json a failure is one document, sealmesh.error/v1, with a code, who answered if
somebody did, and the correlation ID by which its own log has the rest.`,
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
			var opts []meshclient.CallOption
			if to != "" {
				opts = append(opts, meshclient.To(to))
			}
			if sealed {
				if to == "" {
					return usage(c, "--sealed needs --to: it is sealed to one agent")
				}
				opts = append(opts, meshclient.Sealed())
			}
			return a.call(c.Context(), scope, data, stream, opts)
		},
	}
	c.Flags().StringVar(&to, "to", "", "the one agent to ask")
	c.Flags().BoolVar(&sealed, "sealed", false, "let nobody but that agent read the payload")
	c.Flags().BoolVar(&stream, "stream", false, "print the parts of the answer as they come")
	return c
}

func (a *app) call(ctx context.Context, scope capability.Scope, data []byte, stream bool, opts []meshclient.CallOption) error {
	ctx, cancel := a.deadline(ctx, 0)
	defer cancel()
	log := a.shotLog()
	refused := a.refusals()
	m, err := a.connect(ctx, "", log, meshclient.OnRefused(func(r meshclient.Refusal) {
		if r.Class == string(audit.Reply) { // what else the agent is sent is not about the call
			refused.add(r)
		}
	}))
	if err != nil {
		return err
	}
	defer refused.end()
	defer leave(m, log)
	correlation := envelope.NewCorrelation()
	ctx = meshclient.WithCorrelation(ctx, correlation)
	if a.timeout > 0 {
		opts = append(opts, meshclient.IdleTimeout(a.timeout))
	}
	start := time.Now()
	if stream {
		for part, err := range m.Stream(ctx, scope.String(), data, opts...) {
			if err != nil {
				return &correlated{a.lacking(err, m.ID(), "--call "+scope.String()), correlation}
			}
			if err := a.part(part, scope, start); err != nil {
				return err
			}
		}
		return nil
	}
	reply, err := m.Call(ctx, scope.String(), data, opts...)
	if err != nil {
		return &correlated{a.lacking(err, m.ID(), "--call "+scope.String()), correlation}
	}
	if a.json {
		return writeJSON(a.stdout, callDoc{
			"sealmesh.call/v1", reply.From, reply.Instance, scope, reply.Correlation, reply.Nonce, reply.Sealed, payloadOf(reply.Data), millis(time.Since(start)),
		}, true)
	}
	return a.raw(reply.Data)
}

// partDoc is sealmesh.part/v1.
type partDoc struct {
	Schema      string           `json:"schema"`
	From        agentid.ID       `json:"from"`
	Instance    agentid.Instance `json:"instance"`
	Scope       capability.Scope `json:"scope"`
	Correlation string           `json:"correlation"`
	Nonce       string           `json:"nonce"`
	Sealed      bool             `json:"sealed,omitempty"`
	payload
	Last bool    `json:"last"`
	MS   float64 `json:"ms"`
}

func (a *app) part(r *meshclient.Reply, scope capability.Scope, start time.Time) error {
	if a.json {
		return writeJSON(a.stdout, partDoc{
			"sealmesh.part/v1", r.From, r.Instance, scope, r.Correlation, r.Nonce, r.Sealed, payloadOf(r.Data), r.Last, millis(time.Since(start)),
		}, false)
	}
	if r.Last {
		return a.raw(r.Data)
	}
	_, err := a.stdout.Write(r.Data)
	return err
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
