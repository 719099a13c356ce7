package meshclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
	"github.com/sealmesh/sealmesh/registry"
)

const mib = 1 << 20

// noise is n bytes that no other n are.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, n)))
	r.Read(b) //nolint:errcheck // it does not fail
	return b
}

// What is larger than any message of the server goes both ways, whole and once, and
// with a stream of pieces of which each is larger as well.
func TestLargePayloads(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	if err := reader.Handle("read:logs", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		if err := req.Send(ctx, req.Data[:len(req.Data)/2]); err != nil {
			return nil, err
		}
		if err := req.Send(ctx, []byte("between")); err != nil {
			return nil, err
		}
		return req.Data, nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, sealed := range []bool{false, true} {
		for _, size := range []int{0, 1, 200 << 10, mib - 5000, mib, 5*mib + 1} {
			t.Run(fmt.Sprintf("sealed=%v/%d", sealed, size), func(t *testing.T) {
				opts := []meshclient.CallOption{meshclient.ContentType("text/plain")}
				if sealed {
					opts = append(opts, meshclient.To("reader"), meshclient.Sealed())
				}
				sent := noise(size)
				reply, err := asker.Call(t.Context(), "read:logs", sent, opts...)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(reply.Data, sent) || size > 0 && reply.Sealed != sealed {
					t.Errorf("got %d bytes, sealed %v, want the %d that were sent", len(reply.Data), reply.Sealed, size)
				}
				var got [][]byte
				for part, err := range asker.Stream(t.Context(), "read:logs", sent, opts...) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, part.Data)
				}
				want := [][]byte{sent[:size/2], []byte("between"), sent}
				if size/2 == 0 {
					want = want[1:] // an empty part is none
				}
				if len(got) != len(want) {
					t.Fatalf("got %d parts, want %d", len(got), len(want))
				}
				for i := range want {
					if !bytes.Equal(got[i], want[i]) {
						t.Errorf("part %d: got %d bytes, want %d others", i, len(got[i]), len(want[i]))
					}
				}
			})
		}
	}
}

// What is past a bound is refused with its reason: before anything is sent where the
// sender knows the bound, before anything is kept where the receiver does.
func TestPayloadsPastTheirBound(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t)
	reader := m.Agent("reader", meshtest.Handles("read:logs"), meshtest.Handles("read:much"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"), meshtest.Calls("read:much"))
	ran := make(chan int, 8)
	if err := reader.Handle("read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		ran <- len(req.Data)
		return nil, nil
	}, meshclient.MaxRequest(2*mib)); err != nil {
		t.Fatal(err)
	}
	if err := reader.Handle("read:much", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		if len(req.Data) > 0 {
			return make([]byte, 64*mib+1), nil
		}
		return make([]byte, 2*mib), nil
	}); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"request past 64 MiB": func() error {
			_, err := asker.Call(t.Context(), "read:logs", make([]byte, 64*mib+1))
			return err
		},
		"request past the handler's bound": func() error {
			_, err := asker.Call(t.Context(), "read:logs", make([]byte, 2*mib+1))
			return err
		},
		"answer past the caller's bound": func() error {
			_, err := asker.Call(t.Context(), "read:much", nil, meshclient.MaxReply(2*mib-1))
			return err
		},
	} {
		if err := call(); !errors.Is(err, denial.TooLarge) {
			t.Errorf("%s: got %v, want %s", name, err, denial.TooLarge)
		}
	}
	if _, err := asker.Call(t.Context(), "read:much", []byte("x")); !errors.Is(err, meshclient.ErrInternal) {
		t.Errorf("answer past 64 MiB: got %v, want %v", err, meshclient.ErrInternal)
	}
	if _, err := asker.Call(t.Context(), "read:logs", make([]byte, 2*mib)); err != nil {
		t.Errorf("request at the handler's bound: %v", err)
	}
	if n := <-ran; n != 2*mib || len(ran) != 0 {
		t.Errorf("the handler got %d bytes, and %d more requests; want %d and none", n, len(ran), 2*mib)
	}
}

// Sealed needs to know to whom, and the mesh itself opens nothing.
func TestSealedNeedsTo(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t)
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	for scope, opts := range map[string][]meshclient.CallOption{
		"read:logs":    {meshclient.Sealed()},
		"self:session": {meshclient.Sealed(), meshclient.To("reader")},
		"read:other":   {meshclient.Sealed(), meshclient.To("control")},
	} {
		if _, err := asker.Call(t.Context(), scope, nil, opts...); !errors.Is(err, meshclient.ErrConfig) {
			t.Errorf("%s: got %v, want %v", scope, err, meshclient.ErrConfig)
		}
	}
	if _, err := asker.Call(t.Context(), "read:logs", make([]byte, 2*mib), meshclient.To("control")); !errors.Is(err, denial.TooLarge) {
		t.Errorf("in parts: got %v, want %s", err, denial.TooLarge)
	}
}

