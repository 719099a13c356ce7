package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Join-token defaults and bounds.
const (
	DefaultJoinTTL  = 10 * time.Minute
	MaxJoinTTL      = 7 * 24 * time.Hour
	DefaultJoinUses = 1
	MaxJoinUses     = 1000
)

const joinPrefix = "smj1."

var b64 = base64.RawURLEncoding.Strict()

// JoinToken is what an operator hands to the host of a new instance. It names
// where to enrol and pins the certificate authority of that endpoint, so that
// the first contact needs no trust in the network.
type JoinToken struct {
	URL    string     `json:"url"`
	CA     string     `json:"ca"` // hash of the infra root's key (pki)
	Agent  agentid.ID `json:"agent"`
	Secret string     `json:"secret"` // 128 random bits, base64url
}

// String describes the token without its secret, so that it can stand in a log.
func (j JoinToken) String() string { return "join token of " + j.Agent.String() }

// GoString is String.
func (j JoinToken) GoString() string { return j.String() }

// Text returns the token's one-line text. It is a secret: never log it.
func (j JoinToken) Text() string {
	b, err := json.Marshal(j)
	if err != nil {
		return ""
	}
	return joinPrefix + b64.EncodeToString(b)
}

// ParseJoinToken reads the one-line text, white space around it allowed since
// it comes from a terminal.
func ParseJoinToken(text string) (JoinToken, error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), joinPrefix)
	if !ok || len(rest) > 4096 {
		return JoinToken{}, denial.New(denial.BadJoinToken, "a join token begins with %s", joinPrefix)
	}
	b, err := b64.DecodeString(rest)
	if err != nil {
		return JoinToken{}, denial.New(denial.BadJoinToken, "join token is damaged")
	}
	var j JoinToken
	if err := json.Unmarshal(b, &j); err != nil {
		return JoinToken{}, denial.New(denial.BadJoinToken, "join token is damaged")
	}
	if j.URL == "" || j.CA == "" || j.Agent.IsZero() || len(j.Secret) != 22 {
		return JoinToken{}, denial.New(denial.BadJoinToken, "join token is incomplete")
	}
	if j.Text() != joinPrefix+rest {
		return JoinToken{}, denial.New(denial.BadJoinToken, "join token is damaged")
	}
	return j, nil
}

// JoinHash is under what a join secret is stored and what an enrolment request
// signs in its place: the registry never keeps the secret.
func JoinHash(secret string) string {
	sum := sha256.Sum256([]byte("sealmesh-join-v1\n" + secret))
	return b64.EncodeToString(sum[:])
}

// joinRecord is a join token as the registry keeps it.
type joinRecord struct {
	Agent   agentid.ID `json:"agent"`
	Since   uint64     `json:"since"` // of the agent it was made for: a replaced name takes no older token
	Uses    int        `json:"uses"`  // how many hosts may use it
	Keys    []string   `json:"keys"`  // the nkeys that did
	Expires int64      `json:"expires"`
	By      string     `json:"by"`
}

// CheckJoin refuses what no join token can be worth; zero stands for the default.
func CheckJoin(ttl time.Duration, uses int) error {
	ttl, uses = cmp.Or(ttl, DefaultJoinTTL), cmp.Or(uses, DefaultJoinUses)
	if ttl < time.Second || ttl > MaxJoinTTL || uses < 1 || uses > MaxJoinUses {
		return denial.New(denial.BadInput, "a join token lives 1s to %s and works 1 to %d times", MaxJoinTTL, MaxJoinUses)
	}
	return nil
}

