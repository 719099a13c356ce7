package envelope_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"maps"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// flip returns s with one bit of byte i inverted.
func flip(s string, i int) string {
	b := []byte(s)
	b[i] ^= 1 << (i % 8)
	return string(b)
}

// Attack 13: one flipped bit anywhere.
func TestEveryFlippedByteIsRefused(t *testing.T) {
	a, m, request := full(t)
	a.mustVerify(t, m, &request)
	refused := func(part string, i int, m envelope.Message) {
		t.Helper()
		if _, err := a.verify(m, &request); err == nil {
			t.Errorf("%s byte %d: a flipped bit verifies", part, i)
		} else if !errorsAs(err) {
			t.Errorf("%s byte %d: got %v, want a denial", part, i, err)
		}
	}
	for i := range m.Subject {
		changed := m
		changed.Subject = flip(m.Subject, i)
		refused("subject", i, changed)
	}
	for i := range m.Data {
		changed := m
		changed.Data = []byte(flip(string(m.Data), i))
		refused("payload", i, changed)
	}
	for name, values := range m.Header {
		for v := range values {
			for i := range values[v] {
				flipped := append([]string(nil), values...)
				flipped[v] = flip(values[v], i)
				refused(name, i, with(m, name, flipped...))
			}
		}
		for i := range name {
			changed := with(m, name)
			changed.Header[flip(name, i)] = values
			refused("name "+name, i, changed)
		}
	}
	for i := range request {
		other := request
		other[i] ^= 1
		_, err := a.verify(m, &other)
		wantReason(t, err, denial.BadSignature)
	}
	for i := range domain {
		_, err := mustParse(t, m).Verify(flip(domain, i), a.public, &request)
		wantReason(t, err, denial.BadSignature)
	}
	for i := range a.public {
		key := bytes.Clone(a.public)
		key[i] ^= 1
		_, err := mustParse(t, m).Verify(domain, key, &request)
		wantReason(t, err, denial.UnlistedKey)
	}
	for what, data := range map[string]string{"emptied": "", "cut": `{"lines":7`, "longer": `{"lines":7} `} {
		changed := m
		changed.Data = []byte(data)
		_, err := a.verify(changed, &request)
		if denial.Of(err) != denial.BadSignature {
			t.Errorf("%s payload: got %v", what, err)
		}
	}
}

// Attack 14: a valid envelope somewhere else.
func TestEnvelopeIsBoundToSubjectAndMesh(t *testing.T) {
	a := agent(t, "writer")
	m, _ := a.sign(t, a.fields(), call, nil, "tail", nil)
	for _, other := range []string{"mesh.call.writer.write.logs", "mesh.call.reader.read.logs", "mesh.ask.writer.reader.read.logs", "mesh.event.writer.read.logs", "mesh2.call.writer.read.logs", call + "."} {
		moved := m
		moved.Subject = other
		_, err := a.verify(moved, nil)
		wantReason(t, err, denial.BadSignature)
	}
	u := mustParse(t, m)
	for _, d := range []string{"other.example", "", strings.Repeat("a", 254)} {
		_, err := u.Verify(d, a.public, nil)
		wantReason(t, err, denial.BadSignature)
	}
}

// The key comes from the registry; the message only says which.
func TestTheKeyIsTheListedOne(t *testing.T) {
	a, b := agent(t, "writer"), agent(t, "reader")
	m, _ := a.sign(t, a.fields(), call, nil, "tail", nil)
	u := mustParse(t, m)
	for what, key := range map[string]ed25519.PublicKey{"another agent's": b.public, "none": nil, "short": a.public[:31], "long": append(bytes.Clone(a.public), 0)} {
		if _, err := u.Verify(domain, key, nil); denial.Of(err) != denial.UnlistedKey {
			t.Errorf("%s: got %v", what, err)
		}
	}
	// b writes a's name and key over its own signature, or a's name over its own key.
	f := b.fields()
	f.From = a.id
	forged, _ := b.sign(t, f, call, nil, "tail", nil)
	_, err := mustParse(t, forged).Verify(domain, a.public, nil)
	wantReason(t, err, denial.UnlistedKey)
	taken := with(m, envelope.HeaderSignature, forged.Header[envelope.HeaderSignature]...)
	_, err = mustParse(t, taken).Verify(domain, a.public, nil)
	wantReason(t, err, denial.BadSignature)
}

