package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newAgentAdd(a *app) *cobra.Command {
	var rights rightsFlags
	var join joinFlags
	var rule ruleFlags
	var kind, heartbeat, readmit, sessions string
	var labels []string
	var depth int
	var stock, replace bool
	c := &cobra.Command{
		Use:   "add ID",
		Short: "Register an agent and make a join token for its first instance",
		Long: `Register an agent and print a one-time join token, which sealmesh enroll takes on
the agent's host:

  sealmesh agent add reader --handle read:logs | ssh HOST sealmesh enroll --join -

The token is a secret. On the mesh's own host --enroll makes the agent's
directory at once and prints no token.`,
		Args: takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			n := registry.NewAgent{
				Agent: id, Kind: registry.Kind(kind), Heartbeat: registry.Heartbeat(heartbeat), Readmit: registry.Readmit(readmit),
				Sessions: registry.Sessions(sessions), Stock: stock, Depth: depth, Replace: replace,
			}
			if n.Rights, err = rights.rights(c); err != nil {
				return err
			}
			if err := depthArg(c, depth); err != nil {
				return err
			}
			if n.Labels, err = labelsArg(c, labels); err != nil {
				return err
			}
			if _, err := rule.given(c); err != nil {
				return err
			}
			n.Join = rule.rule()
			spec, err := join.spec(c)
			if err != nil {
				return err
			}
			if join.enroll {
				if err := a.roomFor(id, replace); err != nil {
					return err
				}
			}
			res, err := operate[wire.AddResult](c.Context(), a, wire.AdminRequest{Op: wire.OpAdd, New: &n, Join: spec})
			if err != nil {
				return err
			}
			if join.enroll {
				if replace {
					if err := a.setAside(id); err != nil {
						return err
					}
				}
				return a.enrolHere(c.Context(), res)
			}
			return a.showJoin(res)
		},
	}
	f := c.Flags()
	rights.register(f)
	join.register(f)
	rule.register(f)
	f.StringVar(&kind, "kind", "", "service, person or job (default service)")
	f.StringVar(&heartbeat, "heartbeat", "", "session, always or none (default session)")
	f.StringVar(&readmit, "readmit", "", "how it comes back from expired: attestation or manual (default attestation)")
	f.StringVar(&sessions, "sessions", "", "from how many hosts one instance may be connected: any or single (default any)")
	f.StringArrayVar(&labels, "label", nil, "name=value; may be given more than once")
	f.IntVar(&depth, "depth", 0, "how often its rights may be passed on (default 3)")
	f.BoolVar(&stock, "stock", false, "it connects with a stock NATS client, which cannot rotate by itself")
	f.BoolVar(&replace, "replace", false, "give a revoked name new keys")
	return c
}

// joinFlags say what a join token is worth.
type joinFlags struct {
	ttl    time.Duration
	uses   int
	enroll bool
}

func (j *joinFlags) register(f interface {
	DurationVar(p *time.Duration, name string, value time.Duration, usage string)
	IntVar(p *int, name string, value int, usage string)
	BoolVar(p *bool, name string, value bool, usage string)
}) {
	f.DurationVar(&j.ttl, "ttl", 0, "how long the join token lives (default 10m)")
	f.IntVar(&j.uses, "uses", 0, "how many hosts may use it (default 1)")
	f.BoolVar(&j.enroll, "enroll", false, "on the mesh's own host: make the agent's directory at once")
}

func (j *joinFlags) spec(c *cobra.Command) (*wire.JoinSpec, error) {
	if j.ttl < 0 || j.uses < 0 {
		return nil, usage(c, "--ttl and --uses must not be negative")
	}
	return &wire.JoinSpec{TTL: j.ttl, Uses: j.uses}, nil
}

// showJoin prints a join token: alone on standard output, so that a pipe can
// take it to where it is needed, and what to do with it on standard error.
func (a *app) showJoin(res wire.AddResult) error {
	if a.json {
		return writeJSON(a.stdout, res, true)
	}
	if _, err := io.WriteString(a.stdout, res.JoinToken+"\n"); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "This join token for %s is a secret and works until %s.\nnext, on its host: sealmesh enroll --join - --to DIR\n", //nolint:errcheck // the token is out
		res.Agent, res.Expires.UTC().Format(time.RFC3339))
	return nil
}

// agentDir is where an agent lives on the mesh's own host.
func (a *app) agentDir(id agentid.ID) string { return filepath.Join(a.mesh, "agents", id.String()) }

// roomFor checks, before anything is registered, that an agent can be enrolled
// on this host.
func (a *app) roomFor(id agentid.ID, replace bool) error {
	if _, err := os.Stat(filepath.Join(a.mesh, meshdir.ConfigFile)); errors.Is(err, os.ErrNotExist) {
		return &hinted{fmt.Errorf("--enroll works on the mesh's own host only, and there is no mesh in %s", a.mesh), "leave --enroll out and use the join token with sealmesh enroll"}
	}
	_, err := os.Stat(filepath.Join(a.agentDir(id), agentdir.InfoFile))
	switch {
	case err == nil && !replace:
		return &hinted{fmt.Errorf("%s is an agent's directory already", a.agentDir(id)), "move it away, or leave --enroll out"}
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	return nil
}

// setAside moves the directory of an agent that was replaced out of the way.
// Its keys are revoked and can never be of use again, and its new name cannot be
// an agent's: it has a dot.
func (a *app) setAside(id agentid.ID) error {
	path := a.agentDir(id)
	if empty, err := isEmpty(path); err != nil || empty {
		return err
	}
	old, err := agentdir.Open(path)
	if err != nil {
		return err
	}
	return os.Rename(path, path+"."+old.Info.Instance.String())
}
