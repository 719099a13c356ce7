package controlplane

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

// connection names one client connection in the cluster.
type connection struct {
	server string
	client uint64
}

// target is a connection to be closed.
type target struct {
	connection
	agent   agentid.ID        // zero where its name is no agent's
	session *registry.Session // nil where the index does not have it
}

// kicks is how many connections are closed at the same time.
const kicks = 16

// closeAll closes connections. A server that does not answer is not waited for
// again and again: whoever had many connections there would hold off the others'
// end.
func (p *Plane) closeAll(ctx context.Context, list []target, r *cutReport) {
	if p.sys == nil {
		r.wait(list, p.clock())
		return
	}
	each(ctx, spare(ctx, list, r), func(ctx context.Context, t target) error {
		p.closeOne(ctx, t, r)
		return nil
	})
}

func (p *Plane) closeOne(ctx context.Context, t target, r *cutReport) {
	if r.isSilent(t.server) {
		return
	}
	known := p.servers.known(t.server)
	was, err := p.kick(ctx, t.connection)
	switch {
	case !was && err == nil && !known:
		// Nobody has said that the connection is gone. A server that is back when all
		// are asked, and lists it, has it.
	case !was && err == nil && t.session != nil:
		r.left(t.connection) // it was listed, and is gone: another replica was faster
	default:
		r.kicked(t.connection, was, err)
	}
	if err != nil {
		p.log.Error().Err(err).Str("agent", t.agent.String()).Str("server_id", t.server).Msg("connection could not be cut")
		return
	}
	if t.session != nil {
		r.unlist(*t.session)
	}
}

// unlistAll forgets the sessions of connections that were closed, behind all that
// was to be closed: one that is listed too long is only looked at once more.
func (p *Plane) unlistAll(ctx context.Context, r *cutReport) {
	for _, err := range each(ctx, r.unlisted(), p.store.DropSession) {
		p.log.Warn().Err(err).Msg("session of a cut connection stays listed")
	}
}

// each does something with all of a list, some of it at a time, and returns what
// failed.
func each[T any](ctx context.Context, list []T, do func(context.Context, T) error) (failed []error) {
	next := make(chan T)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range min(kicks, len(list)) {
		wg.Go(func() {
			for t := range next {
				if err := do(ctx, t); err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, t := range list {
		next <- t
	}
	close(next)
	wg.Wait()
	return failed
}

// kick closes one connection and reports whether it was there. Only the server's
// own word, or that nobody has heard of the server for long, says that it is
// gone: silence proves nothing.
func (p *Plane) kick(ctx context.Context, c connection) (was bool, err error) {
	if p.sys == nil {
		return false, errNoSystem
	}
	ctx, cancel := context.WithTimeout(ctx, kickTimeout)
	defer cancel()
	body := fmt.Appendf(nil, `{"cid":%d}`, c.client)
	m, err := p.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER."+c.server+".KICK", body)
	if errors.Is(err, nats.ErrNoResponders) && !p.servers.known(c.server) {
		return false, nil // a server that is gone has no connections
	}
	if err != nil {
		return false, fmt.Errorf("controlplane: kick at %s: %w", c.server, err)
	}
	if was, err = parseKick(m.Data, c.server); err != nil {
		return false, fmt.Errorf("controlplane: kick at %s: %w", c.server, err)
	}
	return was, nil
}

// noSuchClient is how a server says that a connection is not there.
const noSuchClient = "no such client or leafnode id"

func parseKick(data []byte, server string) (was bool, err error) {
	a, err := parseAnswer(data)
	switch {
	case err != nil:
		return false, err
	case a.Server.ID != server:
		return false, errors.New("another server answered")
	case a.Error == nil:
		return true, nil
	case a.Error.Text == noSuchClient:
		return false, nil
	}
	return false, fmt.Errorf("refused: %.200q", a.Error.Text)
}
