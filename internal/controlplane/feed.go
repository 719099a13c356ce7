package controlplane

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/registry"
)

// changedFor is how long a tick repeats that an agent's epoch rose, and
// changedMost how many agents one lists: a client that missed the record itself
// hears of it in any of the ticks of that time.
const (
	changedFor  = 10 * time.Minute
	changedMost = 500
)

// epochs are the agents whose epoch rose lately.
type epochs struct {
	mu   sync.Mutex
	list []epochChange
}

type epochChange struct {
	entry registry.EpochEntry
	at    time.Time
}

// note takes a record; one that was there before the watch began counts if it
// was changed lately.
func (e *epochs) note(a *registry.Agent, current bool) {
	at := time.Now()
	if !current {
		if at = time.Unix(a.Changed.At, 0); time.Since(at) > changedFor {
			return
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.list, func(c epochChange) bool { return c.entry.Agent == a.Agent })
	if i >= 0 {
		if e.list[i].entry.Epoch >= a.Epoch {
			return
		}
		e.list = slices.Delete(e.list, i, i+1)
	}
	e.list = append(e.list, epochChange{registry.EpochEntry{Agent: a.Agent, Epoch: a.Epoch}, at})
	if len(e.list) > changedMost {
		e.list = slices.Delete(e.list, 0, len(e.list)-changedMost)
	}
}

func (e *epochs) recent() []registry.EpochEntry {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = slices.DeleteFunc(e.list, func(c epochChange) bool { return time.Since(c.at) > changedFor })
	out := make([]registry.EpochEntry, 0, len(e.list))
	for _, c := range e.list {
		out = append(out, c.entry)
	}
	return out
}

// tokensEvery is how often root tokens are looked through for renewal.
const tokensEvery = time.Hour

// tokensAgain is how soon after a failure that is done again, as in a mesh of which
// all tokens ended while it was off, and that is too large for one go.
const tokensAgain = time.Minute

// sweep ticks, and renews root tokens.
func (p *Plane) sweep() {
	tick := time.NewTicker(gate.TickInterval)
	defer tick.Stop()
	var tokens time.Time
	for {
		ctx, cancel := context.WithTimeout(p.ctx, gate.TickInterval)
		if err := p.store.Tick(ctx, gate.TickInterval/2, time.Time{}, p.epochs.recent()); err != nil && p.ctx.Err() == nil {
			p.log.Error().Err(err).Msg("tick not written")
		}
		cancel()
		p.followIncarnation()
		if time.Since(tokens) > tokensEvery {
			ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
			err := p.store.RenewTokens(ctx)
			cancel()
			tokens = time.Now()
			if err != nil && p.ctx.Err() == nil {
				p.log.Error().Err(err).Msg("root tokens not renewed")
				tokens = tokens.Add(tokensAgain - tokensEvery) // what was renewed stays so, and the rest has no hour
			}
			if err == nil {
				p.swept.Store(true)
			}
		}
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
	}
}
