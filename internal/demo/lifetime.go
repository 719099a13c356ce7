package demo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/registry"
)

// lifetime is about agents that go: one says goodbye, one falls silent, at the
// same moment.
func lifetime() chapter {
	return chapter{steps: []step{
		{
			name:     "clean-exit-is-not-death",
			tried:    "archive closes; at the same moment sleeper connects and never sends a heartbeat",
			expected: "when sleeper is given up, archive has left: no alarm, and it stays active in its epoch",
			run:      cleanExit,
		},
		{
			name:     "dead-agent-cut-off",
			tried:    "nothing more is heard of sleeper, whose connection stays open",
			expected: "after three missed beats it is expired, its epoch rises, and the server closes its connection",
			reason:   heartbeat.ReasonTimeout,
			run:      deadAgent,
		},
		{
			name:     "beat-does-not-revive",
			tried:    "beats that sleeper signed, of its old epoch and of the new one, are put on the bus past the broker",
			expected: "the control plane refuses them, and sleeper stays expired",
			reason:   string(denial.Expired),
			run:      beatDoesNotRevive,
		},
		{
			name:     "readmitted-by-attestation",
			tried:    "sleeper connects again, with key, certificate and tokens, and calls read:logs",
			expected: "it is admitted under a new epoch and answered; what it signs under the old epoch is refused",
			reason:   string(denial.StaleEpoch),
			run:      readmitted,
		},
	}}
}

func cleanExit(ctx context.Context, s *stage) (outcome, error) {
	was, err := s.show(ctx, "archive")
	if err != nil {
		return outcome{}, err
	}
	from := s.journal.mark()
	if s.sleeper, err = s.infiltrate(ctx, s.sleeperDir); err != nil {
		return outcome{}, err
	}
	s.frozen = time.Now()
	if err := s.sleeper.works(ctx, "read:logs", s.sleeper.Record.Tokens[0]); err != nil {
		return outcome{}, err
	}
	if err := s.archive.Close(); err != nil {
		return outcome{}, err
	}
	if _, err := s.journal.await(ctx, from, "that sleeper expired", fields(
		"audit", string(audit.Change), "scope", "expire", "peer", "sleeper", "detail", heartbeat.ReasonTimeout)); err != nil {
		return outcome{}, err
	}
	if l, dead, _ := s.journal.find(from, fields("audit", string(audit.Change), "scope", "expire", "peer", "archive")); dead {
		return outcome{}, fmt.Errorf("archive was taken for dead: %s", l.text("detail"))
	}
	if l, alarm, _ := s.journal.find(from, fields("message", "heartbeat alarm")); alarm {
		return outcome{}, fmt.Errorf("there was an alarm: %s", l.text("alarm"))
	}
	is, err := s.show(ctx, "archive")
	if err != nil {
		return outcome{}, err
	}
	if is.Status != registry.Active || is.Epoch != was.Epoch || len(is.Instances) != 1 || is.Instances[0].State != registry.Left {
		return outcome{}, fmt.Errorf("archive is %s in epoch %d, its instance %s", is.Status, is.Epoch, is.Instances[0].State)
	}
	return outcome{actual: fmt.Sprintf("archive is %s in epoch %d as before, its instance has left", is.Status, is.Epoch)}, nil
}

func deadAgent(ctx context.Context, s *stage) (outcome, error) {
	if s.sleeper == nil {
		return outcome{}, errors.New("sleeper never connected")
	}
	if err := s.sleeper.cut(ctx); err != nil {
		return outcome{}, err
	}
	v, err := s.show(ctx, "sleeper")
	if err != nil {
		return outcome{}, err
	}
	if v.Status != registry.Expired || v.Epoch <= s.sleeper.Record.Epoch {
		return outcome{}, fmt.Errorf("sleeper is %s in epoch %d", v.Status, v.Epoch)
	}
	return outcome{
		fmt.Sprintf("sleeper is %s in epoch %d and its connection closed, with three beats of %s missed", v.Status, v.Epoch, heartbeatInterval),
		v.Changed.Reason,
	}, nil
}

// backdoor connects where no agent can: as the control plane's own user, which
// may publish anything. It stands for a broker that cannot be trusted.
func (s *stage) backdoor() (*nats.Conn, error) {
	return devmesh.AsService(s.mesh.Dir, s.mesh.Server.URL(), nats.NoReconnect())
}

func beatDoesNotRevive(ctx context.Context, s *stage) (outcome, error) {
	if s.sleeper == nil {
		return outcome{}, errors.New("sleeper never connected")
	}
	v, err := s.show(ctx, "sleeper")
	if err != nil {
		return outcome{}, err
	}
	nc, err := s.backdoor()
	if err != nil {
		return outcome{}, err
	}
	defer nc.Close()
	old := s.sleeper.Speaker
	var reason string
	for _, epoch := range []envelope.Epoch{old.Epoch(), {Agent: v.Epoch, Instance: v.Instances[0].Epoch}} {
		woken := *s.sleeper
		woken.Speaker.Epoch = func() envelope.Epoch { return epoch }
		m, err := woken.signBeat(heartbeat.Beat{
			Agent: woken.ID, Instance: woken.Instance, Session: heartbeat.NewSession(), Epoch: epoch.String(),
			Sequence: 1, State: heartbeat.Up, Client: "intruder",
		})
		if err != nil {
			return outcome{}, err
		}
		from := s.journal.mark()
		if err := nc.PublishMsg(m); err != nil {
			return outcome{}, err
		}
		l, err := s.journal.await(ctx, from, "a refused beat", fields("audit", string(audit.Beat), "verdict", string(audit.Refused), "sender", "sleeper"))
		if err != nil {
			return outcome{}, err
		}
		if reason = l.text("reason"); reason != string(denial.Expired) {
			break
		}
	}
	if v, err = s.show(ctx, "sleeper"); err != nil {
		return outcome{}, err
	}
	if v.Status != registry.Expired {
		return outcome{}, fmt.Errorf("sleeper is %s", v.Status)
	}
	return outcome{"both refused; sleeper is still expired", reason}, nil
}

func readmitted(ctx context.Context, s *stage) (outcome, error) {
	if s.sleeper == nil {
		return outcome{}, errors.New("sleeper never connected")
	}
	awake, err := s.connect(ctx, s.sleeperDir)
	if err != nil {
		return outcome{}, err
	}
	if _, err := awake.Call(ctx, "read:logs", []byte("thursday")); err != nil {
		return outcome{}, err
	}
	was := s.sleeper.Speaker.Epoch
	if awake.Epoch() == was().String() {
		return outcome{}, fmt.Errorf("it came back in its old epoch %s", was())
	}
	p, err := s.infiltrate(ctx, s.sleeperDir)
	if err != nil {
		return outcome{}, err
	}
	defer p.leave()
	p.Speaker.Epoch = was
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return p.call("read:logs", p.Record.Tokens[0], nil) })
	if err != nil {
		return outcome{}, err
	}
	return outcome{fmt.Sprintf("admitted in epoch %s and answered; its call of epoch %s was refused", awake.Epoch(), was()), reason}, nil
}
