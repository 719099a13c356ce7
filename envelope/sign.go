package envelope

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// scheme begins the value of Mesh-Signature; batchScheme is specified and
// refused in this version.
const (
	scheme      = "ed25519:"
	batchScheme = "batch:"
)

// signatureLen is the length of a Mesh-Signature value.
const signatureLen = len(scheme) + 86

// Sign makes the headers of one message: the application's own (app, which may
// be nil) and the mesh's two. Fields.Key and Fields.HeaderDigest are filled in.
// The digest is what a reply to this message is bound to; request is that of the
// message which this one answers, and for a part of a body that of the invitation
// to send it; nil for anything else.
//
// Sign refuses with a denial whatever Parse would refuse at the other side.
// Afterwards the caller may add HeaderMsgID with the nonce, traceparent and
// tracestate to the returned map, and must not touch the rest.
func Sign(trustDomain string, k Signer, f Fields, subj string, app map[string][]string, payload []byte, request *Digest) (map[string][]string, Digest, error) {
	if !checkDomain(trustDomain) {
		return nil, Digest{}, fmt.Errorf("envelope: sign: no trust domain")
	}
	if err := checkSizes(subj, payload); err != nil {
		return nil, Digest{}, err
	}
	if subj == "" {
		return nil, Digest{}, malformed("no subject")
	}
	class := subject.ClassOf(subj)
	if err := binding(class, request); err != nil {
		return nil, Digest{}, err
	}
	key := k.PublicKey()
	if f.Key != "" && f.Key != key {
		return nil, Digest{}, malformed("key %.60q is not the signer's", f.Key)
	}
	names, err := signedNames(app)
	if err != nil {
		return nil, Digest{}, err
	}
	f.Key, f.HeaderDigest = key, ""
	if len(names) > 0 {
		hd := headerDigest(names, app)
		f.HeaderDigest = b64.EncodeToString(hd[:])
	}
	if err := validate(&f); err != nil {
		return nil, Digest{}, err
	}
	if err := checkClass(&f, class, payload); err != nil {
		return nil, Digest{}, err
	}
	if err := checkHops(&f); err != nil {
		return nil, Digest{}, err
	}
	var room [limits.Envelope + signatureLen]byte
	text := appendText(room[:0], &f)
	signed := appendSigned(make([]byte, 0, signedRoom), trustDomain, subj, text, payload, request)
	sig, err := k.Sign(signed)
	if err != nil {
		return nil, Digest{}, fmt.Errorf("envelope: sign: %w", err)
	}
	if len(sig) != ed25519.SignatureSize {
		return nil, Digest{}, fmt.Errorf("envelope: sign: signer gave %d bytes", len(sig))
	}
	both := string(b64.AppendEncode(append(text, scheme...), sig))
	header := make(map[string][]string, 2+len(names))
	n := len(text)
	values := []string{both[:n], both[n:]}
	header[HeaderEnvelope], header[HeaderSignature] = values[:1:1], values[1:]
	for _, name := range names {
		header[name] = slices.Clone(app[name])
	}
	return header, sha256.Sum256(signed), nil
}

// signedNames checks the application's headers before they are signed.
func signedNames(app map[string][]string) ([]string, error) {
	if len(app) == 0 {
		return nil, nil
	}
	if err := checkHeaders(app); err != nil {
		return nil, err
	}
	for name := range app {
		if reserved(name) {
			return nil, malformed("header %.40q is not the application's to set", name)
		}
	}
	names := appNames(app)
	return names, checkApp(names, app)
}

func checkSizes(subj string, payload []byte) error {
	switch {
	case len(subj) > limits.Subject:
		return denial.New(denial.TooLarge, "subject of %d bytes, of %d", len(subj), limits.Subject)
	case len(payload) > limits.Payload:
		return denial.New(denial.TooLarge, "payload of %d bytes, of %d", len(payload), limits.Payload)
	}
	return nil
}

// checkClass: some fields mean something in messages of some classes only, and
// there is no class in which they may mean something else.
func checkClass(f *Fields, class subject.Class, payload []byte) error {
	isReply, isBody, isAsk := class == subject.Reply, class == subject.Body, class == subject.Ask
	switch {
	case f.Err != "" && !isReply:
		return malformed("err on a message that is no reply")
	case !f.Part.IsZero() && !isReply && !isBody:
		return malformed("part on a message that is neither a reply nor of a body")
	case f.Part.More && !isReply:
		return malformed("part of a body that is a piece of something")
	case f.Parent == "" && (isReply || isBody):
		return malformed("a reply, or a part of a body, without parent")
	case f.Part.IsZero() && isBody:
		return malformed("a body without part")
	case !f.Body.IsZero() && !isAsk && class != subject.Call:
		return malformed("body on a message that is no request")
	case !f.Body.IsZero() && len(payload) > 0:
		return malformed("body on a request that has a payload")
	case bool(f.Enc) && !isAsk && !isReply:
		return malformed("enc on a message that is neither an ask nor a reply")
	}
	return nil
}
