package controlplane

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

const (
	// deniedStep is how long one share of the window is, of which there are as many
	// as deniedSteps: what is counted is that much older at most.
	deniedStep  = 10 * time.Second
	deniedSteps = int(wire.DeniedWindow / deniedStep)
	// deniedMost bounds the reasons that are counted, of which there are fewer.
	deniedMost = 64
)

// denied counts what was refused lately, by reason. It goes by the steady clock: one
// that is set does not empty it. The zero value is ready.
type denied struct {
	mu     sync.Mutex
	first  time.Time
	shares [deniedSteps]share
}

type share struct {
	step  int64 // since the first refusal
	count map[denial.Reason]uint64
}

func (d *denied) note(reason denial.Reason, n uint64) { d.noteAt(reason, n, time.Now()) }

func (d *denied) noteAt(reason denial.Reason, n uint64, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.first.IsZero() {
		d.first = now
	}
	step := int64(now.Sub(d.first) / deniedStep)
	s := &d.shares[step%int64(deniedSteps)]
	if s.count == nil || s.step != step {
		*s = share{step, map[denial.Reason]uint64{}}
	}
	if _, known := s.count[reason]; known || len(s.count) < deniedMost {
		s.count[reason] += n
	}
}

func (d *denied) counts() []wire.DenialCount { return d.countsAt(time.Now()) }

func (d *denied) countsAt(now time.Time) []wire.DenialCount {
	d.mu.Lock()
	defer d.mu.Unlock()
	step := int64(now.Sub(d.first) / deniedStep)
	sum := map[denial.Reason]uint64{}
	for _, s := range d.shares {
		if step-s.step < int64(deniedSteps) {
			for r, n := range s.count {
				sum[r] += n
			}
		}
	}
	out := []wire.DenialCount{}
	for _, r := range slices.Sorted(maps.Keys(sum)) {
		out = append(out, wire.DenialCount{Reason: r, Count: sum[r]})
	}
	return out
}

// rates adds up what replicas refused.
func rates(planes []wire.ControlPlane) []wire.DenialRate {
	sum := map[denial.Reason]uint64{}
	for _, p := range planes {
		for _, c := range p.Denied {
			sum[c.Reason] += c.Count
		}
	}
	out := []wire.DenialRate{}
	for r, n := range sum {
		out = append(out, wire.DenialRate{DenialCount: wire.DenialCount{Reason: r, Count: n}, PerMinute: float64(n) / wire.DeniedWindow.Minutes()})
	}
	slices.SortFunc(out, func(a, b wire.DenialRate) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
