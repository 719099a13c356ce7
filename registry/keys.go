package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Keys are what a store signs with, and what it believes. They may be replaced
// while the store is in use.
type Keys struct {
	Ring    *capability.Keyring
	List    []string   // what is published of the ring; its certificates where nil
	Records jws.Signer // signs records, passports and ticks
	Tokens  jws.Signer // signs root tokens
	Leaving []string   // public keys that are about to be taken away: nothing may rest on them
}

// signing are Keys with the names of the two; never changed.
type signing struct {
	Keys
	records, tokens string
}

func (k Keys) named() (*signing, error) {
	if k.Ring == nil || k.Records == nil || k.Tokens == nil {
		return nil, errors.New("registry: keyring, records key and tokens key are required")
	}
	if k.List == nil {
		k.List = k.Ring.Certificates()
	}
	out := &signing{Keys: k}
	var err error
	if out.records, err = k.Records.PublicKey(); err != nil {
		return nil, fmt.Errorf("registry: records key: %w", err)
	}
	if out.tokens, err = k.Tokens.PublicKey(); err != nil {
		return nil, fmt.Errorf("registry: tokens key: %w", err)
	}
	return out, nil
}

// signing returns the keys in use. Whoever signs and verifies what he signed takes them
// once.
func (s *Store) signing() *signing { return s.current.Load() }

// Ring returns the keyring that the store's documents verify against.
func (s *Store) Ring() *capability.Keyring { return s.signing().Ring }

// RecordsKey and TokensKey name the keys that the store signs with.
func (s *Store) RecordsKey() string { return s.signing().records }

// TokensKey names the key that signs root tokens.
func (s *Store) TokensKey() string { return s.signing().tokens }

// SetKeys takes other keys into use: from now on the store signs with them and
// believes what their keyring says. It refuses signing keys that the keyring does not
// certify at this time, and a keyring that is out of date against the one in use,
// whose keys may have been taken away for a reason.
func (s *Store) SetKeys(k Keys) error {
	next, err := k.named()
	if err != nil {
		return err
	}
	now := s.cfg.Clock()
	for _, c := range []struct {
		key     string
		purpose capability.Purpose
	}{{next.records, capability.ForRecords}, {next.tokens, capability.ForTokens}} {
		if k.Ring.Until(c.key, c.purpose, now).IsZero() {
			return denial.New(denial.UnknownSigner, "key %s is not certified for %q at this time", c.key, string(c.purpose))
		}
	}
	s.taking.Lock()
	defer s.taking.Unlock()
	if k.Ring.Older(s.Ring()) {
		return denial.New(denial.BadRecord, "these signing keys were certified before those that are published: another control plane has newer ones")
	}
	s.current.Store(next)
	return nil
}

// PublishKeys writes the list of the signing keys where clients read it, unless a
// newer one stands there, which the store takes over then.
func (s *Store) PublishKeys(ctx context.Context) error {
	return s.retry(ctx, RingKey, func() error {
		k := s.signing()
		e, err := s.leaderRead(ctx, AgentsBucket, RingKey)
		if err != nil && !errors.Is(err, errNoEntry) {
			return err
		}
		text := JoinRing(k.List)
		if len(text) > limits.Chain {
			return denial.New(denial.TooLarge, "signing-key certificates take %d bytes, more than %d", len(text), limits.Chain)
		}
		if err == nil {
			switch newer, err := s.adopt(string(e.value)); {
			case err != nil:
				return err
			case newer || string(e.value) == text:
				return nil
			}
		}
		return s.put(ctx, AgentsBucket, RingKey, []byte(text), e.seq, 0)
	})
}

// adopt takes a published list over that is newer than the store's own: another
// control plane was told first. One that does not verify under the store's roots is
// nobody's; it is written over.
func (s *Store) adopt(text string) (newer bool, err error) {
	s.taking.Lock()
	defer s.taking.Unlock()
	k := s.signing()
	list := SplitRing(text)
	ring, err := capability.Follow(k.Ring.Roots(), list)
	if err != nil || len(ring.Certificates()) == 0 || !k.Ring.Older(ring) {
		return false, nil
	}
	next := *k
	next.Ring, next.List = ring, list
	s.current.Store(&next)
	if ring.Until(k.records, capability.ForRecords, s.cfg.Clock()).IsZero() || ring.Until(k.tokens, capability.ForTokens, s.cfg.Clock()).IsZero() {
		s.cfg.Log.Error().Msg("the signing keys here were taken away: this control plane writes nothing until it has the new files of server/")
	}
	return true, nil
}

// Unsigned counts what a pass of [Store.SignAnew] found and did.
type Unsigned struct {
	Documents int // records of agents and instances, and the list of topics
	Left      int // of which are still signed by another key
	Signed    int // in this pass
}

