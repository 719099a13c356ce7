package seal

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// The first lines of what is bound: they keep a payload's keys apart from
// everything else that curve keys and digests are used for.
const (
	label        = "sealmesh-sealed-v1\n"
	labelContent = "sealmesh-sealed-content-v1\n"
)

const (
	request = "request"
	reply   = "reply"

	signerLen = 56 // a public nkey
	nonceLen  = 22 // 128 bits in base64url
	domainMax = 253
)

// Binding is what one sealed payload is for. Both sides put it together from the
// envelope; a receiver after it verified it. The zero Binding is for nothing.
type Binding struct {
	TrustDomain string     // of the mesh, never taken from the message
	Reply       bool       // the payload is of an answer, not of a request
	Signer      string     // public nkey ("U…") that signs the envelope
	Recipient   agentid.ID // agent to which it is sealed
	Nonce       string     // of the request: its own, or the one that is answered
	Piece       int        // of an answer the number of the piece, from 1; of a request 0
}

// complete reports whether the binding says everything that it must.
func (b Binding) complete() bool {
	placed := b.Piece == 0
	if b.Reply {
		placed = b.Piece >= 1 && b.Piece <= limits.Parts
	}
	return placed && b.TrustDomain != "" && len(b.TrustDomain) <= domainMax && len(b.Signer) == signerLen && b.Signer[0] == 'U' &&
		!b.Recipient.IsZero() && len(b.Nonce) == nonceLen
}

// bytes is the one encoding of the binding, each item behind its length as in the
// signed bytes of an envelope, so that no byte moves from one item to the next.
func (b Binding) bytes() []byte {
	direction := request
	if b.Reply {
		direction = reply
	}
	out := make([]byte, 0, len(label)+6*4+domainMax+len(request)+signerLen+64+nonceLen)
	out = append(out, label...)
	for _, item := range [...]string{b.TrustDomain, direction, b.Signer, b.Recipient.String(), b.Nonce} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(item)))
		out = append(out, item...)
	}
	if b.Reply {
		out = binary.BigEndian.AppendUint32(out, 4)
		out = binary.BigEndian.AppendUint32(out, uint32(b.Piece))
	}
	return out
}

// contentInfo is what the content's key is derived for: the binding, and the
// header with all its recipients.
func contentInfo(binding, header []byte) string {
	sum := sha256.Sum256(header)
	out := make([]byte, 0, len(labelContent)+2*4+len(binding)+len(sum))
	out = append(out, labelContent...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(binding)))
	out = append(out, binding...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(sum)))
	return string(append(out, sum[:]...))
}
