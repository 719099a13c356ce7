package meshclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// What is sealed is ciphertext to everybody on its way, opens for the agent that was
// asked, and for nobody who puts it into a message of his own.
func TestSealed(t *testing.T) {
	t.Parallel()
	secret := []byte("the launch code is 00000000")
	var log syncBuffer
	o := quiet()
	o.Log, o.ClientLog = zerolog.New(&log), zerolog.New(&log)
	m := mesh(t, o)
	writerDir := enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	writer := connected(t, m, writerDir)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	thiefDir := enrolled(t, m, "thief", registry.Rights{Call: scopes("write:story")})
	var runs atomic.Int64
	handle(t, writer, "write:story", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		runs.Add(1)
		if !req.Sealed || !bytes.Equal(req.Data, secret) {
			t.Errorf("the handler got %q, sealed %v", req.Data, req.Sealed)
		}
		if err := req.Send(ctx, append([]byte("part: "), req.Data...)); err != nil {
			return nil, err
		}
		if runs.Load()%2 == 0 {
			return nil, fmt.Errorf("cannot make sense of %q", req.Data)
		}
		return nil, &meshclient.Error{Code: "app-known", Message: string(req.Data)}
	})
	// Another instance of the recipient, in the queue group, with nothing between it
	// and the wire.
	raw := intrude(t, must(m.Instance(t.Context(), writer.ID())))
	taken := make(chan *nats.Msg, 8)
	if _, err := raw.nc.QueueSubscribe(raw.Space.AskFilter(raw.Self, "write.story"), "write.story", func(msg *nats.Msg) { taken <- msg }); err != nil {
		t.Fatal(err)
	}
	if err := raw.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	sealed := []meshclient.CallOption{meshclient.To("writer"), meshclient.Sealed()}
	var stolen *nats.Msg
	for stolen == nil || runs.Load() < 2 { // until the raw one gets it, and the other one twice
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		n := 0
		for part, err := range reader.Stream(ctx, "write:story", secret, sealed...) {
			var e *meshclient.Error
			switch {
			case errors.Is(err, meshclient.ErrDeadline): // the raw one has it
			case errors.Is(err, meshclient.ErrInternal):
			case err != nil && (!errors.As(err, &e) || e.Code != "app-known" || e.Message != string(secret)):
				t.Fatalf("got %v", err)
			case err == nil:
				if n++; !part.Sealed || string(part.Data) != "part: "+string(secret) {
					t.Errorf("got part %q, sealed %v", part.Data, part.Sealed)
				}
			}
		}
		cancel()
		select {
		case stolen = <-taken:
		default:
		}
	}
	if bytes.Contains(stolen.Data, secret) || !strings.Contains(stolen.Header.Get(envelope.HeaderEnvelope), ";enc=x1") {
		t.Errorf("the wire has %q under %s", stolen.Data, stolen.Header.Get(envelope.HeaderEnvelope))
	}
	if want := len(secret) + seal.Overhead(2); len(stolen.Data) != want {
		t.Errorf("got %d bytes on the wire, want %d: sealed to two instances", len(stolen.Data), want)
	}
	before := runs.Load()
	raw.nc.Close()
	thief := connected(t, m, thiefDir)
	c := usurp(t, thief, thiefDir)
	for name, data := range map[string][]byte{"somebody else's": stolen.Data, "junk": bytes.Repeat([]byte{1}, 300), "nothing": nil} {
		msg, f, _, err := c.Message(c.Space.Ask(c.Self, writer.ID(), "write.story"), envelope.Fields{Token: c.token, Enc: envelope.X1}, nil, data, nil)
		c.say(msg, err)
		if got := c.refusal(f.Nonce); got != denial.CannotOpen {
			t.Errorf("%s: got %q, want %q", name, got, denial.CannotOpen)
		}
	}
	if n := runs.Load() - before; n != 0 {
		t.Errorf("the handler worked on %d of them", n)
	}
	if strings.Contains(log.String(), string(secret)) {
		t.Error("the payload is in a log")
	}
}

// refusal returns the reason for which a request was refused.
func (c *caller) refusal(nonce string) denial.Reason {
	c.t.Helper()
	for {
		reply, err := c.replies.NextMsg(20 * time.Second)
		if err != nil {
			c.t.Fatal(err)
		}
		if !strings.HasSuffix(reply.Subject, "."+nonce) {
			continue
		}
		if text := reply.Header.Get(envelope.HeaderEnvelope); !strings.Contains(text, ";err=denied") {
			return denial.Reason("answered: " + text)
		}
		var failure wire.Failure
		if err := json.Unmarshal(reply.Data, &failure); err != nil {
			c.t.Fatal(err)
		}
		return failure.Reason
	}
}

