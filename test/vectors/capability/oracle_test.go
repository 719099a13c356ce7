package capability_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sealmesh/sealmesh/denial"
)

// A second verifier, written from docs/spec/capability.md alone and for nothing
// but to be compared: it shares no code with the one in use, takes no short cuts
// and is slow. Each step carries the name of its rule.

// member is what the specification says of one member of a payload.
type member struct {
	name     string
	kind     byte // 's' text, 'i' integer, 'l' list of texts
	optional bool
}

var forms = map[string][]member{
	"successor": {{"kind", 's', false}, {"iss", 's', false}, {"iat", 'i', false}, {"root", 's', false}},
	"trust": {{"kind", 's', false}, {"iss", 's', false}, {"iat", 'i', false}, {"trust_domain", 's', false}, {"version", 'i', false},
		{"infra", 'l', false}, {"agent", 'l', true}},
	"signing-key": {{"kind", 's', false}, {"iss", 's', false}, {"iat", 'i', false}, {"nkey", 's', false}, {"purpose", 's', false}, {"nbf", 'i', false}, {"exp", 'i', false}},
	"passport":    {{"kind", 's', false}, {"iss", 's', false}, {"iat", 'i', false}, {"agent", 's', false}, {"nkey", 's', false}, {"curve", 's', false}},
	"token": {{"kind", 's', false}, {"iss", 's', false}, {"iat", 'i', false}, {"jti", 's', false}, {"agent", 's', false}, {"parent", 's', true},
		{"capabilities", 'l', false}, {"delegatable", 'l', false}, {"depth", 'i', false}, {"nbf", 'i', false}, {"exp", 'i', false}},
}

type document struct {
	text, signed string
	sig          []byte
	s            map[string]string
	i            map[string]int64
	l            map[string][]string
}

