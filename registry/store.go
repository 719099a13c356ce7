package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// The buckets of the registry, all in the control plane's account.
const (
	AgentsBucket   = "MESH_AGENTS"
	ChainsBucket   = "MESH_CHAINS"
	SessionsBucket = "MESH_SESSIONS"
	JoinsBucket    = "MESH_JOINS"
)

// casTries bounds how often a change is tried against concurrent writers.
const casTries = 16

// DefaultTokenTTL is how long a root token lives unless configured.
const DefaultTokenTTL = 30 * 24 * time.Hour

// Config is what a Store needs. All fields but TokenTTL and Replicas are
// required.
type Config struct {
	Conn     *nats.Conn // in the control plane's account
	Space    subject.Space
	Ring     *capability.Keyring
	Records  jws.Signer // signs records, passports and ticks
	Tokens   jws.Signer // signs root tokens
	Clock    func() time.Time
	Log      zerolog.Logger
	TokenTTL time.Duration // DefaultTokenTTL where zero
	Replicas int           // of the buckets; 1 where zero
}

// Store reads and changes the registry.
type Store struct {
	cfg      Config
	js       jetstream.JetStream
	agents   jetstream.KeyValue
	chains   jetstream.KeyValue
	sessions jetstream.KeyValue
	joins    jetstream.KeyValue
}

// Open creates the buckets that are missing and returns the store. It does not
// take ownership of the connection; there is nothing to close.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Conn == nil || cfg.Ring == nil || cfg.Records == nil || cfg.Tokens == nil || cfg.Clock == nil {
		return nil, errors.New("registry: connection, keyring, records key, tokens key and clock are required")
	}
	if cfg.TokenTTL == 0 {
		cfg.TokenTTL = DefaultTokenTTL
	}
	if cfg.Replicas == 0 {
		cfg.Replicas = 1
	}
	js, err := jetstream.New(cfg.Conn)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s := &Store{cfg: cfg, js: js}
	for _, b := range []struct {
		into *jetstream.KeyValue
		cfg  jetstream.KeyValueConfig
	}{
		{&s.agents, jetstream.KeyValueConfig{
			Bucket:      AgentsBucket,
			Description: "signed records of agents and instances",
			History:     1,
			// The feed: clients learn of a change by republish, so that no agent
			// needs the right to create a consumer.
			RePublish: &jetstream.RePublish{Source: subject.KV(AgentsBucket, ">"), Destination: cfg.Space.FeedAgents() + ".>"},
		}},
		{&s.chains, jetstream.KeyValueConfig{
			Bucket: ChainsBucket, Description: "capability chains by digest", History: 1,
			LimitMarkerTTL: time.Minute, // lets every chain end with its token
		}},
		{&s.sessions, jetstream.KeyValueConfig{
			Bucket: SessionsBucket, Description: "issued user JWTs", History: 1, LimitMarkerTTL: time.Minute,
		}},
		{&s.joins, jetstream.KeyValueConfig{
			Bucket: JoinsBucket, Description: "join tokens (hashed) and key bindings", History: 1, LimitMarkerTTL: time.Minute,
		}},
	} {
		b.cfg.Replicas = cfg.Replicas
		b.cfg.Storage = jetstream.FileStorage
		kv, err := js.CreateOrUpdateKeyValue(ctx, b.cfg)
		if err != nil {
			return nil, fmt.Errorf("registry: bucket %s: %w", b.cfg.Bucket, err)
		}
		*b.into = kv
	}
	return s, nil
}

// Ring returns the keyring that the store's documents verify against.
func (s *Store) Ring() *capability.Keyring { return s.cfg.Ring }

// entry is one value of a bucket as its leader has it.
type entry struct {
	value []byte
	seq   uint64
}

var errNoEntry = errors.New("registry: no such key")

// leaderRead reads a key from the stream's leader. A direct get may be answered
// by a replica that is behind, and a decision taken on that could let a revoked
// agent in.
func (s *Store) leaderRead(ctx context.Context, bucket, key string) (entry, error) {
	body, err := json.Marshal(map[string]string{"last_by_subj": subject.KV(bucket, key)})
	if err != nil {
		return entry{}, err
	}
	m, err := s.cfg.Conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+subject.KVStream(bucket), body)
	if err != nil {
		return entry{}, fmt.Errorf("registry: reading %s: %w", key, err)
	}
	return parseMsgGet(m.Data)
}

