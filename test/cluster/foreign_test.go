//go:build unix

package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/registry"
	"github.com/sealmesh/sealmesh/test/foreign/clients"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

// ticks is a plain subject on which one stock client speaks and another listens.
const ticks = "legacy.ticks"

// foreign are a client for Node.js that says a number ten times a second, and the
// nats CLI that hears it. Neither is ours, and both have to come back by themselves
// whenever their server is gone.
//
// The one was told not to give up where it is not let in, which is what it hears while
// nobody can decide about it. The other cannot be told that, and is started again as a
// supervisor would.
type foreign struct {
	says, hears *process.Process
	dir         string
}

func (w *world) foreign() *foreign {
	w.t.Helper()
	f := &foreign{
		says: clients.Node(w.root, w.stock("js", registry.Plain{Publish: []string{ticks}}), meshdir.DefaultTrustDomain, "every:"+ticks),
		dir:  w.stock("cli", registry.Plain{Subscribe: []string{ticks}}),
	}
	f.hears = clients.NATS(w.root, f.dir, "sub", ticks)
	w.heard(f)
	return f
}

// stock registers an agent that a stock client can be.
func (w *world) stock(id string, plain registry.Plain) (dir string) {
	w.t.Helper()
	return w.enrolled(registry.NewAgent{
		Agent: agentid.Require(id), Rights: registry.Rights{Plain: plain}, Heartbeat: registry.HeartbeatNone, Stock: true,
	})
}

// heard waits until the one has heard the other some times more.
func (w *world) heard(f *foreign) {
	w.t.Helper()
	count := func() int { return strings.Count(f.hears.Stdout.String(), `Received on "`+ticks+`"`) }
	before := count()
	w.eventually(ever, "the nats CLI hears the client for Node.js", func(context.Context) error {
		select {
		case <-f.says.Done():
			return errors.New("the client for Node.js has ended")
		case <-f.hears.Done():
			w.t.Log("the nats CLI gave up, and is started again")
			f.hears, before = clients.NATS(w.root, f.dir, "sub", ticks), 0
		default:
		}
		if n := count() - before; n < 5 {
			return fmt.Errorf("%d times", n)
		}
		return nil
	})
}
