package registry

import (
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

// String returns the token's one-line text. It is a secret: never log it.
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
	Uses    int        `json:"uses"` // how many hosts may use it
	Keys    []string   `json:"keys"` // the nkeys that did
	Expires int64      `json:"expires"`
	By      string     `json:"by"`
}

// NewJoin makes a join token for an agent and returns its secret and its end.
// The secret exists nowhere else.
func (s *Store) NewJoin(ctx context.Context, id agentid.ID, ttl time.Duration, uses int, by string) (secret string, expires time.Time, err error) {
	if ttl == 0 {
		ttl = DefaultJoinTTL
	}
	if uses == 0 {
		uses = DefaultJoinUses
	}
	if ttl < time.Second || ttl > MaxJoinTTL || uses < 1 || uses > MaxJoinUses {
		return "", time.Time{}, denial.New(denial.BadInput, "a join token lives 1s to %s and works 1 to %d times", MaxJoinTTL, MaxJoinUses)
	}
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
	b, err := json.Marshal(joinRecord{Agent: id, Uses: uses, Expires: expires.Unix(), By: by})
	if err != nil {
		return "", time.Time{}, err
	}
	return secret, expires, s.createOnce(ctx, s.joins, "join."+JoinHash(secret), b, ttlUntil(expires, s.cfg.Clock()))
}

// Enrolment is a new instance's request, its signatures already checked by the
// caller: the nkey signed the join hash and the certificate request.
type Enrolment struct {
	Hash  string // JoinHash of the secret
	Agent agentid.ID
	Key   string // public nkey, U…
	Curve string // public curve key, X…
	Host  string
}

// Enrol uses a join token once and registers the instance. The same key may
// come again, which finishes an interrupted run and costs no further use;
// another key needs a use of its own. The agent becomes active with its first
// instance.
func (s *Store) Enrol(ctx context.Context, e Enrolment) (*Agent, *Instance, error) {
	if !nkeys.IsValidPublicUserKey(e.Key) || !nkeys.IsValidPublicCurveKey(e.Curve) {
		return nil, nil, denial.New(denial.BadInput, "enrolment needs a public user key and a public curve key")
	}
	if err := s.useJoin(ctx, e); err != nil {
		return nil, nil, err
	}
	// Last seconds count: the agent may have been revoked since the token was made.
	a, err := s.Agent(ctx, e.Agent)
	if err != nil {
		return nil, nil, err
	}
	if a.Status == Revoked {
		return nil, nil, denial.New(denial.Revoked, "agent %q is revoked", e.Agent)
	}
	i, err := s.register(ctx, e.Agent, e.Key, e.Curve, e.Host, "enrolled")
	if err != nil {
		return nil, nil, err
	}
	a, err = s.changeAgent(ctx, e.Agent, e.Agent.String(), "enrolled", func(a *Agent) error {
		if a.Status != Pending {
			return errUnchanged
		}
		a.Status = Active
		return nil
	})
	return a, i, err
}

func (s *Store) useJoin(ctx context.Context, e Enrolment) error {
	refused := denial.New(denial.BadJoinToken, "join token is unknown, expired or used up")
	if len(e.Hash) != 43 {
		return refused
	}
	if _, err := b64.DecodeString(e.Hash); err != nil {
		return refused
	}
	key := "join." + e.Hash
	for range casTries {
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
		left := time.Unix(j.Expires, 0).Sub(s.cfg.Clock())
		if j.Agent != e.Agent || left <= 0 {
			return refused
		}
		if slices.Contains(j.Keys, e.Key) {
			return nil
		}
		if len(j.Keys) >= j.Uses {
			return refused
		}
		j.Keys = append(j.Keys, e.Key)
		b, err := json.Marshal(j)
		if err != nil {
			return err
		}
		if err := s.put(ctx, s.joins, key, string(b), got.seq); errors.Is(err, denial.Conflict) {
			continue
		} else {
			return err
		}
	}
	return denial.New(denial.Conflict, "join token is used by too many hosts at once")
}

// register writes the instance of a key, once. One nkey names one instance in
// the whole mesh: the same key under two agents would make two identities of
// one secret.
func (s *Store) register(ctx context.Context, id agentid.ID, key, curve, host, reason string) (*Instance, error) {
	inst := agentid.InstanceOf(key)
	owner := InstanceKey(id, inst)
	if _, err := s.joins.Create(ctx, "nkey."+key, []byte(owner)); isConflict(err) {
		e, err := s.leaderRead(ctx, JoinsBucket, "nkey."+key)
		if err != nil {
			return nil, err
		}
		if string(e.value) != owner {
			return nil, denial.New(denial.AlreadyExists, "this key belongs to another agent")
		}
	} else if err != nil {
		return nil, fmt.Errorf("registry: binding key: %w", err)
	}
	now := s.cfg.Clock()
	old, seq, err := s.readInstance(ctx, id, inst)
	switch {
	case err == nil:
		p, err := old.Identity(s.cfg.Ring, now)
		if err != nil {
			return nil, err
		}
		if p.Key != key {
			return nil, denial.New(denial.AlreadyExists, "another key of %q has the instance ID %s; make new keys", id, inst)
		}
		if err := old.State.Standing(); err != nil && old.State != InstanceExpired {
			return nil, denial.New(denial.Revoked, "instance %s/%s is revoked; make new keys", id, inst)
		}
		return old, nil
	case !errors.Is(err, denial.UnlistedKey):
		return nil, err
	}
	list, err := s.Instances(ctx, id)
	if err != nil {
		return nil, err
	}
	if len(list) >= limits.Instances {
		return nil, denial.New(denial.QuotaExceeded, "agent %q has %d instances", id, len(list))
	}
	passport, err := capability.IssuePassport(s.cfg.Records, id, key, curve, now)
	if err != nil {
		return nil, err
	}
	i := &Instance{Agent: id, Instance: inst, Passport: passport, Epoch: 1, Revision: 1, State: Enrolled, Host: host}
	s.stamp(&i.Changed, id.String(), reason)
	return i, s.writeInstance(ctx, i, seq)
}

// SetCertificate records the newest certificate of an instance.
func (s *Store) SetCertificate(ctx context.Context, id agentid.ID, inst agentid.Instance, serial string, notAfter time.Time) error {
	_, err := s.changeInstance(ctx, id, inst, id.String(), "certificate issued", func(i *Instance) error {
		if err := i.State.Standing(); err != nil && i.State != InstanceExpired {
			return denial.New(denial.Of(err), "instance %s/%s is %s", id, inst, i.State)
		}
		i.Serial, i.NotAfter = serial, notAfter.Unix()
		return nil
	})
	return err
}
