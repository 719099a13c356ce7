package authcallout

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/pki"
)

// reject is the answer to a request that deserves no signature, because it is not
// from the server that it names, or because nobody waits, or because there are
// too many: nats-server takes an empty message as an immediate refusal.
var reject = []byte{}

// process takes one request through to its answer and reports the decision.
// Whatever goes wrong in it, panics included, is a denial.
func (s *Service) process(data []byte, xkey string, arrived time.Time) (answer []byte) {
	d := &Decision{}
	o := outcome{report: true}
	func() {
		defer s.recovered(d, &o)
		s.run(d, &o, data, xkey)
	}()
	answer = reject
	if o.err == nil {
		answer = o.answer
	} else {
		s.deny(d, &o)
		if o.request != nil {
			answer = s.sealedDenial(o.request, d.ID)
		}
	}
	d.Time = s.cfg.Clock()
	d.Took = max(0, d.Time.Sub(arrived))
	if o.report {
		s.publish(*d)
	}
	return answer
}

// outcome is what a run leaves behind.
type outcome struct {
	request *request // once it deserves a signed answer
	source  string   // once it is known
	answer  []byte
	err     error
	report  bool
}

func (s *Service) recovered(d *Decision, o *outcome) {
	if p := recover(); p != nil {
		s.panicked(p)
		*o = outcome{request: o.request, source: o.source, report: true,
			err: denial.New(denial.Internal, "a worker of the callout panicked")}
		d.Expires = time.Time{}
	}
}

// deny completes d with the refusal and notes it where it belongs.
func (s *Service) deny(d *Decision, o *outcome) {
	d.ID = newDenialID()
	d.Reason, d.Detail = denial.Of(o.err), denial.Detail(o.err)
	d.Expires = time.Time{}
	if d.Reason == "" {
		// Not a refusal but a failure: of the registry, of a signature.
		d.Reason = denial.Internal
	}
	now := s.cfg.Clock()
	d.Time = now
	if o.source != "" && d.Reason != denial.RateLimited && countsAgainst(d.Reason) {
		s.throttle.failed(o.source, now)
	}
	if d.Proved {
		s.denials.put(*d)
	}
}

// countsAgainst reports whether a refusal is the client's doing. During an
// outage of the registry everybody is refused, and would be throttled after it.
func countsAgainst(r denial.Reason) bool {
	return r != denial.Internal && r != denial.Overloaded && r != denial.RegistryUnavailable
}

// run makes the checks in their order, cheap ones first.
func (s *Service) run(d *Decision, o *outcome, data []byte, xkey string) {
	req, err := s.open(data, xkey)
	if err != nil {
		o.err = err
		return
	}
	ci, co := req.ClientInformation, req.ConnectOptions
	d.Key, d.Host, d.ClientID = clip(co.Nkey), clip(ci.Host), ci.ID
	d.ServerID, d.Server = req.Server.ID, clip(req.Server.Name)
	now := s.cfg.Clock()
	if o.err = checkTime(req, now); o.err != nil {
		return
	}
	o.source = source(ci.Host)
	ok, report, suppressed := s.throttle.admits(o.source, d.Key, now)
	if !ok {
		// Without a signature: it would cost more than all that came before.
		o.report, d.Suppressed = report, suppressed
		o.err = denial.New(denial.RateLimited, "too many refused connects from %q", o.source)
		return
	}
	o.request = req
	o.answer, o.err = s.admit(req, d, now)
	if o.err == nil {
		s.throttle.succeeded(o.source, d.Key)
		s.denials.forget(d.Key)
	}
}

