// Command newsroom is one of four agents that docker-compose.yml runs: a reader of
// logs, a writer of reports who has to be lent the right to read them, an orchestrator
// who lends it and has reports written, and an intruder.
//
//	newsroom reader|writer|orchestrator|intruder
//
// Each is the agent of its own name, in the directory that SEALMESH_MESH has for it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/meshclient"
)

func main() {
	roles := map[string]func(context.Context) error{
		"reader": reader, "writer": writer, "orchestrator": orchestrator, "intruder": intruder,
	}
	if len(os.Args) != 2 || roles[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: newsroom reader|writer|orchestrator|intruder")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := roles[os.Args[1]](ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// join connects as an agent. What others get wrong it says in a line of its own.
func join(ctx context.Context, agent string) (*meshclient.Mesh, error) {
	mesh, err := meshclient.Connect(ctx, meshclient.As(agent), meshclient.Log(zerolog.Nop()),
		meshclient.OnRefused(func(r meshclient.Refusal) {
			say(agent, "refused %s %s of %s: %s", r.Class, r.Scope, r.Sender, r.Reason)
		}))
	if err == nil {
		say(agent, "is here as instance %s", mesh.Instance())
	}
	return mesh, err
}

func say(agent, format string, args ...any) { fmt.Printf(agent+": "+format+"\n", args...) }
