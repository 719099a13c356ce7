package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

const (
	stanzaLen = 112
	headerLen = 3 + 2*stanzaLen // of a story that says nothing else
)

func (b *book) valid() {
	b.accept("valid/request", "L2", "writer asks reader, which has two instances", nil)
	b.accept("valid/request-second-instance", "L2", "the same payload, opened by the other instance", func(s *story) {
		s.name, s.reader = "valid/request", s.to[1]
	})
	b.accept("valid/one-instance", "L2", "the least number of recipients", func(s *story) { s.to = s.to[:1] })
	for _, i := range []int{0, 100, 255} {
		b.accept(fmt.Sprintf("valid/256-instances-%d", i), "L2", "the largest number of recipients", func(s *story) {
			s.name, s.to = "valid/256-instances", many(256)
			s.reader = s.to[i]
		})
	}
	b.accept("valid/empty", "C2", "nothing was sealed, and nothing is opened", func(s *story) { s.plain = nil })
	b.accept("valid/4096-bytes", "C2", "a longer content", func(s *story) { s.plain = bytes.Repeat([]byte("sealed "), 586)[:4096] })
	b.accept("valid/reply", "B1", "reader answers in one", func(s *story) { s.answer(1) })
	b.accept("valid/reply-later-piece", "B1", "the seventh piece", func(s *story) { s.answer(7) })
	b.accept("valid/reply-last-piece", "B1", "the last piece that there can be", func(s *story) { s.answer(1 << 20) })
	b.accept("valid/longest-names", "B1", "trust domain and agent at their limits", func(s *story) {
		s.both(func(b *binding) {
			b.TrustDomain, b.Recipient = strings.Repeat("m", 253), strings.Repeat("r", 63)
		})
	})
	b.accept("valid/other-kept", "C1", "two secrets under one content, opened by the instance whose secret the commitment is for; see content/two-secrets", func(s *story) {
		twoSecrets(s)
		s.reader = s.to[0]
	})
}

func (b *book) layout() {
	sent := func(name, rule, description string, f func([]byte) []byte) {
		b.refuse("layout/"+name, rule, description, func(s *story) { s.sent = f })
	}
	for _, v := range []byte{0, 2, 0xff} {
		b.refuse(fmt.Sprintf("layout/version-%d", v), "L1", "another version, sealed like that, all else as in this one", func(s *story) { s.version = v })
	}
	sent("plain", "L1", "what was sent is not sealed", func([]byte) []byte { return []byte(strings.Repeat("tail 20 of the log of today\n", 12)) })
	for n, why := range map[int]string{0: "nothing", 1: "the version alone", 2: "half a number", 3: "no recipient", 3 + stanzaLen: "half the recipients"} {
		sent(fmt.Sprintf("first-%d-bytes", n), "L4", "cut off: "+why, func(w []byte) []byte { return w[:n] })
	}
	sent("without-commitment", "L4", "cut off behind the recipients", func(w []byte) []byte { return w[:headerLen] })
	sent("without-content", "L4", "cut off behind the commitment", func(w []byte) []byte { return w[:headerLen+32] })
	sent("half-a-tag", "L4", "cut off in the tag of an empty content", func(w []byte) []byte { return w[:headerLen+32+15] })
	sent("one-byte-short", "C2", "the last byte is missing", func(w []byte) []byte { return w[:len(w)-1] })
	sent("one-byte-more", "C2", "something follows", func(w []byte) []byte { return append(w, 0) })
	sent("twice", "C2", "the whole payload twice", func(w []byte) []byte { return append(w, w...) })
	count := func(name, rule, description string, n int) {
		sent(name, rule, description, func(w []byte) []byte { binary.BigEndian.PutUint16(w[1:], uint16(n)); return w })
	}
	count("no-recipients", "L2", "the number of recipients is 0, two follow", 0)
	count("one-recipient-less", "C1", "the number of recipients is 1, two follow", 1)
	count("one-recipient-more", "L4", "the number of recipients is 3, two follow", 3)
	count("number-little-endian", "L2", "the number of recipients with its bytes exchanged", 512)
	count("number-at-its-highest", "L2", "65535 recipients are announced", 65535)
	b.refuse("layout/257-recipients", "L2", "one recipient more than there may be, all else is good", func(s *story) {
		s.to = many(257)
		s.reader = s.to[0]
	})
	b.refuse("layout/no-recipients-at-all", "L2", "the number of recipients is 0, and none follows", func(s *story) { s.to = nil })
}

