package main

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/meshclient"
)

// every is how often a report is written.
const every = 3 * time.Second

// orchestrator has reports written: it lends the writer the right to read the logs for
// as long as that takes, and takes it back.
func orchestrator(ctx context.Context) error {
	mesh, err := join(ctx, "orchestrator")
	if err != nil {
		return err
	}
	err = errors.Join(
		mesh.Subscribe("report-done", func(_ context.Context, e *meshclient.Event) {
			say("orchestrator", "heard of %s that a report is done, correlation %s", e.From, e.Correlation)
		}),
		mesh.Subscribe("gossip", func(_ context.Context, e *meshclient.Event) {
			say("orchestrator", "heard gossip of %s: %s", e.From, e.Data)
		}),
	)
	if err != nil {
		return errors.Join(err, mesh.Close())
	}
	go func() {
		for ctx.Err() == nil {
			if err := report(ctx, mesh); err != nil && ctx.Err() == nil {
				say("orchestrator", "no report: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	}()
	return mesh.Run(ctx)
}

func report(ctx context.Context, mesh *meshclient.Mesh) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	lent, err := mesh.Delegate(ctx, "writer", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lent.End(ctx)) }()
	reply, err := mesh.Call(ctx, "write:report", []byte("app.log"))
	if err != nil {
		return err
	}
	say("orchestrator", "got from %s: %s", reply.From, reply.Data)
	return nil
}