// Attack 21: replies.
func TestReplyAnswersItsOwnRequestOnly(t *testing.T) {
	caller, handler := agent(t, "writer"), agent(t, "reader")
	f1, f2 := caller.fields(), caller.fields()
	f2.Nonce = "_____________________w"
	_, one := caller.sign(t, f1, call, nil, "tail one", nil)
	_, two := caller.sign(t, f2, call, nil, "tail two", nil)
	reply := func(parent string, request envelope.Digest) envelope.Message {
		f := handler.fields()
		f.Nonce, f.Parent, f.Hop = envelope.NewNonce(), parent, 1
		m, _ := handler.sign(t, f, replyTo(caller, parent), nil, "answer", &request)
		return m
	}
	first, second := reply(f1.Nonce, one), reply(f2.Nonce, two)
	handler.mustVerify(t, first, &one)
	handler.mustVerify(t, second, &two)

	_, err := handler.verify(first, &two) // swapped
	wantReason(t, err, denial.BadSignature)
	_, err = handler.verify(second, &one)
	wantReason(t, err, denial.BadSignature)
	_, err = handler.verify(first, nil) // taken for something that was not asked
	wantReason(t, err, denial.UnmatchedReply)
	_, err = handler.verify(first, &envelope.Digest{})
	wantReason(t, err, denial.UnmatchedReply)
	moved := first // moved to the subject of the other request
	moved.Subject = second.Subject
	_, err = mustParse(t, moved).CheckSubject(subject.Default())
	wantReason(t, err, denial.WrongSubject)
	_, err = handler.verify(moved, &one)
	wantReason(t, err, denial.BadSignature)
	// The same nonce asked again with another payload is another request.
	_, again := caller.sign(t, f1, call, nil, "tail everything", nil)
	_, err = handler.verify(first, &again)
	wantReason(t, err, denial.BadSignature)
	// A call is no reply, whatever it is held against.
	m, _ := caller.sign(t, f1, call, nil, "tail one", nil)
	_, err = caller.verify(m, &one)
	wantReason(t, err, denial.WrongSubject)
}

// The payload of a request is bound to the invitation as the answer is to the
// request: a handler that was invited to nothing takes nothing.
func TestBodyAnswersItsOwnInvitationOnly(t *testing.T) {
	caller, handler := agent(t, "writer"), agent(t, "reader")
	f := caller.fields()
	f.Body = envelope.BodyOf([]byte("tail"))
	_, asked := caller.sign(t, f, call, nil, "", nil)
	invite := func() (string, envelope.Digest) {
		r := handler.fields()
		r.Nonce, r.Parent, r.Part.Number = envelope.NewNonce(), f.Nonce, 1
		m, digest := handler.sign(t, r, replyTo(caller, f.Nonce), nil, "", &asked)
		if got := handler.mustVerify(t, m, &asked).Digest(); got != digest {
			t.Fatalf("got %s from Verify, %s from Sign", got, digest)
		}
		return r.Nonce, digest
	}
	nonce, one := invite()
	_, two := invite()
	b := caller.fields()
	b.Nonce, b.Parent, b.Part = envelope.NewNonce(), nonce, envelope.Part{Number: 1, Last: true}
	m, _ := caller.sign(t, b, bodyTo(caller, handler, nonce), nil, "tail", &one)
	v := caller.mustVerify(t, m, &one)
	if err := envelope.BodyStream(f).Next(v); err == nil {
		t.Error("a request that was never signed has a body")
	}

	_, err := caller.verify(m, &two)
	wantReason(t, err, denial.BadSignature)
	_, err = caller.verify(m, &asked) // the request is not the invitation
	wantReason(t, err, denial.BadSignature)
	for _, none := range []*envelope.Digest{nil, {}} {
		_, err = caller.verify(m, none)
		wantReason(t, err, denial.UnmatchedReply)
	}
	moved := m
	moved.Subject = bodyTo(caller, handler, envelope.NewNonce())
	_, err = mustParse(t, moved).CheckSubject(subject.Default())
	wantReason(t, err, denial.WrongSubject)
	_, err = caller.verify(moved, &one)
	wantReason(t, err, denial.BadSignature)
	// What was signed for one direction is nothing in the other.
	moved.Subject = replyTo(handler, nonce)
	_, err = caller.verify(moved, &one)
	wantReason(t, err, denial.BadSignature)
}

// Attack 23: headers that nobody signed go no further.
func TestOnlyCoveredHeadersAreHandedOn(t *testing.T) {
	a := agent(t, "writer")
	bare, _ := a.sign(t, a.fields(), call, nil, "tail", nil)
	for name, m := range map[string]envelope.Message{
		"application": with(bare, "Tenant", "other"),
		"server":      with(bare, "Nats-Request-Info", `{"acc":"SYS"}`),
		"trace":       with(bare, "traceparent", "00-…"),
		"status":      with(bare, "Status", "503"),
	} {
		if h := a.mustVerify(t, m, nil).Header(); h != nil {
			t.Errorf("%s: got %v, want none", name, h)
		}
	}

	app := map[string][]string{"Tenant": {"one"}, "Path": {"aa", "b"}}
	m, _ := a.sign(t, a.fields(), call, app, "tail", nil)
	stripped := with(with(m, "Tenant"), "Path")
	for name, changed := range map[string]envelope.Message{
		"added":              with(m, "Extra", "1"),
		"removed":            with(m, "Path"),
		"all removed":        stripped,
		"changed":            with(m, "Tenant", "two"),
		"another value":      with(m, "Tenant", "one", "two"),
		"values reordered":   with(m, "Path", "b", "aa"),
		"values joined":      with(m, "Path", "aab"),
		"name among values":  with(with(m, "Tenant"), "Path", "aa", "b", "Tenant", "one"),
		"values recut":       with(m, "Path", "a", "ab"),
		"values moved":       with(with(m, "Path", "b"), "Tenant", "one", "a"),
		"name in other case": with(with(m, "Tenant"), "tenant", "one"),
		"name into value":    with(with(m, "Tenant"), "Tenan", "tone"),
	} {
		if _, err := a.verify(changed, nil); denial.Of(err) != denial.BadSignature {
			t.Errorf("%s: got %v, want %s", name, err, denial.BadSignature)
		}
	}
	if h := a.mustVerify(t, with(m, "Nats-Stream", "X"), nil).Header(); len(h) != 2 || h["Nats-Stream"] != nil {
		t.Errorf("got %v, want the two signed headers", h)
	}
	_, err := a.verify(with(m, "Bad Name", "1"), nil)
	wantReason(t, err, denial.BadEnvelope)
}

