package registry

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// tlsKeyFor is how long a TLS key belongs to the instance that had it certified
// last: longer than any certificate lives, and not for ever, since every renewal
// brings another key.
const tlsKeyFor = 90 * 24 * time.Hour

// tlsKey is under what a TLS key is bound to its one instance.
func tlsKey(spkiHash string) string { return "tls." + spkiHash }

// BindTLSKey has a TLS key, named by the SHA-256 of its SPKI in base64url, belong to
// one instance in the whole mesh. Two instances with one key could answer for each
// other in every handshake: whoever copies a directory and changes the nkey is
// refused with denial.AlreadyExists, of two at the same time one.
func (s *Store) BindTLSKey(ctx context.Context, id agentid.ID, inst agentid.Instance, spkiHash string) error {
	if id.IsZero() || inst.IsZero() || !jws.IsDigest(spkiHash) {
		return denial.New(denial.BadInput, "a TLS key is named by the hash of its SPKI and belongs to an instance")
	}
	key, owner := tlsKey(spkiHash), InstanceKey(id, inst)
	return s.retry(ctx, key, func() error {
		e, err := s.tlsOwner(ctx, spkiHash, owner)
		if err != nil {
			return err
		}
		// Its own binding is written again, which begins its time anew.
		return s.put(ctx, JoinsBucket, key, []byte(owner), e.seq, tlsKeyFor)
	})
}

// HoldsTLSKey reports whether a TLS key, named as for BindTLSKey, is bound to the
// instance. One that is bound to another instance is refused with
// denial.AlreadyExists; one that is bound to nobody is not held.
func (s *Store) HoldsTLSKey(ctx context.Context, id agentid.ID, inst agentid.Instance, spkiHash string) (bool, error) {
	e, err := s.tlsOwner(ctx, spkiHash, InstanceKey(id, inst))
	return err == nil && e.value != nil, err
}

// tlsOwner refuses a TLS key that is bound to another instance than owner.
func (s *Store) tlsOwner(ctx context.Context, spkiHash, owner string) (entry, error) {
	e, err := s.leaderRead(ctx, JoinsBucket, tlsKey(spkiHash))
	if errors.Is(err, errNoEntry) {
		return e, nil
	}
	if err != nil {
		return entry{}, err
	}
	if string(e.value) != owner {
		return entry{}, denial.New(denial.AlreadyExists, "this TLS key belongs to another instance; make new keys")
	}
	return e, nil
}