// Who comes after the list of instances was read, with keys of its own, can read what
// is sealed next, and who was cut cannot.
func TestSealedOverKeyChanges(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, _ := story(t)
	var runs atomic.Int64
	work := func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		runs.Add(1)
		return req.Data, nil
	}
	handle(t, writer, "write:story", work)
	call := func(what string) {
		t.Helper()
		before := runs.Load()
		reply, err := reader.Call(within(t, 30*time.Second), "write:story", []byte(what), meshclient.To("writer"), meshclient.Sealed())
		if err != nil || string(reply.Data) != what || !reply.Sealed {
			t.Errorf("%s: got %+v, %v", what, reply, err)
		}
		if n := runs.Load() - before; n != 1 {
			t.Errorf("%s: it was worked on %d times", what, n)
		}
	}
	call("one instance")
	next := connected(t, m, must(m.Instance(t.Context(), writer.ID())))
	handle(t, next, "write:story", work)
	for range 8 { // either of them takes it
		call("a second one")
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	call("the second alone")
	if err := m.Operate(t.Context(), wire.AdminRequest{Op: wire.OpRevoke, Target: "writer/" + writer.Instance().String()}, nil); err != nil {
		t.Fatal(err)
	}
	call("the first one is revoked")
}

// Whoever answers a sealed call in the clear gave its secret away, and one that seals
// what nobody asked it to has something to hide: neither is an answer.
func TestUnsealedAnswers(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, readerDir := story(t)
	to := must(seal.NewKey(must(must(agentdir.Open(readerDir)).CurveSeed()))).Recipient()
	f := &forger{t: t, token: must(writer.ChainDigests(t.Context()))[0]}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	f.intruder = intrude(t, writerDir)
	requests := make(chan *nats.Msg, 8)
	if _, err := f.nc.QueueSubscribe(f.Space.AskFilter(f.Self, "write.story"), "write.story", func(msg *nats.Msg) { requests <- msg }); err != nil {
		t.Fatal(err)
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		opts   []meshclient.CallOption
		answer func(req *nats.Msg)
	}{
		"in the clear":           {[]meshclient.CallOption{meshclient.Sealed()}, func(req *nats.Msg) { f.answer(req, to, 0, []byte("hello")) }},
		"in the clear, in parts": {[]meshclient.CallOption{meshclient.Sealed()}, func(req *nats.Msg) { f.part(req, "", envelope.Part{Number: 1, Last: true}, "hello") }},
		"sealed, unasked":        {nil, func(req *nats.Msg) { f.answer(req, to, 1, []byte("hello")) }},
		"as another piece":       {[]meshclient.CallOption{meshclient.Sealed()}, func(req *nats.Msg) { f.answer(req, to, 2, []byte("hello")) }},
	} {
		go func() { tt.answer(<-requests) }()
		_, err := reader.Call(within(t, 20*time.Second), "write:story", []byte("hi"), append(tt.opts, meshclient.To("writer"))...)
		if !errors.Is(err, denial.CannotOpen) {
			t.Errorf("%s: got %v, want %s", name, err, denial.CannotOpen)
		}
	}
	go func() { f.answer(<-requests, to, 1, []byte("hello")) }()
	reply, err := reader.Call(within(t, 20*time.Second), "write:story", []byte("hi"), meshclient.To("writer"), meshclient.Sealed())
	if err != nil || string(reply.Data) != "hello" {
		t.Errorf("sealed: got %+v, %v", reply, err)
	}
}

// answer answers in one message, sealed as the given piece where that is not 0.
func (f *forger) answer(req *nats.Msg, to seal.Recipient, piece int, data []byte) {
	f.t.Helper()
	fields, digest := f.request(req)
	enc := envelope.Enc(piece > 0)
	if enc {
		data = must(seal.Seal([]seal.Recipient{to}, seal.Binding{
			TrustDomain: f.TrustDomain, Reply: true, Signer: f.Key.PublicKey(), Recipient: fields.From, Nonce: fields.Nonce, Piece: piece,
		}, data))
	}
	msg, _, _, err := f.Message(f.Space.Reply(f.Self, fields.From, agentid.InstanceOf(fields.Key), fields.Nonce), envelope.Fields{
		Correlation: fields.Correlation, Parent: fields.Nonce, Hop: fields.Hop, Token: f.token, Enc: enc,
	}, nil, data, &digest)
	if err == nil {
		err = f.nc.PublishMsg(msg)
	}
	if err != nil {
		f.t.Error(err)
	}
}

