package authcallout

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// What nats-server's callout fixes.
const (
	calloutSubject  = "$SYS.REQ.USER.AUTH"
	requestAudience = "nats-authorization-request"
	xkeyHeader      = "Nats-Server-Xkey"
)

// Bounds on a request; the server's control line keeps honest ones far smaller.
const (
	maxRequest     = 256 << 10
	maxChains      = 8
	maxCertificate = 16 << 10
	// maxAhead is the most that a request may live from now: the server's
	// authorization timeout and the difference of the clocks.
	maxAhead = 5 * time.Minute
)

// The form of a connect nonce and of its signature.
const (
	nonceBytes   = 11
	nonceChars   = 15
	publicKeyLen = 56 // an nkey in base 32
)

var (
	b64    = base64.RawURLEncoding.Strict()
	b64std = base64.StdEncoding.Strict()
)

// request is a callout request with the keys that its server has configured.
type request struct {
	*jwt.AuthorizationRequestClaims
	issuer nkeys.KeyPair
	xkey   nkeys.KeyPair
}

// unseal opens a request with whichever of our keys it was sealed to. It does not say
// to which; there are two for as long as one replaces the other.
func (s *Service) unseal(data []byte, from string) ([]byte, nkeys.KeyPair) {
	for _, k := range s.cfg.XKeys() {
		if plain, err := k.Open(data, from); err == nil {
			return plain, k
		}
	}
	return nil, nil
}

// issuer returns the key that a server names as its issuer, or nil.
func (s *Service) issuer(name string) nkeys.KeyPair {
	for _, k := range s.cfg.Issuers() {
		if pub, err := k.PublicKey(); err == nil && pub == name {
			return k
		}
	}
	return nil
}

// open unseals a request and decides whether it comes from the server that it
// names. Only what it returns without an error may be answered with a signature.
func (s *Service) open(data []byte, xkey string) (*request, error) {
	if len(data) > maxRequest {
		return nil, denial.New(denial.TooLarge, "callout request is longer than %d bytes", maxRequest)
	}
	// An unsealed request could have been read, and written, by anything that
	// got into the account.
	if xkey == "" {
		return nil, denial.New(denial.BadRequest, "callout request is not sealed")
	}
	// Checked before it is used: the library decodes into a fixed array.
	if len(xkey) != publicKeyLen || !nkeys.IsValidPublicCurveKey(xkey) {
		return nil, denial.New(denial.BadRequest, "callout request does not name a curve key of its server")
	}
	plain, ours := s.unseal(data, xkey)
	if ours == nil {
		return nil, denial.New(denial.BadRequest, "callout request is not sealed by the key that it names to ours")
	}
	req, err := jwt.DecodeAuthorizationRequestClaims(string(plain))
	if err != nil {
		return nil, denial.New(denial.BadRequest, "callout request does not decode: %v", err)
	}
	issuer := s.issuer(req.Subject)
	switch {
	case !nkeys.IsValidPublicServerKey(req.Issuer) || req.Issuer != req.Server.ID:
		return nil, denial.New(denial.BadRequest, "callout request is signed by %.64q and names server %.64q", req.Issuer, req.Server.ID)
	case req.Server.XKey != xkey:
		return nil, denial.New(denial.BadRequest, "callout request is sealed by another key than the server signed for")
	case req.Audience != requestAudience:
		return nil, denial.New(denial.BadRequest, "callout request is for audience %.64q", req.Audience)
	case issuer == nil:
		return nil, denial.New(denial.BadRequest, "callout request is for another issuer")
	case len(req.UserNkey) != publicKeyLen || !nkeys.IsValidPublicUserKey(req.UserNkey):
		return nil, denial.New(denial.BadRequest, "callout request has no key for its user")
	}
	if s.cfg.Asked != nil {
		if pub, err := ours.PublicKey(); err == nil {
			s.cfg.Asked(req.Server.ID, req.Subject, pub)
		}
	}
	return &request{req, issuer, ours}, nil
}

// checkTime refuses requests for which nobody waits any more.
func checkTime(req *request, now time.Time) error {
	exp := time.Unix(req.Expires, 0)
	switch {
	case req.Expires <= 0 || exp.Sub(now) > maxAhead:
		return denial.New(denial.BadRequest, "callout request has no expiry within %s", maxAhead)
	case !now.Before(exp):
		return denial.New(denial.Overloaded, "callout request expired %s ago", now.Sub(exp))
	}
	return nil
}

// checkKind lets plain clients in and nothing else: a leafnode acts for users
// that nobody here sees, and MQTT has no nonce.
func checkKind(ci jwt.ClientInformation) error {
	if ci.Kind != "Client" || ci.Type != "nats" && ci.Type != "websocket" {
		return denial.New(denial.ConnectionType, "connection of kind %.32q, type %.32q", ci.Kind, ci.Type)
	}
	return nil
}

