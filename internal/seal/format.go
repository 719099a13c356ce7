package seal

import (
	"bytes"
	"encoding/binary"
	"sort"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// The layout:
//
//	version, 1                           1 byte
//	number of recipients, 1 to 256       2 bytes, big-endian
//	for each, by ascending key:
//	    its public key                  32 bytes
//	    encapsulated key (HPKE enc)     32 bytes
//	    wrapped secret                  48 bytes
//	commitment                          32 bytes
//	content                             as long as the plain one, and 16 bytes
const (
	version = 1

	prologueLen   = 1 + 2
	encLen        = 32
	secretLen     = 32
	tagLen        = 16
	stanzaLen     = keyLen + encLen + secretLen + tagLen
	commitmentLen = 32
)

// Overhead is how many bytes longer a payload is that is sealed to that many
// recipients.
func Overhead(recipients int) int {
	return prologueLen + recipients*stanzaLen + commitmentLen + tagLen
}

// sealed is a payload taken apart. Nothing in it has been checked but its form.
// The slices are pieces of what was parsed.
type sealed struct {
	header     []byte // up to the last recipient
	commitment []byte
	content    []byte
}

// parse takes a payload apart. It copies nothing and allocates nothing.
func parse(b []byte) (sealed, error) {
	if len(b) > limits.Body {
		return sealed{}, denial.New(denial.CannotOpen, "longer than %d bytes", limits.Body)
	}
	if len(b) < Overhead(1) || b[0] != version {
		return sealed{}, malformed
	}
	n := int(binary.BigEndian.Uint16(b[1:]))
	if n < 1 || n > limits.Instances || len(b) < Overhead(n) {
		return sealed{}, malformed
	}
	end := prologueLen + n*stanzaLen
	s := sealed{header: b[:end:end], commitment: b[end : end+commitmentLen : end+commitmentLen], content: b[end+commitmentLen:]}
	for i := 1; i < n; i++ {
		// Ascending, so none twice, and one encoding for one set of recipients.
		if bytes.Compare(s.key(i-1), s.key(i)) >= 0 {
			return sealed{}, malformed
		}
	}
	return s, nil
}

var malformed = denial.New(denial.CannotOpen, "not a sealed payload in its one valid form")

func (s sealed) recipients() int { return (len(s.header) - prologueLen) / stanzaLen }

func (s sealed) stanza(i int) []byte { return s.header[prologueLen+i*stanzaLen:][:stanzaLen] }

func (s sealed) key(i int) []byte { return s.stanza(i)[:keyLen] }

// find returns what was wrapped for a recipient: enc and the wrapped secret. Who
// the recipients are everybody can read, so nothing is lost by how long it takes.
func (s sealed) find(r Recipient) ([]byte, bool) {
	i, ok := sort.Find(s.recipients(), func(i int) int { return bytes.Compare(r.key[:], s.key(i)) })
	if !ok {
		return nil, false
	}
	return s.stanza(i)[keyLen:], true
}
