package main

import (
	"fmt"
	"strings"
)

func (b *book) limits() {
	refuse := func(name, rule, description string, base func() *story, tell func(*story)) {
		b.refuse("limits/"+name, rule, "too-large", description, base, tell)
	}
	header := func(name, value string) func(*story) {
		return func(s *story) { s.letter.onTheWay(func(w *wire) { w.setHeader(name, value) }) }
	}
	refuse("envelope-of-1025-bytes", "L1", "Mesh-Envelope is one byte too long, whatever is in it", call, header("Mesh-Envelope", strings.Repeat("v", 1025)))
	b.refuse("limits/envelope-of-1024-bytes", "F1", "bad-envelope", "Mesh-Envelope is as long as it may be, and what is in it counts", call, header("Mesh-Envelope", strings.Repeat("v", 1024)))
	refuse("signature-of-513-bytes", "L2", "Mesh-Signature is one byte too long", call, header("Mesh-Signature", "ed25519:"+strings.Repeat("A", 505)))
	b.refuse("limits/signature-of-512-bytes", "B4", "bad-envelope", "Mesh-Signature is as long as it may be, and what is in it counts", call, header("Mesh-Signature", "ed25519:"+strings.Repeat("A", 504)))
	b.refuse("limits/batch-of-512-bytes", "B5", "bad-version", "the longest value that begins with batch:", call, header("Mesh-Signature", "batch:"+strings.Repeat("A", 506)))
	refuse("batch-of-513-bytes", "L2", "one byte more than that", call, header("Mesh-Signature", "batch:"+strings.Repeat("A", 507)))

	kind := func(n int) func(*story) {
		return func(s *story) {
			s.subscription.Tail = strings.Repeat("k", n-len("mesh.note.writer.reader."))
			s.letter.subject = "mesh.note.writer.reader." + s.subscription.Tail
		}
	}
	b.accept("subject-of-512-bytes", "L3", "the longest subject", note, kind(512))
	refuse("subject-of-513-bytes", "L3", "a subject that is one byte too long", note, kind(513))
	b.refuseAt("2a", "limits/subject-empty", "L3", "bad-envelope", "no subject", note, func(s *story) { s.letter.subject = "" })
	b.accept("payload-of-8-mib", "L4", "the largest payload", note, func(s *story) { s.letter.zeros = 8<<20 - len(s.letter.payload) })
	refuse("payload-of-8-mib-and-a-byte", "L4", "a payload that is one byte too large", note, func(s *story) { s.letter.zeros = 8<<20 - len(s.letter.payload) + 1 })

	lines := func(n int) [][2]string {
		out := make([][2]string, n)
		for i := range out {
			out[i] = [2]string{fmt.Sprintf("X-%02d", i/2), fmt.Sprint(i)}
		}
		return out
	}
	app := func(l [][2]string, covered bool) func(*story) {
		return func(s *story) { s.letter.app, s.letter.noHD = l, !covered }
	}
	b.accept("headers-32-lines", "L5", "as many lines as there may be", call, app(lines(32), true))
	refuse("application-33-lines", "L5", "one line more", call, app(lines(33), true))
	refuse("application-33-lines-without-hd", "L5", "the same without hd: what is not handed on counts all the same", call, app(lines(33), false))
	refuse("application-33-values-of-one-name", "L5", "one name with 33 values", call, func(s *story) {
		for range 33 {
			s.letter.app = append(s.letter.app, [2]string{"X", ""})
		}
	})
	b.accept("headers-8192-bytes", "L5", "as many bytes as there may be", call, app([][2]string{{"Tenant", strings.Repeat("b", 8192-6-7)}, {"Tenant", "x"}}, true))
	refuse("application-8193-bytes", "L5", "one byte more: a name counts with each of its values", call, app([][2]string{{"Tenant", strings.Repeat("b", 8192-6-6)}, {"Tenant", "x"}}, true))
	refuse("application-8193-bytes-without-hd", "L5", "the same without hd", call, app([][2]string{{"Tenant", strings.Repeat("b", 8193-6)}}, false))

	hints := func(n int) func(*story) {
		return func(s *story) {
			s.letter.onTheWay(func(w *wire) {
				for i := range n {
					w.addHeader([]string{"Nats-A", "nats-b", "traceparent", "Tracestate"}[i%4], fmt.Sprint(i))
				}
			})
		}
	}
	b.accept("hints-32-lines", "L6", "as many hints as there may be", call, hints(32))
	refuse("hints-33-lines", "L6", "one more", call, hints(33))
	refuse("hints-33-lines-with-message-id", "L6", "Nats-Msg-Id counts among them", call, func(s *story) {
		hints(32)(s)
		s.letter.onTheWay(func(w *wire) { w.addHeader("Nats-Msg-Id", s.letter.field("nonce")) })
	})

	names := func(n int) func(*story) {
		return func(s *story) {
			for i := range 32 {
				s.letter.app = append(s.letter.app, [2]string{fmt.Sprintf("X-%02d", i), ""})
			}
			s.letter.onTheWay(func(w *wire) {
				for i := range 32 {
					w.addHeader(fmt.Sprintf("Nats-%02d", i), "")
				}
				for i := range n - 66 {
					w.addHeader(fmt.Sprintf("Mesh-%02d", i), "")
				}
			})
		}
	}
	b.accept("66-names", "L7", "as many names as there may be", call, names(66))
	refuse("67-names", "L7", "one name more, which can only be one that must not be there", call, names(67))
}
