package agentdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/sealmesh/sealmesh/internal/floors"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

// StateFile holds what the instance must not forget over a restart: below which
// epochs it does not go back.
const StateFile = "state.json"

// lockFile is locked while StateFile is read, merged and replaced.
const lockFile = ".state.lock"

// lockFor is how long a process waits for another that writes the same file. One
// that was stopped while it wrote must not stop the others for ever.
const lockFor = 2 * time.Second

// StateError says that StateFile is there and cannot be used. To go on without it
// would let a broker bring back what was revoked, so nobody does that silently.
type StateError struct {
	File string
	Err  error
}

func (e *StateError) Error() string { return fmt.Sprintf("agentdir: %s: %v", e.File, e.Err) }

func (e *StateError) Unwrap() error { return e.Err }

// Hint says what helps, and what it costs.
func (e *StateError) Hint() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return "make " + e.File + " readable for its owner alone: chmod 600"
	}
	return "put " + e.File + " back from a copy; if there is none, remove it: the agent then starts without a memory of what it saw revoked"
}

// Floors reads what the instance remembers; where nothing was ever written that is
// an empty set. A file that cannot be read, or is not what was written, is a
// *StateError.
func (d *Dir) Floors() (*floors.Set, error) {
	s, err := readFloors(d.File(StateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return floors.New(), nil
	}
	if err != nil {
		return nil, &StateError{d.File(StateFile), err}
	}
	return s, nil
}

// KeepFloors writes a set down, merged with what other processes that share the
// directory wrote meanwhile; the set takes that over. The file is replaced in one
// step, and not at all where it says as much already. It waits for the disk.
func (d *Dir) KeepFloors(s *floors.Set) error {
	unlock, _, err := lock(d.File(lockFile), lockFor)
	if err != nil {
		return fmt.Errorf("agentdir: %w", err)
	}
	defer unlock()
	old, err := d.Floors()
	if err != nil {
		return err
	}
	before, err := old.Encode()
	if err != nil {
		return err
	}
	s.Merge(old)
	after, err := s.Encode()
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	return pki.ReplaceSecret(d.File(StateFile), after)
}

func readFloors(path string) (*floors.Set, error) {
	// Opening a named pipe would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	// Who can write it can lower what is in it. Windows has access lists in place of
	// modes.
	if info.Mode().Perm()&^0o600 != 0 && runtime.GOOS != "windows" {
		return nil, &pki.ModeError{Path: path, Mode: info.Mode()}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	b, err := io.ReadAll(io.LimitReader(f, limits.FloorsText+1))
	if err != nil {
		return nil, err
	}
	return floors.Parse(b)
}
