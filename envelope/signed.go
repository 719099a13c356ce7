package envelope

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// signedLine begins everything that is signed as an envelope. An agent's nkey
// also signs connect nonces (base64url, no line break) and JWTs (which begin
// with "eyJ"), so that none of the three can be taken for another.
const signedLine = "sealmesh-envelope-v1\n"

// signedRoom holds the signed bytes of all but the longest subjects.
const signedRoom = 1024

// Digest is the SHA-256 of the signed bytes of one message. It is what the
// replies to a request are bound to, and the body of a request to the invitation
// to send it.
type Digest [sha256.Size]byte

// String returns the digest in base64url.
func (d Digest) String() string { return b64.EncodeToString(d[:]) }

// IsZero reports whether d is nobody's digest.
func (d Digest) IsZero() bool { return d == Digest{} }

// binding checks that a reply, or a part of a body, and nothing else, comes with
// the message that it answers. Without the check a receiver that forgot the request
// would take any reply of the right signer for its own.
func binding(class subject.Class, request *Digest) error {
	answers := class == subject.Reply || class == subject.Body
	switch {
	case answers && (request == nil || request.IsZero()):
		return denial.New(denial.UnmatchedReply, "a %s without the message that it answers", class)
	case !answers && request != nil:
		return denial.New(denial.WrongSubject, "a message of class %.40q answers nothing", class)
	}
	return nil
}

// checkDomain: without a trust domain a message of one mesh would be valid in
// every other.
func checkDomain(trustDomain string) bool {
	return trustDomain != "" && len(trustDomain) <= agentid.MaxTrustDomainLen
}

// appendSigned writes what the signature covers. Each item has its length before
// it and the bytes end with the last item, so that two lists of items never give
// the same bytes, and four items are never five.
func appendSigned[T string | []byte](b []byte, trustDomain, subj string, text T, payload []byte, request *Digest) []byte {
	b = append(b, signedLine...)
	b = appendSized(b, trustDomain)
	b = appendSized(b, subj)
	b = appendSized(b, text)
	hash := sha256.Sum256(payload)
	b = binary.BigEndian.AppendUint32(b, sha256.Size)
	b = append(b, hash[:]...)
	if request != nil {
		b = binary.BigEndian.AppendUint32(b, sha256.Size)
		b = append(b, request[:]...)
	}
	return b
}

func appendSized[T string | []byte](b []byte, s T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
