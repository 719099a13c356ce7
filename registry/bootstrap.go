package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// Founder is an agent that exists before the registry does: the first admin,
// made where the roots are made.
type Founder struct {
	Agent    NewAgent  `json:"agent"`
	Key      string    `json:"key"`
	Curve    string    `json:"curve"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
	TLS      string    `json:"tls"`             // hash of the TLS key's SPKI, as BindTLSKey takes it
	CA       string    `json:"ca,omitempty"`    // pki.RootHash of its certificate's root
	Trust    uint64    `json:"trust,omitempty"` // version of the trust document that it was made with
}

// Found brings the registry up: the control plane's own record, the signing-key
// certificates, and, only in a registry that never ticked, the founders. It may
// be called by every replica at every start.
func (s *Store) Found(ctx context.Context, controlKey, controlCurve string, founders []Founder) error {
	// Only a bucket in which no tick was ever written is fresh: a tick that was
	// deleted leaves a marker, and must not bring the first admin back.
	e, err := s.leaderRead(ctx, AgentsBucket, TickKey)
	if err != nil && !errors.Is(err, errNoEntry) {
		return err
	}
	fresh := e.seq == 0
	if err := s.emptied(e.seq); err != nil {
		return err
	}
	if err := s.foundControl(ctx, controlKey, controlCurve); err != nil {
		return err
	}
	if fresh {
		for _, f := range founders {
			if err := s.found(ctx, f); err != nil {
				return fmt.Errorf("registry: founding %q: %w", f.Agent.Agent, err)
			}
		}
	}
	return s.PublishKeys(ctx)
}

func (s *Store) found(ctx context.Context, f Founder) error {
	if _, err := s.Add(ctx, f.Agent, agentid.Control.String()); err != nil && !errors.Is(err, denial.AlreadyExists) {
		return err
	}
	a, err := s.Agent(ctx, f.Agent.Agent)
	if err != nil {
		return err
	}
	if err := s.BindTLSKey(ctx, a.Agent, agentid.InstanceOf(f.Key), f.TLS); err != nil {
		return err
	}
	i, err := s.register(ctx, registration{agent: a.Agent, since: a.Since, key: f.Key, curve: f.Curve, reason: "founded"})
	if err != nil {
		return err
	}
	if err := s.SetCertificate(ctx, f.Agent.Agent, i.Instance, Certificate{Serial: f.Serial, NotAfter: f.NotAfter, CA: f.CA, Trust: f.Trust}); err != nil {
		return err
	}
	_, err = s.changeAgent(ctx, f.Agent.Agent, agentid.Control.String(), "founded", func(a *Agent) error {
		if a.Status != Pending {
			return errUnchanged
		}
		a.Status = Active
		return nil
	})
	return err
}

// foundControl keeps the record of the reserved agent as which the control plane
// signs, with its service key as instance.
func (s *Store) foundControl(ctx context.Context, key, curve string) error {
	var since uint64
	err := s.retry(ctx, agentid.Control.String(), func() error {
		old, seq, err := s.readAgent(ctx, agentid.Control)
		if err == nil {
			since = old.Since
			return nil
		}
		if !errors.Is(err, denial.UnlistedAgent) {
			return err
		}
		a := &Agent{
			Agent: agentid.Control, Status: Active, Epoch: 1, Revision: 1, Since: 1,
			AgentKind: Service, Heartbeat: HeartbeatNone, Readmit: ReadmitAttestation,
		}
		since = a.Since
		s.stamp(&a.Changed, agentid.Control.String(), "founded")
		return s.writeAgent(ctx, a, seq)
	})
	if err != nil {
		return err
	}
	// Nobody seals anything to the control plane, so the curve key of its passport
	// stays what it was: another one would take a new epoch, and all replicas that run
	// would be refused.
	old, err := s.Instance(ctx, agentid.Control, agentid.InstanceOf(key))
	if err == nil {
		p, err := old.Identity(s.Ring(), s.cfg.Clock())
		if err != nil {
			return err
		}
		curve = p.Curve
	} else if !errors.Is(err, denial.UnlistedKey) {
		return err
	}
	_, err = s.register(ctx, registration{agent: agentid.Control, since: since, key: key, curve: curve, reason: "founded"})
	return err
}

// Tick writes the next tick unless another replica wrote one less than least ago.
// The revision and incarnation only rise; replaySince is raised, never lowered,
// also where an older tick was written back, and a raise is never left to
// another replica. Of changed, whose newest entries come last, as many are listed
// as one document holds: a tick that fails is taken for silence.
func (s *Store) Tick(ctx context.Context, least time.Duration, replaySince time.Time, changed []EpochEntry) error {
	return s.retry(ctx, TickKey, func() error {
		err := s.writeTick(ctx, least, replaySince, changed)
		if errors.Is(err, errLost) && replaySince.IsZero() {
			return nil // another replica's tick is as good
		}
		return err
	})
}

func (s *Store) writeTick(ctx context.Context, least time.Duration, replaySince time.Time, changed []EpochEntry) error {
	now := s.cfg.Clock()
	t := Tick{Incarnation: 1}
	seen := s.floor(TickKey)
	e, err := s.leaderRead(ctx, AgentsBucket, TickKey)
	switch {
	case err == nil:
		old, err := DecodeTick(string(e.value), s.Ring(), now)
		if err != nil {
			return fmt.Errorf("registry: tick: %w", err)
		}
		// A clock that stepped back must not stop the pulse for as long as the
		// step: only a tick from the near past counts as another replica's.
		since := now.Sub(time.UnixMilli(old.Time))
		back := floorOfTick(old).behind(TickKey, seen)
		if !back && since >= 0 && since < least && replaySince.UnixMilli() <= old.ReplaySince {
			s.raiseTick(old)
			return s.raise(TickKey, floorOfTick(old), Floor{})
		}
		t.Incarnation, t.ReplaySince = old.Incarnation, old.ReplaySince
	case !errors.Is(err, errNoEntry):
		return err
	}
	if !replaySince.IsZero() {
		t.ReplaySince = max(t.ReplaySince, replaySince.UnixMilli())
	}
	s.raiseTick(&t)
	t.Revision, t.Time = e.seq+1, now.UnixMilli()
	// Where the stream was put back, its numbers begin again below those that were
	// ticked already, and nobody would take a tick before they are passed.
	if t.Incarnation = max(t.Incarnation, seen.Epoch); !seen.behind(TickKey, floorOfTick(&t)) {
		t.Incarnation++
	}
	text, err := s.signTick(t, changed, now)
	if err != nil {
		return fmt.Errorf("registry: tick: %w", err)
	}
	if err := s.put(ctx, AgentsBucket, TickKey, []byte(text), e.seq, 0); err != nil {
		return err
	}
	if seen.Epoch != 0 && t.Incarnation > seen.Epoch {
		s.cfg.Log.Error().Uint64("incarnation", t.Incarnation).Uint64("revision", t.Revision).Uint64("seen", seen.Revision).
			Msg("the registry went back to an older state: ticks begin anew")
	}
	return s.raise(TickKey, floorOfTick(&t), Floor{})
}

func floorOfTick(t *Tick) Floor { return Floor{Epoch: t.Incarnation, Revision: t.Revision} }

func (s *Store) signTick(t Tick, changed []EpochEntry, now time.Time) (string, error) {
	k := s.signing()
	for {
		t.Head = jws.Head{Kind: kindTick, IssuedAt: now.Unix()}
		t.Changed = changed
		text, err := jws.Sign(&t, k.Records)
		if errors.Is(err, denial.TooLarge) && len(changed) > 0 {
			changed = changed[(len(changed)+7)/8:]
			continue
		}
		if err == nil {
			_, err = DecodeTick(text, k.Ring, now)
		}
		return text, err
	}
}

// raiseTick lifts t to the highest replay time seen here, and that to t's.
func (s *Store) raiseTick(t *Tick) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.ReplaySince = max(t.ReplaySince, s.since)
	s.since = t.ReplaySince
}