// parseMsgGet reads the answer of a leader read. Both the control plane and
// clients use it (ParseLeaderRead).
func parseMsgGet(data []byte) (entry, error) {
	var r struct {
		Error *struct {
			Code    int    `json:"code"`
			ErrCode int    `json:"err_code"`
			Text    string `json:"description"`
		} `json:"error"`
		Message *struct {
			Seq     uint64 `json:"seq"`
			Headers []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return entry{}, fmt.Errorf("registry: leader read: %w", err)
	}
	const noMessage = 10037
	switch {
	case r.Error != nil && r.Error.ErrCode == noMessage:
		return entry{}, errNoEntry
	case r.Error != nil:
		return entry{}, fmt.Errorf("registry: leader read: %s (%d)", r.Error.Text, r.Error.ErrCode)
	case r.Message == nil:
		return entry{}, errors.New("registry: leader read: empty answer")
	case len(r.Message.Data) == 0:
		// A delete marker or a TTL marker: no value.
		return entry{seq: r.Message.Seq}, errNoEntry
	}
	return entry{r.Message.Data, r.Message.Seq}, nil
}

// ParseLeaderRead returns the value in a leader's answer, or denial.NotFound.
func ParseLeaderRead(data []byte) (string, error) {
	e, err := parseMsgGet(data)
	if errors.Is(err, errNoEntry) {
		return "", denial.NotFound
	}
	return string(e.value), err
}

// LeaderReadBody is the request body of a leader read of one key.
func LeaderReadBody(bucket, key string) []byte {
	return []byte(`{"last_by_subj":"` + subject.KV(bucket, key) + `"}`)
}

// Agent reads an agent's record from the leader; denial.UnlistedAgent if there
// is none.
func (s *Store) Agent(ctx context.Context, id agentid.ID) (*Agent, error) {
	a, _, err := s.readAgent(ctx, id)
	return a, err
}

func (s *Store) readAgent(ctx context.Context, id agentid.ID) (*Agent, uint64, error) {
	e, err := s.leaderRead(ctx, AgentsBucket, id.String())
	if errors.Is(err, errNoEntry) {
		return nil, e.seq, denial.New(denial.UnlistedAgent, "agent %q is not registered", id)
	}
	if err != nil {
		return nil, 0, err
	}
	a, err := DecodeAgent(string(e.value), id, s.cfg.Ring, s.cfg.Clock())
	if err != nil {
		return nil, 0, fmt.Errorf("registry: record of %q: %w", id, err)
	}
	return a, e.seq, nil
}

// Instance reads an instance's record from the leader; denial.UnlistedKey if
// there is none.
func (s *Store) Instance(ctx context.Context, id agentid.ID, inst agentid.Instance) (*Instance, error) {
	i, _, err := s.readInstance(ctx, id, inst)
	return i, err
}

func (s *Store) readInstance(ctx context.Context, id agentid.ID, inst agentid.Instance) (*Instance, uint64, error) {
	e, err := s.leaderRead(ctx, AgentsBucket, InstanceKey(id, inst))
	if errors.Is(err, errNoEntry) {
		return nil, e.seq, denial.New(denial.UnlistedKey, "%s/%s is not registered", id, inst)
	}
	if err != nil {
		return nil, 0, err
	}
	i, err := DecodeInstance(string(e.value), id, inst, s.cfg.Ring, s.cfg.Clock())
	if err != nil {
		return nil, 0, fmt.Errorf("registry: record of %s/%s: %w", id, inst, err)
	}
	return i, e.seq, nil
}

// errUnchanged ends a change without a write.
var errUnchanged = errors.New("registry: unchanged")

// changeAgent applies f to the current record and writes it back by
// compare-and-set, again on a conflict.
func (s *Store) changeAgent(ctx context.Context, id agentid.ID, by, reason string, f func(*Agent) error) (*Agent, error) {
	for range casTries {
		old, seq, err := s.readAgent(ctx, id)
		if err != nil {
			return nil, err
		}
		a := old.clone()
		if err := f(a); errors.Is(err, errUnchanged) {
			return old, nil
		} else if err != nil {
			return nil, err
		}
		if a.Epoch < old.Epoch {
			return nil, fmt.Errorf("registry: change of %q would lower its epoch", id)
		}
		if old.Status == Revoked && a.Epoch == old.Epoch && a.Status != Revoked {
			return nil, denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		a.Revision = old.Revision + 1
		s.stamp(&a.Changed, by, reason)
		err = s.writeAgent(ctx, a, seq)
		if errors.Is(err, denial.Conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return a, nil
	}
	return nil, denial.New(denial.Conflict, "record of %q changed too often to write it", id)
}

func (s *Store) changeInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string, f func(*Instance) error) (*Instance, error) {
	for range casTries {
		old, seq, err := s.readInstance(ctx, id, inst)
		if err != nil {
			return nil, err
		}
		i := *old
		if err := f(&i); errors.Is(err, errUnchanged) {
			return old, nil
		} else if err != nil {
			return nil, err
		}
		if i.Epoch < old.Epoch {
			return nil, fmt.Errorf("registry: change of %s/%s would lower its epoch", id, inst)
		}
		if old.State == InstanceRevoked && i.State != InstanceRevoked {
			return nil, denial.New(denial.WrongState, "instance %s/%s is revoked for ever", id, inst)
		}
		i.Revision = old.Revision + 1
		s.stamp(&i.Changed, by, reason)
		err = s.writeInstance(ctx, &i, seq)
		if errors.Is(err, denial.Conflict) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &i, nil
	}
	return nil, denial.New(denial.Conflict, "record of %s/%s changed too often to write it", id, inst)
}

func (s *Store) stamp(c *Change, by, reason string) {
	*c = Change{At: s.cfg.Clock().Unix(), By: by, Reason: reason}
}

// writeAgent signs and writes a record over the entry with sequence seq; zero
// means that there must be none.
func (s *Store) writeAgent(ctx context.Context, a *Agent, seq uint64) error {
	a.Head = jws.Head{Kind: kindAgent, IssuedAt: s.cfg.Clock().Unix()}
	text, err := jws.Sign(a, s.cfg.Records)
	if err != nil {
		return fmt.Errorf("registry: record of %q: %w", a.Agent, err)
	}
	return s.put(ctx, s.agents, a.Agent.String(), text, seq)
}

func (s *Store) writeInstance(ctx context.Context, i *Instance, seq uint64) error {
	i.Head = jws.Head{Kind: kindInstance, IssuedAt: s.cfg.Clock().Unix()}
	text, err := jws.Sign(i, s.cfg.Records)
	if err != nil {
		return fmt.Errorf("registry: record of %s/%s: %w", i.Agent, i.Instance, err)
	}
	return s.put(ctx, s.agents, InstanceKey(i.Agent, i.Instance), text, seq)
}

// put writes by compare-and-set; a lost race is denial.Conflict.
func (s *Store) put(ctx context.Context, kv jetstream.KeyValue, key, text string, seq uint64) error {
	_, err := kv.Update(ctx, key, []byte(text), seq)
	if isConflict(err) {
		return denial.New(denial.Conflict, "%s was changed by somebody else", key)
	}
	if err != nil {
		return fmt.Errorf("registry: writing %s: %w", key, err)
	}
	return nil
}

// isConflict recognises a lost compare-and-set: a single server and a replicated
// stream report it with different codes (10071, 10164).
func isConflict(err error) bool {
	if errors.Is(err, jetstream.ErrKeyExists) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == 10071 || api.ErrorCode == 10164)
}

// Agents lists all agents, removed ones left out unless asked for.
func (s *Store) Agents(ctx context.Context, removed bool) ([]*Agent, error) {
	var out []*Agent
	err := s.each(ctx, s.agents, "*", func(key string, value []byte) error {
		id, err := agentid.Parse(key)
		if err != nil {
			return nil // not an agent's key
		}
		a, err := DecodeAgent(string(value), id, s.cfg.Ring, s.cfg.Clock())
		if err != nil {
			return fmt.Errorf("registry: record of %q: %w", id, err)
		}
		if !a.Removed || removed {
			out = append(out, a)
		}
		return nil
	})
	return out, err
}

// Instances lists the instances of one agent, or of all where id is zero.
func (s *Store) Instances(ctx context.Context, id agentid.ID) ([]*Instance, error) {
	filter := "*.*"
	if !id.IsZero() {
		filter = id.String() + ".*"
	}
	var out []*Instance
	err := s.each(ctx, s.agents, filter, func(key string, value []byte) error {
		agent, inst, ok := splitInstanceKey(key)
		if !ok {
			return nil
		}
		i, err := DecodeInstance(string(value), agent, inst, s.cfg.Ring, s.cfg.Clock())
		if err != nil {
			return fmt.Errorf("registry: record of %s: %w", key, err)
		}
		out = append(out, i)
		return nil
	})
	return out, err
}

// each calls f for the current value of every key that matches filter.
func (s *Store) each(ctx context.Context, kv jetstream.KeyValue, filter string, f func(key string, value []byte) error) error {
	w, err := kv.Watch(ctx, filter, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("registry: listing %s: %w", filter, err)
	}
	defer w.Stop() //nolint:errcheck // the watcher is read only
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Updates():
			if !ok || e == nil {
				return ctx.Err()
			}
			if err := f(e.Key(), e.Value()); err != nil {
				return err
			}
		}
	}
}