// NewJoin makes a join token for an agent and returns its secret and its end.
// The secret exists nowhere else.
func (s *Store) NewJoin(ctx context.Context, id agentid.ID, ttl time.Duration, uses int, by string) (secret string, expires time.Time, err error) {
	if err := mayOperate(id); err != nil {
		return "", time.Time{}, err
	}
	if err := CheckJoin(ttl, uses); err != nil {
		return "", time.Time{}, err
	}
	ttl, uses = cmp.Or(ttl, DefaultJoinTTL), cmp.Or(uses, DefaultJoinUses)
	a, err := s.Agent(ctx, id)
	if err != nil {
		return "", time.Time{}, err
	}
	if a.Status == Revoked {
		return "", time.Time{}, denial.New(denial.WrongState, "agent %q is revoked for ever", id)
	}
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", time.Time{}, fmt.Errorf("registry: random bytes: %w", err)
	}
	secret = b64.EncodeToString(raw[:])
	expires = s.cfg.Clock().Add(ttl)
	b, err := json.Marshal(joinRecord{Agent: id, Since: a.Since, Uses: uses, Expires: expires.Unix(), By: plain(by)})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("registry: join record: %w", err)
	}
	existing, err := s.create(ctx, JoinsBucket, joinKey(JoinHash(secret)), b, ttlUntil(expires, s.cfg.Clock()))
	if err == nil && existing != nil {
		err = denial.New(denial.Conflict, "join token exists already")
	}
	if err != nil {
		return "", time.Time{}, err
	}
	return secret, expires, nil
}

func joinKey(hash string) string { return "join." + hash }

// bindingKey is under what an nkey is bound to the one instance that it names.
func bindingKey(nkey string) string { return "nkey." + nkey }

// Enrolment is a new instance's request, its signatures already checked by the
// caller: the nkey signed the join hash and the certificate request.
type Enrolment struct {
	Hash  string // JoinHash of the secret
	Agent agentid.ID
	Key   string // public nkey, U…
	Curve string // public curve key, X…
	TLS   string // hash of the TLS key's SPKI, as BindTLSKey takes it
	Host  string
}

func (e Enrolment) registration() (registration, error) {
	if err := mayOperate(e.Agent); err != nil {
		return registration{}, err
	}
	r := registration{agent: e.Agent, key: e.Key, curve: e.Curve, tls: e.TLS, host: e.Host, reason: "enrolled"}
	if !jws.IsDigest(e.TLS) {
		return registration{}, denial.New(denial.BadInput, "enrolment needs a TLS key")
	}
	return r, r.check()
}

// Enrol uses a join token once and registers the instance. The same key may
// come again, which finishes an interrupted run and costs no further use;
// another key needs a use of its own. The agent becomes active with its first
// instance. What is refused for another cause than the token costs no use.
func (s *Store) Enrol(ctx context.Context, e Enrolment) (*Agent, *Instance, error) {
	r, err := e.registration()
	if err != nil {
		return nil, nil, err
	}
	if r.since, err = s.useJoin(ctx, e, r); err != nil {
		return nil, nil, err
	}
	return s.enter(ctx, r, func(*Agent) error { return nil })
}

