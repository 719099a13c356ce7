package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

// RotateMost is the longest time over which a rotation may be spread.
const RotateMost = 24 * time.Hour

// RotateNote asks one instance for a new certificate and a new connection, after a
// time that is its own.
type RotateNote struct {
	Instance agentid.Instance `json:"instance"`
	DelayMS  int64            `json:"delay_ms"`
}

// Rotation is the answer of rotate: who was told, and who is not there to be told.
// Of many agents it is one page.
type Rotation struct {
	Schema string         `json:"schema"` // sealmesh.rotation/v1
	OverMS int64          `json:"over_ms"`
	Told   []RotationView `json:"told"`
	Away   []AwayView     `json:"away"`
	Next   agentid.ID     `json:"next,omitzero"` // the last of these, where more come behind it
}

// RotationView is one instance that was told to rotate.
type RotationView struct {
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Serial   string           `json:"serial"` // of its certificate by then
	DelayMS  int64            `json:"delay_ms"`
	Stock    bool             `json:"stock,omitempty"` // it may be a stock client, which hears no notes
}

// AwayView is one instance that has no connection.
type AwayView struct {
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	State    registry.State   `json:"state"`
}

// RotationSchema is that of Rotation.
const RotationSchema = "sealmesh.rotation/v1"
