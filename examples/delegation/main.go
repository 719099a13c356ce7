// Command delegation tells how a right is lent on from agent to agent and taken
// back, on a mesh of its own: each hop and each refusal with its reason. It exits
// with 0 only if everything went as it should.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	sealmesh := flag.String("sealmesh", "", "the sealmesh binary (default: built from this module)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *sealmesh); err != nil {
		fmt.Fprintln(os.Stderr, "delegation:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, sealmesh string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	m, err := startMesh(ctx, sealmesh)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	return tell(ctx, m, &teller{within: time.Second, out: os.Stdout})
}
