package main

import "strings"

// What a signature covers: each changed alone, after signing, into something that
// is as well-formed and, where the registry is asked, as current.
func (b *book) signedBytes() {
	refuse := func(name, rule, description string, base func() *story, tell func(*story)) {
		b.refuse("changed/"+name, rule, "bad-signature", description, base, tell)
	}
	field := func(base func() *story, name, value string, tell func(*story)) {
		refuse(name, "B6", name+" was changed on the way", base, func(s *story) {
			s.letter.rewrite(name, value)
			if tell != nil {
				tell(s)
			}
		})
	}
	field(call, "ts", itoa(t0+1), nil)
	field(call, "nonce", id("another nonce"), nil)
	field(call, "corr", id("another tree"), nil)
	field(call, "ep", "4.1", func(s *story) { s.agent("writer").Epoch = 4 })
	field(call, "hop", "1", nil)
	field(call, "tok", metricsChain, nil)
	field(full, "ob", scoutChain, nil)
	field(full, "dl", "30001", nil)
	field(full, "ct", "application/jsoo", nil)
	field(full, "err", "disk-fulm", nil)
	field(full, "part", "1", func(s *story) { s.subscription.Stream = true })
	field(full, "hd", digest([]byte("other headers")), nil)
	field(call, "key", another.public(), func(s *story) { s.enrol("writer", another.public()) })
	refuse("from", "B6", "from, the subject's sender and the key's owner were changed together", note, func(s *story) {
		s.letter.rewrite("from", "helper")
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh.note.helper.reader.cancel" })
		s.instance(writer).Agent = "helper"
	})
	refuse("parent", "B6", "parent and the reply's subject were changed together", reply, func(s *story) {
		s.letter.rewrite("parent", id("another request"))
		s.letter.onTheWay(func(w *wire) { w.Subject = strings.Replace(w.Subject, id("call"), id("another request"), 1) })
	})
	refuse("field-added", "B6", "a field was added", call, func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.setHeader("Mesh-Envelope", w.header("Mesh-Envelope")+";dl=1000") })
	})
	refuse("field-removed", "B6", "a field was removed", full, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			w.setHeader("Mesh-Envelope", strings.Replace(w.header("Mesh-Envelope"), ";dl=30000", "", 1))
		})
	})
	refuse("hd-removed", "B6", "hd was removed, and the headers with it", full, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			before, _, _ := strings.Cut(w.header("Mesh-Envelope"), ";hd=")
			w.setHeader("Mesh-Envelope", before)
			w.Headers = w.Headers[:2]
		})
	})

	for name, data := range map[string]string{"emptied": "", "cut": "tail 2", "longer": "tail 20 ", "bit": "tail 21", "first-bit": "uail 20"} {
		refuse("payload-"+name, "B6", "the payload was changed: "+name, call, func(s *story) {
			s.letter.onTheWay(func(w *wire) { w.Payload = std64([]byte(data)) })
		})
	}
	refuse("subject-moved-to-another-scope", "B6", "a call on the subject of another scope, where the same sender may call too", call, func(s *story) {
		s.letter.set("tok", takenBack)
		s.agent("writer").Live = append(s.agent("writer").Live, takenBack)
		s.subscription.Tail, s.subscription.Scope = "read.metrics", "read:metrics"
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh.call.writer.read.metrics" })
	})
	refuse("subject-call-made-an-ask", "B6", "a call as an ask", ask, func(s *story) {
		s.letter = theCall()
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh.ask.writer.reader.read.logs" })
	})
	refuse("subject-note-of-another-kind", "B6", "a note as one of another kind", note, func(s *story) {
		s.subscription.Tail = "cancel-all"
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh.note.writer.reader.cancel-all" })
	})
	refuse("subject-note-to-another-agent", "B6", "a note that was sent to somebody else", note, func(s *story) {
		s.receiver.Agent = "helper"
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh.note.writer.helper.cancel" })
	})
	refuse("subject-under-another-prefix", "B6", "the same message under another prefix", call, func(s *story) {
		s.receiver.Prefix = "mesh2"
		s.letter.onTheWay(func(w *wire) { w.Subject = "mesh2.call.writer.read.logs" })
	})
	refuse("byte-moved-from-subject-to-envelope", "B6", "signed as if the border between subject and envelope lay one byte further on", call, func(s *story) {
		s.letter.sign = func([]byte) []byte {
			text := s.letter.plainText()
			return writer.sign(signedBytes(domain, s.letter.subject+"v", text[1:], s.letter.payload, nil))
		}
	})
	refuse("without-lengths", "B6", "signed without the lengths of the items", call, func(s *story) {
		s.letter.sign = func([]byte) []byte {
			return writer.sign([]byte("sealmesh-envelope-v1\n" + domain + s.letter.subject + s.letter.plainText() + payload))
		}
	})
	refuse("without-the-first-line", "B6", "signed without the line that separates the uses of the key", call, func(s *story) {
		s.letter.sign = func(signed []byte) []byte { return writer.sign(signed[len("sealmesh-envelope-v1\n"):]) }
	})
	refuse("payload-in-the-place-of-its-hash", "B6", "signed over the payload itself", call, func(s *story) {
		s.letter.sign = func(signed []byte) []byte {
			return writer.sign(append(signed[:len(signed)-36:len(signed)-36], item([]byte(payload))...))
		}
	})
	refuse("prehashed", "B6", "signed over the SHA-256 of the signed bytes", call, func(s *story) {
		s.letter.sign = func(signed []byte) []byte { return writer.sign(sha(signed)) }
	})

	b.refuse("trust-domain/other", "B3", "bad-signature", "the message was signed for another mesh", call, func(s *story) { s.signedFor = "other.example" })
	b.refuse("trust-domain/capital", "B3", "bad-signature", "the message was signed for the same mesh in another case", call, func(s *story) { s.signedFor = "Mesh.example" })

	field(fullAsk, "body", bodyOf("tail 21"), nil)
	size := "70." + digest([]byte("tail 20"))
	refuse("body-size", "B6", "the size in body was changed on the way", fullAsk, func(s *story) { s.letter.rewrite("body", size) })
	refuse("body-removed", "B6", "body was removed, and what is left is a request without payload", fullAsk, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			w.setHeader("Mesh-Envelope", strings.Replace(w.header("Mesh-Envelope"), ";body="+bodyOf("tail 20"), "", 1))
		})
	})
	refuse("enc-removed", "B6", "enc was removed: what is sealed as if anybody might read it", fullAsk, func(s *story) {
		s.letter.onTheWay(func(w *wire) {
			w.setHeader("Mesh-Envelope", strings.Replace(w.header("Mesh-Envelope"), ";enc=x1", "", 1))
		})
	})
	refuse("enc-added", "B6", "enc was added to what anybody may read", reply, func(s *story) {
		s.letter.onTheWay(func(w *wire) { w.setHeader("Mesh-Envelope", w.header("Mesh-Envelope")+";enc=x1") })
	})
	refuse("part-going-on", "B6", "a part was changed into one whose piece goes on", reply, func(s *story) {
		s.subscription.Stream = true
		s.letter.set("part", "1")
		s.letter.rewrite("part", "1+")
	})
	refuse("body-moved-to-a-reply", "B6", "a body as a reply of the same agent", reply, func(s *story) {
		s.subscription.Request, s.subscription.Stream = b64(theInvitation().digest()), true
		s.subscription.Scope = ""
		s.letter = bodyPart("1/1", wholeBody)
		s.receiver.Agent = "reader"
		s.letter.onTheWay(func(w *wire) { w.Subject = strings.Replace(w.Subject, "mesh.body.", "mesh.reply.", 1) })
	})

	b.refuse("request/body-without-invitation", "B2", "unmatched-reply", "the receiver invited nobody", body, func(s *story) { s.subscription.Request = "" })
	b.refuse("request/body-after-nought", "B2", "unmatched-reply", "the receiver knows an invitation of zeros, which is nobody's", body, func(s *story) { s.subscription.Request = b64(make([]byte, 32)) })
	b.refuse("request/body-after-another-invitation", "B6", "bad-signature", "a body that follows another invitation", body, func(s *story) {
		s.subscription.Request = b64(sha([]byte("another invitation")))
	})
	b.refuse("request/body-bound-to-the-request", "B6", "bad-signature", "a body that was signed for the request, and not for the invitation", body, func(s *story) { s.letter.request = theRequest().digest() })
	b.refuse("request/body-held-against-the-request", "B6", "bad-signature", "a receiver that holds a body against the request, and not against its invitation", body, func(s *story) {
		s.subscription.Request = b64(theRequest().digest())
	})
	b.refuse("request/body-not-bound", "B6", "bad-signature", "a body that was signed without the invitation", body, func(s *story) { s.letter.request = nil })
	b.refuse("request/same-nonce-other-body", "B6", "bad-signature", "a reply to the same request with another payload in parts", reply, func(s *story) {
		s.letter = replyTo(theRequest(), "reply to the request")
		s.subscription.Request = b64(theRequest().set("body", bodyOf("tail everything")).digest())
	})

	b.refuse("request/unknown", "B2", "unmatched-reply", "the receiver does not know the request", reply, func(s *story) { s.subscription.Request = "" })
	b.refuse("request/nought", "B2", "unmatched-reply", "the receiver knows a request of zeros, which is nobody's", reply, func(s *story) { s.subscription.Request = b64(make([]byte, 32)) })
	b.refuse("request/another", "B6", "bad-signature", "a reply that was swapped: it answers another request of the same caller", reply, func(s *story) {
		s.subscription.Request = b64(sha([]byte("another request")))
	})
	b.refuse("request/same-nonce-other-payload", "B6", "bad-signature", "the same request, asked with another payload", reply, func(s *story) {
		r := theCall()
		r.payload = []byte("tail everything")
		s.subscription.Request = b64(r.digest())
	})
	b.refuse("request/not-signed", "B6", "bad-signature", "a reply that was signed without the request", reply, func(s *story) { s.letter.request = nil })
	b.refuse("request/signed-by-a-call", "B6", "bad-signature", "a call that was signed with a fifth item", call, func(s *story) { s.letter.request = sha([]byte("request")) })

	b.refuse("keys/of-another-instance", "B6", "bad-signature", "the message names one instance, and another one of the same agent signed", call, func(s *story) {
		s.enrol("writer", another.public())
		s.letter.by = another
	})
	b.refuse("keys/of-another-agent", "B6", "bad-signature", "the message names writer's key, and helper signed", call, func(s *story) { s.letter.by = helper })
	b.refuse("keys/signature-of-another-message", "B6", "bad-signature", "the signature of another message of the same key", call, func(s *story) {
		s.letter.sign = func([]byte) []byte { return note().letter.digestSigned() }
	})
	b.refuse("keys/all-zeros", "B6", "bad-signature", "R of a point and S of zero", call, func(s *story) {
		s.letter.sign = func(signed []byte) []byte { return append(writer.sign(signed)[:32], make([]byte, 32)...) }
	})
}

// digestSigned is the signature of the letter.
func (l *letter) digestSigned() []byte { return l.by.sign(l.wire(domain).signed) }

// plainText is the letter's envelope.
func (l *letter) plainText() string {
	c := *l
	c.sign, c.after = nil, nil
	return c.wire(domain).text
}
