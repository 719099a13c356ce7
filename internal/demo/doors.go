package demo

import (
	"github.com/sealmesh/sealmesh/internal/bare"

	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/pki"
)

// doors is about who may connect at all: nkey, certificate and record must name
// one agent.
func doors() chapter {
	return chapter{steps: []step{
		{
			name:     "unlisted-agent",
			tried:    "ghost, whom the registry does not know, connects with a key and a genuine certificate of the agent CA",
			expected: "the connection is refused",
			reason:   string(denial.UnlistedAgent),
			run:      unlistedAgent,
		},
		{
			name:     "nkey-without-certificate",
			tried:    "a thief connects with clerk's nkey and no certificate",
			expected: "the TLS handshake fails, before anything is asked",
			reason:   tlsNoCertificate,
			run:      withoutCertificate,
		},
		{
			name:     "nkey-of-one-certificate-of-another",
			tried:    "mallory connects with its own certificate and clerk's nkey",
			expected: "the connection is refused: that key is no instance of mallory",
			reason:   string(denial.UnlistedKey),
			run:      mixedIdentity,
		},
		{
			name:     "bad-nonce-signature",
			tried:    "somebody connects with mallory's certificate and shows the signature that mallory gave for an earlier connection",
			expected: "the connection is refused: the server's nonce is a new one each time",
			reason:   string(denial.BadNonceSignature),
			run:      oldProof,
		},
	}}
}

// turnedAway tries an entry that the callout has to refuse. It returns the line
// of the control plane's audit about it.
func (s *stage) turnedAway(ctx context.Context, e bare.Entry, nkey string) (line, error) {
	from := s.journal.mark()
	nc, err := e.Dial(ctx)
	if err == nil {
		nc.Close()
		return nil, errors.New("the connection was admitted")
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		return nil, fmt.Errorf("connecting failed in another way: %w", err)
	}
	return s.journal.await(ctx, from, "the refused connection", fields(
		"audit", string(audit.Connect), "verdict", string(audit.Refused), "nkey", nkey))
}

func refusedAtTheDoor(l line) outcome {
	return outcome{fmt.Sprintf("the server says %s and no more; the control plane logged denial %s", authViolation, l.text("denial")), l.text("reason")}
}

// keyPair joins a certificate file with the text of its key.
func keyPair(certFile string, key []byte) (*tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(cert, key)
	return &c, err
}

// issue has the mesh's own agent CA sign a certificate for a name, as a mistake
// at the CA would.
func (s *stage) issue(ctx context.Context, id agentid.ID) (*tls.Certificate, error) {
	key, err := pki.NewTLSKey()
	if err != nil {
		return nil, err
	}
	domain := s.mesh.Dir.Config.TrustDomain
	text, err := pki.CSR(key, id, domain)
	if err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		return nil, err
	}
	ca, err := s.mesh.Dir.AgentCA()
	if err != nil {
		return nil, err
	}
	chain, err := ca.SignAgent(ctx, csr, id, time.Hour, time.Now())
	if err != nil {
		return nil, err
	}
	pem, err := key.PEM()
	if err != nil {
		return nil, err
	}
	c, err := tls.X509KeyPair(chain, pem)
	return &c, err
}

func unlistedAgent(ctx context.Context, s *stage) (outcome, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return outcome{}, err
	}
	pub, err := key.PublicKey()
	if err != nil {
		return outcome{}, err
	}
	cert, err := s.issue(ctx, agentid.Require("ghost"))
	if err != nil {
		return outcome{}, err
	}
	l, err := s.turnedAway(ctx, bare.Entry{Dir: s.clerk.dir, Key: key, Cert: cert}, pub)
	if err != nil {
		return outcome{}, err
	}
	return refusedAtTheDoor(l), nil
}

func withoutCertificate(ctx context.Context, s *stage) (outcome, error) {
	from := s.journal.mark()
	nc, err := bare.Entry{Dir: s.clerkPod.Dir.Path, NoCert: true}.Dial(ctx)
	if err == nil {
		nc.Close()
		return outcome{}, errors.New("the connection was admitted")
	}
	l, e := s.journal.await(ctx, from, "the failed handshake", serverSays("provide a certificate"))
	if e != nil {
		return outcome{}, fmt.Errorf("%w (the client was told %w)", e, err)
	}
	// Whoever cannot show a certificate never gets as far as the callout.
	if _, asked, _ := s.journal.find(from, fields("audit", string(audit.Connect), "verdict", string(audit.Refused))); asked {
		return outcome{}, errors.New("the control plane was asked about it")
	}
	return outcome{"the server logged " + l.words(), tlsNoCertificate}, nil
}

func mixedIdentity(ctx context.Context, s *stage) (outcome, error) {
	l, err := s.turnedAway(ctx, bare.Entry{Dir: s.mallory.Dir.Path, Key: s.clerkPod.Pair}, s.clerkPod.Key.PublicKey())
	if err != nil {
		return outcome{}, err
	}
	return refusedAtTheDoor(l), nil
}

func oldProof(ctx context.Context, s *stage) (outcome, error) {
	if len(s.mallory.proof) == 0 {
		return outcome{}, errors.New("mallory never signed a nonce")
	}
	sign := func([]byte) ([]byte, error) { return s.mallory.proof, nil }
	l, err := s.turnedAway(ctx, bare.Entry{Dir: s.mallory.Dir.Path, Sign: sign}, s.mallory.Key.PublicKey())
	if err != nil {
		return outcome{}, err
	}
	return refusedAtTheDoor(l), nil
}