// enter registers the instance of whoever was let in, and makes the agent active
// with its first one. still refuses an agent that would not let it in any more.
func (s *Store) enter(ctx context.Context, r registration, still func(*Agent) error) (*Agent, *Instance, error) {
	if err := s.BindTLSKey(ctx, r.agent, r.instance(), r.tls); err != nil {
		return nil, nil, err
	}
	i, err := s.register(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	// Last seconds count: the agent may have been revoked since the token was
	// used, and its name given new keys. The instance carries the old Since, so it
	// is worth nothing by itself; it is revoked to say so.
	var gone error
	a, err := s.changeAgent(ctx, r.agent, r.agent.String(), "enrolled", func(a *Agent) error {
		gone = nil
		if a.Status == Revoked || a.Since != r.since {
			gone = denial.New(denial.Revoked, "agent %q was revoked meanwhile", r.agent)
		} else {
			gone = still(a)
		}
		if gone != nil {
			return gone
		}
		if a.Status != Pending {
			return errUnchanged
		}
		a.Status = Active
		return nil
	})
	// Whoever has had a certificate was let in before, and comes again.
	if gone != nil && (denial.Of(gone) == denial.Revoked || i.NotAfter == 0) {
		_, cut := s.RevokeInstance(ctx, r.agent, i.Instance, agentid.Control.String(), "the agent changed while this enrolled")
		return nil, nil, errors.Join(gone, cut)
	}
	if err != nil {
		return nil, nil, err
	}
	return a, i, nil
}

// useJoin takes one use of the token for the key and returns the Since that the
// token was made for. Nothing about the agent is told to whoever has no token.
func (s *Store) useJoin(ctx context.Context, e Enrolment, r registration) (since uint64, err error) {
	refused := denial.New(denial.BadJoinToken, "join token is unknown, expired or used up")
	if !jws.IsDigest(e.Hash) {
		return 0, refused
	}
	key := joinKey(e.Hash)
	err = s.retry(ctx, "join token", func() error {
		got, err := s.leaderRead(ctx, JoinsBucket, key)
		if errors.Is(err, errNoEntry) {
			return refused
		}
		if err != nil {
			return err
		}
		var j joinRecord
		if err := json.Unmarshal(got.value, &j); err != nil {
			return fmt.Errorf("registry: join record: %w", err)
		}
		now := s.cfg.Clock()
		ends := time.Unix(j.Expires, 0)
		if j.Agent != e.Agent || !now.Before(ends) {
			return refused
		}
		used := slices.Contains(j.Keys, e.Key)
		if !used && len(j.Keys) >= j.Uses {
			return refused
		}
		a, err := s.Agent(ctx, e.Agent)
		if err != nil {
			return err
		}
		if a.Status == Revoked {
			return denial.New(denial.Revoked, "agent %q is revoked", e.Agent)
		}
		if a.Since != j.Since {
			return refused
		}
		since = j.Since
		if used {
			return nil
		}
		r.since = since
		if err := s.registrable(ctx, r); err != nil {
			return err
		}
		j.Keys = append(j.Keys, e.Key)
		b, err := json.Marshal(j)
		if err != nil {
			return fmt.Errorf("registry: join record: %w", err)
		}
		return s.put(ctx, JoinsBucket, key, b, got.seq, ttlUntil(ends, now))
	})
	return since, err
}

// registration is an instance to be written.
type registration struct {
	agent      agentid.ID
	since      uint64
	key, curve string
	tls        string // hash of the SPKI; empty for those that are made with the mesh
	host       string
	reason     string
}

func (r registration) instance() agentid.Instance { return agentid.InstanceOf(r.key) }

// check refuses keys that are not in their one spelling: nkeys itself takes
// several, and each would be bound by itself.
func (r registration) check() error {
	_, err := jws.PublicKey(r.key)
	if err != nil || !nkeys.IsValidPublicUserKey(r.key) || !nkeys.IsValidPublicCurveKey(r.curve) || strings.ContainsAny(r.curve, "\r\n") {
		return denial.New(denial.BadInput, "enrolment needs a public user key and a public curve key")
	}
	return nil
}

// registrable refuses, without writing anything, what register would refuse.
func (s *Store) registrable(ctx context.Context, r registration) error {
	e, err := s.leaderRead(ctx, JoinsBucket, bindingKey(r.key))
	if err == nil {
		err = r.owns(e.value)
	}
	if err != nil && !errors.Is(err, errNoEntry) {
		return err
	}
	if r.tls != "" {
		if _, err := s.tlsOwner(ctx, r.tls, InstanceKey(r.agent, r.instance())); err != nil {
			return err
		}
	}
	old, err := s.Instance(ctx, r.agent, r.instance())
	switch {
	case err == nil:
		return s.accept(old, r)
	case !errors.Is(err, denial.UnlistedKey):
		return err
	}
	return s.checkInstances(ctx, r.agent)
}

// checkInstances refuses one instance more than the limit; revoked ones do not
// count.
func (s *Store) checkInstances(ctx context.Context, id agentid.ID) error {
	keys, err := s.keys(ctx, AgentsBucket, id.String()+".*")
	if err != nil {
		return err
	}
	// Which of those that come and go are known to be gone, nobody reads again.
	keys = slices.DeleteFunc(keys, func(key string) bool { return s.isReaped(key) || s.isGone(key) })
	if len(keys) < limits.Instances {
		return nil // what was revoked need not be told apart
	}
	list, err := s.Instances(ctx, id)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(i *Instance) bool {
		if i.State == InstanceRevoked {
			s.noteGone(InstanceKey(id, i.Instance))
		}
		return i.State == InstanceRevoked
	})
	if len(list) >= limits.Instances {
		return denial.New(denial.QuotaExceeded, "agent %q has %d instances; revoke those that are gone", id, len(list))
	}
	return nil
}

