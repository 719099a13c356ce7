package wire

import "github.com/sealmesh/sealmesh/agentid"

// InstancesRequest asks for the instances of an agent to which a payload may be
// sealed: those behind After.
type InstancesRequest struct {
	Agent agentid.ID       `json:"agent"`
	After agentid.Instance `json:"after,omitzero"`
}

// InstancesResponse is one page of the answer: signed records, which are believed
// for their signatures alone, and where the list goes on.
type InstancesResponse struct {
	Records map[agentid.Instance]string `json:"records"`
	Next    agentid.Instance            `json:"next,omitzero"` // zero: this is the end
}
