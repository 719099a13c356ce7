package envelope

import (
	"crypto/ed25519"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Message is a message as it was received. A nats.Header is a valid Header.
// Nobody may change it while something parsed from it is in use.
type Message struct {
	Subject string
	Header  map[string][]string
	Data    []byte
	Reply   string // the NATS reply field: nobody signed it, and nothing goes there
}

// Unverified is a message whose syntax is right and which nobody has verified:
// everything in it is the claim of an unknown sender.
type Unverified struct {
	msg       Message
	text      string
	fields    Fields
	key       point
	nonce     nonce
	signature [ed25519.SignatureSize]byte
}

// Parse checks limits, syntax and version of a received message and nothing
// else. Where several things are wrong the reason is the first of these; within
// one of them all have the same: TooLarge, BadEnvelope for the headers,
// BadVersion, BadEnvelope for the fields, Loop, and for the signature's form
// BadEnvelope, BadVersion or BadSignature.
func Parse(m Message) (*Unverified, error) {
	if err := checkSizes(m.Subject, m.Data); err != nil {
		return nil, err
	}
	if err := checkHeaders(m.Header); err != nil {
		return nil, err
	}
	if m.Subject == "" {
		return nil, malformed("no subject")
	}
	text, err := only(m.Header, HeaderEnvelope)
	if err != nil {
		return nil, err
	}
	signature, err := only(m.Header, HeaderSignature)
	if err != nil {
		return nil, err
	}
	fields, err := decode(text)
	if err != nil {
		return nil, err
	}
	if err := checkClass(&fields, subject.ClassOf(m.Subject), m.Data); err != nil {
		return nil, err
	}
	// The server drops a message whose ID it knows, so whoever chooses an ID
	// freely can make another sender's message disappear.
	if id := m.Header[HeaderMsgID]; len(id) == 1 && id[0] != fields.Nonce {
		return nil, malformed("%s is not the nonce", HeaderMsgID)
	}
	u := &Unverified{msg: m, text: text, fields: fields}
	raw, err := nkeys.Decode(nkeys.PrefixByteUser, []byte(fields.Key))
	if err != nil || copy(u.key[:], raw) != len(u.key) || len(raw) != len(u.key) {
		return nil, malformed("key is not a public user nkey")
	}
	if !u.key.strict() {
		return nil, malformed("key is of small order or not canonical")
	}
	if err := checkHops(&fields); err != nil {
		return nil, err
	}
	if err := u.decodeSignature(signature); err != nil {
		return nil, err
	}
	decodeExact(u.nonce[:], fields.Nonce) // decode has checked it
	return u, nil
}

// only returns the one value of a header of ours.
func only(h map[string][]string, name string) (string, error) {
	values := h[name]
	if len(values) != 1 {
		return "", malformed("%d %s headers", len(values), name)
	}
	return values[0], nil
}

func (u *Unverified) decodeSignature(value string) error {
	if strings.HasPrefix(value, batchScheme) {
		return denial.New(denial.BadVersion, "batch signatures are not spoken here")
	}
	text, ok := strings.CutPrefix(value, scheme)
	if !ok || !decodeExact(u.signature[:], text) {
		return malformed("%s is not %s and 64 bytes in base64url", HeaderSignature, scheme)
	}
	if !formed(&u.signature) {
		return denial.New(denial.BadSignature, "signature is not in its one valid encoding")
	}
	return nil
}

// UnsafeFields returns what the envelope claims.
func (u *Unverified) UnsafeFields() Fields { return u.fields }

// UnsafeSubject returns the subject on which the message came.
func (u *Unverified) UnsafeSubject() string { return u.msg.Subject }

// UnsafeInstance returns the instance that the claimed key names.
func (u *Unverified) UnsafeInstance() agentid.Instance { return agentid.InstanceOf(u.fields.Key) }

// CheckSubject takes the subject apart and checks that it belongs to the sender
// that the envelope names: the broker vouches for the subject's sender token,
// the signature for from, and both must say the same. The last token of a reply,
// or of a part of a body, must be the nonce that it answers, and the instance of a beat or audit subject that
// of the key. Whether the subject belongs to the caller's subscription is the
// caller's to check. Refusals: WrongSubject, SenderMismatch.
func (u *Unverified) CheckSubject(space subject.Space) (subject.Parsed, error) {
	p, err := space.Parse(u.msg.Subject)
	if err != nil {
		return subject.Parsed{}, denial.New(denial.WrongSubject, "subject %.120q: %w", u.msg.Subject, err)
	}
	if p.Sender != u.fields.From {
		return subject.Parsed{}, denial.New(denial.SenderMismatch, "subject of %s, envelope of %s", p.Sender, u.fields.From)
	}
	switch p.Class {
	case subject.Reply, subject.Body:
		if p.Nonce != u.fields.Parent {
			return subject.Parsed{}, denial.New(denial.WrongSubject, "%s for %.24q on the subject of another message", p.Class, u.fields.Parent)
		}
	case subject.Beat, subject.Audit:
		if p.Instance != u.UnsafeInstance() {
			return subject.Parsed{}, denial.New(denial.SenderMismatch, "subject of instance %s, key of %s", p.Instance, u.UnsafeInstance())
		}
	}
	return p, nil
}

// CheckTime checks that the message is fresh at now, and that its sender still
// waits. For a stored message there is CheckStored.
// Refusals: Stale, Future, DeadlinePassed.
func (u *Unverified) CheckTime(now time.Time, w Window) error {
	if err := w.check(u.fields.Time, now); err != nil {
		return err
	}
	if d := u.fields.Deadline; d > 0 && now.Sub(u.fields.Time) >= d {
		return denial.New(denial.DeadlinePassed, "sent %v ago with %v to go", now.Sub(u.fields.Time), d)
	}
	return nil
}
