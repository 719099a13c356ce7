package wire

// OlderRecord is a record of the registry that is older than one that was seen
// before, or gone. Who it is about is refused until an operator has set it right.
type OlderRecord struct {
	Record        string `json:"record"` // AGENT, AGENT.INSTANCE or sealmesh.topics
	KnownEpoch    uint64 `json:"known_epoch"`
	KnownRevision uint64 `json:"known_revision"`
	KnownStatus   string `json:"known_status,omitempty"` // what it said when it was newest
	Epoch         uint64 `json:"epoch"`
	Revision      uint64 `json:"revision"`
	Status        string `json:"status,omitempty"` // what it says now
	Gone          bool   `json:"gone"`
}
