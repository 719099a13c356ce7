package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	// casTries bounds how often a change is tried against concurrent writers.
	casTries = 64
	// pauseMost is the longest wait before another try.
	pauseMost = 50 * time.Millisecond
)

// errLost: somebody else wrote the key first.
var errLost = errors.New("registry: lost a compare-and-set")

// put writes over the entry with sequence seq, zero meaning that there must be
// none, and returns errLost if the key has another by now. The value ends after
// ttl, never where that is zero. It publishes by itself because an update of
// nats.go has no time to live and would make a key that has one last for ever.
func (s *Store) put(ctx context.Context, bucket, key string, value []byte, seq uint64, ttl time.Duration) error {
	return s.publish(ctx, bucket, key, value, ttl, jetstream.WithExpectLastSequencePerSubject(seq))
}

func (s *Store) publish(ctx context.Context, bucket, key string, value []byte, ttl time.Duration, opts ...jetstream.PublishOpt) error {
	if ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL(ttl))
	}
	m := &nats.Msg{Subject: subject.KV(bucket, key), Header: nats.Header{}, Data: value}
	_, err := s.js.PublishMsg(ctx, m, opts...)
	if isConflict(err) {
		return errLost
	}
	if err != nil {
		return fmt.Errorf("registry: writing %s: %w", key, err)
	}
	return nil
}

// remove ends a key at once and leaves a marker for a while.
func (s *Store) remove(ctx context.Context, bucket, key string) error {
	m := &nats.Msg{Subject: subject.KV(bucket, key), Header: nats.Header{"KV-Operation": {"PURGE"}, jetstream.MsgRollup: {jetstream.MsgRollupSubject}}}
	if _, err := s.js.PublishMsg(ctx, m, jetstream.WithMsgTTL(time.Minute)); err != nil {
		return fmt.Errorf("registry: removing %s: %w", key, err)
	}
	return nil
}

// create writes a key that has no value. Where it has one it is left alone, and
// returned.
func (s *Store) create(ctx context.Context, bucket, key string, value []byte, ttl time.Duration) (existing []byte, err error) {
	err = s.retry(ctx, key, func() error {
		// The key is free in nearly every case, so nothing is read before.
		err := s.put(ctx, bucket, key, value, 0, ttl)
		if !errors.Is(err, errLost) {
			return err
		}
		e, err := s.leaderRead(ctx, bucket, key)
		if errors.Is(err, errNoEntry) {
			return s.put(ctx, bucket, key, value, e.seq, ttl) // over the marker
		}
		existing = e.value
		return err
	})
	return existing, err
}

// retry runs f, which reads, decides and writes, until it does not lose against
// another writer. Every try that loses means that another one won, so there is
// always progress; the pauses spread the losers.
func (s *Store) retry(ctx context.Context, what string, f func() error) error {
	for try := range casTries {
		if try > 0 {
			t := time.NewTimer(rand.N(min(time.Millisecond<<min(try, 10), pauseMost)))
			select {
			case <-ctx.Done():
				t.Stop()
				return fmt.Errorf("registry: writing %s: %w", what, ctx.Err())
			case <-t.C:
			}
		}
		if err := f(); !errors.Is(err, errLost) {
			return err
		}
	}
	return denial.New(denial.Conflict, "%s changed too often to write it", what)
}

// isConflict recognises a lost compare-and-set: a single server and a replicated
// stream report it with different codes.
func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// ttlUntil rounds up to whole seconds: the server truncates a TTL, and a record
// that ends before its token would make a valid chain unknown.
func ttlUntil(end, now time.Time) time.Duration {
	d := end.Sub(now)
	if d <= 0 {
		return 0
	}
	return d.Truncate(time.Second) + time.Second
}
