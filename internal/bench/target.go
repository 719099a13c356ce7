package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/bare"
)

// What a target does besides sending events that are not stored.
const (
	storedEvery   = 5                      // one of so many messages is a stored event
	delegateEvery = time.Millisecond       // the delegate calls
	beatOf        = 500 * time.Microsecond // in which the rate is kept
)

// target is an agent that is going to be revoked, and another to which it lent a
// right. Both have bare connections, which go on whatever they are told.
type target struct {
	agent    *bare.Agent
	delegate *bare.Agent
	chain    string // by which the delegate calls

	nc, delegateNC *nats.Conn
	over           chan struct{} // closed when the agent's connection has ended
	at             atomic.Int64  // when that was, Unix nanoseconds
}

func newTarget(ctx context.Context, agentDir, delegateDir, chain string) (t *target, err error) {
	t = &target{chain: chain, over: make(chan struct{})}
	if t.agent, err = bare.Open(agentDir); err != nil {
		return nil, err
	}
	if t.delegate, err = bare.Open(delegateDir); err != nil {
		return nil, err
	}
	t.nc, err = bare.Entry{Dir: agentDir}.Dial(ctx, nats.ClosedHandler(func(*nats.Conn) {
		t.at.Store(time.Now().UnixNano())
		close(t.over)
	}), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		return nil, fmt.Errorf("connecting %s: %w", t.agent.ID, err)
	}
	t.delegateNC, err = bare.Entry{Dir: delegateDir, Present: []string{chain}}.Dial(ctx, nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.nc.Close()
		return nil, fmt.Errorf("connecting %s: %w", t.delegate.ID, err)
	}
	if err := errors.Join(t.agent.Learn(ctx, t.nc), t.delegate.Learn(ctx, t.delegateNC)); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *target) close() {
	t.nc.Close()
	t.delegateNC.Close()
}

// ended waits for the end of the agent's connection and returns when that was.
func (t *target) ended(ctx context.Context) (time.Time, error) {
	select {
	case <-t.over:
		return time.Unix(0, t.at.Load()), nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("the connection of %s is still open: %w", t.agent.ID, ctx.Err())
	}
}

// loose has both send until stop is called, or until they cannot.
func (t *target) loose(rate int) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { t.flood(done, rate) })
	wg.Go(func() { t.call(done) })
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
}

func (t *target) flood(done <-chan struct{}, rate int) {
	tick := time.NewTicker(beatOf)
	defer tick.Stop()
	start, sent := time.Now(), 0
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		for owed := int(time.Since(start).Seconds() * float64(rate)); sent < owed; sent++ {
			name := floodTopic
			if sent%storedEvery == 0 {
				name = storedTopic
			}
			msg, f, _, err := t.agent.Speaker.Message(t.agent.Space.Event(t.agent.ID, name), envelope.Fields{Token: t.agent.Record.Tokens[0]}, nil, []byte("still here"), nil)
			if err != nil {
				return
			}
			msg.Header[envelope.HeaderMsgID] = []string{f.Nonce}
			if t.nc.PublishMsg(msg) != nil {
				return
			}
		}
	}
}

func (t *target) call(done <-chan struct{}) {
	tick := time.NewTicker(delegateEvery)
	defer tick.Stop()
	subj := t.delegate.Space.Call(t.delegate.ID, workDotted)
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		msg, _, _, err := t.delegate.Speaker.Message(subj, envelope.Fields{Token: t.chain}, nil, []byte("as I may"), nil)
		if err != nil {
			return
		}
		if t.delegateNC.PublishMsg(msg) != nil {
			return
		}
	}
}
