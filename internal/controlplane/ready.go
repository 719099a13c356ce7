package controlplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/streams"
)

// Times of a start while the servers of a cluster find each other.
const (
	readyPause  = 200 * time.Millisecond
	readyAsk    = time.Second
	readyNotice = 5 * time.Second
)

// untilReady repeats f while nats-server says that it cannot do it yet, until ctx
// ends: a cluster has no JetStream before a majority of its servers has met, no
// stream of three copies before three have, and none that answers before it has
// elected a leader. f is repeated as a whole.
func (p *Plane) untilReady(ctx context.Context, f func(context.Context) error) error {
	js, err := jetstream.New(p.ctrl)
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	began, told := time.Now(), time.Now()
	for {
		// A server that knows no leader does not answer at all, and whoever asked it
		// for more would wait longer.
		err := led(ctx, js)
		if err == nil {
			err = f(undated{ctx})
		}
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

// undated ends with a context and does not tell when: what would wait for an answer
// as long as its context lasts waits as long as it does without one. A request that
// is lost while a leader is elected would else cost the whole start.
type undated struct{ context.Context }

func (undated) Deadline() (at time.Time, ok bool) { return }

// led returns when there is somebody to ask.
func led(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, readyAsk)
	defer cancel()
	if _, err := js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("controlplane: JetStream: %w", err)
	}
	return nil
}

// makeStream makes or changes a stream, which other replicas may do at the same
// moment.
func makeStream(ctx context.Context, js jetstream.JetStream, c jetstream.StreamConfig) (jetstream.Stream, error) {
	return streams.Make(ctx,
		func(ctx context.Context) (jetstream.Stream, error) { return js.CreateOrUpdateStream(ctx, c) },
		func(ctx context.Context) (jetstream.Stream, error) { return js.Stream(ctx, c.Name) })
}

// notYet tells what passes when servers have found each other from what does not.
func notYet(err error) bool {
	const (
		noPeers   = 10005 // "no suitable peers for placement"
		notLeader = 10009
	)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return false
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code == 503 || api.ErrorCode == noPeers || api.ErrorCode == notLeader
	}
	return errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, context.DeadlineExceeded)
}
