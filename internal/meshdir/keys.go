package meshdir

import (
	"bytes"
	"fmt"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/pki"
)

// keyFile is one nkey of server/ and the kind that it must be of: a seed in the
// wrong file would sign what nobody takes, or worse, what somebody does.
type keyFile struct {
	name string
	kind nkeys.PrefixByte
}

var (
	tokensKey  = keyFile{"tokens.nk", nkeys.PrefixByteAccount}
	recordsKey = keyFile{"records.nk", nkeys.PrefixByteAccount}
	issuerKey  = keyFile{"issuer.nk", nkeys.PrefixByteAccount}
	xKey       = keyFile{"xkey.nk", nkeys.PrefixByteCurve}
	serviceKey = keyFile{"service.nk", nkeys.PrefixByteUser}
	systemKey  = keyFile{"system.nk", nkeys.PrefixByteUser}
)

// TokensKey reads the key that signs root tokens.
func (m *Mesh) TokensKey() (nkeys.KeyPair, error) { return m.key(tokensKey) }

// RecordsKey reads the key that signs registry records, passports and ticks.
func (m *Mesh) RecordsKey() (nkeys.KeyPair, error) { return m.key(recordsKey) }

// IssuerKey reads the key that signs user JWTs for nats-server.
func (m *Mesh) IssuerKey() (nkeys.KeyPair, error) { return m.key(issuerKey) }

// XKey reads the curve key that callout requests are sealed to.
func (m *Mesh) XKey() (nkeys.KeyPair, error) { return m.key(xKey) }

// ServiceKey reads the control plane's user key in the account CTRL.
func (m *Mesh) ServiceKey() (nkeys.KeyPair, error) { return m.key(serviceKey) }

// SystemKey reads the control plane's user key in the account SYS.
func (m *Mesh) SystemKey() (nkeys.KeyPair, error) { return m.key(systemKey) }

func (m *Mesh) key(k keyFile) (nkeys.KeyPair, error) {
	path := m.path(serverDir, k.name)
	seed, err := pki.ReadSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	parse := nkeys.FromSeed
	if k.kind == nkeys.PrefixByteCurve {
		parse = nkeys.FromCurveSeed
	}
	// The causes are left out: they must not quote a seed.
	kp, err := parse(bytes.TrimSpace(seed))
	if err != nil {
		return nil, &Error{Path: path, Problem: "holds no nkey seed of its kind"}
	}
	pub, err := kp.PublicKey()
	if err != nil || nkeys.Prefix(pub) != k.kind {
		return nil, &Error{Path: path, Problem: "holds no nkey seed of its kind"}
	}
	return kp, nil
}

func (m *Mesh) public(k keyFile) (string, error) {
	kp, err := m.key(k)
	if err != nil {
		return "", err
	}
	defer kp.Wipe()
	pub, err := kp.PublicKey()
	if err != nil {
		return "", fmt.Errorf("meshdir: %s: %w", k.name, err)
	}
	return pub, nil
}
