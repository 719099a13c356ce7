package gate

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// ReplayBucket is the shared store of used nonces, in the agents' account.
const ReplayBucket = subject.ReplayBucket

// readTimeout bounds one read of the registry, so that a receiver that cannot
// reach it refuses in time for the sender to hear of it.
const readTimeout = 2 * time.Second

// readAgain is how long the answer to a read is waited for at first. One that was
// under way when the connection was lost never comes, and the connection may be
// back, or another in its place, long before the time is up.
const readAgain = readTimeout / 8

// Reader reads registry documents as raw text; it promises nothing about them.
// A missing one is denial.NotFound.
type Reader interface {
	Record(ctx context.Context, key string) (string, error)
	Chain(ctx context.Context, digest string) (string, error)
}

// NATSReader reads over a connection that may change while it is used.
type NATSReader struct {
	Conn   func() *nats.Conn
	Leader func(bucket string) string // request subject of a leader read
}

// AgentLeader gives the leader reads that the agents' account is offered.
func AgentLeader(space subject.Space) func(string) string { return space.LeaderRead }

// ControlLeader gives the leader reads of the account that owns the buckets.
func ControlLeader(bucket string) string {
	return subject.LeaderGet(bucket)
}

// Record reads a record from the leader.
func (r *NATSReader) Record(ctx context.Context, key string) (string, error) {
	return r.read(ctx, registry.AgentsBucket, key)
}

// Chain reads a chain. Chains are immutable, but one that was stored a moment
// ago may not have reached every replica, so the leader is asked as well.
func (r *NATSReader) Chain(ctx context.Context, digest string) (string, error) {
	return r.read(ctx, registry.ChainsBucket, digest)
}

func (r *NATSReader) read(ctx context.Context, bucket, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	m, err := r.ask(ctx, bucket, key)
	if err != nil {
		return "", denial.New(denial.RegistryUnavailable, "reading %s: %w", key, err)
	}
	text, err := registry.ParseLeaderRead(m.Data)
	if err != nil && !errors.Is(err, denial.NotFound) {
		return "", denial.New(denial.RegistryUnavailable, "reading %s: %w", key, err)
	}
	return text, err
}

// ask repeats a read that is not answered, ever more slowly, until ctx ends.
func (r *NATSReader) ask(ctx context.Context, bucket, key string) (*nats.Msg, error) {
	for wait := readAgain; ; wait *= 2 {
		try, cancel := context.WithTimeout(ctx, wait)
		m, err := r.Conn().RequestWithContext(try, r.Leader(bucket), registry.LeaderReadBody(bucket, key))
		late := try.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !late {
			return m, err
		}
	}
}
