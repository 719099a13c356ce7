package bench

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		of    []float64
		share float64
		want  float64
	}{
		{[]float64{7}, 0.5, 7}, {[]float64{7}, 0.99, 7},
		{[]float64{1, 2}, 0.5, 1}, {[]float64{1, 2, 3}, 0.5, 2},
		{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100},
	} {
		if got := quantile(c.of, c.share); got != c.want {
			t.Errorf("quantile(%d values, %v) = %v, want %v", len(c.of), c.share, got, c.want)
		}
	}
}

// What ended before it was asked for counts as no time, and an empty set is no row
// of zeroes that looks measured.
func TestSamples(t *testing.T) {
	var s samples
	if r := s.row("none"); r.Runs != 0 || r.Unit != "ms" {
		t.Errorf("empty: %+v", r)
	}
	for _, d := range []time.Duration{3 * time.Millisecond, -time.Second, 1500 * time.Microsecond} {
		s.add(d)
	}
	if r := s.row("some"); r.P50 != 1.5 || r.P99 != 3 || r.Max != 3 || r.Runs != 3 || r.Value != 1.5 {
		t.Errorf("row %+v", r)
	}
}
