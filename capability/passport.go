package capability

import (
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

const kindPassport = "passport"

// Passport is the authority's statement that these keys are one instance of the
// agent. It does not expire by itself: it is worth something while its signing
// key is certified and the registry lists the instance.
type Passport struct {
	jws.Head
	Agent agentid.ID `json:"agent"`
	Key   string     `json:"nkey"`  // public user nkey, "U…"
	Curve string     `json:"curve"` // public curve key, "X…"
}

// Instance returns the instance that the passport's key makes.
func (p Passport) Instance() agentid.Instance { return agentid.InstanceOf(p.Key) }

func (p *Passport) form() error {
	if p.Agent.IsZero() {
		return denial.New(denial.BadToken, "a passport must name its agent")
	}
	if _, err := jws.PublicKey(p.Key); err != nil || nkeys.Prefix(p.Key) != nkeys.PrefixByteUser {
		return denial.New(denial.BadToken, "an instance's key must be a public user nkey")
	}
	raw, err := nkeys.Decode(nkeys.PrefixByteCurve, []byte(p.Curve))
	if err == nil {
		// The base32 decoder skips line breaks; only the spelling that encodes
		// again is one.
		var again []byte
		again, err = nkeys.Encode(nkeys.PrefixByteCurve, raw)
		if err == nil && string(again) == p.Curve {
			return nil
		}
	}
	return denial.New(denial.BadToken, "an instance's curve key must be a public curve nkey")
}

// IssuePassport signs a passport with a records key. nkey and curve are the
// instance's public keys.
func IssuePassport(key Signer, agent agentid.ID, nkey, curve string, now time.Time) (string, error) {
	p := Passport{
		Head:  jws.Head{Kind: kindPassport, IssuedAt: now.Unix()},
		Agent: agent,
		Key:   nkey,
		Curve: curve,
	}
	if err := p.form(); err != nil {
		return "", err
	}
	if _, err := issuerOf(key); err != nil {
		return "", err
	}
	return jws.Sign(&p, key)
}

// VerifyPassport reads a passport and checks that a records key of the ring
// signed it. Whether the instance still has its standing only the registry knows.
func VerifyPassport(text string, ring *Keyring, now time.Time) (Passport, error) {
	p, u, err := decodePassport(text)
	if err != nil {
		return Passport{}, err
	}
	if err := ring.Check(u, ForRecords, now); err != nil {
		return Passport{}, err
	}
	return *p, nil
}

// PassportSigner returns the public key that a passport says it was signed with, or
// nothing where it is none. It is not verified.
func PassportSigner(text string) string {
	p, u, err := decodePassport(text)
	if err != nil || p == nil {
		return ""
	}
	return u.UnsafeIssuer()
}

func decodePassport(text string) (*Passport, *jws.Unverified, error) {
	p := new(Passport)
	u, err := jws.Decode(text, kindPassport, p)
	if err != nil {
		return nil, nil, err
	}
	return p, u, p.form()
}