func (b *book) recipients() {
	b.refuse("recipients/descending", "L3", "the recipients in the opposite order, sealed like that", func(s *story) {
		slices.SortFunc(s.to, func(a, b curve) int { return bytes.Compare(b.public(), a.public()) })
		s.asOrdered = true
	})
	b.refuse("recipients/twice", "L3", "one recipient twice, sealed like that", func(s *story) { s.to = []curve{s.reader, s.reader} })
	b.refuse("recipients/one-of-three-twice", "L3", "the last of three recipients is the second again", func(s *story) { s.to = []curve{s.to[0], s.to[1], s.to[1]} })
	b.refuse("recipients/another", "L5", "sealed to other instances", func(s *story) { s.reader = curve{"reader's third instance"} })
	b.refuse("recipients/key-before", "L5", "sealed to the key that this instance had before", func(s *story) { s.to = []curve{{"reader before"}, {"reader's second instance"}} })
	b.refuse("recipients/renamed", "W1", "the key of one recipient is written over that of the other", func(s *story) {
		s.reader = curve{"reader's third instance"}
		s.header = func(h []byte) []byte {
			rename(h, s.to[1], s.reader)
			return h
		}
	})
	b.refuse("recipients/added", "C1", "a recipient was added afterwards, by one who knows the secret", func(s *story) {
		s.header = func(h []byte) []byte {
			return build(h, s.wrap(curve{"reader's third instance"}, s.made.bytes(), s.secret()).bytes())
		}
	})
	b.refuse("recipients/removed", "C1", "the other recipient was removed afterwards", func(s *story) {
		s.header = func(h []byte) []byte {
			only := slices.DeleteFunc(split(h), func(st []byte) bool { return !bytes.Equal(st[:32], s.reader.public()) })
			return concat([]byte{1, 0, 1}, concat(only...))
		}
	})
	b.refuse("recipients/other-wrapped-changed", "C1", "one bit of what was wrapped for the other recipient", func(s *story) {
		s.header = func(h []byte) []byte {
			for _, st := range split(h) {
				if !bytes.Equal(st[:32], s.reader.public()) {
					st[111] ^= 1
				}
			}
			return h
		}
	})
}

// split returns the recipients of a header, as pieces of it.
func split(header []byte) (out [][]byte) {
	for i := 3; i < len(header); i += stanzaLen {
		out = append(out, header[i:i+stanzaLen:i+stanzaLen])
	}
	return out
}

// build puts one more recipient into a header.
func build(header, more []byte) []byte {
	all := append(split(header), more)
	slices.SortFunc(all, func(a, b []byte) int { return bytes.Compare(a[:32], b[:32]) })
	return concat(binary.BigEndian.AppendUint16([]byte{1}, uint16(len(all))), concat(all...))
}

// rename writes one recipient's key over that of another, in order.
func rename(header []byte, from, to curve) {
	all := split(bytes.Clone(header))
	for _, st := range all {
		if bytes.Equal(st[:32], from.public()) {
			copy(st, to.public())
		}
	}
	slices.SortFunc(all, func(a, b []byte) int { return bytes.Compare(a[:32], b[:32]) })
	copy(header[3:], concat(all...))
}