// owns refuses a key that is bound to another instance. One nkey names one
// instance in the whole mesh: the same key under two agents would make two
// identities of one secret.
func (r registration) owns(binding []byte) error {
	if string(binding) != InstanceKey(r.agent, r.instance()) {
		return denial.New(denial.AlreadyExists, "this key belongs to another agent; make new keys")
	}
	return nil
}

// accept refuses a registration for which there is a record that is not its own.
func (s *Store) accept(old *Instance, r registration) error {
	p, err := old.Identity(s.Ring(), s.cfg.Clock())
	if err != nil {
		return err
	}
	switch {
	case p.Key != r.key:
		return denial.New(denial.AlreadyExists, "another key of %q has the instance ID %s; make new keys", r.agent, old.Instance)
	case old.Since != r.since, old.State.Standing() != nil && old.State != InstanceExpired:
		return denial.New(denial.Revoked, "instance %s/%s is revoked; make new keys", r.agent, old.Instance)
	case p.Curve != r.curve:
		return denial.New(denial.AlreadyExists, "instance %s/%s has another curve key; make new keys", r.agent, old.Instance)
	}
	return nil
}

// register writes the instance of a key, once; where it is there already it
// returns it.
func (s *Store) register(ctx context.Context, r registration) (*Instance, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := s.registrable(ctx, r); err != nil {
		return nil, err
	}
	inst := r.instance()
	owner := []byte(InstanceKey(r.agent, inst))
	if bound, err := s.create(ctx, JoinsBucket, bindingKey(r.key), owner, 0); err != nil {
		return nil, err
	} else if bound != nil {
		if err := r.owns(bound); err != nil {
			return nil, err
		}
	}
	passport, err := capability.IssuePassport(s.signing().Records, r.agent, r.key, r.curve, s.cfg.Clock())
	if err != nil {
		return nil, err
	}
	var out *Instance
	err = s.retry(ctx, InstanceKey(r.agent, inst), func() error {
		old, seq, err := s.readInstance(ctx, r.agent, inst)
		if err == nil {
			out = old
			return s.accept(old, r)
		}
		if !errors.Is(err, denial.UnlistedKey) {
			return err
		}
		out = &Instance{
			Agent: r.agent, Instance: inst, Passport: passport, Epoch: 1, Revision: 1, Since: r.since,
			State: Enrolled, Host: plain(r.host),
		}
		s.stamp(&out.Changed, r.agent.String(), r.reason)
		return s.writeInstance(ctx, out, seq)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// SetCertificate records the newest certificate of an instance.
func (s *Store) SetCertificate(ctx context.Context, id agentid.ID, inst agentid.Instance, c Certificate) error {
	_, err := s.changeInstance(ctx, id, inst, id.String(), "certificate issued", func(i *Instance) error {
		if err := i.State.Standing(); err != nil && i.State != InstanceExpired {
			return denial.New(denial.Of(err), "instance %s/%s is %s", id, inst, i.State)
		}
		i.Serial, i.NotAfter, i.CA, i.Trust = plain(c.Serial), c.NotAfter.Unix(), plain(c.CA), c.Trust
		return nil
	})
	return err
}
