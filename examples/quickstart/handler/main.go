// Command handler answers the calls of one scope. A request that reaches tail
// was signed by an agent that holds read:logs right now.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/sealmesh/sealmesh/meshclient"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatalln("handler:", err)
	}
}

func run(ctx context.Context) error {
	mesh, err := meshclient.Connect(ctx, meshclient.As("reader"))
	if err != nil {
		return err
	}
	if err := mesh.Handle("read:logs", tail); err != nil {
		return errors.Join(err, mesh.Close())
	}
	return mesh.Run(ctx)
}

func tail(_ context.Context, req *meshclient.Request) ([]byte, error) {
	return fmt.Appendf(nil, "dear %s, %s ends well", req.From, req.Data), nil
}
