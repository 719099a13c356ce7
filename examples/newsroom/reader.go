package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealmesh/sealmesh/meshclient"
)

// reader answers whoever may read the logs.
func reader(ctx context.Context) error {
	mesh, err := join(ctx, "reader")
	if err != nil {
		return err
	}
	err = mesh.Handle("read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		say("reader", "%s is read by %s, correlation %s", req.Data, req.From, req.Correlation)
		return fmt.Appendf(nil, "%s: disk is 71%% full", req.Data), nil
	})
	if err != nil {
		return errors.Join(err, mesh.Close())
	}
	return mesh.Run(ctx)
}
