package controlplane

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Times of a start while the servers of a cluster find each other.
const (
	readyPause  = 200 * time.Millisecond
	readyNotice = 5 * time.Second
)

// untilReady repeats f while nats-server says that it cannot do it yet, until ctx
// ends: a cluster has no JetStream before a majority of its servers has met, no
// stream of three copies before three have, and none that answers before it has
// elected a leader. f is repeated as a whole.
func (p *Plane) untilReady(ctx context.Context, f func(context.Context) error) error {
	began, told := time.Now(), time.Now()
	for {
		err := f(ctx)
		if err == nil || ctx.Err() != nil || !notYet(err) {
			return err
		}
		if time.Since(told) > readyNotice {
			told = time.Now()
			p.log.Warn().Err(err).Dur("waited", time.Since(began)).Msg("JetStream is not ready yet")
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(readyPause):
		}
	}
}

// notYet tells what passes when servers have found each other from what does not.
func notYet(err error) bool {
	const (
		noPeers   = 10005 // "no suitable peers for placement"
		notLeader = 10009
	)
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == 503 || api.ErrorCode == noPeers || api.ErrorCode == notLeader
	}
	return errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, context.DeadlineExceeded)
}
