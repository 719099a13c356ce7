package authcallout

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// jitter is the share of the session's planned life by which it may end earlier
// or later, so that what was connected at one moment does not return at one.
const jitter = 0.10

// cutLag is how late nats-server may cut an expired connection: it counts whole
// seconds from the moment of the connect.
const cutLag = time.Second

// expiry returns when a user JWT issued now must end, in whole seconds: ttl away,
// moved by the jitter (r in [0,1) picks where), but never so late that the
// connection could outlive hard. A stock session lasts until hard.
func expiry(now, hard time.Time, ttl time.Duration, stock bool, r float64) (time.Time, error) {
	end := hard.Add(-cutLag)
	if planned := now.Add(time.Duration(float64(ttl) * (1 - jitter + 2*jitter*r))); !stock && planned.Before(end) {
		end = planned
	}
	end = end.Truncate(time.Second)
	if !end.After(now) {
		return time.Time{}, denial.New(denial.TokenExpired, "certificate or chain ends at %s, too soon for a session", hard.UTC().Format(time.RFC3339))
	}
	return end, nil
}

// union checks that every chain is the agent's and inside its window and returns
// the scopes that they give together, with the moment at which that set shrinks:
// the earliest at which a scope loses its last chain.
func union(chains []*capability.Chain, agent agentid.ID, now time.Time) (scopes []capability.Scope, shrinks time.Time, err error) {
	until := make(map[capability.Scope]time.Time)
	for _, c := range chains {
		switch {
		case c == nil:
			return nil, time.Time{}, denial.New(denial.Internal, "the registry admitted a chain that is not there")
		case c.Holder() != agent:
			return nil, time.Time{}, denial.New(denial.NotHolder, "chain %s belongs to agent %q", c.Digest(), c.Holder())
		case now.Before(c.NotBefore()):
			return nil, time.Time{}, denial.New(denial.TokenNotYet, "chain %s is not valid before %s", c.Digest(), c.NotBefore().UTC().Format(time.RFC3339))
		case !now.Before(c.Expires()):
			return nil, time.Time{}, denial.New(denial.TokenExpired, "chain %s ended at %s", c.Digest(), c.Expires().UTC().Format(time.RFC3339))
		}
		for _, s := range c.Scopes() {
			end, known := until[s]
			if !known {
				scopes = append(scopes, s)
			}
			if !known || c.Expires().After(end) {
				until[s] = c.Expires()
			}
		}
	}
	for _, end := range until {
		if shrinks.IsZero() || end.Before(shrinks) {
			shrinks = end
		}
	}
	return scopes, shrinks, nil
}
