package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// platformToken is the longest token of a platform in bytes.
	platformToken = 16 << 10
	// issuerAnswer is the longest answer of an issuer in bytes.
	issuerAnswer = 256 << 10
	// issuerTimeout bounds one request to an issuer.
	issuerTimeout = 5 * time.Second
	// keysFor is how long the keys of an issuer are used before they are asked for
	// again: one that it took back counts no longer than that.
	keysFor = 10 * time.Minute
	// An issuer is asked for a key that is not known, and whoever makes tokens up
	// names one each time. It is asked no more often than this.
	issuerEvery = 2 * time.Second
	issuerBurst = 10
)

// platformAlgs are the signatures that are taken: by a key pair. With a shared key
// (HS256) whoever knows an issuer's public key could sign.
var platformAlgs = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

var (
	errNoPlatform = denial.New(denial.BadJoinToken, "the agent takes no such platform identity")
	errAskedALot  = errors.New("it was asked too often lately")
	errElsewhere  = errors.New("not on the issuer's own host; name it as keys_url in sealmesh.yaml if that is meant")
)

// platforms are the OIDC issuers that sealmesh.yaml names, and no others: an address
// out of a token or a record is never asked anything.
type platforms map[string]*platform

// platform is one issuer.
type platform struct {
	name    string
	keysURL string
	clock   func() time.Time
	client  *http.Client

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // with the keys that were asked for since
	since    time.Time
}

func newPlatforms(list []meshdir.OIDC, clock func() time.Time) (platforms, error) {
	out := platforms{}
	for _, o := range list {
		u, err := url.Parse(o.Issuer)
		if err != nil {
			return nil, fmt.Errorf("controlplane: OIDC issuer: %w", err)
		}
		hosts := []string{u.Host}
		if k, err := url.Parse(o.KeysURL); err == nil && o.KeysURL != "" {
			hosts = append(hosts, k.Host)
		}
		conf := &tls.Config{MinVersion: tls.VersionTLS12, Time: clock}
		if o.CAFile != "" {
			if conf.RootCAs, err = readPool(o.CAFile); err != nil {
				return nil, fmt.Errorf("controlplane: ca_file of OIDC issuer %q: %w", o.Issuer, err)
			}
		}
		out[o.Issuer] = &platform{
			name: o.Issuer, keysURL: o.KeysURL, clock: clock,
			client: &http.Client{
				Timeout: issuerTimeout,
				Transport: &fetcher{
					hosts: hosts, pace: rate.NewLimiter(rate.Every(issuerEvery), issuerBurst),
					next: &http.Transport{
						Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, ForceAttemptHTTP2: true,
						MaxConnsPerHost: 2, IdleConnTimeout: 30 * time.Second, MaxResponseHeaderBytes: 16 << 10,
					},
				},
				// Where an answer points is nowhere that sealmesh.yaml names.
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
		}
	}
	return out, nil
}

func (p platforms) close() {
	for _, o := range p {
		o.client.CloseIdleConnections()
	}
}

func readPool(name string) (*x509.CertPool, error) {
	text, err := pki.ReadFile(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("holds no certificate")
	}
	return pool, nil
}

// fetcher bounds what is asked of an issuer, and what it may answer.
type fetcher struct {
	hosts []string
	pace  *rate.Limiter
	next  *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (f *fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" || !slices.Contains(f.hosts, r.URL.Host) {
		return nil, fmt.Errorf("%.200q is %w", r.URL.Redacted(), errElsewhere)
	}
	if !f.pace.Allow() {
		return nil, errAskedALot
	}
	resp, err := f.next.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, issuerAnswer)
	}
	return resp, err
}

// CloseIdleConnections is what http.Client looks for.
func (f *fetcher) CloseIdleConnections() { f.next.CloseIdleConnections() }

// ready returns what verifies with the keys of the issuer, after discovery where that
// is due.
func (o *platform) ready(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock()
	if age := now.Sub(o.since); o.verifier != nil && age >= 0 && age < keysFor {
		return o.verifier, nil
	}
	ctx = oidc.ClientContext(ctx, o.client)
	keysURL := o.keysURL
	if keysURL == "" {
		p, err := oidc.NewProvider(ctx, o.name)
		if err != nil {
			return nil, err
		}
		var said struct {
			Keys string `json:"jwks_uri"`
		}
		if err := p.Claims(&said); err != nil {
			return nil, err
		}
		keysURL = said.Keys
	}
	// The audience is compared by the caller, by the agent's rule.
	c := &oidc.Config{SupportedSigningAlgs: platformAlgs, SkipClientIDCheck: true, Now: o.clock}
	o.verifier = oidc.NewVerifier(o.name, &keySet{oidc.NewRemoteKeySet(ctx, keysURL)}, c)
	o.since = now
	return o.verifier, nil
}

