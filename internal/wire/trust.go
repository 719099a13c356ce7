package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// PathTrust gives the trust document to whoever asks. It proves itself, so it may be
// read over a connection that does not.
const PathTrust = "/v1/trust"

// TrustResponse is what PathTrust gives.
type TrustResponse struct {
	Trust string `json:"trust"`
}

// The operations on the CAs.
const (
	OpCA     Op = "ca"      // → CAStatus
	OpCADrop Op = "ca-drop" // Reason: ends the rotation that is under way, whoever is behind → CAStatus
)

// CAStatus is how the two CAs are, as one replica of the control plane has them.
type CAStatus struct {
	Schema   string      `json:"schema"`   // sealmesh.ca/v1
	Trust    uint64      `json:"trust"`    // version of the trust document; zero: the mesh has none
	CAs      []CAView    `json:"cas"`      // agent, infra
	Rotation *CARotation `json:"rotation"` // null: none is under way
}

// CASchema is that of CAStatus.
const CASchema = "sealmesh.ca/v1"

// CAView is one CA.
type CAView struct {
	Role         string    `json:"role"`
	Roots        []CARoot  `json:"roots"`                 // that count; the first is the one of new certificates
	Intermediate time.Time `json:"intermediate,omitzero"` // when it ends; zero: it is not kept here
}

// CARoot is one root.
type CARoot struct {
	Hash     string    `json:"hash"` // as join tokens and enroll --ca pin it
	NotAfter time.Time `json:"not_after"`
}

// CARotation is the change of a root that is under way.
type CARotation struct {
	Role    string     `json:"role"`
	Old     string     `json:"old"`
	New     string     `json:"new"`
	Started time.Time  `json:"started"`
	Waits   []string   `json:"waits"`  // for what, in words; none: the old root is about to go
	Behind  []CABehind `json:"behind"` // some of the instances that it waits for
	Left    int        `json:"left"`   // how many there are
}

// CABehind is an instance that still needs the old root.
type CABehind struct {
	Agent    agentid.ID       `json:"agent"`
	Instance agentid.Instance `json:"instance"`
	Trust    uint64           `json:"trust"`     // version of its trust document
	OldRoot  bool             `json:"old_root"`  // its certificate is of the old root
	NotAfter time.Time        `json:"not_after"` // when that ends, and nobody waits for it any longer
}
