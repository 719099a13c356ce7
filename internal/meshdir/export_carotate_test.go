package meshdir

import (
	"os"
	"path/filepath"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// RotateCAUpTo begins a rotation and ends after some of its steps, as if the process
// had been killed.
func (m *Mesh) RotateCAUpTo(role pki.Role, steps int, now time.Time) (Rotation, error) {
	b := &stager{mesh: m, role: role, now: now}
	if err := b.load(); err != nil {
		return Rotation{}, err
	}
	if err := b.build(); err != nil {
		return Rotation{}, err
	}
	stage := m.path(stageDir)
	if err := os.Rename(b.dir, stage); err != nil {
		return Rotation{}, err
	}
	var s = b.steps
	for _, st := range s.Steps[:min(steps, len(s.Steps))] {
		if err := m.take(filepath.Clean(stage), st); err != nil {
			return Rotation{}, err
		}
	}
	return s.Done, nil
}
