package envelope

import (
	"strconv"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// maxNumber bounds every number of the format to what a double holds exactly,
// so that no implementation in any language reads another one.
const maxNumber = 1<<53 - 1

// keyLen is the length of a public nkey.
const keyLen = 56

func malformed(format string, args ...any) error {
	return denial.New(denial.BadEnvelope, format, args...)
}

// appendText writes f in its one encoding. It checks nothing: validate does.
func appendText(b []byte, f *Fields) []byte {
	b = append(b, "v=1;from="...)
	b = append(b, f.From.String()...)
	b = append(b, ";key="...)
	b = append(b, f.Key...)
	b = append(b, ";ts="...)
	b = strconv.AppendInt(b, f.Time.UnixMilli(), 10)
	b = append(b, ";nonce="...)
	b = append(b, f.Nonce...)
	b = append(b, ";corr="...)
	b = append(b, f.Correlation...)
	b = appendOptional(b, ";parent=", f.Parent)
	b = append(b, ";ep="...)
	b = appendEpoch(b, f.Epoch)
	b = append(b, ";hop="...)
	b = strconv.AppendInt(b, int64(f.Hop), 10)
	b = appendOptional(b, ";tok=", f.Token)
	b = appendOptional(b, ";ob=", f.OnBehalf)
	if f.Deadline != 0 {
		b = append(b, ";dl="...)
		b = strconv.AppendInt(b, f.Deadline.Milliseconds(), 10)
	}
	b = appendOptional(b, ";ct=", f.ContentType)
	if !f.Body.IsZero() {
		b = append(b, ";body="...)
		b = appendBody(b, f.Body)
	}
	b = appendOptional(b, ";enc=", f.Enc.String())
	b = appendOptional(b, ";err=", f.Err)
	if !f.Part.IsZero() {
		b = append(b, ";part="...)
		b = appendPart(b, f.Part)
	}
	return appendOptional(b, ";hd=", f.HeaderDigest)
}

func appendOptional(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return append(append(b, name...), value...)
}

func appendEpoch(b []byte, e Epoch) []byte {
	b = strconv.AppendUint(b, e.Agent, 10)
	return strconv.AppendUint(append(b, '.'), e.Instance, 10)
}

func appendPart(b []byte, p Part) []byte {
	b = strconv.AppendInt(b, int64(p.Number), 10)
	if p.Last {
		b = strconv.AppendInt(append(b, '/'), int64(p.Number), 10)
	}
	if p.More {
		b = append(b, '+')
	}
	return b
}

func appendBody(b []byte, body Body) []byte {
	b = strconv.AppendInt(b, int64(body.Size), 10)
	return append(append(b, '.'), body.Digest...)
}

// scanner takes fields off the front of an envelope in the order of the table.
type scanner struct {
	rest  string
	ended bool
}

// take returns the value of the named field if it is the next one. No field has
// an empty value: what is not there is left out.
func (s *scanner) take(name string) (string, bool) {
	n := len(name)
	if s.ended || len(s.rest) <= n || s.rest[:n] != name || s.rest[n] != '=' {
		return "", false
	}
	value, rest := s.rest[n+1:], ""
	end := strings.IndexByte(value, ';')
	if end >= 0 {
		value, rest = value[:end], value[end+1:]
	}
	if value == "" {
		return "", false
	}
	s.rest, s.ended = rest, end < 0
	return value, true
}

// decode reads an envelope. Every value has its own grammar, all of which lie
// within [A-Za-z0-9._:/+-], and one spelling; so whatever decodes also encodes
// to the same bytes.
func decode(text string) (Fields, error) {
	var f Fields
	s := scanner{rest: text}
	v, ok := s.take("v")
	if !ok {
		return f, malformed("does not begin with a version")
	}
	if v != "1" {
		if _, ok := number(v, maxNumber); ok {
			return f, denial.New(denial.BadVersion, "version %s is not spoken here", v)
		}
		return f, malformed("version is not a number")
	}
	if v, ok = s.take("from"); !ok {
		return f, misplaced("from")
	}
	var err error
	if f.From, err = agentid.Parse(v); err != nil {
		return f, malformed("from: %w", err)
	}
	if f.Key, ok = s.take("key"); !ok {
		return f, misplaced("key")
	}
	if v, ok = s.take("ts"); !ok {
		return f, misplaced("ts")
	}
	ms, ok := number(v, maxNumber)
	if !ok {
		return f, malformed("ts is not milliseconds")
	}
	f.Time = time.UnixMilli(int64(ms)).UTC()
	if f.Nonce, ok = s.take("nonce"); !ok {
		return f, misplaced("nonce")
	}
	if f.Correlation, ok = s.take("corr"); !ok {
		return f, misplaced("corr")
	}
	f.Parent, _ = s.take("parent")
	if v, ok = s.take("ep"); !ok {
		return f, misplaced("ep")
	}
	if f.Epoch, ok = parseEpoch(v); !ok {
		return f, malformed("ep is not two numbers joined by a dot")
	}
	if v, ok = s.take("hop"); !ok {
		return f, misplaced("hop")
	}
	hop, ok := number(v, maxNumber)
	if !ok {
		return f, malformed("hop is not a number")
	}
	f.Hop = int(min(hop, limits.Hops+1)) // too many either way
	f.Token, _ = s.take("tok")
	f.OnBehalf, _ = s.take("ob")
	if v, ok = s.take("dl"); ok {
		budget, ok := number(v, uint64(limits.Budget.Milliseconds()))
		if !ok || budget == 0 {
			return f, malformed("dl is not 1 to %d milliseconds", limits.Budget.Milliseconds())
		}
		f.Deadline = time.Duration(budget) * time.Millisecond
	}
	f.ContentType, _ = s.take("ct")
	if v, ok = s.take("body"); ok {
		if f.Body, ok = parseBody(v); !ok {
			return f, malformed("body is not 1 to %d bytes and a digest", limits.Body)
		}
	}
	if v, ok = s.take("enc"); ok {
		if v != encX1 {
			return f, malformed("enc is not %s", encX1)
		}
		f.Enc = X1
	}
	f.Err, _ = s.take("err")
	if v, ok = s.take("part"); ok {
		if f.Part, ok = parsePart(v); !ok {
			return f, malformed("part is not a number, N+ in a piece that goes on, or N/N on the last one")
		}
	}
	f.HeaderDigest, _ = s.take("hd")
	if !s.ended {
		return f, malformed("unknown, doubled or misplaced field at %.24q", s.rest)
	}
	return f, validate(&f)
}

// validate checks every value against its grammar: of what was read, and of what
// is about to be signed, where a content type such as "a;err=b" must not become
// a field of its own.
func validate(f *Fields) error {
	var raw [32]byte
	ms := f.Time.UnixMilli()
	switch {
	case f.From.IsZero():
		return malformed("from is empty")
	case !isUserKey(f.Key):
		return malformed("key is not a public user nkey")
	case ms < 0 || ms > maxNumber:
		return malformed("ts is out of range")
	case !decodeExact(raw[:idBytes], f.Nonce):
		return malformed("nonce is not 128 bits in base64url")
	case !decodeExact(raw[:idBytes], f.Correlation):
		return malformed("corr is not 128 bits in base64url")
	case f.Parent != "" && !decodeExact(raw[:idBytes], f.Parent):
		return malformed("parent is not 128 bits in base64url")
	case f.Epoch.Agent > maxNumber || f.Epoch.Instance > maxNumber:
		return malformed("ep is out of range")
	case f.Hop < 0:
		return malformed("hop is negative")
	case f.Token != "" && !decodeExact(raw[:], f.Token):
		return malformed("tok is not a digest")
	case f.OnBehalf != "" && !isBehalf(f.OnBehalf):
		return malformed("ob is not 1 to %d digests", limits.Behalf)
	case f.Deadline != 0 && f.Deadline < time.Millisecond || f.Deadline > limits.Budget:
		return malformed("dl is not 1 ms to %v", limits.Budget)
	case f.ContentType != "" && !isContentType(f.ContentType):
		return malformed("ct is not a content type of at most %d characters", limits.ContentType)
	case !f.Body.IsZero() && (f.Body.Size < 1 || f.Body.Size > limits.Body || !decodeExact(raw[:], f.Body.Digest)):
		return malformed("body is not 1 to %d bytes and a digest", limits.Body)
	case f.Err != "" && !isErrorCode(f.Err):
		return malformed("err is not an error code of at most %d characters", limits.ErrorCode)
	case !f.Part.IsZero() && (f.Part.Number < 1 || f.Part.Number > limits.Parts):
		return malformed("part is not 1 to %d", limits.Parts)
	case f.Part.Last && f.Part.More:
		return malformed("part is the last one and goes on")
	case f.HeaderDigest != "" && !decodeExact(raw[:], f.HeaderDigest):
		return malformed("hd is not a digest")
	}
	return nil
}

// checkHops stands apart from validate: a message has gone too far only if it is
// one.
func checkHops(f *Fields) error {
	if f.Hop > limits.Hops {
		return denial.New(denial.Loop, "more than %d hops", limits.Hops)
	}
	return nil
}

func misplaced(name string) error {
	return malformed("%s is missing or out of order", name)
}

// number reads a decimal without sign or leading zeros, at most most.
func number(s string, most uint64) (uint64, bool) {
	if len(s) == 0 || len(s) > 16 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + uint64(d)
	}
	return n, n <= most
}