// verify returns what a token of the issuer says. A refusal is a denial; another
// error means that the issuer could not be asked. Neither has anything of the token.
func (o *platform) verify(ctx context.Context, token string) (*oidc.IDToken, error) {
	var asked outage
	v, err := o.ready(ctx)
	if err != nil {
		return nil, o.away(err)
	}
	t, err := v.Verify(context.WithValue(ctx, outageKey{}, &asked), token)
	var expired *oidc.TokenExpiredError
	switch {
	case asked.err != nil:
		return nil, o.away(asked.err)
	case errors.As(err, &expired):
		return nil, denial.New(denial.BadJoinToken, "platform token is expired; the platform has a newer one")
	case err != nil:
		return nil, denial.New(denial.BadJoinToken, "platform token does not verify: it is by no key of its issuer, or not valid yet")
	case t.Issuer != o.name: // go-oidc takes another spelling of one issuer
		return nil, errNoPlatform
	}
	return t, nil
}

func (o *platform) away(err error) error {
	return fmt.Errorf("controlplane: OIDC issuer %q: %.300s", o.name, err.Error())
}

// keySet tells a token by a wrong key from keys that could not be had.
type keySet struct{ *oidc.RemoteKeySet }

type outageKey struct{}

type outage struct{ err error }

// VerifySignature implements oidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := k.RemoteKeySet.VerifySignature(ctx, token)
	// What it wraps is why the keys could not be fetched.
	if o, ok := ctx.Value(outageKey{}).(*outage); ok && err != nil && errors.Unwrap(err) != nil {
		o.err = err
	}
	return payload, err
}

// unverified reads what decides whom to ask: the issuer that a token names, and how
// it claims to be signed.
func unverified(token string) (issuer string, err error) {
	bad := denial.New(denial.BadJoinToken, "platform token is not a signed JWT")
	if len(token) > platformToken {
		return "", denial.New(denial.BadJoinToken, "platform token is longer than %d bytes", platformToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", bad
	}
	var head struct {
		Alg string `json:"alg"`
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	for i, into := range []any{&head, &claims} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(parts[i])
		if err != nil || json.Unmarshal(b, into) != nil {
			return "", bad
		}
	}
	if !slices.Contains(platformAlgs, head.Alg) {
		return "", denial.New(denial.BadJoinToken, "platform token claims the signature %q; it must be by a key pair", fmt.Sprintf("%.20s", head.Alg))
	}
	return claims.Issuer, nil
}

// prove returns the join rule of an agent that a platform's token fulfils, exactly.
// Whoever has no token of the right issuer learns nothing about the agent, also not
// whether there is one.
func (p *Plane) prove(ctx context.Context, id agentid.ID, token string) (registry.JoinRule, error) {
	var none registry.JoinRule
	issuer, err := unverified(token)
	if err != nil {
		return none, err
	}
	a, err := p.store.Agent(ctx, id)
	if denial.Of(err) != "" {
		return none, errNoPlatform
	}
	if err != nil {
		return none, err
	}
	rule := a.Join
	o := p.platforms[rule.OIDC.Issuer]
	switch {
	case rule.IsZero() || rule.OIDC.Issuer != issuer:
		return none, errNoPlatform
	case o == nil:
		p.log.Warn().Str("agent", id.String()).Str("issuer", issuer).Msg("join rule names an issuer that sealmesh.yaml does not list")
		return none, errNoPlatform
	}
	t, err := o.verify(ctx, token)
	if err != nil {
		return none, err
	}
	if !slices.Contains(t.Audience, rule.OIDC.Audience) {
		return none, denial.New(denial.BadJoinToken, "platform token is for audience %.120q, which the agent's join rule does not name", strings.Join(t.Audience, " "))
	}
	if t.Subject != rule.OIDC.Subject {
		return none, denial.New(denial.BadJoinToken, "platform token is of subject %.200q, which the agent's join rule does not name", t.Subject)
	}
	return rule, nil
}

// listed refuses a join rule whose issuer could never be asked.
func (p *Plane) listed(r registry.JoinRule) error {
	if r.IsZero() || p.platforms[r.OIDC.Issuer] != nil {
		return nil
	}
	return denial.New(denial.BadInput, "OIDC issuer %.200q is not listed in sealmesh.yaml under oidc", r.OIDC.Issuer)
}
