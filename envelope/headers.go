package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// The two headers of the mesh, in the only case that is accepted.
const (
	HeaderEnvelope  = "Mesh-Envelope"
	HeaderSignature = "Mesh-Signature"
)

// HeaderMsgID is the header by which JetStream deduplicates. A sender may set
// it, after Sign, to the nonce and to nothing else.
const HeaderMsgID = "Nats-Msg-Id"

// headersLine begins what hd hashes, so that nothing else the mesh hashes can
// be taken for a list of headers.
const headersLine = "sealmesh-headers-v1\n"

// reserved reports whether a header cannot be the application's: servers add
// and strip Nats-… ones, Mesh-… ones are ours, the trace headers are hints.
func reserved(name string) bool {
	return hasPrefixFold(name, "nats-") || hasPrefixFold(name, "mesh-") ||
		equalFold(name, "traceparent") || equalFold(name, "tracestate")
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && equalFold(s[:len(prefix)], prefix)
}

// equalFold compares s with lower regardless of the case of ASCII letters. That
// of other letters does not count: strings.EqualFold takes a long s for an s, and
// not every reader would.
func equalFold(s, lower string) bool {
	if len(s) != len(lower) {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// tally is what one look over the headers of a received message finds.
type tally struct {
	app, appBytes, system int
	bad                   string // the first offender in order of names
}

func (t *tally) blame(name string) {
	if t.bad == "" || name < t.bad {
		t.bad = name
	}
}

// checkHeaders looks over the headers of a received message without trusting any
// of them: limits first, then names. The verdict does not depend on the order in
// which a map is walked.
func checkHeaders(h map[string][]string) error {
	if len(h) > 2+limits.AppHeaders+limits.SystemHeaders {
		return denial.New(denial.TooLarge, "%d headers", len(h))
	}
	for i, name := range [...]string{HeaderEnvelope, HeaderSignature} {
		most := [...]int{limits.Envelope, limits.Signature}[i]
		if v := h[name]; len(v) == 1 && len(v[0]) > most {
			return denial.New(denial.TooLarge, "%s of %d bytes, of %d", name, len(v[0]), most)
		}
	}
	var t tally
	for name, values := range h {
		switch {
		case name == HeaderEnvelope || name == HeaderSignature:
		case hasPrefixFold(name, "mesh-"):
			// Another spelling of ours, which some other reader might take for
			// the one that counts, or one that this version does not know.
			t.blame(name)
		case name == HeaderMsgID:
			if len(values) != 1 {
				t.blame(name)
			}
			t.system += len(values)
		case equalFold(name, "nats-msg-id"):
			t.blame(name)
			t.system += len(values)
		case reserved(name):
			t.system += len(values)
		default:
			if t.app += len(values); t.app <= limits.AppHeaders {
				for _, v := range values {
					t.appBytes += len(name) + len(v)
				}
			}
		}
	}
	switch {
	case t.app > limits.AppHeaders || t.system > limits.SystemHeaders:
		return denial.New(denial.TooLarge, "%d application and %d other header lines", t.app, t.system)
	case t.appBytes > limits.AppHeaderBytes:
		return denial.New(denial.TooLarge, "application headers of %d bytes", t.appBytes)
	case t.bad != "":
		return malformed("header %.40q is not one that a message may carry in this way", t.bad)
	}
	return nil
}

// appNames returns the names of the application's headers, sorted; a name
// without values is not on the wire and so not there.
func appNames(h map[string][]string) []string {
	var names []string
	for name, values := range h {
		if len(values) > 0 && !reserved(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// checkApp refuses headers that would not reach the other side as they are, or
// that a reader could take for something else: NATS clients trim spaces, turn
// line breaks into spaces and split at the first colon.
func checkApp(names []string, h map[string][]string) error {
	for _, name := range names {
		if !isHeaderName(name) {
			return malformed("header name %.40q is not a token", name)
		}
		for _, v := range h[name] {
			if !isHeaderValue(v) {
				return malformed("value of header %.40q has control characters or outer spaces", name)
			}
		}
	}
	return nil
}

func isHeaderName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

func isHeaderValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return s == strings.Trim(s, " \t")
}

// headerDigest hashes the named headers: for each in order its name, the number
// of its values and the values, every text with its length before it.
func headerDigest(names []string, h map[string][]string) [sha256.Size]byte {
	b := append(make([]byte, 0, 512), headersLine...)
	for _, name := range names {
		b = appendSized(b, name)
		b = binary.BigEndian.AppendUint32(b, uint32(len(h[name])))
		for _, v := range h[name] {
			b = appendSized(b, v)
		}
	}
	return sha256.Sum256(b)
}
