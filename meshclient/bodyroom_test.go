package meshclient_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// keyOf is the public key of an agent's directory.
func keyOf(dir string) string {
	return must(must(must(agentdir.Open(dir)).Key()).PublicKey())
}

// Whoever promises payloads and does not send them has no turn of anybody else's, and
// no more of them than its share.
func TestPromisesHoldUpNobody(t *testing.T) {
	t.Parallel()
	m, writer, reader, writerDir, readerDir := story(t)
	honest := connected(t, m, enrolled(t, m, "honest", registry.Rights{Call: scopes("write:story")}))
	if err := writer.Handle("write:story", echo, meshclient.MaxInFlight(1)); err != nil {
		t.Fatal(err)
	}
	c, key := usurp(t, reader, readerDir), keyOf(writerDir)
	body := envelope.Body{Size: 64 * mib, Digest: envelope.BodyOf([]byte("x")).Digest}
	for range meshclient.ShareBodies {
		c.promised(body, key)
	}
	for _, size := range []int{1, 2 * mib} {
		if _, err := honest.Call(within(t, 25*time.Second), "write:story", make([]byte, size)); err != nil {
			t.Errorf("somebody else's request of %d bytes: %v", size, err)
		}
	}
	if n := writer.Coming(); n != meshclient.ShareBodies {
		t.Errorf("%d requests are waited for, want %d", n, meshclient.ShareBodies)
	}
	msg, f, _, err := c.Message(c.Space.Call(c.Self, "write.story"), envelope.Fields{Token: c.token, Body: body}, nil, nil, nil)
	c.say(msg, err)
	if got := c.refusal(f.Nonce); got != denial.Overloaded {
		t.Errorf("one more: got %q, want %q", got, denial.Overloaded)
	}
}

// Close waits for a payload that comes, and not for one that does not.
func TestCloseWhileGathering(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, readerDir := story(t)
	handle(t, writer, "write:story", echo)
	c := usurp(t, reader, readerDir)
	c.promised(envelope.Body{Size: mib, Digest: envelope.BodyOf([]byte("x")).Digest}, keyOf(writerDir))
	v := c.promised(envelope.BodyOf([]byte("abc")), keyOf(writerDir))
	writer.SetCloseTimeout(25 * time.Second) // less than it waits for otherwise
	closed := make(chan error, 1)
	go func() { closed <- writer.Close() }()
	eventually(t, "its beginning", writer.Closing)
	last, err := c.Body(v, envelope.Part{Number: 1, Last: true}, []byte("abc"))
	c.say(last, err)
	if code, reason := c.outcome(v); code != "" {
		t.Errorf("the one that came: got %q, %q", code, reason)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// Parts that come before their turn count as much as others.
func TestPartsAheadAreBounded(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, readerDir := story(t)
	handle(t, writer, "write:story", echo)
	c, key := usurp(t, reader, readerDir), keyOf(writerDir)
	data := make([]byte, mib-8192)
	body := envelope.Body{Size: 64 * mib, Digest: envelope.BodyOf([]byte("x")).Digest}
	most := 0
	for range meshclient.ShareBytes/(12*mib) + 2 {
		v := c.promised(body, key)
		for n := range 14 {
			msg, err := c.Body(v, envelope.Part{Number: n + 2}, data)
			c.say(msg, err)
			most = max(most, writer.Gathering())
		}
	}
	eventually(t, "what fills its share", func() bool {
		most = max(most, writer.Gathering())
		return most > meshclient.ShareBytes-mib
	})
	if most > meshclient.ShareBytes {
		t.Errorf("%d bytes are kept of one agent, want %d at most", most, meshclient.ShareBytes)
	}
}

// What came is counted for as long as its handler has it, and given back then.
func TestPayloadsCountWhileTheyAreWorkedOn(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, _ := story(t)
	at, on := make(chan int, 1), make(chan struct{})
	handle(t, writer, "write:story", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		at <- cap(req.Data)
		<-on
		return nil, nil
	})
	done := make(chan error, 1)
	go func() {
		_, err := reader.Call(within(t, 60*time.Second), "write:story", make([]byte, 3*mib+1))
		done <- err
	}()
	if n := <-at; n != 3*mib+1 || writer.Gathering() != n {
		t.Errorf("%d bytes are kept, counted as %d, want the %d that were sent", n, writer.Gathering(), 3*mib+1)
	}
	close(on)
	if err := <-done; err != nil {
		t.Error(err)
	}
	eventually(t, "the end of it", func() bool { return writer.Gathering() == 0 && writer.Coming() == 0 })
}

// Whichever of the handler's signs goes out first, the caller takes it for the
// invitation: then it is one.
func TestFirstSignIsTheInvitation(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, _ := story(t)
	writer.SetFirstSign(time.Nanosecond)
	handle(t, writer, "write:story", echo)
	sent := noise(mib + mib/16)
	var all sync.WaitGroup
	for range 16 { // so many at once that the two get into each other's way
		all.Go(func() {
			for range 2 {
				reply, err := reader.Call(within(t, 60*time.Second), "write:story", sent, meshclient.IdleTimeout(20*time.Second))
				if err != nil || !bytes.Equal(reply.Data, sent) {
					t.Errorf("got %v", err)
					return
				}
			}
		})
	}
	all.Wait()
}

// A call that nobody waits for any more sends nothing to who takes it late.
func TestNothingIsSentForACallThatIsOver(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, _ := story(t)
	at, on := make(chan struct{}, 2), make(chan struct{})
	if err := writer.Handle("write:story", func(context.Context, *meshclient.Request) ([]byte, error) {
		at <- struct{}{}
		<-on
		return nil, nil
	}, meshclient.MaxInFlight(1)); err != nil {
		t.Fatal(err)
	}
	first := make(chan error, 1)
	go func() {
		_, err := reader.Call(within(t, 60*time.Second), "write:story", nil)
		first <- err
	}()
	<-at
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error, 1)
	go func() {
		_, err := reader.Call(ctx, "write:story", make([]byte, 2*mib))
		second <- err
	}()
	eventually(t, "the second call", func() bool { return reader.Pending() == 2 })
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
	if n := reader.Parting(); n != 1 {
		t.Fatalf("%d calls are taken leave of, want 1", n)
	}
	close(on)
	if err := <-first; err != nil {
		t.Error(err)
	}
	eventually(t, "the end of the second", func() bool { return reader.Parting() == 0 })
	if n := reader.Sending(); n != 0 {
		t.Errorf("%d payloads are being sent", n)
	}
	if len(at) != 0 {
		t.Error("the second call was worked on")
	}
}

