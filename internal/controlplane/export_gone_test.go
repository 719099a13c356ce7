package controlplane

import (
	"time"

	"github.com/sealmesh/sealmesh/registry"
)

// Bounds of what is remembered of instances that may be gone.
const (
	GoneMost   = goneMost
	GoneSpread = goneSpread
)

// Absences are instances that may be gone, with nobody who looks.
type Absences struct{ a *absences }

// NewAbsences returns none.
func NewAbsences(after time.Duration) Absences { return Absences{newAbsences(after)} }

// Ended notes the end of a connection.
func (a Absences) Ended(s *registry.Session, now time.Time) { a.a.ended(s, now) }

// Due counts those whose time has come.
func (a Absences) Due(now time.Time) (n int, next time.Duration) {
	list, next := a.a.due(now)
	return len(list), next
}

// Heard notes what a replica said.
func (a Absences) Heard(s *registry.Session, at time.Time) {
	a.a.heard(who{s.Agent, s.Instance}, at)
}

// Spoken reports whether one said it.
func (a Absences) Spoken(s *registry.Session, at time.Time) bool {
	return a.a.spoken(who{s.Agent, s.Instance}, at)
}

// Empty reports whether nothing is remembered.
func (a Absences) Empty() bool { return len(a.a.list)+len(a.a.said) == 0 }
