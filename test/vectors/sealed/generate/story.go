package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/nats-io/nkeys"
)

// fixed is what a label stands for where an implementation has a key or a random
// number.
func fixed(label string) []byte {
	sum := sha256.Sum256([]byte("sealmesh vector key: " + label))
	return sum[:]
}

// curve is a curve key by its label.
type curve struct{ label string }

func (c curve) private() []byte { return fixed("curve " + c.label) }
func (c curve) public() []byte  { return publicOf(c.private()) }

func (c curve) seed() string {
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteCurve, c.private())
	if err != nil {
		panic(err)
	}
	return string(seed)
}

// signer is the public nkey of an instance by its label.
func signer(label string) string {
	public := ed25519.NewKeyFromSeed(fixed("user " + label)).Public().(ed25519.PublicKey)
	text, err := nkeys.Encode(nkeys.PrefixByteUser, public)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// stanza is what a payload has for one recipient.
type stanza struct {
	key     []byte
	enc     []byte
	wrapped []byte
}

func (s stanza) bytes() []byte { return concat(s.key, s.enc, s.wrapped) }

// story is how one payload is made and who tries to open it. What is left alone is
// as the specification wants it.
type story struct {
	name    string
	reader  curve   // who opens
	to      []curve // to whom it is sealed, in the order of the bytes unless asOrdered
	made    binding // for which it is sealed
	expects binding // with which it is opened
	plain   []byte

	version   byte
	asOrdered bool
	suite     suite
	info      func() []byte                                   // in place of the binding, of the wrapping
	stanzaOf  func(to curve, info, secret []byte) stanza      // in place of the wrapping
	derive    func(secret, info, header []byte) []byte        // in place of the derivation: key and commitment
	lock      func(key, plain []byte) (content []byte)        // in place of the encryption
	header    func(header []byte) []byte                      // what is sent for the header
	committed func(commitment []byte) []byte                  // what is sent for the commitment
	sent      func(whole []byte) []byte                       // what is sent for all of it
	secrets   func(to curve, secret []byte) (another []byte)  // what is wrapped for a recipient
	shown     func(secret, info, header, plain []byte) []byte // what the reader sees, where it is not plain
}

func newStory(name string) *story {
	b := binding{
		TrustDomain: "mesh.example", Direction: "request", Signer: signer("writer"), Recipient: "reader", Nonce: "AAECAwQFBgcICQoLDA0ODw",
	}
	return &story{
		name: name, reader: curve{"reader"}, to: []curve{{"reader"}, {"reader's second instance"}},
		made: b, expects: b, plain: []byte("tail 20"), suite: aes256, version: 1,
	}
}

// both changes the binding on both sides.
func (s *story) both(change func(*binding)) {
	change(&s.made)
	change(&s.expects)
}

// answer makes it the answer of the reader's instance to the writer's.
func (s *story) answer(piece int) {
	s.reader, s.to = curve{"writer"}, []curve{{"writer"}}
	s.plain = []byte("line 20")
	s.both(func(b *binding) {
		b.Direction, b.Signer, b.Recipient, b.Piece = "reply", signer("reader"), "writer", piece
	})
}

// bytes of a binding: section 3.
func (b binding) bytes() []byte {
	out := []byte("sealmesh-sealed-v1\n")
	for _, item := range []string{b.TrustDomain, b.Direction, b.Signer, b.Recipient, b.Nonce} {
		out = concat(out, number(len(item)), []byte(item))
	}
	if b.Direction == "reply" {
		out = concat(out, number(4), number(b.Piece))
	}
	return out
}

func number(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// derive is section 5: the content's key and the commitment.
func derive(secret, info, header []byte) []byte {
	sum := sha256.Sum256(header)
	return expand(extract(nil, secret), concat([]byte("sealmesh-sealed-content-v1\n"), number(len(info)), info, number(len(sum)), sum[:]), 64)
}

func lock(key, plain []byte) []byte { return gcm(key).Seal(nil, make([]byte, 12), plain, nil) }

func (s *story) random(label string) []byte { return fixed(s.name + ": " + label) }

func (s *story) secret() []byte { return s.random("secret") }

// wrap is section 4 for one recipient.
func (s *story) wrap(to curve, info, secret []byte) stanza {
	ephemeral := s.random("ephemeral for " + to.label)
	enc := publicOf(ephemeral)
	return stanza{to.public(), enc, s.suite.wrap(x25519(ephemeral, to.public()), enc, to.public(), info, secret)}
}

func (s *story) parts() (info, header, commitment, content []byte) {
	info = s.made.bytes()
	wrapInfo, wrap, deriveAs, lockAs := info, s.wrap, derive, lock
	if s.info != nil {
		wrapInfo = s.info()
	}
	if s.stanzaOf != nil {
		wrap = s.stanzaOf
	}
	if s.derive != nil {
		deriveAs = s.derive
	}
	if s.lock != nil {
		lockAs = s.lock
	}
	to := s.to
	if !s.asOrdered {
		to = ordered(to)
	}
	header = binary.BigEndian.AppendUint16([]byte{s.version}, uint16(len(to)))
	for _, c := range to {
		secret := s.secret()
		if s.secrets != nil {
			secret = s.secrets(c, secret)
		}
		header = append(header, wrap(c, wrapInfo, secret).bytes()...)
	}
	okm := deriveAs(s.secret(), info, header)
	return info, header, okm[32:], lockAs(okm[:32], s.plain)
}

// bytes is what is sent.
func (s *story) bytes() []byte {
	_, header, commitment, content := s.parts()
	if s.header != nil {
		header = s.header(header)
	}
	if s.committed != nil {
		commitment = s.committed(commitment)
	}
	out := concat(header, commitment, content)
	if s.sent != nil {
		out = s.sent(out)
	}
	return out
}

// opened is what the reader gets.
func (s *story) opened() []byte {
	if s.shown == nil {
		return s.plain
	}
	info, header, _, _ := s.parts()
	return s.shown(s.secret(), info, header, s.plain)
}

// ordered sorts recipients by the bytes of their keys.
func ordered(list []curve) []curve {
	public := map[curve][]byte{}
	for _, c := range list {
		public[c] = c.public()
	}
	return slices.SortedFunc(slices.Values(list), func(a, b curve) int { return bytes.Compare(public[a], public[b]) })
}

func many(n int) []curve {
	out := make([]curve, n)
	for i := range out {
		out[i] = curve{fmt.Sprintf("instance %d", i)}
	}
	return out
}
