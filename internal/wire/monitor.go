package wire

import "time"

// The operations on the heartbeat monitor, in AdminRequest.Monitor.
const (
	MonitorStatusOf = "status"  // how every replica fares
	MonitorRelease  = "release" // takes the brake off: they live, and get a full time-out
	MonitorConfirm  = "confirm" // takes the brake off: they are dead, and may expire
)

// MonitorStatus is the answer of the operations on the monitor. Of one that takes
// the brake off it is how the replicas fare after that.
type MonitorStatus struct {
	Schema     string           `json:"schema"` // sealmesh.monitor/v1
	Time       time.Time        `json:"time"`
	State      string           `json:"state"`    // the worst of any replica: held, blind, grace, judging
	Did        string           `json:"did"`      // release, confirm; empty where only asked
	Replicas   []MonitorReplica `json:"replicas"` // that answered
	Missing    []string         `json:"missing"`  // that were heard within the time-out and did not answer
	IntervalMS int64            `json:"interval_ms"`
	TimeoutMS  int64            `json:"timeout_ms"`
}

// MonitorReplica is how the monitor of one replica of the control plane fares.
type MonitorReplica struct {
	Replica     string     `json:"replica"` // its name until it is started anew
	Host        string     `json:"host"`
	State       string     `json:"state"`
	Watched     int        `json:"watched"`       // instances judged by their silence
	SilentCount int        `json:"silent_count"`  // of those, who has missed beats
	Silent      []string   `json:"silent"`        // some of them, AGENT/INSTANCE
	WouldExpire int        `json:"would_expire"`  // within one time-out, as the brake counts
	CanaryMS    int64      `json:"canary_age_ms"` // since its newest beat that came back was sent; -1: none has
	GraceMS     int64      `json:"grace_ms"`      // until anybody can be expired
	HeldSince   *time.Time `json:"held_since,omitempty"`
	Hold        string     `json:"hold,omitempty"` // names one time that the brake came on
	Blinds      int        `json:"blind_spells"`   // since the start
	Gaps        int        `json:"gaps"`           // since the start
	Flooding    []string   `json:"flooding"`       // who sends so many beats that most are dropped unread
}

// MonitorSchema is that of MonitorStatus.
const MonitorSchema = "sealmesh.monitor/v1"

// Worst is the state that an operator should know of first.
func (s MonitorStatus) Worst() string {
	rank := map[string]int{"judging": 1, "grace": 2, "blind": 3, "held": 4}
	worst := ""
	for _, r := range s.Replicas {
		if rank[r.State] > rank[worst] {
			worst = r.State
		}
	}
	return worst
}
