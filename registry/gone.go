package registry

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

const kindGone = "gone"

// GoneAfter is how long an instance may be without a connection before it is said to
// be gone: rotations, and connections that broke, come back within it.
const GoneAfter = 2 * time.Second

// Gone says that the last connection of an instance ended and that it did not come
// back within GoneAfter. It is a hint for those who wait for its answer. It changes no
// record, and nobody's standing rests on it.
type Gone struct {
	jws.Head
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Epoch    string           `json:"epoch"` // under which it was connected: "3.1"
	At       int64            `json:"at"`    // when that ended, Unix milliseconds
}

// SignGone returns the signed document about one instance.
func (s *Store) SignGone(agent agentid.ID, instance agentid.Instance, e envelope.Epoch, at time.Time) (string, error) {
	if agent.IsZero() || instance.IsZero() {
		return "", denial.New(denial.BadInput, "nobody is gone")
	}
	return jws.Sign(&Gone{
		Head:  jws.Head{Kind: kindGone, IssuedAt: s.cfg.Clock().Unix()},
		Agent: agent, Instance: instance, Epoch: e.String(), At: at.UnixMilli(),
	}, s.signing().Records)
}

// DecodeGone reads and verifies what is said of one instance, at a time at which it
// is neither older than limits.Ahead nor of further in the future.
func DecodeGone(text string, agent agentid.ID, want agentid.Instance, ring *capability.Keyring, now time.Time) (*Gone, envelope.Epoch, error) {
	var g Gone
	u, err := jws.Decode(text, kindGone, &g)
	if err != nil {
		return nil, envelope.Epoch{}, err
	}
	if err := ring.Check(u, capability.ForRecords, now); err != nil {
		return nil, envelope.Epoch{}, err
	}
	if agent.IsZero() || want.IsZero() || g.Agent != agent || g.Instance != want {
		return nil, envelope.Epoch{}, denial.New(denial.BadRecord, "word of %s/%s in place of %s/%s", g.Agent, g.Instance, agent, want)
	}
	e, err := envelope.ParseEpoch(g.Epoch)
	if err != nil {
		return nil, envelope.Epoch{}, err
	}
	if age := now.Sub(time.UnixMilli(g.At)); age > limits.Ahead || age < -limits.Ahead {
		return nil, envelope.Epoch{}, denial.New(denial.Stale, "word of %s/%s is %s old", agent, want, age.Truncate(time.Second))
	}
	return &g, e, nil
}
