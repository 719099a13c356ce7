package main

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
)

func (b *book) signatures() {
	form := func(name, rule, reason, description string, f func(raw []byte, good string) string) {
		b.refuse("signature/"+name, rule, reason, description, call, func(s *story) {
			s.letter.onTheWay(func(w *wire) {
				good := w.header("Mesh-Signature")
				raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, "ed25519:"))
				if err != nil {
					panic(err)
				}
				w.setHeader("Mesh-Signature", f(raw, good))
			})
		})
	}
	bad := func(name, description string, f func(raw []byte, good string) string) {
		form(name, "B4", "bad-envelope", description, f)
	}
	bad("empty", "an empty value", func([]byte, string) string { return "" })
	bad("none", "no signature, and says so", func([]byte, string) string { return "none" })
	bad("without-scheme", "without ed25519:", func(_ []byte, good string) string { return good[8:] })
	bad("scheme-alone", "the scheme and nothing else", func([]byte, string) string { return "ed25519:" })
	bad("scheme-in-upper-case", "the scheme in upper case", func(_ []byte, good string) string { return "ED25519" + good[7:] })
	bad("scheme-doubled", "the scheme twice", func(_ []byte, good string) string { return "ed25519:" + good })
	bad("scheme-unknown", "another scheme", func(_ []byte, good string) string { return "hmac" + good[7:] })
	bad("scheme-prehashed", "a scheme that sounds alike", func(_ []byte, good string) string { return "ed25519ph" + good[7:] })
	bad("scheme-with-a-space", "a space after the scheme", func(_ []byte, good string) string { return "ed25519: " + good[8:] })
	bad("63-bytes", "one byte short", func(raw []byte, _ string) string { return "ed25519:" + b64(raw[:63]) })
	bad("65-bytes", "one byte more", func(raw []byte, _ string) string { return "ed25519:" + b64(append(raw, 0)) })
	bad("character-short", "one character short", func(_ []byte, good string) string { return good[:len(good)-1] })
	bad("character-more", "one character more", func(_ []byte, good string) string { return good + "A" })
	bad("padded", "padded", func(_ []byte, good string) string { return good + "==" })
	bad("spare-bits", "with spare bits set: a second spelling of the same bytes", func(_ []byte, good string) string {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		last := strings.IndexByte(alphabet, good[len(good)-1])
		return good[:len(good)-1] + alphabet[last+1:last+2]
	})
	bad("standard-alphabet", "in the standard alphabet", func(raw []byte, _ string) string {
		text := base64.RawStdEncoding.EncodeToString(raw)
		if !strings.ContainsAny(text, "+/") {
			panic("the signature reads the same in both alphabets")
		}
		return "ed25519:" + text
	})
	bad("line-break", "with a line break, which decoders skip", func(_ []byte, good string) string { return good[:40] + "\n" + good[40:] })
	bad("line-break-at-the-end", "with a line break at the end", func(_ []byte, good string) string { return good + "\n" })
	bad("space-at-the-beginning", "with a space at the beginning", func(_ []byte, good string) string { return " " + good })
	bad("space-at-the-end", "with a space at the end", func(_ []byte, good string) string { return good + " " })
	bad("hexadecimal", "in hexadecimal", func(raw []byte, _ string) string { return "ed25519:" + hex.EncodeToString(raw) })
	bad("hexadecimal-in-upper-case", "in hexadecimal, upper case", func(raw []byte, _ string) string {
		return "ed25519:" + strings.ToUpper(hex.EncodeToString(raw))
	})
	bad("two-in-one", "two signatures in one value", func(_ []byte, good string) string { return good + "," + good })

	batch := func(name, description, value string) {
		form("batch-"+name, "B5", "bad-version", description, func(_ []byte, good string) string { return strings.Replace(value, "SIG", good[8:], 1) })
	}
	batch("of-one", "a batch of one message, as it is outlined", "batch:0/1::SIG")
	batch("of-two", "a batch of two", "batch:1/2:"+b64(make([]byte, 32))+":SIG")
	batch("alone", "the scheme and nothing else", "batch:")
	batch("malformed", "what follows is not looked at", "batch:?")

	raw := func(name, rule, description string, f func(raw []byte) []byte) {
		form(name, rule, "bad-signature", description, func(raw []byte, _ string) string { return "ed25519:" + b64(f(raw)) })
	}
	raw("s-plus-the-order", "S3", "S plus the order of the base point: it verifies where S is not held below it", secondForm)
	raw("s-is-the-order", "S3", "S is the order of the base point", func(raw []byte) []byte { return append(raw[:32:32], toLittle(groupOrder)...) })
	raw("s-at-its-highest", "S3", "S is all ones", func(raw []byte) []byte {
		for i := range raw[32:] {
			raw[32+i] = 0xff
		}
		return raw
	})
	form("s-below-the-order", "B6", "bad-signature", "the highest S there is: in its form, and no signature of this", func(raw []byte, _ string) string {
		return "ed25519:" + b64(append(raw[:32:32], toLittle(sub(groupOrder, 1))...))
	})
	for i, bit := range map[string]int{"first": 0, "last-of-r": 255, "first-of-s": 256, "middle-of-s": 400} {
		form("bit-"+i, "B6", "bad-signature", "one bit of the signature was changed: "+i, func(raw []byte, _ string) string {
			raw[bit/8] ^= 1 << (bit % 8)
			return "ed25519:" + b64(raw)
		})
	}
}
