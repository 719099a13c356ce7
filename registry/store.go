package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/streams"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// The buckets of the registry, all in the control plane's account.
const (
	AgentsBucket   = subject.AgentsBucket
	ChainsBucket   = subject.ChainsBucket
	SessionsBucket = subject.SessionsBucket
	JoinsBucket    = subject.JoinsBucket
)

// DefaultTokenTTL is how long a root token lives unless configured.
const DefaultTokenTTL = 30 * 24 * time.Hour

// Config is what a Store needs. All fields but List, Leaving, TokenTTL, Replicas and Memory
// are required. The keys are those of the beginning: see [Store.SetKeys].
type Config struct {
	Conn     *nats.Conn // in the control plane's account
	Space    subject.Space
	Ring     *capability.Keyring
	List     []string // as in [Keys], like Leaving
	Leaving  []string
	Records  jws.Signer // signs records, passports and ticks
	Tokens   jws.Signer // signs root tokens
	Clock    func() time.Time
	Log      zerolog.Logger
	TokenTTL time.Duration // DefaultTokenTTL where zero
	Replicas int           // of the buckets; 1 where zero
	Memory   Memory        // what was seen before; nil: nothing, and nothing outlives the store
}

// Store reads and changes the registry.
type Store struct {
	cfg    Config
	js     jetstream.JetStream
	agents jetstream.KeyValue // for watching; all else goes by raw requests

	current atomic.Pointer[signing]
	taking  sync.Mutex // one takes other keys into use

	mu     sync.Mutex
	floors map[string]Floor // by key of a record
	older  map[string]Older // records that are below theirs, by key
	gone   map[string]bool  // instances that never come back, by key of their record
	reaped map[string]bool  // instances that no list has any more, by key of their record
	since  int64            // the highest replay time of a tick

	entering sync.Mutex // over enrolments by join rules
}

// Open creates the buckets that are missing and returns the store. It does not
// take ownership of the connection; there is nothing to close.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	s, err := Attach(cfg)
	if err != nil {
		return nil, err
	}
	cfg = s.cfg
	for _, b := range []jetstream.KeyValueConfig{
		{
			Bucket: AgentsBucket, Description: "signed records of agents and instances",
			// The feed: clients learn of a change by republish, so that no agent
			// needs the right to create a consumer.
			RePublish: &jetstream.RePublish{Source: subject.KV(AgentsBucket, ">"), Destination: cfg.Space.FeedAgents() + ".>"},
		},
		// The marker's time allows a time to live for each key: a chain ends with
		// its token, a session with its JWT.
		{Bucket: ChainsBucket, Description: "capability chains by digest", LimitMarkerTTL: time.Minute},
		{Bucket: SessionsBucket, Description: "issued user JWTs", LimitMarkerTTL: time.Minute},
		{Bucket: JoinsBucket, Description: "join tokens (hashed) and key bindings", LimitMarkerTTL: time.Minute},
	} {
		// Older revisions of a key would come back when the newest one ends.
		b.History = 1
		b.Replicas = cfg.Replicas
		b.Storage = jetstream.FileStorage
		kv, err := streams.Make(ctx,
			func(ctx context.Context) (jetstream.KeyValue, error) { return s.js.CreateOrUpdateKeyValue(ctx, b) },
			func(ctx context.Context) (jetstream.KeyValue, error) { return s.js.KeyValue(ctx, b.Bucket) })
		if err != nil {
			return nil, fmt.Errorf("registry: bucket %s: %w", b.Bucket, err)
		}
		if b.Bucket == AgentsBucket {
			s.agents = kv
		}
	}
	return s, nil
}

