package controlplane

import (
	"context"

	"github.com/sealmesh/sealmesh/agentid"
)

// LookForClones is what the control plane does from time to time.
func (p *Plane) LookForClones() { p.lookForClones() }

// HostOf is what counts as one host.
var HostOf = hostOf

// ParseSight reads what a server says of connection 7 at server N1.
func ParseSight(text string, id agentid.ID) (open bool, sent int64, err error) {
	s, err := parseSight([]byte(text), connection{"N1", 7}, id)
	return s.open, s.sent, err
}

// Alarms counts the alarms about clones of an agent that the plane knows of.
func (p *Plane) Alarms(ctx context.Context, id agentid.ID) int {
	list, err := p.store.Instances(ctx, id)
	if err != nil {
		return -1
	}
	return len(p.cloneAlarms(list))
}