// promised sends a request whose payload is to come in parts, and returns the
// invitation to send it.
func (c *caller) promised(body envelope.Body, key string) *envelope.Verified {
	c.t.Helper()
	msg, f, digest, err := c.Message(c.Space.Call(c.Self, "write.story"), envelope.Fields{Token: c.token, Body: body}, nil, nil, nil)
	c.say(msg, err)
	for {
		reply, err := c.replies.NextMsg(20 * time.Second)
		if err != nil {
			c.t.Fatal(err)
		}
		u, err := envelope.Parse(envelope.Message{Subject: reply.Subject, Header: reply.Header, Data: reply.Data})
		if err != nil {
			c.t.Fatal(err)
		}
		if u.UnsafeFields().Parent != f.Nonce {
			continue // what was sent again
		}
		v, err := u.Verify(c.TrustDomain, must(nkeys.Decode(nkeys.PrefixByteUser, []byte(key))), &digest)
		if err != nil {
			c.t.Fatal(err)
		}
		return v
	}
}

// outcome returns what becomes of a request: the code of its answer, and the reason
// where it was refused.
func (c *caller) outcome(invitation *envelope.Verified) (code, reason string) {
	c.t.Helper()
	for {
		reply, err := c.replies.NextMsg(20 * time.Second)
		if err != nil {
			c.t.Fatal(err)
		}
		u, err := envelope.Parse(envelope.Message{Subject: reply.Subject, Header: reply.Header, Data: reply.Data})
		if err != nil {
			c.t.Fatal(err)
		}
		f := u.UnsafeFields()
		if f.Parent != invitation.Fields().Parent || !f.Part.IsZero() && !f.Part.Last {
			continue
		}
		var failure wire.Failure
		if f.Err == meshclient.CodeDenied {
			if err := json.Unmarshal(reply.Data, &failure); err != nil {
				c.t.Fatal(err)
			}
		}
		return f.Err, string(failure.Reason)
	}
}

