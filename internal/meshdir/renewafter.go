package meshdir

import (
	"cmp"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/registry"
)

// DefaultRenewAfter is how long after the end of its certificate a person or a job
// may renew it by its key.
const DefaultRenewAfter = 720 * time.Hour

// maxRenewAfter bounds it: what slept longer should be looked at.
const maxRenewAfter = 365 * 24 * time.Hour

// RenewAfterExpiry is how long after the end of its certificate an instance may renew
// it with its nkey alone, by the kind of its agent. People and jobs sleep; a service
// that was away for longer than its certificate lives is looked at by somebody first.
type RenewAfterExpiry struct {
	Person  time.Duration `yaml:"person"`
	Job     time.Duration `yaml:"job"`
	Service time.Duration `yaml:"service"`
}

// Of returns the time of a kind; a kind that is not known has none.
func (r RenewAfterExpiry) Of(kind registry.Kind) time.Duration {
	switch kind {
	case registry.Person:
		return r.Person
	case registry.Job:
		return r.Job
	case registry.Service:
		return r.Service
	}
	return 0
}

func (r RenewAfterExpiry) check() error {
	for _, f := range []struct {
		kind registry.Kind
		d    time.Duration
	}{{registry.Person, r.Person}, {registry.Job, r.Job}, {registry.Service, r.Service}} {
		if f.d < 0 || f.d > maxRenewAfter {
			return fmt.Errorf("certificate.renew_after_expiry.%s: must be at least 0s and at most %s", f.kind, short(maxRenewAfter))
		}
	}
	return nil
}

// or takes the fields that are zero from others.
func (r RenewAfterExpiry) or(others RenewAfterExpiry) RenewAfterExpiry {
	return RenewAfterExpiry{
		Person: cmp.Or(r.Person, others.Person), Job: cmp.Or(r.Job, others.Job), Service: cmp.Or(r.Service, others.Service),
	}
}
