package main

import "strings"

// word is a root's own word that another one takes its place.
type word struct {
	by   key
	root string
}

func (w *word) fields() payload {
	return append(head("successor", w.by), member{"root", text(w.root)})
}

func wordOf(by key, root string) *document {
	w := &word{by, root}
	return docOf(&w.by, w.fields)
}

// certified is a certificate of a list, with the window of most.
func certified(by key, nkey, purpose string) *document {
	c := &certificate{by: by, nkey: nkey, purpose: purpose, nbf: now - 30*day, exp: now + 60*day}
	return docOf(&c.by, c.fields)
}

// later has a document signed some seconds after the others.
func later(d *document, seconds int64) *document {
	d.set("iat", number(now+seconds))
	return d
}

// told is alone before a reader that has no certificates but those of lists.
func told() *story {
	s := alone()
	s.certificates, s.certDocs = nil, nil
	return s
}

func (s *story) publish(docs ...*document) { s.lists = append(s.lists, docs) }

// published are the lists as they are written.
func (s *story) published() []string {
	var out []string
	for _, list := range s.lists {
		texts := make([]string, len(list))
		for i, d := range list {
			texts[i] = d.text()
		}
		out = append(out, strings.Join(texts, "~"))
	}
	return out
}

func (b *book) lists() {
	next, third := account("next authority root"), account("third authority root")
	newer := account("next tokens")
	tokens := func(by key) *document { return certified(by, tokensKey.public(), "tokens") }
	others := func(by key) *document { return certified(by, newer.public(), "tokens") }
	records := func(by key) *document { return certified(by, recordsKey.public(), "records") }

	accept := func(name, rule, description string, tell func(*story)) {
		b.accept("list-"+name, rule, description, told, tell)
	}
	accept("of-all-keys", "K8", "the certificates come in the list that the mesh publishes", func(s *story) {
		s.publish(tokens(rootKey), records(rootKey))
	})
	accept("of-another-root-besides", "K8", "a certificate of a root that nobody pinned is left out, and the others count", func(s *story) {
		s.publish(others(stranger), tokens(rootKey))
	})
	accept("of-another-root-for-another-purpose", "K8", "what is left out is not held against what counts: a stranger certifies the tokens key for records", func(s *story) {
		s.publish(certified(stranger, tokensKey.public(), "records"), tokens(rootKey))
	})
	accept("of-another-root-forged", "K8", "nor is its signature verified", func(s *story) {
		forged := others(next)
		forged.sign = stranger.sign
		s.publish(tokens(rootKey), forged)
	})
	accept("of-nearly-65536-bytes", "K8", "as many times the same certificate as a list may be long", func(s *story) {
		s.publish(many(tokens(rootKey), 65536)...)
	})
	accept("root-replaced", "K7", "the pinned root names another one, which certified the key", func(s *story) {
		s.last().by = newer
		s.publish(wordOf(rootKey, next.public()), others(next))
	})
	accept("root-replaced-in-any-order", "K7", "the word comes last, and certificates of the old root are still there for those who have not heard", func(s *story) {
		s.last().by = newer
		s.publish(tokens(rootKey), others(next), tokens(next), wordOf(rootKey, next.public()))
	})
	accept("root-replaced-twice", "K7", "from a root to the next, and from that one to a third, with the later word first", func(s *story) {
		s.last().by = newer
		s.publish(tokens(rootKey), tokens(next), others(third), wordOf(next, third.public()), wordOf(rootKey, next.public()))
	})
	accept("root-replaced-half-of-the-way", "K7", "who pins the second of three roots goes on to the third", func(s *story) {
		s.roots, s.last().by = []string{next.public()}, newer
		s.publish(tokens(rootKey), others(third), wordOf(rootKey, next.public()), wordOf(next, third.public()))
	})
	accept("root-replaced-before", "K7", "who pins the successor already is not moved by the word", func(s *story) {
		s.roots = []string{next.public()}
		s.publish(wordOf(rootKey, next.public()), tokens(next), tokens(rootKey))
	})
	accept("one-of-two-roots-replaced", "K7", "of two pinned roots one is replaced, and the other still counts", func(s *story) {
		s.roots, s.last().by = append(s.roots, third.public()), newer
		s.publish(wordOf(rootKey, next.public()), tokens(next), others(third))
	})
	accept("two-roots-replaced-by-one", "K7", "both pinned roots name the same successor", func(s *story) {
		s.roots = append(s.roots, third.public())
		s.publish(wordOf(rootKey, next.public()), wordOf(third, next.public()), tokens(next))
	})
	accept("root-stays-replaced", "K7", "the next list has no word any more; the successor is pinned all the same", func(s *story) {
		s.last().by = newer
		s.publish(wordOf(rootKey, next.public()), tokens(next))
		s.publish(tokens(next), later(others(next), minute))
	})
	accept("word-of-a-stranger", "K7", "the word of a root that nobody pinned moves nobody", func(s *story) {
		s.publish(wordOf(stranger, next.public()), tokens(rootKey))
	})
	accept("word-of-another-root-forged", "K7", "nor is its signature verified", func(s *story) {
		forged := wordOf(third, next.public())
		forged.sign = stranger.sign
		s.publish(forged, tokens(rootKey))
	})
	accept("words-in-a-circle", "K7", "two roots name each other: each word is followed once, which leads back", func(s *story) {
		s.publish(wordOf(next, rootKey.public()), wordOf(rootKey, next.public()), tokens(rootKey))
	})
	accept("again", "K9", "the same list again", func(s *story) {
		s.publish(tokens(rootKey))
		s.publish(tokens(rootKey))
	})
	accept("with-a-key-more", "K9", "a later list has a key more, which signed", func(s *story) {
		s.last().by = newer
		s.publish(tokens(rootKey))
		s.publish(tokens(rootKey), later(others(rootKey), 1))
	})
	accept("with-a-key-fewer", "K9", "a later list has the newest certificate and fewer of the others", func(s *story) {
		s.last().by = newer
		s.publish(tokens(rootKey), later(others(rootKey), minute))
		s.publish(later(others(rootKey), minute))
	})
	accept("after-a-restart", "K9", "a list is newer than the certificates with which the reader begins", func(s *story) {
		s.last().by = newer
		s.certify(rootKey, tokensKey.public(), "tokens", now-30*day, now+60*day)
		s.publish(tokens(rootKey), later(others(rootKey), minute))
	})

	refuse := func(name, rule, reason, description string, tell func(*story)) {
		b.refuse("lists/"+name, rule, reason, description, told, tell)
	}
	refuse("token-of-a-key-that-was-taken-away", "K5", "unknown-signer", "a later list lacks the key that signed", func(s *story) {
		s.publish(tokens(rootKey), later(others(rootKey), minute))
		s.publish(later(others(rootKey), minute))
	})
	refuse("token-of-a-key-that-was-left-out", "K5", "unknown-signer", "the list has a certificate of the key, of a root that nobody pinned", func(s *story) {
		s.publish(tokens(stranger), others(rootKey))
	})
	refuse("token-of-a-key-of-the-replaced-root", "K5", "unknown-signer", "the root that was replaced certified the key, and its successor did not", func(s *story) {
		s.publish(wordOf(rootKey, next.public()), tokens(rootKey), others(next))
	})

	refuse("word-forged", "K7", "bad-signature", "a stranger signed the word of the pinned root", func(s *story) {
		forged := wordOf(rootKey, stranger.public())
		forged.sign = stranger.sign
		s.publish(forged, tokens(rootKey), tokens(stranger))
	})
	refuse("word-changed-after-signing", "K7", "bad-signature", "the pinned root signed a word for another successor", func(s *story) {
		changed := wordOf(rootKey, stranger.public())
		changed.sign = func(string) []byte {
			signed := wordOf(rootKey, next.public()).text()
			return rootKey.sign(signed[:strings.LastIndexByte(signed, '.')])
		}
		s.publish(changed, tokens(rootKey), tokens(stranger))
	})
	refuse("second-word-forged", "K7", "bad-signature", "the pinned root names another, and a stranger signed that one's word", func(s *story) {
		forged := wordOf(next, stranger.public())
		forged.sign = stranger.sign
		s.publish(wordOf(rootKey, next.public()), forged, tokens(next), tokens(stranger))
	})

	refuse("of-a-stranger", "K8", "bad-record", "nobody pinned the root of any certificate", func(s *story) { s.publish(tokens(stranger), records(stranger)) })
	refuse("word-alone", "K8", "bad-record", "a word and no certificate", func(s *story) { s.publish(wordOf(rootKey, next.public())) })
	refuse("nothing-of-the-successor", "K8", "bad-record", "the root is replaced, and all certificates are of the one before", func(s *story) {
		s.publish(wordOf(rootKey, next.public()), tokens(rootKey), records(rootKey))
	})
	refuse("back-to-the-replaced-root", "K8", "bad-record", "the root was replaced with an earlier list; a later one is of the old root again", func(s *story) {
		s.publish(wordOf(rootKey, next.public()), tokens(next))
		s.publish(later(tokens(rootKey), minute))
	})
	refuse("too-long", "K8", "bad-record", "more than 65536 bytes", func(s *story) {
		s.publish(append(many(tokens(rootKey), 65536), tokens(rootKey))...)
	})
	refuse("junk", "K8", "bad-token", "one of the documents is none", func(s *story) {
		junk := tokens(rootKey)
		junk.after = func(string) string { return "junk" }
		s.publish(tokens(rootKey), junk)
	})
	refuse("separator-at-end", "K8", "bad-token", "nothing follows the last separator", func(s *story) {
		last := tokens(rootKey)
		last.after = suffix("~")
		s.publish(last)
	})
	refuse("other-separator", "K8", "bad-token", "a line break between two certificates", func(s *story) {
		first := tokens(rootKey)
		first.after = suffix("\n" + records(rootKey).text())
		s.publish(first)
	})
	refuse("certificate-of-another-root-malformed", "K8", "bad-token", "what would be left out has to be well formed all the same", func(s *story) {
		s.publish(tokens(rootKey), certified(stranger, newer.public(), "everything"))
	})
	refuse("word-of-another-root-malformed", "K8", "bad-token", "a stranger's word that it succeeds itself", func(s *story) {
		s.publish(tokens(rootKey), wordOf(stranger, stranger.public()))
	})
	refuse("word-for-itself", "K8", "bad-token", "the pinned root is its own successor", func(s *story) {
		s.publish(tokens(rootKey), wordOf(rootKey, rootKey.public()))
	})
	refuse("word-for-nobody", "K8", "bad-token", "no successor", func(s *story) { s.publish(tokens(rootKey), wordOf(rootKey, "")) })
	refuse("word-for-a-user-key", "K8", "bad-token", "a root is an account key", func(s *story) {
		s.publish(tokens(rootKey), wordOf(rootKey, key{userKey, next.seed}.public()))
	})
	refuse("word-for-a-weak-key", "D6", "bad-token", "the successor is "+weak[0].what, func(s *story) {
		s.publish(tokens(rootKey), wordOf(rootKey, nkey(accountKey, weak[0].raw)))
	})
	refuse("word-of-a-user-key", "K8", "bad-token", "who is replaced is an account key too", func(s *story) {
		s.publish(tokens(rootKey), wordOf(key{userKey, rootKey.seed}, next.public()))
	})
	refuse("word-with-an-unknown-member", "K8", "bad-token", "an unknown member: a word has no end", func(s *story) {
		long := wordOf(rootKey, next.public())
		long.add("", member{"exp", number(now + day)})
		s.publish(tokens(rootKey), tokens(next), long)
	})
	refuse("word-without-a-successor", "K8", "bad-token", "the member is missing", func(s *story) {
		short := wordOf(rootKey, next.public())
		short.drop("root")
		s.publish(tokens(rootKey), tokens(next), short)
	})
	refuse("successor-is-a-signing-key", "K8", "bad-token", "another pinned root certifies the successor: a root that signs online (K3)", func(s *story) {
		s.roots = append(s.roots, third.public())
		s.publish(wordOf(rootKey, next.public()), tokens(third), certified(third, next.public(), "records"))
	})
	refuse("two-purposes", "K8", "bad-token", "one key for two purposes (K4)", func(s *story) {
		s.publish(tokens(rootKey), certified(rootKey, tokensKey.public(), "records"))
	})
	refuse("passport", "K8", "wrong-kind", "a genuine passport among the certificates", func(s *story) {
		s.publish(tokens(rootKey), three().links[1].passportDoc)
	})
	refuse("trust-document", "K8", "wrong-kind", "the root signed it, and it is neither a certificate nor a word", func(s *story) {
		s.publish(tokens(rootKey), trusting().document)
	})
	refuse("document-too-large", "K8", "too-large", "a certificate of more than 32768 bytes, in a list that is not too long", func(s *story) {
		large := records(rootKey)
		large.add("", member{"x", text(strings.Repeat("x", 25000))})
		s.publish(tokens(rootKey), large)
	})
	refuse("certificate-forged", "K8", "bad-signature", "a stranger signed a certificate of the pinned root (K2)", func(s *story) {
		forged := others(rootKey)
		forged.sign = stranger.sign
		s.publish(tokens(rootKey), forged)
	})
	refuse("certificate-of-the-successor-forged", "K8", "bad-signature", "likewise of the root that takes its place", func(s *story) {
		forged := others(next)
		forged.sign = stranger.sign
		s.publish(wordOf(rootKey, next.public()), tokens(next), forged)
	})

	refuse("older", "K9", "bad-record", "the list from before a key was added", func(s *story) {
		s.publish(tokens(rootKey), later(others(rootKey), 1))
		s.publish(tokens(rootKey))
	})
	refuse("older-after-a-restart", "K9", "bad-record", "the certificates with which the reader begins are newer", func(s *story) {
		s.certify(rootKey, tokensKey.public(), "tokens", now-30*day, now+60*day)
		s.certDocs[0].set("iat", number(now+1))
		s.publish(others(rootKey))
	})
	refuse("newest-taken-away", "K9", "bad-record", "the newest certificate is gone, so this list cannot be told from an older one", func(s *story) {
		s.publish(tokens(rootKey), later(records(rootKey), minute), later(others(rootKey), 2*minute))
		s.publish(tokens(rootKey), later(records(rootKey), minute))
	})
	refuse("newer-by-another-root", "K9", "bad-record", "an older list with a stranger's new certificate, which does not count for its age", func(s *story) {
		s.publish(tokens(rootKey), later(others(rootKey), minute))
		s.publish(tokens(rootKey), later(records(stranger), day))
	})
	refuse("newer-by-a-word", "K9", "bad-record", "an older list with a new word of another root, which does not count for its age", func(s *story) {
		s.publish(tokens(rootKey), later(others(rootKey), minute))
		s.publish(tokens(rootKey), later(wordOf(third, next.public()), day))
	})
	refuse("taken-away-comes-back", "K9", "bad-record", "a certificate that the second list lacked is in the third, as it was in the first", func(s *story) {
		s.publish(tokens(rootKey), later(others(rootKey), minute))
		s.publish(later(others(rootKey), minute))
		s.publish(tokens(rootKey), later(others(rootKey), minute))
	})
	refuse("taken-away-comes-back-in-a-newer-list", "K9", "bad-record", "also where a newer certificate comes with it", func(s *story) {
		s.publish(tokens(rootKey), later(others(rootKey), minute))
		s.publish(later(others(rootKey), minute))
		s.publish(tokens(rootKey), later(others(rootKey), minute), later(records(rootKey), 2*minute))
	})
	refuse("taken-away-since-the-start-comes-back", "K9", "bad-record", "also where the reader began with it", func(s *story) {
		s.certify(rootKey, tokensKey.public(), "tokens", now-30*day, now+60*day)
		s.publish(later(others(rootKey), minute))
		s.publish(tokens(rootKey), later(others(rootKey), minute))
	})
}

// many is one document as often as a list of n bytes has room for it.
func many(d *document, n int) []*document {
	out := make([]*document, (n+1)/(len(d.text())+1))
	for i := range out {
		out[i] = d
	}
	return out
}
