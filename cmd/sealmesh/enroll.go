package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/enrol"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// joinVariable is the environment variable that may hold a join token.
const joinVariable = "SEALMESH_JOIN"

// maxJoin is the longest join token that is read, in bytes.
const maxJoin = 8 << 10

// enrolledDoc is sealmesh.enrolled/v1.
type enrolledDoc struct {
	Schema    string           `json:"schema"`
	Agent     agentid.ID       `json:"agent"`
	Instance  agentid.Instance `json:"instance"`
	Directory string           `json:"directory"`
}

func newEnroll(a *app) *cobra.Command {
	var join, to string
	var platform platformFlags
	c := &cobra.Command{
		Use:   "enroll",
		Short: "Make the directory of a new instance with a join token",
		Long: `Make the keys of a new instance here, have them enrolled by the control plane
that the join token names, and write the instance's directory. No key leaves
this host. A run that was interrupted can be repeated with the same token.

The join token is a secret, so it is read from standard input (--join -), from a
file (--join @FILE) or from $SEALMESH_JOIN, never from the command line.

Where a platform gives whoever runs on it an OpenID Connect token in a file, and
the agent has a join rule that names the token's issuer, audience and subject, no
join token is needed:

  sealmesh enroll --oidc-token-file PATH --control URL --ca HASH --agent ID

HASH pins the mesh; sealmesh ca show prints it. The token goes to the control
plane of that mesh and nowhere else.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if platform.given(c) {
				p, err := a.platform(c, platform, join)
				if err != nil {
					return err
				}
				if to, err = directory(c, to, p.Agent); err != nil {
					return err
				}
				return a.enrolAs(c.Context(), p.Agent, to, func(ctx context.Context) (agentdir.Info, error) {
					return enrol.EnrolByPlatform(ctx, p, to)
				})
			}
			token, err := a.joinToken(c, join)
			if err != nil {
				return err
			}
			if to, err = directory(c, to, token.Agent); err != nil {
				return err
			}
			return a.enrol(c.Context(), token, to)
		},
	}
	platform.register(c.Flags())
	c.Flags().StringVar(&join, "join", "", "join token: - or @FILE (default $"+joinVariable+")")
	c.Flags().StringVar(&to, "to", "", "directory to write (default: where --as ID looks, in the user's configuration directory)")
	return c
}

// directory is where an agent is to live.
func directory(c *cobra.Command, to string, id agentid.ID) (string, error) {
	if to != "" {
		return to, nil
	}
	home, err := os.UserConfigDir()
	if err != nil {
		return "", usage(c, "there is no configuration directory of the user; give --to DIR")
	}
	return filepath.Join(home, "sealmesh", "agents", id.String()), nil
}

func (a *app) joinToken(c *cobra.Command, arg string) (registry.JoinToken, error) {
	text := ""
	switch {
	case arg == "-" || strings.HasPrefix(arg, "@"):
		var err error
		if text, err = a.textArg(arg, "the join token", maxJoin); err != nil {
			return registry.JoinToken{}, err
		}
	case arg != "":
		// Arguments are seen by every user of the host and kept by shells.
		e := usage(c, "--join takes - or @FILE; a join token is a secret and has no place in arguments")
		e.hint = "make a new one with sealmesh agent join ID, and pipe it in"
		return registry.JoinToken{}, e
	default:
		text = a.getenv(joinVariable)
	}
	if text == "" {
		return registry.JoinToken{}, usage(c, "no join token: give --join - or --join @FILE, or set %s", joinVariable)
	}
	return registry.ParseJoinToken(text)
}

// enrolHere enrols the first instance of an agent on the mesh's own host.
func (a *app) enrolHere(ctx context.Context, res wire.AddResult) error {
	token, err := registry.ParseJoinToken(res.JoinToken)
	if err != nil {
		return fmt.Errorf("the control plane's join token: %w", err)
	}
	if err := a.enrol(ctx, token, a.agentDir(token.Agent)); err != nil {
		return &hinted{fmt.Errorf("%s is registered, but not enrolled: %w", token.Agent, err), a.suggest("agent join %s --enroll", token.Agent) + " tries again"}
	}
	return nil
}

func (a *app) enrol(ctx context.Context, token registry.JoinToken, dir string) error {
	return a.enrolAs(ctx, token.Agent, dir, func(ctx context.Context) (agentdir.Info, error) {
		return enrol.Enrol(ctx, token, dir)
	})
}

func (a *app) enrolAs(ctx context.Context, id agentid.ID, dir string, run func(context.Context) (agentdir.Info, error)) error {
	ctx, cancel := a.deadline(ctx, adminTimeout)
	defer cancel()
	info, err := run(ctx)
	if err != nil {
		return err
	}
	if info.Agent != id {
		return errors.New("enrolled as another agent than was named")
	}
	return a.show(enrolledDoc{"sealmesh.enrolled/v1", info.Agent, info.Instance, dir}, func(w io.Writer) {
		fmt.Fprintf(w, "%s is enrolled as instance %s in %s\n", info.Agent, info.Instance, dir)
	})
}
