package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// trustFile is one file about a trust document. README.md says what each member
// means.
type trustFile struct {
	about
	Roots        []string `json:"roots"`
	Certificates []string `json:"certificates"`
	Lists        []string `json:"lists,omitempty"`
	TrustDomain  string   `json:"trust_domain"`
	Trust        string   `json:"trust"`
	Accept       *trusted `json:"accept,omitempty"`
	Refuse       string   `json:"refuse,omitempty"`
}

type trusted struct {
	Version int64    `json:"version"`
	Infra   []string `json:"infra"`
	Agent   []string `json:"agent"`
}

// trust is the content of a trust document; its roots are base64url.
type trust struct {
	by           key
	domain       string
	version      int64
	infra, agent []string
}

func (t *trust) fields() payload {
	p := append(head("trust", t.by), member{"trust_domain", text(t.domain)}, member{"version", number(t.version)}, member{"infra", list(t.infra)})
	if t.agent != nil {
		p = append(p, member{"agent", list(t.agent)})
	}
	return p
}

// trustStory is a file before it is written: who reads the document, and the
// document.
type trustStory struct {
	*story   // of its roots, certificates and lists
	domain   string
	trust    *trust
	document *document
}

const trustDomain = "mesh.example"

// trusting is the document that most of these files break.
func trusting() *trustStory {
	t := &trust{by: rootKey, domain: trustDomain, version: 7, infra: []string{x509Root("servers 1")}, agent: []string{x509Root("agents 1")}}
	return &trustStory{story: authority(), domain: trustDomain, trust: t, document: docOf(&t.by, t.fields)}
}

// derOf makes a certificate that its own key signed, from nothing but its name.
func derOf(name string, edit func(*x509.Certificate)) []byte {
	k := account("x509 " + name)
	id := seedOf("x509 serial " + name)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(append([]byte{1}, id[:15]...)), Subject: pkix.Name{CommonName: name}, SubjectKeyId: id[16:],
		NotBefore: time.Unix(now-day, 0).UTC(), NotAfter: time.Unix(now+3650*day, 0).UTC(),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(nil, template, template, k.private().Public(), k.private())
	if err != nil {
		panic(err) // the template is one
	}
	return der
}

func x509Root(name string) string { return b64(derOf(name, nil)) }

func x509Roots(name string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = x509Root(fmt.Sprintf("%s %d", name, i+1))
	}
	return out
}

func (b *book) addTrust(name, rule, description string, tell func(*trustStory)) (*trustFile, *trustStory) {
	s := trusting()
	if tell != nil {
		tell(s)
	}
	certificates, _, _ := s.write()
	f := &trustFile{
		about: about{Schema: trustSchema, Name: "trust/" + name, Section: sections[rule[0]], Rule: rule, Description: description},
		Roots: s.roots, Certificates: certificates, Lists: s.published(), TrustDomain: s.domain, Trust: s.document.text(),
	}
	b.trusts = append(b.trusts, f)
	return f, s
}