// Attach returns a store on buckets that are there, or will be. It asks nothing of
// the server, so that a server without JetStream is found out by what is asked of
// it later. A store that was attached does not watch.
func Attach(cfg Config) (*Store, error) {
	if cfg.Conn == nil || cfg.Clock == nil {
		return nil, errors.New("registry: connection and clock are required")
	}
	signing, err := Keys{Ring: cfg.Ring, List: cfg.List, Leaving: cfg.Leaving, Records: cfg.Records, Tokens: cfg.Tokens}.named()
	if err != nil {
		return nil, err
	}
	if cfg.Space.Prefix() == "" || cfg.TokenTTL < 0 {
		return nil, errors.New("registry: a subject space and a token lifetime that is not negative are required")
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
	s := &Store{cfg: cfg, js: js, floors: map[string]Floor{}, older: map[string]Older{}, gone: map[string]bool{}, reaped: map[string]bool{}}
	s.current.Store(signing)
	s.recall()
	return s, nil
}

// Agent reads an agent's record from the leader; denial.UnlistedAgent if there
// is none.
func (s *Store) Agent(ctx context.Context, id agentid.ID) (*Agent, error) {
	a, _, err := s.readAgent(ctx, id)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// readAgent returns the record with its sequence. With errOlder it returns the
// record as well, for those who set it right.
func (s *Store) readAgent(ctx context.Context, id agentid.ID) (*Agent, uint64, error) {
	if id.IsZero() {
		return nil, 0, denial.New(denial.UnlistedAgent, "the empty name is nobody's")
	}
	key := id.String()
	least := s.floor(key)
	e, err := s.leaderRead(ctx, AgentsBucket, key)
	if errors.Is(err, errNoEntry) {
		if e.seq != 0 || least.Revision != 0 {
			s.noteOlder(Older{Key: key, Known: least})
			return nil, e.seq, denial.New(denial.BadRecord, "record of agent %q: %w", id, errDeleted)
		}
		return nil, 0, denial.New(denial.UnlistedAgent, "agent %q is not registered", id)
	}
	if err != nil {
		return nil, 0, err
	}
	a, err := DecodeAgent(string(e.value), id, s.Ring(), s.cfg.Clock())
	if err != nil {
		return nil, 0, fmt.Errorf("registry: record of %q: %w", id, err)
	}
	if err := s.raise(key, floorOfAgent(a), least); err != nil {
		return a, e.seq, denial.New(denial.OlderRecord, "record of agent %q: %w", id, err)
	}
	return a, e.seq, nil
}

// Instance reads an instance's record from the leader; denial.UnlistedKey if
// there is none.
func (s *Store) Instance(ctx context.Context, id agentid.ID, inst agentid.Instance) (*Instance, error) {
	i, _, err := s.readInstance(ctx, id, inst)
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (s *Store) readInstance(ctx context.Context, id agentid.ID, inst agentid.Instance) (*Instance, uint64, error) {
	if id.IsZero() || inst.IsZero() {
		return nil, 0, denial.New(denial.UnlistedKey, "the empty name is nobody's")
	}
	key := InstanceKey(id, inst)
	least := s.floor(key)
	e, err := s.leaderRead(ctx, AgentsBucket, key)
	if errors.Is(err, errNoEntry) {
		if e.seq != 0 || least.Revision != 0 {
			s.noteOlder(Older{Key: key, Known: least})
			return nil, e.seq, denial.New(denial.BadRecord, "record of %s/%s: %w", id, inst, errDeleted)
		}
		return nil, 0, denial.New(denial.UnlistedKey, "%s/%s is not registered", id, inst)
	}
	if err != nil {
		return nil, 0, err
	}
	i, err := DecodeInstance(string(e.value), id, inst, s.Ring(), s.cfg.Clock())
	if err != nil {
		return nil, 0, fmt.Errorf("registry: record of %s/%s: %w", id, inst, err)
	}
	if err := s.raise(key, floorOfInstance(i), least); err != nil {
		return i, e.seq, denial.New(denial.OlderRecord, "record of %s/%s: %w", id, inst, err)
	}
	return i, e.seq, nil
}

// errUnchanged ends a change without a write.
var errUnchanged = errors.New("registry: unchanged")

// changeAgent applies f to the current record and writes it back by
// compare-and-set. After a lost race f runs again on the record that won, so it
// must derive everything that it writes from the record that it is given: a
// token over rights that were read earlier could hold one just taken back.
func (s *Store) changeAgent(ctx context.Context, id agentid.ID, by, reason string, f func(*Agent) error) (*Agent, error) {
	return s.mendAgent(ctx, id, by, reason, false, f)
}

// mendAgent is changeAgent; where mend is set it also works on a record that is
// older than one that was seen: what is known of that one counts, and the change
// lifts the record above it.
func (s *Store) mendAgent(ctx context.Context, id agentid.ID, by, reason string, mend bool, f func(*Agent) error) (out *Agent, err error) {
	err = s.retry(ctx, id.String(), func() error {
		old, seq, err := s.readAgent(ctx, id)
		mending := mend && errors.Is(err, errOlder)
		if err != nil && !mending {
			return err
		}
		if mending {
			s.liftAgent(old)
		}
		a := old.clone()
		if err := f(a); errors.Is(err, errUnchanged) && !mending {
			out = old
			return nil
		} else if err != nil && !errors.Is(err, errUnchanged) {
			return err
		}
		if a.Epoch < old.Epoch {
			return fmt.Errorf("registry: change of %q would lower its epoch", id)
		}
		if mending && a.Epoch == old.Epoch {
			a.Epoch++
		}
		if old.Status == Revoked && a.Status != Revoked {
			return denial.New(denial.WrongState, "agent %q is revoked for ever", id)
		}
		a.Revision = old.Revision + 1
		s.stamp(&a.Changed, by, reason)
		out = a
		if err := s.writeAgent(ctx, a, seq); err != nil {
			return err
		}
		return s.keep(ctx, a.Epoch > old.Epoch || !slices.Equal(a.Voided, old.Voided))
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) changeInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string, f func(*Instance) error) (*Instance, error) {
	return s.mendInstance(ctx, id, inst, by, reason, false, f)
}

func (s *Store) mendInstance(ctx context.Context, id agentid.ID, inst agentid.Instance, by, reason string, mend bool, f func(*Instance) error) (out *Instance, err error) {
	err = s.retry(ctx, InstanceKey(id, inst), func() error {
		old, seq, err := s.readInstance(ctx, id, inst)
		mending := mend && errors.Is(err, errOlder)
		if err != nil && !mending {
			return err
		}
		if mending {
			s.liftInstance(old)
		}
		i := *old
		if err := f(&i); errors.Is(err, errUnchanged) && !mending {
			out = old
			return nil
		} else if err != nil && !errors.Is(err, errUnchanged) {
			return err
		}
		if i.Epoch < old.Epoch {
			return fmt.Errorf("registry: change of %s/%s would lower its epoch", id, inst)
		}
		if mending && i.Epoch == old.Epoch {
			i.Epoch++
		}
		if old.State == InstanceRevoked && i.State != InstanceRevoked {
			return denial.New(denial.WrongState, "instance %s/%s is revoked for ever", id, inst)
		}
		i.Revision = old.Revision + 1
		s.stamp(&i.Changed, by, reason)
		out = &i
		if err := s.writeInstance(ctx, &i, seq); err != nil {
			return err
		}
		return s.keep(ctx, i.Epoch > old.Epoch)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Store) stamp(c *Change, by, reason string) {
	*c = Change{At: s.cfg.Clock().Unix(), By: plain(by), Reason: plain(reason)}
}

// writeAgent signs and writes a record over the entry with sequence seq; zero
// means that there must be none. It returns errLost if there is another.
func (s *Store) writeAgent(ctx context.Context, a *Agent, seq uint64) error {
	a.Head = jws.Head{Kind: kindAgent, IssuedAt: s.cfg.Clock().Unix()}
	k := s.signing() // it may be replaced in between
	text, err := jws.Sign(a, k.Records)
	if err == nil {
		// What nobody can read must not replace what everybody can: a records key
		// whose time is over, or a text with a second spelling.
		_, err = DecodeAgent(text, a.Agent, k.Ring, s.cfg.Clock())
	}
	if err != nil {
		return fmt.Errorf("registry: record of %q: %w", a.Agent, err)
	}
	key := a.Agent.String()
	if err := s.put(ctx, AgentsBucket, key, []byte(text), seq, 0); err != nil {
		return err
	}
	return s.raise(key, floorOfAgent(a), Floor{})
}

func (s *Store) writeInstance(ctx context.Context, i *Instance, seq uint64) error {
	i.Head = jws.Head{Kind: kindInstance, IssuedAt: s.cfg.Clock().Unix()}
	k := s.signing()
	text, err := jws.Sign(i, k.Records)
	if err == nil {
		_, err = DecodeInstance(text, i.Agent, i.Instance, k.Ring, s.cfg.Clock())
	}
	if err != nil {
		return fmt.Errorf("registry: record of %s/%s: %w", i.Agent, i.Instance, err)
	}
	key := InstanceKey(i.Agent, i.Instance)
	if err := s.put(ctx, AgentsBucket, key, []byte(text), seq, 0); err != nil {
		return err
	}
	return s.raise(key, floorOfInstance(i), Floor{})
}

// Agents lists all agents by name, removed ones left out unless asked for. Where
// a record does not verify it returns the others and an error that names it. One
// that is older than one that was seen has the status and the epoch of that one.
func (s *Store) Agents(ctx context.Context, removed bool) ([]*Agent, error) {
	var out []*Agent
	var bad []error
	err := s.each(ctx, AgentsBucket, "*", func(key string, value []byte) error {
		id, err := agentid.Parse(key)
		if err != nil {
			return nil // not an agent's key
		}
		a, err := DecodeAgent(string(value), id, s.Ring(), s.cfg.Clock())
		if err != nil {
			bad = append(bad, fmt.Errorf("registry: record of %q: %w", id, err))
			return nil
		}
		s.liftAgent(a)
		if !a.Removed || removed {
			out = append(out, a)
		}
		return nil
	})
	return out, errors.Join(append(bad, err)...)
}

// Instances lists the instances of one agent, or of all where id is zero, without
// those that were reaped. Where a record does not verify it returns the others and
// an error that names it. One that is older than one that was seen has the state
// and the epoch of that one.
func (s *Store) Instances(ctx context.Context, id agentid.ID) ([]*Instance, error) {
	return s.instances(ctx, id, false)
}

// InstancesEver is Instances with those that were reaped: what they signed while
// they lived is theirs.
func (s *Store) InstancesEver(ctx context.Context, id agentid.ID) ([]*Instance, error) {
	return s.instances(ctx, id, true)
}

func (s *Store) instances(ctx context.Context, id agentid.ID, reaped bool) ([]*Instance, error) {
	filter := "*.*"
	if !id.IsZero() {
		filter = id.String() + ".*"
	}
	keys, err := s.keys(ctx, AgentsBucket, filter)
	if err != nil {
		return nil, err
	}
	if !reaped {
		keys = slices.DeleteFunc(keys, s.isReaped)
	}
	var out []*Instance
	var bad []error
	err = s.eachOf(ctx, AgentsBucket, keys, func(key string, value []byte) error {
		agent, inst, ok := splitInstanceKey(key)
		if !ok {
			return nil
		}
		i, err := DecodeInstance(string(value), agent, inst, s.Ring(), s.cfg.Clock())
		if err != nil {
			bad = append(bad, fmt.Errorf("registry: record of %s: %w", key, err))
			return nil
		}
		s.liftInstance(i)
		if i.Reaped {
			s.noteReaped(key)
			if !reaped {
				return nil
			}
		}
		out = append(out, i)
		return nil
	})
	return out, errors.Join(append(bad, err)...)
}