// What a hostile caller sends in place of what it promised reaches no handler, and
// what others send under its name changes nothing.
func TestHostileBodies(t *testing.T) {
	t.Parallel()
	m, writer, reader, writerDir, readerDir := story(t)
	otherDir := enrolled(t, m, "other", registry.Rights{Call: scopes("write:story")})
	got := make(chan string, 8)
	if err := writer.Handle("write:story", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		got <- string(req.Data)
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	key := must(must(agentdir.Open(writerDir)).Key())
	public := must(key.PublicKey())
	second := must(m.Instance(t.Context(), reader.ID())) // of the same agent, with a key of its own
	c := usurp(t, reader, readerDir)
	twin, other := intrude(t, second), intrude(t, otherDir)
	whole := envelope.BodyOf([]byte("abcdef"))

	send := func(v *envelope.Verified, n int, last bool, data string) {
		msg, err := c.Body(v, envelope.Part{Number: n, Last: last}, []byte(data))
		c.say(msg, err)
	}
	for name, tt := range map[string]struct {
		body envelope.Body
		send func(v *envelope.Verified)
	}{
		"more than promised":   {whole, func(v *envelope.Verified) { send(v, 1, true, "abcdefg") }},
		"more, in parts":       {whole, func(v *envelope.Verified) { send(v, 1, false, "abcd"); send(v, 2, false, "efg") }},
		"less than promised":   {whole, func(v *envelope.Verified) { send(v, 1, false, "abc"); send(v, 2, true, "de") }},
		"as much of something": {whole, func(v *envelope.Verified) { send(v, 1, true, "abcdeF") }},
		"in another order":     {whole, func(v *envelope.Verified) { send(v, 1, false, "def"); send(v, 2, true, "abc") }},
		"an early end":         {whole, func(v *envelope.Verified) { send(v, 1, true, "abc"); send(v, 2, true, "def") }},
	} {
		v := c.promised(tt.body, public)
		tt.send(v)
		if code, reason := c.outcome(v); code != meshclient.CodeDenied || reason != string(denial.BrokenStream) {
			t.Errorf("%s: got %q, %q, want %q", name, code, reason, denial.BrokenStream)
		}
	}
	// Somebody else's parts are none, however they are signed; parts in any order are
	// whole; and a part that came twice is one.
	v := c.promised(whole, public)
	for _, who := range []*intruder{twin, other} {
		msg, err := who.Body(v, envelope.Part{Number: 1, Last: true}, []byte("abcdef"))
		if err == nil {
			err = errors.Join(who.nc.PublishMsg(msg), who.nc.Flush())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	send(v, 3, true, "ef")
	send(v, 2, false, "cd")
	first, err := c.Body(v, envelope.Part{Number: 1}, []byte("ab"))
	c.say(first, err)
	c.say(first, nil)
	if code, reason := c.outcome(v); code != "" {
		t.Errorf("the honest one: got %q, %q", code, reason)
	}
	if data := <-got; data != "abcdef" || len(got) != 0 {
		t.Errorf("the handler got %q and %d more, want the whole payload once", data, len(got))
	}
	// Past the bound of all nothing can be promised.
	msg, f, _, err := c.Message(c.Space.Call(c.Self, "write.story"), envelope.Fields{Token: c.token, Body: envelope.Body{Size: 64*mib + 1, Digest: whole.Digest}}, nil, nil, nil)
	if err == nil {
		t.Errorf("signed %s, %s", msg.Subject, f.Body)
	}
	eventually(t, "the end of what was kept", func() bool { return writer.Gathering() == 0 })
}

// Who promises much and sends nothing costs nothing, and who sends much and never
// ends it no more than its share.
func TestBodiesAreBounded(t *testing.T) {
	t.Parallel()
	m, writer, reader, writerDir, readerDir := story(t)
	writer.SetCallerLease(3 * time.Second)
	honest := connected(t, m, enrolled(t, m, "honest", registry.Rights{Call: scopes("write:story")}))
	if err := writer.Handle("write:story", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		return []byte{byte(len(req.Data) >> 20)}, nil
	}); err != nil {
		t.Fatal(err)
	}
	public := must(must(must(agentdir.Open(writerDir)).Key()).PublicKey())
	c := usurp(t, reader, readerDir)
	body := envelope.Body{Size: 64 * mib, Digest: envelope.BodyOf([]byte("x")).Digest}
	var open []*envelope.Verified
	for range 3 {
		open = append(open, c.promised(body, public))
	}
	reply, err := honest.Call(within(t, 50*time.Second), "write:story", make([]byte, 2*mib))
	if err != nil || reply.Data[0] != 2 {
		t.Errorf("somebody else's request: %v", err)
	}
	for _, v := range open {
		c.outcome(v) // it was given up
	}
	eventually(t, "the end of their work", func() bool { return writer.Works() == 0 })
	if n := writer.Gathering(); n != 0 {
		t.Errorf("%d bytes of requests are still kept", n)
	}
}

// A payload and an answer of many parts survive that the connections of both sides
// are replaced and lost on the way.
func TestLargePayloadsOverLostConnections(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer, near := wired(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	reader, far := wired(t, m, "reader", registry.Rights{Call: scopes("write:story")})
	handle(t, writer, "write:story", echo)
	sent := noise(12 * mib)
	for name, spoil := range map[string]func(){
		"handler's connection replaced": writer.Poke,
		"caller's connection replaced":  reader.Poke,
		"handler's connection lost":     func() { near.swallow(); near.cut() },
		"caller's connection lost":      func() { far.swallow(); far.cut() },
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			for n := writer.Gathering(); n < 4*mib; n = writer.Gathering() {
				time.Sleep(time.Millisecond)
			}
			spoil()
		}()
		reply, err := reader.Call(within(t, 50*time.Second), "write:story", sent)
		<-done
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(reply.Data, sent) {
			t.Errorf("%s: got %d other bytes, want the %d that were sent", name, len(reply.Data), len(sent))
		}
	}
}

// A caller that no longer waits while its payload is on the way ends it at both ends.
func TestCancelWhileSending(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")}))
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	handle(t, writer, "write:story", echo)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for writer.Gathering() < mib {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if _, err := reader.Call(ctx, "write:story", make([]byte, 64*mib)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	eventually(t, "the end at the handler", func() bool { return writer.Works() == 0 && writer.Gathering() == 0 })
}

// A Send that is given up halfway leaves an answer that is an error, not one with
// a piece that is put together of two.
func TestTornPiece(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	handle(t, reader, "read:logs", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		// Given up when some of it was sent, however fast this machine is: as long as
		// nothing is torn, another piece can be sent.
		for wait := 10 * time.Millisecond; ; wait *= 2 {
			short, cancel := context.WithTimeout(ctx, wait)
			err := req.Send(short, make([]byte, 60*mib))
			cancel()
			if err == nil {
				return nil, errors.New("all of it was sent, which this test is not about")
			}
			if req.Send(ctx, []byte("whole")) != nil {
				return []byte("the end"), nil
			}
		}
	})
	for part, err := range asker.Stream(within(t, 30*time.Second), "read:logs", nil) {
		if err == nil && string(part.Data) == "whole" {
			continue
		}
		if err == nil {
			t.Fatalf("got %d bytes, want an error", len(part.Data))
		}
		if !errors.Is(err, meshclient.ErrInternal) {
			t.Errorf("got %v, want %v", err, meshclient.ErrInternal)
		}
	}
}