// handSign signs whatever it is given, as an implementation without our checks
// would.
func handSign(a identity, trustDomain, text string, m envelope.Message) envelope.Message {
	sig, _ := a.key.Sign(envelope.SignedBytes(trustDomain, m.Subject, text, m.Data, nil))
	return with(with(m, envelope.HeaderEnvelope, text), envelope.HeaderSignature, signature(sig))
}

func TestASignatureDoesNotExcuseTheRest(t *testing.T) {
	a := agent(t, "writer")
	m, _ := a.sign(t, a.fields(), call, nil, "tail", nil)
	a.mustVerify(t, handSign(a, domain, text(m), m), nil)

	_, err := mustParse(t, handSign(a, "", text(m), m)).Verify("", a.public, nil)
	wantReason(t, err, denial.BadSignature)
	// hd over no headers is a second spelling of no hd.
	none := envelope.Digest(sha256.Sum256([]byte("sealmesh-headers-v1\n"))).String()
	_, err = a.verify(handSign(a, domain, text(m)+";hd="+none, m), nil)
	wantReason(t, err, denial.BadSignature)
	for _, extra := range []string{";err=no", ";part=1", ";x=1", ";dl=0"} {
		_, err = a.verify(handSign(a, domain, text(m)+extra, m), nil)
		wantReason(t, err, denial.BadEnvelope)
	}
	_, err = a.verify(handSign(a, domain, strings.Replace(text(m), "hop=0", "hop=17", 1), m), nil)
	wantReason(t, err, denial.Loop)
}

// What is handed on is what was verified, not what the map holds later.
func TestVerifiedHeadersAreACopy(t *testing.T) {
	a := agent(t, "writer")
	m, _ := a.sign(t, a.fields(), call, map[string][]string{"Tenant": {"one"}}, "tail", nil)
	m.Header = maps.Clone(m.Header)
	v := a.mustVerify(t, m, nil)
	m.Header["Tenant"][0] = "two"
	if got := v.Header()["Tenant"][0]; got != "one" {
		t.Errorf("got %q, want the value that was verified", got)
	}
}

func TestCheckSubject(t *testing.T) {
	a, other := agent(t, "writer"), agent(t, "reader")
	instance := func(i identity) string { return mustParse(t, i.message(t, t0)).UnsafeInstance().String() }
	for _, c := range []struct {
		subject string
		want    denial.Reason
	}{
		{call, ""},
		{"mesh.ask.writer.reader.read.logs", ""},
		{"mesh.event.writer.logs.written", ""},
		{"mesh.note.writer.reader.cancel", ""},
		{"mesh.beat.writer." + instance(a), ""},
		{"mesh.audit.writer." + instance(a), ""},
		{"mesh.call.reader.read.logs", denial.SenderMismatch},
		{"mesh.beat.writer." + instance(other), denial.SenderMismatch},
		{"mesh.audit.writer." + instance(other), denial.SenderMismatch},
		{"other.call.writer.read.logs", denial.WrongSubject},
		{"mesh.feed.writer.agents", denial.WrongSubject},
		{"mesh.call.writer", denial.WrongSubject},
		{"mesh.call.writer.read.>", denial.WrongSubject},
		{"_INBOX_writer_x.1", denial.WrongSubject},
		{"$KV.MESH_AGENTS.writer", denial.WrongSubject},
	} {
		m, _ := a.sign(t, a.fields(), c.subject, nil, "", nil)
		p, err := mustParse(t, m).CheckSubject(subject.Default())
		if denial.Of(err) != c.want || (err == nil) != (p.Sender == a.id) {
			t.Errorf("%s: got %+v, %v, want %q", c.subject, p, err, c.want)
		}
	}
}

// Trust is a type: nothing that Verify did not make says anything.
func TestZeroVerifiedSaysNothing(t *testing.T) {
	for _, v := range []*envelope.Verified{nil, {}} {
		_, waits := v.Remaining(t0)
		if !v.IsZero() || !v.From().IsZero() || !v.Instance().IsZero() || v.Fields() != (envelope.Fields{}) || v.Subject() != "" ||
			v.Data() != nil || v.Header() != nil || !v.Digest().IsZero() || waits {
			t.Errorf("%v says something", v)
		}
	}
}
