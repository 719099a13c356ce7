package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"fmt"
	"io"

	"github.com/nats-io/nkeys"
)

// Key is the private half of an instance's curve key, which opens what is sealed
// to it. However it is printed, only its public half shows. The zero Key opens
// nothing.
type Key struct {
	public  Recipient
	private hpke.PrivateKey
}

// NewKey reads the seed of a curve key ("SX…"), whose 32 bytes are the X25519
// private key. The seed stays the caller's to wipe.
func NewKey(seed []byte) (*Key, error) {
	prefix, raw, err := nkeys.DecodeSeed(seed)
	defer clear(raw)
	if err != nil || prefix != nkeys.PrefixByteCurve || len(raw) != keyLen {
		// Neither the seed nor the decoder's opinion of it belongs in an error.
		return nil, fmt.Errorf("seal: not the seed of a curve key")
	}
	private, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return nil, fmt.Errorf("seal: not the seed of a curve key")
	}
	opener, err := hpke.NewDHKEMPrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return &Key{Recipient{[keyLen]byte(private.PublicKey().Bytes())}, opener}, nil
}

// Recipient returns the public half.
func (k *Key) Recipient() Recipient { return k.public }

// Format implements fmt.Formatter for every verb, so that no %+v or %d of
// something that holds a key prints it.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, k.public.String()) } //nolint:errcheck // as fmt does
