package registry

import (
	"context"
	"errors"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
)

// Certificate is what a record keeps of an instance's newest certificate.
type Certificate struct {
	Serial   string
	NotAfter time.Time
	CA       string // pki.RootHash of the root that it chains to
	Trust    uint64 // version of the trust document that the instance had when it asked
}

// Trust reads the mesh's trust document; nil where none was ever published. One that
// no pinned root signed is an error: whoever wrote it is not the authority.
func (s *Store) Trust(ctx context.Context, trustDomain string) (*capability.Trust, string, error) {
	t, text, _, err := s.readTrust(ctx, trustDomain)
	return t, text, err
}

func (s *Store) readTrust(ctx context.Context, trustDomain string) (*capability.Trust, string, uint64, error) {
	e, err := s.leaderRead(ctx, AgentsBucket, TrustKey)
	if errors.Is(err, errNoEntry) {
		return nil, "", e.seq, nil
	}
	if err != nil {
		return nil, "", 0, err
	}
	t, err := capability.VerifyTrust(string(e.value), s.Ring().Roots(), trustDomain)
	if err != nil {
		return nil, "", e.seq, err
	}
	return t, string(e.value), e.seq, nil
}

// PublishTrust writes the document for all agents to read unless a newer one is there
// already, and reports whether it wrote. What is there and does not verify is replaced.
func (s *Store) PublishTrust(ctx context.Context, text, trustDomain string) (bool, error) {
	fresh, err := capability.VerifyTrust(text, s.Ring().Roots(), trustDomain)
	if err != nil {
		return false, err
	}
	wrote := false
	err = s.retry(ctx, TrustKey, func() error {
		wrote = false
		old, _, seq, err := s.readTrust(ctx, trustDomain)
		if err != nil && denial.Of(err) == "" {
			return err
		}
		if old != nil && old.Version >= fresh.Version {
			return nil
		}
		if err := s.put(ctx, AgentsBucket, TrustKey, []byte(text), seq, 0); err != nil {
			return err
		}
		wrote = true
		return nil
	})
	return wrote, err
}