// admit checks who is connecting and what it may do, opens the session, and
// signs.
func (s *Service) admit(req *request, d *Decision, now time.Time) ([]byte, error) {
	ci, co := req.ClientInformation, req.ConnectOptions
	if err := checkKind(ci); err != nil {
		return nil, err
	}
	if err := checkCredentials(co); err != nil {
		return nil, err
	}
	presented, err := parsePresented(co.Token)
	if err != nil {
		return nil, err
	}
	pub, err := checkKeyForm(co)
	if err != nil {
		return nil, err
	}
	if err := checkProof(pub, ci.Nonce, co.SignedNonce); err != nil {
		return nil, err
	}
	d.Proved, d.Instance = true, agentid.InstanceOf(co.Nkey)
	cert, err := s.certificate(req.TLS, now)
	if err != nil {
		return nil, err
	}
	d.Agent = cert.ID

	// The registry may take as long as the server waits for us, not longer.
	deadline := time.Unix(req.Expires, 0)
	ctx, cancel := context.WithTimeout(s.ctx, deadline.Sub(now))
	defer cancel()
	adm, err := s.cfg.Registry.Admit(ctx, cert.ID, co.Nkey, presented)
	if err != nil {
		return nil, unavailable(ctx, err)
	}
	d.Epoch = adm.Epoch
	if adm.Instance != d.Instance {
		return nil, denial.New(denial.IdentityMismatch, "the registry knows the key as instance %q", adm.Instance)
	}
	// Read again: Admit may have waited for the network.
	now = s.cfg.Clock()
	scopes, shrinks, err := union(adm.Chains, cert.ID, now)
	if err != nil {
		return nil, err
	}
	// An active agent without any right is admitted: what every agent may do lets
	// it receive the delegation that it waits for, and nothing else.
	grant, err := Compile(s.cfg.Space, Subject{Agent: cert.ID, Instance: adm.Instance, Scopes: scopes, Plain: adm.Plain, Durables: adm.Durables})
	if err != nil {
		return nil, err
	}
	hard := cert.NotAfter
	if !shrinks.IsZero() && shrinks.Before(hard) {
		hard = shrinks
	}
	expires, err := expiry(now, hard, s.cfg.SessionTTL, adm.Session == SessionStock, rand.Float64())
	if err != nil {
		return nil, err
	}
	session := Session{
		Agent: cert.ID, Instance: adm.Instance, Epoch: adm.Epoch,
		ServerID: req.Server.ID, ClientID: ci.ID, Host: d.Host, UserKey: req.UserNkey,
		Issued: now, Expires: expires, Certificate: cert.Serial, Footing: adm.Footing,
	}
	session.Chains, session.Via = basis(adm.Chains)
	if err := s.cfg.Registry.Open(ctx, session); err != nil {
		return nil, unavailable(ctx, err)
	}
	if err := checkTime(req, s.cfg.Clock()); err != nil {
		return nil, err
	}
	answer, err := s.sealedAdmission(req, cert.ID, grant, expires)
	if err != nil {
		return nil, err
	}
	d.Expires = expires
	return answer, nil
}

// certificate verifies again, against the agent CA alone, what the server's
// listener verified against everything that it trusts for clients. One chain
// that holds is enough.
func (s *Service) certificate(tls *jwt.ClientTLS, now time.Time) (pki.AgentCertificate, error) {
	chains, err := parseChains(tls)
	if err != nil {
		return pki.AgentCertificate{}, err
	}
	roots := s.cfg.Roots()
	var first error
	for _, chain := range chains {
		cert, err := pki.VerifyAgent(chain, roots, s.cfg.TrustDomain, now)
		if err == nil {
			// A leaf is worth nothing after the CA above it ended.
			for _, c := range chain {
				if c.NotAfter.Before(cert.NotAfter) {
					cert.NotAfter = c.NotAfter
				}
			}
			return cert, nil
		}
		if first == nil {
			first = err
		}
	}
	if denial.Of(first) == "" {
		first = denial.New(denial.BadCertificate, "certificate does not verify: %w", first)
	}
	return pki.AgentCertificate{}, first
}

// unavailable gives an error of the registry that is not a refusal a reason that
// tells the client to come back.
func unavailable(ctx context.Context, err error) error {
	if denial.Of(err) != "" {
		return err
	}
	if ctx.Err() != nil {
		return denial.New(denial.RegistryUnavailable, "the registry did not answer in time: %w", err)
	}
	return denial.New(denial.RegistryUnavailable, "the registry failed: %w", err)
}

// basis names what a grant rests on: the chains, and everybody who delegated in
// them.
func basis(chains []*capability.Chain) (digests []string, via []agentid.ID) {
	for _, c := range chains {
		digests = append(digests, c.Digest())
		for _, hop := range c.Hops() {
			if !hop.By.IsZero() {
				via = append(via, hop.By)
			}
		}
	}
	slices.Sort(digests)
	slices.SortFunc(via, func(a, b agentid.ID) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(digests), slices.Compact(via)
}
