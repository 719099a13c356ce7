package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// writer writes a report for whoever may ask for one. To read the logs it has no
// right of its own: it can while it was lent one, and says how it went.
func writer(ctx context.Context) error {
	mesh, err := join(ctx, "writer")
	if err != nil {
		return err
	}
	err = mesh.Handle("write:report", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		logs, err := readLent(ctx, mesh, req.Data)
		if err != nil {
			return nil, err
		}
		report := fmt.Appendf(nil, "report for %s: %s", req.From, logs)
		say("writer", "wrote a report for %s with a right that was lent, correlation %s", req.From, req.Correlation)
		return report, mesh.Publish(ctx, "report-done", report)
	})
	if err != nil {
		return errors.Join(err, mesh.Close())
	}
	return mesh.Run(ctx)
}

// readLent reads a log. The right may have been lent a moment ago, and be on its way.
func readLent(ctx context.Context, mesh *meshclient.Mesh, name []byte) ([]byte, error) {
	for {
		reply, err := mesh.Call(ctx, "read:logs", name)
		if err == nil {
			return reply.Data, nil
		}
		if denial.Of(err) != denial.ScopeNotHeld {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}