func unpack(s string) ([]byte, bool) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return b, err == nil && base64.RawURLEncoding.EncodeToString(b) == s // D2
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// read takes a document apart; the reason is empty where it is one.
func read(text, kind string) (*document, denial.Reason) {
	if len(text) > 32768 { // D7
		return nil, "too-large"
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 || parts[0] != "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ" { // D1, D3
		return nil, "bad-token"
	}
	payload, ok := unpack(parts[1])
	sig, right := unpack(parts[2])
	if !ok || !right || len(sig) != 64 { // D2, D3
		return nil, "bad-token"
	}
	d := &document{text: text, signed: parts[0] + "." + parts[1], sig: sig, s: map[string]string{}, i: map[string]int64{}, l: map[string][]string{}}
	p := &parser{string(payload)}
	if p.payload(d, forms[kind]) && d.s["kind"] == kind {
		return d, ""
	}
	// D5: an object of another kind, or D4.
	var object map[string]any
	if json.Unmarshal(payload, &object) == nil && object != nil {
		if k, named := object["kind"]; !named || k != any(kind) {
			if _, text := k.(string); text || !named {
				return nil, "wrong-kind"
			}
		}
	}
	return nil, "bad-token"
}

// parser reads the one valid encoding of a payload (D4).
type parser struct{ rest string }

func (p *parser) take(s string) bool {
	rest, ok := strings.CutPrefix(p.rest, s)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *parser) payload(d *document, form []member) bool {
	if !p.take("{") {
		return false
	}
	for n, m := range form {
		name := `"` + m.name + `":`
		if n > 0 {
			name = "," + name
		}
		if !p.take(name) {
			if m.optional {
				continue
			}
			return false
		}
		var ok bool
		switch m.kind {
		case 's':
			d.s[m.name], ok = p.text()
			ok = ok && !(m.optional && d.s[m.name] == "")
		case 'i':
			d.i[m.name], ok = p.integer()
		case 'l':
			d.l[m.name], ok = p.list()
			ok = ok && !(m.optional && len(d.l[m.name]) == 0)
		}
		if !ok {
			return false
		}
	}
	return p.rest == "}"
}

var escapes = map[string]rune{`\"`: '"', `\\`: '\\', `\b`: '\b', `\f`: '\f', `\n`: '\n', `\r`: '\r', `\t`: '\t'}

func (p *parser) text() (string, bool) {
	if !p.take(`"`) {
		return "", false
	}
	var out strings.Builder
	for {
		r, size := utf8.DecodeRuneInString(p.rest)
		switch {
		case size == 0 || r == utf8.RuneError && size == 1 || r < 0x20 || r == 0x2028 || r == 0x2029:
			return "", false
		case r == '"':
			p.rest = p.rest[1:]
			return out.String(), true
		case r != '\\':
			out.WriteRune(r)
			p.rest = p.rest[size:]
		case len(p.rest) >= 2 && escapes[p.rest[:2]] != 0:
			out.WriteRune(escapes[p.rest[:2]])
			p.rest = p.rest[2:]
		case len(p.rest) >= 6 && p.rest[1] == 'u':
			n, err := strconv.ParseUint(p.rest[2:6], 16, 32)
			short := n == '\b' || n == '\f' || n == '\n' || n == '\r' || n == '\t'
			if err != nil || p.rest[2:6] != strings.ToLower(p.rest[2:6]) || (n >= 0x20 || short) && n != 0x2028 && n != 0x2029 {
				return "", false
			}
			out.WriteRune(rune(n))
			p.rest = p.rest[6:]
		default:
			return "", false
		}
	}
}

var integerForm = regexp.MustCompile(`^(?:0|-?[1-9][0-9]*)`)

func (p *parser) integer() (int64, bool) {
	s := integerForm.FindString(p.rest)
	p.rest = p.rest[len(s):]
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func (p *parser) list() ([]string, bool) {
	if p.take("[]") {
		return []string{}, true
	}
	if !p.take("[") {
		return nil, false
	}
	var out []string
	for {
		s, ok := p.text()
		if !ok {
			return nil, false
		}
		out = append(out, s)
		if p.take("]") {
			return out, true
		}
		if !p.take(",") {
			return nil, false
		}
	}
}

// publicKey returns the bytes of a public nkey of the kind with this first byte (D6).
func publicKey(nkey string, kind byte) ([]byte, bool) {
	enc := base32.StdEncoding.WithPadding(base32.NoPadding)
	raw, err := enc.DecodeString(nkey)
	if err != nil || len(raw) != 35 || raw[0] != kind || enc.EncodeToString(raw) != nkey {
		return nil, false
	}
	crc := uint16(0)
	for _, b := range raw[:33] {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return raw[1:33], raw[33] == byte(crc) && raw[34] == byte(crc>>8)
}

const (
	isAccount = 0
	isUser    = 20 << 3
	isCurve   = 23 << 3
)

func signingKey(nkey string, kind byte) bool {
	raw, ok := publicKey(nkey, kind)
	return ok && belowPrime(raw) && !smallOrder(raw)
}

// verifies is rule D9.
func (d *document) verifies() bool {
	kind := byte(isUser)
	if strings.HasPrefix(d.s["iss"], "A") {
		kind = isAccount
	}
	raw, ok := publicKey(d.s["iss"], kind)
	r := d.sig[:32]
	return ok && belowPrime(r) && !dividesEight(r) && ed25519.Verify(raw, []byte(d.signed), d.sig)
}

type certified struct {
	purpose  string
	nbf, exp int64
}

type keyring map[string][]certified

func buildKeyring(roots, certificates []string) (keyring, denial.Reason) {
	for _, r := range roots {
		if !signingKey(r, isAccount) {
			return nil, "bad-input" // K0
		}
	}
	if len(roots) == 0 {
		return nil, "bad-input"
	}
	ring := keyring{}
	for _, text := range certificates {
		c, reason := read(text, "signing-key")
		if reason != "" {
			return nil, reason // K1
		}
		key, purpose := c.s["nkey"], c.s["purpose"]
		if fault := certificateFault(c); fault != "" {
			return nil, fault
		}
		if !slices.Contains(roots, c.s["iss"]) {
			return nil, "unknown-signer" // K2
		}
		if slices.Contains(roots, key) {
			return nil, "bad-token" // K3
		}
		if !c.verifies() {
			return nil, "bad-signature" // K2
		}
		for _, before := range ring[key] {
			if before.purpose != purpose {
				return nil, "bad-token" // K4
			}
		}
		ring[key] = append(ring[key], certified{purpose, c.i["nbf"], c.i["exp"]})
	}
	return ring, ""
}

// certificateFault is what a certificate alone can have, K1 and K3.
func certificateFault(c *document) denial.Reason {
	key, purpose := c.s["nkey"], c.s["purpose"]
	if !signingKey(key, isAccount) || purpose != "tokens" && purpose != "records" || !window(c) || key == c.s["iss"] {
		return "bad-token"
	}
	return ""
}

func window(d *document) bool {
	return 0 < d.i["nbf"] && d.i["nbf"] < d.i["exp"] && d.i["exp"] <= 253402300799
}

// until is when the last certificate ends that counts now; zero: none does (K5, K6).
func (k keyring) until(key, purpose string, now int64) (end int64) {
	for _, c := range k[key] {
		if c.purpose == purpose && c.nbf <= now && now < c.exp {
			end = max(end, c.exp)
		}
	}
	return end
}

var (
	agentForm = regexp.MustCompile(`\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\z`)
	scopeForm = regexp.MustCompile(`\A(?:(?:(handle):)?([a-z][a-z0-9-]*):|(publish|subscribe):)([a-z0-9][a-z0-9_-]*(?:\.[a-z0-9][a-z0-9_-]*){0,7})\z`)
	own       = []string{"handle", "publish", "subscribe", "admin", "self"}
)

// scopeFault is rules G1 to G4.
func scopeFault(s string) denial.Reason {
	if len(s) > 160 { // G4
		return "bad-scope"
	}
	if strings.ContainsAny(s, "*>") { // G2
		return "wildcard-scope"
	}
	// A word that stands for all, in what would be a scope with another word there.
	plain := regexp.MustCompile(`(?:\A|[:.])(?:all|any)(?:[:.]|\z)`)
	with := s
	for plain.MatchString(with) {
		with = plain.ReplaceAllStringFunc(with, func(m string) string {
			return strings.NewReplacer("all", "w", "any", "w").Replace(m)
		})
	}
	m := scopeForm.FindStringSubmatch(with)
	switch {
	case m == nil,
		m[1] != "" && slices.Contains(own, m[2]), // G3
		m[1] == "" && m[2] == "handle",
		(m[2] == "admin" || m[2] == "self") && strings.Contains(m[4], "."):
		return "bad-scope" // G1
	case with != s:
		return "wildcard-scope" // G2
	}
	return ""
}

func id(s string, n int) bool {
	b, ok := unpack(s)
	return ok && len(b) == n
}

// tokenFault is rules T1 to T11.
func tokenFault(t *document) denial.Reason {
	caps, del, depth := t.l["capabilities"], t.l["delegatable"], t.i["depth"]
	for _, s := range slices.Concat(caps, del) {
		if fault := scopeFault(s); fault != "" {
			return fault // T1
		}
	}
	parent, has := t.s["parent"]
	switch {
	case !id(t.s["jti"], 16), !agentForm.MatchString(t.s["agent"]), has && !id(parent, 32):
		return "bad-token" // T2
	case slices.Contains([]string{"control", "sealmesh", "sys"}, t.s["agent"]):
		return "reserved-name" // T3
	case !window(t), len(caps) == 0:
		return "bad-token" // T4, T5
	}
	for _, set := range [][]string{caps, del} { // T6
		if len(set) > 256 {
			return "too-large"
		}
		for i, s := range set {
			switch {
			case strings.HasPrefix(s, "self:"):
				return "bad-scope"
			case i > 0 && !sort.StringsAreSorted(set[i-1:i+1]), i > 0 && set[i-1] == s:
				return "bad-token"
			}
		}
	}
	for _, s := range del {
		switch {
		case !slices.Contains(caps, s):
			return "beyond-own" // T7
		case strings.HasPrefix(s, "admin:"):
			return "not-delegatable" // T8
		}
	}
	switch {
	case depth < 0:
		return "bad-token" // T9
	case depth > 8, depth == 0 && len(del) > 0:
		return "depth-exceeded" // T10, T11
	}
	return ""
}

// hopFault is rules C10 and C4 to C9.
func hopFault(before []*document, p, t *document) denial.Reason {
	parent := before[len(before)-1]
	for _, b := range before {
		if b.s["agent"] == t.s["agent"] {
			return "delegation-cycle" // C10
		}
	}
	named, has := t.s["parent"]
	switch {
	case p.s["agent"] != parent.s["agent"]:
		return "not-holder" // C4
	case t.s["iss"] != p.s["nkey"]:
		return "broken-chain" // C5
	case !has || named != digestOf(parent.text):
		return "broken-chain" // C6
	case parent.i["depth"] <= 0 || t.i["depth"] >= parent.i["depth"]:
		return "depth-exceeded" // C7
	}
	for _, s := range t.l["capabilities"] { // C8
		if slices.Contains(parent.l["delegatable"], s) {
			continue
		}
		if slices.Contains(parent.l["capabilities"], s) {
			return "not-delegatable"
		}
		return "beyond-own"
	}
	if t.i["nbf"] < parent.i["nbf"] || t.i["exp"] > parent.i["exp"] {
		return "beyond-window" // C9
	}
	return ""
}

// verdict is what came of a chain.
type verdict struct {
	accepted
	reason  denial.Reason
	tokens  []*document
	signers []*document // the passports, each before tokens[i+1]
}

func inWindow(now, nbf, exp int64) denial.Reason {
	switch {
	case now < nbf:
		return "token-not-yet-valid"
	case now >= exp:
		return "token-expired"
	}
	return ""
}

// verify is the section Verification, steps 1 to 4.
func verify(chain string, ring keyring, now int64) verdict {
	no := func(r denial.Reason) verdict { return verdict{reason: r} }
	separators := strings.Count(chain, "~")
	switch {
	case len(chain) > 65536:
		return no("too-large") // C0
	case separators > 16:
		return no("depth-exceeded") // C2
	case separators%2 != 0:
		return no("broken-chain") // C1
	}
	var tokens, passports []*document
	for i, text := range strings.Split(chain, "~") {
		if i%2 == 1 {
			p, reason := read(text, "passport")
			if reason != "" {
				return no(reason)
			}
			_, curve := publicKey(p.s["curve"], isCurve)
			if !agentForm.MatchString(p.s["agent"]) || !signingKey(p.s["nkey"], isUser) || !curve {
				return no("bad-token") // P1
			}
			passports = append(passports, p)
			continue
		}
		t, reason := read(text, "token")
		if reason == "" {
			reason = tokenFault(t)
		}
		if _, has := t.fields("parent"); reason == "" && i == 0 && has {
			reason = "broken-chain" // C3
		}
		if reason == "" && i > 0 {
			reason = hopFault(tokens, passports[len(passports)-1], t)
		}
		if reason != "" {
			return no(reason)
		}
		tokens = append(tokens, t)
	}
	last := tokens[len(tokens)-1]
	if reason := inWindow(now, last.i["nbf"], last.i["exp"]); reason != "" {
		return no(reason) // V1
	}
	ends := last.i["exp"]
	for i, t := range tokens {
		by, purpose := t, "tokens"
		if i > 0 {
			by, purpose = passports[i-1], "records"
		}
		end := ring.until(by.s["iss"], purpose, now)
		switch {
		case end == 0:
			return no("unknown-signer") // K5
		case !by.verifies(), !t.verifies():
			return no("bad-signature") // V2
		}
		ends = min(ends, end)
	}
	v := verdict{tokens: tokens, signers: passports, accepted: accepted{
		Holder: last.s["agent"], Scopes: last.l["capabilities"], Delegatable: last.l["delegatable"], Depth: int(last.i["depth"]),
		NotBefore: last.i["nbf"], Expires: ends, Digest: digestOf(chain),
	}}
	for _, t := range tokens {
		v.Tokens = append(v.Tokens, digestOf(t.text))
	}
	return v
}

func (d *document) fields(name string) (string, bool) {
	if d == nil {
		return "", false
	}
	s, ok := d.s[name]
	return s, ok
}

// stands is rules S1 to S6.
func (v verdict) stands(d *directoryState, now int64) denial.Reason {
	if reason := inWindow(now, v.NotBefore, v.Expires); reason != "" {
		return reason // S1
	}
	find := func(agent string) (status string, live, voided []string, unread bool) {
		for _, a := range d.Agents {
			if a.Agent == agent {
				status, live, voided = string(a.Status), a.Live, a.Voided
			}
		}
		return status, live, voided, slices.Contains(d.Unreadable, agent)
	}
	for _, t := range v.tokens {
		status, _, _, unread := find(t.s["agent"])
		switch {
		case unread:
			return "registry-unavailable" // S6
		case status != "active":
			return "delegator-cut" // S2
		}
	}
	_, live, _, _ := find(v.tokens[0].s["agent"])
	if !slices.Contains(live, v.Tokens[0]) {
		return "token-taken-back" // S3
	}
	for i, p := range v.signers {
		counts := false
		for _, in := range d.Instances {
			counts = counts || in.NKey == p.s["nkey"] && in.Agent == p.s["agent"] && in.State != "revoked"
		}
		if !counts {
			return "delegator-cut" // S4
		}
		if _, _, voided, _ := find(p.s["agent"]); slices.Contains(voided, v.Tokens[i+1]) {
			return "token-taken-back" // S5
		}
	}
	return ""
}
