package controlplane

import (
	"context"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// instances lists whose keys of an agent count, for those who seal a payload to
// it. Agents cannot list the bucket, and each of these records any agent may read
// by its name.
func (p *Plane) instances(ctx context.Context, req wire.InstancesRequest) (any, error) {
	if req.Agent.IsZero() {
		return nil, denial.New(denial.BadInput, "no agent is named")
	}
	records, next, err := p.store.Standing(ctx, req.Agent, req.After)
	if err != nil {
		return nil, err
	}
	return wire.InstancesResponse{Records: records, Next: next}, nil
}
