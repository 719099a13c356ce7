package heartbeat

import (
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

type watchState uint8

const (
	live     watchState = iota
	settling            // an expiry was decided and the registry asked
	expired             // a tombstone: refuses beats and admissions of its epoch
	left
)

// watch is what the monitor knows about one instance or, with no instance,
// about an agent as a whole. Times are measured from the monitor's start.
type watch struct {
	agent    *agent
	instance agentid.Instance
	epoch    envelope.Epoch
	state    watchState
	extra    time.Duration // how much longer this replica waits for it

	heard     time.Duration // the last sign of life
	notBefore time.Duration // after a failed attempt to expire it
	goodbye   bool          // its last session said that it is leaving while settling
	confirmed bool          // an operator let it expire
	expiry    *expiry       // how this silence counts for the brake
	conflicts int           // how often the registry said that it was done already

	sessions sessions
	lastBeat time.Time // of any session, as is client
	client   string

	in    *queue
	index int
	due   time.Duration
}

// agent gathers the watches of one agent. Its policy is that of its record.
type agent struct {
	id        agentid.ID
	policy    Policy
	whole     *watch // queued only under Always, while no instance is live
	instances []*watch
}

func (a *agent) find(instance agentid.Instance) *watch {
	for _, w := range a.instances {
		if w.instance == instance {
			return w
		}
	}
	return nil
}

func (a *agent) anyLive() bool {
	return slices.ContainsFunc(a.instances, func(w *watch) bool { return w.state == live || w.state == settling })
}

// room makes place for one more instance, so that an agent that keeps making
// keys cannot grow the monitor: the oldest that is not watched is forgotten.
func (a *agent) room() error {
	if len(a.instances) < limits.Instances {
		return nil
	}
	i := slices.IndexFunc(a.instances, func(w *watch) bool { return w.state == left || w.state == expired })
	if i < 0 {
		return denial.New(denial.QuotaExceeded, "agent %q has more than %d live instances", a.id, limits.Instances)
	}
	a.instances[i].dequeue()
	a.instances = slices.Delete(a.instances, i, i+1)
	return nil
}

// revive starts w anew after an admission.
func (w *watch) revive(e envelope.Epoch) {
	w.dequeue()
	w.sessions.restart(e, e != w.epoch)
	w.epoch, w.state = e, live
	w.notBefore, w.goodbye, w.confirmed, w.expiry, w.conflicts = 0, false, false, nil, 0
}

// alive notes a sign of life; time does not go back.
func (w *watch) alive(at time.Duration) {
	w.heard = max(w.heard, at)
	w.confirmed = false
}

func (w *watch) name() string {
	if w.instance.IsZero() {
		return w.agent.id.String()
	}
	return w.agent.id.String() + "/" + w.instance.String()
}