// SignAnew signs with the present records key what another one signed: every record
// of an agent or instance, the passport in it, and the list of topics. Nothing else
// of them changes, least of all an epoch. ring is what the old signatures are
// believed by; nil: the store's own. After each document that it wrote it waits for
// pause. What fails is named in the error, and left; the others are done. Several
// control planes may do it at the same time.
func (s *Store) SignAnew(ctx context.Context, ring *capability.Keyring, pause func(context.Context) error) (Unsigned, error) {
	if ring == nil {
		ring = s.Ring()
	}
	var out Unsigned
	var due []string
	for _, filter := range []string{"*", "*.*"} {
		err := s.each(ctx, AgentsBucket, filter, func(key string, value []byte) error {
			if key == TickKey || key == RingKey {
				return nil
			}
			if key != TopicsKey {
				if _, _, _, ok := recordKey(key); !ok {
					return nil
				}
			}
			out.Documents++
			if s.signedBefore(key, string(value)) {
				due = append(due, key)
			}
			return nil
		})
		if err != nil {
			return out, err
		}
	}
	var errs []error
	for _, key := range due {
		wrote, err := s.signAnew(ctx, key, ring)
		switch {
		case err != nil:
			out.Left++
			if ctx.Err() != nil {
				return out, errors.Join(append(errs, err)...)
			}
			errs = append(errs, err)
		case wrote:
			out.Signed++
			if err := pause(ctx); err != nil {
				out.Left += len(due) - out.Signed
				return out, errors.Join(append(errs, err)...)
			}
		}
	}
	return out, errors.Join(errs...)
}

// signedBefore reports whether a document names another signer than the present
// one. It need not verify for that; what is written later is.
func (s *Store) signedBefore(key, text string) bool {
	mine := s.signing().records
	agent, inst, isInstance, ok := recordKey(key)
	switch {
	case key == TopicsKey:
		var t Topics
		_, err := jws.Decode(text, kindTopics, &t)
		return err == nil && t.Issuer != mine
	case !ok:
		return false
	case !isInstance:
		var a Agent
		_, err := jws.Decode(text, kindAgent, &a)
		return err == nil && a.Agent == agent && a.Issuer != mine
	}
	var i Instance
	_, err := jws.Decode(text, kindInstance, &i)
	return err == nil && i.Agent == agent && i.Instance == inst && (i.Issuer != mine || capability.PassportSigner(i.Passport) != mine)
}

// recordKey reads the key of a record; the mesh's own keys are none.
func recordKey(key string) (id agentid.ID, inst agentid.Instance, isInstance, ok bool) {
	if id, inst, ok = splitInstanceKey(key); ok {
		return id, inst, true, true
	}
	id, err := agentid.Parse(key)
	return id, inst, false, err == nil
}

func (s *Store) signAnew(ctx context.Context, key string, ring *capability.Keyring) (wrote bool, err error) {
	agent, inst, isInstance, _ := recordKey(key)
	err = s.retry(ctx, key, func() error {
		wrote = false
		k, now, least := s.signing(), s.cfg.Clock(), s.floor(key)
		e, err := s.leaderRead(ctx, AgentsBucket, key)
		if errors.Is(err, errNoEntry) {
			return nil
		}
		if err != nil || !s.signedBefore(key, string(e.value)) {
			return err
		}
		wrote = true
		switch {
		case key == TopicsKey:
			t, err := DecodeTopics(string(e.value), ring, now)
			if err != nil {
				return fmt.Errorf("registry: list of topics: %w", err)
			}
			if err := s.raise(key, Floor{Revision: t.Revision}, least); err != nil {
				return denial.New(denial.OlderRecord, "list of topics: %w", err)
			}
			t.Revision++
			return s.writeTopics(ctx, t, e.seq, k)
		case !isInstance:
			a, err := DecodeAgent(string(e.value), agent, ring, now)
			if err != nil {
				return fmt.Errorf("registry: record of %q: %w", agent, err)
			}
			if err := s.raise(key, floorOfAgent(a), least); err != nil {
				return denial.New(denial.OlderRecord, "record of agent %q: %w", agent, err)
			}
			a.Revision++
			return s.writeAgent(ctx, a, e.seq)
		}
		i, err := DecodeInstance(string(e.value), agent, inst, ring, now)
		if err != nil {
			return fmt.Errorf("registry: record of %s: %w", key, err)
		}
		if err := s.raise(key, floorOfInstance(i), least); err != nil {
			return denial.New(denial.OlderRecord, "record of %s: %w", key, err)
		}
		if capability.PassportSigner(i.Passport) != k.records {
			p, err := i.Identity(ring, now)
			if err != nil {
				return fmt.Errorf("registry: record of %s: %w", key, err)
			}
			if i.Passport, err = capability.IssuePassport(k.Records, agent, p.Key, p.Curve, now); err != nil {
				return fmt.Errorf("registry: record of %s: %w", key, err)
			}
		}
		i.Revision++
		return s.writeInstance(ctx, i, e.seq)
	})
	return wrote && err == nil, err
}

// signingUntil is when what is signed as a root token now ends at the latest: with
// its own life, or with the key that signs it.
func (s *Store) signingUntil(now time.Time) time.Time {
	k := s.signing()
	end := now.Add(s.cfg.TokenTTL)
	if until := k.Ring.Until(k.tokens, capability.ForTokens, now); until.Before(end) {
		return until
	}
	return end
}
