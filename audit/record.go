package audit

import (
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// Verdict is what became of what a record is about.
type Verdict string

// The verdicts. Sent is the caller's own line when a message leaves it.
const (
	Sent     Verdict = "sent"
	Accepted Verdict = "accepted"
	Refused  Verdict = "refused"
	Failed   Verdict = "failed" // accepted, and the work ended in an error
)

// Kind is what a record is about.
type Kind string

// The kinds of records.
const (
	Call    Kind = "call"    // a request, at its handler
	Made    Kind = "made"    // a request, at its caller, with its outcome
	Reply   Kind = "reply"   // a reply that was refused at the caller
	Event   Kind = "event"   // an event, at its publisher or subscriber
	Note    Kind = "note"    // a control message
	Beat    Kind = "beat"    // a heartbeat that was refused
	Connect Kind = "connect" // a decision of the auth callout
	Change  Kind = "change"  // a change of the control plane
)

// Record is one line of the log. Empty fields are left out.
type Record struct {
	Time        time.Time // when it was written; the log has its own
	Kind        Kind
	Verdict     Verdict
	Reason      denial.Reason
	Detail      string // for operators; no secrets, no payload
	Denial      string // denial ID of a connect decision
	Correlation string
	Nonce       string
	Parent      string
	Sender      agentid.ID
	Instance    agentid.Instance
	Peer        agentid.ID // the other side, where one is known
	Scope       string     // scope, topic or note kind
	Subject     string
	Chain       string // digest of the capability chain
	Payload     string // digest of the payload
	Size        int    // of the payload, bytes
	Duration    time.Duration
	Host        string // connects: the client's address as the server saw it
	Key         string // connects: the nkey that was presented
	Server      string // connects: the nats-server's ID
	Epoch       string
	Suppressed  uint64 // connects: earlier refusals of a flood that this line stands for
}

// Write logs r as one line: refusals and failures as warnings. The message is
// constant, what happened is in the fields.
func Write(log *zerolog.Logger, r Record) {
	e := log.Info()
	if r.Verdict == Refused || r.Verdict == Failed {
		e = log.Warn()
	}
	if e == nil {
		return
	}
	e.Str("audit", string(r.Kind)).Str("verdict", string(r.Verdict))
	str(e, "reason", string(r.Reason))
	str(e, "detail", r.Detail)
	str(e, "denial", r.Denial)
	str(e, "correlation", r.Correlation)
	str(e, "nonce", r.Nonce)
	str(e, "parent", r.Parent)
	str(e, "sender", r.Sender.String())
	str(e, "instance", r.Instance.String())
	str(e, "peer", r.Peer.String())
	str(e, "scope", r.Scope)
	str(e, "subject", r.Subject)
	str(e, "chain", r.Chain)
	str(e, "payload", r.Payload)
	if r.Size > 0 {
		e.Int("size", r.Size)
	}
	if r.Duration > 0 {
		e.Float64("ms", float64(r.Duration.Microseconds())/1000)
	}
	str(e, "host", r.Host)
	str(e, "nkey", r.Key)
	str(e, "server", r.Server)
	str(e, "epoch", r.Epoch)
	if r.Suppressed > 0 {
		e.Uint64("suppressed", r.Suppressed)
	}
	e.Msg("audit")
}

func str(e *zerolog.Event, key, value string) {
	if value != "" {
		e.Str(key, value)
	}
}