func (b *book) trust() {
	next := account("next authority root")
	accept := func(name, rule, description string, tell func(*trustStory)) {
		f, s := b.addTrust("valid-"+name, rule, description, tell)
		f.Accept = &trusted{Version: s.trust.version, Infra: []string{}, Agent: []string{}}
		for _, l := range []struct {
			from []string
			to   *[]string
		}{{s.trust.infra, &f.Accept.Infra}, {s.trust.agent, &f.Accept.Agent}} {
			for _, root := range l.from {
				der, err := base64.RawURLEncoding.DecodeString(root)
				if err != nil {
					panic(err) // a document that is accepted has none of these
				}
				*l.to = append(*l.to, digest(string(der)))
			}
		}
	}
	accept("roots-of-both", "R2", "one root of servers, one of agents", nil)
	accept("servers-alone", "R2", "a document that says nothing of agents' roots", func(s *trustStory) { s.trust.agent = nil })
	accept("first-version", "R2", "version 1", func(s *trustStory) { s.trust.version = 1 })
	accept("version-of-63-bits", "R2", "the highest version", func(s *trustStory) { s.trust.version = 1<<63 - 1 })
	accept("eight-roots-each", "R2", "as many as there may be", func(s *trustStory) {
		s.trust.infra, s.trust.agent = x509Roots("servers", 8), x509Roots("agents", 8)
	})
	accept("one-root-in-both-lists", "R2", "a root stands once in each list", func(s *trustStory) { s.trust.agent = s.trust.infra })
	accept("second-root", "R1", "the second of two pinned roots signed", func(s *trustStory) {
		s.roots = append(s.roots, next.public())
		s.trust.by = next
	})
	accept("successor", "R1", "the pinned root was replaced, and its successor signed", func(s *trustStory) {
		s.certDocs = nil
		s.publish(wordOf(rootKey, next.public()), certified(next, tokensKey.public(), "tokens"))
		s.trust.by = next
	})

	refuse := func(name, rule, reason, description string, tell func(*trustStory)) {
		f, _ := b.addTrust(name, rule, description, tell)
		f.Refuse = reason
	}
	by := func(name, description string, k key) {
		refuse(name, "R1", "unknown-signer", description, func(s *trustStory) { s.trust.by = k })
	}
	by("of-a-stranger", "nobody pinned the root that signed", stranger)
	by("of-a-tokens-key", "a tokens key signs tokens, and is online", tokensKey)
	by("of-a-records-key", "nor may a records key say who the servers are", recordsKey)
	by("of-an-instance", "nor an agent", agentKey("reader"))
	by("of-a-user-key-with-the-bytes-of-the-root", "the same 32 bytes as another kind of key are another key", key{userKey, rootKey.seed})
	refuse("of-nobody", "R1", "unknown-signer", "it names no signer", func(s *trustStory) { s.document.set("iss", text("")) })
	refuse("of-the-replaced-root", "R1", "unknown-signer", "the root was replaced, and signed once more", func(s *trustStory) {
		s.certDocs = nil
		s.publish(wordOf(rootKey, next.public()), certified(next, tokensKey.public(), "tokens"))
	})
	refuse("signed-by-a-stranger", "R1", "bad-signature", "a stranger signed and names the root", func(s *trustStory) { s.document.sign = stranger.sign })
	refuse("signed-by-a-records-key", "R1", "bad-signature", "a records key signed and names the root", func(s *trustStory) { s.document.sign = recordsKey.sign })
	refuse("changed-after-signing", "R1", "bad-signature", "the version was raised after the root signed", func(s *trustStory) {
		signed := s.document.text()
		s.document.set("version", "8")
		s.document.after = func(text string) string {
			return text[:strings.LastIndexByte(text, '.')] + signed[strings.LastIndexByte(signed, '.'):]
		}
	})

	bad := func(name, description string, tell func(*trustStory)) {
		refuse(name, "R2", "bad-token", description, tell)
	}
	set := func(name, member, value, description string) {
		bad(name, description, func(s *trustStory) { s.document.set(member, value) })
	}
	bad("of-another-mesh", "the root signs for two meshes, and this one is not the verifier's", func(s *trustStory) { s.domain = "other.example" })
	bad("of-a-mesh-below", "a trust domain below the verifier's is another", func(s *trustStory) { s.trust.domain = "a." + trustDomain })
	set("domain-empty", "trust_domain", text(""), "of no mesh")
	set("domain-in-capitals", "trust_domain", text("Mesh.example"), "the same name in another spelling")
	set("version-zero", "version", "0", "versions begin with 1")
	set("version-negative", "version", "-1", "version -1")
	set("version-of-64-bits", "version", "9223372036854775808", "one above 63 bits: an integer has a sign")
	set("version-of-all-64-bits", "version", "18446744073709551615", "the highest integer without a sign")
	set("version-above-64-bits", "version", "18446744073709551616", "more than 64 bits")
	set("version-text", "version", text("7"), "the version as text")
	set("version-float", "version", "7.0", "the version with a fraction")
	set("version-null", "version", "null", "the version is null")
	for _, name := range []string{"trust_domain", "version", "infra"} {
		bad("missing-"+strings.ReplaceAll(name, "_", "-"), "the member is missing", func(s *trustStory) { s.document.drop(name) })
	}
	set("no-root-of-servers", "infra", "[]", "no server could be trusted")
	set("roots-of-servers-null", "infra", "null", "null is no list")
	set("roots-of-servers-text", "infra", text(x509Root("servers 1")), "one root that is not in a list")
	set("root-null", "infra", "[null]", "null is no root")
	set("root-empty", "infra", `[""]`, "an empty entry")
	set("roots-of-agents-empty", "agent", "[]", "an optional member that is empty is left out")
	set("roots-of-agents-null", "agent", "null", "null is no list")
	bad("nine-roots-of-servers", "more than eight", func(s *trustStory) { s.trust.infra = x509Roots("servers", 9) })
	bad("nine-roots-of-agents", "more than eight", func(s *trustStory) { s.trust.agent = x509Roots("agents", 9) })
	bad("root-of-servers-twice", "one root twice in a list, with another between", func(s *trustStory) {
		s.trust.infra = append(x509Roots("servers", 2), x509Root("servers 1"))
	})
	bad("root-of-agents-twice", "one root twice in a list", func(s *trustStory) { s.trust.agent = append(s.trust.agent, s.trust.agent[0]) })
	bad("unknown-member", "an unknown member: a trust document has no end of its own", func(s *trustStory) {
		s.document.add("", member{"exp", number(now + day)})
	})
	bad("member-twice", "the version twice", func(s *trustStory) { s.document.add("infra", member{"version", "8"}) })
	bad("members-exchanged", "agents' roots before servers'", func(s *trustStory) {
		s.document.drop("agent")
		s.document.add("infra", member{"agent", list(s.trust.agent)})
	})

	// One entry that is no root, in each of the lists.
	spare := x509Root("servers 1")
	for n := 2; len(spare)%4 == 0; n++ { // until it has spare bits
		spare = x509Root(fmt.Sprintf("servers %d", n))
	}
	alphabet := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	plain := derOf("servers 1", nil)
	for _, x := range []struct{ name, entry, what string }{
		{"padded", spare + strings.Repeat("=", 4-len(spare)%4), "padded"},
		{"with-spare-bits", spare[:len(spare)-1] + string(alphabet[strings.IndexByte(alphabet, spare[len(spare)-1])+1]), "with a spare bit set"},
		{"with-a-line-break", b64(plain)[:64] + `\n` + b64(plain)[64:], "with a line break, which decoders skip"},
		{"with-a-space", b64(plain) + " ", "with a space"},
		{"in-the-standard-alphabet", strings.NewReplacer("-", "+", "_", "/").Replace(b64(plain)), "in the standard alphabet of base64"},
		{"in-hexadecimal", fmt.Sprintf("%x", plain), "in hexadecimal"},
		{"as-pem", b64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: plain})), "as PEM"},
		{"no-certificate", "AAAA", "no certificate"},
		{"cut-off", b64(plain[:len(plain)-1]), "one byte short"},
		{"with-a-byte-more", b64(append(append([]byte{}, plain...), 0)), "with a byte after it"},
		{"two-in-one", b64(append(append([]byte{}, plain...), derOf("servers 2", nil)...)), "two certificates, one after the other"},
		{"not-a-ca", b64(derOf("server", func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })), "a certificate that says that it is no CA's"},
		{"without-basic-constraints", b64(derOf("server", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false })), "a certificate that does not say whether it is a CA's"},
	} {
		if x.entry == spare || x.entry == b64(plain) {
			panic("an entry that is not changed: " + x.name)
		}
		bad("root-of-servers-"+x.name, "a root of servers: "+x.what, func(s *trustStory) { s.trust.infra = append(x509Roots("further servers", 1), x.entry) })
		bad("root-of-agents-"+x.name, "a root of agents: "+x.what, func(s *trustStory) { s.trust.agent = append(s.trust.agent, x.entry) })
	}
	refuse("is-a-certificate-of-a-signing-key", "R2", "wrong-kind", "the root's certificate of a tokens key", func(s *trustStory) { s.document = s.certDocs[0] })
	refuse("is-a-word", "R2", "wrong-kind", "the root's word that another takes its place", func(s *trustStory) { s.document = wordOf(rootKey, next.public()) })
	refuse("says-that-it-is-a-passport", "R2", "wrong-kind", "all else is as it should be", func(s *trustStory) { s.document.set("kind", text("passport")) })
	refuse("too-large", "R2", "too-large", "more than 32768 bytes", func(s *trustStory) {
		s.document.add("", member{"x", text(strings.Repeat("x", 25000))})
	})
}