// checkCredentials refuses what no agent presents. Ignoring a password would let
// somebody believe that it counts.
func checkCredentials(co jwt.ConnectOptions) error {
	switch {
	case co.JWT != "":
		return denial.New(denial.ForeignCredentials, "connection presents a user JWT")
	case co.Username != "" || co.Password != "":
		return denial.New(denial.ForeignCredentials, "connection presents a user or a password")
	}
	return nil
}

// parsePresented reads the chain digests out of a CONNECT's auth_token: "" or
// "v1:" and digests joined with commas, none twice.
func parsePresented(token string) ([]string, error) {
	if token == "" {
		return nil, nil
	}
	rest, ok := strings.CutPrefix(token, "v1:")
	// Bounded before it is split. Never quoted: it may be somebody's secret.
	if !ok || len(rest) > limits.Presented*(digestLen+1) {
		return nil, denial.New(denial.ForeignCredentials, "auth token is not a list of chain digests")
	}
	digests := strings.Split(rest, ",")
	if len(digests) > limits.Presented {
		return nil, denial.New(denial.ForeignCredentials, "auth token has more than %d chain digests", limits.Presented)
	}
	seen := make(map[string]bool, len(digests))
	for _, d := range digests {
		if !jws.IsDigest(d) || seen[d] {
			return nil, denial.New(denial.ForeignCredentials, "auth token is not a list of chain digests")
		}
		seen[d] = true
	}
	return digests, nil
}

const digestLen = 43

// checkKeyForm refuses a connection without a user nkey in its one spelling.
func checkKeyForm(co jwt.ConnectOptions) (ed25519.PublicKey, error) {
	if co.Nkey == "" {
		return nil, denial.New(denial.NoKey, "connection presents no nkey")
	}
	if len(co.Nkey) != publicKeyLen || nkeys.Prefix(co.Nkey) != nkeys.PrefixByteUser {
		return nil, denial.New(denial.NoKey, "connection presents %.64q, which is not a user nkey", co.Nkey)
	}
	pub, err := jws.PublicKey(co.Nkey)
	if err != nil {
		return nil, denial.New(denial.NoKey, "connection presents %.64q, which is not a user nkey", co.Nkey)
	}
	return pub, nil
}

// checkProof verifies what nats-server does not: that the nkey signed this
// connection's nonce. The nonce has one valid form, the signature the two that NATS'
// own clients use; nothing is remembered by its spelling.
func checkProof(pub ed25519.PublicKey, nonce, sig string) error {
	if raw, err := b64.DecodeString(nonce); err != nil || len(nonce) != nonceChars || len(raw) != nonceBytes {
		return denial.New(denial.BadNonceSignature, "the connection's nonce is not %d characters of base64url", nonceChars)
	}
	// nats.go and the nats CLI send base64url without padding, the clients for
	// JavaScript and Python base64 with it.
	enc := b64
	if len(sig) == b64std.EncodedLen(ed25519.SignatureSize) {
		enc = b64std
	}
	raw, err := enc.DecodeString(sig)
	if err != nil || len(sig) != enc.EncodedLen(ed25519.SignatureSize) || len(raw) != ed25519.SignatureSize {
		return denial.New(denial.BadNonceSignature, "the nonce signature is neither %d bytes in unpadded base64url nor in padded base64", ed25519.SignatureSize)
	}
	if !ed25519.Verify(pub, []byte(nonce), raw) {
		return denial.New(denial.BadNonceSignature, "the presented nkey did not sign this connection's nonce")
	}
	return nil
}

// parseChains reads the chains that the server says it verified, leaf first. All
// have the same leaf, or it is not clear who holds the connection.
func parseChains(tls *jwt.ClientTLS) ([][]*x509.Certificate, error) {
	if tls == nil || len(tls.VerifiedChains) == 0 {
		return nil, denial.New(denial.NoCertificate, "connection has no verified client certificate")
	}
	if len(tls.VerifiedChains) > maxChains {
		return nil, denial.New(denial.BadCertificate, "connection has more than %d certificate chains", maxChains)
	}
	out := make([][]*x509.Certificate, 0, len(tls.VerifiedChains))
	for _, texts := range tls.VerifiedChains {
		if len(texts) == 0 || len(texts) > limits.Certificates {
			return nil, denial.New(denial.BadCertificate, "a certificate chain must have 1 to %d certificates", limits.Certificates)
		}
		chain := make([]*x509.Certificate, 0, len(texts))
		for _, text := range texts {
			cert, err := parseCertificate(text)
			if err != nil {
				return nil, err
			}
			chain = append(chain, cert)
		}
		if len(out) > 0 && !out[0][0].Equal(chain[0]) {
			return nil, denial.New(denial.BadCertificate, "the certificate chains have different leaves")
		}
		out = append(out, chain)
	}
	return out, nil
}

func parseCertificate(text string) (*x509.Certificate, error) {
	if len(text) > maxCertificate {
		return nil, denial.New(denial.BadCertificate, "a certificate is longer than %d bytes", maxCertificate)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, denial.New(denial.BadCertificate, "a certificate is not one PEM block")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, denial.New(denial.BadCertificate, "a certificate does not parse: %v", err)
	}
	return cert, nil
}
