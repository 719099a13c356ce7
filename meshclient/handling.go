package meshclient

import (
	"context"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
)

// handling is what the parts of an answer told of the instance that works on it.
type handling struct {
	instance agentid.Instance
	epoch    envelope.Epoch
	chain    string    // by which it answers
	heard    time.Time // when the newest part came
	lapsed   time.Time // when that chain was found to have ended; zero: it has not
}

func (h *handling) said(v *envelope.Verified, now time.Time) {
	f := v.Fields()
	*h = handling{instance: v.Instance(), epoch: f.Epoch, chain: f.Token, heard: now}
}

// changed implements watcher.
func (p *pending) changed() {
	select {
	case p.look <- struct{}{}:
	default:
	}
}

// watch has a call hear what becomes of the agent that it asks by name.
func (r *reception) watch(p *pending) {
	if !r.call.to.IsZero() && r.call.to != agentid.Control {
		p.look = make(chan struct{}, 1)
		r.mesh.watches.add(&p.watch, r.call.to, p)
	}
}

// takenOver is called once a call was taken: it hears what becomes of the instance from
// now on. What changed before that is looked at next.
func (r *reception) takenOver(p *pending) {
	if r.from == agentid.Control {
		return
	}
	if p.look == nil {
		p.look = make(chan struct{}, 1)
		r.mesh.watches.add(&p.watch, r.from, p)
	}
	r.mesh.hearOf(p, r.from, r.handler.instance)
	p.changed()
}

func (r *reception) unwatch(p *pending) {
	r.mesh.watches.drop(&p.watch)
	r.mesh.heardEnough(p, r.from)
}

// handlerLost says why no answer is to be expected of whoever was asked by name or took
// the call, or nil. read has it read again what is in doubt. over is as in run.
func (r *reception) handlerLost(ctx context.Context, p *pending, read bool) (over bool, err error) {
	m, known := r.mesh, r.mesh.peers.Known()
	ctx, cancel := context.WithTimeout(ctx, goneTimeout)
	defer cancel()
	if read && r.key != "" {
		_, err = m.peers.Sender(ctx, r.from, r.key)
	} else if read {
		_, err = m.peers.Agent(ctx, r.from) // so that the feed tells of it from now on
	}
	if !out(err) {
		err = known.Instance(r.from, r.handler.instance)
	}
	if out(err) {
		return true, fmt.Errorf("%w: %w", ErrHandlerGone, err)
	}
	h := &r.handler
	if h.instance.IsZero() {
		return false, nil
	}
	if g := p.gone.Load(); g != nil && g.epoch.Covers(h.epoch) && h.heard.Before(g.at.Add(vanishSlack)) {
		return false, fmt.Errorf("%w: the connection of %s/%s ended and did not come back", ErrHandlerGone, r.from, h.instance)
	}
	return false, r.rightLost(ctx)
}

// rightLost says that the handler may not answer any more. It may hold the scope by
// another chain, of which its next part would tell: it is given the time for one.
func (r *reception) rightLost(ctx context.Context) error {
	m, h := r.mesh, &r.handler
	c, err := m.gate.Chain(ctx, h.chain)
	if err != nil {
		return nil
	}
	known := m.peers.Known()
	ended := c.Check(h.heard, known)
	switch denial.Of(ended) {
	case denial.DelegatorCut, denial.TokenTakenBack:
	default:
		return nil
	}
	holds := func(c *capability.Chain, err error) bool { return err == nil && c.Has(r.want.Scope) }
	for _, digest := range known.Tokens(r.from) {
		if holds(m.gate.Chain(ctx, digest)) {
			return nil
		}
	}
	if now := time.Now(); h.lapsed.IsZero() {
		h.lapsed = now
	} else if now.Sub(h.lapsed) >= 2*signEvery {
		return fmt.Errorf("%w: it may not answer any more: %w", ErrHandlerGone, ended)
	}
	return nil
}

// outlived ends a call of which nothing is heard for a while and that was sent in an
// epoch that is over: whoever took it then has dropped it, and what it said of that may
// have been lost with the connection.
func (r *reception) outlived() error {
	if now := *r.mesh.epoch.Load(); r.asked > 0 && !r.epoch.Covers(now) {
		return fmt.Errorf("%w: the epoch of this agent rose from %s to %s while nothing was heard: %w", ErrUnavailable, r.epoch, now, denial.StaleEpoch)
	}
	return nil
}