// A handler that says that it cannot open what it has answered a part of is not
// believed: nothing is asked for, and nothing handed on, a second time.
func TestCannotOpenAfterAPart(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, readerDir := story(t)
	to := must(seal.NewKey(must(must(agentdir.Open(readerDir)).CurveSeed()))).Recipient()
	f, requests := usurped(t, writer, writerDir)
	var asked atomic.Int64
	go func() {
		for {
			select {
			case req := <-requests:
				asked.Add(1)
				fields, _ := f.request(req)
				f.reply(req, envelope.Fields{Part: envelope.Part{Number: 1}, Enc: envelope.X1}, must(seal.Seal([]seal.Recipient{to}, seal.Binding{
					TrustDomain: f.TrustDomain, Reply: true, Signer: f.Key.PublicKey(), Recipient: fields.From, Nonce: fields.Nonce, Piece: 1,
				}, []byte("hello"))))
				f.reply(req, envelope.Fields{Part: envelope.Part{Number: 2, Last: true}, Err: meshclient.CodeDenied},
					must(json.Marshal(wire.Failure{Reason: denial.CannotOpen})))
			case <-t.Context().Done():
				return
			}
		}
	}()
	parts, last := 0, error(nil)
	for part, err := range reader.Stream(within(t, 30*time.Second), "write:story", []byte("hi"), meshclient.To("writer"), meshclient.Sealed()) {
		if last = err; err == nil {
			if parts++; string(part.Data) != "hello" {
				t.Errorf("got part %q", part.Data)
			}
		}
	}
	if !errors.Is(last, denial.CannotOpen) || parts != 1 || asked.Load() != 1 {
		t.Errorf("got %d parts of %d requests and %v, want one and %s", parts, asked.Load(), last, denial.CannotOpen)
	}
}

// reply answers with the given fields.
func (f *forger) reply(req *nats.Msg, fields envelope.Fields, data []byte) {
	f.t.Helper()
	r, digest := f.request(req)
	fields.Correlation, fields.Parent, fields.Hop, fields.Token = r.Correlation, r.Nonce, r.Hop, f.token
	msg, _, _, err := f.Message(f.Space.Reply(f.Self, r.From, agentid.InstanceOf(r.Key), r.Nonce), fields, nil, data, &digest)
	if err == nil {
		err = f.nc.PublishMsg(msg)
	}
	if err != nil {
		f.t.Error(err)
	}
}

// What may be how large is said of what the applications give and get, sealed or not,
// and errors are no answers.
func TestBoundsOfSealedPayloads(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:small", "write:large")}))
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:small", "write:large")}))
	for scope, most := range map[string]int{"write:small": 100, "write:large": 2 * mib} {
		if err := writer.Handle(scope, func(_ context.Context, req *meshclient.Request) ([]byte, error) {
			if len(req.Data) == 1 {
				return nil, &meshclient.Error{Code: "app-long", Message: strings.Repeat("m", 500)}
			}
			return req.Data, nil
		}, meshclient.MaxRequest(most)); err != nil {
			t.Fatal(err)
		}
		for _, opts := range [][]meshclient.CallOption{{meshclient.To("writer")}, {meshclient.To("writer"), meshclient.Sealed()}} {
			call := func(size, answer int) error {
				_, err := reader.Call(within(t, 60*time.Second), scope, make([]byte, size), append(opts, meshclient.MaxReply(answer))...)
				return err
			}
			if err := call(most, most); err != nil {
				t.Errorf("%d bytes both ways, sealed %v: %v", most, len(opts) > 1, err)
			}
			if err := call(most+1, 2*most); !errors.Is(err, denial.TooLarge) {
				t.Errorf("a request past %d bytes, sealed %v: got %v", most, len(opts) > 1, err)
			}
			if err := call(most, most-1); !errors.Is(err, denial.TooLarge) {
				t.Errorf("an answer past %d bytes, sealed %v: got %v", most-1, len(opts) > 1, err)
			}
			var e *meshclient.Error
			if err := call(1, 1); !errors.As(err, &e) || len(e.Message) != 500 {
				t.Errorf("an error, sealed %v: got %v", len(opts) > 1, err)
			}
		}
	}
}

// A sealed call that fails before it is sent leaves no digest of its plain text in
// the log: who guesses it could tell by that.
func TestNothingOfPlainTextIsLogged(t *testing.T) {
	t.Parallel()
	secret := []byte("the launch code is 00000000")
	sum := sha256.Sum256(secret)
	var log syncBuffer
	o := quiet()
	o.ClientLog = zerolog.New(&log)
	m := mesh(t, o)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	if _, err := reader.Call(within(t, 30*time.Second), "write:story", secret, meshclient.To("nobody"), meshclient.Sealed()); !errors.Is(err, denial.UnlistedAgent) {
		t.Errorf("got %v, want %s", err, denial.UnlistedAgent)
	}
	if _, err := reader.Call(within(t, 30*time.Second), "write:other", secret, meshclient.To("reader"), meshclient.Sealed()); err == nil {
		t.Error("a right that is not held was used")
	}
	if text := log.String(); strings.Contains(text, base64.RawURLEncoding.EncodeToString(sum[:])) || !strings.Contains(text, "nobody") {
		t.Errorf("the log says %s", text)
	}
}
