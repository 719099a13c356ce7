package controlplane

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// What one reading of the audit takes at most, so that it ends well before the
// operation that asks for it.
const (
	auditReadTime    = 8 * time.Second
	auditReadBatches = 250_000
	auditFetch       = 128
	auditFetchWait   = 2 * time.Second
)

// reported is a record and who signed it. What is in it is that instance's word.
type reported struct {
	audit.Record
	by         agentid.ID
	byInstance agentid.Instance
}

// readAudit gives each the records from a time on that hold one of the words as
// their signers wrote it, in the order in which they were stored. Batches without
// one of them are passed over unread, so each may be given records that have none.
//
// Whether the signer counts today does not matter: an instance that was revoked
// since signed then. Its key is its passport's, and what it says of others than
// itself counts for nothing. A copy of a batch counts once.
func (p *Plane) readAudit(ctx context.Context, since time.Time, words [][]byte, each func(reported)) (wire.AuditWindow, error) {
	ctx, cancel := context.WithTimeout(ctx, auditReadTime)
	defer cancel()
	words = append(slices.Clone(words), []byte(`"missing":`)) // of whomever they are
	r := auditReading{p: p, words: words, each: each, since: since, seen: map[string]bool{}}
	p.spool.Flush(p.sendBatch) // its own records are the newest of all
	r.window = wire.AuditWindow{Since: since.UTC(), From: since.UTC(), Until: since.UTC()}
	js, err := jetstream.New(p.ctrl)
	if err != nil {
		return r.window, fmt.Errorf("controlplane: %w", err)
	}
	stream, err := js.Stream(ctx, natsconf.AuditStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		r.window.From, r.window.Why = p.clock().UTC(), "there is no audit stream"
		return r.window, nil
	}
	if err != nil {
		return r.window, fmt.Errorf("controlplane: stream of the audit: %w", err)
	}
	if err := r.key(ctx); err != nil {
		return r.window, err
	}
	r.begins(stream.CachedInfo())
	return r.window, r.read(ctx, stream)
}

type auditReading struct {
	p      *Plane
	words  [][]byte
	each   func(reported)
	since  time.Time
	keys   map[signer]ed25519.PublicKey
	seen   map[string]bool // batches, by their nonces
	window wire.AuditWindow
}

type signer struct {
	agent    agentid.ID
	instance agentid.Instance
}

// key reads the keys of all instances, also of those that are revoked.
func (r *auditReading) key(ctx context.Context) error {
	list, err := r.p.store.InstancesEver(ctx, agentid.ID{})
	if err != nil && len(list) == 0 {
		return err
	}
	r.keys = make(map[signer]ed25519.PublicKey, len(list))
	for _, i := range list {
		pass, err := i.Identity(r.p.store.Ring(), r.p.clock())
		if err != nil {
			continue // its batches are counted as refused
		}
		if key, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(pass.Key)); err == nil {
			r.keys[signer{i.Agent, i.Instance}] = key
		}
	}
	return nil
}

// begins notes from when on there is anything.
func (r *auditReading) begins(info *jetstream.StreamInfo) {
	from := info.Created
	if s := info.State; s.FirstSeq > 1 {
		// What was there before was pushed out, or was too old.
		from = s.FirstTime
		if s.Msgs == 0 {
			from = s.LastTime
		}
	}
	if from.After(r.since) {
		r.window.From = from.UTC()
	}
}

func (r *auditReading) read(ctx context.Context, stream jetstream.Stream) error {
	until := r.p.clock()
	start := r.since
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("controlplane: reading the audit: %w", err)
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), auditFetchWait)
		defer cancel()
		stream.DeleteConsumer(late, consumer.CachedInfo().Name) //nolint:errcheck // it ends by itself soon
	}()
	left := consumer.CachedInfo().NumPending
	last := uint64(0)
	for left > 0 {
		fetched, err := consumer.Fetch(int(min(left, auditFetch)), jetstream.FetchMaxWait(auditFetchWait))
		if err != nil {
			return fmt.Errorf("controlplane: reading the audit: %w", err)
		}
		n := 0
		for msg := range fetched.Messages() {
			meta, err := msg.Metadata()
			if err != nil || meta.Sequence.Consumer != last+1 {
				r.window.Why = "the server did not deliver all of it"
				return nil
			}
			last, n = meta.Sequence.Consumer, n+1
			left = min(left-1, meta.NumPending)
			r.take(msg)
			r.window.Until = meta.Timestamp.UTC()
		}
		switch {
		case ctx.Err() != nil, n == 0 && fetched.Error() != nil:
			r.window.Why = "reading took too long"
			return nil
		case n == 0:
			r.window.Why = "the server did not deliver all of it"
			return nil
		case r.window.Batches >= auditReadBatches:
			r.window.Why = "there is more of it than is read at a time"
			return nil
		}
	}
	r.window.Until = until.UTC()
	r.window.Complete = !r.window.From.After(r.since)
	return nil
}

// take judges one message of the stream.
func (r *auditReading) take(msg jetstream.Msg) {
	r.window.Batches++
	data := msg.Data()
	found := false
	for _, w := range r.words {
		if found = bytes.Contains(data, w); found {
			break
		}
	}
	if !found {
		return
	}
	b, by, err := r.open(envelope.Message{Subject: msg.Subject(), Header: msg.Headers(), Data: data})
	if err != nil {
		r.window.Refused++
		r.p.log.Debug().Err(err).Str("subject", msg.Subject()).Msg("batch of the audit refused")
		return
	}
	if b == nil {
		return
	}
	r.window.Missing += b.Missing
	for _, rec := range b.Records {
		// By its writer's clock, which need not be the server's.
		if rec.By(by.agent, by.instance) && !rec.Time.Before(r.since.Add(-limits.Ahead)) {
			r.each(reported{rec, by.agent, by.instance})
		}
	}
}

// open verifies a batch; nil is one that was there before.
func (r *auditReading) open(m envelope.Message) (*audit.Batch, signer, error) {
	u, err := envelope.Parse(m)
	if err != nil {
		return nil, signer{}, err
	}
	s, err := u.CheckSubject(r.p.space)
	if err != nil {
		return nil, signer{}, err
	}
	by := signer{s.Sender, s.Instance}
	key, ok := r.keys[by]
	if !ok {
		return nil, by, denial.New(denial.UnlistedKey, "no instance %s/%s is known", by.agent, by.instance)
	}
	v, err := u.Verify(r.p.cfg.Mesh.Config.TrustDomain, key, nil)
	if err != nil {
		return nil, by, err
	}
	nonce := v.Fields().Nonce
	if r.seen[nonce] {
		return nil, by, nil
	}
	r.seen[nonce] = true
	b, err := audit.Decode(v.Data())
	return &b, by, err
}
