package controlplane_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Refusals are counted by reason for as long as the window is, and no longer.
func TestDeniedWindow(t *testing.T) {
	t.Parallel()
	var d controlplane.Denied
	start := time.Now()
	d.NoteAt(denial.Suspended, 2, start)
	d.NoteAt(denial.Revoked, 1, start.Add(time.Minute))
	d.NoteAt(denial.Suspended, 1, start.Add(4*time.Minute))
	for _, tt := range []struct {
		after time.Duration
		want  map[denial.Reason]uint64
	}{
		{4 * time.Minute, map[denial.Reason]uint64{denial.Suspended: 3, denial.Revoked: 1}},
		{wire.DeniedWindow + time.Second, map[denial.Reason]uint64{denial.Suspended: 1, denial.Revoked: 1}},
		{wire.DeniedWindow + time.Minute + time.Second, map[denial.Reason]uint64{denial.Suspended: 1}},
		{3 * wire.DeniedWindow, map[denial.Reason]uint64{}},
	} {
		got := d.CountsAt(start.Add(tt.after))
		if len(got) != len(tt.want) {
			t.Errorf("after %s: got %v, want %v", tt.after, got, tt.want)
		}
		for _, c := range got {
			if c.Count != tt.want[c.Reason] {
				t.Errorf("after %s: got %v, want %v", tt.after, got, tt.want)
			}
		}
	}
	// A share of before is not added to when its place comes round.
	d.NoteAt(denial.Expired, 1, start.Add(wire.DeniedWindow))
	if got := d.CountsAt(start.Add(wire.DeniedWindow)); len(got) != 3 {
		t.Errorf("got %v, want three reasons once each", got)
	}
}
