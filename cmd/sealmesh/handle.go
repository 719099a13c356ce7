package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// defaultInFlight is how many commands run at once unless --in-flight says
// otherwise: a process each, so fewer than a Go handler takes.
const defaultInFlight = 8

func newHandle(a *app) *cobra.Command {
	inFlight, stream := defaultInFlight, false
	c := &cobra.Command{
		Use:   "handle SCOPE -- CMD [ARG...]",
		Short: "Answer the calls of a scope with a command",
		Long: `Answer the calls of a scope, until SIGINT or SIGTERM. For each verified request
CMD runs once, without a shell: the payload is its standard input, and what it
prints is the reply. In its environment are

  MESH_SENDER       the agent that calls
  MESH_SCOPE        the scope that was called
  MESH_CORRELATION  the ID of the whole call tree
  MESH_DEADLINE     until when the caller waits: RFC 3339, UTC, with
                    milliseconds; empty where it did not say

The payload comes from another agent: treat it as input, never as a command.

When CMD ends with another status than 0, or prints more than a message may
hold, the caller gets an error reply (app-exit, app-too-much-output) and nothing
of what it printed. Its standard error goes to the log of this program, not to
the caller. When the caller no longer waits, CMD and what it started are killed.

With --stream what CMD prints is sent while it runs, each time that it prints, as
a part of the answer, and waits where the caller is slower; there may be as much
as one likes. An empty part ends the answer, or the error that CMD ended with: what
was sent before it stays sent. So callers need --stream as well; to others, the
answer is empty.

Messages that are refused are told on standard error, a line for each sender and
reason, with how many there were in a second; with --json as sealmesh.refused/v1.
Whose they are is the broker's word where it says that they are not verified.`,
		Args: func(c *cobra.Command, args []string) error {
			if dash := c.ArgsLenAtDash(); dash != 1 || len(args) < 2 {
				return usage(c, "handle takes SCOPE -- CMD [ARG...]")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			scope, err := scopeArg(c, args[0])
			if err != nil {
				return err
			}
			if inFlight < 1 {
				return usage(c, "--in-flight must be at least 1")
			}
			path, err := exec.LookPath(args[1])
			if err != nil {
				return &hinted{err, "CMD runs without a shell; for one, write -- sh -c '…'"}
			}
			argv := append([]string{path}, args[2:]...)
			return a.serve(c.Context(), func(m *meshclient.Mesh) error {
				cmd := command{argv: argv, log: a.runLog()}
				run := cmd.handle
				if stream {
					run = cmd.stream
				}
				if err := m.Handle(scope.String(), run, meshclient.MaxInFlight(inFlight)); err != nil {
					return a.lacking(err, m.ID(), "--handle "+scope.String())
				}
				log := a.runLog()
				log.Info().Str("agent", m.ID().String()).Str("self", m.Instance().String()).Str("scope", scope.String()).Msg("handling")
				return nil
			})
		},
	}
	c.Flags().IntVar(&inFlight, "in-flight", defaultInFlight, "how many commands may run at once")
	c.Flags().BoolVar(&stream, "stream", false, "send what CMD prints in parts, as it comes")
	return c
}

// serve is an agent until ctx ends, or until its keys are revoked: that is
// final, and a process that waited on would only hide it. While the mesh cannot
// be reached it waits, since a service may be started before its mesh; --timeout
// bounds that.
func (a *app) serve(ctx context.Context, begin func(*meshclient.Mesh) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	log := a.serveLog()
	refused := a.refusals()
	defer refused.end()
	start, done := a.deadline(ctx, 0)
	defer done()
	m, err := a.connectUntil(start, log, meshclient.OnRefused(refused.add), meshclient.OnAway(func(err error) {
		var d *meshclient.Denied
		if errors.As(err, &d) && d.Reason == denial.Revoked {
			cancel(d)
		}
	}))
	if err != nil {
		return err
	}
	if err := begin(m); err != nil {
		leave(m, log)
		return err
	}
	if err := m.Run(ctx); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	if cause := context.Cause(ctx); denial.Of(cause) != "" {
		return cause
	}
	return nil
}

// connectUntil tries until it is connected, refused, or ctx ends. Each round that
// found nobody is told once.
func (a *app) connectUntil(ctx context.Context, log zerolog.Logger, opts ...meshclient.Option) (*meshclient.Mesh, error) {
	for {
		round, done := context.WithTimeout(ctx, meshclient.DefaultConnectTimeout)
		m, err := a.connect(round, "", log, opts...)
		done()
		if err == nil || ctx.Err() != nil || !errors.Is(err, meshclient.ErrUnavailable) {
			return m, err
		}
		log.Warn().Err(err).Msg("waiting for the mesh")
	}
}
