package gate

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Speaker signs what one instance says. It is safe for concurrent use.
type Speaker struct {
	Self        agentid.ID
	Key         envelope.Signer
	TrustDomain string
	Space       subject.Space
	Epoch       func() envelope.Epoch
	Clock       func() time.Time
}

// Message makes a signed message. From, key, time and epoch are the speaker's;
// a nonce and a correlation ID are made where the fields have none.
func (s *Speaker) Message(subj string, f envelope.Fields, app map[string][]string, data []byte, request *envelope.Digest) (*nats.Msg, envelope.Fields, envelope.Digest, error) {
	f.From, f.Time, f.Epoch = s.Self, s.Clock(), s.Epoch()
	if f.Nonce == "" {
		f.Nonce = envelope.NewNonce()
	}
	if f.Correlation == "" {
		f.Correlation = envelope.NewCorrelation()
	}
	header, digest, err := envelope.Sign(s.TrustDomain, s.Key, f, subj, app, data, request)
	if err != nil {
		return nil, f, envelope.Digest{}, err
	}
	return &nats.Msg{Subject: subj, Header: nats.Header(header), Data: data}, f, digest, nil
}

// Answer is what a handler says to a request.
type Answer struct {
	Data        []byte
	ContentType string
	Err         string // stable error code, or empty
	Token       string // chain by which the responder handles the scope
	Part        envelope.Part
}

// Reply makes the signed reply to a verified request. Where it goes is computed
// from the request's signed fields, never taken from its NATS reply subject,
// which nobody signed.
func (s *Speaker) Reply(req *envelope.Verified, a Answer) (*nats.Msg, error) {
	r := req.Fields()
	digest := req.Digest()
	subj := s.Space.Reply(s.Self, r.From, req.Instance(), r.Nonce)
	m, _, _, err := s.Message(subj, envelope.Fields{
		Correlation: r.Correlation, Parent: r.Nonce, Hop: r.Hop,
		Token: a.Token, ContentType: a.ContentType, Err: a.Err, Part: a.Part,
	}, nil, a.Data, &digest)
	return m, err
}
