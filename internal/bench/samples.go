package bench

import (
	"math"
	"slices"
	"sync"
	"time"
)

// samples are durations of one kind, in milliseconds. The zero value is ready.
type samples struct {
	mu   sync.Mutex
	list []float64
}

// add takes one; what ended before it was asked for took no time.
func (s *samples) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, max(0, float64(d.Microseconds())/1000))
}

// row summarises them.
func (s *samples) row(name string) Row {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.list)
	r := Row{Name: name, Unit: "ms", Runs: len(s.list)}
	if len(s.list) == 0 {
		return r
	}
	r.P50, r.P99, r.Max = quantile(s.list, 0.50), quantile(s.list, 0.99), s.list[len(s.list)-1]
	r.Value = r.P50
	return r
}

// quantile is the smallest of the sorted values that at least that share of them
// does not exceed: no value is made up between two others.
func quantile(sorted []float64, share float64) float64 {
	return sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)]
}