func (b *book) bindings() {
	other := func(name, description string, change func(*binding)) {
		b.refuse("binding/"+name, "B1", description, func(s *story) { change(&s.expects) })
	}
	other("trust-domain", "made for another mesh", func(b *binding) { b.TrustDomain = "mesh-2.example" })
	other("trust-domain-in-upper-case", "the trust domain in another case", func(b *binding) { b.TrustDomain = "Mesh.example" })
	other("forwarded", "somebody else signed the envelope: a payload that was taken out of its message", func(b *binding) { b.Signer = signer("mallory") })
	other("signer-second-instance", "another instance of the sender signed the envelope", func(b *binding) { b.Signer = signer("writer's second instance") })
	other("recipient", "made for another agent", func(b *binding) { b.Recipient = "auditor" })
	other("nonce", "made for another request", func(b *binding) { b.Nonce = "ICEiIyQlJicoKSorLC0uLw" })
	other("request-as-reply", "a request's payload in an answer", func(b *binding) { b.Direction, b.Piece = "reply", 1 })
	b.refuse("binding/reply-as-request", "B1", "an answer's payload in a request", func(s *story) {
		s.answer(1)
		s.expects.Direction, s.expects.Piece = "request", 0
	})
	b.refuse("binding/piece", "B1", "another piece", func(s *story) {
		s.answer(1)
		s.expects.Piece = 2
	})
	b.refuse("binding/reply-to-another-request", "B1", "the answer to another request of the same caller", func(s *story) {
		s.answer(1)
		s.expects.Nonce = "ICEiIyQlJicoKSorLC0uLw"
	})
	b.refuse("binding/reply-to-another-instance", "B1", "an answer that another instance of the handler signed", func(s *story) {
		s.answer(1)
		s.expects.Signer = signer("reader's second instance")
	})
	as := func(name, description string, info func(binding) []byte) {
		b.refuse("binding/"+name, "B1", description, func(s *story) {
			text := info(s.made)
			s.info = func() []byte { return text }
			s.derive = func(secret, _, header []byte) []byte { return derive(secret, text, header) }
		})
	}
	as("none", "nothing is bound: it opens for whoever takes HPKE as it is", func(binding) []byte { return nil })
	as("label-alone", "nothing but the label is bound", func(binding) []byte { return []byte("sealmesh-sealed-v1\n") })
	as("no-label", "without the label", func(b binding) []byte { return b.bytes()[len("sealmesh-sealed-v1\n"):] })
	as("other-label", "the label of an envelope", func(b binding) []byte {
		return concat([]byte("sealmesh-envelope-v1\n"), b.bytes()[len("sealmesh-sealed-v1\n"):])
	})
	as("no-lengths", "the items without their lengths", func(b binding) []byte {
		return []byte("sealmesh-sealed-v1\n" + b.TrustDomain + b.Direction + b.Signer + b.Recipient + b.Nonce)
	})
	as("lengths-little-endian", "the lengths with their bytes exchanged", func(b binding) []byte {
		out := []byte("sealmesh-sealed-v1\n")
		for _, item := range []string{b.TrustDomain, b.Direction, b.Signer, b.Recipient, b.Nonce} {
			out = append(binary.LittleEndian.AppendUint32(out, uint32(len(item))), item...)
		}
		return out
	})
	as("piece-in-a-request", "a request with a piece", func(b binding) []byte { return concat(b.bytes(), number(4), number(0)) })
	b.refuse("binding/reply-without-piece", "B1", "an answer without the number of its piece", func(s *story) {
		s.answer(1)
		text := s.made.bytes()[:len(s.made.bytes())-8]
		s.info = func() []byte { return text }
		s.derive = func(secret, _, header []byte) []byte { return derive(secret, text, header) }
	})
}

func (b *book) wrapping() {
	b.refuse("wrapping/enc-changed", "W1", "one bit of enc", func(s *story) { own(s, 32) })
	b.refuse("wrapping/wrapped-changed", "W1", "one bit of the wrapped secret", func(s *story) { own(s, 64) })
	b.refuse("wrapping/tag-changed", "W1", "one bit of its tag", func(s *story) { own(s, 111) })
	b.refuse("wrapping/exchanged", "W1", "what was wrapped for the one recipient stands with the other", func(s *story) {
		s.header = func(h []byte) []byte {
			all := split(bytes.Clone(h))
			return concat(h[:3], all[0][:32], all[1][32:], all[1][:32], all[0][32:])
		}
	})
	b.refuse("wrapping/aes-128", "W1", "the same with AES-128-GCM", func(s *story) { s.suite = aes128 })
	b.refuse("wrapping/without-encapsulated-key", "W1", "the shared secret was derived from the shared point alone", func(s *story) {
		s.stanzaOf = func(to curve, info, secret []byte) stanza {
			ephemeral := s.random("ephemeral for " + to.label)
			return stanza{to.public(), publicOf(ephemeral), s.suite.wrap(x25519(ephemeral, to.public()), nil, nil, info, secret)}
		}
	})
	// With these, anybody computes the shared point: it is nought whoever the
	// recipient is. A library that does not look opens them.
	for name, text := range map[string]string{
		"0": strings.Repeat("00", 32), "1": "01" + strings.Repeat("00", 31),
		"order-8":       "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"order-8-other": "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"minus-1":       "ec" + strings.Repeat("ff", 30) + "7f",
		"prime":         "ed" + strings.Repeat("ff", 30) + "7f",
		"prime-plus-1":  "ee" + strings.Repeat("ff", 30) + "7f",
		"0-high-bit":    strings.Repeat("00", 31) + "80",
		"1-high-bit":    "01" + strings.Repeat("00", 30) + "80",
	} {
		b.refuse("wrapping/enc-"+name, "W2", "enc is a point of small order, in one of its encodings, with which the shared point is nought for every key", func(s *story) {
			enc, err := hex.DecodeString(text)
			if err != nil {
				panic(err)
			}
			s.stanzaOf = func(to curve, info, secret []byte) stanza {
				return stanza{to.public(), enc, s.suite.wrap(make([]byte, 32), enc, to.public(), info, secret)}
			}
		})
	}
	b.refuse("wrapping/enc-high-bit", "W2", "enc with its highest bit, which X25519 ignores, sealed like that", func(s *story) {
		s.stanzaOf = func(to curve, info, secret []byte) stanza {
			ephemeral := s.random("ephemeral for " + to.label)
			enc := publicOf(ephemeral)
			enc[31] |= 0x80
			return stanza{to.public(), enc, s.suite.wrap(x25519(ephemeral, to.public()), enc, to.public(), info, secret)}
		}
	})
	b.refuse("wrapping/enc-above-the-prime", "W2", "enc is 2^255 - 19 + 9, a second encoding of the base point, whose private key is 1", func(s *story) {
		above := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(10))
		enc := above.FillBytes(make([]byte, 32))
		slices.Reverse(enc)
		s.stanzaOf = func(to curve, info, secret []byte) stanza {
			dh := x25519(to.private(), concat([]byte{9}, make([]byte, 31)))
			return stanza{to.public(), enc, s.suite.wrap(dh, enc, to.public(), info, secret)}
		}
	})
}

