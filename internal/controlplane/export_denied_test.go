package controlplane

import (
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Denied counts with a time of the test's.
type Denied struct{ d denied }

func (d *Denied) NoteAt(r denial.Reason, n uint64, now time.Time) { d.d.noteAt(r, n, now) }

func (d *Denied) CountsAt(now time.Time) []wire.DenialCount { return d.d.countsAt(now) }
