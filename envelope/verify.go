package envelope

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Verified is a message that the named key signed for this subject, payload and
// trust domain (and, for a reply or a part of a body, as an answer to this message). It says who sent it, not
// that the sender may: standing, authority and replay are checked beside it.
// Only Verify makes one; of the zero Verified and of nil every getter gives
// nothing.
type Verified struct {
	u      *Unverified
	digest Digest
	header map[string][]string
}

// Verify checks the signature. The key must come from the registry's record of
// the instance and must be the one that the envelope names; request is the
// digest of the message that this one answers: of the request for a reply, of the
// invitation for a part of a body, nil for anything else.
// Refusals: UnlistedKey, UnmatchedReply, WrongSubject, BadSignature, BadEnvelope.
func (u *Unverified) Verify(trustDomain string, key ed25519.PublicKey, request *Digest) (*Verified, error) {
	if !checkDomain(trustDomain) {
		return nil, denial.New(denial.BadSignature, "no trust domain to verify for")
	}
	if !bytes.Equal(key, u.key[:]) {
		return nil, denial.New(denial.UnlistedKey, "key %s is not the listed one", u.fields.Key)
	}
	if err := binding(subject.ClassOf(u.msg.Subject), request); err != nil {
		return nil, err
	}
	var room [signedRoom]byte
	signed := appendSigned(room[:0], trustDomain, u.msg.Subject, u.text, u.msg.Data, request)
	if !ed25519.Verify(key, signed, u.signature[:]) {
		return nil, denial.New(denial.BadSignature, "signature of %s does not verify", u.fields.From)
	}
	v := &Verified{u: u, digest: sha256.Sum256(signed)}
	if u.fields.HeaderDigest != "" {
		if err := v.cover(); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// cover checks the application's headers against hd and keeps a copy. Without
// hd nobody answers for them, and they go no further.
func (v *Verified) cover() error {
	h := v.u.msg.Header
	names := appNames(h)
	if len(names) == 0 {
		return denial.New(denial.BadSignature, "signed headers are missing")
	}
	if err := checkApp(names, h); err != nil {
		return err
	}
	sum := headerDigest(names, h)
	if b64.EncodeToString(sum[:]) != v.u.fields.HeaderDigest {
		return denial.New(denial.BadSignature, "headers are not the signed ones")
	}
	v.header = make(map[string][]string, len(names))
	for _, name := range names {
		v.header[name] = slices.Clone(h[name])
	}
	return nil
}

// IsZero reports whether v is nothing that Verify made.
func (v *Verified) IsZero() bool { return v == nil || v.u == nil }

// From returns the agent that sent the message.
func (v *Verified) From() agentid.ID { return v.Fields().From }

// Instance returns the instance that signed it.
func (v *Verified) Instance() agentid.Instance { return agentid.InstanceOf(v.Fields().Key) }

// Fields returns the envelope's fields.
func (v *Verified) Fields() Fields {
	if v.IsZero() {
		return Fields{}
	}
	return v.u.fields
}

// Subject returns the subject that was signed and on which the message came.
func (v *Verified) Subject() string {
	if v.IsZero() {
		return ""
	}
	return v.u.msg.Subject
}

// Data returns the payload; it is the received slice, not a copy.
func (v *Verified) Data() []byte {
	if v.IsZero() {
		return nil
	}
	return v.u.msg.Data
}

// Header returns the application's headers that the signature covers, nil where
// there are none. The map is the caller's own.
func (v *Verified) Header() map[string][]string {
	if v.IsZero() || v.header == nil {
		return nil
	}
	h := make(map[string][]string, len(v.header))
	for name, values := range v.header {
		h[name] = slices.Clone(values)
	}
	return h
}

// Digest returns what a reply to this message is bound to.
func (v *Verified) Digest() Digest {
	if v.IsZero() {
		return Digest{}
	}
	return v.digest
}

// Remaining returns how long the caller still waits at now, never more than it
// said, however far back the receiver's clock is; ok is false where it said
// nothing.
func (v *Verified) Remaining(now time.Time) (left time.Duration, ok bool) {
	f := v.Fields()
	if f.Deadline == 0 {
		return 0, false
	}
	return max(0, min(f.Deadline, f.Deadline-now.Sub(f.Time))), true
}
