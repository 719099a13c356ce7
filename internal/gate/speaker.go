package gate

import (
	"strings"
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
	// Since is the time from which the shared store of nonces can tell replays
	// apart; nil: whatever the clock says. Calls and asks are signed for no earlier
	// time: it may lie a little ahead, for those whose clocks are, and receivers
	// refuse what is older.
	Since func() time.Time
}

// Message makes a signed message. From, key, time and epoch are the speaker's;
// a nonce and a correlation ID are made where the fields have none.
func (s *Speaker) Message(subj string, f envelope.Fields, app map[string][]string, data []byte, request *envelope.Digest) (*nats.Msg, envelope.Fields, envelope.Digest, error) {
	f.From, f.Time, f.Epoch = s.Self, s.when(subj), s.Epoch()
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

func (s *Speaker) when(subj string) time.Time {
	now := s.Clock()
	if s.Since == nil {
		return now
	}
	class, _, _ := strings.Cut(strings.TrimPrefix(subj, s.Space.Prefix()+"."), ".")
	if class != "call" && class != "ask" {
		return now
	}
	if since := s.Since(); since.After(now) {
		return since
	}
	return now
}

// Answer is what a handler says to a request.
type Answer struct {
	Data        []byte
	ContentType string
	Err         string // stable error code, or empty
	Token       string // chain by which the responder handles the scope
	Part        envelope.Part
	Enc         envelope.Enc
	Nonce       string // of the reply; one is made where it is empty
}

// Reply makes the signed reply to a verified request. Where it goes is computed
// from the request's signed fields, never taken from its NATS reply subject,
// which nobody signed.
func (s *Speaker) Reply(req *envelope.Verified, a Answer) (*nats.Msg, envelope.Digest, error) {
	r := req.Fields()
	digest := req.Digest()
	subj := s.Space.Reply(s.Self, r.From, req.Instance(), r.Nonce)
	m, _, signed, err := s.Message(subj, envelope.Fields{
		Nonce: a.Nonce, Correlation: r.Correlation, Parent: r.Nonce, Hop: r.Hop,
		Token: a.Token, ContentType: a.ContentType, Err: a.Err, Part: a.Part, Enc: a.Enc,
	}, nil, a.Data, &digest)
	return m, signed, err
}

// Body makes one signed part of a request's payload, for the instance that took
// the request: the invitation is the first part of its answer, and its subject is
// computed from that, as a reply's is.
func (s *Speaker) Body(invitation *envelope.Verified, part envelope.Part, data []byte) (*nats.Msg, error) {
	i := invitation.Fields()
	digest := invitation.Digest()
	m, _, _, err := s.Message(s.Space.Body(s.Self, i.From, invitation.Instance(), i.Nonce), envelope.Fields{
		Correlation: i.Correlation, Parent: i.Nonce, Hop: i.Hop, Part: part,
	}, nil, data, &digest)
	return m, err
}
