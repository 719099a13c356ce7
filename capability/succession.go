package capability

import (
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

const kindSuccessor = "successor"

// successor is an authority root's own word that another root takes its place.
type successor struct {
	jws.Head
	Root string `json:"root"` // public account nkey
}

func (s *successor) form() error {
	if !isAccountKey(s.Root) || !isAccountKey(s.Issuer) {
		return denial.New(denial.BadToken, "a root and its successor must be public account nkeys")
	}
	if s.Root == s.Issuer {
		return denial.New(denial.BadToken, "a root does not succeed itself")
	}
	return nil
}

// SignSuccessor states, signed by a root, that next (public, "A…") takes its place.
// Whoever pins the old root and reads this pins next instead, so it is for a change
// that was planned and never for a root that leaked: who has that one could sign the
// same for a root of his own.
func SignSuccessor(old Signer, next string, now time.Time) (string, error) {
	issuer, err := issuerOf(old)
	if err != nil {
		return "", err
	}
	s := successor{Head: jws.Head{Kind: kindSuccessor, Issuer: issuer, IssuedAt: now.Unix()}, Root: next}
	if err := s.form(); err != nil {
		return "", err
	}
	return jws.Sign(&s, old)
}

// Follow builds a keyring from the list that a mesh publishes: certificates of
// signing keys, and for each root that was replaced the word of it. Beginning at the
// pinned roots it goes on from a root to its successor, which is pinned from then on
// in its place ([Keyring.Roots]). Certificates of roots that are not pinned then are
// left out; they are for those who have not heard of the successor yet. Anything
// malformed makes it fail as a whole.
func Follow(pinned, list []string) (*Keyring, error) {
	pinned = slices.Clone(pinned)
	var words []*successor
	var verify []*jws.Unverified
	var certificates []string
	var issuers []string
	for i, text := range list {
		s := new(successor)
		u, err := jws.Decode(text, kindSuccessor, s)
		if denial.Of(err) != denial.WrongKind {
			if err == nil {
				err = s.form()
			}
			if err != nil {
				return nil, within(err, "document %d of the list of signing keys", i+1)
			}
			words, verify = append(words, s), append(verify, u)
			continue
		}
		var c certificate
		if _, err := jws.Decode(text, kindSigningKey, &c); err != nil {
			return nil, within(err, "document %d of the list of signing keys", i+1)
		}
		if err := c.form(); err != nil {
			return nil, within(err, "document %d of the list of signing keys", i+1)
		}
		certificates, issuers = append(certificates, text), append(issuers, c.Issuer)
	}
	// Each word is followed once at most, so that two roots that name each other
	// lead nowhere for ever.
	used := make([]bool, len(words))
	for moved := true; moved; {
		moved = false
		for i, s := range words {
			at := slices.Index(pinned, s.Issuer)
			if used[i] || at < 0 {
				continue
			}
			if err := verify[i].Verify(); err != nil {
				return nil, within(err, "word of root %s", clip(s.Issuer))
			}
			used[i], moved = true, true
			pinned[at] = s.Root
		}
	}
	kept := certificates[:0]
	for i, text := range certificates {
		if slices.Contains(pinned, issuers[i]) {
			kept = append(kept, text)
		}
	}
	return NewKeyring(pinned, kept)
}
