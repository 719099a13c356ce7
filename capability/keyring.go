package capability

import (
	"cmp"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// Signer signs with one nkey. An nkeys.KeyPair is one.
type Signer = jws.Signer

// Purpose is what a signing key may sign; a key has one.
type Purpose string

// The purposes.
const (
	// ForTokens: root tokens.
	ForTokens Purpose = "tokens"
	// ForRecords: registry records, passports and ticks.
	ForRecords Purpose = "records"
)

func (p Purpose) known() bool { return p == ForTokens || p == ForRecords }

const kindSigningKey = "signing-key"

// certificate is the root's statement that a key may sign for one purpose.
type certificate struct {
	jws.Head
	Key       string  `json:"nkey"`
	Purpose   Purpose `json:"purpose"`
	NotBefore int64   `json:"nbf"`
	Expires   int64   `json:"exp"`
}

func (c *certificate) form() error {
	if !isAccountKey(c.Key) {
		return denial.New(denial.BadToken, "a signing key must be a public account nkey")
	}
	if !c.Purpose.known() {
		return denial.New(denial.BadToken, "signing key is for %q, which is no purpose", clip(string(c.Purpose)))
	}
	// A root that signs online is a root that leaks online.
	if c.Key == c.Issuer {
		return denial.New(denial.BadToken, "a root must not certify itself")
	}
	return checkWindow(c.NotBefore, c.Expires)
}

// CertifyKey states, signed by the root, that the account key (public, "A…") may
// sign for the purpose from notBefore on and before expires. It refuses what
// [NewKeyring] would refuse, and a window that is over already.
func CertifyKey(root Signer, key string, p Purpose, notBefore, expires, now time.Time) (string, error) {
	issuer, err := issuerOf(root)
	if err != nil {
		return "", err
	}
	c := certificate{
		Head:      jws.Head{Kind: kindSigningKey, Issuer: issuer, IssuedAt: now.Unix()},
		Key:       key,
		Purpose:   p,
		NotBefore: notBefore.Unix(),
		Expires:   expires.Unix(),
	}
	if err := c.form(); err != nil {
		return "", err
	}
	if c.Expires <= now.Unix() {
		return "", denial.New(denial.TokenExpired, "the signing key's window is over already")
	}
	return jws.Sign(&c, root)
}

// Keyring is the pinned roots and the signing keys that they certify. It is
// immutable and safe for concurrent use; nil and the zero Keyring trust nobody.
type Keyring struct {
	roots        []string
	certificates []string
	keys         map[string]signingKey
	issued       int64 // Unix seconds: when the newest certificate was signed
}

type signingKey struct {
	purpose Purpose
	windows []window // one for each certificate, so that a key can be renewed
}

type window struct {
	notBefore, expires int64
	root               string
}

// NewKeyring builds a keyring of the pinned roots (public account nkeys, at
// least one) and the certificates of signing keys. One certificate that is
// malformed, of another root, or for a key that has another purpose already
// makes it fail as a whole; windows are judged at each use.
func NewKeyring(roots []string, certificates []string) (*Keyring, error) {
	if len(roots) == 0 {
		return nil, denial.New(denial.BadInput, "a keyring needs at least one pinned root")
	}
	k := &Keyring{keys: make(map[string]signingKey, len(certificates))}
	for i, r := range roots {
		if !isAccountKey(r) {
			return nil, denial.New(denial.BadInput, "root %d is not a public account nkey", i+1)
		}
		if !slices.Contains(k.roots, r) {
			k.roots = append(k.roots, r)
		}
	}
	for i, text := range certificates {
		if slices.Contains(k.certificates, text) {
			continue
		}
		if err := k.add(text); err != nil {
			return nil, within(err, "signing-key certificate %d", i+1)
		}
		k.certificates = append(k.certificates, text)
	}
	return k, nil
}

func (k *Keyring) add(text string) error {
	var c certificate
	u, err := jws.Decode(text, kindSigningKey, &c)
	if err != nil {
		return err
	}
	if err := c.form(); err != nil {
		return err
	}
	if !slices.Contains(k.roots, c.Issuer) {
		return denial.New(denial.UnknownSigner, "signed by %s, which is not a pinned root", clip(c.Issuer))
	}
	if slices.Contains(k.roots, c.Key) {
		return denial.New(denial.BadToken, "key %s is a pinned root and cannot be a signing key", c.Key)
	}
	if err := u.Verify(); err != nil {
		return err
	}
	s, seen := k.keys[c.Key]
	if seen && s.purpose != c.Purpose {
		return denial.New(denial.BadToken, "key %s is certified for %q and for %q", c.Key, s.purpose, c.Purpose)
	}
	s.purpose = c.Purpose
	s.windows = append(s.windows, window{c.NotBefore, c.Expires, c.Issuer})
	k.keys[c.Key] = s
	k.issued = max(k.issued, c.IssuedAt)
	return nil
}

// Check returns nil if the document's issuer is certified for p at now and its
// signature verifies. It refuses with denial.UnknownSigner or
// denial.BadSignature.
func (k *Keyring) Check(u *jws.Unverified, p Purpose, now time.Time) error {
	_, err := k.check(u, p, now)
	return err
}

// check also returns when the certificate that it relied on ends, in Unix
// seconds.
func (k *Keyring) check(u *jws.Unverified, p Purpose, now time.Time) (int64, error) {
	issuer := u.UnsafeIssuer()
	if k == nil {
		return 0, denial.New(denial.UnknownSigner, "there is no keyring, so nobody is trusted")
	}
	s, ok := k.keys[issuer]
	if !ok || s.purpose != p {
		return 0, denial.New(denial.UnknownSigner, "no pinned root certifies %s for %q", clip(issuer), string(p))
	}
	until := s.until(now)
	if until == 0 {
		return 0, denial.New(denial.UnknownSigner, "key %s is not certified for %q at this time", issuer, string(p))
	}
	return until, u.Verify()
}

// SigningKey is a key that the authority certified.
type SigningKey struct {
	Key       string // public account nkey
	Purpose   Purpose
	Root      string // who signed the certificate that lasts longest
	NotBefore time.Time
	Expires   time.Time // of the certificate that lasts longest
}

// Keys returns the signing keys, by purpose and then by when they end, those that
// end last first. What ended is among them.
func (k *Keyring) Keys() []SigningKey {
	if k == nil {
		return nil
	}
	out := make([]SigningKey, 0, len(k.keys))
	for key, s := range k.keys {
		last := slices.MaxFunc(s.windows, func(a, b window) int { return cmp.Compare(a.expires, b.expires) })
		out = append(out, SigningKey{
			Key: key, Purpose: s.purpose, Root: last.root,
			NotBefore: time.Unix(last.notBefore, 0).UTC(), Expires: time.Unix(last.expires, 0).UTC(),
		})
	}
	slices.SortFunc(out, func(a, b SigningKey) int {
		return cmp.Or(cmp.Compare(a.Purpose, b.Purpose), b.Expires.Compare(a.Expires), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// Until returns when the certificates of a key that are valid for p at now end, or
// the zero time where none is.
func (k *Keyring) Until(key string, p Purpose, now time.Time) time.Time {
	if k == nil || k.keys[key].purpose != p {
		return time.Time{}
	}
	until := k.keys[key].until(now)
	if until == 0 {
		return time.Time{}
	}
	return time.Unix(until, 0).UTC()
}

// Older reports whether a keyring that was seen says that k is out of date: its
// newest certificate was signed later, or it holds the same ones and fewer of them.
// Whoever adds a certificate signs it later than all that are there, so between two
// lists there is an order without a number of their own.
func (k *Keyring) Older(seen *Keyring) bool {
	if k == nil || seen == nil {
		return k == nil && seen != nil
	}
	if k.issued != seen.issued {
		return k.issued < seen.issued
	}
	return len(k.certificates) > len(seen.certificates)
}

// Issued is when the newest of the certificates was signed, zero where there is
// none.
func (k *Keyring) Issued() time.Time {
	if k == nil || k.issued == 0 {
		return time.Time{}
	}
	return time.Unix(k.issued, 0)
}

// until is when the windows end that are open at now, in Unix seconds.
func (s signingKey) until(now time.Time) int64 {
	at, until := now.Unix(), int64(0)
	for _, w := range s.windows {
		if w.notBefore <= at && at < w.expires {
			until = max(until, w.expires)
		}
	}
	return until
}

// Roots returns the pinned roots.
func (k *Keyring) Roots() []string {
	if k == nil {
		return nil
	}
	return slices.Clone(k.roots)
}

// Certificates returns the certificates of the signing keys, each once.
func (k *Keyring) Certificates() []string {
	if k == nil {
		return nil
	}
	return slices.Clone(k.certificates)
}

func isAccountKey(key string) bool {
	_, err := jws.PublicKey(key)
	return err == nil && nkeys.Prefix(key) == nkeys.PrefixByteAccount
}

// issuerOf returns the public key of an authority's key, and refuses one of
// another kind, which no verifier would take.
func issuerOf(key Signer) (string, error) {
	issuer, err := key.PublicKey()
	if err != nil {
		return "", err
	}
	if !isAccountKey(issuer) {
		return "", denial.New(denial.UnknownSigner, "the authority signs with account nkeys")
	}
	return issuer, nil
}

// lastSecond is the end of the year 9999, past which times have no RFC 3339 form.
const lastSecond = 253402300799

// checkWindow checks the form of a validity window in Unix seconds.
func checkWindow(notBefore, expires int64) error {
	if notBefore <= 0 || expires <= notBefore || expires > lastSecond {
		return denial.New(denial.BadToken, "nbf and exp must be set and exp must lie after nbf")
	}
	return nil
}

// within adds to a refusal which of several documents it is about.
func within(err error, format string, args ...any) error {
	return denial.New(denial.Of(err), format+": %s", append(args, denial.Detail(err))...)
}
