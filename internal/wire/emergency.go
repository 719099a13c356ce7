package wire

// EmergencyResult is what a cut did that was made by the keys of the mesh alone.
type EmergencyResult struct {
	CutResult          // sealmesh.cut/v1
	Recorded  bool     `json:"recorded"`          // the registry says so; else the agent is let in again
	Remains   []string `json:"remains,omitempty"` // what is left to be done, in words
}
