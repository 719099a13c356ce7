package registry

import "errors"

// floor is the newest state of a record that this store has seen.
type floor struct{ epoch, revision uint64 }

// errOlder: the record was genuine once. Somebody wrote an old copy back, or the
// bucket lost writes: a status or a right in it may have been taken back since.
var errOlder = errors.New("older than one that was seen here; revoke the name or restore the bucket")

// errDeleted: a record has gone, which the registry never does.
var errDeleted = errors.New("was deleted, which the mesh never does; agent add --replace gives the name new keys")

// floor returns what a read that begins now must at least find.
func (s *Store) floor(key string) floor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.floors[key]
}

// raise refuses a record below the floor as it was when its read began: one
// taken later may belong to a write that overtook the answer. Any other lifts
// the floor.
func (s *Store) raise(key string, is, least floor) error {
	if is.epoch < least.epoch || is.revision < least.revision {
		s.cfg.Log.Error().Str("key", key).Uint64("epoch", is.epoch).Uint64("revision", is.revision).
			Uint64("least_epoch", least.epoch).Uint64("least_revision", least.revision).Msg("record is older than one seen before")
		return errOlder
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.floors[key]
	s.floors[key] = floor{max(f.epoch, is.epoch), max(f.revision, is.revision)}
	return nil
}
