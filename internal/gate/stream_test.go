package gate_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Who does not ask for a stream must not take its beginning for the answer.
func TestPartIsNoWholeReply(t *testing.T) {
	w := newWorld(t)
	responder, request := w.enrol("writer", "handle:read:logs"), envelope.Digest{1}
	reader := w.enrol("reader")
	reply := func(part envelope.Part, s *envelope.Stream) error {
		at := responder.call()
		at.fields.Parent, at.fields.Part = envelope.NewNonce(), part
		if s != nil {
			at.fields.Parent = "AAECAwQFBgcICQoLDA0ODw"
		}
		at.subject = subject.Default().Reply(responder.id, reader.id, reader.instance.Instance, at.fields.Parent)
		at.request = &request
		at.want = gate.Want{Class: subject.Reply, Request: &request, Scope: capability.RequireScope("handle:read:logs"), Stream: s}
		return at.to(w.node)
	}
	wantReason(t, reply(envelope.Part{}, nil), "")
	wantReason(t, reply(envelope.Part{Number: 1, Last: true}, nil), "")
	wantReason(t, reply(envelope.Part{Number: 1}, nil), denial.BrokenStream)
	wantReason(t, reply(envelope.Part{Number: 2, Last: true}, nil), denial.BrokenStream)

	var s envelope.Stream
	wantReason(t, reply(envelope.Part{Number: 1}, &s), "")
	wantReason(t, reply(envelope.Part{}, &s), denial.BrokenStream)
	wantReason(t, reply(envelope.Part{Number: 2, Last: true}, &s), "")
	if !s.Done() {
		t.Error("the stream has not ended")
	}

	note := responder.note()
	note.want.Stream = &s
	wantReason(t, note.to(w.node), denial.Internal)
}
