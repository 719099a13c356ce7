package agentdir

import (
	"fmt"

	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/pki"
)

// TakeTrust replaces the roots that servers are verified with by those of a trust
// document that was verified, if no process that shares the directory took its version
// or a later one before, and reports whether it did. The version joins the set.
//
// The roots go first: who is interrupted before the version is written takes the same
// document once more. The other way round it would never take it.
func (d *Dir) TakeTrust(s *floors.Set, version uint64, roots []byte) (bool, error) {
	unlock, held, err := lock(d.File(lockFile), lockFor)
	if err != nil {
		return false, fmt.Errorf("agentdir: %w", err)
	}
	defer unlock()
	if !held {
		// Another process may be about to write newer ones.
		return false, fmt.Errorf("agentdir: %s is locked by another process", d.File(StateFile))
	}
	old, err := d.Floors()
	if err != nil {
		return false, err
	}
	s.Merge(old)
	if version <= s.Trust() {
		return false, nil
	}
	if err := pki.WriteFile(d.File(CAFile), roots); err != nil {
		return false, err
	}
	old.RaiseTrust(version)
	text, err := old.Encode()
	if err != nil {
		return false, err
	}
	if err := pki.ReplaceSecret(d.File(StateFile), text); err != nil {
		return false, err
	}
	s.Merge(old)
	return true, nil
}