func parseEpoch(s string) (Epoch, bool) {
	agent, instance, ok := strings.Cut(s, ".")
	if !ok {
		return Epoch{}, false
	}
	a, ok := number(agent, maxNumber)
	if !ok {
		return Epoch{}, false
	}
	i, ok := number(instance, maxNumber)
	if !ok {
		return Epoch{}, false
	}
	return Epoch{a, i}, true
}

func parsePart(s string) (Part, bool) {
	s, more := strings.CutSuffix(s, "+")
	first, count, last := strings.Cut(s, "/")
	n, ok := number(first, limits.Parts)
	if !ok || n == 0 || last && (count != first || more) {
		return Part{}, false
	}
	return Part{Number: int(n), Last: last, More: more}, true
}

func parseBody(s string) (Body, bool) {
	size, digest, ok := strings.Cut(s, ".")
	n, valid := number(size, limits.Body)
	if !ok || !valid || n == 0 {
		return Body{}, false
	}
	return Body{Size: int(n), Digest: digest}, true
}

// isUserKey checks the form only; Parse decodes the key. Fifty-six characters
// hold prefix, key and checksum with no bit to spare, but three bits of the
// prefix byte are free to nkeys, so that a key has eight spellings to it. Here
// they are zero, which shows in the second character.
func isUserKey(s string) bool {
	if len(s) != keyLen || s[0] != 'U' || s[1] < 'A' || s[1] > 'D' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func isContentType(s string) bool {
	if len(s) > limits.ContentType {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("._:/+-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// isErrorCode reports whether s, not empty, has the form of the codes in package
// denial.
func isErrorCode(s string) bool {
	if len(s) > limits.ErrorCode || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
