package envelope

import (
	"crypto/sha256"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
)

// Fields is what an envelope says. Values in it are claims of whoever wrote
// them until a [Verified] hands them out.
type Fields struct {
	// From is the sending agent.
	From agentid.ID
	// Key is the signing nkey ("U…"), which names the instance. Sign fills it in.
	Key string
	// Time is the sender's clock, in whole milliseconds (finer parts are cut off).
	Time time.Time
	// Nonce names this one message; see NewNonce.
	Nonce string
	// Correlation names the call tree; see NewCorrelation. It is the sender's
	// word: whoever draws a tree follows Parent and checks who was called.
	Correlation string
	// Parent is the nonce of the message that caused this one; for a reply, the
	// request's. Empty at the root of a tree.
	Parent string
	// Epoch is the sender's epoch.
	Epoch Epoch
	// Hop is the depth in the call tree, 0 for a first call, at most
	// limits.Hops. A reply has that of its request.
	Hop int
	// Token is the digest of the capability chain that authorises the message.
	Token string
	// OnBehalf names the chains whose holders' rights limit this call, by their
	// digests joined with dots: those on whose behalf it is made, the first caller
	// first. See Principals and Behalf.
	OnBehalf string
	// Deadline is how long the caller waits, counted from Time, in whole
	// milliseconds; 0 where it says nothing.
	Deadline time.Duration
	// ContentType says what the payload is where it is not plain bytes.
	ContentType string
	// Body says what the payload of a request is that comes in messages of its own
	// once a handler has taken it; the request itself is then empty.
	Body Body
	// Enc says that the payload, of an ask the whole one, is sealed to its
	// recipient (docs/spec/sealed.md).
	Enc Enc
	// Err is a stable error code, on a reply only.
	Err string
	// Part is this message's place in a streamed reply, or in the body of a
	// request.
	Part Part
	// HeaderDigest is base64url of SHA-256 over the application's headers, if
	// there are any. Sign fills it in.
	HeaderDigest string
}

// Epoch is what rises when authority shrinks: the agent's and the instance's.
type Epoch struct{ Agent, Instance uint64 }

// String returns the form that the envelope uses: "3.1".
func (e Epoch) String() string { return string(appendEpoch(nil, e)) }

// ParseEpoch reads the form that String gives, and no other.
func ParseEpoch(s string) (Epoch, error) {
	e, ok := parseEpoch(s)
	if !ok {
		return Epoch{}, malformed("epoch %.44q is not two numbers joined by a dot", s)
	}
	return e, nil
}

// Covers reports whether neither part of e lies below that of current, which is
// when a message of epoch e may still be accepted.
func (e Epoch) Covers(current Epoch) bool {
	return e.Agent >= current.Agent && e.Instance >= current.Instance
}

// Body is what a request promises of the payload that it sends in parts. The zero
// Body says that the request carries its payload itself.
type Body struct {
	Size   int    // in bytes: 1 to limits.Body
	Digest string // base64url of SHA-256 over the whole payload
}

// BodyOf returns what a request says of a payload that it sends in parts. Sign
// refuses the fields if it is empty or larger than limits.Body.
func BodyOf(payload []byte) Body {
	sum := sha256.Sum256(payload)
	return Body{len(payload), b64.EncodeToString(sum[:])}
}

// IsZero reports whether the request carries its payload itself.
func (b Body) IsZero() bool { return b == Body{} }

// String returns the form that the envelope uses: "<bytes>.<digest>".
func (b Body) String() string { return string(appendBody(nil, b)) }

// Enc says how a payload is encrypted. There is one way, so that a value that
// nobody could open cannot be made.
type Enc bool

// X1 is the sealed payload of docs/spec/sealed.md; the zero Enc is a payload that
// everybody on its way can read.
const X1 Enc = true

// encX1 is what the envelope says for X1.
const encX1 = "x1"

// String returns the form that the envelope uses, "x1"; nothing for the zero Enc.
func (e Enc) String() string {
	if e {
		return encX1
	}
	return ""
}

// Part is a message's place in a streamed reply or in the body of a request. The
// zero Part says that the reply is not streamed. Last and More exclude each other.
type Part struct {
	Number int  // from 1
	Last   bool // nothing follows
	More   bool // of replies: the piece of content goes on in a later part
}

// IsZero reports whether the message is no part of a stream.
func (p Part) IsZero() bool { return p == Part{} }

// String returns the form that the envelope uses: "3", "3+" where its piece goes
// on, and "7/7" for the last of seven.
func (p Part) String() string { return string(appendPart(nil, p)) }
