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
}

// Found brings the registry up: the control plane's own record, the signing-key
// certificates, and, only in a registry that never ticked, the founders. It may
// be called by every replica at every start.
func (s *Store) Found(ctx context.Context, controlKey, controlCurve string, founders []Founder) error {
	fresh := false
	if _, err := s.leaderRead(ctx, AgentsBucket, TickKey); errors.Is(err, errNoEntry) {
		fresh = true
	} else if err != nil {
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
	_, err := s.agents.Put(ctx, RingKey, []byte(JoinRing(s.cfg.Ring.Certificates())))
	if err != nil {
		return fmt.Errorf("registry: publishing signing keys: %w", err)
	}
	return nil
}

func (s *Store) found(ctx context.Context, f Founder) error {
	if _, err := s.Add(ctx, f.Agent, agentid.Control.String()); err != nil && !errors.Is(err, denial.AlreadyExists) {
		return err
	}
	i, err := s.register(ctx, f.Agent.Agent, f.Key, f.Curve, "", "founded")
	if err != nil {
		return err
	}
	if err := s.SetCertificate(ctx, f.Agent.Agent, i.Instance, f.Serial, f.NotAfter); err != nil {
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
	_, seq, err := s.readAgent(ctx, agentid.Control)
	if errors.Is(err, denial.UnlistedAgent) {
		a := &Agent{Agent: agentid.Control, Status: Active, Epoch: 1, Revision: 1, AgentKind: Service, Heartbeat: HeartbeatNone, Readmit: ReadmitAttestation}
		s.stamp(&a.Changed, agentid.Control.String(), "founded")
		err = s.writeAgent(ctx, a, seq)
		if errors.Is(err, denial.Conflict) {
			err = nil // another replica was first
		}
	}
	if err != nil {
		return err
	}
	_, err = s.register(ctx, agentid.Control, key, curve, "", "founded")
	if errors.Is(err, denial.Conflict) {
		return nil
	}
	return err
}

// Tick writes the next tick unless another replica wrote one less than min ago.
// The revision and incarnation only rise; replaySince is raised, never lowered.
func (s *Store) Tick(ctx context.Context, least time.Duration, replaySince time.Time, changed []EpochEntry) error {
	now := s.cfg.Clock()
	t := Tick{Incarnation: 1}
	e, err := s.leaderRead(ctx, AgentsBucket, TickKey)
	switch {
	case err == nil:
		old, err := DecodeTick(string(e.value), s.cfg.Ring, now)
		if err != nil {
			return fmt.Errorf("registry: tick: %w", err)
		}
		// A clock that stepped back must not stop the pulse for as long as the
		// step: only a tick from the near past counts as another replica's.
		if since := now.Sub(time.UnixMilli(old.Time)); since >= 0 && since < least {
			return nil
		}
		t.Incarnation, t.ReplaySince = old.Incarnation, old.ReplaySince
	case !errors.Is(err, errNoEntry):
		return err
	}
	t.Head = jws.Head{Kind: kindTick, IssuedAt: now.Unix()}
	t.Revision, t.Time, t.Changed = e.seq+1, now.UnixMilli(), changed
	if !replaySince.IsZero() {
		t.ReplaySince = max(t.ReplaySince, replaySince.UnixMilli())
	}
	text, err := jws.Sign(&t, s.cfg.Records)
	if err != nil {
		return err
	}
	if err := s.put(ctx, s.agents, TickKey, text, e.seq); err != nil && !errors.Is(err, denial.Conflict) {
		return err
	}
	return nil
}
