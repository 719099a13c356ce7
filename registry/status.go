package registry

import "github.com/sealmesh/sealmesh/denial"

// Status is what an agent may do at all.
type Status string

// The states of an agent. pending → active ⇄ suspended (an operator), active ⇄
// expired (the monitor, back by attestation), anything → revoked (final).
const (
	Pending   Status = "pending"
	Active    Status = "active"
	Suspended Status = "suspended"
	Expired   Status = "expired"
	Revoked   Status = "revoked"
)

// State is what one instance is doing.
type State string

// The states of an instance. Enrolled has never connected; Left said goodbye,
// which is not death: nothing of it is cut.
const (
	Enrolled        State = "enrolled"
	Online          State = "online"
	Left            State = "left"
	InstanceExpired State = "expired"
	InstanceRevoked State = "revoked"
)

// Standing returns nil for the one status that carries authority and the
// refusal for each other one; an unknown or empty status is refused too.
func (s Status) Standing() error {
	switch s {
	case Active:
		return nil
	case Pending:
		return denial.Pending
	case Suspended:
		return denial.Suspended
	case Expired:
		return denial.Expired
	default:
		return denial.Revoked
	}
}

// Standing returns nil for the states in which the instance's key counts.
func (s State) Standing() error {
	switch s {
	case Enrolled, Online, Left:
		return nil
	case InstanceExpired:
		return denial.Expired
	default:
		return denial.Revoked
	}
}