// usurped takes the place of the writer, and returns the requests that it gets.
func usurped(t *testing.T, writer *meshclient.Mesh, dir string) (*forger, <-chan *nats.Msg) {
	t.Helper()
	f := &forger{t: t, token: must(writer.ChainDigests(t.Context()))[0]}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	f.intruder = intrude(t, dir)
	requests := make(chan *nats.Msg, 8)
	for _, filter := range []string{f.Space.CallFilter("write.story"), f.Space.AskFilter(f.Self, "write.story")} {
		if _, err := f.nc.QueueSubscribe(filter, "write.story", func(msg *nats.Msg) { requests <- msg }); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return f, requests
}

// Whoever answers before it was told what the question is gets no payload, and its
// answer is none.
func TestAnswerBeforeTheRequest(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, _ := story(t)
	f, requests := usurped(t, writer, writerDir)
	bodies, err := f.nc.SubscribeSync(f.Space.BodyFilter(f.Self, f.dir.Info.Instance))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []envelope.Part{{Number: 1}, {Number: 1, More: true}} {
		go func() { f.part(<-requests, "", part, "hello") }()
		if _, err := reader.Call(within(t, 20*time.Second), "write:story", make([]byte, 2*mib)); !errors.Is(err, denial.BrokenStream) {
			t.Errorf("part %s: got %v, want %s", part, err, denial.BrokenStream)
		}
	}
	if msg, err := bodies.NextMsg(100 * time.Millisecond); err == nil {
		t.Errorf("%d bytes were sent", len(msg.Data))
	}
}

// A payload that cannot be sent to its end ends the call at once.
func TestPayloadThatCannotBeSent(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, _ := story(t)
	f, requests := usurped(t, writer, writerDir)
	go func() {
		f.part(<-requests, "", envelope.Part{Number: 1}, "") // and confirms nothing
	}()
	done := make(chan error, 1)
	go func() {
		_, err := reader.Call(within(t, 60*time.Second), "write:story", make([]byte, 16*mib))
		done <- err
	}()
	eventually(t, "the payload", func() bool { return reader.Sending() == 1 })
	reader.FailSending(denial.New(denial.TooLarge, "of the test"))
	if err := <-done; !errors.Is(err, denial.TooLarge) {
		t.Errorf("got %v, want %s", err, denial.TooLarge)
	}
	if n := reader.Sending(); n != 0 {
		t.Errorf("%d payloads are being sent", n)
	}
}

// A caller to whom the last confirmation did not get is told again, and not as often
// as it likes.
func TestLostConfirmationOfAPayload(t *testing.T) {
	t.Parallel()
	_, writer, reader, writerDir, readerDir := story(t)
	at, on := make(chan struct{}), make(chan struct{})
	handle(t, writer, "write:story", func(context.Context, *meshclient.Request) ([]byte, error) {
		close(at)
		<-on
		return nil, nil
	})
	defer close(on)
	c := usurp(t, reader, readerDir)
	notes, err := c.nc.SubscribeSync(c.Space.NoteFilter(c.Self))
	if err != nil {
		t.Fatal(err)
	}
	v := c.promised(envelope.BodyOf([]byte("abc")), keyOf(writerDir))
	last, err := c.Body(v, envelope.Part{Number: 1, Last: true}, []byte("abc"))
	c.say(last, err)
	<-at
	told := func() {
		t.Helper()
		msg, err := notes.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(msg.Subject, "."+wire.NoteReceived) || !bytes.Contains(msg.Data, []byte(`"parts":1`)) {
			t.Errorf("got %s on %s", msg.Data, msg.Subject)
		}
	}
	told()
	for range 200 {
		c.say(last, nil)
	}
	told()
	if n, _, err := notes.Pending(); err != nil || n > 20 { // one a second, on a machine that may be slow
		t.Errorf("%d more notes for 200 copies, %v", n, err)
	}
}

// A handler that closes before all of its answer is taken says so.
func TestCloseWhileAnswering(t *testing.T) {
	t.Parallel()
	_, writer, reader, _, readerDir := story(t)
	writer.SetCloseTimeout(time.Second)
	handle(t, writer, "write:story", func(context.Context, *meshclient.Request) ([]byte, error) {
		return make([]byte, 16*mib), nil
	})
	c := usurp(t, reader, readerDir)
	nonce := c.request("") // and takes nothing of the answer
	if _, err := c.replies.NextMsg(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	writer.Close() //nolint:errcheck // that a handler was still at work may be true
	for {
		reply, err := c.replies.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		text := reply.Header.Get(envelope.HeaderEnvelope)
		if !strings.HasSuffix(reply.Subject, "."+nonce) || !strings.Contains(text, ";err=") {
			continue
		}
		if !strings.Contains(text, ";err="+meshclient.CodeUnavailable) || string(reply.Data) != "draining" {
			t.Errorf("got %q under %s", reply.Data, text)
		}
		return
	}
}

// A server that takes messages of four kilobytes carries large payloads all the same.
func TestServerOfSmallMessages(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	file := m.Dir.ServerConf()
	conf := must(os.ReadFile(file))
	limit := regexp.MustCompile(`(?m)^( {6}max_payload: +)\d+$`)
	if !limit.Match(conf) {
		t.Fatalf("the configuration says nothing of an account's limit: %s", conf)
	}
	if err := os.WriteFile(file, limit.ReplaceAll(conf, []byte("${1}4096")), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Server.Close()
	if err := m.UpServer(within(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	writer := connected(t, m, enrolled(t, m, "writer", registry.Rights{Handle: scopes("write:story")}))
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	handle(t, writer, "write:story", echo)
	for _, size := range []int{1000, 3000, 4096, 300_000} {
		for _, opts := range [][]meshclient.CallOption{nil, {meshclient.To("writer"), meshclient.Sealed()}} {
			sent := noise(size)
			reply, err := reader.Call(within(t, 60*time.Second), "write:story", sent, append(opts, meshclient.IdleTimeout(20*time.Second))...)
			if err != nil || !bytes.Equal(reply.Data, sent) {
				t.Errorf("%d bytes, sealed %v: %v", size, len(opts) > 0, err)
			}
		}
	}
}

// The control plane asks for no payload and opens none: it says so at once.
func TestControlPlaneTakesNoParts(t *testing.T) {
	t.Parallel()
	_, _, reader, _, readerDir := story(t)
	c := usurp(t, reader, readerDir)
	for name, f := range map[string]envelope.Fields{
		"in parts": {Body: envelope.BodyOf([]byte("{}"))},
		"sealed":   {Enc: envelope.X1}, // or so it says
	} {
		var data []byte
		if f.Enc {
			data = []byte("{}")
		}
		msg, f, _, err := c.Message(c.Space.Ask(c.Self, agentid.Control, "self.session"), f, nil, data, nil)
		c.say(msg, err)
		if got := c.refusal(f.Nonce); got != denial.BadInput {
			t.Errorf("%s: got %q, want %q", name, got, denial.BadInput)
		}
	}
}