// own changes one bit of what stands for the reader.
func own(s *story, at int) {
	s.header = func(h []byte) []byte {
		for _, st := range split(h) {
			if bytes.Equal(st[:32], s.reader.public()) {
				st[at] ^= 1
			}
		}
		return h
	}
}

func (b *book) content() {
	b.refuse("content/commitment-changed", "C1", "one bit of the commitment", func(s *story) {
		s.committed = func(c []byte) []byte { c[31] ^= 1; return c }
	})
	b.refuse("content/commitment-of-zeros", "C1", "no commitment", func(s *story) {
		s.committed = func([]byte) []byte { return make([]byte, 32) }
	})
	b.refuse("content/two-secrets", "C1", "another secret was wrapped for this instance, and AES-GCM opens the content under both keys, to two things: see valid/other-kept", func(s *story) {
		twoSecrets(s)
		s.reader = s.to[1]
	})
	b.refuse("content/changed", "C2", "one bit of the content", func(s *story) {
		s.sent = func(w []byte) []byte { w[headerLen+32] ^= 1; return w }
	})
	b.refuse("content/tag-changed", "C2", "one bit of the tag", func(s *story) {
		s.sent = func(w []byte) []byte { w[len(w)-1] ^= 0x80; return w }
	})
	derived := func(name, description string, f func(secret, info, header []byte) []byte) {
		b.refuse("content/"+name, "C1", description, func(s *story) { s.derive = f })
	}
	derived("key-is-the-secret", "the secret itself is the content's key", func(secret, info, header []byte) []byte {
		return concat(secret, derive(secret, info, header)[32:])
	})
	derived("header-not-in-the-key", "the content's key does not follow from the header", func(secret, info, _ []byte) []byte { return derive(secret, info, nil) })
	derived("binding-not-in-the-key", "the content's key does not follow from the binding", func(secret, _, header []byte) []byte { return derive(secret, nil, header) })
	derived("salt", "the secret was extracted with a salt", func(secret, info, header []byte) []byte {
		sum := sha256.Sum256(header)
		return expand(extract(sum[:], secret), concat([]byte("sealmesh-sealed-content-v1\n"), number(len(info)), info, number(len(sum)), sum[:]), 64)
	})
	b.refuse("content/nonce-of-1", "C2", "the content under a nonce of 1", func(s *story) {
		s.lock = func(key, plain []byte) []byte {
			return gcm(key).Seal(nil, concat(make([]byte, 11), []byte{1}), plain, nil)
		}
	})
	b.refuse("content/associated-data", "C2", "the content with the binding as associated data", func(s *story) {
		info := s.made.bytes()
		s.lock = func(key, plain []byte) []byte { return gcm(key).Seal(nil, make([]byte, 12), plain, info) }
	})
}

// twoSecrets wraps one secret for the first instance and another for the second,
// over a content that both keys open.
func twoSecrets(s *story) {
	s.name = "content/two-secrets"
	second, to := s.random("second secret"), s.to[1]
	s.secrets = func(c curve, secret []byte) []byte {
		if c == to {
			return second
		}
		return secret
	}
	var keys [2][]byte
	s.derive = func(secret, info, header []byte) []byte {
		keys = [2][]byte{derive(secret, info, header)[:32], derive(second, info, header)[:32]}
		return derive(secret, info, header)
	}
	s.lock = func([]byte, []byte) []byte { return collide(keys[0], keys[1]) }
	s.shown = func(secret, info, header, _ []byte) []byte {
		k := derive(secret, info, header)[:32]
		plain, err := gcm(k).Open(nil, make([]byte, 12), s.lock(nil, nil), nil)
		if err != nil {
			panic(err)
		}
		return plain
	}
}
