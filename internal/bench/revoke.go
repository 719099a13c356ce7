package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// Defaults of Revoke.
const (
	DefaultRuns = 100
	DefaultRate = 2000
)

const (
	// wave is how many agents are made at a time; making one takes longer than
	// cutting it.
	wave = 8
	// atLarge is for how long an agent sends before it is revoked.
	atLarge = 150 * time.Millisecond
	// afterwards is how long receivers are watched for what they still accept: far
	// longer than anything may be on its way.
	afterwards = 400 * time.Millisecond
)

// RevokeOptions say what to measure. Zero fields take the defaults.
type RevokeOptions struct {
	Runs  int   // agents that are revoked on each mesh
	Nodes []int // servers of each mesh: one and three
	Rate  int   // messages a second that the agent sends while it is revoked
	Log   zerolog.Logger
	// Progress hears of every run that is over and may be nil.
	Progress func(nodes, done, of int)
}

// Revoke measures how long what a compromised agent holds goes on working after
// an operator said that it must not: from the moment at which the command is given,
// to the end of its connection, to the last live and the last stored message of it
// that a receiver took, and to the last call that somebody made by a right that it
// lent. The agent neither stops by itself nor listens: it has a bare connection and
// sends as fast as it is told to.
//
// Beside each, by turns, one connection is closed by a bare request to the server,
// which is what there would be without a mesh.
func Revoke(ctx context.Context, o RevokeOptions) (Report, error) {
	if o.Runs == 0 {
		o.Runs = DefaultRuns
	}
	if o.Rate == 0 {
		o.Rate = DefaultRate
	}
	return eachMesh(o.Nodes, func(dir string, nodes int) ([]Row, error) { return revokeOn(ctx, dir, nodes, o) })
}

// cuts is what was measured on one mesh.
type cuts struct {
	kick      samples // a bare request
	command   samples // until the operator is told that nothing is left
	closed    samples // until the agent's connection has ended
	message   samples // until the last live message was taken
	stored    samples // until the last stored one was
	delegated samples // until the last call by a right that it had lent was
}

func revokeOn(ctx context.Context, dir string, nodes int, o RevokeOptions) ([]Row, error) {
	r, err := newRange(ctx, dir, nodes, o)
	if err != nil {
		return nil, err
	}
	defer r.close()
	var c cuts
	for done := 0; done < o.Runs; {
		n := min(wave, o.Runs-done)
		targets := make([]*target, n)
		errs := make([]error, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { targets[i], errs[i] = r.target(ctx, done+i) })
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return nil, err
			}
		}
		for _, t := range targets {
			if err := r.revoke(ctx, t, &c); err != nil {
				return nil, err
			}
			if done++; o.Progress != nil {
				o.Progress(nodes, done, o.Runs)
			}
		}
	}
	return c.rows(nodes), nil
}

func (c *cuts) rows(nodes int) []Row {
	prefix := fmt.Sprintf("revoke/%d-node/", nodes)
	bare := c.kick.row(prefix + "bare-kick")
	rows := []Row{bare}
	for _, s := range []struct {
		name string
		of   *samples
	}{
		{"connection-closed", &c.closed}, {"last-message", &c.message}, {"last-stored-message", &c.stored},
		{"delegate-refused", &c.delegated}, {"command-confirmed", &c.command},
	} {
		row := s.of.row(prefix + s.name)
		if bare.P50 > 0 {
			row.Baseline, row.BaselineName, row.Ratio = bare.P50, "bare-kick", row.P50/bare.P50
		}
		rows = append(rows, row)
	}
	return rows
}

// revoke lets one agent loose, has it revoked, and looks what came through after
// that.
func (r *firingRange) revoke(ctx context.Context, t *target, c *cuts) error {
	defer t.close()
	kick, err := r.bareKick(ctx)
	if err != nil {
		return err
	}
	c.kick.add(kick)
	stop := t.loose(r.rate)
	defer stop()
	if err := r.watch.busy(ctx, t); err != nil {
		return err
	}
	if err := pause(ctx, atLarge); err != nil {
		return err
	}
	start := time.Now()
	res, err := r.mesh.Cut(ctx, wire.OpRevoke, t.agent.ID.String(), "benchmark")
	if err != nil {
		return err
	}
	took := time.Since(start)
	if !res.Confirmed {
		return fmt.Errorf("the cut of %s was not confirmed", t.agent.ID)
	}
	closed, err := t.ended(ctx)
	if err != nil {
		return err
	}
	if err := pause(ctx, afterwards); err != nil {
		return err
	}
	c.command.add(took)
	c.closed.add(closed.Sub(start))
	last := r.watch.last(t)
	c.message.add(last.message.Sub(start))
	c.stored.add(last.stored.Sub(start))
	c.delegated.add(last.delegated.Sub(start))
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
