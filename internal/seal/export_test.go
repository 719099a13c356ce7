package seal

import "crypto/hpke"

// Again parses a payload and puts its pieces together again.
func Again(payload []byte) ([]byte, error) {
	s, err := parse(payload)
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), s.header[:prologueLen]...)
	for i := range s.recipients() {
		out = append(out, s.stanza(i)...)
	}
	return append(append(out, s.commitment...), s.content...), nil
}

// Secret unwraps the secret of a payload.
func Secret(k *Key, b Binding, payload []byte) ([]byte, error) {
	s, err := parse(payload)
	if err != nil {
		return nil, err
	}
	wrapped, _ := s.find(k.public)
	return hpke.Open(k.private, kdf, aead, b.bytes(), wrapped)
}

// Strict reports whether something may be sealed to the 32 bytes.
func Strict(u [32]byte) bool { return strict(u) }

// Raw makes a recipient of any 32 bytes.
func Raw(u [32]byte) Recipient { return Recipient{u} }

// BindingBytes is the encoding of a binding.
func BindingBytes(b Binding) []byte { return b.bytes() }
